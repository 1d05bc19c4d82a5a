"""The simulator against a dull one, against libcachesim, and against the future."""

import random
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.bench import belady, contest, curves, reference
from memopt.bench.contest import ContestOptions, Run, Simulation
from memopt.bench.simulation import capacities_of, fresh_policy, play, policy_names
from memopt.bench.traces import Trace
from memopt.policies.catalog import POLICIES

every_policy = pytest.mark.parametrize("name", policy_names())


def trace_of(keys: Sequence[int], sizes: Sequence[int], name: str = "drawn") -> Trace:
    return Trace(
        name=name,
        format="csv",
        keys=np.array(keys, dtype=np.int32),
        sizes=np.array(sizes, dtype=np.int64),
    )


def drawn(requests: int, keys: int, *, seed: int = 3, of_one_size: bool = True) -> Trace:
    """A trace with skew, a scan, and a change of what is popular half-way."""
    chance = random.Random(seed)
    found = []
    for index in range(requests):
        shift = keys // 3 if index > requests // 2 else 0
        key = int((keys + 1) ** chance.random()) - 1
        found.append((index if index % 7 == 0 else key + shift) % keys)
    sizes = [512] * keys if of_one_size else [chance.choice((100, 900, 4000)) for _ in range(keys)]
    return trace_of(found, sizes)


def dull_lru(keys: Sequence[int], sizes: Sequence[int], capacity: int) -> tuple[int, int, int]:
    """Hits, their bytes and evictions of an LRU that is too plain to be wrong."""
    kept: OrderedDict[int, None] = OrderedDict()
    hits = hit_bytes = evictions = 0
    for key in keys:
        if key in kept:
            kept.move_to_end(key)
            hits += 1
            hit_bytes += sizes[key]
        elif sizes[key] <= capacity:
            while sum(sizes[each] for each in kept) + sizes[key] > capacity:
                kept.popitem(last=False)
                evictions += 1
            kept[key] = None
    return hits, hit_bytes, evictions


@given(
    keys=st.lists(st.integers(0, 7), min_size=1, max_size=60),
    sizes=st.lists(st.integers(1, 9), min_size=8, max_size=8),
    capacity=st.integers(1, 30),
)
def test_lru_is_what_a_dull_lru_does(keys: list[int], sizes: list[int], capacity: int) -> None:
    found = play(lambda: fresh_policy("lru"), array("i", keys), sizes, capacity)
    assert (found.hits, found.hit_bytes, found.evictions) == dull_lru(keys, sizes, capacity)


@every_policy
@settings(max_examples=25)
@given(data=st.data())
def test_no_policy_passes_the_optimum_or_the_ceiling(name: str, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=80))
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=10, max_size=10))
    capacity = data.draw(st.integers(1, 25))
    requests = np.array(keys, dtype=np.int32)
    following = belady.next_uses(requests)
    bound = belady.ceiling(requests, np.array(sizes, dtype=np.int64), following, capacity)
    found = play(lambda: fresh_policy(name), array("i", keys), sizes, capacity)
    assert found.hits <= bound.hits
    assert found.hit_bytes <= bound.hit_bytes
    uniform = play(lambda: fresh_policy(name), array("i", keys), [1] * 10, capacity)
    assert uniform.hits <= belady.optimum(following, capacity)


@pytest.mark.parametrize("name", ["lru+frequency", "s3fifo+size"])
def test_a_policy_with_an_admission_policy_does_not_pass_the_optimum(name: str) -> None:
    trace = drawn(3000, 200)
    keys = array("i", trace.keys.tobytes())
    found = play(lambda: fresh_policy(name), keys, [1] * 200, 20)
    assert 0 < found.hits <= belady.optimum(belady.next_uses(trace.keys), 20)


def test_a_key_larger_than_the_capacity_is_missed_and_evicts_nobody() -> None:
    found = play(lambda: fresh_policy("lru"), array("i", [0, 1, 1, 0, 1]), [4, 11], 10)
    assert (found.hits, found.evictions, found.resident) == (1, 0, 1)


def test_capacities_are_shares_or_bytes() -> None:
    assert capacities_of(1000, (0.01, 64, 1.0, 0.064)) == (10, 64, 1000)
    for wrong in (0.0, 1.5, 0, -3):
        with pytest.raises(UsageError, match="capacity"):
            capacities_of(1000, (wrong,))


def test_a_share_of_a_small_footprint_is_a_byte_at_least() -> None:
    assert capacities_of(20, (0.01, 0.02, 0.05, 0.1)) == (1, 2)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return contest.contest(drawn(6000, 300, of_one_size=False), ContestOptions(reference=False))


def test_every_policy_of_the_catalog_has_a_run_at_every_capacity(simulation: Simulation) -> None:
    runs = {(run.policy, run.capacity_bytes) for run in simulation.runs if run.kind == "policy"}
    assert runs == {(name, size) for name in policy_names() for size in simulation.capacities_bytes}
    assert set(policy_names()) >= set(POLICIES)
    assert len(simulation.capacities_bytes) == 4


def test_the_gap_is_0_for_lru_and_below_100_percent_of_the_ceiling(simulation: Simulation) -> None:
    kinds = {run.kind for run in simulation.runs}
    assert kinds == {"belady", "ceiling", "policy"}
    for run in simulation.runs:
        if run.kind == "policy":
            assert run.gap_closed is not None
            assert run.policy != "lru" or run.gap_closed == 0.0
            assert run.policy_us is not None
            assert run.policy_us >= 0
            assert run.requests_per_second


def test_the_same_trace_gives_the_same_ratios_in_one_process_and_in_many() -> None:
    trace = drawn(60_000, 500)
    options = ContestOptions(
        policies=("sieve",), capacities=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5), reference=False, jobs=2
    )
    told: list[tuple[int, int]] = []
    many = contest.contest(trace, options, lambda done, total: told.append((done, total)))
    one = contest.contest(trace, ContestOptions(**{**_fields(options), "jobs": 1}))
    assert told[-1][0] == told[-1][1] > 1_000_000

    def ratios(found: Simulation) -> list[tuple[str, int, float | None]]:
        return [(run.policy, run.capacity_bytes, run.hit_ratio) for run in found.runs]

    assert ratios(many) == ratios(one)


def _fields(options: ContestOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in options.__slots__}


def test_what_cannot_be_is_refused_by_its_name() -> None:
    for field, options in (
        ("jobs", {"jobs": 0}),
        ("capacity", {"capacities": ()}),
        ("policy", {"policies": ("nonsense",)}),
        ("admission_policy", {"policies": ("lru+nonsense",)}),
        ("reference_seconds", {"reference_seconds": 0.0}),
    ):
        with pytest.raises(UsageError) as caught:
            ContestOptions(**options)
        assert caught.value.field == field


# -- libcachesim ----------------------------------------------------------------------------------

needs_libcachesim = pytest.mark.skipif(
    reference.installed_version() is None, reason="libcachesim is not installed"
)


@needs_libcachesim
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_lru_fifo_clock_and_sieve_equal_libcachesim_to_the_request(share: float) -> None:
    trace = drawn(20_000, 700)
    options = ContestOptions(policies=("fifo", "clock", "sieve"), capacities=(share,))
    found = contest.contest(trace, options)
    assert found.libcachesim == reference.installed_version()
    ours, theirs = _hits(found, "policy"), _hits(found, reference.KIND)
    assert ours["lru"] == theirs["LRU"] > 0
    assert ours["fifo"] == theirs["FIFO"] > 0
    assert ours["clock"] == theirs["Clock"] > 0
    assert ours["sieve"] == theirs["Sieve"] > 0
    # Theirs has to take in what is requested, and ours need not.
    assert theirs["Belady"] <= _hits(found, "belady")["belady"]


@needs_libcachesim
def test_lru_and_fifo_equal_libcachesim_with_keys_of_many_sizes() -> None:
    trace = drawn(20_000, 700, of_one_size=False)
    options = ContestOptions(policies=("fifo",), capacities=(0.1,), reference_seconds=20.0)
    found = contest.contest(trace, options)
    ours, theirs = _hits(found, "policy"), _hits(found, reference.KIND)
    assert (ours["lru"], ours["fifo"]) == (theirs["LRU"], theirs["FIFO"])


@needs_libcachesim
def test_a_policy_of_libcachesim_that_takes_too_long_is_stopped_and_said_so() -> None:
    options = ContestOptions(policies=("fifo",), capacities=(0.1,), reference_seconds=0.001)
    found = contest.contest(drawn(1000, 100), options)
    stopped = [run for run in found.runs if run.kind == reference.KIND]
    assert stopped
    assert all(run.hit_ratio is None for run in stopped)
    assert all("stopped after 0.001 s" in (run.note or "") for run in stopped)


@needs_libcachesim
def test_what_libcachesim_prints_is_not_ours_to_print(capfd: pytest.CaptureFixture[str]) -> None:
    trace = drawn(2000, 100, of_one_size=False)
    small = int(trace.sizes.max()) - 1
    options = ContestOptions(policies=("lru",), capacities=(small,), reference_seconds=20.0)
    assert _hits(contest.contest(trace, options), reference.KIND)
    assert capfd.readouterr() == ("", "")


def test_a_capacity_beyond_libcachesim_is_simulated_without_it() -> None:
    options = ContestOptions(policies=("lru",), capacities=(2**70,))
    found = contest.contest(drawn(100, 10), options)
    assert found.libcachesim is None
    assert _hits(found, "policy") == {"lru": 90}


def _hits(found: Simulation, kind: str) -> dict[str, int]:
    return {
        run.policy: round(run.hit_ratio * found.requests)
        for run in found.runs
        if run.kind == kind and run.hit_ratio is not None
    }


# -- curves ---------------------------------------------------------------------------------------


# Importing matplotlib warns, with a newer pyparsing than it was made for.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_curves_are_drawn_for_keys_of_one_size_and_of_many(
    simulation: Simulation, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    uniform = contest.contest(drawn(2000, 100), ContestOptions(reference=False))
    curves.draw([simulation, uniform], tmp_path / "new" / "both.png")
    assert (tmp_path / "new" / "both.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="plot"):
        curves.draw([uniform], tmp_path / "curves.nonsense")


def test_a_simulation_can_be_read_back_from_its_json(simulation: Simulation) -> None:
    assert msgspec.json.decode(msgspec.json.encode(simulation), type=Simulation) == simulation
    assert isinstance(simulation.runs[0], Run)
