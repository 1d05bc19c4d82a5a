"""What the answer cache works with: a name for each of its parts. Not here: who makes them."""

from collections.abc import Callable
from typing import NamedTuple

from memopt.answers.residents import ResidentQuestions
from memopt.answers.rows import AnswerRows
from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.events import Events
from memopt.base.protocols import Clock, CollectionOwners, Compressor, Reader
from memopt.base.recall_protocols import Embedder, PieceEmbedder
from memopt.journal.commit import GroupCommitter


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
    place_of: Callable[[str], tuple[int, int, int]]
    """(kind, source, seq) of what an item id names. Raises UsageError."""
    residents: ResidentQuestions
    rows: AnswerRows
