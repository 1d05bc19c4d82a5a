"""Question: how many conversations fit on a machine, kept by memopt and by three well-known others?

Method: the same conversations, turn by turn, interleaved over a window of active sessions, written
to each system in a process of its own; rounds in rotating order; medians over the rounds. After so
many finished sessions RSS and disk are read off. A step is one message.
Baselines: LangGraph's `InMemorySaver` and `SqliteSaver`, OpenAI Agents' `SQLiteSession` (rivals). A
package that is absent is skipped with a line.
Disk is read off with logs while it runs, and once more after closing; memopt is compacted before
that, the others only ever append and have nothing to vacuum.
Not measured: models, tools, networks; many threads; and what else a checkpoint can do (LangGraph's
lets a thread go back to any step, as memopt's journal does, and Agents' session does not).
"""

import importlib.util
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from memopt.base.records import Message
from memopt.base.units import MIB
from memopt.bench import data, rivals, schedule
from memopt.bench.child import ChildFailedError, Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.data import Conversation
from memopt.bench.measure import LatencyHistogram, RssMeter, disk_bytes, machine, median
from memopt.bench.schedule import Append, Schedule

_ACTIVE_MAX: Final = 16
_BUDGET_BYTES: Final = 16 * MIB


class Task(msgspec.Struct, frozen=True, kw_only=True):
    system: str
    files: tuple[str, ...]
    counts: tuple[int, ...]
    """Finished sessions at which to read off; the last one is the number of sessions."""
    seed: int
    home: str


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by system, ratios to memopt, and two plots in `options.out`."""
    counts = (4, 8) if options.quick else (50, 100, 200, 400)
    rounds = 1 if options.quick else 2
    files = tuple(str(path) for path in options.files or (data.trajectories(),))
    systems = [name for name in rivals.NEEDS if _present(name)]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    with progress_bar("density") as progress:
        for number in range(rounds):
            turned = number % len(systems)
            for name in systems[turned:] + systems[:turned]:
                progress(sum(map(len, answers.values())), rounds * len(systems))
                with scratch(options) as home:
                    task = Task(
                        system=name, files=files, counts=counts, seed=options.seed, home=str(home)
                    )
                    answers[name].append(run_in_child(write, task))
    figures = {name: _median(found) for name, found in answers.items()}
    with scratch(options) as home:
        where = machine(home)
    result = {
        "sessions": counts[-1],
        "rounds": rounds,
        "budget_bytes": _BUDGET_BYTES,
        "systems": figures,
        "memopt_os_steps_ratio": _ratios(figures),
        "skipped": [name for name in rivals.NEEDS if name not in systems],
        "machine": where,
    }
    plot(figures, options.out)
    return result


def write(argument: Any, _report: Report) -> Any:
    """Child: write all sessions to one system, and read every one back once."""
    task = msgspec.convert(argument, Task)
    conversations = [turns(conversation) for conversation in data.load(task.files)]
    sessions = task.counts[-1]
    plan = Schedule(
        [len(conversation) for conversation in conversations],
        sessions=sessions,
        seed=task.seed,
        active_max=_ACTIVE_MAX,
        resume_share=0.0,
    )
    steps, reads = LatencyHistogram(), LatencyHistogram()
    home = Path(task.home)
    rival = rivals.make(task.system, home, budget_bytes=_BUDGET_BYTES)
    meter = RssMeter()
    empty_bytes = disk_bytes(home)
    points = []
    finished = 0
    for operation in plan:
        if not isinstance(operation, Append):
            continue
        session, turn = operation
        parts = conversations[session % len(conversations)]
        messages = [schedule.marked(message, session) for message in parts[turn]]
        rival.write(session, messages, steps)
        meter.sample()
        if turn + 1 == len(parts):
            _read(rival, session, sum(len(part) for part in parts), reads)
            rival.end(session)
            finished += 1
            if finished in task.counts:
                rss, disk = meter.growth_bytes, disk_bytes(home)
                points.append({"sessions": finished, "rss_bytes": rss, "disk_bytes": disk})
    rss_growth_bytes_max = meter.growth_bytes_max
    rival.close()
    closed_bytes = disk_bytes(home)
    first, last = points[0], points[-1]
    between = max(1, last["sessions"] - first["sessions"])
    return {
        "durability": rival.durability,
        "steps": steps.count,
        "steps_per_second": round(steps.count / steps.seconds, 1),
        "step_us": msgspec.to_builtins(steps.quantiles()),
        "resume_us": msgspec.to_builtins(reads.quantiles()),
        "rss_growth_bytes_max": rss_growth_bytes_max,
        "rss_per_session_bytes": round(last["rss_bytes"] / sessions),
        "rss_per_further_session_bytes": round((last["rss_bytes"] - first["rss_bytes"]) / between),
        "disk_bytes": closed_bytes,
        "disk_per_session_bytes": round(max(0, closed_bytes - empty_bytes) / sessions),
        "points": points,
    }


def turns(conversation: Conversation) -> list[tuple[Message, ...]]:
    """The conversation cut before every user message but the first."""
    starts = [index for index, message in enumerate(conversation) if message.get("role") == "user"]
    edges = [0, *starts[1:], len(conversation)]
    return [conversation[start:stop] for start, stop in pairwise(edges)]


def plot(figures: dict[str, Any], out: Path) -> None:
    """RSS and disk against sessions."""
    if importlib.util.find_spec("matplotlib") is None:
        say("density: no plots, matplotlib is not installed")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    for field, label in (("rss_bytes", "RSS growth, MiB"), ("disk_bytes", "disk, MiB")):
        figure, axes = pyplot.subplots(figsize=(8, 5))
        for name, found in figures.items():
            counts = [point["sessions"] for point in found["points"]]
            axes.plot(counts, [point[field] / MIB for point in found["points"]], "o-", label=name)
        axes.set_xlabel("sessions")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(out / f"density_{field.removesuffix('_bytes')}.png", dpi=120)
        pyplot.close(figure)


def _read(rival: rivals.Rival, session: int, message_count: int, reads: LatencyHistogram) -> None:
    begun = time.perf_counter_ns()
    found = rival.read(session)
    reads.add(time.perf_counter_ns() - begun)
    if len(found) != message_count:
        raise ChildFailedError(f"{len(found)} of {message_count} messages came back")


def _present(name: str) -> bool:
    for package in rivals.NEEDS[name]:
        try:
            found = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            say(f"density: {name} is skipped, {package} is not installed")
            return False
    return True


def _median(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Field by field; points by their own fields."""
    return {key: _middle([answer[key] for answer in answers]) for key in answers[0]}


def _middle(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return _median(values)
    if isinstance(values[0], list):
        return [_middle(entries) for entries in zip(*values, strict=True)]
    return values[0] if isinstance(values[0], str) else median(values)


def _ratios(figures: dict[str, Any]) -> dict[str, float]:
    ours = figures["memopt os"]["steps_per_second"]
    return {
        name: round(ours / found["steps_per_second"], 2)
        for name, found in figures.items()
        if not name.startswith("memopt")
    }


if __name__ == "__main__":
    sys.exit(main("density", __doc__))
