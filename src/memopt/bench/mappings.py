"""Question: what do get and set of a mapping cost beside a dict and beside diskcache, and does it
stay within its budget?

Method: one process, a JSON value of some 200 bytes, keys that are all there and in RAM. Rounds of
gets and sets go to each store in turn, so a slow moment of the machine meets all of them; a latency
is one call, measured from outside. The stores: a dict (of which a get is a reference, not a fresh
value), a memory's mapping (`durability` "os"), a turn's mapping, and diskcache with its defaults
(SQLite with a write-ahead log, `synchronous` NORMAL, as durable as "os"), once with its own pickle
and once storing JSON, which is what memopt stores. Then a process of its own puts many small
entries through a small budget; the growth of its RSS counts from before the store was opened, as
the promise does, up to the kernel's own high-water mark.
Not measured: values on disk in diskcache's files (above 32 KiB), several processes, power cuts.
"""

import importlib.util
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

import memopt
from memopt.base.records import Durability
from memopt.base.units import MIB
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.measure import LatencyHistogram, RssMeter, machine

_VALUE: Final = {
    "tool": "search_flights", "call_id": "call_8f31c0", "ok": True, "seconds": 0.31,
    "result": "12 flights from SFO to JFK on 2024-05-20, the cheapest at 214 USD with one stop "
    "in DEN, the fastest in 5 h 25 min",
}  # fmt: skip
_ROUND_CALLS: Final = 100

Store = Any


class Task(msgspec.Struct, frozen=True, kw_only=True):
    home: str
    keys: int
    rounds: int
    entries: int
    seed: int


def run(options: BenchOptions) -> dict[str, Any]:
    """Latencies of each store, ratios, and RSS against the budget."""
    quick = options.quick
    with scratch(options) as home:
        task = Task(
            home=str(home), keys=200 if quick else 5_000, rounds=4 if quick else 200,
            entries=5_000 if quick else 1_000_000, seed=options.seed,
        )  # fmt: skip
        with progress_bar("mappings") as progress:
            progress(0, 2)
            latencies = run_in_child(race, task)
            progress(1, 2)
            resident = run_in_child(fill, task)
        return {
            "value_bytes": len(msgspec.json.encode(_VALUE)),
            "keys": task.keys,
            "latency_us": latencies,
            "times_faster_than_diskcache": _ratios(latencies),
            "million": resident,
            "machine": machine(home),
        }


def race(argument: Any, _report: Report) -> Any:
    """Child: rounds of get, overwrite, insert and delete on every store in turn."""
    task = msgspec.convert(argument, Task)
    draw = random.Random(task.seed)
    with stores(Path(task.home)) as found:
        times = {
            name: {verb: LatencyHistogram() for verb in ("get", "set", "insert", "delete")}
            for name in found
        }
        for store in found.values():
            for number in range(task.keys):
                store[f"key-{number}"] = _VALUE
        for turn in range(task.rounds):
            keys = [f"key-{draw.randrange(task.keys)}" for _ in range(_ROUND_CALLS)]
            fresh = [f"new-{turn}-{number}" for number in range(_ROUND_CALLS // 4)]
            for name, store in found.items():
                _round(store, keys, fresh, times[name])
    return {
        name: {verb: msgspec.to_builtins(found.quantiles()) for verb, found in verbs.items()}
        for name, verbs in times.items()
    }


def _round(
    store: Store, keys: list[str], fresh: list[str], times: dict[str, LatencyHistogram]
) -> None:
    calls: tuple[tuple[str, Callable[[str], object], list[str]], ...] = (
        ("get", store.__getitem__, keys),
        ("set", lambda key: store.__setitem__(key, _VALUE), keys),
        ("insert", lambda key: store.__setitem__(key, _VALUE), fresh),
        ("delete", store.__delitem__, fresh),
    )
    now = time.perf_counter_ns
    for verb, call, names in calls:
        add = times[verb].add
        for name in names:
            begun = now()
            call(name)
            add(now() - begun)


@contextmanager
def stores(home: Path) -> Iterator[dict[str, Store]]:
    """What is compared, by name; diskcache where it is installed."""
    with ExitStack() as last:
        memory = last.enter_context(
            memopt.open(home / "memopt", budget="64MiB", durability=Durability.OS)
        )
        turn = last.enter_context(memory.session("s").turn())
        found: dict[str, Store] = {
            "dict": {}, "mapping": memory.mapping("m"), "turn_mapping": turn.mapping("m")
        }  # fmt: skip
        if importlib.util.find_spec("diskcache") is None:
            say("mappings: diskcache is not installed, so there is no baseline")
        else:
            import diskcache

            found["diskcache"] = last.enter_context(diskcache.Cache(str(home / "pickled")))
            encoded = last.enter_context(diskcache.Cache(str(home / "json")))
            found["diskcache_json"] = _Json(encoded)
        yield found


class _Json:
    """A cache that holds what memopt holds: JSON."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getitem__(self, key: str) -> Any:
        return json.loads(self._cache[key])

    def __setitem__(self, key: str, value: Any) -> None:
        self._cache[key] = json.dumps(value)

    def __delitem__(self, key: str) -> None:
        del self._cache[key]


def fill(argument: Any, _report: Report) -> Any:
    """Child: many small entries through 64 MiB, then reads all over them."""
    task = msgspec.convert(argument, Task)
    budget_bytes = 64 * MIB
    draw = random.Random(task.seed)
    meter = RssMeter()
    with memopt.open(
        Path(task.home) / "million", budget=budget_bytes, durability=Durability.OS
    ) as memory:
        mapping = memory.mapping("m")
        begun = time.perf_counter()
        for first in range(0, task.entries, 500):
            mapping.update({f"key-{number}": _VALUE for number in range(first, first + 500)})
            meter.sample()
        written = time.perf_counter() - begun
        begun = time.perf_counter()
        reads = task.entries // 10
        for _ in range(reads):
            assert mapping[f"key-{draw.randrange(task.entries)}"] == _VALUE
        read = time.perf_counter() - begun
        assert len(mapping) == task.entries
        stats = memory.stats()
        growth = meter.growth_bytes_max
    return {
        "entries": task.entries,
        "budget_bytes": budget_bytes,
        "rss_start_bytes": meter.start_bytes,
        "rss_growth_max_bytes": growth,
        "rss_growth_allowed_bytes": int(1.05 * budget_bytes) + 16 * MIB,
        "reserved_bytes_max": stats.reserved_bytes_max,
        "sets_per_second": round(task.entries / written),
        "uniform_reads_per_second": round(reads / read),
        "hit_ratio": round(stats.counters["entries_hit"] / max(1, reads), 3),
    }


def _ratios(latencies: dict[str, Any]) -> dict[str, float]:
    if "diskcache" not in latencies:
        return {}
    return {
        verb: round(latencies["diskcache"][verb]["p50"] / latencies["mapping"][verb]["p50"], 2)
        for verb in latencies["mapping"]
    }


if __name__ == "__main__":
    sys.exit(main("mappings", __doc__))
