"""Question: what does a small value cost in the arena, and when is the arena best collected?

Method: a million values of 200 bytes, all different, in a process of their own; read at random, a
random nine tenths deleted, collected, compared, read off. Growth of RSS counts from when the order
was there, and what refers to the values: 4 bytes for each handle of the arena, 8 for each of a
list's pointers, 6 for each place in a slab. A dict's table counts, which also finds a value by its
key. Microseconds are those of the median batch of a thousand calls; beside the pauses stands what
of them was work, and how long a loop that does nothing took in between: that is the machine. Then
values come and go under every trigger (arena_churn), each in a process of its own.
Baselines: a list and a dict of plain `bytes`, after `malloc_trim`; slabs of slots of one size,
which are closed when they are empty; and no trigger at all.
Not measured: several threads; values of other sizes in the first part; finding a handle again.
"""

import importlib.util
import mmap
import random
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from memopt.base.budget import Budget
from memopt.base.clock import SystemClock
from memopt.base.events import Collected, Events
from memopt.base.records import Lifetime
from memopt.base.units import GIB, MIB
from memopt.bench.arena_churn import RATES, TRIGGER_NAMES, ChurnTask, churn
from memopt.bench.child import ChildFailedError, Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.measure import LatencyHistogram, RssMeter, machine, median, settle
from memopt.paging.arena import Arena
from memopt.pressure.collector import Collector
from memopt.pressure.triggers import Fragmentation

_VALUE_BYTES: Final = 200
_DELETED_SHARE: Final = 0.9
_BATCH: Final = 1_000
_SPINS: Final = 10_000
"""About as long as a slice of the cleaner."""
_KINDS: Final = ("arena", "list", "dict", "slabs")
_SPARE_BYTES: Final = 4 * MIB
T = TypeVar("T")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    values: int
    seed: int


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by what holds the values, figures by trigger, and two plots in `options.out`."""
    values = 20_000 if options.quick else 1_000_000
    rounds = 1 if options.quick else 3
    calls = 24_000 if options.quick else 600_000
    held: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    churned = {(name, rate): list[Any]() for rate in RATES for name in TRIGGER_NAMES}
    with progress_bar("arena") as progress:
        done, total = 0, rounds * (len(held) + len(churned))
        for number in range(rounds):
            for kind in _turned(list(held), number):
                progress(done, total)
                task = Task(kind=kind, values=values, seed=options.seed)
                held[kind].append(run_in_child(hold, task))
                done += 1
            for name, rate in _turned(list(churned), number):
                progress(done, total)
                churn_task = ChurnTask(
                    trigger=name, rate=rate, calls=calls, seed=options.seed + number
                )
                churned[name, rate].append(run_in_child(churn, churn_task))
                done += 1
    holders = {kind: _medians(found) for kind, found in held.items()}
    triggers = {
        name: {f"{rate} a second": _medians(churned[name, rate]) for rate in RATES}
        for name in TRIGGER_NAMES
    }
    with scratch(options) as home:
        where = machine(home)
    result = {
        "values": values,
        "value_bytes": _VALUE_BYTES,
        "rounds": rounds,
        "holders": holders,
        "bars": _bars(holders["arena"]),
        "churn_calls": calls,
        "triggers": triggers,
        "costs": _costs(triggers),
        "machine": where,
    }
    samples = {name: churned[name, RATES[-1]][0]["samples"] for name in TRIGGER_NAMES}
    plot(result, samples, options.out)
    return result


def _bars(arena: dict[str, Any]) -> dict[str, Any]:
    after_bytes_max = round(arena["live_bytes_after"] * 1.25 + _SPARE_BYTES)
    return {
        "rss_ratio_max": 1.3,
        "rss_ratio_holds": arena["rss_ratio"] <= 1.3,
        "rss_after_bytes_max": after_bytes_max,
        "rss_after_holds": arena["rss_bytes_after"] <= after_bytes_max,
        "pause_ms_p99_max": 2.0,
        "pause_ms_p99_holds": arena["pause_ms"]["p99"] <= 2.0,
    }


def _costs(triggers: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The mean over the rates, cheapest first."""
    costs = {
        name: round(sum(each["cost"] for each in found.values()) / len(found), 4)
        for name, found in triggers.items()
    }
    return dict(sorted(costs.items(), key=lambda item: item[1]))


def hold(argument: Any, _report: Report) -> Any:
    """Child: keep values in one way, delete most of them, and compare the rest."""
    task = msgspec.convert(argument, Task)
    holder = _HOLDERS[task.kind](task.values)
    chance = random.Random(task.seed)
    filler = chance.randbytes(_VALUE_BYTES - 8)
    order = array("I", range(task.values))
    for last in range(len(order) - 1, 0, -1):  # in place: random.shuffle, without its list
        other = chance.randrange(last + 1)
        order[last], order[other] = order[other], order[last]
    deleted = round(task.values * _DELETED_SHARE)
    values = range(task.values)
    meter = RssMeter()
    put_us = _time(values, lambda n: n.to_bytes(8, "big") + filler, holder.put)
    rss_bytes = meter.growth_bytes
    get_us = _time(order, None, holder.get)
    delete_us = _time(order[:deleted], None, holder.delete)
    rss_bytes_deleted = meter.growth_bytes
    pauses = holder.collect()
    settle()
    rss_bytes_after = meter.growth_bytes
    for number in order[deleted:]:
        if holder.get(number) != number.to_bytes(8, "big") + filler:
            raise ChildFailedError(f"value {number} is not what it was")
    live_bytes = (task.values - deleted) * _VALUE_BYTES
    return {
        "rss_bytes": rss_bytes,
        "rss_ratio": round(rss_bytes / (task.values * _VALUE_BYTES), 3),
        "charged_bytes": holder.charged_bytes_full,
        "rss_bytes_deleted": rss_bytes_deleted,
        "rss_bytes_after": rss_bytes_after,
        "live_bytes_after": live_bytes,
        "rss_ratio_after": round(rss_bytes_after / live_bytes, 3),
        "put_us": put_us,
        "get_us": get_us,
        "delete_us": delete_us,
        "pauses": pauses.count,
        "pause_ms": _milliseconds(pauses),
        "pause_cpu_ms": _milliseconds(holder.work),
        "spin_ms": _milliseconds(holder.idle),
    }


def _milliseconds(histogram: LatencyHistogram) -> dict[str, float]:
    return {
        "p50": round(histogram.quantile_us(0.5) / 1e3, 3),
        "p99": round(histogram.quantile_us(0.99) / 1e3, 3),
        "max": round(histogram.ns_max / 1e6, 3),
        "sum": round(histogram.ns_sum / 1e6, 1),
    }


class _TwoClocks(SystemClock):
    """The real clock, which also knows how long the thread ran since it was read last."""

    def __init__(self) -> None:
        self.ran_seconds = 0.0
        self._read_at = 0.0

    def monotonic(self) -> float:
        now = time.thread_time()
        self.ran_seconds, self._read_at = now - self._read_at, now
        return super().monotonic()


class _InArena:
    def __init__(self, values: int) -> None:
        self._pauses, self.work, self.idle = (LatencyHistogram() for _ in range(3))
        self._clock = _TwoClocks()
        self._arena = Arena(Budget(4 * GIB), clock=self._clock, events=Events(self))
        self._handles = array("I", range(values))
        self.charged_bytes_full = 0

    def put(self, number: int, value: bytes) -> None:
        self._handles[number] = self._arena.put(Lifetime.PERSISTENT, value)

    def get(self, number: int) -> bytes:
        return self._arena.get(self._handles[number])

    def delete(self, number: int) -> None:
        if not self.charged_bytes_full:
            self.charged_bytes_full = self._arena.charged_bytes
        self._arena.delete(self._handles[number])

    def collect(self) -> LatencyHistogram:
        collector = Collector(
            self._arena, Fragmentation(), name="fragmentation", clock=SystemClock(),
            wait=self._spin,
        )  # fmt: skip
        for _ in range(1_000):
            collector.step()
        self._arena.check()
        return self._pauses

    def _spin(self, _seconds: float) -> None:
        """Between two slices: as long a time in which nothing is done."""
        begun = time.perf_counter_ns()
        for _ in range(_SPINS):
            pass
        self.idle.add(time.perf_counter_ns() - begun)

    def emit(self, event: Any) -> None:
        assert isinstance(event, Collected)
        self._pauses.add(round(event.seconds * 1e9))
        self.work.add(round(self._clock.ran_seconds * 1e9))


class _InList:
    charged_bytes_full = 0
    work = idle = LatencyHistogram()

    def __init__(self, values: int) -> None:
        self._values: Any = [None] * values

    def put(self, number: int, value: bytes) -> None:
        self._values[number] = value

    def get(self, number: int) -> bytes:
        found: bytes = self._values[number]
        return found

    def delete(self, number: int) -> None:
        self._values[number] = None

    def collect(self) -> LatencyHistogram:
        return LatencyHistogram()


class _InDict(_InList):
    def __init__(self, values: int) -> None:
        self._values = {}

    def delete(self, number: int) -> None:
        del self._values[number]


class _InSlabs(_InList):
    """Slots of one size class in mappings of 1 MiB, as an allocator has them. Nothing moves."""

    _SLOT_BYTES: Final = 224
    _SLOTS: Final = MIB // _SLOT_BYTES

    def __init__(self, values: int) -> None:
        self._slabs: list[mmap.mmap | None] = []
        self._slots = array("I", range(values))
        self._sizes = array("H", bytes(2 * values))
        self._live = array("H")
        self._free: list[int] = []

    def put(self, number: int, value: bytes) -> None:
        if not self._free:
            first = len(self._slabs) * self._SLOTS
            self._free = list(range(first + self._SLOTS - 1, first - 1, -1))
            self._slabs.append(mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            self._live.append(0)
        slab, slot = divmod(self._free.pop(), self._SLOTS)
        found = self._slabs[slab]
        assert found is not None
        found[slot * self._SLOT_BYTES : slot * self._SLOT_BYTES + len(value)] = value
        self._slots[number] = slab * self._SLOTS + slot
        self._sizes[number] = len(value)
        self._live[slab] += 1

    def get(self, number: int) -> bytes:
        slab, slot = divmod(self._slots[number], self._SLOTS)
        found = self._slabs[slab]
        assert found is not None
        return found[slot * self._SLOT_BYTES : slot * self._SLOT_BYTES + self._sizes[number]]

    def delete(self, number: int) -> None:
        slab = self._slots[number] // self._SLOTS
        self._live[slab] -= 1
        found = self._slabs[slab]
        if not self._live[slab] and found is not None:
            found.close()
            self._slabs[slab] = None


_HOLDERS: Final[dict[str, Callable[[int], Any]]] = {
    "arena": _InArena,
    "list": _InList,
    "dict": _InDict,
    "slabs": _InSlabs,
}


def plot(result: dict[str, Any], samples: dict[str, list[list[float]]], out: Path) -> None:
    """RSS by what holds the values, and what is mapped over what lives under every trigger."""
    if importlib.util.find_spec("matplotlib") is None:
        say("arena: no plots, matplotlib is not installed")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(8, 5))
    moments = ("rss_bytes", "rss_bytes_deleted", "rss_bytes_after")
    for place, (kind, found) in enumerate(result["holders"].items()):
        where = [moment + 0.2 * (place - 1.5) for moment in range(len(moments))]
        axes.bar(where, [found[name] / MIB for name in moments], width=0.19, label=kind)
    payload = result["values"] * _VALUE_BYTES / MIB
    for moment, share in enumerate((1.0, 1 - _DELETED_SHARE, 1 - _DELETED_SHARE)):
        axes.hlines(payload * share, moment - 0.4, moment + 0.4, colors="black", linestyles=":")
    axes.set_xticks(range(len(moments)), ["all there", "nine tenths deleted", "collected, trimmed"])
    axes.set_ylabel("RSS growth, MiB (dotted: the values alone)")
    axes.legend()
    figure.savefig(out / "arena_rss.png", dpi=120)
    pyplot.close(figure)
    figure, rows = pyplot.subplots(len(samples), 1, figsize=(8, 1.6 * len(samples)), sharex=True)
    for axes, (name, points) in zip(rows, samples.items(), strict=True):
        seconds = [point[0] for point in points]
        axes.fill_between(seconds, [point[2] / MIB for point in points], alpha=0.3, label="mapped")
        axes.plot(seconds, [point[1] / MIB for point in points], label="live")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"{name}\nMiB", fontsize=8)
    rows[0].legend(loc="upper right")
    rows[-1].set_xlabel("seconds of the trigger's clock")
    figure.tight_layout()
    figure.savefig(out / "arena_triggers.png", dpi=120)
    pyplot.close(figure)


def _time(
    numbers: Sequence[int], make: Callable[[int], bytes] | None, call: Callable[..., Any]
) -> float:
    """Microseconds a call, in the median batch. What `make` makes is made before the clock runs."""
    batches = []
    for start in range(0, len(numbers), _BATCH):
        batch = numbers[start : start + _BATCH]
        made = [make(number) for number in batch] if make else None
        begun = time.perf_counter_ns()
        if made is None:
            for number in batch:
                call(number)
        else:
            for number, value in zip(batch, made, strict=True):
                call(number, value)
        batches.append((time.perf_counter_ns() - begun) / len(batch) / 1e3)
    return round(median(batches), 3)


def _turned(names: Sequence[T], number: int) -> list[T]:
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _medians(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Field by field; without the samples that a plot is drawn from."""
    return {
        name: _medians([answer[name] for answer in answers])
        if isinstance(answers[0][name], dict)
        else median([answer[name] for answer in answers])
        for name in answers[0]
        if name != "samples"
    }


if __name__ == "__main__":
    sys.exit(main("arena", __doc__))
