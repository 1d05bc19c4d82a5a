"""Question: how long does it take to open a large directory after a crash, and how much RAM?

Method: a child fills a directory with 100,000 short sessions, goes on appending until the
write-ahead log is nearly at its limit, and kills itself with SIGKILL. The directory is copied, and
each copy is opened once, in a fresh process, with the OS cache warm and with it evicted; seconds
and RSS of `memopt.open` alone, then one session is read to see that it is there.
Baseline: the same copy opened by bare SQLite, which has to recover the same log, and one row read.
Not measured: reading sessions back (replay does); a directory on another machine's disk.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.records import Durability
from memopt.base.units import MIB
from memopt.bench import data, schedule
from memopt.bench.child import Child, ChildFailedError, Report, Work, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.measure import RssMeter, disk_bytes, evict_os_cache, machine, median
from memopt.bench.player import session_of

_MESSAGES: Final = 4
"""Of each session: enough for it to exist; what matters here is their number."""
_BUDGET_BYTES: Final = 64 * MIB
_FULL_SHARE: Final = 0.9
_CHECKED_EVERY: Final = 256


class Task(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[str, ...]
    store: str
    sessions: int
    wal_limit_bytes: int
    evicted: bool = False


def run(options: BenchOptions) -> dict[str, Any]:
    """Seconds and RSS of opening, medians over copies, beside bare SQLite's."""
    rounds = 1 if options.quick else 3
    with scratch(options) as home:
        task = Task(
            files=tuple(str(path) for path in options.files or (data.trajectories(),)),
            store=str(home / "killed"),
            sessions=500 if options.quick else 100_000,
            wal_limit_bytes=4 * MIB if options.quick else Config().wal_limit_bytes,
        )
        built = _fill_and_die(task)
        found: dict[str, list[dict[str, Any]]] = {"warm": [], "evicted": [], "sqlite": []}
        for _ in range(rounds):
            found["warm"].append(_on_copy(open_memopt, task, home))
            found["sqlite"].append(_on_copy(open_sqlite, task, home))
            evicted = msgspec.structs.replace(task, evicted=True)
            found["evicted"].append(_on_copy(open_memopt, evicted, home))
        return {
            "rounds": rounds,
            **built,
            "memopt": _summary(found["warm"]),
            "memopt_os_cache_evicted": _summary(found["evicted"]),
            "baseline_sqlite": _summary(found["sqlite"]),
            "machine": machine(home),
        }


def fill(argument: Any, report: Report) -> Any:
    """Child: fill the directory, fill the log, and die."""
    task = msgspec.convert(argument, Task)
    conversations = data.load(task.files)
    enough_bytes = int(_FULL_SHARE * task.wal_limit_bytes)
    memory = memopt.open(
        task.store,
        budget=_BUDGET_BYTES,
        durability=Durability.OS,
        config=Config(
            budget_bytes=_BUDGET_BYTES,
            durability=Durability.OS,
            wal_limit_bytes=task.wal_limit_bytes,
        ),
    )
    for session in range(task.sessions):
        conversation = conversations[session % len(conversations)][:_MESSAGES]
        session_of(memory, session).extend(
            [schedule.marked(message, session) for message in conversation]
        )
        if session % 1000 == 0:
            report({"done": session})
    written = 0
    # A log that never fills would mean that the limit is not where it is thought to be.
    while (wal_bytes := memory.stats().wal_bytes) < enough_bytes:
        if written > 16 * task.wal_limit_bytes:
            raise ChildFailedError(f"the log holds {wal_bytes} bytes and does not fill")
        for _ in range(_CHECKED_EVERY):
            session = written % task.sessions
            message = schedule.marked(conversations[session % len(conversations)][0], session)
            text = f"{written} {message.get('content')}"[:2000]
            session_of(memory, session).append({"role": "user", "content": text})
            written += len(text)
    report({"wal_bytes": wal_bytes, "disk_bytes": disk_bytes(task.store)})
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def open_memopt(argument: Any, _report: Report) -> Any:
    """Child: open the copy."""
    task = msgspec.convert(argument, Task)
    meter = RssMeter()
    begun = time.perf_counter()
    memory = memopt.open(task.store, budget=_BUDGET_BYTES, durability=Durability.OS)
    seconds = time.perf_counter() - begun
    growth = meter.growth_bytes
    with memory:
        last = list(session_of(memory, task.sessions - 1).messages())
    if len(last) < 1:
        raise ChildFailedError("the last session is not there")
    return {"seconds": seconds, "rss_growth_bytes": growth}


def open_sqlite(argument: Any, _report: Report) -> Any:
    """Child: open the copy's database with nothing but SQLite."""
    task = msgspec.convert(argument, Task)
    meter = RssMeter()
    begun = time.perf_counter()
    connection = apsw.Connection(str(Path(task.store) / "memopt.db"))
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    seconds = time.perf_counter() - begun
    growth = meter.growth_bytes
    connection.close()
    return {"seconds": seconds, "rss_growth_bytes": growth}


def _fill_and_die(task: Task) -> dict[str, Any]:
    built: dict[str, Any] = {}
    with Child(fill, task) as child, progress_bar("opening") as progress:
        for line in child.lines():
            if "done" in line:
                progress(line["done"], task.sessions)
            if "usage" in line or "error" in line:
                raise ChildFailedError(line.get("usage") or line["error"])
            if "wal_bytes" in line:
                built = line
    if not built:
        raise ChildFailedError("the process that fills the directory ended early")
    return {"sessions": task.sessions, **built}


def _on_copy(work: Work, task: Task, home: Path) -> dict[str, Any]:
    copy = home / "copy"
    shutil.copytree(task.store, copy, ignore=shutil.ignore_patterns("*.sock"))
    try:
        if task.evicted and not evict_os_cache(copy):
            say("opening: the OS cache cannot be evicted here")
        answer: dict[str, Any] = run_in_child(work, msgspec.structs.replace(task, store=str(copy)))
        return answer
    finally:
        shutil.rmtree(copy)


def _summary(found: list[dict[str, Any]]) -> dict[str, float]:
    return {field: median(each[field] for each in found) for field in found[0]}


if __name__ == "__main__":
    sys.exit(main("opening", __doc__))
