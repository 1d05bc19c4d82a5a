"""Recall of a store, put together: what is told of messages, what is asked, what it occupies.

numpy and the embedder are brought in by the first seal or the first recall, not by opening a store.
Not here: each part's own work (indexing.py, resident.py, recaller.py, merging.py).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.events import Events
from memopt.base.protocols import Clock, Policy, Reader
from memopt.base.recall_protocols import EmbedderMaker
from memopt.base.recall_records import Recall
from memopt.journal.commit import GroupCommitter
from memopt.paging.pager import Pager
from memopt.recall.embedder import EmbedderInUse
from memopt.recall.indexing import EntryMaker, MessageIndexer
from memopt.recall.places import PlaceReader
from memopt.recall.resident import ResidentScopes

if TYPE_CHECKING:
    from memopt.recall.loading import ScopeLoader
    from memopt.recall.recaller import Recaller


class EngineParts(NamedTuple):
    """What recall works with."""

    home: Reader
    committer: GroupCommitter
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
        self._embedder = EmbedderInUse(parts.make_embedder, parts.budget, parts.note)
        self._maker = EntryMaker(self._embedder, parts.config)
        self._reader = PlaceReader(
            parts.home, lambda row, scope_number: next(parts.pager.open([row], scope_number))
        )
        self.indexer = MessageIndexer(self._maker, parts.budget, parts.config)
        self.scopes = ResidentScopes(
            self._make_loader, parts.budget, make_policy=parts.make_policy, clock=parts.clock,
            events=parts.events,
        )  # fmt: skip
        self.indexer.watch = self.scopes
        self._recaller: Recaller | None = None

    @property
    def analyser(self) -> Any:
        return self._maker.analyser

    def _make_loader(self) -> "ScopeLoader":
        from memopt.recall.loading import ScopeLoader

        return ScopeLoader(self._parts.home, self._maker, self._reader)

    def recall(self, query: object, **how: Any) -> Recall:
        """The hits of a query. Arguments as `asked` of recaller.py takes them."""
        from memopt.recall.recaller import Recaller, asked

        parts = self._parts
        if self._recaller is None:
            self._recaller = Recaller(
                parts.home, self.scopes, self._maker, self._reader, clock=parts.clock,
                events=parts.events, tool_chars_max=parts.config.tool_text_chars_max,
            )  # fmt: skip
        return self._recaller.recall(asked(query, **how))

    def close(self) -> None:
        self.scopes.close()
        self._embedder.close()

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self.scopes.abandon()
