"""All policies keep the contract, and the suite notices a policy that does not."""

import random
from collections.abc import Callable

import pytest

from memopt.base.errors import UsageError
from memopt.base.protocols import Policy
from memopt.policies import (
    POLICIES,
    Adaptive,
    Admitting,
    Arc,
    Clock,
    Forgetting,
    FrequencyAdmission,
    Gdsf,
    Importance,
    Lfu,
    Lru,
    S3Fifo,
    Sieve,
    SizeAdmission,
    Weighted,
    WTinyLfu,
    make_policy,
)
from memopt.policies.adaptive import CANDIDATES
from memopt.testing import LockablePolicy, LockConformance, PolicyConformance, check_policy


class TestLru(PolicyConformance):
    def make(self) -> Policy:
        return Lru()


class TestClock(PolicyConformance):
    def make(self) -> Policy:
        return Clock()


class TestLfu(PolicyConformance):
    def make(self) -> Policy:
        return Lfu()


class TestSieve(PolicyConformance):
    def make(self) -> Policy:
        return Sieve()


class TestS3Fifo(PolicyConformance):
    def make(self) -> Policy:
        return S3Fifo()


class TestS3FifoWithFewGhosts(PolicyConformance):
    def make(self) -> Policy:
        return S3Fifo(ghosts_max=3)


class TestArc(PolicyConformance):
    def make(self) -> Policy:
        return Arc()


class TestArcWithFewGhosts(PolicyConformance):
    def make(self) -> Policy:
        return Arc(ghosts_max=3)


class TestWTinyLfu(PolicyConformance):
    def make(self) -> Policy:
        return WTinyLfu()


class TestGdsf(PolicyConformance):
    def make(self) -> Policy:
        return Gdsf()


class TestAdaptive(PolicyConformance):
    def make(self) -> Policy:
        return Adaptive()


class Fickle(Adaptive):
    """Hands over all the time, whatever the evidence."""

    while_filling = True

    def _compare(self, key: int) -> None:
        is_filling = self._ghosts is None or self._ghosts.filling
        if self._old is None and (self.while_filling or not is_filling):
            self._switch((self._index + 1) % len(CANDIDATES))


class FickleOnceFull(Fickle):
    """Changes when Adaptive could: not before there was a victim."""

    while_filling = False


class TestAdaptiveThatChangesAllTheTime(PolicyConformance):
    def make(self) -> Policy:
        return Fickle()

    def test_the_charge_follows_the_members(self) -> None:
        """What has handed over is gone, and its charge with it: here while members come."""
        policy, before = Fickle(), 0
        for key in range(4_000):
            policy.admitted(key, 4096)
            before = max(before, policy.charged_bytes())
        while (victim := policy.victim()) is not None:
            policy.removed(victim)
        assert policy.charged_bytes() < before / 10


class TestAdaptiveThatChangesAllTheTimeOnceFull(PolicyConformance):
    def make(self) -> Policy:
        return FickleOnceFull()


class TestForgetting(PolicyConformance):
    def make(self) -> Policy:
        return Forgetting()


class TestForgettingByAClockThatStands(PolicyConformance):
    def make(self) -> Policy:
        return Forgetting(lambda: 7.0)


class TestImportance(PolicyConformance):
    def make(self) -> Policy:
        return Importance()


class TestWeighted(PolicyConformance):
    def make(self) -> Policy:
        return Weighted()


class TestLruWithFrequencyAdmission(PolicyConformance):
    def make(self) -> Policy:
        return Admitting(Lru(), FrequencyAdmission())


class TestArcWithSizeAdmission(PolicyConformance):
    def make(self) -> Policy:
        return Admitting(Arc(), SizeAdmission())


class TestLocksOfForgetting(LockConformance):
    def make(self, now: Callable[[], float]) -> LockablePolicy:
        return Forgetting(now)


class TestLocksOfImportance(LockConformance):
    def make(self, now: Callable[[], float]) -> LockablePolicy:
        return Importance(now)


class TestLocksOfWeighted(LockConformance):
    def make(self, now: Callable[[], float]) -> LockablePolicy:
        return Weighted(now)


class NamesADepartedKey(Lru):
    def __init__(self) -> None:
        super().__init__()
        self.departed: int | None = None

    def removed(self, key: int) -> None:
        super().removed(key)
        self.departed = key

    def victim(self) -> int | None:
        victim = super().victim()
        return self.departed if victim is None else victim


class NamesTheHeldOneForever(Lru):
    def victim(self) -> int | None:
        return next(iter(self._order), None)


class Rolls(Lru):
    """Not deterministic: chance that did not come in as an argument."""

    def victim(self) -> int | None:
        return random.SystemRandom().choice(list(self._order)) if self._order else None


class TakesStrangers(Lru):
    def touched(self, key: int) -> None:
        if key in self._order:
            super().touched(key)


class ChargesNothing(Lru):
    def charged_bytes(self) -> int:
        return 0


class RemembersEverything(Lru):
    def __init__(self) -> None:
        super().__init__()
        self.departed: list[int] = []

    def removed(self, key: int) -> None:
        super().removed(key)
        self.departed.append(key)

    def charged_bytes(self) -> int:
        return super().charged_bytes() + 400 * len(self.departed)


class NeverShrinks(Lru):
    """Deletes from its table, which then keeps its room."""

    def removed(self, key: int) -> None:
        del self._order[key]


@pytest.mark.parametrize(
    ("broken", "promise", "complaint"),
    [
        (NamesADepartedKey, "it_agrees_with_a_dict_and_with_its_twin", "and there is no member"),
        (NamesADepartedKey, "an_empty_policy_names_nobody", "there is no member left"),
        (NamesTheHeldOneForever, "asked_often_enough_it_names_every_member", "never named"),
        (NamesTheHeldOneForever, "asked_twice_it_names_two", "was held, and named again"),
        (Rolls, "the_same_calls_lead_to_the_same_victims", "led to other victims"),
        (TakesStrangers, "it_agrees_with_a_dict_and_with_its_twin", "touched.* was not refused"),
        (ChargesNothing, "what_it_occupies_is_charged", "charges 0"),
        (ChargesNothing, "the_charge_follows_the_members", "members cost nothing"),
        (RemembersEverything, "the_charge_follows_the_members", "is not bounded"),
        (NeverShrinks, "a_mass_deletion_gives_room_back", "and still"),
    ],
)
def test_the_suite_notices_a_broken_policy(
    broken: Callable[[], Policy], promise: str, complaint: str
) -> None:
    class Suite(PolicyConformance):
        def make(self) -> Policy:
            return broken()

    with pytest.raises(AssertionError, match=complaint):
        getattr(Suite(), "test_" + promise)()


def test_the_whole_suite_fails_where_one_promise_does() -> None:
    with pytest.raises(AssertionError):
        check_policy(NamesTheHeldOneForever)


def test_the_suite_runs_without_pytest() -> None:
    check_policy(Lru)


def test_policies_go_by_their_names() -> None:
    assert {"lru", "clock", "lfu", "sieve", "s3fifo", "arc", "wtinylfu", "gdsf"} <= set(POLICIES)
    for name, make in POLICIES.items():
        assert type(make_policy(name)) is make
        assert make_policy(name) is not make_policy(name)


def test_an_unknown_policy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"lru, clock, .*got 'mru'") as caught:
        make_policy("mru")
    assert caught.value.field == "policy"
