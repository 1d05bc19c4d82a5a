"""Question: what does it cost to work in a budget that is far too small for everything?

Method: `replay`'s schedule with 20,000 sessions in 64 MiB and in a budget that holds every page,
each in a process of its own, in interleaved rounds of which the median counts; everything is read
back and compared.
Baseline: the large budget, in the same rounds.
Not measured: a hard limit on the process (soak does); more than one thread.
"""

import sys
from typing import Any, Final

from memopt.base.units import GIB, MIB
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.measure import machine, median
from memopt.bench.player import Figures, play_memopt, prepared
from memopt.bench.replay import ReplayOptions, played, script_of

_SMALL_BYTES: Final = 64 * MIB
_LARGE_BYTES: Final = 2 * GIB


def run(options: BenchOptions) -> dict[str, Any]:
    """Messages/s and growth by budget, and the ratio of the rates."""
    sessions, rounds = (200, 1) if options.quick else (20_000, 3)
    found: dict[int, list[Figures]] = {_SMALL_BYTES: [], _LARGE_BYTES: []}
    for number in range(rounds):
        budgets = (_SMALL_BYTES, _LARGE_BYTES)
        for budget_bytes in budgets if number % 2 else reversed(budgets):
            found[budget_bytes].append(_play(budget_bytes, sessions, options))
    with scratch(options) as home:
        where = machine(home)
    rates = {
        budget_bytes: median(figures.messages_per_second for figures in answers)
        for budget_bytes, answers in found.items()
    }
    return {
        "sessions": sessions,
        "rounds": rounds,
        "budgets": {
            f"{budget_bytes // MIB} MiB": {
                "messages_per_second": rates[budget_bytes],
                "messages_per_second_of_rounds": [
                    figures.messages_per_second for figures in answers
                ],
                "append_p50_us": median(figures.append_us.p50 for figures in answers),
                "append_p99_us": median(figures.append_us.p99 for figures in answers),
                "resume_p50_us": median(figures.resume_us.p50 for figures in answers),
                "rss_growth_bytes_max": median(f.rss_growth_bytes_max for f in answers),
                "hit_ratio": median(figures.stats["hit_ratio"] for figures in answers),
            }
            for budget_bytes, answers in found.items()
        },
        "messages_per_second_ratio": round(rates[_SMALL_BYTES] / rates[_LARGE_BYTES], 4),
        "mismatches": sum(figures.mismatches for answers in found.values() for figures in answers),
        "machine": where,
    }


def _play(budget_bytes: int, sessions: int, options: BenchOptions) -> Figures:
    label = f"{sessions:,} sessions in {budget_bytes // MIB} MiB"
    with scratch(options) as home, progress_bar(label) as progress:
        replay_options = ReplayOptions(
            files=options.files, sessions=sessions, budget_bytes=budget_bytes, compact=False,
            seed=options.seed,
        )  # fmt: skip
        script = script_of(replay_options, home=home)
        _, plan = prepared(script)
        return played(play_memopt, script, progress, total=2 * plan.message_count)


if __name__ == "__main__":
    sys.exit(main("pressure", __doc__))
