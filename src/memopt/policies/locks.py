"""Timed locks: members that are kept aside from an order until their time is up.

Owns the locked members. Invariant: a member is locked or in the order, never both; every locked one
has an entry in the heap of ends. Not here: the order, which the policies that build on this have.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Final

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes

_LOCKED_BYTES: Final = 64 + 64 + 16 + 2 * 24 + 2 * INT_BYTES
"""Two tuples of three, a float and an int in each."""
_DEAD_ENDS_MAX: Final = 64


class Lockable(ABC):
    """What forgetting, importance and the mix share. A lock takes O(log n), with n the locks; about
    350 bytes each.

    `now` is the policy's time, in seconds; None counts what comes and what is touched, so that the
    same calls lead to the same victims. A lock that ends leaves its member as if it had been used
    then. Where all members are locked, the one whose lock ends first goes: the budget is the one
    hard limit.
    """

    __slots__ = ("_ends", "_ends_aside", "_locked", "_locks", "_now", "_ticks")

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now
        self._ticks = 0
        self._locked: dict[int, tuple[float, int, Any]] = {}
        """Key to (until, number of the lock, what the order knew of it)."""
        self._ends: list[tuple[float, int, int]] = []
        """(until, number of the lock, key)."""
        self._ends_aside: list[tuple[float, int, int]] = []
        """Of the locked members that were named since the last one went."""
        self._locks = 0

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert key not in self._locked, f"{key} is admitted twice"
        assert 0 <= importance <= 1, f"{key} has importance {importance}"
        self._enter(key, importance)
        self._ticks += 1

    def touched(self, key: int) -> None:
        if self._locked and key in self._locked:
            until, lock, known = self._locked[key]
            self._locked[key] = (until, lock, self._used(known))
        else:
            self._touch(key)
        self._ticks += 1

    def removed(self, key: int) -> None:
        if self._locked.pop(key, None) is None:
            self._take(key)
        else:
            self._tidy()
        if self._ends_aside:
            self._bring_ends_back()

    def victim(self) -> int | None:
        if not self._locked:
            return self._weakest()
        self._expire()
        named = self._weakest()
        return self._first_to_end() if named is None else named

    def lock(self, key: int, until: float) -> None:
        held = self._locked.get(key)
        known = self._take(key) if held is None else held[2]
        self._locks += 1
        self._locked[key] = (until, self._locks, known)
        heappush(self._ends, (until, self._locks, key))
        self._tidy()

    def unlock(self, key: int) -> None:
        held = self._locked.pop(key, None)
        if held is None:
            assert self._is_in_order(key), f"{key} is unlocked and no member"
            return
        self._put_back(key, held[2])
        self._tidy()

    def charged_bytes(self) -> int:
        ends = len(self._ends) + len(self._ends_aside)
        return (
            self._order_bytes()
            + table_bytes(self._locked, self._ends, self._ends_aside)
            + (len(self._locked) + ends) * _LOCKED_BYTES
        )

    def check(self) -> None:
        """Assert the invariant."""
        assert not any(self._is_in_order(key) for key in self._locked)
        ends = [end for end in self._ends + self._ends_aside if self._is_alive(end)]
        assert sorted(key for _, _, key in ends) == sorted(self._locked)

    def moment(self) -> float:
        """The policy's time."""
        return self._ticks if self._now is None else self._now()

    # -- the order --------------------------------------------------------------------------------

    @abstractmethod
    def _enter(self, key: int, importance: float) -> None:
        """A new member. An assert where there is one of that key."""

    @abstractmethod
    def _touch(self, key: int) -> None:
        """A member was used. An assert where there is none."""

    @abstractmethod
    def _take(self, key: int) -> Any:
        """Out of the order, and what was known. An assert where it is not in it."""

    @abstractmethod
    def _put_back(self, key: int, known: Any) -> None: ...

    @abstractmethod
    def _used(self, known: Any) -> Any:
        """What is known after one more use."""

    @abstractmethod
    def _weakest(self) -> int | None:
        """The next to go, going round all of the order when it is asked again."""

    @abstractmethod
    def _is_in_order(self, key: int) -> bool: ...

    @abstractmethod
    def _order_bytes(self) -> int: ...

    # -- the locks --------------------------------------------------------------------------------

    def _expire(self) -> None:
        moment = self.moment()
        while self._ends and (self._ends[0][0] <= moment or not self._is_alive(self._ends[0])):
            end = heappop(self._ends)
            if self._is_alive(end):
                self._put_back(end[2], self._locked.pop(end[2])[2])

    def _first_to_end(self) -> int | None:
        if not self._locked:
            return None
        while True:
            if not self._ends:
                self._bring_ends_back()
            end = heappop(self._ends)
            if self._is_alive(end):
                # Aside, so that asking again names another one: this one may be held.
                self._ends_aside.append(end)
                return end[2]

    def _bring_ends_back(self) -> None:
        for end in self._ends_aside:
            heappush(self._ends, end)
        self._ends_aside = []

    def _tidy(self) -> None:
        if not len(self._locked) & COMPACTION_MASK:
            self._locked = compacted(self._locked)
        if len(self._ends) + len(self._ends_aside) > 2 * len(self._locked) + _DEAD_ENDS_MAX:
            self._ends_aside = [end for end in self._ends_aside if self._is_alive(end)]
            self._ends = [end for end in self._ends if self._is_alive(end)]
            heapify(self._ends)

    def _is_alive(self, end: tuple[float, int, int]) -> bool:
        """A lock that was replaced, or whose member went, has another number or none."""
        held = self._locked.get(end[2])
        return held is not None and held[1] == end[1]
