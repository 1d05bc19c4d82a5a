"""Question: how long does one append take, and one resume of a cold session?

Method: four measurements, each in a fresh process.
1. `os` appends: replay's schedule, one thread, seals and checkpoints included.
2. `sync` appends, one thread, alternating with the baseline: a 4 KB append with its fdatasync to a
   plain file on the same file system.
3. `sync` appends from 1 and from 8 threads, each on sessions of its own, in alternating rounds:
   throughput, and commits (one sync each) per message.
4. Resumes of 26-message sessions right after opening, so cold in memopt: with the OS cache warm,
   and with the database evicted from it before each resume. `disk_read_bytes` says whether it was.
Not measured: a network; a disk that other processes are using; a power cut's cost.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec

import memopt
from memopt.base.records import Durability
from memopt.base.units import MIB
from memopt.bench import data, schedule
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, scratch
from memopt.bench.data import Conversation
from memopt.bench.measure import (
    LatencyHistogram,
    disk_read_bytes,
    evict_os_cache,
    machine,
    median,
    sync_file,
)
from memopt.bench.player import Figures, play_memopt, session_of
from memopt.bench.replay import ReplayOptions, script_of

_BUDGET_BYTES: Final = 64 * MIB
_RESUMED_MESSAGES: Final = 26
_BLOCK_BYTES: Final = 4096
_THREADS: Final = 8


class Task(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[str, ...]
    home: str
    count: int
    """Appends a thread, or sessions."""
    evicted: bool = False


def run(options: BenchOptions) -> dict[str, Any]:
    """All four, with the bars they are held to."""
    quick = options.quick
    files = tuple(str(path) for path in options.files or (data.trajectories(),))

    def task(home: Path, count: int, *, evicted: bool = False) -> Task:
        return Task(files=files, home=str(home), count=count, evicted=evicted)

    result: dict[str, Any] = {"append_os": _append_os(options)}
    with scratch(options) as home:
        result["append_sync"] = run_in_child(append_sync, task(home, 50 if quick else 1_000))
    with scratch(options) as home:
        result["append_sync_threads"] = run_in_child(
            append_sync_threads, task(home, 20 if quick else 400)
        )
    with scratch(options) as home:
        built = task(home, 20 if quick else 2_000)
        result["resume_sessions"] = run_in_child(build, built)
        result["resume_warm"] = run_in_child(resume, built)
        result["resume_evicted"] = run_in_child(
            resume, task(home, 10 if quick else 300, evicted=True)
        )
        result["machine"] = machine(home)
    return result


def _append_os(options: BenchOptions) -> dict[str, Any]:
    replay_options = ReplayOptions(
        files=options.files,
        sessions=100 if options.quick else 5_000,
        compact=False,
        seed=options.seed,
    )
    with scratch(options) as home:
        script = script_of(replay_options, home=home)
        figures = msgspec.convert(run_in_child(play_memopt, script), Figures)
    return {
        "sessions": replay_options.sessions,
        "messages": figures.messages,
        "append_us": msgspec.to_builtins(figures.append_us),
        "messages_per_second": figures.messages_per_second,
        "messages_per_second_wall": figures.messages_per_second_wall,
    }


def append_sync(argument: Any, _report: Report) -> Any:
    """Child: `sync` appends alternating with plain synced ones."""
    task = msgspec.convert(argument, Task)
    conversations = data.load(task.files)
    ours, plain = LatencyHistogram(), LatencyHistogram()
    block = b"m" * _BLOCK_BYTES
    descriptor = os.open(
        Path(task.home) / "plain.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600
    )
    with _opened(Path(task.home) / "store", Durability.SYNC) as memory:
        for index in range(task.count):
            session, position = index % 20, index // 20
            conversation = conversations[session % len(conversations)]
            message = schedule.marked(conversation[position % len(conversation)], session)
            handle = session_of(memory, session)
            begun = time.perf_counter_ns()
            handle.append(message)
            ours.add(time.perf_counter_ns() - begun)
            begun = time.perf_counter_ns()
            os.write(descriptor, block)
            sync_file(descriptor)
            plain.add(time.perf_counter_ns() - begun)
    os.close(descriptor)
    bar_us = 1.5 * plain.quantile_us(0.5) + 150
    return {
        "appends": task.count,
        "append_us": msgspec.to_builtins(ours.quantiles()),
        "plain_append_and_sync_us": msgspec.to_builtins(plain.quantiles()),
        "ratio": round(ours.quantile_us(0.5) / max(0.001, plain.quantile_us(0.5)), 3),
        "bar_us": round(bar_us, 1),
    }


def append_sync_threads(argument: Any, _report: Report) -> Any:
    """Child: rounds of one thread, then of eight, over the same store."""
    task = msgspec.convert(argument, Task)
    conversations = data.load(task.files)
    singles, many = [], []
    with _opened(Path(task.home) / "store", Durability.SYNC) as memory:
        for number in range(3):
            singles.append(_threads_round(memory, conversations, 1, task.count, number))
            many.append(_threads_round(memory, conversations, _THREADS, task.count, number))
    rate_one = median(each["messages_per_second"] for each in singles)
    rate_many = median(each["messages_per_second"] for each in many)
    return {
        "threads": _THREADS,
        "messages_per_second_1_thread": rate_one,
        "messages_per_second": rate_many,
        "throughput_ratio": round(rate_many / rate_one, 3),
        "syncs_per_message_1_thread": median(each["syncs_per_message"] for each in singles),
        "syncs_per_message": median(each["syncs_per_message"] for each in many),
    }


def _threads_round(
    memory: memopt.Memory,
    conversations: tuple[Conversation, ...],
    threads: int,
    count: int,
    number: int,
) -> dict[str, float]:
    gate = threading.Barrier(threads + 1)

    def work(thread: int) -> None:
        first = (number * 2 * _THREADS + threads + thread) * 1_000
        gate.wait()
        for index in range(count):
            session = first + index % 4
            conversation = conversations[session % len(conversations)]
            message = conversation[index // 4 % len(conversation)]
            session_of(memory, session).append(schedule.marked(message, session))

    workers = [threading.Thread(target=work, args=(each,)) for each in range(threads)]
    for worker in workers:
        worker.start()
    commits = memory.stats().counters["commits"]
    begun = time.perf_counter()
    gate.wait()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun
    commits = memory.stats().counters["commits"] - commits
    messages = threads * count
    return {
        "messages_per_second": round(messages / seconds, 1),
        "syncs_per_message": round(commits / messages, 4),
    }


def build(argument: Any, _report: Report) -> Any:
    """Child: sessions of 26 messages, compacted, so that each lies in pages."""
    task = msgspec.convert(argument, Task)
    conversation = _of_length(data.load(task.files), _RESUMED_MESSAGES)
    with _opened(Path(task.home) / "store", Durability.OS) as memory:
        for session in range(task.count):
            session_of(memory, session).extend(
                [schedule.marked(message, session) for message in conversation]
            )
        memory.compact()
    return task.count


def resume(argument: Any, _report: Report) -> Any:
    """Child: open, and read each session once."""
    task = msgspec.convert(argument, Task)
    store = Path(task.home) / "store"
    times = LatencyHistogram()
    evicted = False
    read_before = disk_read_bytes()
    with _opened(store, Durability.OS) as memory:
        for session in range(task.count):
            if task.evicted:
                evicted = evict_os_cache(store)
            begun = time.perf_counter_ns()
            messages = list(session_of(memory, session).messages())
            times.add(time.perf_counter_ns() - begun)
            assert len(messages) == _RESUMED_MESSAGES
    read_after = disk_read_bytes()
    read = read_after - read_before if read_after is not None and read_before is not None else None
    return {
        "resumes": times.count,
        "resume_us": msgspec.to_builtins(times.quantiles()),
        "os_cache_evicted": evicted,
        "disk_read_bytes": read,
    }


def _of_length(conversations: tuple[Conversation, ...], count: int) -> Conversation:
    """A conversation of so many messages, cut from one of the middling size if there is none."""
    fitting = [each for each in conversations if len(each) == count]
    if fitting:
        return sorted(fitting, key=lambda each: len(msgspec.json.encode(each)))[len(fitting) // 2]
    longest = max(conversations, key=len)
    return tuple((longest * (count // len(longest) + 1))[:count])


def _opened(store: Path, durability: Durability) -> memopt.Memory:
    return memopt.open(store, budget=_BUDGET_BYTES, durability=durability)


if __name__ == "__main__":
    sys.exit(main("latency", __doc__))
