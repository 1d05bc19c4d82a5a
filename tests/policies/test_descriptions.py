"""Policies against their published descriptions: the papers' own pseudocode on plain lists, too
dull to be wrong, and small sequences worked out by hand."""

import random
from collections.abc import Callable, Iterable

import pytest

from memopt.base.protocols import Policy
from memopt.policies import Arc, Gdsf, WTinyLfu
from memopt.policies.sketch import COUNT_MAX, FrequencySketch


def evict(policy: Policy) -> int:
    victim = policy.victim()
    assert victim is not None
    policy.removed(victim)
    return victim


def skewed(seed: int, length: int, keys: int) -> list[int]:
    """Zipf-like accesses with a run over new keys now and then."""
    chance = random.Random(seed)
    trace: list[int] = []
    new = keys
    while len(trace) < length:
        trace += [min(int(chance.paretovariate(0.5)), keys - 1) for _ in range(150)]
        trace += range(new, new + 40)
        new += chance.choice((0, 40))
    return trace[:length]


# -- ARC ------------------------------------------------------------------------------------------


class PaperArc:
    """Figure 4, in objects, with the line moved after the eviction where `late` is set."""

    def __init__(self, capacity: int, *, late: bool) -> None:
        self.capacity, self.late, self.line = capacity, late, 0.0
        self.t1: list[int] = []
        self.t2: list[int] = []
        self.b1: list[int] = []
        self.b2: list[int] = []

    def request(self, key: int) -> tuple[bool, int | None]:
        """(hit, who was evicted)"""
        c, gone = self.capacity, None
        for hits in (self.t1, self.t2):
            if key in hits:
                hits.remove(key)
                self.t2.append(key)
                return True, None
        full = len(self.t1) + len(self.t2) == c
        if self.late and full:
            gone = self.replace(-1)
        if key in self.b1:
            self.line = min(self.line + max(1, len(self.b2) / len(self.b1)), c)
            gone = gone if self.late else self.replace(-1)
            self.b1.remove(key)
            self.t2.append(key)
        elif key in self.b2:
            self.line = max(self.line - max(1, len(self.b1) / len(self.b2)), 0)
            gone = gone if self.late else self.replace(key)
            self.b2.remove(key)
            self.t2.append(key)
        else:
            gone = self.admit(key, gone, full=full)
        return False, gone

    def admit(self, key: int, gone: int | None, *, full: bool) -> int | None:
        c = self.capacity
        if self.late:
            self.t1.append(key)
            while len(self.t1) + len(self.b1) > c:
                self.b1.pop(0)
            while sum(map(len, (self.t1, self.t2, self.b1, self.b2))) > 2 * c:
                self.b2.pop(0)
            return gone
        if len(self.t1) + len(self.b1) == c:
            if len(self.t1) < c:
                self.b1.pop(0)
                gone = self.replace(-1)
            else:
                gone = self.t1.pop(0)
        elif sum(map(len, (self.t1, self.t2, self.b1, self.b2))) >= c:
            if sum(map(len, (self.t1, self.t2, self.b1, self.b2))) == 2 * c:
                self.b2.pop(0)
            gone = self.replace(-1) if full else None
        self.t1.append(key)
        return gone

    def replace(self, key: int) -> int:
        tie = key in self.b2 and len(self.t1) == self.line
        if self.t1 and (len(self.t1) > self.line or tie or not self.t2):
            self.b1.append(self.t1.pop(0))
            return self.b1[-1]
        self.b2.append(self.t2.pop(0))
        return self.b2[-1]


def in_pairs(seed: int, length: int, keys: int) -> list[int]:
    """Each key twice in a row, mostly: most ghosts are then of what was used often."""
    chance = random.Random(seed)
    trace: list[int] = []
    while len(trace) < length:
        trace += [chance.randrange(keys)] * chance.choice((1, 2, 2, 2))
    return trace


@pytest.mark.parametrize("size_bytes", [1, 4096])
@pytest.mark.parametrize("draw", [skewed, in_pairs])
def test_arc_is_the_paper_s_with_the_line_moved_after_the_eviction(
    size_bytes: int, draw: Callable[[int, int, int], list[int]]
) -> None:
    """A page of n bytes counts as n times the line's step, so sizes of one kind change nothing."""
    policy, model, members = Arc(), PaperArc(40, late=True), set[int]()
    keys = 300 if draw is skewed else 70
    for key in draw(2, 8_000, keys):
        hit, gone = model.request(key)
        assert hit == (key in members)
        if hit:
            policy.touched(key)
            continue
        if gone is not None:
            assert evict(policy) == gone
            members.remove(gone)
        policy.admitted(key, size_bytes)
        members.add(key)
    policy.check()
    assert len(model.b1) + len(model.b2) > 20
    assert policy._target_bytes / size_bytes == pytest.approx(model.line)


def test_moving_arc_s_line_after_the_eviction_costs_next_to_nothing() -> None:
    trace = skewed(3, 20_000, 500)
    hits = []
    for late in (False, True):
        model = PaperArc(60, late=late)
        hits.append(sum(model.request(key)[0] for key in trace))
    assert hits[1] == pytest.approx(hits[0], rel=0.01)


def test_arc_learns_its_line_from_ghosts_of_either_list() -> None:
    policy = Arc()
    for key in range(4):
        policy.admitted(key, 1)
    policy.touched(0)
    policy.touched(1)
    assert evict(policy) == 2
    policy.admitted(2, 1)
    # The ghost of what was used once came back: that list should have had one more.
    assert policy._target_bytes == 1
    assert [evict(policy), evict(policy)] == [0, 1]
    policy.admitted(0, 1)
    assert policy._target_bytes == 0


def test_arc_counts_bytes_and_not_pages() -> None:
    """One large page that was used once is above the line; a small one is not."""
    for size_bytes, gone in ((50, 9), (2, 0)):
        policy = Arc()
        for key in range(6):
            policy.admitted(key, 10)
            policy.touched(key)
        policy.admitted(8, 10)
        policy.touched(8)
        policy._target_bytes = 20
        policy.admitted(9, size_bytes)
        assert evict(policy) == gone


def test_a_run_over_new_pages_leaves_what_arc_saw_twice() -> None:
    policy, members = Arc(), set[int]()
    for key in (*range(10), *range(10), *range(100, 400)):
        if key in members:
            policy.touched(key)
            continue
        if len(members) == 20:
            members.remove(evict(policy))
        policy.admitted(key, 4096)
        members.add(key)
    assert members >= set(range(10))


# -- GDSF -----------------------------------------------------------------------------------------


def test_gdsf_evicts_the_lowest_worth_per_byte_and_ages() -> None:
    """Against a search over all members, with sizes and costs of their own."""
    chance = random.Random(8)
    policy, age = Gdsf(), 0.0
    facts = {key: (chance.randrange(1, 9_000), chance.uniform(0.1, 30)) for key in range(300)}
    uses: dict[int, int] = {}
    worth: dict[int, float] = {}
    for key in skewed(4, 6_000, 300):
        size_bytes, cost = facts.setdefault(key, (4096, 1.0))
        if key in worth:
            policy.touched(key)
        else:
            if len(worth) == 30:
                victim = min(worth, key=worth.__getitem__)
                age = max(age, worth.pop(victim))
                assert evict(policy) == victim
            policy.admitted(key, size_bytes, cost)
            uses[key] = 0
        uses[key] += 1
        worth[key] = age + uses[key] * cost / size_bytes


@pytest.mark.parametrize(
    ("large", "small", "gone"),
    [
        ((8_000, 1.0, 1), (1_000, 1.0, 1), "large"),  # of equal use, the larger
        ((8_000, 10.0, 1), (1_000, 1.0, 1), "small"),  # but not where it costs so much more
        ((8_000, 1.0, 9), (1_000, 1.0, 1), "small"),  # nor where it is used so much more
    ],
)
def test_gdsf_weighs_uses_and_cost_against_bytes(
    large: tuple[int, float, int], small: tuple[int, float, int], gone: str
) -> None:
    policy = Gdsf()
    for key, (size_bytes, cost, uses) in ((1, large), (2, small)):
        policy.admitted(key, size_bytes, cost)
        for _ in range(uses - 1):
            policy.touched(key)
    assert policy.victim() == (1 if gone == "large" else 2)


# -- W-TinyLFU ------------------------------------------------------------------------------------


def filled(uses: Callable[[int], int], keys: Iterable[int]) -> WTinyLfu:
    policy = WTinyLfu()
    for key in keys:
        policy.admitted(key, 4096)
    for key in keys:
        for _ in range(uses(key)):
            policy.touched(key)
    return policy


def test_who_leaves_the_window_must_be_wanted_more_than_who_is_there() -> None:
    policy = filled(lambda key: 0, range(200))
    # 200 pages: two in the window, 0 first in the main queue and 197 the last that came there.
    assert evict(policy) == 197
    for _ in range(3):
        policy.touched(199)
    policy.admitted(200, 4096)
    policy.admitted(201, 4096)
    # Now 199 left the window, and was asked for more often than 0.
    assert evict(policy) == 0


def test_a_page_that_comes_back_in_the_main_queue_is_protected() -> None:
    policy = filled(lambda key: 2 if key < 20 else 0, range(200))
    assert {evict(policy) for _ in range(150)}.isdisjoint(range(20))


def test_the_protected_share_is_four_fifths_of_the_bytes_outside_the_window() -> None:
    policy = filled(lambda key: 1, range(200))
    assert len(policy._protected) == 158
    assert len(policy._probation) == 40
    assert len(policy._window) == 2
    heavy = WTinyLfu()
    heavy.admitted(0, 1_000_000)
    for key in range(1, 200):
        heavy.admitted(key, 4096)
    for key in range(200):
        heavy.touched(key)
    # One page has more than half of the bytes: the window holds more of the small ones.
    assert len(heavy._window) == 4


def test_a_run_over_new_pages_leaves_what_tinylfu_counted() -> None:
    policy = filled(lambda key: 4 if key < 50 else 0, range(100))
    members = set(range(100))
    for key in range(1_000, 1_600):
        members.remove(evict(policy))
        policy.admitted(key, 4096)
        members.add(key)
    assert members >= set(range(50))


def test_an_estimate_is_never_below_the_count_and_mostly_equal() -> None:
    sketch = FrequencySketch()
    sketch.fit(1_000)
    chance, counts = random.Random(1), dict[int, int]()
    for _ in range(3_000):
        key = min(int(chance.paretovariate(0.7)), 1_000)
        sketch.add(key)
        counts[key] = min(COUNT_MAX, counts.get(key, 0) + 1)
    estimates = {key: sketch.estimate(key) for key in counts}
    assert all(estimates[key] >= count for key, count in counts.items())
    assert sum(estimates[key] > count for key, count in counts.items()) <= len(counts) / 10


def test_counts_are_halved_after_ten_a_member() -> None:
    sketch = FrequencySketch()
    sketch.fit(64)
    for _ in range(8):
        sketch.add(-1)
    for key in range(10 * 64 - 8):
        assert sketch.estimate(-1) >= 8
        sketch.add(key)
    assert sketch.estimate(-1) in (4, 5, 6, 7)


def test_a_sketch_keeps_what_it_counted_when_it_grows_and_never_less_when_it_shrinks() -> None:
    sketch = FrequencySketch()
    sketch.fit(64)
    for key in range(40):
        for _ in range(key % 5):
            sketch.add(key)
    before = [sketch.estimate(key) for key in range(40)]
    sketch.fit(1_000)
    assert sketch.charged_bytes() >= 8 * 1_000
    assert [sketch.estimate(key) for key in range(40)] == before
    sketch.fit(64)
    assert sketch.charged_bytes() <= 4 * (512 + 128)
    assert all(sketch.estimate(key) >= key % 5 for key in range(40))
