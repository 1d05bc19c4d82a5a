"""Question: what do agents cost when memopt keeps their memory, and what in plain Python?

Method: four workloads of real conversations: customer support, multi-step tool work, code, and all
of them mixed, woken by the gaps of real arrivals. An agent takes a step: it reads its whole
context, adds what came in, calls a model and adds the reply. Each measurement is a pair of fresh
processes, in turn. *growth*: all agents alive at once, no model; RSS over time and messages/s; then
everything is read back and compared. *steps*: agents on threads, a model that takes 500 ms, in
interleaved rounds. *fill*: a hard limit on the whole process (a control group where one can be
made), and agents that come and stay until it is exhausted; memopt's are stopped at so many times
the plain ones, or when time is up. *accesses*: memopt's growth once more, with the touches of pages
recorded, for `memopt simulate`.
Baseline: a list of dicts for each agent, nothing durable; memopt's steps survive a kill (`os`).
Not measured: models, tools, networks; many processes.
Published for the design this follows: -52 % memory, 3.2 times the agents (12 against 4 at the
edge), +8 % latency, +15 % throughput.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from memopt.base.units import MIB
from memopt.bench import data
from memopt.bench.child import Child, Report, Work, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.confinement import confinement
from memopt.bench.measure import machine, median
from memopt.bench.population import MEMOPT, NAIVE, Task, fill, grow, serve

_BUDGET_BYTES: Final = 16 * MIB
_EDGE_BUDGET_BYTES: Final = 16 * MIB
_EDGE_BYTES: Final = 128 * MIB
_SERVER_BYTES: Final = 512 * MIB
_MODEL_SECONDS: Final = 0.5
_QUICK_MODEL_SECONDS: Final = 0.05
_TIMES: Final = 50
"""Agents of memopt's over plain ones at which filling stops."""
_FILL_SECONDS: Final = 600.0
_MIXED: Final = "hundreds at once"


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sources: tuple[str, ...]
    agents: int
    """Alive at once in the growth measurement."""


WORKLOADS: Final = (
    Workload(name="customer support", sources=("tau_bench",), agents=4_000),
    Workload(name="multi-step tool work", sources=("tau2_bench",), agents=4_000),
    Workload(name="code", sources=("openhands",), agents=1_500),
    Workload(name=_MIXED, sources=("tau_bench", "tau2_bench", "openhands"), agents=3_000),
)


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by workload, and two plots in `options.out`."""
    found = {workload.name: _measure(workload, options) for workload in WORKLOADS}
    with scratch(options) as home:
        where = machine(home)
    result = {
        "workloads": {name: _without_points(figures) for name, figures in found.items()},
        "budget_bytes": _BUDGET_BYTES,
        "model_seconds": _model_seconds(options),
        "machine": where,
    }
    plot(found, options.out)
    return result


def _model_seconds(options: BenchOptions) -> float:
    return _QUICK_MODEL_SECONDS if options.quick else _MODEL_SECONDS


def _measure(workload: Workload, options: BenchOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    agents = 40 if options.quick else workload.agents
    grown = {
        system: _run(grow, workload, options, system=system, agents=agents)
        for system in (NAIVE, MEMOPT)
    }
    naive, ours = grown[NAIVE], grown[MEMOPT]
    found["growth"] = {
        **grown,
        "memory_saved_share": round(
            1 - ours["rss_growth_bytes_max"] / max(1, naive["rss_growth_bytes_max"]), 4
        ),
    }
    found["steps"] = _steps(workload, options)
    found["fill"] = _fill(workload, options)
    found["accesses"] = _record(workload, options, agents)
    return found


def _record(workload: Workload, options: BenchOptions, agents: int) -> str:
    """Name of a file in `options.out`."""
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"agents_{workload.name.replace(' ', '_')}.accesses"
    file.unlink(missing_ok=True)
    _run(grow, workload, options, system=MEMOPT, agents=agents, access_log=str(file.resolve()))
    return file.name


def _steps(workload: Workload, options: BenchOptions) -> dict[str, Any]:
    """Interleaved rounds, of which the medians count."""
    rounds, agents, steps = (1, 4, 2) if options.quick else (3, 64, 8)
    found: dict[str, list[dict[str, Any]]] = {NAIVE: [], MEMOPT: []}
    for number in range(rounds):
        for system in (NAIVE, MEMOPT) if number % 2 else (MEMOPT, NAIVE):
            found[system].append(
                _run(
                    serve, workload, options, system=system, agents=agents, steps=steps,
                    model_seconds=_model_seconds(options),
                )
            )  # fmt: skip
    figures: dict[str, Any] = {
        system: {
            "step_ms_mean": median(answer["step_ms_mean"] for answer in answers),
            "step_ms_p50": median(answer["step_ms"]["p50"] for answer in answers),
            "step_ms_p99": median(answer["step_ms"]["p99"] for answer in answers),
            "messages_per_second": median(answer["messages_per_second"] for answer in answers),
            "agents_with_losses": sum(answer["agents_with_losses"] for answer in answers),
        }
        for system, answers in found.items()
    }
    naive, ours = figures[NAIVE], figures[MEMOPT]
    figures["latency_added_share"] = round(ours["step_ms_mean"] / naive["step_ms_mean"] - 1, 5)
    figures["throughput_ratio"] = round(
        ours["messages_per_second"] / naive["messages_per_second"], 4
    )
    return figures


def _fill(workload: Workload, options: BenchOptions) -> dict[str, Any]:
    """Agents until memory is exhausted, by limit; side by side, for no time is taken."""
    limits = (_EDGE_BYTES,) if options.quick else (_EDGE_BYTES, _SERVER_BYTES)
    with (
        progress_bar(f"{workload.name}, fill") as progress,
        ThreadPoolExecutor(len(limits)) as threads,
    ):
        futures = {
            # The bar is about the first of them.
            limit: threads.submit(
                _fill_limit, workload, options, limit, progress if limit == limits[0] else None
            )
            for limit in limits
        }
        return {f"{limit // MIB} MiB": future.result() for limit, future in futures.items()}


def _fill_limit(
    workload: Workload, options: BenchOptions, limit: int, tell: Callable[[int, int], None] | None
) -> dict[str, Any]:
    seconds = 5.0 if options.quick else _FILL_SECONDS
    naive = _filled(workload, options, NAIVE, limit, 1 << 30, seconds, tell)
    wanted = _TIMES * max(1, naive["agents"])
    ours = _filled(workload, options, MEMOPT, limit, wanted, seconds, tell)
    return {
        NAIVE: naive,
        MEMOPT: ours,
        # Plain agents that were stopped by the clock say nothing about how many fit.
        "agents_ratio": (
            round(ours["agents"] / max(1, naive["agents"]), 2) if naive["exhausted"] else None
        ),
        # memopt's were stopped before memory was exhausted: the ratio is at least that.
        "is_at_least": not ours["exhausted"],
    }


def _filled(
    workload: Workload,
    options: BenchOptions,
    system: str,
    limit: int,
    agents: int,
    seconds: float,
    tell: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    last: dict[str, Any] = {"agents": 0}
    rss_max = 0
    with confinement() as confined, scratch(options) as home:
        task = _task(workload, options, home, system=system, agents=agents)
        task = msgspec.structs.replace(
            task, confinement=confined, limit_bytes=limit, seconds_max=seconds,
            budget_bytes=_EDGE_BUDGET_BYTES, arrivals=None,
        )  # fmt: skip
        with Child(fill, task, prefix=confined.prefix()) as child:
            for line in child.lines():
                last |= line
                rss_max = max(rss_max, line.get("rss_bytes", 0))
                if tell is not None:
                    tell(last["agents"], agents)
            code = child.wait()
        killed = confined.oom_kills()
    result = last.get("result") or {}
    return {
        "agents": last["agents"],
        "exhausted": result.get("exhausted", code != 0),
        "killed": bool(killed) or code < 0,
        "rss_start_bytes": last.get("rss_start_bytes", 0),
        "rss_bytes_max": rss_max,
        "lost": result.get("lost", 0),
        "returned": result.get("returned", 0),
        "confined_by": confined.kind,
    }


def _task(workload: Workload, options: BenchOptions, home: Path, **fields: Any) -> Task:
    files = options.files or tuple(data.trajectories(name) for name in workload.sources)
    arrivals = data.find("kv_traces/azure_2023_conv.csv.gz") if workload.name == _MIXED else None
    return Task(
        files=tuple(str(path) for path in files), home=str(home), seed=options.seed,
        budget_bytes=_BUDGET_BYTES, arrivals=str(arrivals) if arrivals else None, **fields,
    )  # fmt: skip


def _run(work: Work, workload: Workload, options: BenchOptions, **fields: Any) -> dict[str, Any]:
    label = f"{workload.name}, {work.__name__}, {fields['system']}"
    with scratch(options) as home, progress_bar(label) as progress:
        answer: dict[str, Any] = run_in_child(
            work, _task(workload, options, home, **fields), _forward(progress)
        )
    return answer


def _forward(progress: Callable[[int, int], None]) -> Report:
    def report(line: dict[str, Any]) -> None:
        progress(line["done"], line["total"])

    return report


def _without_points(figures: dict[str, Any]) -> dict[str, Any]:
    growth = {
        key: {k: v for k, v in value.items() if k != "points"} if isinstance(value, dict) else value
        for key, value in figures["growth"].items()
    }
    return {**figures, "growth": growth}


def plot(found: dict[str, Any], out: Path) -> None:
    """RSS over the steps of each workload, and how many agents fit."""
    if importlib.util.find_spec("matplotlib") is None:
        say("agents: no plots, matplotlib is not installed")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    for axes, (name, figures) in zip(grid.flat, found.items(), strict=True):
        for system in (NAIVE, MEMOPT):
            points = figures["growth"][system]["points"]
            axes.plot(
                [point["steps"] for point in points],
                [point["rss_bytes"] / MIB for point in points],
                label="plain Python" if system == NAIVE else system,
            )
        axes.axhline(_BUDGET_BYTES / MIB, color="gray", linestyle=":", label="memopt's budget")
        axes.set_title(f"{name}, {figures['growth'][NAIVE]['agents']:,} agents")
        axes.set_xlabel("steps of all agents")
        axes.set_ylabel("RSS growth, MiB")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(out / "agents_memory.png", dpi=110)
    pyplot.close(figure)
    _plot_fill(pyplot, found, out / "agents_fill.png")


def _plot_fill(pyplot: Any, found: dict[str, Any], path: Path) -> None:
    limits: Sequence[str] = list(next(iter(found.values()))["fill"])
    figure, grid = pyplot.subplots(
        1, len(limits), figsize=(5.5 * len(limits), 4.5), squeeze=False, constrained_layout=True
    )
    for axes, limit in zip(grid.flat, limits, strict=True):
        for offset, system in ((-0.2, NAIVE), (0.2, MEMOPT)):
            counts = [figures["fill"][limit][system]["agents"] for figures in found.values()]
            places = [index + offset for index in range(len(counts))]
            label = "plain Python" if system == NAIVE else system
            bars = axes.bar(places, counts, width=0.4, label=label)
            marks = [
                f"{count:,}" + ("" if figures["fill"][limit][system]["exhausted"] else "+")
                for count, figures in zip(counts, found.values(), strict=True)
            ]
            axes.bar_label(bars, marks, fontsize=8)
        axes.set_yscale("log")
        axes.set_xticks(range(len(found)), [name.replace(" ", "\n") for name in found])
        axes.set_ylabel("agents alive (log)")
        axes.set_title(f"in {limit}; +: stopped, memory not exhausted", fontsize=10)
        axes.set_ylim(bottom=1, top=20 * max(bar.get_height() for bar in axes.patches))
        axes.legend(loc="upper right", ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main("agents", __doc__))
