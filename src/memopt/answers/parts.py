"""What the answer cache works with: a name for each of its parts. Not here: who makes them."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from memopt.answers.residents import ResidentQuestions
from memopt.answers.rows import AnswerRows
from memopt.answers.takings import Takings
from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.events import Events
from memopt.base.protocols import Clock, CollectionOwners, Compressor, Reader, Tables
from memopt.base.recall_protocols import Embedder, PieceEmbedder
from memopt.journal.commit import GroupCommitter


class Sources(Protocol):
    """What answers are made of."""

    def place_of(self, use: str) -> tuple[int, int, int]:
        """(kind, source, seq) of what an item id names. Raises UsageError."""
        ...

    def is_said(self, use: str) -> bool:
        """Whether a message is there and not redacted; true of what is no message."""
        ...

    def until(self, tables: Tables, kind: int, source: int, at_us: int) -> int | None:
        """Until when an item is so; FOREVER where that is not known, None where it is no longer,
        or gone."""
        ...


class AnswerParts(NamedTuple):
    home: Reader
    committer: GroupCommitter
    owners: CollectionOwners
    compressor: Compressor
    budget: Budget
    config: Config
    clock: Clock
    events: Events
    admit: Callable[[int], None]
    embedder: Callable[[], Embedder | None]
    """None where there is none; raises BudgetError where there is no room for it now."""
    make_lexicon: Callable[[], PieceEmbedder]
    """The shipped table of word pieces."""
    sources: Sources
    takings: Takings
    residents: ResidentQuestions
    rows: AnswerRows
