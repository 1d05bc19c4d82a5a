"""W-TinyLFU: newcomers get a small window, and must then be asked for more often than who is there.

Owns the three queues and a frequency sketch. Invariant: the byte counts are those of the queues.
Not here: a window that adapts its share.
"""

from collections import OrderedDict
from typing import Final

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes
from memopt.policies.sketch import FrequencySketch

_WINDOW_PERCENT: Final = 1
"""Of the resident bytes."""
_PROTECTED_PERCENT: Final = 80
"""Of the bytes outside the window."""


class WTinyLfu:
    """A window in order of use, a segmented main queue, and a contest between them by frequency.
    Constant time a call, but for the sketch's aging.

    Source: G. Einziger, R. Friedman, B. Manes, "TinyLFU: a highly efficient cache admission
    policy", ACM Transactions on Storage 13(4), 2017, section 4. There shares are of a capacity in
    objects; here they are bytes, of what is resident. Who leaves a full window goes to the end of
    the main queue's probation; when room is needed, it has to be estimated above whoever is first
    there, or goes itself.

    About 270 bytes a member, of which the sketch has 8 to 32; no ghosts.
    """

    __slots__ = (
        "_candidate",
        "_named",
        "_passed_over",
        "_probation",
        "_protected",
        "_protected_bytes",
        "_resident_bytes",
        "_shared",
        "_sketch",
        "_window",
        "_window_bytes",
    )

    def __init__(self) -> None:
        self._window: OrderedDict[int, int] = OrderedDict()
        """Key to size_bytes, the least recently used first; so are the other two."""
        self._probation: OrderedDict[int, int] = OrderedDict()
        self._protected: OrderedDict[int, int] = OrderedDict()
        self._sketch = FrequencySketch()
        self._shared = False
        """The sketch is somebody else's, who feeds, fits and charges it."""
        self._window_bytes = self._protected_bytes = self._resident_bytes = 0
        self._candidate: int | None = None
        """Who left the window last, until the contest."""
        self._named: int | None = None
        self._passed_over = 0
        """Members named since the last removal, and held."""

    def read_from(self, sketch: FrequencySketch) -> None:
        """Take estimates from a sketch that is fed whoever is in charge, in place of its own."""
        self._sketch = sketch
        self._shared = True

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        window = self._window
        assert key not in window, f"{key} is admitted twice"
        assert key not in self._probation, f"{key} is admitted twice"
        assert key not in self._protected, f"{key} is admitted twice"
        assert size_bytes >= 0, f"{key} has {size_bytes} bytes"
        window[key] = size_bytes
        self._window_bytes += size_bytes
        self._resident_bytes += size_bytes
        # Above its share, and more than the newest: a window of one page lets nobody prove
        # anything, however large the page is.
        while self._window_bytes * 100 > self._resident_bytes * _WINDOW_PERCENT and len(window) > 1:
            self._candidate, size_bytes = window.popitem(last=False)
            self._window_bytes -= size_bytes
            self._probation[self._candidate] = size_bytes
        if not (len(window) + len(self._probation) + len(self._protected)) & COMPACTION_MASK:
            self._fit()
        if not self._shared:
            self._sketch.add(key)

    def touched(self, key: int) -> None:
        if key in self._protected:
            self._protected.move_to_end(key)
        elif key in self._window:
            self._window.move_to_end(key)
        else:
            assert key in self._probation, f"{key} is touched and no member"
            size_bytes = self._probation.pop(key)
            self._protected[key] = size_bytes
            self._protected_bytes += size_bytes
            self._demote()
        if not self._shared:
            self._sketch.add(key)

    def removed(self, key: int) -> None:
        if key in self._probation:
            size_bytes = self._probation.pop(key)
        elif key in self._window:
            size_bytes = self._window.pop(key)
            self._window_bytes -= size_bytes
        else:
            assert key in self._protected, f"{key} is removed and no member"
            size_bytes = self._protected.pop(key)
            self._protected_bytes -= size_bytes
        self._resident_bytes -= size_bytes
        # By the sum of members: those come and go one by one.
        members = len(self._window) + len(self._probation) + len(self._protected)
        if not members & COMPACTION_MASK:
            self._fit()
        self._passed_over = 0
        if key == self._named:
            self._named = None

    def victim(self) -> int | None:
        if self._named is not None:
            self._pass_over(self._named)
        self._named = self._weakest()
        return self._named

    def charged_bytes(self) -> int:
        tables = (self._window, self._probation, self._protected)
        members = sum(map(len, tables))
        own = table_bytes(*tables) + members * 2 * INT_BYTES
        return own if self._shared else own + self._sketch.charged_bytes()

    def check(self) -> None:
        """Assert the invariant."""
        tables = (self._window, self._probation, self._protected)
        assert len(set().union(*tables)) == sum(map(len, tables))
        window, probation, protected = (sum(table.values()) for table in tables)
        assert (window, protected) == (self._window_bytes, self._protected_bytes)
        assert window + probation + protected == self._resident_bytes

    def _fit(self) -> None:
        if not self._shared:
            members = len(self._window) + len(self._probation) + len(self._protected)
            self._sketch.fit(members + COMPACTION_MASK)
        self._window = compacted(self._window)
        self._probation = compacted(self._probation)
        self._protected = compacted(self._protected)

    def _weakest(self) -> int | None:
        others = len(self._probation) + len(self._protected)
        if self._passed_over and self._window and self._passed_over >= others:
            return next(iter(self._window))
        if not self._probation:
            return next(iter(self._protected or self._window), None)
        rival, candidate = next(iter(self._probation)), self._candidate
        self._candidate = None
        if candidate is None or candidate not in self._probation:
            return rival
        estimate = self._sketch.estimate
        return candidate if estimate(candidate) <= estimate(rival) else rival

    def _graduate(self, key: int) -> None:
        size_bytes = self._window.pop(key)
        self._window_bytes -= size_bytes
        self._probation[key] = size_bytes

    def _demote(self) -> None:
        main_bytes = self._resident_bytes - self._window_bytes
        while len(self._protected) > 1 and (
            self._protected_bytes * 100 > main_bytes * _PROTECTED_PERCENT
        ):
            key, size_bytes = self._protected.popitem(last=False)
            self._protected_bytes -= size_bytes
            self._probation[key] = size_bytes

    def _pass_over(self, key: int) -> None:
        """Take a member that was named and is still here for one that is in use."""
        self._passed_over += 1
        if key in self._protected:
            self._protected.move_to_end(key)
            return
        if key in self._window:
            self._graduate(key)
        size_bytes = self._probation.pop(key)
        self._protected[key] = size_bytes
        self._protected_bytes += size_bytes
