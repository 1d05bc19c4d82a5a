"""Runs the arena's cleaner when its trigger says so: in slices, each a short pause.

How large a slice may be it learns from how long the last ones took. Between two slices it steps
aside for as long as one took, so that whoever waits for the arena comes in between.

Invariant: a step ends after `step_seconds_max` of pauses, and the next one goes on. Not here: when
(triggers), and what is moved (the arena).
"""

import threading
from collections.abc import Callable
from typing import Final

from memopt.base.events import Collected
from memopt.base.protocols import Clock, Collectable, Trigger
from memopt.base.units import KIB

PAUSE_SECONDS: Final = 0.0002
"""What a slice should take. A tenth of what the slowest in a hundred may: on a busy machine a slice
of half a millisecond is interrupted often enough for one in fifty to take four."""
PRESSURE: Final = "pressure"
_SLICE_BYTES_MIN: Final = 8 * KIB
_SLICE_BYTES_MAX: Final = 512 * KIB
_SLICE_BYTES: Final = 64 * KIB
_STEP_SECONDS_MAX: Final = 0.1


class Collector:
    """One arena and its trigger. Thread-safe: a second thread that collects waits for the first.

    `wait(seconds)` lets others go on meanwhile, such as the `wait` of an Event.
    """

    def __init__(
        self,
        arena: Collectable,
        trigger: Trigger,
        *,
        name: str,
        clock: Clock,
        wait: Callable[[float], object],
        step_seconds_max: float = _STEP_SECONDS_MAX,
    ) -> None:
        self._arena = arena
        self._trigger = trigger
        self._name = name
        self._clock = clock
        self._wait = wait
        self._step_seconds_max = step_seconds_max
        self._slice_bytes = _SLICE_BYTES
        self._is_unfinished = False
        self._lock = threading.Lock()

    def step(self) -> None:
        """Ask the trigger, and collect if it is time. For the maintenance thread."""
        with self._lock:
            due = self._trigger.due(self._arena.usage(), self._clock.monotonic())
            if due or self._is_unfinished:
                self._run(self._name, self._step_seconds_max)

    def collect(self, seconds_max: float = _STEP_SECONDS_MAX) -> int:
        """Collect now, whatever the trigger says, since memory is short. Bytes that were freed."""
        with self._lock:
            return self._run(PRESSURE, seconds_max)

    def _run(self, reason: str, seconds_max: float) -> int:
        paused = 0.0
        freed_bytes = 0
        while True:
            found: Collected = self._arena.collect(self._slice_bytes, reason=reason)
            paused += found.seconds
            freed_bytes += found.freed_bytes
            if found.more:
                self._resize(found.seconds)
            self._is_unfinished = found.more
            if not found.more or paused >= seconds_max:
                break
            self._wait(found.seconds)
        self._trigger.collected(self._arena.usage(), paused, self._clock.monotonic())
        return freed_bytes

    def _resize(self, pause_seconds: float) -> None:
        if pause_seconds > PAUSE_SECONDS:
            self._slice_bytes = max(_SLICE_BYTES_MIN, self._slice_bytes // 2)
        elif pause_seconds < PAUSE_SECONDS / 2:
            self._slice_bytes = min(_SLICE_BYTES_MAX, self._slice_bytes + self._slice_bytes // 4)
