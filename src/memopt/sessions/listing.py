"""Which sessions there are, by scope, a page at a time."""

from memopt.base.errors import CorruptionError, UsageError
from memopt.base.protocols import Tables
from memopt.base.records import SEQ_BITS, Reach, SessionInfo, SessionRow, to_datetime
from memopt.sessions.names import ancestors_of
from memopt.sessions.reading import NOW, Bound, LineReader

LIMIT_MAX = 10_000


def scope_numbers(tables: Tables, scope: str, reach: Reach) -> list[int]:
    """The scopes that `reach` looks at, nearest first; those that exist."""
    if reach is Reach.SUBTREE:
        return [number for number, _ in tables.scopes.subtree(scope)]
    paths = [scope] if reach is Reach.EXACT else list(reversed(ancestors_of(scope)))
    numbers = (tables.scopes.number(path) for path in paths)
    return [number for number in numbers if number is not None]


def list_sessions(
    tables: Tables, scope: str | None, reach: Reach,
    after: tuple[str, str] | None, limit: int, bound: Bound,
) -> list[SessionRow]:  # fmt: skip
    """Up to `limit` rows behind `after`, a (scope, id) that was listed: scope by scope, in the
    order in which sessions were made. `scope` None: all scopes."""
    if not 0 < limit <= LIMIT_MAX:
        raise UsageError(f"expected 1 to {LIMIT_MAX}, got {limit}", field="limit")
    behind = None
    if after is not None:
        behind = tables.sessions.find(*after)
        if behind is None:
            raise UsageError(f"there is no session {after!r} to go on from", field="after")
    if scope is None:
        numbers: list[int | None] = [None]
    else:
        numbers = list(scope_numbers(tables, scope, reach))
        if behind is not None and behind.scope_number in numbers:
            numbers = numbers[numbers.index(behind.scope_number) :]
    found: list[SessionRow] = []
    for number in numbers:
        last = behind.session if behind is not None else 0
        behind = None
        while len(found) < limit:
            rows = tables.sessions.page(number, last, limit - len(found))
            found += [row for row in rows if bound.sees(row.made_lsn, row.made_us)]
            if not rows:
                break
            last = rows[-1].session
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
