"""Question: does a process under a hard memory limit survive four times the load it can hold?

Method: a crew of agents (crew) works in a process whose control group may take start RSS + 1.05 x
budget + 48 MiB (RLIMIT_DATA, that much above the start's, where no group can be made): first few
agents, then so many that their contexts alone are four times the budget, then few again. This
process samples the child's RSS fifty times a second. At the end the child is killed with SIGKILL,
another one opens what it left, and every acknowledged message and note is compared.
Both run without caches of threads in glibc (`GLIBC_TUNABLES=glibc.malloc.tcache_count=0`), unless
GLIBC_TUNABLES is set already: with `glibc.malloc.tcache_count=7` they are as they come.
The line between start and limit, 1.05 x budget + 16 MiB, is memopt's `rss_limit_bytes`; a fourth of
the budget is taken by something else in the process at the height, and is in nobody's account.
Baseline: the same crew with dicts and lists, under the same limit in the same call.
Not measured: speed; a real model, which is a wait here; other processes in the same group.
Ten minutes; one with `--quick`.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from memopt.base.units import MIB
from memopt.bench import data
from memopt.bench.child import Child, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.confinement import confinement
from memopt.bench.crew import CONTEXT_BYTES, Task, verify, work
from memopt.bench.measure import machine
from memopt.bench.population import MEMOPT, NAIVE

BUDGET_BYTES: Final = 32 * MIB
_LINE_BYTES: Final = 16 * MIB
_LIMIT_BYTES: Final = 48 * MIB
_TIMES: Final = 4
"""Contexts of all agents at the height, over the budget."""
_FEW: Final = 4
_TUNABLES: Final = "GLIBC_TUNABLES"
_WITHOUT_THREAD_CACHES: Final = ("env", f"{_TUNABLES}=glibc.malloc.tcache_count=0")
"""As docs/operations.md advises for a process with so many threads; for both systems."""
PHASES: Final = (0.2, 0.5, 0.3)
_OTHERS_SHARE: Final = 1 / 4
"""Of the budget: what something else in the process keeps at the height, unknown to memopt."""
_MODEL_SECONDS: Final = 0.1
_SAMPLE_SECONDS: Final = 0.02
_SESSIONS_MAX: Final = 200_000
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def run(options: BenchOptions) -> dict[str, Any]:
    """What became of both, and a plot in `options.out`."""
    seconds = 60.0 if options.quick else 600.0
    return soak(options, seconds)


def soak(options: BenchOptions, seconds: float) -> dict[str, Any]:
    """The same for so many seconds."""
    agents = _TIMES * BUDGET_BYTES // CONTEXT_BYTES
    phases = tuple(
        (share * seconds, count, kept)
        for share, count, kept in zip(
            PHASES, (_FEW, agents, _FEW), (0, int(_OTHERS_SHARE * BUDGET_BYTES), 0), strict=True
        )
    )
    ours, points, samples = _confined(MEMOPT, phases, options)
    naive, naive_points, naive_samples = _confined(NAIVE, phases, options)
    with scratch(options) as home:
        where = machine(home)
    result = {
        "budget_bytes": BUDGET_BYTES,
        "phases": [{"seconds": s, "agents": count} for s, count, _ in phases],
        "memopt": {**ours, **course(points, phases)},
        "naive": naive,
        "machine": where,
    }
    _plot(options.out / "soak.png", (points, samples), (naive_points, naive_samples), ours)
    return result


def _confined(
    system: str, phases: tuple[tuple[float, int, int], ...], options: BenchOptions
) -> tuple[dict[str, Any], list[dict[str, Any]], list[tuple[float, int]]]:
    """A crew until it is through or dead: figures, what it reported, and (seconds, RSS) samples."""
    points: list[dict[str, Any]] = []
    total = sum(seconds for seconds, _, _ in phases)
    with confinement() as confined, scratch(options) as home, progress_bar(f"soak {system}") as bar:
        acked = home / "acked"
        acked.write_bytes(bytes(4 * _SESSIONS_MAX))
        task = Task(
            system=system, home=str(home / "store"), acked_file=str(acked), phases=phases,
            files=tuple(str(path) for path in options.files or (data.trajectories("openhands"),)),
            sessions_max=_SESSIONS_MAX, budget_bytes=BUDGET_BYTES, model_seconds=_MODEL_SECONDS,
            confinement=confined, growth_bytes=int(1.05 * BUDGET_BYTES) + _LIMIT_BYTES,
            line_bytes=int(1.05 * BUDGET_BYTES) + _LINE_BYTES,
            seed=options.seed,
        )  # fmt: skip
        environment = () if _TUNABLES in os.environ else _WITHOUT_THREAD_CACHES
        through = False
        failure = None
        start: dict[str, Any] = {"start_rss_bytes": 0, "limit_bytes": 0}
        with Child(work, task_fields(task), prefix=(*environment, *confined.prefix())) as child:
            sampler = Sampler(child.pid)
            for line in child.lines():
                if "seconds" in line:
                    points.append(line)
                    bar(int(line["seconds"]), int(total))
                elif "start_rss_bytes" in line:
                    start = line
                    sampler.start()
                elif "error" in line or "usage" in line:
                    failure = line.get("error") or line.get("usage")
                else:
                    through = True
                    break
            sampler.stop()
            if system == MEMOPT:
                child.kill()
            code = child.wait()
        line_bytes = start["start_rss_bytes"] + int(1.05 * BUDGET_BYTES) + _LINE_BYTES
        figures = {
            "confined_by": confined.kind,
            **start,
            "line_bytes": line_bytes,
            "through": through,
            "failure": failure,
            "killed_by_the_kernel": confined.oom_kills() or (not through and code < 0),
            "seconds": points[-1]["seconds"] if points else 0.0,
            "rss_bytes_max": max((rss for _, rss in sampler.samples), default=0),
            "rss_samples": len(sampler.samples),
            "rss_samples_over_line": sum(rss > line_bytes for _, rss in sampler.samples),
            **{
                name: points[-1][name] if points else 0
                for name in ("turns", "messages", "refusals", "wrong")
            },
        }
        if system == MEMOPT:
            figures["after_the_kill"] = run_in_child(verify, task_fields(task))
    return figures, points, sampler.samples


def task_fields(task: Task) -> dict[str, Any]:
    """A task as JSON can say it."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(task)
    return fields


class Sampler:
    """Reads another process's RSS, many times a second, until it is stopped or the process ends."""

    def __init__(self, pid: int) -> None:
        self._path = f"/proc/{pid}/statm"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[tuple[float, int]] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        seconds = 0.0
        while not self._stopped.wait(_SAMPLE_SECONDS):
            seconds += _SAMPLE_SECONDS
            try:
                with open(self._path, "rb", buffering=0) as statm:
                    fields = statm.read().split()
            except OSError:
                return
            if not fields or fields[1] == b"0":  # it has ended and was not waited for yet
                return
            self.samples.append((seconds, int(fields[1]) * _PAGE_BYTES))


def course(
    points: Sequence[dict[str, Any]], phases: Sequence[tuple[float, int, int]]
) -> dict[str, Any]:
    """When refusals began, when it was calm again, and how often the level changed meanwhile."""
    refused = next((point for point in points if point["refusals"]), None)
    fall = phases[0][0] + phases[1][0]
    after = [point for point in points if point["seconds"] > fall]
    restless = [point["seconds"] for point in after if point["level"] != "calm"]
    is_calm = bool(points) and points[-1]["level"] == "calm"
    high = [point["level"] for point in points if point["phase"] == 1]
    return {
        "first_refusal_seconds": refused["seconds"] if refused else None,
        "retry_after_seconds_max": points[-1]["retry_seconds_max"] if points else None,
        # None where it never was: the time that was left is no answer.
        "calm_again_after_seconds": (
            round(max(restless, default=fall) - fall, 2) if is_calm else None
        ),
        "calm_at_the_end": is_calm,
        "level_changes_at_the_height": sum(one != other for one, other in pairwise(high)),
        "refusals_after_the_fall": points[-1]["refusals"] - after[0]["refusals"] if after else 0,
    }


def _plot(path: Path, ours: Any, naive: Any, figures: dict[str, Any]) -> None:
    """RSS of both, the level, and agents at work and refused, over time."""
    if importlib.util.find_spec("matplotlib") is None:
        say("soak: no plot, matplotlib is not installed")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    (points, samples), (_, naive_samples) = ours, naive
    figure, (top, middle, bottom) = pyplot.subplots(
        3, 1, figsize=(10, 9), sharex=True, constrained_layout=True,
        gridspec_kw={"height_ratios": (3, 1, 2)},
    )  # fmt: skip
    for label, found in (("memopt", samples), ("plain Python", naive_samples)):
        top.plot([at for at, _ in found], [rss / MIB for _, rss in found], label=label, lw=1)
    for name, style in (("limit_bytes", "-"), ("line_bytes", "--"), ("start_rss_bytes", ":")):
        label = {"limit_bytes": "hard limit", "line_bytes": "promised line"}.get(name, "start")
        top.axhline(figures[name] / MIB, color="gray", linestyle=style, lw=1, label=label)
    top.set_ylabel("RSS, MiB")
    top.set_ylim(bottom=0)
    top.legend(loc="lower right")
    seconds = [point["seconds"] for point in points]
    levels = ["calm", "guarded", "high", "critical"]
    middle.step(seconds, [levels.index(point["level"]) for point in points], where="post")
    middle.set_yticks(range(len(levels)), levels)
    middle.set_ylim(-0.3, 3.3)
    bottom.step(seconds, [point["agents"] for point in points], where="post", label="agents")
    bottom.plot(seconds, [point["working"] for point in points], label="of them in a turn")
    bottom.set_ylabel("agents")
    bottom.set_xlabel("seconds")
    rates = bottom.twinx()
    rates.plot(seconds[1:], list(_rates(points)), color="tab:red", lw=0.8)
    rates.set_ylabel("refusals/s", color="tab:red")
    bottom.legend(loc="upper left")
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rates(points: Sequence[dict[str, Any]]) -> Iterator[float]:
    """Refusals a second between reports."""
    for before, after in pairwise(points):
        seconds = max(_SAMPLE_SECONDS, after["seconds"] - before["seconds"])
        yield (after["refusals"] - before["refusals"]) / seconds


if __name__ == "__main__":
    sys.exit(main("soak", __doc__))
