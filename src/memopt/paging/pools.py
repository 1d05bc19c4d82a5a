"""Soft shares: a policy for each agent type, and the type furthest above its share gives first.

A share is the part of all page bytes that a type may expect by its predicted working set. It binds
only while room is short, and a type may have more while others do not use theirs. Within a type its
own policy chooses.

Invariant: each member is in exactly one policy, that of the type its page was brought in for. Not
here: sizes and predictions (working_set.py).
"""

from collections.abc import Callable
from typing import Final

from memopt.base.protocols import Policy
from memopt.paging.working_set import TYPES_MAX, WorkingSets

_SHARES_KEPT: Final = 256
"""Victims that are named by the same shares, within a window: they move slowly, and computing them
takes as long as reading a page."""
_OWN_BYTES: Final = 2048


class Pools:
    """A Policy made of policies. Not thread-safe: the pager's lock is its lock."""

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        type_of: Callable[[int], int],
        sets: WorkingSets,
    ) -> None:
        self._make_policy = make_policy
        self._type_of = type_of
        """The agent type of a member."""
        self._sets = sets
        self._policies: dict[int, Policy] = {}
        self._members = [0] * TYPES_MAX
        self._shares: list[float] = []
        self._shares_of = (0, 0)
        """The window, and the count of victims in it, that the shares are of."""
        self._victims = 0

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        number = self._type_of(key)
        policy = self._policies.get(number)
        if policy is None:
            policy = self._policies[number] = self._make_policy()
        self._members[number] += 1
        policy.admitted(key, size_bytes, cost, importance)

    def touched(self, key: int) -> None:
        self._policies[self._type_of(key)].touched(key)

    def removed(self, key: int) -> None:
        number = self._type_of(key)
        self._policies[number].removed(key)
        self._members[number] -= 1

    def victim(self) -> int | None:
        resident = self._sets.resident_bytes
        total, shares = sum(resident), self._current()
        giving, furthest = None, 0.0
        for number, policy in self._policies.items():
            above = resident[number] - shares[number] * total
            if self._members[number] and (giving is None or above > furthest):
                giving, furthest = policy, above
        return None if giving is None else giving.victim()

    def charged_bytes(self) -> int:
        return _OWN_BYTES + sum(policy.charged_bytes() for policy in self._policies.values())

    def _current(self) -> list[float]:
        self._victims += 1
        wanted = (self._sets.window, self._victims // _SHARES_KEPT)
        if wanted != self._shares_of:
            self._shares = self._sets.shares()
            self._shares_of = wanted
        return self._shares
