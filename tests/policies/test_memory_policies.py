"""Forgetting, importance, the weighted mix, and admission, by sequences worked out by hand."""

import math
import random

import pytest

from memopt.base.errors import UsageError
from memopt.base.protocols import Policy
from memopt.policies import (
    ADMISSIONS,
    POLICIES,
    Admitting,
    Forgetting,
    FrequencyAdmission,
    Importance,
    Lru,
    SizeAdmission,
    Weighted,
    Weights,
    make_policy,
)
from memopt.policies.forgetting import STRENGTH_MAX


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drain(policy: Policy) -> list[int]:
    order = []
    while (victim := policy.victim()) is not None:
        policy.removed(victim)
        order.append(victim)
    return order


# -- forgetting -----------------------------------------------------------------------------------


def test_forgetting_evicts_the_lowest_retention() -> None:
    """Against exp(-age / strength) of all members, which a float tells apart here."""
    time, chance = Time(), random.Random(5)
    policy = Forgetting(time)
    last: dict[int, float] = {}
    strength: dict[int, int] = {}
    for _ in range(4_000):
        time.now += chance.random()
        key = min(int(chance.paretovariate(0.6)), 100)
        if key in last:
            policy.touched(key)
            strength[key] = min(strength[key] + 1, STRENGTH_MAX)
        else:
            if len(last) == 25:
                victim = policy.victim()
                assert victim is not None
                kept = {each: -(time.now - last[each]) / strength[each] for each in last}
                assert math.exp(kept[victim]) <= min(map(math.exp, kept.values())) * (1 + 1e-9)
                assert victim == min(kept, key=kept.__getitem__)
                policy.removed(victim)
                del last[victim]
            policy.admitted(key, 4096)
            strength[key] = 1
        last[key] = time.now
    policy.check()


def test_what_was_used_more_often_fades_slower_and_fades() -> None:
    time = Time()
    policy = Forgetting(time)
    policy.admitted(1, 4096)
    for _ in range(3):
        policy.touched(1)
    time.now = 10.0
    policy.admitted(2, 4096)
    # Strengths of 4 and 1. At 13, ages of 13 and 3: 13 / 4 against 3 / 1.
    time.now = 13.0
    assert policy.victim() == 1
    policy.touched(1)
    # Used at 13, strength 5. At 20: 7 / 5 against 10 / 1.
    time.now = 20.0
    assert policy.victim() == 2


def test_a_clock_that_counts_calls_leads_to_the_same_choice() -> None:
    policy = Forgetting()
    for key in range(5):
        policy.admitted(key, 4096)
    policy.touched(0)
    assert drain(policy) == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("make", [Forgetting, Importance, Weighted])
def test_what_is_important_outlasts_its_equals_and_a_pin_outlasts_all(
    make: type[Forgetting] | type[Importance] | type[Weighted],
) -> None:
    policy = make()
    policy.admitted(1, 4096, 1.0, 1.0)
    policy.admitted(2, 4096, 1.0, 0.6)
    for key in (3, 4, 5):
        policy.admitted(key, 4096)
    for _ in range(2):
        policy.touched(5)
    policy.lock(3, 1e9)
    order = drain(policy)
    assert order[-2:] == [1, 3], "the pin, then what is locked"
    assert order[0] == 4


# -- importance and the mix -----------------------------------------------------------------------


def test_importance_comes_first_and_then_recency() -> None:
    policy = Importance()
    for key, importance in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.1), (5, 0.11)):
        policy.admitted(key, 4096, 1.0, importance)
    policy.touched(2)
    # 0.1 and 0.11 are of one sixteenth.
    assert drain(policy) == [4, 5, 2, 3, 1]


def test_the_mix_evicts_the_lowest_score() -> None:
    """Against the sum as it is written down, over all members."""
    chance = random.Random(6)
    weights = Weights(recency=0.7, frequency=1.3, relevance=2.0)
    policy = Weighted(weights=weights)
    turn = 0.0
    facts: dict[int, tuple[float, int, float]] = {}
    for _ in range(4_000):
        key = min(int(chance.paretovariate(0.6)), 100)
        if key in facts:
            policy.touched(key)
            facts[key] = (turn, facts[key][1] + 1, facts[key][2])
        else:
            if len(facts) == 25:
                score = {
                    each: weights.recency * -(turn - used)
                    + weights.frequency * math.log2(min(uses, 256))
                    + weights.relevance * importance
                    for each, (used, uses, importance) in facts.items()
                }
                victim = policy.victim()
                assert victim is not None
                assert score[victim] == pytest.approx(min(score.values()), abs=1e-6)
                policy.removed(victim)
                del facts[victim]
            importance = chance.random()
            policy.admitted(key, 4096, 1.0, importance)
            facts[key] = (turn, 1, importance)
        turn += 1 / len(facts)
    policy.check()


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        (Weights(1.0, 0.0, 0.0), [2, 3, 1]),
        (Weights(0.0, 1.0, 0.0), [1, 3, 2]),
        (Weights(0.0, 0.0, 1.0), [2, 1, 3]),
    ],
)
def test_each_weight_alone_is_its_own_order(weights: Weights, order: list[int]) -> None:
    policy = Weighted(weights=weights)
    for key, importance in ((1, 0.5), (2, 0.1), (3, 0.9)):
        policy.admitted(key, 4096, 1.0, importance)
    for key in (2, 2, 2, 2, 3, 3, 1):
        policy.touched(key)
    assert drain(policy) == order


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_below_nothing_are_refused(weight: float) -> None:
    with pytest.raises(UsageError) as caught:
        Weighted(weights=Weights(recency=weight))
    assert caught.value.field == "weights"


def test_a_lock_keeps_what_was_known() -> None:
    """Uses before the lock and during it count after it."""
    time = Time()
    policy = Forgetting(time)
    for key in (1, 2):
        policy.admitted(key, 4096)
        policy.touched(key)
    policy.lock(1, 5.0)
    policy.touched(1)
    policy.touched(2)
    policy.unlock(1)
    assert policy._level_of[1] == policy._level_of[2]


# -- admission ------------------------------------------------------------------------------------


def test_by_frequency_a_newcomer_has_to_be_wanted_more_than_who_would_go() -> None:
    policy = Admitting(Lru(), FrequencyAdmission())
    for key in (1, 2, 3):
        policy.admitted(key, 4096)
        policy.touched(key)
    policy.admitted(4, 4096)
    assert policy.victim() == 4, "asked for once, and 1 twice"
    policy.removed(4)
    for _ in range(2):
        policy.admitted(4, 4096)
        victim = policy.victim()
        assert victim is not None
        policy.removed(victim)
    assert victim == 1, "asked for three times"


def test_a_newcomer_that_is_used_while_on_trial_wins() -> None:
    policy = Admitting(Lru(), FrequencyAdmission())
    for key in (1, 2, 3):
        policy.admitted(key, 4096)
    for _ in range(3):
        policy.touched(3)
    assert drain(policy) == [1, 2, 3]


def test_who_won_against_a_newcomer_is_asked_again_first() -> None:
    policy = Admitting(Lru(), FrequencyAdmission())
    for key in (1, 2):
        policy.admitted(key, 4096)
    for key in (10, 11, 12):
        policy.admitted(key, 4096)
        policy.touched(1)
        assert policy.victim() in (key, 2)
        policy.removed(key) if policy._newcomer is not None else policy.removed(2)
    assert drain(policy)[-1] != 2


def test_by_size_a_page_of_more_than_a_sixteenth_does_not_stay() -> None:
    for size_bytes, gone in ((4_096, 0), (4_096 * 100, 1_000)):
        policy = Admitting(Lru(), SizeAdmission())
        for key in range(128):
            policy.admitted(key, 4_096)
        policy.admitted(1_000, size_bytes)
        assert policy.victim() == gone


def test_by_size_goes_by_what_is_resident_now() -> None:
    # Fewer than the 64 members at which tables are looked at, and then larger ones in their place.
    for members, sizes in ((40, (4_096,)), (100, (64, 40_960))):
        policy = Admitting(Lru(), SizeAdmission())
        for size_bytes in sizes:
            for key in range(members):
                if size_bytes != sizes[0]:
                    policy.removed(key)
                policy.admitted(key, size_bytes)
        policy.admitted(1_000, 4_096)
        assert policy.victim() != 1_000


def test_admission_goes_by_its_name_before_any_policy() -> None:
    for name in POLICIES:
        for admission in ADMISSIONS:
            assert isinstance(make_policy(name, admission=admission), Admitting)
    assert isinstance(make_policy("lru"), Lru)
    with pytest.raises(UsageError, match=r"frequency, size, got 'all'") as caught:
        make_policy("lru", admission="all")
    assert caught.value.field == "admission_policy"


def test_a_run_over_new_pages_does_not_pass_admission_by_frequency() -> None:
    policy, members = make_policy("lru", admission="frequency"), set(range(100))
    for key in range(100):
        policy.admitted(key, 4096)
        policy.touched(key)
        policy.touched(key)
    for key in range(1_000, 1_500):
        policy.admitted(key, 4096)
        victim = policy.victim()
        assert victim is not None
        policy.removed(victim)
        members.discard(victim)
    # Some of the estimates are too high, as ten times as many are counted as there is room for.
    assert len(members) > 60
    assert set(range(100)).isdisjoint(drain(make_lru_after_the_same_run()))


def make_lru_after_the_same_run() -> Policy:
    policy = Lru()
    for key in range(100):
        policy.admitted(key, 4096)
    for key in range(1_000, 1_500):
        policy.admitted(key, 4096)
        victim = policy.victim()
        assert victim is not None
        policy.removed(victim)
    return policy


def test_time_is_the_clock_s_where_a_policy_has_one() -> None:
    time = Time()
    for name in ("forgetting", "importance", "weighted"):
        policy = make_policy(name, now=time)
        assert isinstance(policy, Forgetting | Importance | Weighted)
        assert policy.moment() == 0.0
        time.now = 7.0
        assert policy.moment() == 7.0
        time.now = 0.0
