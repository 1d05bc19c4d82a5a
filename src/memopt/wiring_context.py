"""Puts contexts together: the half of wiring.py that is about what a model sees."""

from typing import Any, NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.context_protocols import Summarizer
from memopt.base.errors import UsageError
from memopt.base.events import Events
from memopt.base.moments import NOW
from memopt.base.protocols import Clock, Compressor
from memopt.base.recall_protocols import EmbedderMaker
from memopt.base.recall_records import Recall
from memopt.base.records import Reach
from memopt.context.engine import Contexts
from memopt.context.keeper import ContextKeeper
from memopt.context.making import ContextParts
from memopt.context.tokens import Tokenizers
from memopt.directory import Directory
from memopt.journal.commit import GroupCommitter
from memopt.parts import RecallParts
from memopt.recall.places import Places
from memopt.sessions.reading import LineReader
from memopt.upkeep import Upkeep


class Plugs(NamedTuple):
    """What whoever opens a store may bring along."""

    make_embedder: EmbedderMaker
    tokenizers: Tokenizers
    summarizer: Summarizer | None


def check_summarizer(summarizer: Any) -> Summarizer | None:
    """Raises UsageError for what cannot be called."""
    if summarizer is not None and not callable(summarizer):
        raise UsageError(
            f"expected a function, got {type(summarizer).__name__}", field="summarizer"
        )
    return summarizer  # type: ignore[no-any-return]


def wire_context(
    directory: Directory, committer: GroupCommitter, compressor: Compressor, reader: LineReader,
    upkeep: Upkeep, config: Config, clock: Clock, budget: Budget, events: Events,
    recall: RecallParts, keeper: ContextKeeper, plugs: Plugs,
) -> Contexts:  # fmt: skip
    def recalling(
        query: str, *, scope: str, limit: int, max_tokens: int, shown: tuple[Places, ...]
    ) -> Recall:
        return recall.engine.recall(
            query, scope=scope, reach=Reach.EXACT, limit=limit, max_tokens=max_tokens, kinds=None,
            tags=None, min_score=None, valid_at=None, bound=NOW, now=None, shown=shown,
            says_why=False,
        )  # fmt: skip

    contexts = Contexts(
        ContextParts(
            home=directory.home, committer=committer, reader=reader, compressor=compressor,
            budget=budget, config=config, clock=clock, events=events, listing=recall.listing,
            recall=recalling, keeper=keeper, tokenizers=plugs.tokenizers,
            summarizer=plugs.summarizer,
        )
    )  # fmt: skip
    recall.items.watchers.append(keeper)
    upkeep.ask_also(contexts.counts.make_free)
    return contexts
