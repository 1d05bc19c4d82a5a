"""Upkeep of index segments: few are made of many, what has no entries gets them, what was made by
another embedder is made anew, and what was taken away is taken out.

Every slice is one commit and bounded. Work is done outside the commit and thrown away where, by
then, what it was made from is gone, or something of its scope was taken away. Segments are merged
with their like: at least MERGE_MIN of about one size become one, up to SEGMENT_BYTES_MAX, so an
entry is written about log₄ of its scope's size times.

Not here: when (maintenance, compaction), and what an entry is (entries.py).
"""

import collections
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, CorruptionError
from memopt.base.events import Events, SegmentsMerged
from memopt.base.protocols import Clock, Reader, Tables, Transaction
from memopt.base.recall_records import GONE, SegmentRow, UnindexedRow
from memopt.base.records import SEQ_BITS, SEQ_MASK
from memopt.base.units import KIB, MIB
from memopt.journal.commit import GroupCommitter
from memopt.recall.drafts import DraftReader
from memopt.recall.entries import Draft, Entries
from memopt.recall.indexing import OWNER, EntryMaker, MessageIndexer, need_bytes
from memopt.recall.mending import Mending
from memopt.recall.places import Place

Array = np.ndarray[Any, Any]

MERGE_MIN: Final = 6
SEGMENT_BYTES_MAX: Final = 1 * MIB
_SMALLEST_BYTES: Final = 16 * KIB
_MERGE_FACTOR: Final = 16
"""What merging takes, over the bytes of what is merged: numbers of one byte become eight."""
_BUDGET_SHARE: Final = 1 / 128
"""Of the budget: what one segment may be."""
_HEADS: Final = 256
_ROWS: Final = 64
_ROUND_SECONDS: Final = 600.0
"""Between two looks at all scopes: for vectors that could not be made."""
_MESSAGES: Final = 256
"""That are indexed in one slice."""


class _Later(Exception):
    """What a slice was made from has changed: it is done anew, if it is still to be done."""


class SegmentUpkeep:
    """One slice at a time; the caller sees to that."""

    def __init__(
        self,
        home: Reader,
        committer: GroupCommitter,
        maker: EntryMaker,
        indexer: MessageIndexer,
        drafts: DraftReader,
        budget: Budget,
        events: Events,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._home = home
        self._committer = committer
        self._maker = maker
        self._indexer = indexer
        self._read = drafts
        self._budget = budget
        self._events = events
        self._mending = Mending(home, committer, indexer)
        self._bytes_max = min(SEGMENT_BYTES_MAX, int(budget.limit_bytes * _BUDGET_SHARE))
        self._at = (0, 0)
        """The segment up to which heads were looked at in this round."""
        self._next_round = 0.0
        self.is_ending = False
        """Set by whoever closes the store: nothing new is begun."""

    def step(self, seconds: float) -> None:
        """Slices for about so long: of scopes that got segments, and now and then of all."""
        until = self._clock.monotonic() + seconds
        while not self.is_ending and (
            self._index_some() or self._merge_fresh() or self._look_around()
        ):
            if self._clock.monotonic() >= until:
                return

    def finish(self) -> None:
        """Everything there is to do now, from the first segment on."""
        self._mending.mend_all()
        while self._index_some():
            pass
        self._at = (0, 0)
        while self._look_further():
            pass
        self._indexer.fresh.clear()

    def mend(self, scopes: Iterable[int]) -> int:
        """Make anew what is damaged of these scopes: how many segments."""
        return sum(map(self._mending.mend, scopes))

    def _merge_fresh(self) -> bool:
        """In a scope that got as many segments as are merged; False where there is none."""
        fresh = self._indexer.fresh
        scope = next((scope for scope, count in list(fresh.items()) if count >= MERGE_MIN), None)
        if scope is None:
            return False
        fresh.pop(scope, None)
        after = 0
        while True:
            with self._home.snapshot() as tables:
                heads = tables.segments.heads((scope, after), _HEADS)
            mine = [head for head in heads if head.scope_number == scope]
            if mine and self._do_one(mine):
                continue
            if len(mine) < _HEADS:
                return True
            after = mine[-1].segment

    def _look_around(self) -> bool:
        """At all scopes, one after the other; False while no round is due."""
        if self._at == (0, 0) and self._clock.monotonic() < self._next_round:
            return False
        self._next_round = self._clock.monotonic() + _ROUND_SECONDS
        return self._look_further()

    # -- merging ----------------------------------------------------------------------------------

    def _look_further(self) -> bool:
        """At the segments of the next scope; False at the end of a round."""
        with self._home.snapshot() as tables:
            heads = tables.segments.heads(self._at, _HEADS)
        if not heads:
            self._at = (0, 0)
            return False
        scope = heads[0].scope_number
        mine = [head for head in heads if head.scope_number == scope]
        if not self._do_one(mine):
            self._at = (scope, mine[-1].segment)
        return True

    def _do_one(self, heads: Sequence[SegmentRow]) -> bool:
        """One thing that is due among segments of one scope; whether there was one."""
        try:
            space = self._maker.space
            foreign = [head for head in heads if space and head.space != space]
            if foreign:
                return self._embed_again(foreign[0])
            group = due(heads, bytes_max=self._bytes_max)
            return bool(group) and self._merge(group)
        except (BudgetError, _Later):
            return False
        except CorruptionError:
            return bool(self._mending.mend(heads[0].scope_number))

    def _merge(self, heads: Sequence[SegmentRow]) -> bool:
        started = time.perf_counter()
        need = _MERGE_FACTOR * sum(head.size_bytes for head in heads)
        with _Reserved(self._budget, need):
            rows = self._rows(heads)
            parts = [Entries.decode(row.body) for row in rows]
            whole = _once(Entries.concat(parts))
            new = self._maker.row(rows[0].scope_number, whole, min(row.first_lsn for row in rows))
            self._replace(rows, [new])
        seconds = time.perf_counter() - started
        self._events.emit(SegmentsMerged(len(rows), len(whole), seconds))
        return True

    def _rows(self, heads: Iterable[SegmentRow]) -> list[SegmentRow]:
        with self._home.snapshot() as tables:
            rows = [tables.segments.get(head.segment) for head in heads]
        if None in rows:
            raise _Later
        return [row for row in rows if row is not None]

    def _replace(
        self, old: Sequence[SegmentRow], new: Sequence[SegmentRow],
        is_right: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        def member(transaction: Transaction) -> bool:
            table = transaction.tables.segments
            if not is_right() or not all(_is_there(transaction.tables, row) for row in old):
                return False
            for row in old:
                table.delete(row.segment)
            for row in new:
                table.put(row)
            return True

        if not self._committer.commit(member):
            raise _Later

    # -- entries that are missing -----------------------------------------------------------------

    def _index_some(self) -> bool:
        """Entries for what has none: up to _MESSAGES; whether there may be more."""
        with self._home.snapshot() as tables:
            # With indexing off, messages stay as they are.
            rows = tables.unindexed.first(_ROWS, stated=not self._indexer.is_on)
            owners = {row: _scope_of(tables, row) for row in rows}
        if not rows:
            return False
        scope = owners[rows[0]]
        mine: list[UnindexedRow] = []
        count = 0
        for row in rows:
            if owners[row] != scope or (mine and count + row.stop - row.start > _MESSAGES):
                break
            mine.append(row)
            count += row.stop - row.start
        try:
            self._index(scope, mine)
        except (BudgetError, _Later):
            return False
        return True

    def _index(self, scope: int | None, rows: Sequence[UnindexedRow]) -> None:
        takings = self._indexer.takings(scope or 0)
        new: list[SegmentRow] = []
        if scope is not None:
            places = [Place(row.source, n) for row in rows for n in range(row.start, row.stop)]
            for drafts, lsn in self._drafts(scope, places):
                with _Reserved(self._budget, need_bytes(drafts)):
                    new.append(self._maker.row(scope, self._maker.entries(drafts), lsn))

        def member(transaction: Transaction) -> bool:
            if scope is not None and self._indexer.takings(scope) != takings:
                return False
            for row in rows:
                transaction.tables.unindexed.delete(row)
            for segment in new:
                transaction.tables.segments.put(segment)
            return True

        if not self._committer.commit(member):
            raise _Later

    def _drafts(self, scope: int, places: Iterable[Place]) -> Iterator[tuple[list[Draft], int]]:
        """Of what can be read, at most _MESSAGES at a time; with their first LSN."""
        drafts: list[Draft] = []
        lsn = 0
        for draft, at in self._read.of(scope, places):
            lsn = lsn or at
            drafts.append(draft)
            if len(drafts) == _MESSAGES:
                yield drafts, lsn
                drafts, lsn = [], 0
        if drafts:
            yield drafts, lsn

    def _embed_again(self, head: SegmentRow) -> bool:
        """A segment of another space, from its messages."""
        scope = head.scope_number
        takings = self._indexer.takings(scope)
        with _Reserved(self._budget, _MERGE_FACTOR * head.size_bytes):
            (row,) = self._rows([head])
            old = Entries.decode(row.body)
            places = [
                Place(source, seq)
                for source, seq in zip(old.source.tolist(), old.seq.tolist(), strict=True)
            ]
            made = []
            for drafts, _ in self._drafts(scope, places):
                with _Reserved(self._budget, need_bytes(drafts)):
                    made.append(self._maker.entries(drafts))
                if made[-1].space != self._maker.space or self.is_ending:
                    # The embedder fails: later.
                    raise _Later
            new = [self._maker.row(scope, Entries.concat(made), row.first_lsn)] if made else []
            self._replace([row], new, lambda: self._indexer.takings(scope) == takings)
        self._indexer.watch.changed(scope)
        return True

    # -- erasing ----------------------------------------------------------------------------------

    def purge(self) -> int:
        """Take out of segments what was taken away since the last time: how many were written
        again, or deleted."""
        with self._home.snapshot() as tables:
            scopes = tables.masked.scopes()
        return sum(map(self._purge, scopes))

    def _purge(self, scope: int) -> int:
        with self._home.snapshot() as tables:
            masked = tables.masked.of_scope(scope)
            is_gone = tables.scopes.path(scope) is None
        changed = after = 0
        while True:
            with self._home.snapshot() as tables:
                heads = tables.segments.heads((scope, after), _HEADS)
            mine = [head for head in heads if head.scope_number == scope]
            for head in mine:
                changed += self._purge_one(head, masked, is_gone=is_gone)
            if len(mine) < _HEADS:
                break
            after = mine[-1].segment

        def member(transaction: Transaction) -> None:
            for place in masked:
                transaction.tables.masked.delete(scope, *place)

        self._committer.commit(member)
        return changed

    def _purge_one(
        self, head: SegmentRow, masked: Sequence[tuple[int, int]], *, is_gone: bool
    ) -> bool:
        # Erasing is never put off: one that is alone goes on even where the budget has no room.
        need = _MERGE_FACTOR * head.size_bytes
        with contextlib.suppress(BudgetError), _Reserved(self._budget, need):
            return self._erase(head, masked, is_gone=is_gone)
        return self._erase(head, masked, is_gone=is_gone)

    def _erase(self, head: SegmentRow, masked: Sequence[tuple[int, int]], *, is_gone: bool) -> bool:
        try:
            (row,) = self._rows([head])
            entries = Entries.decode(row.body)
            with self._home.snapshot() as tables:
                kept = _still_there(tables, entries, masked) & (not is_gone)
            if kept.all():
                return False
            left = entries.take(kept)
            new = [self._maker.row(row.scope_number, left, row.first_lsn)] if len(left) else []
            self._replace([row], new)
        except _Later:
            # It is part of another one by now, whose number is higher: that one comes later.
            return False
        except CorruptionError:
            return bool(self._mending.mend(head.scope_number))
        return True


class _Reserved:
    """A `with` block that holds so many bytes of the budget."""

    def __init__(self, budget: Budget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def __enter__(self) -> None:
        self._budget.reserve(OWNER, self._size_bytes)

    def __exit__(self, *_: object) -> None:
        self._budget.release(OWNER, self._size_bytes)


def due(heads: Sequence[SegmentRow], *, bytes_max: int = SEGMENT_BYTES_MAX) -> list[SegmentRow]:
    """Segments of one scope that are to become one; none where they are few enough."""
    levels: dict[tuple[str, int], list[SegmentRow]] = collections.defaultdict(list)
    for head in heads:
        level = max(0, head.size_bytes // _SMALLEST_BYTES).bit_length() // 2
        levels[head.space, level].append(head)
    for _, alike in sorted(levels.items(), key=lambda item: item[0][1]):
        group: list[SegmentRow] = []
        size = 0
        for head in alike:
            if size + head.size_bytes <= bytes_max:
                group.append(head)
                size += head.size_bytes
        # Large ones do not have to be so many: few of them reach the limit.
        if len(group) >= MERGE_MIN or (len(group) > 1 and size > bytes_max // 2):
            return group
    return []


def _is_there(tables: Tables, row: SegmentRow) -> bool:
    """Its number is never used again, so it is the same one."""
    found = tables.segments.heads((row.scope_number, row.segment - 1), 1)
    return bool(found) and found[0].segment == row.segment


def _once(entries: Entries) -> Entries:
    """In the order of their places, each once."""
    order = np.lexsort((entries.seq, entries.source))
    source, seq = entries.source[order], entries.seq[order]
    kept = np.ones(len(order), np.bool_)
    kept[1:] = (source[1:] != source[:-1]) | (seq[1:] != seq[:-1])
    return entries.take(order[kept])


def _still_there(tables: Tables, entries: Entries, masked: Sequence[tuple[int, int]]) -> Array:
    """A mask of the entries whose message is still at home, on whatever line, and was not
    redacted, or whose item is."""
    places = entries.source << SEQ_BITS | entries.seq.astype(np.int64)
    hidden = [source << SEQ_BITS | seq for source, seq in masked if seq != GONE]
    kept = ~np.isin(places, np.array(hidden, np.int64))
    for source in np.unique(entries.source).tolist():
        own = entries.source == source
        if source > 0:
            kept[own & (entries.seq >= _sealed_stop(tables, source))] = False
        elif tables.items.get(-source) is None:
            kept[own] = False
    return kept


def _sealed_stop(tables: Tables, line: int) -> int:
    """The number behind the last message that a line has in pages; 0 where it is gone."""
    if tables.lines.get(line) is None:
        return 0
    pages = tables.pages.map(line, 0, SEQ_MASK + 1, last=1)
    return pages[0].stop if pages else 0


def _scope_of(tables: Tables, row: UnindexedRow) -> int | None:
    """Whose it is; None where nobody can see it any more."""
    if row.scope_number:
        return row.scope_number
    line = tables.lines.get(row.source)
    while line is not None:
        if line.session:
            session = tables.sessions.get(line.session)
            return session.scope_number if session is not None else None
        # Its session was deleted, and forks read it.
        children = tables.lines.children(line.line)
        line = children[0] if children else None
    return None
