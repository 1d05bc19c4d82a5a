"""The one who looks: reads the probe a few times a second, and lets the others act on it.

It has a small thread of its own, because maintenance may be busy for a while with something large,
and that is when memory grows. With a period of 0 there is no thread, and `look` is called by hand.
What was learnt of turns is written by maintenance.

Not here: deciding (governor.py), who may begin a turn (admission.py).
"""

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.errors import MemoptError, StoreClosedError
from memopt.base.protocols import Clock, Probe
from memopt.base.readings import Reading
from memopt.base.stats_records import PressureStats
from memopt.pressure import outside
from memopt.pressure.admission import Admission
from memopt.pressure.forecast import HORIZON_SECONDS
from memopt.pressure.governor import Governor
from memopt.pressure.leaks import LeakWatch
from memopt.pressure.outside import Outside, slack_bytes
from memopt.pressure.probe import SystemProbe

_CAPACITY_MIN: Final = 1 / 16
_CAPACITY_SOFT_MIN: Final = 1 / 4
"""Of the budget, however little RSS leaves: where somebody asked for that limit, and where not."""
_ROOM_KEPT: Final = 1 / 4
"""Of the slack: what admission leaves of the room."""
_log: Final = logging.getLogger("memopt")


class Acting(NamedTuple):
    """Who acts on a reading."""

    governor: Governor
    outside: Outside
    admission: Admission
    leaks: LeakWatch


class Monitor:
    """Reads, and tells. `look` is thread-safe, and waits for no disk."""

    def __init__(
        self, probe: Probe, acting: Acting, budget: Budget, *, period_seconds: float,
        turn_share: float, sessions: Callable[[], int], evictable: frozenset[str], clock: Clock,
        note_free: Callable[[int], None], save: Callable[[], None], save_seconds: float,
    ) -> None:  # fmt: skip
        self.governor, self.outside, self.admission, self.leaks = acting
        self._probe = probe
        self._budget = budget
        self._period_seconds = period_seconds
        self._turn_share = turn_share
        self._sessions = sessions
        self._evictable = evictable
        self._clock = clock
        self._note_free = note_free
        """Told how much of the disk is free."""
        self._save = save
        """Writes what was learnt of turns."""
        self._save_seconds = save_seconds
        self._saved_at = clock.monotonic()
        self._saved = 0
        """Of the peaks that were learnt, those that are written."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading: Reading | None = None

    def start(self) -> None:
        if self._period_seconds and self._thread is None:
            # It knows the monitor weakly, so that a store nobody closed can be collected.
            self._thread = threading.Thread(
                target=_run, args=(weakref.ref(self), self._stop, self._period_seconds),
                name="memopt-pressure", daemon=True,
            )  # fmt: skip
            self._thread.start()

    def look(self) -> Reading:
        """Read once, and act on it."""
        with self._lock:
            reading = self._probe.read()._replace(outside_bytes=self.outside.held_bytes)
            self._reading = reading
            if self._stop.is_set():
                return reading
            if reading.disk_free_bytes is not None:
                self._note_free(reading.disk_free_bytes)
            self.outside.settle(reading)
            self.governor.observe(reading)
            self.admission.resize(self.capacity_bytes(reading))
            now = self._clock.monotonic()
            if self.leaks.is_due(now):
                owners = self._budget.owners()
                known = {
                    owner: size
                    for owner, size in owners.items()
                    if owner not in self._evictable and owner != outside.OWNER
                }
                sessions = self._sessions() + self.admission.turns
                suspect = self.leaks.sample(now, reading, sessions, known)
                if suspect is not None:
                    _log.warning("memory only grows: the suspect is %s", suspect)
        return reading

    def save_due(self) -> None:
        """On the maintenance thread: `save`, once in a while. Not on the one that looks: a commit
        may wait for others and for the disk, and memory grows meanwhile."""
        now = self._clock.monotonic()
        if now - self._saved_at >= self._save_seconds:
            self.save()
            self._saved_at = now

    def save(self) -> None:
        """Write what was learnt of turns since it was written last."""
        learnt = self.admission.learnt
        if learnt != self._saved:
            self._save()
            self._saved = learnt

    def capacity_bytes(self, reading: Reading) -> int:
        """What turns may be admitted to: their share of the budget, and half of what RSS may
        exceed the budget by; the other half is for what nobody accounts."""
        slack = slack_bytes(reading)
        share = int(self._turn_share * reading.budget_bytes) + slack
        # What RSS has left, with everything given back that is taken: less when others hold it. Not
        # the last of it: RSS swings while turns are at work, and what they will take is a forecast.
        given_back = max(0, reading.evictable_bytes - int(outside.KEPT * reading.budget_bytes))
        room = outside.room_bytes(reading) + given_back - int(_ROOM_KEPT * slack)
        least = _CAPACITY_MIN if outside.is_hard(reading) else _CAPACITY_SOFT_MIN
        return max(
            int(least * reading.budget_bytes), min(share, room + self.admission.used_bytes())
        )

    def has_room(self, size_bytes: int) -> bool:
        """Whether the control group, if there is one, has so much left."""
        reading = self._probe.read()
        if reading.memory_limit_bytes is None or reading.memory_used_bytes is None:
            return True
        return reading.memory_limit_bytes - reading.memory_used_bytes >= size_bytes

    def stats(self) -> PressureStats:
        governor, admission, forecaster = self.governor, self.admission, self.governor.forecaster
        reading = self._reading
        if reading is None or self._thread is None:
            reading = self._probe.read()
        limit = governor.forecaster.limit_seconds(float(reading.budget_bytes))
        return PressureStats(
            level=governor.level.value,
            nearest=governor.claim.limit,
            used_share=round(governor.claim.share, 4),
            used_bytes=governor.used_bytes,
            evictable_bytes=reading.evictable_bytes,
            outside_bytes=self.outside.held_bytes,
            forecast_bytes=round(governor.expected.bytes),
            forecast_upper_bytes=round(governor.expected.upper_bytes),
            forecast_seconds=HORIZON_SECONDS,
            limit_seconds=limit,
            forecasts_exceeded_share=round(forecaster.exceeded_share, 4),
            steps=tuple(step.name for step in governor.taken),
            rss_bytes=reading.rss_bytes,
            rss_limit_bytes=reading.rss_limit_bytes,
            memory_used_bytes=reading.memory_used_bytes,
            memory_limit_bytes=reading.memory_limit_bytes,
            stall_some_percent=reading.stall_some_percent,
            stall_full_percent=reading.stall_full_percent,
            turns=admission.turns,
            turns_waiting=admission.waiting,
            admitted_bytes=admission.admitted_bytes,
            admission_bytes=admission.capacity_bytes,
        )

    def close(self) -> None:
        """Look no more, send away who waits, and undo what was done."""
        self._stop.set()
        self.admission.close(StoreClosedError("the store is closed"))
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        try:
            self.save()
        except MemoptError as error:
            # A store that failed, or a full disk: it costs a prediction and nothing else.
            _log.warning("what was learnt of turns was not written: %s", error)
        with self._lock:
            self.governor.undo_all()
            self.outside.close()

    def release(self) -> None:
        """After everything else was closed: give back what is held, and the probe's files."""
        self.admission.release()
        if isinstance(self._probe, SystemProbe):
            self._probe.close()

    def abandon(self, error: MemoptError) -> None:
        """In a forked child: the thread and the locks are the parent's."""
        self._stop.set()
        self.admission.abandon_all(error)


def _run(monitor: "weakref.ref[Monitor]", stop: threading.Event, period_seconds: float) -> None:
    said = ""
    while not stop.wait(period_seconds):
        looking = monitor()
        if looking is None:
            return
        failure = ""
        try:
            looking.look()
        except MemoptError as error:
            failure = f"memory could not be looked at: {error}"
            if failure != said:
                _log.warning("%s", failure)
        except Exception as error:  # noqa: BLE001 - logged, with its traceback
            # A door: a defect here must be seen, and must not stop what serves users.
            failure = f"looking at memory failed: {type(error).__name__}"
            if failure != said:
                # Once, and not four times a second for as long as it lasts.
                _log.exception("looking at memory failed")
        said = failure
        del looking
