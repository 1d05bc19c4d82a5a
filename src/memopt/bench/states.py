"""Question: what do all versions of an agent's growing state cost on disk?

Method: one real coding-agent trajectory, cut to 100 KB of JSON, is saved as a state 200 times while
it grows: version v holds the first v/200 of its text, the message at the cut shortened, with a step
counter beside. Every version is loaded and compared. The figure is the bytes of all versions as
stored ÷ the JSON of the last one.
Baseline: every version as JSON, and every version as JSON under zstd level 3 by itself.
Not measured: states that are rewritten instead of growing; disk after trimming old versions.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import zstandard

import memopt
from memopt.base.records import Durability
from memopt.bench import data
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, scratch
from memopt.bench.data import Conversation
from memopt.bench.measure import LatencyHistogram, disk_bytes, machine

_STATE_BYTES: Final = 100_000
_VERSIONS: Final = 200


class Task(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[str, ...]
    versions: int
    home: str


def run(options: BenchOptions) -> dict[str, Any]:
    """Bytes of all versions ÷ the last one's JSON, with latencies of saving and loading."""
    files = options.files or (data.trajectories("openhands"),)
    with scratch(options) as home:
        task = Task(
            files=tuple(str(path) for path in files),
            versions=20 if options.quick else _VERSIONS,
            home=str(home / "store"),
        )
        result: dict[str, Any] = run_in_child(save, task)
        return {**result, "machine": machine(home)}


def save(argument: Any, _report: Report) -> Any:
    """Child: save all versions, load all versions, weigh them."""
    task = msgspec.convert(argument, Task)
    trajectory = largest_up_to(data.load(task.files), _STATE_BYTES)
    saves, loads = LatencyHistogram(), LatencyHistogram()
    compressor = zstandard.ZstdCompressor(level=3)
    json_bytes = zstd_bytes = last_bytes = mismatches = 0
    with memopt.open(Path(task.home), budget="64MiB", durability=Durability.OS) as memory:
        session = memory.session("agent", scope="states/user-0")
        before = disk_bytes(task.home)
        for state in growing(trajectory, task.versions):
            begun = time.perf_counter_ns()
            session.save_state(state)
            saves.add(time.perf_counter_ns() - begun)
            encoded = msgspec.json.encode(state)
            last_bytes = len(encoded)
            json_bytes += last_bytes
            zstd_bytes += len(compressor.compress(encoded))
        for version, state in enumerate(growing(trajectory, task.versions), 1):
            begun = time.perf_counter_ns()
            found = session.load_state(version=version)
            loads.add(time.perf_counter_ns() - begun)
            mismatches += found is None or found.value != state
        stored_bytes = memory.stats().counters["state_stored_bytes"]
        memory.compact()
        grown = disk_bytes(task.home) - before
    return {
        "versions": task.versions,
        "last_json_bytes": last_bytes,
        "stored_bytes": stored_bytes,
        "stored_ratio": round(stored_bytes / last_bytes, 3),
        "disk_growth_bytes": grown,
        "mismatches": mismatches,
        "save_us": msgspec.to_builtins(saves.quantiles()),
        "load_us": msgspec.to_builtins(loads.quantiles()),
        "baseline": {
            "json_ratio": round(json_bytes / last_bytes, 3),
            "zstd_ratio": round(zstd_bytes / last_bytes, 3),
        },
    }


def largest_up_to(conversations: tuple[Conversation, ...], size_bytes: int) -> Conversation:
    """The smallest conversation that has so much JSON, cut to it; else the largest one."""
    encode = msgspec.json.encode
    sized = sorted((len(encode(each)), index) for index, each in enumerate(conversations))
    index = next((index for size, index in sized if size >= size_bytes), sized[-1][1])
    kept: list[dict[str, Any]] = []
    for message in conversations[index]:
        size_bytes -= len(encode(message)) + 1
        if size_bytes < 0 and kept:
            break
        kept.append(message)
    return tuple(kept)


def growing(trajectory: Conversation, versions: int) -> Iterator[dict[str, Any]]:
    """The state at each version; every one is made of fresh outer objects."""
    lengths = [_text_length(message) for message in trajectory]
    total = sum(lengths)
    for version in range(1, versions + 1):
        room = total * version // versions
        messages = []
        for message, length in zip(trajectory, lengths, strict=True):
            if room <= 0:
                break
            messages.append(message if length <= room else _shortened(message, room))
            room -= length
        yield {"step": version, "messages": messages, "done": version == versions}


def _text_length(message: dict[str, Any]) -> int:
    content = message.get("content")
    return max(1, len(content)) if isinstance(content, str) else 1


def _shortened(message: dict[str, Any], length: int) -> dict[str, Any]:
    content = message.get("content")
    cut = content[:length] if isinstance(content, str) else content
    return {"role": message.get("role"), "content": cut}


if __name__ == "__main__":
    sys.exit(main("states", __doc__))
