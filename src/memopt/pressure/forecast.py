"""What will be used in a while: damped Holt, and an upper line that is learnt from its errors.

Level and trend are smoothed exponentially and the trend is damped (Gardner and McKenzie 1985), so a
ramp is followed and a short burst is not taken for a ramp. How far the future was above the
forecast is known once its moment has come; the upper forecast adds a high quantile of the last such
errors (split conformal prediction on a sliding window, Vovk et al. 2005), so it needs no assumption
about how usage moves. How often it was exceeded all the same is counted.

Not here: reading figures (probe.py), and what is done about them (governor.py).
"""

import bisect
import collections
import math
from typing import Final, NamedTuple

HORIZON_SECONDS: Final = 10.0
LIMIT_SECONDS_MAX: Final = 60.0
"""How far ahead a trend is followed to say when a limit is reached."""
WINDOW: Final = 720
"""Errors that are remembered: three minutes at four readings a second."""
_LEVEL_WEIGHT: Final = 0.35
_TREND_WEIGHT: Final = 0.1
_WEIGHT_SECONDS: Final = 0.25
"""The time between readings for which those weights are; for another they are made to suit."""
_DAMPING: Final = 0.8
"""What is left of a trend after a second."""
_QUANTILE: Final = 0.98


class Expected(NamedTuple):
    """Bytes at the horizon."""

    bytes: float
    upper_bytes: float
    exceeded: bool | None
    """Whether the upper forecast for this very moment was exceeded; None: there was none yet."""


class Forecaster:
    """Takes one reading every `period_seconds`. Constant memory."""

    def __init__(self, period_seconds: float, *, horizon_seconds: float = HORIZON_SECONDS) -> None:
        self.period_seconds = period_seconds
        self._steps = max(1, round(horizon_seconds / period_seconds))
        self._damping = _DAMPING**period_seconds
        part = period_seconds / _WEIGHT_SECONDS
        self._level_weight = 1 - (1 - _LEVEL_WEIGHT) ** part
        self._trend_weight = self._level_weight * (1 - (1 - _TREND_WEIGHT) ** part)
        self._reach = sum(self._damping**step for step in range(1, self._steps + 1))
        self._level: float | None = None
        self._trend = 0.0
        self._least, self._most = math.inf, 0.0
        self._open: collections.deque[tuple[float, float]] = collections.deque()
        """(forecast, upper forecast) whose moment is still to come."""
        self._errors: collections.deque[float] = collections.deque()
        self._sorted: list[float] = []
        self.scored = 0
        self.exceeded = 0

    def update(self, used_bytes: float) -> Expected:
        """Add a reading; what is expected now."""
        level = self._level
        if level is None:
            self._level = level = used_bytes
        else:
            step = self._damping * self._trend
            error = used_bytes - level - step
            level += step + self._level_weight * error
            self._level = level
            self._trend = step + self._trend_weight * error
        expected = level + self._trend * self._reach
        if expected < 0.0:
            expected = 0.0
        exceeded = self._score(used_bytes) if len(self._open) == self._steps else None
        ranked = self._sorted
        above = ranked[min(len(ranked) - 1, int(len(ranked) * _QUANTILE))] if ranked else 0.0
        if self.scored < self._steps:
            # Nothing, or little, is known of its errors yet: as much again as it moved so far.
            self._least = min(self._least, used_bytes)
            self._most = max(self._most, used_bytes)
            above = max(above, self._most - self._least)
        upper = expected + above if above > 0.0 else expected
        self._open.append((expected, upper))
        return Expected(expected, upper, exceeded)

    def _score(self, used_bytes: float) -> bool:
        expected, upper = self._open.popleft()
        error = used_bytes - expected
        self._errors.append(error)
        bisect.insort(self._sorted, error)
        if len(self._errors) > WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._errors.popleft())]
        self.scored += 1
        # Half a byte: figures are whole bytes, and forecasts of them are not.
        exceeded = used_bytes > upper + 0.5
        self.exceeded += exceeded
        return exceeded

    @property
    def exceeded_share(self) -> float:
        """Of the upper forecasts whose moment has come; 0.0 before the first."""
        return self.exceeded / self.scored if self.scored else 0.0

    @property
    def trend_bytes_per_second(self) -> float:
        return self._trend / self.period_seconds

    def limit_seconds(self, limit_bytes: float) -> float | None:
        """When the limit is reached if the present trend goes on as it is; None when that takes
        longer than LIMIT_SECONDS_MAX."""
        if self._level is None:
            return None
        left = limit_bytes - self._level
        if left <= 0.0:
            return 0.0
        trend = self.trend_bytes_per_second
        seconds = left / trend if trend > 0.0 else LIMIT_SECONDS_MAX + 1
        return seconds if seconds <= LIMIT_SECONDS_MAX else None
