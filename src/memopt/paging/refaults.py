"""Refaults: what was let go for room and was wanted back soon, and thrashing: too much of that.

What leaves RAM for want of room leaves a shadow: its number, which eviction it was, and the window
in which it was touched last. A fault that finds a shadow is a refault, at a distance: evictions
since its own. At most as many as there are pages in RAM: then twice the RAM would have kept it.
(J. Weiner, "mm: thrash detection-based file cache sizing", Linux 3.15, 2014.)

Not thread-safe: the pager's lock is its lock. Not here: what is done about thrashing (pressure).
"""

from array import array
from typing import Final, NamedTuple

from memopt.base.events import Thrashing

_WAYS: Final = 4
_SPARE: Final = 2
"""Places for each shadow that counts, so that few are overwritten before their time."""
_PLACE_BYTES: Final = 20
_MIX: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1
_DISTANCES: Final = 40
"""Powers of two in which distances are counted."""


class Shadow(NamedTuple):
    distance: int
    """Evictions since its own, which is not counted."""
    window: int
    """In which the page was touched last."""


class Shadows:
    """The last `shadows_max` evictions, by page, in arrays of a fixed size that are made at the
    first eviction. A set has four places, and the oldest entry makes way."""

    def __init__(self, shadows_max: int) -> None:
        assert shadows_max > 0
        self._shadows_max = shadows_max
        self._sets = 1 << max(0, (_SPARE * shadows_max // _WAYS - 1).bit_length())
        self._pages = array("q")
        self._numbers = array("q")
        self._windows = array("I")
        self._evictions = 0

    def left(self, page: int, window: int) -> None:
        """`page` was evicted for room."""
        if not self._pages:
            places = self._sets * _WAYS
            # Repeated, because an array that is made from bytes keeps room to grow.
            self._pages = array("q", (0,)) * places
            self._numbers = array("q", (0,)) * places
            self._windows = array("I", (0,)) * places
        self._evictions += 1
        place = oldest = self._first(page)
        for place in range(oldest, oldest + _WAYS):
            if self._pages[place] == page:
                break
            if self._numbers[place] < self._numbers[oldest]:
                oldest = place
        else:
            place = oldest
        self._pages[place] = page
        self._numbers[place] = self._evictions
        self._windows[place] = window

    def taken(self, page: int) -> Shadow | None:
        """The shadow of a page that is back, which is gone with this; None when there is none, or
        none that still counts."""
        if not self._pages:
            return None
        first = self._first(page)
        for place in range(first, first + _WAYS):
            if self._pages[place] == page:
                distance = self._evictions - self._numbers[place]
                self._pages[place] = self._numbers[place] = 0
                if distance >= self._shadows_max:
                    return None
                return Shadow(distance, self._windows[place])
        return None

    def charged_bytes(self) -> int:
        return self._sets * _WAYS * _PLACE_BYTES

    def _first(self, page: int) -> int:
        mixed = page * _MIX & _MASK
        return ((mixed ^ mixed >> 32) & self._sets - 1) * _WAYS


class Refaults:
    """Counts refaults among faults from the home, and says when that is thrashing: when it is more
    than `share` of the faults in a window of two halves, and faults are a tenth of all touches. It
    ends at half that share, or when there are hardly any faults."""

    FAULTS_MIN: Final = 64
    """In the window: fewer say nothing."""
    _TOUCHES_PER_FAULT_MAX: Final = 10

    def __init__(self, *, shadows_max: int, share: float, half_seconds: float, now: float) -> None:
        self._shadows = Shadows(shadows_max)
        self._share = share
        self._half_seconds = half_seconds
        self._half_ends = now + half_seconds
        self._faults = self._refaults = self._touches = 0
        self._before = (0, 0, 0)
        self._distances = [0] * _DISTANCES
        self.is_thrashing = False

    def left(self, page: int, window: int) -> None:
        self._shadows.left(page, window)

    def faulted(self, page: int, resident_pages: int) -> tuple[int, bool]:
        """A page was brought in from home: the window it was touched in last, 0 where there is no
        shadow, and whether it is a refault."""
        self._faults += 1
        shadow = self._shadows.taken(page)
        if shadow is None:
            return 0, False
        self._distances[shadow.distance.bit_length()] += 1
        is_refault = shadow.distance <= resident_pages
        self._refaults += is_refault
        return shadow.window, is_refault

    def judged(self, now: float, touches: int) -> Thrashing | None:
        """Look at the window once a half of it has passed; an event when it begins or ends.
        `touches` are all so far, faults included."""
        if now < self._half_ends:
            return None
        here = (self._faults, self._refaults, touches - self._touches)
        if now >= self._half_ends + self._half_seconds:
            # Nobody looked for longer than a half: what came before is no longer in the window.
            self._before = (0, 0, 0)
        faults, refaults, touched = map(sum, zip(self._before, here, strict=True))
        self._before = here
        self._faults = self._refaults = 0
        self._touches = touches
        self._half_ends = now + self._half_seconds
        if self.is_thrashing:
            goes_on = faults >= self.FAULTS_MIN // 2 and refaults >= self._share / 2 * faults
        else:
            goes_on = (
                faults >= self.FAULTS_MIN
                and faults * self._TOUCHES_PER_FAULT_MAX >= touched
                and refaults > self._share * faults
            )
        if goes_on is self.is_thrashing:
            return None
        self.is_thrashing = goes_on
        return Thrashing(goes_on, refaults, faults)

    def distance_p50(self) -> int:
        """The median distance of everything that found a shadow, rounded up to a power of two; 0
        when nothing did."""
        rank, seen = sum(self._distances) / 2, 0
        for power, count in enumerate(self._distances):
            seen += count
            if count and seen >= rank:
                return 1 << power
        return 0

    def charged_bytes(self) -> int:
        return self._shadows.charged_bytes() + 8 * 2 * _DISTANCES
