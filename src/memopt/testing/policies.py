"""The contract of a policy, as tests anybody can run on a policy of their own.

With pytest, subclass `PolicyConformance`; without it, call `check_policy`:

    class TestMine(PolicyConformance):
        def make(self) -> Policy:
            return Mine()

    check_policy(Mine)

Not here: whether a policy chooses well. That is a question for a trace (`memopt.bench`).
"""

import gc
import random
import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memopt.base.protocols import Policy

CALLS_PER_MEMBER_MAX: Final = 8
"""Asked this many times for each member there is, without a removal, a policy names them all."""
OVERCHARGE_MAX: Final = 2.5
"""What a policy charges may be this many times what it occupies, and never less."""

_QUICK: Final = settings(
    max_examples=60, stateful_step_count=60, deadline=None, report_multiple_bugs=False
)
_BYTES_OF_AN_EMPTY_POLICY_MAX: Final = 16 * 1024

_KEYS: Final = st.integers(min_value=0, max_value=40)
_SIZES: Final = st.sampled_from([1, 100, 1500, 4096, 16_384, 1_000_000])
_COSTS: Final = st.sampled_from([1.0, 0.004, 25.0])
_IMPORTANCES: Final = st.sampled_from([0.0, 0.3, 1.0])
_OPERATIONS: Final = st.lists(
    st.tuples(st.sampled_from(["admit", "admit", "touch", "evict", "delete"]), _KEYS, _SIZES),
    max_size=120,
)


class PolicyConformance(ABC):
    """The suite. Every method named `test_…` is one promise of `memopt.base.protocols.Policy`."""

    @abstractmethod
    def make(self) -> Policy:
        """A fresh, empty policy."""

    def test_an_empty_policy_names_nobody(self) -> None:
        policy = self.make()
        assert policy.victim() is None, "a victim, and there is no member"
        policy.admitted(7, 4096)
        policy.removed(7)
        assert policy.victim() is None, "a victim, and there is no member left"

    def test_the_same_calls_lead_to_the_same_victims(self) -> None:
        """Chance comes in as an argument, so that a run can be replayed."""
        runs: list[list[int]] = []
        for _ in range(2):
            policy, chance, members = self.make(), random.Random(5), set[int]()
            runs.append([])
            for key in range(400):
                policy.admitted(key, 4096)
                members.add(key)
                policy.touched(chance.choice(sorted(members)))
                if len(members) > 20:
                    runs[-1].append(_evict(policy))
                    members.discard(runs[-1][-1])
        assert runs[0] == runs[1], "the same calls led to other victims"

    def test_asked_twice_it_names_two(self) -> None:
        policy = self.make()
        for key in range(10):
            policy.admitted(key, 4096)
        for _ in range(20):
            first, second = policy.victim(), policy.victim()
            assert first != second, f"{first} was held, and named again"

    def test_a_key_that_returns_is_a_member_like_any_other(self) -> None:
        policy = self.make()
        for _ in range(50):
            policy.admitted(7, 4096)
            policy.touched(7)
            assert _evict(policy) == 7, "the only member was not named"
            assert policy.victim() is None, "a victim, and there is no member left"

    def test_what_it_occupies_is_charged(self) -> None:
        """At every size, and with whatever it remembers of pages that left."""
        # Thousands of freed tuples and floats wait to be used again. Those of before would be
        # measured as nothing, and those of now as occupied: a whole collection lets them go.
        gc.collect()
        # What was there before is not looked at again by each of the collections below.
        gc.freeze()
        tracemalloc.start()
        try:
            start_bytes = tracemalloc.get_traced_memory()[0]
            policy = self.make()
            # Above the small integers that the interpreter keeps anyway.
            first = 1 << 40
            for count in range(1, 12_001):
                policy.admitted(first + count, 4096 + count, 1.0 + count, count % 8 / 7)
                for _ in range(count % 3):
                    policy.touched(first + count)
                if count > 6_000:
                    _evict(policy)
                if count % 1_000 == 0:
                    gc.collect()
                    measured_bytes = tracemalloc.get_traced_memory()[0] - start_bytes
                    charged_bytes = policy.charged_bytes()
                    assert measured_bytes <= charged_bytes, (
                        f"{count}: occupies {measured_bytes}, charges {charged_bytes}"
                    )
                    assert charged_bytes <= measured_bytes * OVERCHARGE_MAX, (
                        f"{count}: charges {charged_bytes}, occupies {measured_bytes}"
                    )
        finally:
            tracemalloc.stop()
            gc.unfreeze()

    def test_the_charge_follows_the_members(self) -> None:
        """It rises while they come, stays bounded while they change, and falls when they go."""
        policy = self.make()
        empty_bytes = policy.charged_bytes()
        assert 0 <= empty_bytes <= _BYTES_OF_AN_EMPTY_POLICY_MAX, (
            f"an empty policy charges {empty_bytes}"
        )
        charges = []
        for key in range(4_000):
            policy.admitted(key, 4096)
            charges.append(policy.charged_bytes())
        assert charges == sorted(charges), "the charge fell while members came"
        assert charges[-1] > charges[0], "members cost nothing"
        for key in range(4_000, 24_000):
            _evict(policy)
            policy.admitted(key, 4096)
        full_bytes = policy.charged_bytes()
        assert full_bytes <= 8 * charges[-1], "what it remembers of departed pages is not bounded"
        for _ in range(4_000):
            _evict(policy)
        drained_bytes = policy.charged_bytes()
        assert drained_bytes <= empty_bytes + full_bytes / 10, (
            f"{full_bytes} bytes when full, and still {drained_bytes} when empty"
        )

    def test_a_mass_deletion_gives_room_back(self) -> None:
        policy = self.make()
        for key in range(8_000):
            policy.admitted(key, 4096)
        # Most of them go through whatever a policy does with members it spares.
        for key in range(7_900):
            policy.touched(key)
        policy.victim()
        full_bytes = policy.charged_bytes()
        for key in range(7_800):
            policy.removed(key)
        left_bytes = policy.charged_bytes()
        assert left_bytes <= full_bytes / 4, (
            f"{full_bytes} bytes for 8,000 members, and still {left_bytes} for 200"
        )
        left = {_evict(policy) for _ in range(200)}
        assert left == set(range(7_800, 8_000)), "other members are left than were not deleted"

    def test_it_agrees_with_a_dict_and_with_its_twin(self) -> None:
        """Any mix of calls: victims are members, misuse is refused and changes nothing, two
        policies that saw the same calls answer alike, and in the end all members can go."""
        run_state_machine_as_test(lambda: PolicyMachine(self.make), settings=_QUICK)  # type: ignore[no-untyped-call]

    def test_asked_often_enough_it_names_every_member(self) -> None:
        """A pager that holds what was named gets to the others, whatever happened before."""

        @_QUICK
        @given(_OPERATIONS)
        def names_all(operations: list[tuple[str, int, int]]) -> None:
            policy, members = self.make(), dict[int, int]()
            for name, key, size_bytes in operations:
                _apply(policy, members, name, key, size_bytes)
            named = {policy.victim() for _ in range(CALLS_PER_MEMBER_MAX * len(members))}
            assert named == set(members), f"never named: {set(members) - named}"

        names_all()


def check_policy(make: Callable[[], Policy]) -> None:
    """Run the whole suite on `make()`. Raises AssertionError at the first broken promise."""

    class Suite(PolicyConformance):
        def make(self) -> Policy:
            return make()

    suite = Suite()
    for name in vars(PolicyConformance):
        if name.startswith("test_"):
            getattr(suite, name)()


class PolicyMachine(RuleBasedStateMachine):
    """Random calls on a policy, on a twin that sees only the lawful ones, and on a dict."""

    def __init__(self, make: Callable[[], Policy]) -> None:
        super().__init__()
        self._make = make

    @initialize()
    def start(self) -> None:
        self.policy, self.twin = self._make(), self._make()
        self.members: dict[int, int] = {}

    @rule(key=_KEYS, size_bytes=_SIZES, cost=_COSTS, importance=_IMPORTANCES)
    def admit(self, key: int, size_bytes: int, cost: float, importance: float) -> None:
        if key in self.members:
            _refuses(self.policy.admitted, key, size_bytes, cost, importance)
            return
        self.policy.admitted(key, size_bytes, cost, importance)
        self.twin.admitted(key, size_bytes, cost=cost, importance=importance)
        self.members[key] = size_bytes

    @rule(key=_KEYS, times=st.integers(min_value=1, max_value=5))
    def touch(self, key: int, times: int) -> None:
        if key not in self.members:
            _refuses(self.policy.touched, key)
            return
        for _ in range(times):
            self.policy.touched(key)
            self.twin.touched(key)

    @rule(key=_KEYS)
    def delete(self, key: int) -> None:
        if key not in self.members:
            _refuses(self.policy.removed, key)
            return
        self._remove(key)

    @rule()
    def ask(self) -> None:
        self._victim()

    @rule()
    def evict(self) -> None:
        victim = self._victim()
        if victim is not None:
            self._remove(victim)

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def touch_a_victim_then_evict_it(self, data: st.DataObject) -> None:
        victim = self._victim()
        assert victim is not None
        for key in (victim, data.draw(st.sampled_from(sorted(self.members)))):
            self.policy.touched(key)
            self.twin.touched(key)
        self._remove(victim)

    @invariant()
    def charges_are_alike(self) -> None:
        charges = self.policy.charged_bytes(), self.twin.charged_bytes()
        assert charges[0] == charges[1] >= 0, f"the same calls led to charges of {charges}"

    @invariant()
    def its_own_check_passes(self) -> None:
        """Where a policy has one: it is no part of the protocol."""
        check = getattr(self.policy, "check", None)
        if check is not None:
            check()

    def teardown(self) -> None:
        for _ in range(len(getattr(self, "members", ()))):
            victim = self._victim()
            assert victim is not None
            self._remove(victim)
        if hasattr(self, "policy"):
            assert self.policy.victim() is None, "a victim, and there is no member left"

    def _victim(self) -> int | None:
        victim = self.policy.victim()
        assert victim == self.twin.victim(), "the same calls led to another victim"
        if self.members:
            assert victim in self.members, f"{victim} is named, and no member"
        else:
            assert victim is None, f"{victim} is named, and there is no member"
        return victim

    def _remove(self, key: int) -> None:
        self.policy.removed(key)
        self.twin.removed(key)
        del self.members[key]


def _refuses(call: Callable[..., Any], *arguments: float) -> None:
    """A call that breaks the contract is an assert, where asserts are on, and changes nothing."""
    if not __debug__:
        return
    try:
        call(*arguments)
    except AssertionError:
        return
    raise AssertionError(f"{call.__name__}{arguments} was not refused")


def _evict(policy: Policy) -> int:
    victim = policy.victim()
    assert victim is not None, "nobody is named, and there are members"
    policy.removed(victim)
    return victim


def _apply(policy: Policy, members: dict[int, int], name: str, key: int, size_bytes: int) -> None:
    """One random call, where it is lawful."""
    if name == "admit" and key not in members:
        policy.admitted(key, size_bytes)
        members[key] = size_bytes
    elif name == "touch" and key in members:
        policy.touched(key)
    elif name == "delete" and key in members:
        policy.removed(key)
        del members[key]
    elif name == "evict" and members:
        del members[_evict(policy)]
