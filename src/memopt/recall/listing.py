"""Which items there are, what they were, and what was left undecided: reads, a page at a time.

What is listed is reserved while it is put together. Not here: how one item is described
(describing.py).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.errors import UsageError
from memopt.base.item_records import (
    STATED,
    Contradiction,
    Item,
    ItemRow,
    Mark,
    item_id_of,
    item_number,
)
from memopt.base.moments import NOW, Bound, check_time
from memopt.base.names import ancestors_of, check_count, check_scope
from memopt.base.protocols import Clock, Compressor, Reader, Tables
from memopt.base.reaching import scopes_from
from memopt.base.recall_records import Kind
from memopt.base.records import Reach, to_us
from memopt.recall.describing import Describing
from memopt.recall.items import found_item, number_of
from memopt.recall.stating import check_tags

LIMIT_MAX: Final = 10_000
_ROWS_AT_ONCE: Final = 256
_OWNER: Final = "items"
_ITEM_BYTES: Final = 2048
"""An item beside its text, its names and its tags included."""


class Wanted(NamedTuple):
    """Which items a listing shows."""

    kinds: frozenset[str]
    tags: frozenset[str]
    """All of them."""
    valid_us: int | None
    """So at this time; None: whenever it was so."""

    def takes(self, row: ItemRow) -> bool:
        return row.kind in self.kinds and self.tags.issubset(row.tags)


def wanted(
    kinds: Iterable[Kind | str] | None, tags: Iterable[str] | None, valid_at: datetime | None
) -> Wanted:
    """Raises UsageError that names the argument."""
    return Wanted(
        frozenset(STATED if kinds is None else check_kinds(kinds)),
        frozenset(() if tags is None else check_tags(tags)),
        None if valid_at is None else check_time(valid_at, field="valid_at"),
    )


def check_kinds(kinds: Any, *, field: str = "kinds") -> tuple[Kind, ...]:
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise UsageError(f"expected kinds, got {kinds!r}", field=field)
    found = []
    for index, kind in enumerate(kinds):
        try:
            found.append(Kind(kind))
        except ValueError:
            raise UsageError(
                f"expected one of {', '.join(Kind)}, got {kind!r}", field=f"{field}[{index}]"
            ) from None
    return tuple(found)


class Listing:
    """Thread-safe."""

    def __init__(self, home: Reader, compressor: Compressor, budget: Budget, clock: Clock) -> None:
        self._home = home
        self._compressor = compressor
        self._budget = budget
        self._clock = clock

    def item(self, item_id: str, scope: str | None, bound: Bound = NOW) -> Item:
        """Raises NotFoundError where it is not there, or was not yet."""
        number, path = number_of(item_id), None if scope is None else check_scope(scope)
        with self._home.snapshot() as tables:
            row, where = found_item(tables, number, path, bound)
            return self._describing(tables, bound).item(row, where)

    def items(
        self, scope: str | None, reach: Reach, which: Wanted,
        after: tuple[str, str] | None, limit: int, bound: Bound = NOW,
    ) -> list[Item]:  # fmt: skip
        """Up to `limit` items behind `after`, a (scope, id) that need not be there any more: scope
        by scope, each in the order in which they were stated."""
        check_count(limit, field="limit", least=1, most=LIMIT_MAX)
        start, last = _place(after, scope, reach)
        found: list[Item] = []
        with self._home.snapshot() as tables, self._reserving() as room:
            describing = self._describing(tables, bound)
            for number, path in scopes_from(tables, scope, reach, start):
                for row in _rows(tables, number, last if path == start else 0):
                    if not bound.sees(row.made_lsn, row.made_us) or not which.takes(row):
                        continue
                    item = describing.item(row, path)
                    if not _was_valid(item, which.valid_us):
                        continue
                    room(_ITEM_BYTES + 3 * len(item.text))
                    found.append(item)
                    if len(found) == limit:
                        return found
        return found

    def history(self, item_id: str, scope: str | None, after: int, limit: int) -> list[Item]:
        """An item after each of its changes, oldest first: up to `limit` behind LSN `after`."""
        check_count(after, field="after")
        check_count(limit, field="limit", least=1, most=LIMIT_MAX)
        number, path = number_of(item_id), None if scope is None else check_scope(scope)
        with self._home.snapshot() as tables, self._reserving() as room:
            row, where = found_item(tables, number, path)
            found = []
            for moment in self._describing(tables, NOW).moments(row, after, limit):
                bound = Bound(moment.lsn, NOW.at_us)
                then = Describing(tables, self._compressor, moment.at_us, bound)
                found.append(then.item(row, where))
                room(_ITEM_BYTES + 3 * len(found[-1].text))
        return found

    def contradictions(
        self, scope: str | None, reach: Reach, after: tuple[str, str] | None, limit: int
    ) -> list[Contradiction]:
        """What nobody decided, by the newer one: of up to `limit` items behind `after`."""
        check_count(limit, field="limit", least=1, most=LIMIT_MAX)
        start, last = _place(after, scope, reach)
        found: list[Contradiction] = []
        with self._home.snapshot() as tables:
            describing = self._describing(tables, NOW)
            for number, path in scopes_from(tables, scope, reach, start):
                marks = tables.item_marks.of_topic(number, None)
                begun = last if path == start else 0
                newer = {m.item for m in marks if m.mark == Mark.CONTRADICTION and m.item > begun}
                for item in sorted(newer):
                    row = tables.items.get(item)
                    assert row is not None
                    mine = describing.contradictions(row, path)
                    found += [one for one in mine if one.item_id == item_id_of(item)]
                    if len(found) >= limit:
                        return found
        return found

    def _describing(self, tables: Tables, bound: Bound) -> Describing:
        return Describing(tables, self._compressor, self._clock.now_us(), bound)

    @contextmanager
    def _reserving(self) -> Iterator[Any]:
        """How to reserve while a list grows; all of it is given back at the end, when it is the
        caller's."""
        held = 0

        def room(size_bytes: int) -> None:
            nonlocal held
            self._budget.reserve(_OWNER, size_bytes)
            held += size_bytes

        try:
            yield room
        finally:
            self._budget.release(_OWNER, held)


def _rows(tables: Tables, scope_number: int, after: int) -> Iterator[ItemRow]:
    while rows := tables.items.page(scope_number, after, _ROWS_AT_ONCE):
        yield from rows
        after = rows[-1].item


def _place(
    after: tuple[str, str] | None, scope: str | None, reach: Reach
) -> tuple[str | None, int]:
    """The scope and the number behind which a listing begins."""
    if scope is not None:
        check_scope(scope)
    if after is None:
        return None, 0
    if not isinstance(after, tuple | list) or len(after) != 2:
        raise UsageError("expected a scope and an id", field="after")
    path, number = check_scope(after[0], field="after[0]"), item_number(after[1])
    if number is None:
        raise UsageError(f"expected the id of an item, got {after[1]!r}", field="after[1]")
    if scope is not None and reach is not Reach.SUBTREE:
        reached = [scope] if reach is Reach.EXACT else ancestors_of(scope)
        if path not in reached:
            raise UsageError(f"{path!r} is not among the listed scopes", field="after[0]")
    return path, number


def _was_valid(item: Item, at_us: int | None) -> bool:
    if at_us is None:
        return True
    if item.valid is None:
        return False
    start, stop = item.valid.start, item.valid.stop
    return (start is None or to_us(start) <= at_us) and (stop is None or at_us < to_us(stop))
