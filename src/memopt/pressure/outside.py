"""Keeps RSS below its limit by charging to the budget what the accounts do not know.

A process holds more than its accounts say: what callers decoded and keep, holes in the heap, other
libraries. As RSS comes near its limit, as much as it is too near is reserved under the owner
"outside", so pages go and stay away; as RSS falls, it is given back. It acts on RSS itself, so that
nobody has to know what is outside, nor whether what was freed has reached the system.

Invariant: what it holds leaves room to read and write with: an eighth of the budget, and half of it
where nobody asked for the limit. Not here: how near is too near for levels (governor.py).
"""

import contextlib
from collections.abc import Callable
from typing import Final

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError
from memopt.base.events import Events, OutsideCharged
from memopt.base.readings import Reading

OWNER: Final = "outside"
KEPT: Final = 1 / 8
"""Of the budget: what is never taken."""
_SOFT_MAX: Final = 1 / 2
_NO_SLACK: Final = 1 / 16
"""Of what RSS may grow by, where that is less than the budget."""
_LEAST_BYTES: Final = 64 * 1024
_TRIM_READINGS: Final = 8
"""In the dead band, after so many: what it holds may stand for holes in the heap by now."""


class Outside:
    """For one thread at a time."""

    def __init__(self, budget: Budget, trim: Callable[[], None], events: Events) -> None:
        self._budget = budget
        self._trim = trim
        self._events = events
        self._untrimmed = 0
        """Readings since the heap was trimmed."""

    @property
    def held_bytes(self) -> int:
        return self._budget.held_bytes(OWNER)

    def settle(self, reading: Reading) -> None:
        """Take from the budget, or give back to it, what this reading asks for."""
        room, slack = room_bytes(reading), slack_bytes(reading)
        self._untrimmed += 1
        if room < slack:
            self._take(slack - room, reading)
        elif self.held_bytes and room > 1.5 * slack:
            self._give_back(int(room - 1.5 * slack))
        elif self.held_bytes and self._untrimmed >= _TRIM_READINGS:
            self._trim_heap()

    def close(self) -> None:
        self._budget.release_all(OWNER)

    def _take(self, size_bytes: int, reading: Reading) -> None:
        budget, held = self._budget, self.held_bytes
        unavoidable = reading.reserved_bytes - reading.evictable_bytes - held
        most = int(budget.limit_bytes * (1 - KEPT)) - unavoidable
        if not is_hard(reading):
            most = min(most, int(budget.limit_bytes * _SOFT_MAX))
        size_bytes = min(size_bytes, most - held)
        if size_bytes >= _LEAST_BYTES:
            with contextlib.suppress(BudgetError):
                budget.reserve(OWNER, size_bytes)
                self._events.emit(OutsideCharged(size_bytes, self.held_bytes))
        # Also when nothing more may be taken: holes in the heap are what can still be given back.
        self._trim_heap()

    def _trim_heap(self) -> None:
        self._untrimmed = 0
        self._trim()

    def _give_back(self, size_bytes: int) -> None:
        size_bytes = min(size_bytes, self.held_bytes)
        self._budget.release(OWNER, size_bytes)
        self._events.emit(OutsideCharged(-size_bytes, self.held_bytes))


def room_bytes(reading: Reading) -> int:
    """By how much RSS may grow until the first of its limits; negative beyond it."""
    room = reading.rss_limit_bytes - reading.rss_bytes
    if reading.memory_limit_bytes is not None and reading.memory_used_bytes is not None:
        room = min(room, reading.memory_limit_bytes - reading.memory_used_bytes)
    if reading.data_limit_bytes is not None and reading.data_start_bytes is not None:
        allowed = reading.data_limit_bytes - reading.data_start_bytes
        room = min(room, allowed - (reading.rss_bytes - reading.rss_start_bytes))
    return room


def slack_bytes(reading: Reading) -> int:
    """What is kept free: half of what RSS may exceed the budget by."""
    allowed = room_bytes(reading) + reading.rss_bytes - reading.rss_start_bytes
    return max(int(allowed * _NO_SLACK), (allowed - reading.budget_bytes) // 2, 0)


def is_hard(reading: Reading) -> bool:
    """Whether the first of the limits on RSS is one that somebody asked for."""
    return reading.rss_limit_is_hard or room_bytes(reading) < (
        reading.rss_limit_bytes - reading.rss_bytes
    )
