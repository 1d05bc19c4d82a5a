"""Question: what does each MiB of budget buy for collections, under which policy and trigger?

Method: eight books in as many copies as are wanted, cut into passages, are the values of a mapping
for each reader. Readers open books by Zipf's law, read on from where they open them, look a few
passages up again, and now and then write a note over one. The same script runs in a fresh process
for every budget under every policy, and for every trigger of the arena's cleaner at one budget;
the first half warms up. Every passage read is compared with what was written.
Baseline: LRU, and the plainest trigger; a budget that holds everything.
Not measured: conversations (tiers); a disk that is cold (tiers); more than one thread.
"""

import gzip
import importlib.util
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.records import Durability
from memopt.base.units import MIB
from memopt.bench import data
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.measure import LatencyHistogram, RssMeter, machine
from memopt.policies.catalog import POLICIES

_TRIGGERS: Final = ("periodic", "fragmentation", "growth", "bandit")
_PASSAGE_BYTES: Final = 900
"""Small enough for the arena: a paragraph or two."""
_READ_ON: Final = 24
"""Passages read one after the other, on average."""
_AGAIN_SHARE: Final = 0.15
_NOTE_SHARE: Final = 0.05
_BUDGETS_MIB: Final = (8, 12, 16, 24, 32, 64, 128)
_TRIGGER_BUDGET_MIB: Final = 16


class Task(msgspec.Struct, frozen=True, kw_only=True):
    books: tuple[str, ...]
    home: str
    copies: int
    reads: int
    budget_bytes: int
    policy: str
    trigger: str
    seed: int


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by policy and budget, and by trigger; a plot in `options.out`."""
    books = options.files or tuple(sorted((data.directory() or Path()).glob("text/*.txt.gz")))
    if not books:
        raise UsageError("there are no books in text/: name text files", field="files")
    policies = ("lru", "adaptive") if options.quick else tuple(POLICIES)
    budgets = (8, 16) if options.quick else _BUDGETS_MIB
    task = Task(
        books=tuple(str(book) for book in books), home="", copies=2 if options.quick else 12,
        reads=8_000 if options.quick else 120_000, budget_bytes=0,
        policy=Config().collection_policy, trigger=Config().collection_trigger, seed=options.seed,
    )  # fmt: skip
    swept: dict[str, dict[str, Any]] = {policy: {} for policy in dict.fromkeys(policies)}
    triggers: dict[str, Any] = {}
    with scratch(options) as home, progress_bar("capacity") as progress:
        written = run_in_child(
            write, msgspec.structs.replace(task, home=str(home / "store"), budget_bytes=64 * MIB)
        )
        total = len(swept) * len(budgets) + len(_TRIGGERS)
        for policy, by_budget in swept.items():
            for mib in budgets:
                by_budget[f"{mib} MiB"] = _read(task, home, mib, policy=policy)
                progress(sum(map(len, swept.values())), total)
        for trigger in _TRIGGERS:
            triggers[trigger] = _read(task, home, _TRIGGER_BUDGET_MIB, trigger=trigger)
            progress(len(swept) * len(budgets) + len(triggers), total)
        where = machine(home)
    result = {
        **written,
        "reads": task.reads,
        "policies": swept,
        f"triggers, {_TRIGGER_BUDGET_MIB} MiB": triggers,
        "machine": where,
    }
    _plot(options.out / "capacity.png", swept)
    return result


def _read(task: Task, home: Path, mib: int, **fields: Any) -> Any:
    return run_in_child(
        read,
        msgspec.structs.replace(task, home=str(home / "store"), budget_bytes=mib * MIB, **fields),
    )


def write(argument: Any, _report: Report) -> Any:
    """Child: every copy of every book into a mapping of its reader."""
    task = msgspec.convert(argument, Task)
    passages = [list(_passages(Path(book))) for book in task.books]
    begun = time.perf_counter()
    size = 0
    with _opened(task) as memory:
        for reader in range(task.copies):
            for number, texts in enumerate(passages):
                entries = {
                    f"{number}:{at}": _entry(reader, at, text) for at, text in enumerate(texts)
                }
                size += sum(len(entry["text"].encode()) for entry in entries.values())
                _shelf(memory, reader).update(entries)
    return {
        "passages": task.copies * sum(map(len, passages)),
        "text_bytes": size,
        "write_seconds": round(time.perf_counter() - begun, 2),
    }


def read(argument: Any, _report: Report) -> Any:
    """Child: readers at work; what was answered from RAM, and what it cost."""
    task = msgspec.convert(argument, Task)
    passages = [list(_passages(Path(book))) for book in task.books]
    times = LatencyHistogram()
    wrong = 0
    notes: dict[tuple[int, str], int] = {}
    meter = RssMeter()
    with _opened(task) as memory:
        warm = memory.stats().counters
        shelves = [_shelf(memory, reader) for reader in range(task.copies)]
        for step, (reader, number, at, writes) in enumerate(_script(task, passages)):
            if step == task.reads // 2:
                warm = memory.stats().counters
                times = LatencyHistogram()
            key = f"{number}:{at}"
            before = time.perf_counter_ns()
            found = shelves[reader][key]
            times.add(time.perf_counter_ns() - before)
            note = notes.get((reader, key), found.get("note", 0))
            wanted = _entry(reader, at, passages[number][at])
            wrong += found != (wanted | {"note": note} if note else wanted)
            if writes:
                notes[reader, key] = note + 1
                shelves[reader][key] = wanted | {"note": note + 1}
        stats = memory.stats()
        counters = {name: stats.counters[name] - warm.get(name, 0) for name in stats.counters}
        pauses = memory._parts.metrics.histograms["collection_seconds"]
        hits, faults = counters["entries_hit"], counters["entries_faulted"]
        return {
            "hit_ratio": round(hits / max(1, hits + faults), 4),
            "faults": faults,
            "evicted": counters["entries_evicted"],
            "writes": counters["entries_written"],
            "read_us": msgspec.to_builtins(times.quantiles()),
            "collections": counters["collections"],
            "collection_ms_p99": round(pauses.quantile(0.99) * 1e3, 3),
            "rss_growth_bytes_max": meter.growth_bytes_max,
            "wrong": wrong,
        }


def _opened(task: Task) -> memopt.Memory:
    return memopt.open(
        task.home,
        config=Config(
            budget_bytes=task.budget_bytes, durability=Durability.OS,
            collection_policy=task.policy, collection_trigger=task.trigger,
        ),
    )  # fmt: skip


def _shelf(memory: memopt.Memory, reader: int) -> Any:
    return memory.mapping("books", scope=f"library/reader-{reader}")


def _entry(reader: int, at: int, text: str) -> dict[str, Any]:
    return {"reader": reader, "at": at, "text": text}


def _passages(book: Path) -> Iterator[str]:
    """Paragraphs joined until they are long enough."""
    opener = gzip.open if book.suffix == ".gz" else open
    with opener(book, "rt", encoding="utf-8", errors="replace") as lines:
        passage: list[str] = []
        size = 0
        for line in lines:
            passage.append(str(line))
            size += len(line)
            if size >= _PASSAGE_BYTES:
                yield "".join(passage)
                passage, size = [], 0
        if passage:
            yield "".join(passage)


def _script(task: Task, passages: list[list[str]]) -> Iterator[tuple[int, int, int, bool]]:
    """(reader, book, passage, whether a note is written) for so many reads."""
    draw = random.Random(task.seed).random
    shelves = task.copies * len(passages)
    done = 0
    recent: list[tuple[int, int, int]] = []
    while True:
        # A power of a uniform draw falls on rank r about as often as 1/r.
        rank = min(int((shelves + 1) ** draw()), shelves) - 1
        reader, number = rank % task.copies, rank // task.copies
        at = int(draw() * len(passages[number]))
        for _ in range(1 + int(2 * _READ_ON * draw())):
            place = (reader, number, at % len(passages[number]))
            if recent and draw() < _AGAIN_SHARE:
                place = recent[int(draw() * len(recent))]
            else:
                at += 1
            recent = [*recent[-63:], place]
            yield (*place, draw() < _NOTE_SHARE)
            done += 1
            if done == task.reads:
                return


def _plot(path: Path, swept: dict[str, dict[str, Any]]) -> None:
    """Hit ratio over the budget, a line for each policy."""
    if importlib.util.find_spec("matplotlib") is None:
        say("capacity: no plot, matplotlib is not installed")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(9, 5.5), constrained_layout=True)
    styles = ("-", "--", "-.", ":")
    for index, (policy, by_budget) in enumerate(swept.items()):
        sizes = [int(name.split()[0]) for name in by_budget]
        ratios = [100 * found["hit_ratio"] for found in by_budget.values()]
        axes.plot(sizes, ratios, "o", linestyle=styles[index // 10], label=policy, markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("budget, MiB")
    axes.set_ylabel("reads answered from RAM, %")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main("capacity", __doc__))
