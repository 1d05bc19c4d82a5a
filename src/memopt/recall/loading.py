"""Puts the index of a scope together: from its segments, from what has no entries yet, and from
what is still in its tails.

Everything comes from one snapshot, which is closed before the first entry is decoded. What is not
visible is left out, and what is there twice is there once. In RAM a message is under its session,
whatever lines it is on, so that neighbours in a conversation are neighbours in the index.

Not here: who stays in RAM (resident.py), and how an index is searched (index.py).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.protocols import Reader, Tables
from memopt.base.recall_records import SegmentRow, UnindexedRow
from memopt.base.records import SEQ_BITS
from memopt.recall.entries import Draft, Entries
from memopt.recall.index import ScopeIndex
from memopt.recall.indexing import Appended, EntryMaker, need_bytes
from memopt.recall.places import Place, PlaceReader
from memopt.recall.visibility import Visible, visible_of

Array = np.ndarray[Any, Any]
Reserve = Callable[[int], None]
"""Asks for so many bytes more. Raises BudgetError."""

_BUILD_FACTOR: Final = 4
"""What an index occupies while it is built, over the bytes of its segments; measured in the
tests."""
_TAIL_FACTOR: Final = 8
_FIXED_BYTES: Final = 64 * 1024
_HEADS: Final = 256


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeInRam:
    """Never changes: what is appended makes another one."""

    index: ScopeIndex
    visible: Visible

    @property
    def charged_bytes(self) -> int:
        return self.index.charged_bytes + self.visible.charged_bytes


class _Stored(NamedTuple):
    """What a snapshot has of a scope."""

    visible: Visible
    segments: list[SegmentRow]
    masked: list[tuple[int, int]]
    tails: list[tuple[int, int, bytes]]
    unindexed: list[UnindexedRow]


class ScopeLoader:
    """Thread-safe. Holds nothing between calls."""

    def __init__(self, home: Reader, maker: EntryMaker, reader: PlaceReader) -> None:
        self._home = home
        self._maker = maker
        self._reader = reader

    def load(self, scope_number: int, reserve: Reserve) -> ScopeInRam:
        """The index of a scope, which may have no entry. Raises BudgetError where it has no room,
        CorruptionError where a segment is damaged."""
        with self._home.snapshot() as tables:
            need = _need(tables, scope_number)
        reserve(need)
        with self._home.snapshot() as tables:
            stored = self._read(tables, scope_number)
        parts = [self._in_space(Entries.decode(row.body)) for row in stored.segments]
        drafts = self._drafts_of_tails(stored.tails)
        drafts += self._drafts_of(scope_number, _places(stored.unindexed, stored.visible))
        if drafts:
            reserve(need_bytes(drafts))
            parts.append(self._in_space(self._maker.entries(drafts, at_once=True)))
        entries = Entries.concat(parts) if parts else self._none()
        whole = _seen(entries, stored.visible, stored.masked)
        return ScopeInRam(ScopeIndex.of([whole]), stored.visible)

    def add(
        self, scope_number: int, scope: ScopeInRam, notes: Sequence[Appended], reserve: Reserve
    ) -> ScopeInRam:
        """The same with what was appended since."""
        visible = scope.visible
        lines = np.array([note.line for note in notes], np.int64)
        starts = np.array([note.start for note in notes], np.int64)
        if not visible.sessions(lines, starts).all():
            # A session was made.
            with self._home.snapshot() as tables:
                visible = visible_of(tables, scope_number)
        places = {Place(note.line, n) for note in notes for n in range(note.start, note.stop)}
        drafts = self._drafts_of(scope_number, places)
        if not drafts:
            return ScopeInRam(scope.index, visible)
        reserve(need_bytes(drafts) + scope.charged_bytes)
        fresh = _seen(self._in_space(self._maker.entries(drafts, at_once=True)), visible, ())
        old = scope.index.entries
        sources = old.source[np.isin(old.source, fresh.source)]
        if len(sources):
            inside = np.isin(old.source, sources)
            known = old.source[inside] << SEQ_BITS | old.seq[inside]
            fresh = fresh.take(~np.isin(fresh.source << SEQ_BITS | fresh.seq, known))
        index = scope.index.adding(fresh) if len(fresh) else scope.index
        return ScopeInRam(index, visible)

    def _read(self, tables: Tables, scope_number: int) -> _Stored:
        return _Stored(
            visible_of(tables, scope_number), tables.segments.of_scope(scope_number),
            tables.masked.of_scope(scope_number), tables.scope_lines.tails(scope_number),
            tables.unindexed.of_scope(scope_number),
        )  # fmt: skip

    def _drafts_of_tails(self, tails: Iterable[tuple[int, int, bytes]]) -> list[Draft]:
        reads = (
            read for line, seq, record in tails
            for read in self._reader.opened(Place(line, seq), record)
        )  # fmt: skip
        drafts = (self._maker.draft(*read.place, read.record, read.message) for read in reads)
        return [draft for draft in drafts if draft is not None]

    def _drafts_of(self, scope_number: int, places: Iterable[Place]) -> list[Draft]:
        reads = self._reader.read(scope_number, places)
        drafts = (self._maker.draft(*read.place, read.record, read.message) for read in reads)
        return [draft for draft in drafts if draft is not None]

    def _none(self) -> Entries:
        embedder = self._maker.embedder
        return Entries.none(embedder.space, embedder.dimensions) if embedder else Entries.none()

    def _in_space(self, entries: Entries) -> Entries:
        """Of another space, without its vectors: they cannot be compared, and are made anew."""
        none = self._none()
        if (entries.space, entries.dimensions) == (none.space, none.dimensions):
            return entries
        count = len(entries)
        return dataclasses.replace(
            entries, space=none.space, vectors=np.zeros((count, none.dimensions), np.int8),
            scales=np.zeros(count, np.float16), pieces=none.pieces,
            pieces_start=np.zeros(count + 1, np.uint32),
        )  # fmt: skip


def _need(tables: Tables, scope_number: int) -> int:
    size = tables.scope_lines.tail_bytes(scope_number) * _TAIL_FACTOR
    after = 0
    while True:
        heads = tables.segments.heads((scope_number, after), _HEADS)
        mine = [head for head in heads if head.scope_number == scope_number]
        size += _BUILD_FACTOR * sum(head.size_bytes for head in mine)
        if len(mine) < _HEADS:
            return size + _FIXED_BYTES
        after = mine[-1].segment


def _places(rows: Iterable[UnindexedRow], visible: Visible) -> list[Place]:
    """Those of a scope's unindexed messages that are seen."""
    places = [
        Place(row.source, seq) for row in rows if row.source > 0
        for seq in range(row.start, row.stop)
    ]  # fmt: skip
    if not places:
        return []
    lines, seqs = np.array(places, np.int64).T
    seen = visible.sessions(lines, seqs) > 0
    return [place for place, is_seen in zip(places, seen.tolist(), strict=True) if is_seen]


def _seen(entries: Entries, visible: Visible, masked: Sequence[tuple[int, int]]) -> Entries:
    """What is visible of entries, each once, under their sessions and in order."""
    source, seq = entries.source, entries.seq.astype(np.int64)
    sessions = visible.sessions(source, seq)
    under = np.where(source < 0, source, sessions)
    if masked:
        hidden = np.array([line << SEQ_BITS | at for line, at in masked], np.int64)
        under[np.isin(source << SEQ_BITS | seq, hidden)] = 0
    order = np.lexsort((seq, under))
    keys = under[order] << SEQ_BITS | seq[order]
    kept = under[order] != 0
    kept[1:] &= keys[1:] != keys[:-1]
    if kept.all() and np.array_equal(order, np.arange(len(order))):
        return dataclasses.replace(entries, source=under)
    chosen = order[kept]
    return dataclasses.replace(entries.take(chosen), source=under[chosen])
