"""From readings to a level, and from a level to deeds.

Pressure is what cannot be given back at once. A budget full of pages is not pressure: everything
sealed is at home, so pages go for nothing. So a limit is compared with what is held less what is
evictable, and the limit that is nearest decides: the budget, RSS, the control group, RLIMIT_DATA
(docs/design/0006).

Levels have hysteresis. One is entered when two readings in a row, or the forecast, are above its
entry; it is left, one level at a time, after readings stayed below its exit for the dwell time.
Each level has its place on a ladder of steps; they are taken one a reading, at critical all at
once, and undone one a reading in the reverse order. Refusing new work is the last step; a mere
forecast never leads to it, nor does an RSS limit that nobody asked for.

Invariant: the steps taken are a prefix of the ladder. Not here: what a step does (wiring.py).
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from memopt.base.errors import MemoptError
from memopt.base.events import Events, Forecast, PressureChanged, StepTaken, StepUndone
from memopt.base.protocols import Clock
from memopt.base.readings import Level, Reading
from memopt.base.units import GIB
from memopt.pressure.forecast import Expected, Forecaster

LEVELS: Final = (Level.CALM, Level.GUARDED, Level.HIGH, Level.CRITICAL)
_CRITICAL_WAY: Final = 0.3
"""Critical lies below the limit by this share of what high lies below it."""
_EXIT_WAY: Final = 0.2
"""Exits lie below their entries by this share of what guarded lies below the limit."""
_STALL_FULL_PERCENT: Final = 10.0
"""When all tasks waited for memory for a tenth of the time, the machine is short of it."""
_GROUP_BYTES_MIN: Final = GIB
_GROUP_BUDGETS: Final = 8
"""So much of a control group counts, however large it is: what comes on top is others' room."""
_RETRY_SECONDS_MAX: Final = 60.0

_log: Final = logging.getLogger("memopt")


class Step(NamedTuple):
    """One rung: what is done against pressure, and how it is undone. Both on the governor's
    thread, and both may be called when there is nothing to do."""

    name: str
    level: Level
    """From which on it is taken."""
    do: Callable[[], None]
    undo: Callable[[], None]


class Claim(NamedTuple):
    """What is held, and cannot be given back at once, of one limit."""

    limit: str
    share: float


class Governor:
    """Decides. For one thread at a time; `refusing` and `level` may be read by any."""

    def __init__(
        self, steps: Sequence[Step], forecaster: Forecaster, *, guarded_share: float,
        high_share: float, aggressiveness: float, dwell_seconds: float, clock: Clock,
        events: Events,
    ) -> None:  # fmt: skip
        levels = [LEVELS.index(step.level) for step in steps]
        assert levels == sorted(levels), "a ladder goes up"
        self.refusing = False
        """Whether new work is refused: one attribute, because every append looks at it."""
        self.level = Level.CALM
        self.taken: list[Step] = []
        self.claim = Claim("budget", 0.0)
        self.used_bytes = 0
        self.expected = Expected(0.0, 0.0, None)
        self.forecaster = forecaster
        refuse = Step("refuse new work", Level.CRITICAL, self._refuse, self._accept)
        self._steps = (*steps, refuse)
        critical_share = 1 - _CRITICAL_WAY * (1 - high_share)
        self._entries = (0.0, guarded_share, high_share, critical_share)
        margin = _EXIT_WAY * (1 - guarded_share)
        self._exits = tuple(entry - margin for entry in self._entries)
        self._aggressiveness = aggressiveness
        self._dwell_seconds = dwell_seconds
        self._clock = clock
        self._events = events
        self._before = 0.0
        """The share of the reading before this one."""
        self._needed = clock.monotonic()
        """When the level was needed last."""

    def observe(self, reading: Reading) -> None:
        """Take a reading, settle the level, and take or undo one step towards it."""
        self.claim = claim = nearest(reading, soft_share_max=self._below_critical)
        self.used_bytes = round(claim.share * reading.budget_bytes)
        self.expected = self.forecaster.update(self.used_bytes)
        if self.expected.exceeded is not None:
            self._events.emit(Forecast(self.expected.exceeded))
        self._settle(claim, self._foreseen(reading), reading)
        self._before = claim.share
        self._climb()

    def retry_after_seconds(self) -> float:
        """When what is refused for pressure may come again: when the present fall, if it is one,
        has led out of the level, and that has lasted for the dwell time."""
        fall = -self.forecaster.trend_bytes_per_second
        above = self.used_bytes * (1 - self._exits[-1] / max(self.claim.share, self._exits[-1]))
        seconds = self._dwell_seconds + 2 * self.forecaster.period_seconds
        if above > 0:
            # Not falling yet: it has to begin first, so the time is doubled.
            seconds = seconds + above / fall if fall > 0 else 2 * seconds
        return min(_RETRY_SECONDS_MAX, max(seconds, self.forecaster.period_seconds))

    @property
    def _below_critical(self) -> float:
        return self._entries[-1] - 1e-9

    def _foreseen(self, reading: Reading) -> float:
        """The share with so much of the expected growth as counts; 0.0 when none is expected.
        Never critical by itself."""
        growth = (self.expected.bytes - self.used_bytes) / reading.budget_bytes
        if growth <= 0:
            return 0.0
        return min(self.claim.share + self._aggressiveness * growth, self._below_critical)

    def _settle(self, claim: Claim, foreseen: float, reading: Reading) -> None:
        now, current = self._clock.monotonic(), LEVELS.index(self.level)
        # A single reading may have met the peak of one call; two in a row are a state.
        share = max(min(claim.share, self._before), foreseen)
        entered = sum(share >= entry for entry in self._entries[1:])
        limit = claim.limit
        if not entered and (reading.stall_full_percent or 0.0) >= _STALL_FULL_PERCENT:
            entered, limit = 1, "stall"
        if entered > current:
            self._needed = now
            self._change(LEVELS[entered], limit, share)
        elif current and (entered == current or max(claim.share, foreseen) >= self._exits[current]):
            self._needed = now
        elif current and now - self._needed >= self._dwell_seconds:
            # One level at a time, each after its own dwell.
            self._needed = now
            self._change(LEVELS[current - 1], limit, claim.share)

    def _change(self, level: Level, limit: str, share: float) -> None:
        before, self.level = self.level, level
        self._events.emit(PressureChanged(level, before, limit, round(share, 4)))

    def _climb(self) -> None:
        level = LEVELS.index(self.level)
        wanted = sum(LEVELS.index(step.level) <= level for step in self._steps)
        while len(self.taken) < wanted:
            step = self._steps[len(self.taken)]
            self.taken.append(step)
            self._events.emit(StepTaken(step.name, self.level, _timed(step.do, step.name)))
            if self.level is not Level.CRITICAL:
                return
        if len(self.taken) > wanted:
            step = self.taken.pop()
            self._events.emit(StepUndone(step.name, self.level, _timed(step.undo, step.name)))

    def undo_all(self) -> None:
        """Back to the ground, in order, whatever fails on the way: the store is closing."""
        while self.taken:
            step = self.taken.pop()
            _timed(step.undo, step.name)

    def _refuse(self) -> None:
        self.refusing = True

    def _accept(self) -> None:
        self.refusing = False


def nearest(reading: Reading, *, soft_share_max: float = 1.0) -> Claim:
    """The limit that is nearest, by what cannot be given back at once. One that nobody asked for
    counts up to `soft_share_max`: for it, memopt gives up what it can, and refuses nothing."""
    evictable, outside = reading.evictable_bytes, reading.outside_bytes
    # What RSS has taken from the budget is no pressure on it; it leaves less of it.
    left = reading.budget_bytes - outside
    grown = max(0, reading.rss_bytes - reading.rss_start_bytes - evictable)
    resident = grown / max(1, reading.rss_limit_bytes - reading.rss_start_bytes)
    claims = [
        Claim("budget", (reading.reserved_bytes - evictable - outside) / max(1, left)),
        Claim("rss", resident if reading.rss_limit_is_hard else min(resident, soft_share_max)),
    ]
    if reading.memory_limit_bytes is not None and reading.memory_used_bytes is not None:
        limit = reading.memory_limit_bytes
        free = limit - max(0, reading.memory_used_bytes - evictable)
        # Of a large group the last part alone: three hundredths of 64 GiB are no shortage, and
        # whoever has a model in the rest would be refused for ever.
        part = min(limit, max(_GROUP_BYTES_MIN, _GROUP_BUDGETS * reading.budget_bytes))
        claims.append(Claim("memory", max(0.0, 1 - free / max(1, part))))
    if reading.data_limit_bytes is not None and reading.data_start_bytes is not None:
        # Not VmData: what was freed of it is used again before more is asked for.
        room = reading.data_limit_bytes - reading.data_start_bytes
        claims.append(Claim("data", grown / max(1, room)))
    return max(claims, key=lambda claim: claim.share)


def _timed(action: Callable[[], None], name: str) -> float:
    started = time.perf_counter()
    try:
        action()
    except MemoptError as error:
        # The store is closing, or there is no room even for this: the next step may help.
        _log.warning("the step %r failed: %s", name, error)
    except Exception:  # noqa: BLE001 - logged, with its traceback
        # A door: a defect in one step must be seen, and must keep no other from being taken or
        # undone. Refusing is the last of them, and the one that must not be missed.
        _log.exception("the step %r failed", name)
    return time.perf_counter() - started
