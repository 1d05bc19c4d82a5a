"""Question: how long does a history of 100 MB take to come in, and in how much RAM?

Method: a history in Claude Code's, in Codex' and in ChatGPT's layout is made from coding
trajectories (histories.py). Then, for each, in a fresh process with a budget of 128 MiB and a store
that syncs:
1. It is read alone, which is what the formats cost.
2. It is imported. RSS growth counts from before the store is opened, beside promise 3. At the end
   all is indexed: the words of some of a random tenth of the messages are asked for, and have to be
   among ten hits.
3. It is imported again, which has to add nothing.
Not measured: other formats, `toolUseResult` (real histories hold results twice, this one does not),
how well a question finds what it means (recall).
"""

import random
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.units import MIB
from memopt.bench import data
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, scratch
from memopt.bench.histories import make
from memopt.bench.measure import LatencyHistogram, RssMeter, disk_bytes, machine
from memopt.past import Bringer, Brought, Format, read, sources
from memopt.past.records import Say

_HISTORY_BYTES: Final = 100_000_000
_QUICK_BYTES: Final = 3_000_000
_BUDGET: Final = 128 * MIB
_PROMISED_SHARE: Final = 1.05
_PROMISED_BYTES: Final = 16 * MIB
_SCOPE: Final = "me/past"
_TENTH: Final = 0.1
_ASKED_MAX: Final = 1_000
_FORMATS: Final = (Format.CLAUDE_CODE, Format.CODEX, Format.CHATGPT)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    history: str
    home: str
    format: Format
    words: tuple[str, ...] = ()
    """That are asked for: of messages that say something."""


def run(options: BenchOptions) -> dict[str, Any]:
    """All of it for each format, with what promise 3 allows."""
    return {
        "budget_bytes": _BUDGET,
        "rss_growth_promised_bytes": int(_PROMISED_SHARE * _BUDGET) + _PROMISED_BYTES,
        **{format.value: _run(options, format) for format in _FORMATS},
    }


def _run(options: BenchOptions, format: Format) -> dict[str, Any]:
    files = options.files or (data.trajectories("openhands"),)
    with scratch(options) as home:
        history = home / "history"
        size = _QUICK_BYTES if options.quick else _HISTORY_BYTES
        made, words = make(history, files, size, format)
        chance = random.Random(options.seed)
        tenth = [word for word in words if chance.random() < _TENTH]
        asked = tuple(chance.sample(tenth, min(len(tenth), _ASKED_MAX)))
        task = Task(history=str(history), home=str(home), format=format, words=asked)
        alone = run_in_child(read_alone, task)
        imported = run_in_child(bring_in, task)
        again = run_in_child(bring_again, task)
        found = machine(home)
    return {
        **made,
        "tenth_of_the_messages": len(tenth),
        "read_alone": alone,
        "imported": imported,
        "again": again,
        "machine": found,
    }


# -- what is measured -----------------------------------------------------------------------------


def read_alone(argument: Any, _report: Report) -> Any:
    """Child: all that is said, carried out nowhere."""
    task = msgspec.convert(argument, Task)
    report = Brought()
    begun = time.perf_counter()
    said = sum(
        isinstance(step, Say)
        for source in sources(Path(task.history), report)
        for step in read(source, task.format, report, lambda count: None)
    )
    return {"messages": said, **_rates(report, time.perf_counter() - begun)}


def bring_in(argument: Any, _report: Report) -> Any:
    """Child: the import, and what is found of it."""
    task = msgspec.convert(argument, Task)
    meter = RssMeter()
    with _opened(task) as memory:
        figures = _bring(memory, task, meter)
        growth = meter.growth_bytes_max
        found = _ask(memory, task)
        after = meter.growth_bytes_max
        memory.compact()
        disk = disk_bytes(memory.path)
    return {
        **figures,
        "rss_growth_bytes_max": growth,
        "rss_growth_with_recall_bytes_max": after,
        "rss_start_bytes": meter.start_bytes,
        "recall": found,
        "disk_bytes_compacted": disk,
    }


def bring_again(argument: Any, _report: Report) -> Any:
    """Child: the same once more, in a process that has seen nothing of it."""
    task = msgspec.convert(argument, Task)
    meter = RssMeter()
    with _opened(task) as memory:
        figures = _bring(memory, task, meter)
    return {**figures, "rss_growth_bytes_max": meter.growth_bytes_max}


def _bring(memory: memopt.Memory, task: Task, meter: RssMeter) -> dict[str, Any]:
    report = Brought()
    bringer = Bringer(memory, scope=_SCOPE, agent=task.format.value, report=report)
    begun = time.perf_counter()
    for source in sources(Path(task.history), report):
        bringer.bring(read(source, task.format, report, lambda count: None, bringer.room))
        meter.sample()
    seconds = time.perf_counter() - begun
    assert not report.damaged, report.damaged[0]
    return {
        "sessions": report.sessions,
        "messages_added": report.messages,
        "messages_there": report.messages_there,
        **_rates(report, seconds),
        "messages_per_second": round((report.messages + report.messages_there) / seconds, 1),
    }


def _rates(report: Brought, seconds: float) -> dict[str, Any]:
    megabytes = report.bytes / 1e6
    return {
        "megabytes": round(megabytes, 2),
        "seconds": round(seconds, 2),
        "megabytes_per_second": round(megabytes / seconds, 2),
    }


def _ask(memory: memopt.Memory, task: Task) -> dict[str, Any]:
    times = LatencyHistogram()
    found = 0
    for word in task.words:
        begun = time.perf_counter_ns()
        recalled = memory.recall(word, scope=_SCOPE)
        times.add(time.perf_counter_ns() - begun)
        found += any(word in hit.text for hit in recalled.hits)
    return {
        "asked": len(task.words),
        "found_share": round(found / max(1, len(task.words)), 4),
        "recall_us": msgspec.to_builtins(times.quantiles()),
    }


def _opened(task: Task) -> memopt.Memory:
    return memopt.open(Path(task.home) / "store", config=Config(budget_bytes=_BUDGET))


if __name__ == "__main__":
    sys.exit(main("importing", __doc__))
