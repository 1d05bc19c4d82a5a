"""When what was stated is so: validity as later statements, marks and pins leave it.

A statement about the same subject and attribute as an older one ends the older one where it begins
itself. Nothing of that is stored: it follows from the statements that are there, so what is
forgotten leaves no trace, and what we knew at an earlier moment is found by leaving out what was
stated since. Pure functions over numbers; times are microseconds.
"""

from collections.abc import Sequence
from typing import NamedTuple

from memopt.base.item_records import FOREVER, ItemRow, Mark, MarkRow
from memopt.base.moments import Bound


class Span(NamedTuple):
    """From `start`, before `stop`."""

    start: int
    stop: int

    @property
    def is_empty(self) -> bool:
        return self.start >= self.stop

    def holds(self, at_us: int) -> bool:
        return self.start <= at_us < self.stop


class Pinned(NamedTuple):
    """Pinned by a commit, until another one or until a time."""

    first_lsn: int
    stop_lsn: int
    until_us: int

    def covers(self, lsn: int, at_us: int) -> bool:
        return self.first_lsn <= lsn < self.stop_lsn and at_us < self.until_us


class Statement(NamedTuple):
    """What is needed of an item to see when it is so."""

    item: int
    stated: Span
    made_lsn: int
    made_us: int
    ended_us: int = FOREVER
    """By a user, whatever others say."""
    pins: tuple[Pinned, ...] = ()


def statement_of(row: ItemRow, marks: Sequence[MarkRow], bound: Bound) -> Statement:
    """An item as it was known at a moment."""
    ended = FOREVER
    pins: list[Pinned] = []
    for mark in marks:
        if not bound.sees(mark.lsn, mark.at_us):
            continue
        if mark.mark == Mark.END:
            ended = mark.value
        elif mark.mark == Mark.PIN:
            if pins and pins[-1].stop_lsn == FOREVER:
                pins[-1] = pins[-1]._replace(stop_lsn=mark.lsn)
            if mark.value:
                pins.append(Pinned(mark.lsn, FOREVER, mark.value))
    return Statement(
        row.item, Span(row.valid_from_us, row.valid_to_us), row.made_lsn, row.made_us, ended,
        tuple(pins),
    )  # fmt: skip


class Standing(NamedTuple):
    """When a statement is so, and the number of the later one that left it like that."""

    span: Span
    by: int | None


def standing(statements: Sequence[Statement]) -> list[Standing]:
    """Of statements about one topic, in the order in which they were made.

    Each later one is heeded in turn. One that begins within an older one ends it there; one that
    begins before it and reaches into it moves its beginning to where it ends itself; a pinned one
    is left alone by what is stated while it is pinned.
    """
    found: list[Standing] = []
    first: Statement | None = None
    # From the newest back, so that the one that begins first of all later ones is known.
    for index in range(len(statements) - 1, -1, -1):
        one = statements[index]
        if first is None:
            found.append(Standing(_ended(one, one.stated), None))
        elif first.stated.start > one.stated.start and not one.pins:
            # All later ones begin after it, so the first of them ends it.
            if first.stated.start < one.stated.stop:
                span = Span(one.stated.start, first.stated.start)
                found.append(Standing(_ended(one, span), first.item))
            else:
                found.append(Standing(_ended(one, one.stated), None))
        else:
            changes = changes_of(one, statements[index + 1 :])
            by, span = changes[-1] if changes else (None, one.stated)
            found.append(Standing(_ended(one, span), by.item if by is not None else None))
        if first is None or one.stated.start <= first.stated.start:
            first = one
    found.reverse()
    return found


def changes_of(one: Statement, later: Sequence[Statement]) -> list[tuple[Statement, Span]]:
    """Which later statements changed when it is so, in order, and what they left; what a user
    ended is not looked at."""
    start, stop = one.stated
    found = []
    for other in later:
        if other.stated.stop <= start or other.stated.start >= stop:
            continue
        if any(pin.covers(other.made_lsn, other.made_us) for pin in one.pins):
            continue
        if other.stated.start > start:
            stop = other.stated.start
        else:
            start = min(other.stated.stop, stop)
        found.append((other, Span(start, stop)))
    return found


def _ended(one: Statement, span: Span) -> Span:
    return Span(span.start, min(span.stop, max(span.start, one.ended_us)))
