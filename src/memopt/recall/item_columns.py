"""The stated memories and documents' pieces of one scope as arrays, for whoever ranks them.

Made from a snapshot, as they were known at a moment, and never changed: what is stated, marked or
forgotten makes another one. An entry of the index with source -item and seq version is visible
where the version is the one that was known and the item passes the filters; so what was forgotten
is seen by nobody, whatever is left of it in segments. Not here: texts (describing.py) and ranking.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np

from memopt.base.item_records import ItemRow, MarkRow
from memopt.base.moments import NOW, Bound
from memopt.base.protocols import Compressor, Tables
from memopt.base.recall_records import Kind
from memopt.recall.describing import Describing
from memopt.recall.standing import standing, statement_of

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


class ItemColumns:
    """Arrays of one length, in the order of the items' numbers."""

    def __init__(
        self, rows: Sequence[ItemRow], versions: Sequence[int], spans: Sequence[tuple[int, int]]
    ) -> None:
        """`versions`: of the texts that were known. `spans`: when each item was so, in µs."""
        self.item: Array = np.array([row.item for row in rows], np.int64)
        self.version: Array = np.array(versions, np.int32)
        self.kind: Array = np.array([_NUMBERS[Kind(row.kind)] for row in rows], np.uint8)
        whole = np.array(spans, np.int64).reshape(-1, 2)
        self.start: Array = whole[:, 0].copy()
        self.stop: Array = whole[:, 1].copy()
        self.importance: Array = np.array([row.importance for row in rows], np.float32)
        self.reward: Array = np.array([row.reward for row in rows], np.float32)
        self.pinned_until: Array = np.array([row.pinned_until_us for row in rows], np.int64)
        self._tags: Array = np.array([tag_of(tag) for r in rows for tag in r.tags], np.uint32)
        counts = [len(row.tags) for row in rows]
        self._tagged: Array = np.repeat(np.arange(len(rows), dtype=np.int32), counts)

    @classmethod
    def load(
        cls, tables: Tables, scope_number: int, compressor: Compressor, bound: Bound = NOW
    ) -> Self:
        """Of a scope, as it was known. Raises CorruptionError where a row is damaged."""
        rows = [row for row in _rows(tables, scope_number) if bound.sees(row.made_lsn, row.made_us)]
        marks: dict[int, list[MarkRow]] = {}
        for mark in tables.item_marks.of_topic(scope_number, None):
            marks.setdefault(mark.item, []).append(mark)
        describing = Describing(tables, compressor, 0, bound)
        versions = [
            row.version if bound == NOW or row.version == 1 else describing.text(row).version
            for row in rows
        ]
        return cls(rows, versions, _spans(rows, marks, bound))

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
            having = np.zeros(len(self), np.bool_)
            having[self._tagged[self._tags == tag_of(tag)]] = True
            passed &= having
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


def _spans(
    rows: Sequence[ItemRow], marks: dict[int, list[MarkRow]], bound: Bound
) -> list[tuple[int, int]]:
    """When each of them was so."""
    topics: dict[int, list[int]] = {}
    spans = [(0, 0)] * len(rows)
    for at, row in enumerate(rows):
        topics.setdefault(row.topic or -at - 1 << 64, []).append(at)
    for places in topics.values():
        group = [statement_of(rows[at], marks.get(rows[at].item, ()), bound) for at in places]
        for at, (span, _) in zip(places, standing(group), strict=True):
            spans[at] = span
    return spans
