"""Watches for memory that only grows: RSS that rises through a whole window while as many sessions
are active as before.

What can be given back at once is left out, so a cache that fills is no leak. The suspect is the
owner of the budget that grew most in the window; when none grew by half as much as RSS did, it is
"outside memopt". A window is a few samples, so the watch costs nothing that can be measured.
"""

import collections
import itertools
from typing import Final, NamedTuple

from memopt.base.events import Events, LeakSuspected
from memopt.base.readings import Reading
from memopt.base.units import MIB

SAMPLES: Final = 12
"""In a window."""
_GROWN_BYTES_MIN: Final = 4 * MIB
_STEADY: Final = 0.05
OUTSIDE: Final = "outside memopt"


class _Sample(NamedTuple):
    at: float
    kept_bytes: int
    """RSS less what can be given back."""
    sessions: int
    owners: dict[str, int]


class LeakWatch:
    """For one thread at a time."""

    def __init__(self, window_seconds: float, events: Events) -> None:
        self._every_seconds = window_seconds / SAMPLES
        self._events = events
        self._samples: collections.deque[_Sample] = collections.deque(maxlen=SAMPLES + 1)
        self._next: float | None = None

    def is_due(self, now: float) -> bool:
        return self._next is None or now >= self._next

    def sample(
        self, now: float, reading: Reading, sessions: int, owners: dict[str, int]
    ) -> str | None:
        """Add a sample; the suspect, when the window ends with one. The next window begins
        afresh."""
        self._next = now + self._every_seconds
        kept = reading.rss_bytes - reading.evictable_bytes
        self._samples.append(_Sample(now, kept, sessions, owners))
        suspect = self._suspect()
        if suspect is not None:
            first, last = self._samples[0], self._samples[-1]
            grown = last.kept_bytes - first.kept_bytes
            self._events.emit(LeakSuspected(suspect, grown, round(last.at - first.at, 3)))
            self._samples.clear()
        return suspect

    def _suspect(self) -> str | None:
        samples = list(self._samples)
        if len(samples) <= SAMPLES:
            return None
        pairs = itertools.pairwise(samples)
        if any(after.kept_bytes <= before.kept_bytes for before, after in pairs):
            return None
        counts = [sample.sessions for sample in samples]
        if max(counts) - min(counts) > max(1, _STEADY * max(counts)):
            return None
        first, last = samples[0], samples[-1]
        grown = last.kept_bytes - first.kept_bytes
        if grown < _GROWN_BYTES_MIN:
            return None
        growth = {owner: size - first.owners.get(owner, 0) for owner, size in last.owners.items()}
        owner = max(growth, key=lambda name: growth[name], default=OUTSIDE)
        return owner if 2 * growth.get(owner, 0) >= grown else OUTSIDE
