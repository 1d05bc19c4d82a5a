"""The stated memories and documents' pieces of one scope as arrays, for whoever ranks them.

Made from a snapshot, as they were known at a moment, and never changed: what is stated, marked or
forgotten makes another one. An entry of the index with source -item and seq version is visible
where the version is the one that was known and the item passes the filters; so what was forgotten
is seen by nobody, whatever is left of it in segments. Not here: texts (describing.py) and ranking.
"""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.item_records import ItemRow, MarkRow
from memopt.base.moments import NOW, Bound
from memopt.base.protocols import Compressor, Tables
from memopt.base.recall_records import Kind
from memopt.recall.describing import Describing
from memopt.recall.standing import Span, standing, statement_of

Array = np.ndarray[Any, Any]

ROW_BYTES: Final = 1024
"""An item on its way into the arrays: its row, its marks, its place in lists."""
_ROWS_AT_ONCE: Final = 1024
_NUMBERS: Final = {kind: number for number, kind in enumerate(Kind)}


class Filter(NamedTuple):
    """Which items a recall may find."""

    kinds: frozenset[Kind] | None
    tags: frozenset[str]
    """All of them."""
    valid_us: int | None
    """So at that time; None: not over at `now_us`."""
    now_us: int


class _Facts(NamedTuple):
    """What was known of an item."""

    row: ItemRow
    version: int
    span: Span


_COLUMNS: Final = (
    "item", "version", "topic", "kind", "start", "stop", "importance", "reward", "pinned_until",
)  # fmt: skip


class ItemColumns:
    """Arrays of one length, in the order of the items' numbers."""

    def __init__(self, facts: Sequence[_Facts]) -> None:
        rows = [one.row for one in facts]
        self.item: Array = np.array([row.item for row in rows], np.int64)
        self.version: Array = np.array([one.version for one in facts], np.int32)
        """Of the text that was known."""
        self.topic: Array = np.array([row.topic for row in rows], np.int64)
        self.kind: Array = np.array([_NUMBERS[Kind(row.kind)] for row in rows], np.uint8)
        spans = np.array([one.span for one in facts], np.int64).reshape(-1, 2)
        self.start: Array = spans[:, 0].copy()
        """From when it was so, µs..."""
        self.stop: Array = spans[:, 1].copy()
        """... and until when."""
        self.importance: Array = np.array([row.importance for row in rows], np.float32)
        self.reward: Array = np.array([row.reward for row in rows], np.float32)
        self.pinned_until: Array = np.array([row.pinned_until_us for row in rows], np.int64)
        self._tags: Array = np.array([tag_of(tag) for r in rows for tag in r.tags], np.uint32)
        self._tagged: Array = np.array([row.item for row in rows for _ in row.tags], np.int64)
        """The item that each tag is of."""

    @classmethod
    def load(
        cls, tables: Tables, scope_number: int, compressor: Compressor, bound: Bound = NOW
    ) -> "ItemColumns":
        """Of a scope, as it was known. Raises CorruptionError where a row is damaged."""
        marks: dict[int, list[MarkRow]] = {}
        for mark in tables.item_marks.of_topic(scope_number, None):
            marks.setdefault(mark.item, []).append(mark)
        return cls(_facts(tables, compressor, _rows(tables, scope_number), marks, bound))

    def changed(
        self, tables: Tables, scope_number: int, compressor: Compressor, items: Collection[int]
    ) -> "ItemColumns":
        """The same with these items as they are known now: stated, marked or forgotten since. All
        that is about the same is looked at again."""
        rows = [row for item in items if (row := tables.items.get(item)) is not None]
        # What is forgotten has left its topic here.
        was = np.isin(self.item, np.array(list(items), np.int64)) & (self.topic != 0)
        topics = {row.topic for row in rows} | set(self.topic[was].tolist())
        for topic in topics - {0}:
            rows += tables.item_topics.of_topic(scope_number, topic)
        found = {row.item: row for row in rows}
        marks = {item: tables.item_marks.of_item(item) for item in found}
        ordered = [found[item] for item in sorted(found)]
        fresh = ItemColumns(_facts(tables, compressor, ordered, marks, NOW))
        return self._with(fresh, np.array(sorted({*items, *found}), np.int64))

    def _with(self, fresh: "ItemColumns", replaced: Array) -> "ItemColumns":
        whole = ItemColumns(())
        kept = ~np.isin(self.item, replaced)
        order = np.argsort(np.concatenate((self.item[kept], fresh.item)), kind="stable")
        for name in _COLUMNS:
            both = np.concatenate((getattr(self, name)[kept], getattr(fresh, name)))
            setattr(whole, name, both[order])
        kept = ~np.isin(self._tagged, replaced)
        whole._tags = np.concatenate((self._tags[kept], fresh._tags))
        whole._tagged = np.concatenate((self._tagged[kept], fresh._tagged))
        return whole

    def __len__(self) -> int:
        return len(self.item)

    @property
    def charged_bytes(self) -> int:
        return sum(a.nbytes + 112 for a in vars(self).values() if isinstance(a, np.ndarray))

    def passing(self, which: Filter) -> Array:
        """A mask of the items that pass."""
        passed = self.start < self.stop
        if which.kinds is not None:
            passed &= np.isin(self.kind, [_NUMBERS[kind] for kind in which.kinds])
        for tag in which.tags:
            passed &= np.isin(self.item, self._tagged[self._tags == tag_of(tag)])
        if which.valid_us is None:
            passed &= self.stop > which.now_us
        else:
            passed &= (self.start <= which.valid_us) & (which.valid_us < self.stop)
        return passed

    def rows_of(self, source: Array, seq: Array) -> Array:
        """The row of each entry's item; -1 for another version of it, for what is forgotten, and
        for messages."""
        if not len(self):
            return np.full(len(source), -1, np.int64)
        at = np.searchsorted(self.item, -source)
        at[at == len(self)] = 0
        is_known = (self.item[at] == -source) & (self.version[at] == seq)
        return np.where(is_known, at, -1)

    def visible(self, source: Array, seq: Array, which: Filter) -> Array:
        """A mask of the entries that stand for items which pass."""
        rows = self.rows_of(source, seq)
        return (rows >= 0) & self.passing(which)[rows] if len(self) else rows >= 0


def tag_of(tag: str) -> int:
    """A tag as a number of 32 bits. Of two tags with one number both are found: whoever returns
    hits compares the tags themselves."""
    return zlib.crc32(tag.encode())


def _rows(tables: Tables, scope_number: int) -> Iterable[ItemRow]:
    after = 0
    while rows := tables.items.page(scope_number, after, _ROWS_AT_ONCE):
        yield from rows
        after = rows[-1].item


def _facts(
    tables: Tables, compressor: Compressor, rows: Iterable[ItemRow],
    marks: Mapping[int, Sequence[MarkRow]], bound: Bound,
) -> list[_Facts]:  # fmt: skip
    """What was known of items, of which all that are about one topic are there, in order."""
    seen = [row for row in rows if bound.sees(row.made_lsn, row.made_us)]
    describing = Describing(tables, compressor, 0, bound)
    topics: dict[tuple[int, int], list[int]] = {}
    for at, row in enumerate(seen):
        topics.setdefault((row.topic, 0 if row.topic else row.item), []).append(at)
    spans = [Span(0, 0)] * len(seen)
    for places in topics.values():
        group = [statement_of(seen[at], marks.get(seen[at].item, ()), bound) for at in places]
        for at, (span, _) in zip(places, standing(group), strict=True):
            spans[at] = span
    found = []
    for row, span in zip(seen, spans, strict=True):
        is_latest = bound == NOW or row.version == 1
        version = row.version if is_latest else describing.text(row).version
        found.append(_Facts(row, version, span))
    return found
