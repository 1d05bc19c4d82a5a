"""A weighted mix of recency, frequency and relevance.

Owns the weights and the clock of turns. Not here: learning the weights.
"""

from collections.abc import Callable
from math import inf, log2
from typing import Any, Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.policies.heap import RisingPriorities
from memopt.policies.locks import Lockable

_USES_MAX: Final = 256
_LOGS: Final = tuple(log2(max(1, uses)) for uses in range(_USES_MAX + 1))


class Weights(NamedTuple):
    """What a point of each counts."""

    recency: float = 1.0
    """Loses a point with each turn since the last use; a turn is as many accesses as members."""
    frequency: float = 1.0
    """Has a point for each doubling of the uses, up to 256."""
    relevance: float = 4.0
    """Has the importance, from 0 to 1."""


class Weighted(Lockable):
    """Evicts the lowest `recency * r + frequency * log2(uses) + relevance * importance`, `r` being
    minus the turns since the last use; of equals, who was admitted first. An importance of 1 is a
    pin: it goes after all else, locked members last.

    As `r` falls at the same rate for all, the order of two members changes only when one is used:
    the turn of the last use can stand for it, priorities only rise, and a heap does. A touch takes
    constant time, a victim amortised O(log n); about 400 bytes a member.

    Source of the sum: J. S. Park et al., "Generative agents: interactive simulacra of human
    behavior", UIST 2023, section 4.1, with frequency instead of a question; of the turns, which
    make the weights independent of rates and sizes: ours.

    Raises UsageError naming `weights` when one is negative or no number.
    """

    __slots__ = ("_order", "_turn", "weights")

    def __init__(
        self, now: Callable[[], float] | None = None, *, weights: Weights | None = None
    ) -> None:
        super().__init__(now)
        self.weights = weights or Weights()
        if not all(0 <= weight < inf for weight in self.weights):
            raise UsageError(f"expected weights from 0, got {self.weights}", field="weights")
        self._order = RisingPriorities()
        self._turn = 0.0

    def _score(self, uses: int, importance: float) -> float:
        weights = self.weights
        if importance >= 1:
            return inf
        return (
            weights.recency * self._turn
            + weights.frequency * _LOGS[min(uses, _USES_MAX)]
            + weights.relevance * importance
        )

    def _enter(self, key: int, importance: float) -> None:
        self._order.put(key, self._score(1, importance), 1, importance)
        self._turn += 1 / len(self._order.members)

    def _touch(self, key: int) -> None:
        members = self._order.members
        assert key in members, f"{key} is touched and no member"
        _, admission, uses, importance = members[key]
        members[key] = (self._score(uses + 1, importance), admission, uses + 1, importance)
        self._turn += 1 / len(members)

    def _take(self, key: int) -> Any:
        _, _, uses, importance = self._order.take(key)
        return uses, importance

    def _put_back(self, key: int, known: Any) -> None:
        uses, importance = known
        self._order.put(key, self._score(uses, importance), uses, importance)

    def _used(self, known: Any) -> Any:
        uses, importance = known
        return uses + 1, importance

    def _weakest(self) -> int | None:
        return self._order.victim()

    def _is_in_order(self, key: int) -> bool:
        return key in self._order.members

    def _order_bytes(self) -> int:
        return self._order.charged_bytes()

    def check(self) -> None:
        """Assert the invariants."""
        super().check()
        self._order.check()
