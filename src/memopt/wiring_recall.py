"""Puts the parts of recall together: the half of wiring.py that is about memories."""

from collections.abc import Callable

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.events import Events
from memopt.base.protocols import Clock, CollectionOwners, Compressor, Reader
from memopt.base.recall_protocols import EmbedderMaker
from memopt.directory import Directory
from memopt.journal.commit import GroupCommitter
from memopt.paging.pager import Pager
from memopt.parts import RecallParts
from memopt.policies.catalog import make_policy
from memopt.recall.contradicting import Contradicting
from memopt.recall.documents import Documents
from memopt.recall.engine import EngineParts, RecallEngine
from memopt.recall.items import Items
from memopt.recall.keeper import Keeper
from memopt.recall.listing import Listing
from memopt.upkeep import Upkeep


def wire_recall(
    home: Reader, committer: GroupCommitter, owners: CollectionOwners, compressor: Compressor,
    config: Config, clock: Clock, budget: Budget, admit: Callable[[int], None],
    engine: RecallEngine,
) -> RecallParts:  # fmt: skip
    contradicting = Contradicting(home, compressor, budget, lambda: engine.analyser)
    items = Items(
        committer, owners, compressor, contradicting, clock, bytes_max=config.item_bytes_max,
        admit=admit,
    )  # fmt: skip
    documents = Documents(
        home, committer, owners, compressor, budget, engine.pieces, items.watchers,
        bytes_max=config.document_bytes_max, admit=admit,
    )  # fmt: skip
    items.watchers += [documents, engine.indexer]
    return RecallParts(
        items=items, contradicting=contradicting, documents=documents, engine=engine,
        keeper=Keeper(home, committer, compressor, items.watchers),
        listing=Listing(home, compressor, budget, clock),
    )  # fmt: skip


def wire_engine(
    directory: Directory, committer: GroupCommitter, compressor: Compressor, pager: Pager,
    upkeep: Upkeep, config: Config, clock: Clock, budget: Budget, events: Events,
    make_embedder: EmbedderMaker,
) -> RecallEngine:  # fmt: skip
    """The index, which everything that seals has to know."""
    engine = RecallEngine(
        EngineParts(
            home=directory.home, committer=committer, compressor=compressor, pager=pager,
            budget=budget, config=config, clock=clock, events=events, make_embedder=make_embedder,
            make_policy=lambda: make_policy(config.recall_policy, now=clock.monotonic),
            note=directory.notes.append,
        )
    )  # fmt: skip
    pager.ask_first = engine.scopes.make_free_of_excess
    upkeep.ask_also(engine.scopes.make_free)
    upkeep.shrink_also(engine.scopes.limit, lambda: engine.scopes.freed_bytes)
    return engine
