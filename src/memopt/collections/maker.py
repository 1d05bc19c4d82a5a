"""Makes handles; puts together what is under them."""

from collections.abc import Callable

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.events import Events
from memopt.base.names import check_name
from memopt.base.protocols import CollectionOwners, Compressor, Reader
from memopt.collections.cache import EntryCache
from memopt.collections.engine import NO_TURNS, Engine, TurnsTold
from memopt.collections.keeper import Keeper
from memopt.collections.mapping import Mapping
from memopt.collections.mappings import Mappings
from memopt.collections.rows import MAPPING, SEQUENCE, Commits, Ref, Rows
from memopt.collections.sequence import Sequence
from memopt.collections.sequences import Sequences


class Collections:
    """A store's mappings and sequences. Thread-safe."""

    def __init__(
        self, home: Reader, committer: Commits, owners: CollectionOwners,
        compressor: Compressor, cache: EntryCache, budget: Budget, *, config: Config,
        events: Events, admit: Callable[[int], None], make_room: Callable[[], bool],
        turns: TurnsTold = NO_TURNS,
    ) -> None:  # fmt: skip
        self.cache = cache
        self.rows = Rows(home, owners, budget, cache)
        self.engine = Engine(
            home, committer, self.rows, cache, compressor, budget, config=config, events=events,
            admit=admit, make_room=make_room, turns=turns,
        )  # fmt: skip
        self._mappings = Mappings(self.engine)
        self._sequences = Sequences(self.engine)
        self.keeper = Keeper(self.engine, self._mappings, self._sequences)

    def mapping(
        self, name: str, scope: str, session: str | None = None, agent: str | None = None
    ) -> Mapping:
        ref = Ref(MAPPING, scope, session, check_name(name, field="name"))
        return Mapping(self._mappings, ref, agent)

    def sequence(
        self, name: str, scope: str, session: str | None = None, agent: str | None = None
    ) -> Sequence:
        ref = Ref(SEQUENCE, scope, session, check_name(name, field="name"))
        return Sequence(self._sequences, ref, agent)

    def make_free(self, size_bytes: int) -> None:
        """Asked when the budget is short: values first, then what is known of collections."""
        if self.cache.make_free(size_bytes) < size_bytes:
            self.rows.shrink()

    def abandon(self) -> None:
        """In a forked child: every handle refuses, and waits for no lock."""
        self.rows.abandon()
        self.engine.abandon()
        self.cache.abandon()

    def let_idle_go(self, idle_seconds: float, now: float) -> None:
        """On the maintenance thread: what nobody used for so long costs no RAM."""
        self.rows.let_idle_go(self.cache.let_idle_go(idle_seconds, now))

    def close(self) -> None:
        self.cache.close()
        self.rows.close()
