"""Values that come and go in an arena, under one collection trigger: a part of `bench arena`.

Four parts, again and again: values come; old and new ones come and go; turns of short-lived ones
beside them; four fifths go, and little comes. The trigger's clock runs with the calls, so many a
second, and it is asked once a second; pauses are measured in time of the processor, so that they
compare on a machine that others use.

The cost of a trigger is what the bandits learn from: the mean share of mapped bytes that is dead,
and PAUSE_WEIGHT times the share of the time in pauses. Not here: the question (arena).
"""

import random
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.events import Collected, Events
from memopt.base.protocols import Trigger
from memopt.base.records import ArenaUsage, Lifetime
from memopt.base.units import GIB
from memopt.bench.child import ChildFailedError, Report
from memopt.bench.measure import CpuClock, LatencyHistogram
from memopt.paging.arena import Arena
from memopt.pressure.collector import Collector
from memopt.pressure.triggers import PAUSE_WEIGHT, TRIGGERS, make_trigger

NEVER: Final = "never"
TRIGGER_NAMES: Final = (*TRIGGERS, NEVER)
RATES: Final = (500, 5_000)
"""Calls a second: a store that is not busy, and one that is."""
_CYCLES: Final = 3
_TURN_VALUES: Final = 50
_VALUE_BYTES_MAX: Final = 2_000


class ChurnTask(msgspec.Struct, frozen=True, kw_only=True):
    trigger: str
    rate: int
    """Calls a second of the trigger's clock."""
    calls: int
    seed: int


class Never:
    """No trigger: what is dead stays until its whole extent is."""

    def due(self, usage: ArenaUsage, now: float) -> bool:
        return False

    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        pass


class _Pauses:
    """A sink that measures collections."""

    def __init__(self) -> None:
        self.found = LatencyHistogram()
        self.moved_bytes = 0
        self.freed_bytes = 0

    def emit(self, event: Any) -> None:
        assert isinstance(event, Collected)
        self.found.add(round(event.seconds * 1e9))
        self.moved_bytes += event.moved_bytes
        self.freed_bytes += event.freed_bytes


def churn(argument: Any, _report: Report) -> Any:
    """Child: play all calls under one trigger."""
    task = msgspec.convert(argument, ChurnTask)
    clock, pauses = ManualClock(), _Pauses()
    arena = Arena(Budget(4 * GIB), clock=CpuClock(), events=Events(pauses))
    collector = Collector(
        arena, _trigger(task), name=task.trigger, clock=clock, wait=lambda seconds: None
    )
    calls = _Calls(arena, random.Random(task.seed))
    samples: list[list[float]] = []
    shares, overshoots = [], []
    begun = time.thread_time()
    for count, _ in enumerate(calls.play(task.calls), start=1):
        if count % task.rate == 0:
            clock.advance(1.0)
            collector.step()
            usage = arena.usage()
            samples.append([clock.monotonic(), usage.live_bytes, usage.resident_bytes])
            shares.append(usage.dead_bytes / max(1, usage.resident_bytes))
            overshoots.append(usage.resident_bytes / max(1, usage.live_bytes))
    seconds = time.thread_time() - begun
    arena.check()
    if len(arena) != len(calls.old) + len(calls.young):
        raise ChildFailedError(f"{len(arena)} values are left")
    dead_share = sum(shares) / len(shares)
    pause_share = pauses.found.seconds / clock.monotonic()
    return {
        "calls_per_second": round(task.calls / seconds),
        "dead_share": round(dead_share, 4),
        "mapped_to_live_mean": round(sum(overshoots) / len(overshoots), 3),
        "mapped_to_live_max": round(max(overshoots), 3),
        "pauses": pauses.found.count,
        "pause_seconds": round(pauses.found.seconds, 4),
        "pause_ms": {
            "p50": round(pauses.found.quantile_us(0.5) / 1e3, 3),
            "p99": round(pauses.found.quantile_us(0.99) / 1e3, 3),
            "max": round(pauses.found.ns_max / 1e6, 3),
        },
        "moved_bytes": pauses.moved_bytes,
        "freed_bytes": pauses.freed_bytes,
        "cost": round(dead_share + PAUSE_WEIGHT * pause_share, 4),
        "samples": samples,
    }


def _trigger(task: ChurnTask) -> Trigger:
    if task.trigger == NEVER:
        return Never()
    return make_trigger(task.trigger, random.Random(task.seed))


class _Calls:
    """The same calls for the same chance, whatever the trigger does."""

    def __init__(self, arena: Arena, chance: random.Random) -> None:
        self._arena = arena
        self._chance = chance
        self._filler = chance.randbytes(_VALUE_BYTES_MAX)
        self.old: list[int] = []
        """Handles of values that were there before."""
        self.young: list[int] = []

    def play(self, calls: int) -> Iterator[None]:
        """One call on the arena each time it is asked."""
        part = calls // (4 * _CYCLES)
        for _ in range(_CYCLES):
            for _ in range(part):
                self._put(self.young, Lifetime.PERSISTENT)
                yield
            for _ in range(part // 2):
                self._put(self.young, Lifetime.SESSION)
                yield
                self._delete_some()
                yield
            yield from self._turns(part)
            self.old += self.young
            self.young.clear()
            going = len(self.old) * 4 // 5
            for count in range(part):
                if count < going:
                    self._delete(self.old)
                else:
                    self._put(self.young, Lifetime.SESSION)
                yield

    def _turns(self, calls: int) -> Iterator[None]:
        turn: list[int] = []
        for _ in range(calls // (2 * _TURN_VALUES + 2)):
            for _ in range(_TURN_VALUES):
                self._put(turn, Lifetime.EPHEMERAL)
                yield
            for _ in range(_TURN_VALUES):
                self._delete(turn)
                yield
            self._put(self.young, Lifetime.SESSION)
            yield
            self._delete_some()
            yield

    def _put(self, handles: list[int], lifetime: Lifetime) -> None:
        size = min(_VALUE_BYTES_MAX, int(self._chance.lognormvariate(5.3, 0.8)))
        handles.append(self._arena.put(lifetime, self._filler[:size]))

    def _delete_some(self) -> None:
        young = self._chance.random() < 0.8 or not self.old
        self._delete(self.young if young else self.old)

    def _delete(self, handles: list[int]) -> None:
        index = self._chance.randrange(len(handles))
        handles[index], handles[-1] = handles[-1], handles[index]
        self._arena.delete(handles.pop())
