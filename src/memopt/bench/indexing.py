"""Question: what does it cost that everything said can be recalled, and how soon is it?

Method: three measurements, each in fresh processes.
1. Replay with indexing on and off, rounds in turn, compaction included: messages a second, the
   median append, and the disk that is left.
2. Some scopes of 6,000 messages of 150 characters, sealed: bytes of their index on disk with
   vectors of 8 and of 4 bits; the first recall in each, so its index comes from the disk, with the
   OS's cache warm and evicted; and recalls in one that is there.
3. Many scopes of 1,000 messages in one budget: recalls with Zipf's choice of scopes (exponent 1),
   and RSS growth beside promise 3. Some of the messages are asked for by six of their words, and
   have to be among ten hits.
A message is a slice of a conversation's text with a number of its own.
Not measured: how well a question finds what it means (recall); other embedders; other threads.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.records import Durability, Message
from memopt.base.units import MIB
from memopt.bench import data
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.measure import LatencyHistogram, RssMeter, evict_os_cache, machine, median
from memopt.bench.player import Figures, play_memopt
from memopt.bench.replay import ReplayOptions, script_of

_ROUNDS: Final = 3
_REPLAYED: Final = 2_000
_CHARACTERS: Final = 150
_WORDS_ASKED: Final = 6
_SESSION_MESSAGES: Final = 100
_SCOPE_MESSAGES: Final = 6_000
_SCOPES: Final = 12
_MANY_SCOPES: Final = 1_000
_MANY_MESSAGES: Final = 1_000
_MANY_BUDGET: Final = 128 * MIB
_RECALLS: Final = 3_000
_PROMISED_SHARE: Final = 1.05
_PROMISED_BYTES: Final = 16 * MIB


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Scopes of messages to write, or to ask."""

    files: tuple[str, ...]
    home: str
    scopes: int
    messages: int
    """In each."""
    budget_bytes: int
    vector_bits: int = 8
    recalls: int = 0
    evicted: bool = False
    seed: int = 0


def run(options: BenchOptions) -> dict[str, Any]:
    """All three, with what promise 3 allows."""
    quick = options.quick
    files = tuple(str(path) for path in options.files or (data.trajectories(),))
    with scratch(options) as home:
        result: dict[str, Any] = {
            "replay": _replayed(options),
            "scope": _of_scopes(
                options, files, *((2, 300) if quick else (_SCOPES, _SCOPE_MESSAGES))
            ),
            "many_scopes": _of_many(
                options, files, *((20, 100) if quick else (_MANY_SCOPES, _MANY_MESSAGES))
            ),
            "machine": machine(home),
        }
    return result


def _replayed(options: BenchOptions) -> dict[str, Any]:
    """Medians of both kinds of rounds, and their ratios round by round."""
    rounds = 1 if options.quick else _ROUNDS
    found: dict[str, list[Figures]] = {"on": [], "off": []}
    with progress_bar("indexing: replay") as bar:
        for number in range(rounds):
            for indexing in ("on", "off") if number % 2 else ("off", "on"):
                bar(sum(map(len, found.values())), 2 * rounds)
                replay = ReplayOptions(
                    files=options.files, sessions=50 if options.quick else _REPLAYED,
                    seed=options.seed, settings={"indexing": indexing},
                )  # fmt: skip
                with scratch(options) as home:
                    figures = run_in_child(play_memopt, script_of(replay, home=home))
                found[indexing].append(msgspec.convert(figures, Figures))
    pairs = list(zip(found["on"], found["off"], strict=True))
    return {
        "rounds": rounds,
        **{
            indexing: {
                "messages_per_second": median(f.messages_per_second for f in rows),
                "append_us": msgspec.to_builtins(rows[0].append_us),
                "disk_bytes_a_message": round(
                    median((f.disk_bytes_compacted or 0) / f.messages for f in rows), 1
                ),
            }
            for indexing, rows in found.items()
        },
        "messages_per_second_ratio": round(
            median(on.messages_per_second / off.messages_per_second for on, off in pairs), 3
        ),
        "append_p50_ratio": round(
            median(on.append_us.p50 / off.append_us.p50 for on, off in pairs), 3
        ),
    }


def _of_scopes(
    options: BenchOptions, files: tuple[str, ...], scopes: int, messages: int
) -> dict[str, Any]:
    """Bytes by bits of a vector's numbers, and latencies with 8 of them."""
    answer: dict[str, Any] = {"scopes": scopes, "messages": messages}
    for bits in (4, 8):
        with scratch(options) as home:
            task = Task(
                files=files, home=str(home), scopes=scopes, messages=messages,
                budget_bytes=512 * MIB, vector_bits=bits, recalls=20 * scopes, seed=options.seed,
            )  # fmt: skip
            written = run_in_child(write, task)
            answer[f"index_bytes_a_message_{bits}_bits"] = written["index_bytes_a_message"]
            if bits == 8:
                answer["indexed_messages_per_second"] = written["messages_per_second"]
                answer["warm"] = run_in_child(ask_each, task)
                answer["evicted"] = run_in_child(
                    ask_each, msgspec.structs.replace(task, evicted=True)
                )
    return answer


def _of_many(
    options: BenchOptions, files: tuple[str, ...], scopes: int, messages: int
) -> dict[str, Any]:
    with scratch(options) as home:
        task = Task(
            files=files, home=str(home), scopes=scopes, messages=messages,
            budget_bytes=_MANY_BUDGET, recalls=_RECALLS if scopes > 100 else 100,
            seed=options.seed,
        )  # fmt: skip
        written = run_in_child(write, task)
        asked = run_in_child(ask_many, task)
    return {
        "scopes": scopes,
        "messages": scopes * messages,
        "budget_bytes": _MANY_BUDGET,
        "rss_growth_promised_bytes": int(_PROMISED_SHARE * _MANY_BUDGET) + _PROMISED_BYTES,
        "writing": written,
        "asking": asked,
    }


def write(argument: Any, report: Report) -> Any:
    """Child: all messages of all scopes, compacted."""
    task = msgspec.convert(argument, Task)
    texts = slices(task.files)
    meter = RssMeter()
    seconds = 0.0
    with _opened(task) as memory:
        for scope in range(task.scopes):
            for start in range(0, task.messages, _SESSION_MESSAGES):
                stop = min(start + _SESSION_MESSAGES, task.messages)
                said = [message_of(texts, task, scope, n) for n in range(start, stop)]
                begun = time.perf_counter()
                session = memory.session(f"{start}", scope=f"scope{scope}")
                for message in said:
                    session.append(message)
                seconds += time.perf_counter() - begun
            meter.sample()
            report({"done": scope})
        begun = time.perf_counter()
        memory.compact()
        compact_seconds = time.perf_counter() - begun
        with memory._parts.directory.home.snapshot() as tables:
            size_bytes = indexed = 0
            after = (0, 0)
            while heads := tables.segments.heads(after, 1024):
                size_bytes += sum(head.size_bytes for head in heads)
                indexed += sum(head.entries for head in heads)
                after = (heads[-1].scope_number, heads[-1].segment)
        disk_bytes = memory.stats().disk_bytes
    count = task.scopes * task.messages
    return {
        "messages": count,
        "messages_per_second": round(count / seconds, 1),
        "compact_seconds": round(compact_seconds, 2),
        "indexed": indexed,
        "index_bytes_a_message": round(size_bytes / count, 1),
        "disk_bytes_a_message": round(disk_bytes / count, 1),
        "rss_growth_bytes_max": meter.growth_bytes_max,
    }


def ask_each(argument: Any, _report: Report) -> Any:
    """Child: the first recall in every scope but one, then more of them in the last."""
    task = msgspec.convert(argument, Task)
    texts = slices(task.files)
    chance = random.Random(task.seed)
    if task.evicted:
        evict_os_cache(task.home)
    with _opened(task) as memory:
        # The embedder and the modules are brought in by the first recall of a process.
        begun = time.perf_counter()
        _ask(memory, texts, task, task.scopes - 1, chance)
        first_seconds = time.perf_counter() - begun
        faults, resident = LatencyHistogram(), LatencyHistogram()
        found = 0
        for scope in range(task.scopes - 1):
            ns, is_found = _ask(memory, texts, task, scope, chance)
            faults.add(ns)
            found += is_found
        for _ in range(task.recalls):
            ns, is_found = _ask(memory, texts, task, task.scopes - 1, chance)
            resident.add(ns)
            found += is_found
    return {
        "first_of_process_ms": round(1e3 * first_seconds, 1),
        "faulted_us": msgspec.to_builtins(faults.quantiles()),
        "resident_us": msgspec.to_builtins(resident.quantiles()),
        "found_share": round(found / (task.scopes - 1 + task.recalls), 4),
    }


def ask_many(argument: Any, _report: Report) -> Any:
    """Child: recalls with a skewed choice of scopes."""
    task = msgspec.convert(argument, Task)
    texts = slices(task.files)
    chance = random.Random(task.seed)
    weights = [1 / rank for rank in range(1, task.scopes + 1)]
    chosen = chance.choices(range(task.scopes), weights, k=task.recalls)
    meter = RssMeter()
    times = LatencyHistogram()
    found = 0
    with _opened(task) as memory:
        _ask(memory, texts, task, 0, chance)
        for index, scope in enumerate(chosen):
            ns, is_found = _ask(memory, texts, task, scope, chance)
            times.add(ns)
            found += is_found
            if index % 50 == 0:
                meter.sample()
        counters = memory.stats().counters
    return {
        "recalls": task.recalls,
        "recall_us": msgspec.to_builtins(times.quantiles()),
        "faults": counters["scopes_faulted"],
        "found_share": round(found / task.recalls, 4),
        "rss_growth_bytes_max": meter.growth_bytes_max,
    }


def _ask(
    memory: memopt.Memory, texts: Sequence[str], task: Task, scope: int, chance: random.Random
) -> tuple[int, bool]:
    """Nanoseconds of one recall by words of a message of the scope, and whether it was found."""
    number = chance.randrange(task.messages)
    wanted = str(message_of(texts, task, scope, number)["content"])
    words = wanted.split()
    query = " ".join(chance.sample(words, min(_WORDS_ASKED, len(words))))
    begun = time.perf_counter_ns()
    recalled = memory.recall(query, scope=f"scope{scope}")
    ns = time.perf_counter_ns() - begun
    return ns, any(wanted in hit.text for hit in recalled.hits)


def message_of(texts: Sequence[str], task: Task, scope: int, number: int) -> Message:
    """Another one for each place."""
    place = scope * task.messages + number
    return {
        "role": "user" if number % 2 else "assistant",
        "content": f"{texts[place % len(texts)]} {place}",
    }


def slices(files: Sequence[str]) -> list[str]:
    """Different texts of the conversations, each of about 150 characters."""
    return list(dict.fromkeys(_sliced(files)))


def _sliced(files: Sequence[str]) -> Iterator[str]:
    for conversation in data.load(files):
        for message in conversation:
            content = message.get("content")
            text = content if isinstance(content, str) else ""
            for at in range(0, len(text) - _CHARACTERS // 2, _CHARACTERS):
                yield text[at : at + _CHARACTERS]


def _opened(task: Task) -> memopt.Memory:
    config = Config(
        budget_bytes=task.budget_bytes, durability=Durability.OS, vector_bits=task.vector_bits
    )
    return memopt.open(Path(task.home) / "store", config=config)


if __name__ == "__main__":
    sys.exit(main("indexing", __doc__))
