"""Question: what does a policy cost an access, and does `adaptive` keep up with the best fixed one?

Method: three drawn traces, replayed through every policy of the catalog at a tenth of the keys:
skewed popularity, the same with runs over pages that are read once, and popularity that moves on.
CPU time of the run, less that of the same run with the same victims and a policy that does nothing;
medians of rounds that are interleaved. Bytes are what the policy charges for itself, ghosts
included, a resident page.
Baseline: LRU, in the same rounds.
Not measured: pages of several sizes and costs; real loads, which `memopt simulate` replays.
"""

import random
import sys
from array import array
from itertools import accumulate
from typing import Any, Final

from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.measure import machine, median
from memopt.bench.simulation import Played, play
from memopt.policies.catalog import POLICIES

_PAGE_BYTES: Final = 16 * 1024
_SKEW: Final = 0.8
_ROOM_SHARE: Final = 0.1
_RUN_PAGES: Final = 500
_RUN_EVERY: Final = 2_000
"""Accesses between two runs over pages that are read once."""
_PHASES: Final = 4


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by trace and policy, and by trace what adaptive has more or less than others."""
    accesses, pages, rounds = (20_000, 1_000, 1) if options.quick else (200_000, 20_000, 3)
    traces = {
        "skewed": skewed(accesses, pages, options.seed),
        "with_runs": with_runs(accesses, pages, options.seed),
        "moving": moving(accesses, pages, options.seed),
    }
    capacity_bytes = int(pages * _ROOM_SHARE) * _PAGE_BYTES
    found: dict[tuple[str, str], list[Played]] = {}
    with progress_bar("policies") as progress:
        for _ in range(rounds):
            for trace, keys in traces.items():
                sizes = [_PAGE_BYTES] * (max(keys) + 1)
                for name, make in POLICIES.items():
                    progress(sum(map(len, found.values())), rounds * len(traces) * len(POLICIES))
                    played = play(make, keys, sizes, capacity_bytes)
                    found.setdefault((trace, name), []).append(played)
    with scratch(options) as home:
        where = machine(home)
    return {
        "accesses": accesses,
        "pages": pages,
        "resident_pages": capacity_bytes // _PAGE_BYTES,
        "rounds": rounds,
        "traces": {
            trace: _figures({name: found[trace, name] for name in POLICIES}, accesses)
            for trace in traces
        },
        "machine": where,
    }


def skewed(accesses: int, pages: int, seed: int) -> "array[int]":
    """Zipf-like: the n-th most popular page is asked for in proportion to n to the minus 0.8."""
    weights = list(accumulate(rank**-_SKEW for rank in range(1, pages + 1)))
    chance = random.Random(seed)
    numbers = list(range(pages))
    # Or neighbours in popularity would be neighbours in number.
    chance.shuffle(numbers)
    return array("i", chance.choices(numbers, cum_weights=weights, k=accesses))


def with_runs(accesses: int, pages: int, seed: int) -> "array[int]":
    """Skewed, and after every 2,000 accesses 500 pages in a row that never return."""
    keys, unread = array("i"), pages
    popular = skewed(accesses, pages, seed)
    for first in range(0, accesses, _RUN_EVERY):
        keys += popular[first : first + _RUN_EVERY]
        keys.extend(range(unread, unread + _RUN_PAGES))
        unread += _RUN_PAGES
    return keys[:accesses]


def moving(accesses: int, pages: int, seed: int) -> "array[int]":
    """Skewed, other pages being popular in each of four phases."""
    keys = array("i")
    for phase in range(_PHASES):
        keys += skewed(accesses // _PHASES, pages, seed + phase)
    return keys


def _figures(played: dict[str, list[Played]], accesses: int) -> dict[str, Any]:
    ratios = {name: runs[0].hits / accesses for name, runs in played.items()}
    fixed = {name: ratio for name, ratio in ratios.items() if name != "adaptive"}
    best = max(fixed, key=fixed.__getitem__)
    return {
        "best_fixed": best,
        "adaptive_behind_best_points": round(100 * (ratios[best] - ratios["adaptive"]), 2),
        "adaptive_ahead_of_lru_points": round(100 * (ratios["adaptive"] - ratios["lru"]), 2),
        "policies": {
            name: {
                "hit_ratio": round(ratios[name], 4),
                "us_per_access": round(
                    median(run.policy_seconds for run in runs) / accesses * 1e6, 3
                ),
                "bytes_per_page": round(runs[0].policy_bytes / runs[0].resident),
            }
            for name, runs in played.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main("policies", __doc__))
