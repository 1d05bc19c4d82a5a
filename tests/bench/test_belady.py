"""The optimum is what trying everything finds, and nothing passes it."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memopt.bench import belady
from memopt.bench.belady import NEVER

SIZES = st.sampled_from([1, 2, 3, 5, 8, 13])


@st.composite
def traces(draw: st.DrawFn, *, of_one_size: bool = False) -> tuple[list[int], list[int]]:
    """Requests, and a size for each key."""
    count = draw(st.integers(1, 6))
    keys = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=14))
    sizes = [1] * count if of_one_size else draw(st.lists(SIZES, min_size=count, max_size=count))
    return keys, sizes


def tried(keys: Sequence[int], sizes: Sequence[int], capacity: int, *, in_bytes: bool) -> int:
    """The most hits, or hit bytes, of any cache at all: every set it could keep, at every step."""

    @cache
    def best(now: int, kept: frozenset[int]) -> int:
        if now == len(keys):
            return 0
        key = keys[now]
        worth = (sizes[key] if in_bytes else 1) if key in kept else 0
        choices = sorted(kept | {key})
        subsets = (_chosen(choices, mask) for mask in range(1 << len(choices)))
        return worth + max(
            best(now + 1, subset)
            for subset in subsets
            if sum(sizes[each] for each in subset) <= capacity
        )

    return best(0, frozenset())


def _chosen(choices: list[int], mask: int) -> frozenset[int]:
    return frozenset(each for place, each in enumerate(choices) if mask >> place & 1)


def arrays(keys: list[int], sizes: list[int]) -> tuple[belady.Keys, belady.Sizes, belady.Positions]:
    requests = np.array(keys, dtype=np.int32)
    return requests, np.array(sizes, dtype=np.int64), belady.next_uses(requests)


@given(traces())
def test_the_next_use_is_the_next_request_of_the_same_key(
    trace: tuple[list[int], list[int]],
) -> None:
    keys, _ = trace
    found = belady.next_uses(np.array(keys, dtype=np.int32)).tolist()
    for now, key in enumerate(keys):
        later = [at for at in range(now + 1, len(keys)) if keys[at] == key]
        assert found[now] == (later[0] if later else NEVER)


@given(traces(of_one_size=True), st.integers(0, 6))
def test_the_optimum_is_what_trying_everything_finds(
    trace: tuple[list[int], list[int]], slots: int
) -> None:
    keys, sizes = trace
    *_, following = arrays(keys, sizes)
    assert belady.optimum(following, slots) == tried(keys, sizes, slots, in_bytes=False)


@given(traces(), st.integers(1, 20))
def test_what_is_reached_is_at_most_what_is_possible_and_that_at_most_the_ceiling(
    trace: tuple[list[int], list[int]], capacity: int
) -> None:
    keys, sizes = trace
    reached = belady.far_sighted(*arrays(keys, sizes), capacity)
    bound = belady.ceiling(*arrays(keys, sizes), capacity)
    assert reached.hits <= tried(keys, sizes, capacity, in_bytes=False) <= bound.hits
    assert reached.hit_bytes <= tried(keys, sizes, capacity, in_bytes=True) <= bound.hit_bytes


@given(traces(of_one_size=True), st.integers(1, 6))
def test_with_keys_of_one_size_a_far_sighted_cache_is_the_optimum(
    trace: tuple[list[int], list[int]], slots: int
) -> None:
    keys, sizes = trace
    requests, of_key, following = arrays(keys, sizes)
    assert belady.far_sighted(requests, of_key, following, slots).hits == belady.optimum(
        following, slots
    )


def test_entries_of_the_past_are_cleared_away_on_a_long_trace() -> None:
    """Long enough for the heaps to be cleared, which must not change a thing."""
    keys = np.random.default_rng(5).integers(0, 400, 30_000).astype(np.int32)
    following = belady.next_uses(keys)
    one = np.ones(400, dtype=np.int64)
    for slots in (1, 3, 50):
        hits = belady.optimum(following, slots)
        assert hits == belady.far_sighted(keys, one, following, slots).hits
        assert 0 < hits < 30_000


def test_a_worked_example() -> None:
    """Of a b c a b c in two slots: a stays, and one of the others."""
    *_, following = arrays([0, 1, 2, 0, 1, 2], [1, 1, 1])
    assert belady.optimum(following, 2) == 2
    assert belady.optimum(following, 3) == 3
    assert belady.optimum(following, 0) == 0


def test_a_key_that_fits_nowhere_pushes_nobody_out() -> None:
    """Of a b b a, where b is larger than the cache, a stays, although it comes last."""
    assert belady.far_sighted(*arrays([0, 1, 1, 0], [5, 6]), 5) == (1, 5)
