"""Adaptive: what it follows, how it hands over, and what it never loses."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

import pytest

from memopt.base.protocols import Policy
from memopt.policies import Adaptive, Lru, S3Fifo, WTinyLfu, make_policy
from memopt.policies.adaptive import CANDIDATES
from memopt.policies.facts import MARK, packed, size_of, unpacked
from memopt.policies.ghosts import HASHES, Ghosts, sample_hash, sample_limit


def hits_by_phase(policy: Policy, phases: Sequence[Iterable[int]], room: int) -> list[float]:
    """Hit ratio of each phase, through one cache of `room` pages."""
    members: set[int] = set()
    ratios = []
    for keys in phases:
        hits = count = 0
        for key in keys:
            count += 1
            if key in members:
                hits += 1
                policy.touched(key)
                continue
            if len(members) == room:
                victim = policy.victim()
                assert victim is not None
                policy.removed(victim)
                members.remove(victim)
            policy.admitted(key, 4096)
            members.add(key)
        ratios.append(hits / count)
    return ratios


def popular(seed: int, length: int, pages: int = 4_000) -> list[int]:
    weights = list(accumulate(1 / rank for rank in range(1, pages + 1)))
    return random.Random(seed).choices(range(pages), cum_weights=weights, k=length)


def scanned(seed: int, length: int) -> list[int]:
    """Popular pages among runs that are read once: nothing for LRU."""
    keys: list[int] = []
    new = 1_000_000
    for step in range(length // 1_000):
        keys += popular(seed + step, 500)
        keys += range(new, new + 500)
        new += 500
    return keys


def recent(seed: int, length: int) -> list[int]:
    """What came lately comes again, and never later: nothing for counting."""
    chance, keys = random.Random(seed), list[int]()
    new = 10_000_000
    for _ in range(length):
        if chance.random() < 0.5:
            keys.append(new)
            new += 1
        else:
            keys.append(new - 1 - int(chance.random() * 180))
    return keys


def test_it_starts_as_arc_and_its_ghosts_fill_as_the_cache_does() -> None:
    policy = Adaptive()
    for key in range(300):
        policy.admitted(key, 4096)
        policy.touched(key)
    assert policy.in_charge == "arc"
    assert policy._ghosts is not None
    sampled = {key for key in range(300) if sample_hash(key) < policy._limit}
    for cache in policy._ghosts._caches:
        assert cache.members.keys() == sampled


@pytest.mark.parametrize("candidates", [CANDIDATES, {"lru": Lru, **CANDIDATES}])
def test_it_follows_what_resists_runs_of_new_pages(
    candidates: Mapping[str, Callable[[], Policy]],
) -> None:
    keys = scanned(1, 60_000)
    policy = Adaptive(candidates)
    mine, lru = (hits_by_phase(each, [keys], 200)[0] for each in (policy, Lru()))
    fixed = [hits_by_phase(make(), [keys], 200)[0] for make in CANDIDATES.values()]
    assert policy.in_charge != "lru"
    assert max(fixed) > lru + 0.05
    assert mine > max(fixed) - 0.02


@pytest.mark.parametrize(("sizes", "expected"), [([4096], "arc"), ([2048, 16384], "gdsf")])
def test_where_sizes_differ_gdsf_leads_from_the_first_victim_on(
    sizes: list[int], expected: str
) -> None:
    policy = Adaptive()
    for key in range(100):
        policy.admitted(key, sizes[key % len(sizes)])
    assert policy.in_charge == "arc"
    for _ in range(30):
        assert policy.victim() is not None
    assert policy.in_charge == expected


def test_it_follows_counting_where_pages_come_round() -> None:
    """A round of more pages than there is room for: whoever stays put has hits, and ARC none."""
    keys = list(range(1_000)) * 60
    policy = Adaptive()
    mine = hits_by_phase(policy, [keys], 300)[0]
    assert policy.switches >= 1
    assert policy.in_charge != "arc"
    assert mine > hits_by_phase(CANDIDATES["arc"](), [keys], 300)[0] + 0.1


def test_it_recovers_from_a_load_that_changes_and_changes_back() -> None:
    rounds = [key % 1_000 for key in range(40_000)]
    for phases in (
        [scanned(1, 40_000), recent(2, 40_000), scanned(3, 40_000)],
        [rounds, recent(2, 40_000), rounds],
    ):
        policy = Adaptive()
        mine = hits_by_phase(policy, phases, 200)
        fixed = [hits_by_phase(make(), phases, 200) for make in CANDIDATES.values()]
        for phase, ratio in enumerate(mine):
            assert ratio > max(each[phase] for each in fixed) - 0.03, phase
    assert policy.switches >= 2


@pytest.mark.parametrize("room", [40, 200, 1_000])
@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_never_far_below_lru(room: int, seed: int) -> None:
    for keys in (popular(seed, 30_000), scanned(seed, 30_000), recent(seed, 30_000)):
        mine, lru = (hits_by_phase(make(), [keys], room)[0] for make in (Adaptive, Lru))
        assert mine >= lru - 0.005


def test_loads_on_which_all_are_alike_change_nothing() -> None:
    """Chance alone is no evidence, and neither is a trifle."""
    policy = Adaptive()
    chance = random.Random(4)
    hits_by_phase(policy, [[chance.randrange(2_000) for _ in range(60_000)]], 300)
    assert policy.switches == 0


# -- handing over ---------------------------------------------------------------------------------


def switching(members: int) -> Adaptive:
    policy = Adaptive({"lru": Lru, "other": Lru})
    for key in range(members):
        policy.admitted(key, 4096 + key)
    policy._switch(1)
    return policy


def test_the_order_is_handed_over() -> None:
    policy = switching(50)
    for _ in range(20):
        policy.touched(0)
    policy.check()
    assert policy._old is None
    order = []
    while (victim := policy.victim()) is not None:
        policy.removed(victim)
        order.append(victim)
    assert order == [*range(1, 50), 0]


def test_who_was_asked_for_more_than_once_is_known_to_the_new_leader() -> None:
    policy = Adaptive({"lru": Lru, "s3fifo": S3Fifo})
    for key in range(100):
        policy.admitted(key, 4096)
    for _ in range(3):
        for key in range(0, 100, 10):
            policy.touched(key)
    policy._switch(1)
    while policy._old is not None:
        policy.victim()
    gone = []
    for _ in range(90):
        victim = policy.victim()
        assert victim is not None
        policy.removed(victim)
        gone.append(victim)
    assert not any(key % 10 == 0 for key in gone)


def test_what_was_counted_before_a_change_is_known_to_w_tinylfu() -> None:
    policy = Adaptive({"lru": Lru, "wtinylfu": WTinyLfu})
    for _ in range(5):
        policy.admitted(1, 4096)
        policy.removed(1)
    policy.admitted(2, 4096)
    policy._switch(1)
    leader = policy._current
    assert isinstance(leader, WTinyLfu)
    assert leader._sketch.estimate(1) == 5
    policy.touched(2)
    assert leader._sketch.estimate(2) == 2, "once, and not by two who count"


def test_it_is_handed_over_in_bounded_steps() -> None:
    policy = switching(1_000)
    moved = []
    for key in range(1_000, 1_100):
        before = sum(facts & MARK == policy._mark for facts in policy._facts.values())
        policy.admitted(key, 4096)
        moved.append(sum(facts & MARK == policy._mark for facts in policy._facts.values()) - before)
        policy.check()
    assert max(moved) <= 4
    assert min(moved) > 1, "more would come than is handed over"


def test_sizes_costs_and_importances_are_handed_over() -> None:
    told: dict[int, tuple[int, float, float]] = {}

    class Listens(Lru):
        def admitted(
            self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
        ) -> None:
            told[key] = (size_bytes, cost, importance)
            super().admitted(key, size_bytes, cost, importance)

    policy = Adaptive({"lru": Lru, "other": Listens})
    policy.admitted(1, 5_000, 2.0, 1.0)
    policy.admitted(2, 0)
    policy._switch(1)
    assert told == {1: (5_000, 2.0, 1.0), 2: (0, 1.0, 0.0)}


def test_the_room_of_a_policy_that_handed_over_is_given_back() -> None:
    policy = switching(2_000)
    while policy._old is not None:
        policy.touched(0)
    assert policy.charged_bytes() < 1.2 * switching_cost(2_000)


def switching_cost(members: int) -> int:
    policy = Adaptive({"lru": Lru, "other": Lru})
    for key in range(members):
        policy.admitted(key, 4096 + key)
    return policy.charged_bytes()


# -- what is known of a page, in one int ----------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 1 << 40])
@pytest.mark.parametrize("cost", [1.0, 0.004, 25.0, 1e9, 1e-9])
@pytest.mark.parametrize("importance", [0.0, 0.3, 0.999, 1.0])
def test_a_page_s_facts_come_back(size_bytes: int, cost: float, importance: float) -> None:
    for mark in (0, MARK):
        facts = packed(size_bytes, cost, importance) | mark
        assert size_of(facts) == size_bytes
        size, price, weight = unpacked(facts)
        assert size == size_bytes
        assert price == pytest.approx(cost, rel=0.011)
        assert weight == pytest.approx(importance, abs=1 / 127)
        assert (weight == 1) == (importance == 1)


# -- ghosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "sampled"), [(10, 10), (32, 32), (512, 64), (100_000, 781), (10**8, 6_103)]
)
def test_the_sample_is_about_the_root_of_8_times_the_members(members: int, sampled: int) -> None:
    limit = sample_limit(members)
    assert members * limit / HASHES == pytest.approx(sampled, abs=1)


def test_sampling_is_even_over_neighbouring_keys() -> None:
    for step in (1, 8, 64):
        sampled = sum(sample_hash(key * step) < HASHES // 8 for key in range(8_000))
        assert sampled == pytest.approx(1_000, rel=0.1)


def ghosts_of(*makes: Callable[[], Policy]) -> Ghosts:
    ghosts = Ghosts(makes)
    ghosts.limit = HASHES
    ghosts.filling = False
    return ghosts


def test_a_ghost_has_what_its_policy_would_have_kept() -> None:
    keys = popular(5, 4_000, 300)
    ghosts = ghosts_of(Lru, lambda: make_policy("sieve"))
    for key in keys:
        ghosts.access(key, packed(4096, 1.0, 0.0), 64 * 4096)
    ghosts.check()
    for index, name in enumerate(("lru", "sieve")):
        hits = sum(weight for pattern, weight in enumerate(ghosts._weights) if pattern >> index & 1)
        assert hits == round(hits_by_phase(make_policy(name), [keys], 64)[0] * len(keys))


def led(*, lead: int, follow: int, both: int = 500, neither: int = 1_000, pages: int = 40) -> int:
    """Who leads, of the one in charge and another, after so many accesses that only the other, only
    the one in charge, both and neither had."""
    ghosts = ghosts_of(Lru, Lru)
    ghosts._members_max = pages
    for key in range(pages):
        ghosts.access(key, packed(4096, 1.0, 0.0), pages * 4096)
    ghosts._epoch, ghosts._weights = 0, [0.0] * 4
    ghosts._lately._weights = [float(neither), float(follow), float(lead), float(both)]
    ghosts._lately._squares = list(ghosts._lately._weights)
    ghosts._lately.accesses = ghosts._long.accesses = float(neither + follow + lead + both)
    return ghosts.leader(0, deviations=3.0, lead_min=0.01, turns_min=0.2)


def test_the_leader_is_ahead_by_more_than_chance() -> None:
    assert led(lead=400, follow=300) == 1
    assert led(lead=400, follow=340) == 0


def test_the_leader_is_ahead_by_more_than_a_trifle() -> None:
    assert led(lead=400, follow=300, neither=20_000) == 0


def test_the_leader_is_ahead_by_what_a_change_may_cost() -> None:
    assert led(lead=30, follow=0, pages=40) == 1
    assert led(lead=30, follow=0, pages=400) == 0


def test_what_is_a_little_better_all_the_time_is_found_and_what_was_better_once_is_not() -> None:
    ghosts = ghosts_of(Lru, Lru)
    ghosts._members_max = 40
    for key in range(40):
        ghosts.access(key, packed(4096, 1.0, 0.0), 40 * 4096)
    for _ in range(60):
        ghosts._weights, ghosts._squares = [40.0, 5.0, 7.0, 12.0], [40.0, 5.0, 7.0, 12.0]
        leader = ghosts.leader(0, deviations=3.0, lead_min=0.01, turns_min=0.2)
    assert leader == 1
    lately = ghosts._lately
    assert (lately.hits(1) - lately.hits(0)) ** 2 < 9 * lately.variance(0, 1), "not by it alone"
    for _ in range(6):
        ghosts._weights, ghosts._squares = [40.0, 7.0, 5.0, 12.0], [40.0, 7.0, 5.0, 12.0]
        leader = ghosts.leader(0, deviations=3.0, lead_min=0.01, turns_min=0.2)
    assert ghosts._long.hits(1) > ghosts._long.hits(0)
    assert leader == 0


def test_hits_count_what_they_save() -> None:
    ghosts = ghosts_of(Lru, Lru)
    ghosts.access(1, packed(4096, 8.0, 0.0), 64 * 4096)
    ghosts.access(1, packed(4096, 8.0, 0.0), 64 * 4096)
    assert ghosts._weights == [8.0, 0.0, 0.0, 8.0]


def test_what_was_deleted_is_no_ghost_s_and_what_was_evicted_may_be() -> None:
    policy = Adaptive()
    for key in range(30):
        policy.admitted(key, 4096)
    victim = policy.victim()
    assert victim is not None
    policy.touched(5)
    policy.touched(victim)
    assert policy._ghosts is not None
    policy.removed(5)
    policy.removed(victim)
    for cache in policy._ghosts._caches:
        assert victim in cache.members
        assert 5 not in cache.members


def test_small_pages_among_large_ones_do_not_crowd_the_ghosts() -> None:
    policy, members = Adaptive(), set()
    for key in range(20_000):
        policy.admitted(key, 10_000_000 if key % 50 == 0 else 1)
        members.add(key)
        while len(members) > 500:
            victim = policy.victim()
            assert victim is not None
            policy.removed(victim)
            members.discard(victim)
    assert policy.charged_bytes() < 4_000 * len(members)
