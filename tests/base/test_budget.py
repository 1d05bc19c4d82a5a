"""A budget is never exceeded and never forgets who holds what."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, CapacityError

OWNERS = st.sampled_from(["pages", "table", "ghosts", "sqlite"])
SIZES = st.integers(min_value=0, max_value=600)


class BudgetMachine(RuleBasedStateMachine):
    """A budget against a dict of owners."""

    @initialize(limit_bytes=st.integers(min_value=0, max_value=2_000))
    def start(self, limit_bytes: int) -> None:
        self.budget = Budget(limit_bytes)
        self.held: dict[str, int] = {}
        self.used_bytes_max = 0

    def _fits(self, size_bytes: int) -> bool:
        return sum(self.held.values()) + size_bytes <= self.budget.limit_bytes

    def _take(self, owner: str, size_bytes: int) -> None:
        self.held[owner] = self.held.get(owner, 0) + size_bytes
        self.used_bytes_max = max(self.used_bytes_max, sum(self.held.values()))

    @rule(owner=OWNERS, size_bytes=SIZES)
    def try_reserve(self, owner: str, size_bytes: int) -> None:
        fits = self._fits(size_bytes)
        assert self.budget.try_reserve(owner, size_bytes) is fits
        if fits:
            self._take(owner, size_bytes)

    @rule(owner=OWNERS, size_bytes=SIZES)
    def reserve(self, owner: str, size_bytes: int) -> None:
        if self._fits(size_bytes):
            self.budget.reserve(owner, size_bytes)
            self._take(owner, size_bytes)
            return
        with pytest.raises(BudgetError) as caught:
            self.budget.reserve(owner, size_bytes)
        assert caught.value.wanted_bytes == size_bytes
        assert caught.value.limit_bytes == self.budget.limit_bytes

    @rule(owner=OWNERS, size_bytes=SIZES)
    def release(self, owner: str, size_bytes: int) -> None:
        if size_bytes <= self.held.get(owner, 0):
            self.budget.release(owner, size_bytes)
            if owner in self.held:
                self.held[owner] -= size_bytes
            return
        with pytest.raises(AssertionError, match=f"{owner} releases"):
            self.budget.release(owner, size_bytes)

    @rule(owner=OWNERS)
    def release_all(self, owner: str) -> None:
        self.budget.release(owner, self.held.pop(owner, 0))

    @invariant()
    def owners_and_totals_agree(self) -> None:
        self.budget.check()
        owned = {owner: held for owner, held in self.budget.owners().items() if held}
        assert owned == {owner: held for owner, held in self.held.items() if held}
        assert self.budget.used_bytes == sum(self.held.values())
        assert self.budget.used_bytes_max == self.used_bytes_max
        assert self.budget.free_bytes() == self.budget.limit_bytes - self.budget.used_bytes
        assert list(owned.values()) == sorted(owned.values(), reverse=True)


TestBudgetAgainstADict = BudgetMachine.TestCase
TestBudgetAgainstADict.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_a_refusal_says_what_was_wanted_and_what_was_there() -> None:
    budget = Budget(100)
    budget.reserve("table", 70)
    with pytest.raises(CapacityError, match="pages wants 31 bytes, 30 of 100 are free"):
        budget.reserve("pages", 31)
    assert budget.owners() == {"table": 70}
    budget.reserve("pages", 30)
    assert budget.free_bytes() == 0


def test_a_shortage_is_told_once_and_what_it_frees_is_taken() -> None:
    budget = Budget(100)
    budget.reserve("pages", 90)
    told: list[int] = []

    def reclaim(size_bytes: int) -> None:
        told.append(size_bytes)
        budget.release("pages", 50)

    budget.on_shortage(reclaim)
    budget.reserve("table", 10)
    assert told == []
    budget.reserve("table", 40)
    assert told == [40]
    assert budget.owners() == {"table": 50, "pages": 40}
    budget.check()


def test_where_nothing_can_be_freed_the_reservation_is_refused() -> None:
    budget = Budget(100)
    budget.reserve("pages", 90)
    told: list[int] = []
    budget.on_shortage(told.append)
    with pytest.raises(BudgetError):
        budget.reserve("table", 40)
    with pytest.raises(BudgetError):
        # More than there is in all: nothing is worth freeing for it.
        budget.reserve("table", 101)
    assert told == [40]
    assert not budget.try_reserve("table", 40)
    assert told == [40], "try_reserve asked for room"


def test_a_negative_size_is_refused() -> None:
    budget = Budget(100)
    with pytest.raises(AssertionError):
        budget.try_reserve("pages", -1)
    with pytest.raises(AssertionError):
        budget.release("pages", -1)
    budget.check()


def test_one_owner_cannot_release_what_another_holds() -> None:
    budget = Budget(100)
    budget.reserve("table", 70)
    with pytest.raises(AssertionError, match="pages releases 70 of 0 bytes"):
        budget.release("pages", 70)
    assert budget.used_bytes == 70


class MeetingOwners(dict[str, int]):
    """Holds a reader back until another one has read too, or until it is clear that none will."""

    def __init__(self, owners: dict[str, int]) -> None:
        super().__init__(owners)
        self._meeting = threading.Barrier(2)

    def get(self, owner: str, default: int = 0) -> int:  # type: ignore[override]
        held = super().get(owner, default)
        with contextlib.suppress(threading.BrokenBarrierError):
            self._meeting.wait(timeout=0.2)
        return held


@pytest.mark.parametrize(("call", "left"), [("try_reserve", 70), ("release", 30)])
def test_of_two_calls_at_once_neither_is_lost(call: str, left: int) -> None:
    budget = Budget(100)
    budget.reserve("pages", 50)
    budget._owners = MeetingOwners(budget.owners())
    threads = [threading.Thread(target=getattr(budget, call), args=("pages", 10)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert budget.owners() == {"pages": left}
    assert budget.used_bytes == left
    budget.check()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """The interpreter changes threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_eight_threads_never_exceed_the_limit_and_lose_no_byte() -> None:
    budget = Budget(1_000)
    start = threading.Barrier(8)
    broken: list[str] = []
    kept: list[tuple[str, int]] = []

    def hammer(number: int) -> None:
        # Four threads share an owner, so that they meet in its entry.
        owner = "pages" if number % 2 else "table"
        chance = Random(number)
        held: list[int] = []
        start.wait(timeout=30)
        for _ in range(3_000):
            if held and chance.random() < 0.45:
                budget.release(owner, held.pop())
                continue
            size_bytes = chance.randrange(150)
            if budget.try_reserve(owner, size_bytes):
                held.append(size_bytes)
            if budget.used_bytes > budget.limit_bytes:
                broken.append(f"{owner} saw {budget.used_bytes}")
        kept.append((owner, sum(held)))

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert broken == []
    assert len(kept) == 8
    assert budget.owners() == {
        name: sum(held for owner, held in kept if owner == name) for name in ("pages", "table")
    }
    assert budget.used_bytes_max <= budget.limit_bytes
    budget.check()


def test_what_grew_by_itself_is_settled_where_it_fits() -> None:
    budget = Budget(100)
    budget.reserve("other", 40)
    assert budget.try_settle("policies", 60)
    assert budget.used_bytes_max == 100
    assert not budget.try_settle("policies", 61)
    assert budget.held_bytes("policies") == 60
    assert budget.try_settle("policies", 10)
    assert (budget.used_bytes, budget.held_bytes("policies")) == (50, 10)
    budget.check()
