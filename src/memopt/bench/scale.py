"""Question: does memory or speed depend on the number of sessions?

Method: `replay`'s schedule at 5,000, 20,000 and 200,000 sessions in a budget of 32 MiB, which each
of them fills (all pages of 5,000 take 57 MB: in 64 MiB their growth would say how many they are),
each in a process of its own; the two smaller sizes in interleaved rounds of which the median
counts, the largest once. Growth is the most above the RSS with the source loaded, verification
included.
Baseline: a dict of lists of dicts at the two smaller sizes, in the same rounds.
Not measured: more than one thread; disk (replay measures it); the baseline at 200,000 sessions,
which would need some 7 GB.
"""

import sys
from typing import Any, Final

from memopt.base.units import MIB
from memopt.bench.child import Work
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.measure import machine, median
from memopt.bench.player import Figures, play_memopt, play_naive, prepared
from memopt.bench.replay import ReplayOptions, played, script_of

_BUDGET_BYTES: Final = 32 * MIB


def run(options: BenchOptions) -> dict[str, Any]:
    """Growth and rate by number of sessions, and their ratios."""
    small, middle, large = (50, 200, 400) if options.quick else (5_000, 20_000, 200_000)
    rounds = 1 if options.quick else 3
    found: dict[str, dict[int, list[Figures]]] = {
        "memopt": {small: [], middle: [], large: []},
        "naive": {small: [], middle: []},
    }
    for _ in range(rounds):
        for sessions in (small, middle):
            found["memopt"][sessions].append(_play(play_memopt, sessions, options))
            found["naive"][sessions].append(_play(play_naive, sessions, options))
    found["memopt"][large].append(_play(play_memopt, large, options))
    by_system = {
        system: {str(sessions): _summary(figures) for sessions, figures in sizes.items()}
        for system, sizes in found.items()
    }
    with scratch(options) as home:
        where = machine(home)
    return {
        "budget_bytes": _BUDGET_BYTES,
        "rounds": rounds,
        "sessions": by_system,
        "ratios": {
            f"{system} {field} {above} / {below}": _ratio(sizes, field, above, below)
            for system, sizes in by_system.items()
            for field in ("rss_growth_bytes_max", "messages_per_second")
            for below, above in ((str(small), str(middle)), (str(middle), str(large)))
            if above in sizes
        },
        "mismatches": _mismatches(found["memopt"]),
        "machine": where,
    }


def _play(work: Work, sessions: int, options: BenchOptions) -> Figures:
    with scratch(options) as home, progress_bar(f"{work.__name__} {sessions:,}") as progress:
        replay_options = ReplayOptions(
            files=options.files, sessions=sessions, budget_bytes=_BUDGET_BYTES, compact=False,
            seed=options.seed,
        )  # fmt: skip
        script = script_of(replay_options, home=home)
        _, plan = prepared(script)
        return played(work, script, progress, total=2 * plan.message_count)


def _mismatches(sizes: dict[int, list[Figures]]) -> int:
    return sum(figures.mismatches for found in sizes.values() for figures in found)


def _summary(found: list[Figures]) -> dict[str, float]:
    return {
        "rss_growth_bytes_max": median(figures.rss_growth_bytes_max for figures in found),
        "messages_per_second": median(figures.messages_per_second for figures in found),
        "messages_per_second_wall": median(figures.messages_per_second_wall for figures in found),
        "append_p50_us": median(figures.append_us.p50 for figures in found),
        "append_p99_us": median(figures.append_us.p99 for figures in found),
        "resume_p50_us": median(figures.resume_us.p50 for figures in found),
        "resume_p99_us": median(figures.resume_us.p99 for figures in found),
    }


def _ratio(sizes: dict[str, dict[str, float]], field: str, above: str, below: str) -> float:
    return round(sizes[above][field] / max(1.0, sizes[below][field]), 4)


if __name__ == "__main__":
    sys.exit(main("scale", __doc__))
