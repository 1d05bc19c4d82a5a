"""Question: what does a hit in each tier cost, what does a MiB of budget buy, and does L2 earn it?

Method: a child writes and compacts sessions; then fresh processes open the directory and read whole
sessions, drawn with Zipf's skew, at several budgets. Counters around each read tell which tier it
was answered from: the slowest one it touched. L3 cold is measured apart: the database is evicted
from the OS cache before every read. The first half of the reads warms up and is left out.
Baseline: the same budgets with all page bytes given to L1 (`l1_share` 1), so without L2.
Not measured: writes between the reads; other skews; other policies than the default.
"""

import importlib.util
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.records import Durability
from memopt.base.units import MIB
from memopt.bench import data, schedule
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.measure import (
    LatencyHistogram,
    disk_read_bytes,
    evict_os_cache,
    machine,
)
from memopt.bench.player import session_of

_COUNTED: Final = ("page_hits", "faults_minor", "faults_major")
_STRIDE: Final = 7919
"""A prime: which sessions are busy should not depend on when they were written."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[str, ...]
    store: str
    sessions: int
    reads: int
    seed: int
    budget_bytes: int = 64 * MIB
    l1_share: float = Config().l1_share
    evicted: bool = False


def run(options: BenchOptions) -> dict[str, Any]:
    """Latency by tier, and a sweep of budgets with and without L2; two plots."""
    quick = options.quick
    budgets = (
        (8 * MIB, 16 * MIB) if quick else tuple(size * MIB for size in (8, 12, 16, 24, 32, 64))
    )
    with scratch(options) as home:
        task = Task(
            files=tuple(str(path) for path in options.files or (data.trajectories(),)),
            store=str(home / "store"),
            sessions=60 if quick else 2_000,
            reads=100 if quick else 8_000,
            seed=options.seed,
        )
        raw_bytes = run_in_child(build, task)
        sweep: list[dict[str, Any]] = []
        with progress_bar("tiers") as progress:
            for budget_bytes in budgets:
                for share in (Config().l1_share, 1.0):
                    progress(len(sweep), 2 * len(budgets))
                    sized = msgspec.structs.replace(task, budget_bytes=budget_bytes, l1_share=share)
                    sweep.append(run_in_child(read, sized))
        cold = msgspec.structs.replace(task, reads=20 if quick else 300, evicted=True)
        result = {
            "sessions": task.sessions,
            "raw_bytes": raw_bytes,
            "sweep": sweep,
            "l3_cold": run_in_child(read, cold),
            "machine": machine(home),
        }
    plot(result, options.out)
    return result


def build(argument: Any, _report: Report) -> Any:
    """Child: write all sessions, seal and compact them. Returns their bytes as JSON."""
    task = msgspec.convert(argument, Task)
    conversations = data.load(task.files)
    raw_bytes = 0
    with memopt.open(task.store, budget="64MiB", durability=Durability.OS) as memory:
        for session in range(task.sessions):
            messages = list(schedule.expected_session(conversations, session))
            raw_bytes += len(msgspec.json.encode(messages))
            session_of(memory, session).extend(messages)
        memory.compact()
    return raw_bytes


def read(argument: Any, _report: Report) -> Any:
    """Child: open with a budget, and read sessions by a skewed draw."""
    task = msgspec.convert(argument, Task)
    config = Config(
        budget_bytes=task.budget_bytes, durability=Durability.OS, l1_share=task.l1_share
    )
    draw = random.Random(task.seed).random
    times = {name: LatencyHistogram() for name in ("all", "l1", "l2", "l3")}
    store = Path(task.store)
    warm_up = 0 if task.evicted else task.reads // 2
    disk_before = disk_read_bytes() or 0
    with memopt.open(
        store, budget=task.budget_bytes, durability=Durability.OS, config=config
    ) as memory:
        first = before = _counts(memory)
        for index in range(task.reads):
            if index == warm_up:
                first = before
            if task.evicted:
                session = index * _STRIDE % task.sessions
                evict_os_cache(store)
            else:
                session = (int((task.sessions + 1) ** draw()) - 1) * _STRIDE % task.sessions
            handle = session_of(memory, session)
            begun = time.perf_counter_ns()
            list(handle.messages())
            taken = time.perf_counter_ns() - begun
            after = _counts(memory)
            if index >= warm_up:
                times["all"].add(taken)
                times[_tier(before, after)].add(taken)
            before = after
        stats = memory.stats()
    hits, minor, major = (last - start for last, start in zip(before, first, strict=True))
    touched = max(1, hits + minor + major)
    return {
        "budget_bytes": task.budget_bytes,
        "l1_share": task.l1_share,
        "reads": times["all"].count,
        "l1_ratio": round(hits / touched, 4),
        "l2_ratio": round(minor / touched, 4),
        "l3_ratio": round(major / touched, 4),
        "resume_us": {
            name: {"reads": found.count, **msgspec.to_builtins(found.quantiles())}
            for name, found in times.items()
            if found.count
        },
        "reserved_bytes_max": stats.reserved_bytes_max,
        "disk_read_bytes": (disk_read_bytes() or 0) - disk_before,
    }


def plot(result: dict[str, Any], out: Path) -> None:
    """Hit ratio and latency against the budget."""
    if importlib.util.find_spec("matplotlib") is None:
        say("tiers: no plot, matplotlib is not installed")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    figure, (ratios, latencies) = pyplot.subplots(1, 2, figsize=(12, 5))
    for share in sorted({each["l1_share"] for each in result["sweep"]}):
        found = [each for each in result["sweep"] if each["l1_share"] == share]
        sizes = [each["budget_bytes"] / MIB for each in found]
        label = "L1 alone" if share == 1.0 else "L1 and L2"
        ratios.plot(
            sizes, [each["l1_ratio"] + each["l2_ratio"] for each in found], "o-", label=label
        )
        for field, style in (("p50", "o-"), ("p99", "s--")):
            values = [each["resume_us"]["all"][field] for each in found]
            latencies.plot(sizes, values, style, label=f"{label}, {field}")
    for axes, label in ((ratios, "pages answered from RAM"), (latencies, "resume, µs")):
        axes.set_xlabel("budget, MiB")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(out / "tiers.png", dpi=120)
    pyplot.close(figure)


def _tier(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    _, minor, major = (last - start for last, start in zip(after, before, strict=True))
    return "l3" if major else "l2" if minor else "l1"


def _counts(memory: memopt.Memory) -> tuple[int, ...]:
    counters = memory.stats().counters
    return tuple(counters[name] for name in _COUNTED)


if __name__ == "__main__":
    sys.exit(main("tiers", __doc__))
