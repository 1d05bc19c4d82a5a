"""Items as callers see them: rows, texts and marks put together, as they were known at a moment.

Reads in the snapshot or the transaction it is given, and holds nothing between calls but what one
listing has read of its topics.
"""

from typing import NamedTuple

from memopt.base.errors import CorruptionError
from memopt.base.item_records import (
    FOREVER,
    REASONS,
    UNKNOWN_US,
    Contradiction,
    Decision,
    Item,
    ItemRow,
    ItemText,
    Mark,
    MarkRow,
    Reason,
    item_id_of,
)
from memopt.base.moments import NOW, Bound
from memopt.base.protocols import Compressor, Tables
from memopt.base.recall_records import Interval, Kind
from memopt.base.records import to_datetime
from memopt.codecs.item_text import open_text
from memopt.recall.standing import (
    Span,
    Standing,
    Statement,
    changes_of,
    standing,
    statement_of,
)


class Moment(NamedTuple):
    """When a change was made."""

    lsn: int
    at_us: int


class _Topic(NamedTuple):
    """The statements about one topic, as far as they were known: those from one of them on, for
    what was stated before does not change it."""

    statements: list[Statement]
    places: dict[int, int]
    """Where a statement is, by its item."""
    standing: list[Standing]


class Describing:
    """Describes items of one snapshot, as they were known at `bound`."""

    def __init__(
        self, tables: Tables, compressor: Compressor, now_us: int, bound: Bound = NOW
    ) -> None:
        self._tables = tables
        self._compressor = compressor
        self._now_us = min(now_us, bound.at_us)
        self._bound = bound
        self._topics: dict[tuple[int, int], _Topic] = {}

    def item(self, row: ItemRow, scope: str) -> Item:
        """Raises CorruptionError where its text is missing or damaged."""
        marks = self._tables.item_marks.of_item(row.item)
        text = self.text(row)
        span, by = self.standing(row, marks)
        until = self._pinned_until(marks)
        made = [Moment(text.lsn, text.at_us), *_changes(marks)]
        if by is not None:
            made.append(by)
        since = max(moment for moment in made if self._bound.sees(*moment))
        return Item(
            item_id=item_id_of(row.item), scope=scope, kind=Kind(row.kind), text=text.text,
            version=text.version, subject=row.subject, attribute=row.attribute,
            valid=interval(span), known=self._known(row, text, marks, since),
            stated_at=to_datetime(row.made_us), lsn=since.lsn, importance=row.importance,
            source=row.source, tags=row.tags, pinned=until > 0,
            pinned_until=to_datetime(until) if 0 < until < FOREVER else None, reward=row.reward,
            contradictions=tuple(self.contradictions(row, scope, marks)),
        )  # fmt: skip

    def text(self, row: ItemRow) -> ItemText:
        """The newest version that was known."""
        low, high = 1, row.version
        if self._bound == NOW:
            return self._text(row.item, high)
        # Versions are numbered in the order of their commits.
        found = self._text(row.item, low)
        while low < high:
            middle = (low + high + 1) // 2
            text = self._text(row.item, middle)
            if self._bound.sees(text.lsn, text.at_us):
                low, found = middle, text
            else:
                high = middle - 1
        return found

    def standing(self, row: ItemRow, marks: list[MarkRow]) -> tuple[Span, Moment | None]:
        """When it was so, and the statement that left it like that."""
        if not row.topic:
            one = statement_of(row, marks, self._bound)
            return standing([one])[0].span, None
        topic = self._topic(row)
        span, by = topic.standing[topic.places[row.item]]
        if by is None:
            return span, None
        other = topic.statements[topic.places[by]]
        return span, Moment(other.made_lsn, other.made_us)

    def contradictions(
        self, row: ItemRow, scope: str, marks: list[MarkRow] | None = None
    ) -> list[Contradiction]:
        """Of an item with older and with newer ones, as far as nobody decided."""
        table = self._tables.item_marks
        if marks is None:
            marks = table.of_item(row.item)
        both = [mark for mark in (*marks, *table.of_other(row.item)) if self._sees(mark)]
        decided = {(mark.item, mark.other) for mark in both if mark.mark == Mark.DECIDED}
        return [
            Contradiction(
                item_id=item_id_of(mark.item), other_id=item_id_of(mark.other),
                reason=(reason := REASONS[mark.value]), scope=scope, at=to_datetime(mark.at_us),
                proposal=None if reason is Reason.PINNED else Decision.END,
            )
            for mark in both
            if mark.mark == Mark.CONTRADICTION and (mark.item, mark.other) not in decided
            and self._is_open(row, mark)
        ]  # fmt: skip

    def _is_open(self, row: ItemRow, mark: MarkRow) -> bool:
        """Whether both still say what they said then, and are so at a common time."""
        number = mark.other if mark.item == row.item else mark.item
        other = self._tables.items.get(number)
        if other is None:
            return False
        spans = []
        by_words = REASONS[mark.value] is not Reason.PINNED
        for one in (row, other):
            if by_words and self._said_lsn(one, other) > mark.lsn:
                return False
            spans.append(self.standing(one, self._tables.item_marks.of_item(one.item))[0])
        return max(span.start for span in spans) < min(span.stop for span in spans)

    def _said_lsn(self, one: ItemRow, other: ItemRow) -> int:
        """Since when it says what it says. What is damaged contradicts nobody: that is for whoever
        reads it itself to hear."""
        try:
            return self.text(one).lsn
        except CorruptionError:
            if one is not other:
                raise
            return NOW.lsn

    def _pinned_until(self, marks: list[MarkRow]) -> int:
        """0 where it is not pinned."""
        until = 0
        for mark in marks:
            if mark.mark == Mark.PIN and self._sees(mark):
                until = mark.value
        return until if until > self._now_us else 0

    def _sees(self, mark: MarkRow) -> bool:
        return self._bound.sees(mark.lsn, mark.at_us)

    def _topic(self, row: ItemRow) -> _Topic:
        key = (row.scope_number, row.topic)
        topic = self._topics.get(key)
        if topic is None or row.item not in topic.places:
            rows = self._tables.item_topics.of_topic(*key, row.item - 1)
            marks: dict[int, list[MarkRow]] = {}
            for mark in self._tables.item_marks.of_topic(*key, row.item - 1):
                marks.setdefault(mark.item, []).append(mark)
            statements = [
                statement_of(row, marks.get(row.item, ()), self._bound)
                for row in rows
                if self._bound.sees(row.made_lsn, row.made_us)
            ]
            places = {one.item: at for at, one in enumerate(statements)}
            topic = self._topics[key] = _Topic(statements, places, standing(statements))
        return topic

    def _known(self, row: ItemRow, text: ItemText, marks: list[MarkRow], since: Moment) -> Interval:
        """From the last change that was known to the next one that was not."""
        stop = None
        if self._bound != NOW:
            later = [*_changes(marks), *self._topic_moments(row, marks)]
            if text.version < row.version:
                following = self._text(row.item, text.version + 1)
                later.append(Moment(following.lsn, following.at_us))
            unseen = [moment for moment in later if not self._bound.sees(*moment)]
            stop = to_datetime(min(unseen).at_us) if unseen else None
        return Interval(start=to_datetime(since.at_us), stop=stop)

    def moments(self, row: ItemRow, after_lsn: int, limit: int) -> list[Moment]:
        """When anything about it changed, in order: the first ones behind an LSN."""
        marks = self._tables.item_marks.of_item(row.item)
        found = {*_changes(marks), *self._topic_moments(row, marks)}
        for version in range(1, row.version + 1):
            text = self._text(row.item, version)
            found.add(Moment(text.lsn, text.at_us))
        return [moment for moment in sorted(found) if moment.lsn > after_lsn][:limit]

    def _topic_moments(self, row: ItemRow, marks: list[MarkRow]) -> list[Moment]:
        """When a later statement changed when it is so."""
        if not row.topic:
            return []
        rows = self._tables.item_topics.of_topic(row.scope_number, row.topic, row.item)
        later = [statement_of(other, (), NOW) for other in rows]
        changes = changes_of(statement_of(row, marks, NOW), later)
        return [Moment(by.made_lsn, by.made_us) for by, _ in changes]

    def _text(self, item: int, version: int) -> ItemText:
        record = self._tables.item_texts.get(item, version)
        if record is None:
            raise CorruptionError(f"the text of version {version} of item {item} is missing")
        return open_text(self._compressor, item, version, record)


def interval(span: Span) -> Interval | None:
    """As a caller sees it; None where there is nothing left of it."""
    if span.is_empty:
        return None
    return Interval(
        start=None if span.start == UNKNOWN_US else to_datetime(span.start),
        stop=None if span.stop == FOREVER else to_datetime(span.stop),
    )


def _changes(marks: list[MarkRow]) -> list[Moment]:
    return [Moment(mark.lsn, mark.at_us) for mark in marks if mark.mark in (Mark.PIN, Mark.END)]
