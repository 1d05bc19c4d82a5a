"""The contract of timed locks, as tests anybody can run on a policy of their own.

Subclass `LockConformance` beside `PolicyConformance`. Not here: what the policy does with members
that are not locked.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Protocol

from memopt.base.protocols import Policy, TimedLocks


class LockablePolicy(Policy, TimedLocks, Protocol):
    """A policy with timed locks."""


class LockConformance(ABC):
    """The suite. Every method named `test_…` is one promise of `base.protocols.TimedLocks`."""

    @abstractmethod
    def make(self, now: Callable[[], float]) -> LockablePolicy:
        """A fresh, empty policy that takes its time from `now`, in seconds."""

    def test_a_locked_member_is_named_last(self) -> None:
        policy = self._filled(lambda: 0.0)
        for key in range(0, 20, 2):
            policy.lock(key, 100.0)
        order = _drain(policy)
        assert set(order[:10]) == set(range(1, 20, 2)), f"locked ones went before others: {order}"
        assert set(order[10:]) == set(range(0, 20, 2)), "locked ones never went"

    def test_of_locked_members_the_one_that_ends_first_goes(self) -> None:
        policy = self._filled(lambda: 0.0)
        ends = list(range(1, 21))
        random.Random(3).shuffle(ends)
        for key, end in enumerate(ends):
            policy.lock(key, float(end))
        order = _drain(policy)
        assert order == sorted(range(20), key=ends.__getitem__), f"went as {order}"

    def test_locked_members_are_passed_over_too_where_they_are_held(self) -> None:
        policy = self._filled(lambda: 0.0)
        for key in range(20):
            policy.lock(key, 5.0 + key)
        assert {policy.victim() for _ in range(20)} == set(range(20))

    def test_a_lock_ends_by_itself(self) -> None:
        time = [0.0]
        for moment, last in ((9.0, 0), (10.0, 50)):
            time[0] = 0.0
            policy = self._filled(lambda: time[0])
            policy.lock(0, 10.0)
            time[0] = moment
            policy.admitted(50, 4096, 1.0, 0.9)
            assert _drain(policy)[-1] == last, f"at {moment}, the lock until 10.0"

    def test_unlocking_ends_it_and_a_second_lock_replaces_the_first(self) -> None:
        policy = self._filled(lambda: 0.0)
        policy.lock(0, 10.0)
        policy.lock(0, 1.0)
        policy.lock(1, 5.0)
        policy.unlock(2)
        assert _drain(policy)[-1] == 1, "the lock that was replaced still holds"
        policy = self._filled(lambda: 0.0)
        for key in (0, 1):
            policy.lock(key, 10.0)
        policy.unlock(0)
        assert _drain(policy)[-1] == 1, "what was unlocked is still locked"

    def test_a_lock_goes_with_its_member(self) -> None:
        policy = self._filled(lambda: 0.0)
        policy.lock(0, 10.0)
        policy.removed(0)
        policy.admitted(0, 4096)
        policy.lock(1, 10.0)
        assert _drain(policy)[-1] == 1, "the lock outlived its member"

    def test_strangers_cannot_be_locked(self) -> None:
        if not __debug__:
            return
        policy = self._filled(lambda: 0.0)
        calls: list[Callable[[], None]] = [
            partial(policy.lock, 77, 1.0),
            partial(policy.unlock, 77),
        ]
        for call in calls:
            try:
                call()
            except AssertionError:
                continue
            raise AssertionError("a stranger was locked or unlocked")

    def test_locks_are_charged_and_replacing_them_costs_nothing(self) -> None:
        policy = self._filled(lambda: 0.0)
        before = policy.charged_bytes()
        for key in range(20):
            policy.lock(key, 10.0)
        locked = policy.charged_bytes()
        assert locked > before, "locks cost nothing"
        for end in range(2_000):
            policy.lock(end % 20, 10.0 + end)
        assert policy.charged_bytes() < 10 * locked, "locks that were replaced are not bounded"

    def test_any_mix_of_calls_agrees_with_a_dict(self) -> None:
        time = [0.0]
        policy, chance = self.make(lambda: time[0]), random.Random(9)
        members: dict[int, float] = {}
        for _ in range(6_000):
            time[0] += chance.random()
            key = chance.randrange(60)
            draw = chance.random()
            if key not in members:
                policy.admitted(key, 4096, 1.0, chance.choice((0.0, 0.5, 1.0)))
                members[key] = -1.0
            elif draw < 0.3:
                policy.touched(key)
            elif draw < 0.5:
                members[key] = time[0] + chance.uniform(-5, 60)
                policy.lock(key, members[key])
            elif draw < 0.6:
                policy.unlock(key)
                members[key] = -1.0
            elif draw < 0.65:
                policy.removed(key)
                del members[key]
            else:
                victim = policy.victim()
                assert victim in members, f"{victim} is named, and no member"
                if any(until <= time[0] for until in members.values()):
                    assert members[victim] <= time[0], f"{victim} is locked, and others are not"
                policy.removed(victim)
                del members[victim]
            check = getattr(policy, "check", None)
            if check is not None:
                check()

    def _filled(self, now: Callable[[], float]) -> LockablePolicy:
        policy = self.make(now)
        for key in range(20):
            policy.admitted(key, 4096)
        return policy


def _drain(policy: Policy) -> list[int]:
    order: list[int] = []
    while (victim := policy.victim()) is not None:
        policy.removed(victim)
        order.append(victim)
    return order
