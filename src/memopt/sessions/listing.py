"""Which sessions there are, by scope, a page at a time."""

from typing import Final

from memopt.base.errors import CorruptionError, UsageError
from memopt.base.protocols import Tables
from memopt.base.reaching import scope_numbers as scope_numbers
from memopt.base.reaching import scopes_from
from memopt.base.records import SEQ_BITS, Reach, SessionInfo, SessionRow, to_datetime
from memopt.sessions.names import ancestors_of, check_count, check_name, check_scope
from memopt.sessions.reading import NOW, Bound, LineReader

LIMIT_MAX: Final = 10_000


def list_sessions(
    tables: Tables, scope: str | None, reach: Reach,
    after: tuple[str, str] | None, limit: int, bound: Bound,
) -> list[SessionRow]:  # fmt: skip
    """Up to `limit` rows behind the place of `after`, a (scope, id) that need not be there any
    more: scope by scope, each by id. `scope` None: all scopes."""
    check_count(limit, field="limit", least=1, most=LIMIT_MAX)
    if after is not None:
        if not isinstance(after, tuple | list) or len(after) != 2:
            raise UsageError("expected a scope and an id", field="after")
        check_scope(after[0], field="after[0]")
        check_name(after[1], field="after[1]")
        if scope is not None and reach is not Reach.SUBTREE:
            reached = [scope] if reach is Reach.EXACT else ancestors_of(scope)
            if after[0] not in reached:
                raise UsageError(f"{after[0]!r} is not among the listed scopes", field="after[0]")
    found: list[SessionRow] = []
    for number, path in scopes_from(tables, scope, reach, None if after is None else after[0]):
        last = after[1] if after is not None and path == after[0] else ""
        while len(found) < limit:
            rows = tables.sessions.by_id(number, last, limit - len(found))
            found += [row for row in rows if bound.sees(row.made_lsn, row.made_us)]
            if not rows:
                break
            last = rows[-1].id
        if len(found) == limit:
            break
    return found


def describe(reader: LineReader, row: SessionRow, bound: Bound = NOW) -> SessionInfo:
    try:
        line, length = reader.length(row.scope, row.id, bound)
        damaged = False
    except CorruptionError:
        # Named, and no obstacle to listing the others.
        line, length, damaged = None, 0, True
    return SessionInfo(
        scope=row.scope, id=row.id, agent=row.agent, message_count=length,
        head=line.line << SEQ_BITS | length if line is not None else 0, is_damaged=damaged,
        made_at=to_datetime(row.made_us), touched_at=to_datetime(row.touched_us),
    )  # fmt: skip
