"""Recall of a store, put together: what is told of messages, what is asked, what it occupies.

The embedder's table is brought in by the first seal or recall, and what only a recall needs by the
first of them, not by opening a store.
Not here: each part's own work (indexing.py, resident.py, recaller.py, merging.py).
"""

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import CorruptionError, StoreClosedError, StoreFailedError
from memopt.base.events import Events
from memopt.base.protocols import Clock, Compressor, Policy, Reader
from memopt.base.reaching import scopes_from
from memopt.base.recall_protocols import EmbedderMaker
from memopt.base.recall_records import Recall
from memopt.journal.commit import GroupCommitter
from memopt.paging.pager import Pager
from memopt.recall.drafts import DraftReader
from memopt.recall.embedder import EmbedderInUse
from memopt.recall.indexing import EntryMaker, MessageIndexer
from memopt.recall.piece_indexing import PieceIndexer
from memopt.recall.places import ColdPages, PlaceReader
from memopt.recall.resident import ResidentScopes
from memopt.recall.segments import SegmentUpkeep

if TYPE_CHECKING:
    from memopt.recall.loading import ScopeLoader
    from memopt.recall.ranking import Ranker
    from memopt.recall.recaller import Asked, Recaller

_SLICE_SECONDS: Final = 0.05
"""Of each second, for segments."""


class EngineParts(NamedTuple):
    """What recall works with."""

    home: Reader
    committer: GroupCommitter
    compressor: Compressor
    pager: Pager
    budget: Budget
    config: Config
    clock: Clock
    events: Events
    make_embedder: EmbedderMaker
    make_policy: Callable[[], Policy]
    note: Callable[[str], None]
    """Is told, in words, what is done less well."""


class RecallEngine:
    """Thread-safe."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self.embedder = EmbedderInUse(parts.make_embedder, parts.budget, parts.note)
        self._maker = EntryMaker(self.embedder, parts.budget, parts.config)
        self._reader = PlaceReader(
            parts.home, lambda row, scope_number: next(parts.pager.open([row], scope_number))
        )
        self._cold_reader = PlaceReader(
            parts.home, ColdPages(parts.home, parts.compressor, parts.budget)
        )
        self.indexer = MessageIndexer(self._maker, parts.budget, parts.config)
        self.pieces = PieceIndexer(self.indexer, self._maker, parts.budget)
        self.scopes = ResidentScopes(
            self._make_loader, parts.budget, make_policy=parts.make_policy, clock=parts.clock,
            events=parts.events,
        )  # fmt: skip
        self.indexer.watch = self.scopes
        self._recaller: Recaller | None = None
        self._upkeep: SegmentUpkeep | None = None
        self._upkeep_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_put_off = False

    @property
    def analyser(self) -> Any:
        return self._maker.analyser

    def _make_loader(self) -> "ScopeLoader":
        from memopt.recall.loading import ScopeLoader

        return ScopeLoader(
            self._parts.home, self._maker, self._drafts(self._reader), self._parts.compressor
        )

    def _drafts(self, reader: PlaceReader) -> DraftReader:
        return DraftReader(self._parts.home, self._maker, reader, self._parts.compressor)

    def recall(self, query: object, **how: Any) -> Recall:
        """The hits of a query. Arguments as `asked` of recaller.py takes them."""
        from memopt.recall.recaller import asked

        recaller = self._asking()
        question = asked(query, **how)
        try:
            return recaller.recall(question)
        except CorruptionError:
            if not self._mend(question):
                raise
            return recaller.recall(question)

    def use_ranker(self, ranker: "Ranker") -> None:
        """Other weights than the shipped ones, for whoever measures them."""
        self._asking().ranker = ranker

    def _asking(self) -> "Recaller":
        if self._recaller is None:
            from memopt.recall.recaller import Recaller

            parts = self._parts
            self._recaller = Recaller(
                parts.home, self.scopes, self._maker, self._reader, parts.compressor,
                parts.budget, clock=parts.clock, events=parts.events,
                tool_chars_max=parts.config.tool_text_chars_max,
            )  # fmt: skip
        return self._recaller

    def _mend(self, question: "Asked") -> int:
        """What is damaged of the index that was asked; how many segments."""
        if self._parts.committer.refusing:
            return 0
        with self._parts.home.snapshot() as tables:
            reached = scopes_from(tables, question.scope, question.reach, None)
            numbers = [number for number, _ in reached]
        with self._upkeep_lock:
            return self.upkeep.mend(numbers)

    @property
    def upkeep(self) -> SegmentUpkeep:
        if self._upkeep is None:
            parts = self._parts
            self._upkeep = SegmentUpkeep(
                parts.home, parts.committer, self._maker, self.indexer,
                self._drafts(self._cold_reader), parts.budget, parts.events, parts.clock,
            )  # fmt: skip
        return self._upkeep

    def maintain(self) -> None:
        """A slice of what happens by itself."""
        self.scopes.let_idle_go(self._parts.config.l2_idle_seconds)
        if self._is_put_off or self._parts.committer.refusing or not self._has_work():
            return
        if self._maker.is_quick or self._maker.embedder is None:
            self._step()
        elif self._thread is None or not self._thread.is_alive():
            # A model or an endpoint may take long, and others wait for maintenance.
            self._thread = threading.Thread(target=self._step, name="memopt-embed", daemon=True)
            self._thread.start()

    def put_off_merging(self) -> None:
        """Merge no segments and make no missing entries: that takes memory, and can wait."""
        self._is_put_off = True

    def merge_on(self) -> None:
        self._is_put_off = False

    def _step(self) -> None:
        with self._upkeep_lock, contextlib.suppress(StoreClosedError, StoreFailedError):
            self.upkeep.step(_SLICE_SECONDS)

    def stop(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        if self._upkeep is not None:
            self._upkeep.is_ending = True
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """In a compaction: all of it, and what was taken away is taken out of segments."""
        with self._parts.home.snapshot() as tables:
            if not (
                tables.segments.heads((0, 0), 1)
                or tables.masked.scopes()
                or tables.unindexed.first(1)
            ):
                return
        with self._upkeep_lock:
            self.upkeep.purge()
            self.upkeep.finish()

    def _has_work(self) -> bool:
        """A store that is opened and left alone brings nothing in."""
        if self._upkeep is not None or self.indexer.fresh or self._recaller is not None:
            return True
        with self._parts.home.snapshot() as tables:
            return bool(tables.unindexed.first(1, stated=not self.indexer.is_on))

    def close(self) -> None:
        self.scopes.close()
        self._maker.forget_words()
        self.embedder.close()

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self.scopes.abandon()
