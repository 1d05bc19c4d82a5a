"""Puts the index of a scope together: from its segments, from what has no entries yet, and from
what is still in its tails.

Tails are read first, a few records at a time, for messages may be megabytes of which little is
found. What is sealed meanwhile is in the snapshot that everything else comes from, which is closed
before the first entry is decoded. Messages that are not visible are left out, and what is there
twice is there once. In RAM a message is under its
session, whatever lines it is on, so that neighbours in a conversation are neighbours in the index.
Of what was stated, all versions are here: which of them count is asked of the columns.

Not here: who stays in RAM (resident.py), and how an index is searched (index.py).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.recall_records import SegmentRow, UnindexedRow
from memopt.base.records import SEQ_BITS
from memopt.base.units import KIB, MIB
from memopt.recall.drafts import DraftReader
from memopt.recall.entries import Draft, Entries
from memopt.recall.index import ScopeIndex
from memopt.recall.indexing import Appended, EntryMaker, need_bytes
from memopt.recall.item_columns import ROW_BYTES, ItemColumns
from memopt.recall.places import Place
from memopt.recall.visibility import Visible, visible_of

Array = np.ndarray[Any, Any]
Reserve = Callable[[int], None]
"""Asks for so many bytes more. Raises BudgetError."""

_DECODE_FACTOR: Final = 12
"""Of one segment while it is decoded, over its bytes: terms of one byte become eight."""
_SORT_BYTES: Final = 64
"""Of one entry while entries are put in order."""
_RECORD_FACTOR: Final = 8
"""Of records of tails: themselves, their messages as objects, and their drafts."""
_RECORDS_BYTES: Final = 128 * KIB
_RECORDS: Final = 256
"""Records that are read together: so many bytes, or one."""
_DRAFTS_BYTES: Final = 1 * MIB
"""What making entries takes at once, or those of one text."""
_FIXED_BYTES: Final = 64 * 1024
_HEADS: Final = 256


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeInRam:
    """Never changes: what is appended makes another one."""

    index: ScopeIndex
    visible: Visible
    items: ItemColumns

    @property
    def charged_bytes(self) -> int:
        parts = (self.index, self.visible, self.items)
        return sum(part.charged_bytes for part in parts)


class _Stored(NamedTuple):
    """What a snapshot has of a scope."""

    visible: Visible
    segments: list[SegmentRow]
    masked: list[tuple[int, int]]
    unindexed: list[UnindexedRow]
    items: ItemColumns


class _Room:
    """What is held, and what work takes besides: reserved is the most that both ever were."""

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self._reserved = 0
        self._held = 0
        self._records = 0

    def hold(self, size_bytes: int) -> None:
        self._held += size_bytes
        self.work(0)

    def let_go(self, size_bytes: int) -> None:
        self._held -= size_bytes

    def hold_records(self, size_bytes: int) -> None:
        """Of which drafts are read, in place of those before."""
        size_bytes *= _RECORD_FACTOR
        self._held += size_bytes - self._records
        self._records = size_bytes
        self.work(0)

    def work(self, size_bytes: int) -> None:
        """For a moment."""
        more = self._held + size_bytes - self._reserved
        if more > 0:
            self._reserve(more)
            self._reserved += more


class ScopeLoader:
    """Thread-safe. Holds nothing between calls."""

    def __init__(
        self, home: Reader, maker: EntryMaker, drafts: DraftReader, compressor: Compressor
    ) -> None:
        self._home = home
        self._maker = maker
        self._drafts = drafts
        self._compressor = compressor

    def load(self, scope_number: int, reserve: Reserve) -> ScopeInRam:
        """The index of a scope, which may have no entry. Raises BudgetError where it has no room,
        CorruptionError where a segment is damaged."""
        room = _Room(reserve)
        with self._home.snapshot() as tables:
            rows_bytes, largest = _sizes(tables, scope_number)
            room_bytes = _FIXED_BYTES + tables.item_topics.count(scope_number) * ROW_BYTES
        room.hold(room_bytes + rows_bytes)
        room.work(_DECODE_FACTOR * largest)
        parts = self._made(self._of_tails(scope_number, room), room)
        with self._home.snapshot() as tables:
            stored = self._read(tables, scope_number)
        room.hold(stored.visible.charged_bytes)
        parts += self._decoded(stored.segments, room)
        places = _places(stored.unindexed, stored.visible)
        parts += self._made(self._drafts_of(scope_number, places, room), room)
        whole = self._joined(parts, stored, room)
        room.work(ScopeIndex.build_bytes(whole))
        return ScopeInRam(ScopeIndex.of([whole]), stored.visible, stored.items)

    def _decoded(self, rows: list[SegmentRow], room: _Room) -> Iterator[Entries]:
        """Each one's bytes go before the next one is decoded."""
        while rows:
            row = rows.pop(0)
            entries = self._in_space(Entries.decode(row.body))
            room.hold(entries.charged_bytes - len(row.body))
            yield entries

    def _joined(self, parts: list[Entries], stored: _Stored, room: _Room) -> Entries:
        size = sum(part.charged_bytes for part in parts)
        room.work(size)
        entries = Entries.concat(parts) if parts else self._none()
        parts.clear()
        room.work(size + _SORT_BYTES * len(entries))
        return _seen(entries, stored.visible, stored.items, stored.masked)

    def add(
        self, scope_number: int, scope: ScopeInRam, notes: Sequence[Appended], reserve: Reserve
    ) -> ScopeInRam:
        """The same with what was appended or stated since."""
        visible, items = scope.visible, scope.items
        lines = np.array([note.source for note in notes], np.int64)
        starts = np.array([note.start for note in notes], np.int64)
        known = visible.sessions(lines, starts) > 0
        with self._home.snapshot() as tables:
            if not known[lines > 0].all():
                # A session was made.
                visible = visible_of(tables, scope_number)
            if (lines < 0).any():
                changed = set((-lines[lines < 0]).tolist())
                items = items.changed(tables, scope_number, self._compressor, changed)
        places = {Place(note.source, n) for note in notes for n in range(note.start, note.stop)}
        room = _Room(reserve)
        made = self._made(self._drafts_of(scope_number, places, room), room)
        if not made:
            return ScopeInRam(scope.index, visible, items)
        room.work(scope.index.adding_bytes(sum(map(len, made)), sum(len(m.terms) for m in made)))
        fresh = _seen(Entries.concat(made), visible, items, ())
        old = scope.index.entries
        inside = np.isin(old.source, fresh.source)
        if inside.any():
            here = old.source[inside] << SEQ_BITS | old.seq[inside]
            fresh = fresh.take(~np.isin(fresh.source << SEQ_BITS | fresh.seq, here))
        index = scope.index.adding(fresh) if len(fresh) else scope.index
        return ScopeInRam(index, visible, items)

    def _read(self, tables: Tables, scope_number: int) -> _Stored:
        return _Stored(
            visible_of(tables, scope_number), tables.segments.of_scope(scope_number),
            tables.masked.of_scope(scope_number), tables.unindexed.of_scope(scope_number),
            ItemColumns.load(tables, scope_number, self._compressor),
        )  # fmt: skip

    def _drafts_of(
        self, scope_number: int, places: Iterable[Place], room: _Room
    ) -> Iterator[Draft]:
        drafts = self._drafts.of(scope_number, places, room.hold_records)
        return (drafted.draft for drafted in drafts)

    def _of_tails(self, scope_number: int, room: _Room) -> Iterator[Draft]:
        """Of what is not sealed, a few records at a time."""
        after = (0, 0)
        while True:
            with self._home.snapshot() as tables:
                rows = tables.scope_lines.tails(scope_number, after, _RECORDS)
            more = len(rows) == _RECORDS
            while rows:
                size = 0
                some: list[tuple[int, int, int]] = []
                while rows and (not some or size + rows[0][2] <= _RECORDS_BYTES):
                    some.append(rows.pop(0))
                    size += some[-1][2]
                room.hold_records(size)
                with self._home.snapshot() as tables:
                    read = [
                        (line, seq, record)
                        for line, at, _ in some
                        for seq, record in tables.tail.range(line, at, at + 1)
                    ]
                for tail in read:
                    yield from self._drafts.of_tail(*tail)
                after = some[-1][:2]
            if not more:
                return

    def _made(self, drafts: Iterable[Draft], room: _Room) -> list[Entries]:
        """The entries of drafts, which are made of a few at a time, and charged."""
        made: list[Entries] = []
        for some in _batches(drafts):
            # Drafts that wait for their batch are part of what making entries of them takes.
            room.work(need_bytes(some))
            made.append(self._in_space(self._maker.entries(some, at_once=True)))
            room.hold(made[-1].charged_bytes)
        room.hold_records(0)
        return made

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


def _sizes(tables: Tables, scope_number: int) -> tuple[int, int]:
    """Bytes of a scope's segments: all, and the largest."""
    size = largest = after = 0
    while True:
        heads = tables.segments.heads((scope_number, after), _HEADS)
        mine = [head.size_bytes for head in heads if head.scope_number == scope_number]
        size += sum(mine)
        largest = max(largest, *mine, 0)
        if len(mine) < _HEADS:
            return size, largest
        after = heads[-1].segment


def _batches(drafts: Iterable[Draft]) -> Iterator[list[Draft]]:
    some: list[Draft] = []
    size = 0
    for draft in drafts:
        need = need_bytes([draft])
        if some and size + need > _DRAFTS_BYTES:
            yield some
            some, size = [], 0
        some.append(draft)
        size += need
    if some:
        yield some


def _places(rows: Iterable[UnindexedRow], visible: Visible) -> list[Place]:
    """Those of what is not indexed in a scope that are seen, and what was stated."""
    places = [Place(row.source, seq) for row in rows for seq in range(row.start, row.stop)]
    if not places:
        return []
    lines, seqs = np.array(places, np.int64).T
    seen = (lines < 0) | (visible.sessions(lines, seqs) > 0)
    return [place for place, is_seen in zip(places, seen.tolist(), strict=True) if is_seen]


def _seen(
    entries: Entries, visible: Visible, items: ItemColumns, masked: Sequence[tuple[int, int]]
) -> Entries:
    """What is visible of entries, each once, under their sessions and in order."""
    source, seq = entries.source, entries.seq.astype(np.int64)
    stated = np.where(np.isin(-source, items.item), source, 0)
    under = np.where(source < 0, stated, visible.sessions(source, seq))
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
