"""What a Memory works with: a name for each of its parts. wiring.py makes them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from memopt.answers.engine import AnswerEngine
from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.events import Events
from memopt.base.metrics import Metrics
from memopt.base.protocols import Clock
from memopt.context.engine import Contexts
from memopt.directory import Directory
from memopt.journal.commit import GroupCommitter
from memopt.journal.history import History
from memopt.journal.subscription import Subscriptions
from memopt.maintenance import Maintenance
from memopt.paging.dictionaries import Dictionaries
from memopt.paging.pager import Pager
from memopt.paging.prefetch import Prefetcher
from memopt.pressure.monitor import Monitor
from memopt.recall.contradicting import Contradicting
from memopt.recall.documents import Documents
from memopt.recall.engine import RecallEngine
from memopt.recall.items import Items
from memopt.recall.keeper import Keeper
from memopt.recall.listing import Listing
from memopt.sessions.checking import Checking
from memopt.sessions.compaction import Compaction
from memopt.sessions.forgetting import Forgetting
from memopt.sessions.residents import Residents
from memopt.sessions.session import Sessions
from memopt.upkeep import Upkeep


class RecallParts(NamedTuple):
    """What the verbs of recall work with, made by wiring_recall.py."""

    engine: RecallEngine
    items: Items
    contradicting: Contradicting
    keeper: Keeper
    documents: Documents
    listing: Listing


class Parts(NamedTuple):
    """Everything a Memory works with, made by wiring.py."""

    config: Config
    clock: Clock
    budget: Budget
    metrics: Metrics
    events: Events
    directory: Directory
    committer: GroupCommitter
    subscriptions: Subscriptions
    history: History
    pager: Pager
    prefetcher: Prefetcher
    dictionaries: Dictionaries
    residents: Residents
    sessions: Sessions
    forgetting: Forgetting
    recall: RecallParts
    answers: AnswerEngine
    contexts: Contexts
    checking: Checking
    compaction: Compaction
    maintenance: Maintenance
    upkeep: Upkeep
    pressure: Monitor
    serve: Callable[[Any], Callable[[], None]]
    """Starts the owner's socket for a Memory; returns how to stop it."""
    release: Callable[[], None]
    """Gives back what the parts reserved."""
    abandon: Callable[[], None]
    """In a forked child: they refuse everything, and leave the parent's files alone."""
