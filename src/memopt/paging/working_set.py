"""Working sets: the bytes of the pages that each agent type touched in the last window, and from
the windows before how many to expect.

A page counts once a window: its row in the page table says in which window it was touched last,
and its shadow says so after it was evicted. So the count is exact for what is in RAM, costs one
comparison a touch, and needs no set of page numbers. A HyperLogLog a type would need no column,
but a hash a touch, and errs by some per cent. Windows follow each other; a sliding one would need
a time for each touch, not for each page.

Invariant: at most TYPES_MAX agent types at a time; those beyond share one entry. Not thread-safe:
the pager's lock is its lock. Not here: who leaves (policies, pools.py).
"""

from typing import Final, NamedTuple

from memopt.base.events import Thrashing
from memopt.base.peaks import Peaks, type_number
from memopt.paging.refaults import Refaults

TYPES_MAX: Final = 64
OTHERS: Final = 0
"""The entry of all agent types for which there was none left."""
_TYPE_BYTES: Final = 1400
"""Of an entry: its name of at most 512 characters, and its numbers."""
_SAVED_SECONDS: Final = 60.0
"""At most one commit in so long, and none without a new peak."""
_HALF_SECONDS: Final = 5.0


class WorkingSet(NamedTuple):
    """Bytes of one agent type's pages."""

    agent: str | None
    resident_bytes: int
    touched_bytes: int
    """In the window that ended last, as they are in L1."""
    predicted_bytes: int


class WorkingSets:
    """What is touched, by agent type; refaults; thrashing. Memory does not depend on what there
    is to count, and is reserved by whoever makes it."""

    def __init__(
        self, now: float, *, window_seconds: float = 60.0, shadows_max: int = 1024,
        thrashing_share: float = 0.5,
    ) -> None:  # fmt: skip
        self.window = 1
        """The number of the one that runs; no page was touched in window 0."""
        self.hits = 0
        """Touches answered from L1, ever."""
        self.faults = 0
        self.resident_bytes = [0] * TYPES_MAX
        """By type: of the pages in RAM. The pager adds and subtracts."""
        self.refaults = Refaults(
            shadows_max=shadows_max, share=thrashing_share, half_seconds=_HALF_SECONDS, now=now
        )
        self._window_seconds = window_seconds
        self._window_ends = now + window_seconds
        self._touched = [0] * TYPES_MAX
        self._touched_before = [0] * TYPES_MAX
        self._types: dict[str | None, int] = {}
        self._free = list(range(TYPES_MAX - 1, OTHERS, -1))
        self._peaks = Peaks(types_max=TYPES_MAX)
        self._saved_at = now
        self._is_new = False

    def type_of(self, agent: str | None) -> int:
        """The entry of an agent type."""
        known = self._types.get(agent)
        if known is not None:
            return known
        if not self._free:
            return OTHERS
        number = self._free.pop()
        self._types[agent] = number
        return number

    def touched(self, agent_type: int, size_bytes: int) -> None:
        """A page was touched for the first time in this window."""
        self._touched[agent_type] += size_bytes

    def faulted(self, page: int, resident_pages: int) -> tuple[int, bool]:
        """A page was brought in from home: the window it was touched in last, 0 where that is not
        known, and whether it is a refault."""
        self.faults += 1
        return self.refaults.faulted(page, resident_pages)

    def ended(self, now: float) -> Thrashing | None:
        """End the window when it is time. An event when thrashing begins or ends."""
        if now >= self._window_ends:
            for agent, number in list(self._types.items()):
                self._end(agent, number)
            self._touched_before, self._touched = self._touched, [0] * TYPES_MAX
            self.window += 1
            self._window_ends = now + self._window_seconds
        return self.refaults.judged(now, self.hits + self.faults)

    def sets(self) -> list[WorkingSet]:
        """Of every type there is an entry for, the largest prediction first."""
        found = [
            WorkingSet(
                agent, self.resident_bytes[number], self._touched_before[number],
                self._peaks.predicted(type_number(agent)) or 0,
            )
            for agent, number in self._types.items()
        ]  # fmt: skip
        return sorted(found, key=lambda one: -one.predicted_bytes)

    def shares(self) -> list[float]:
        """By entry: the part of all predicted bytes that a type may expect. A type of which
        nothing is known yet counts with what it touched in this window."""
        wanted = [float(touched) for touched in self._touched]
        for agent, number in self._types.items():
            predicted = self._peaks.predicted(type_number(agent))
            wanted[number] = float(max(wanted[number], predicted or 0))
        total = sum(wanted)
        return [bytes_ / total if total else 0.0 for bytes_ in wanted]

    def unsaved(self, now: float) -> bytes | None:
        """The history to be stored, when there is a new one and it is time. What is given out
        counts as saved: if it cannot be written, the next window's will."""
        if not self._is_new or now < self._saved_at + _SAVED_SECONDS:
            return None
        self._is_new = False
        self._saved_at = now
        return self._peaks.pack()

    def restore(self, packed: bytes) -> None:
        """Start from a stored history. Raises CorruptionError where it is none."""
        self._peaks.restore(packed)

    def charged_bytes(self) -> int:
        return self._peaks.charged_bytes() + self.refaults.charged_bytes() + TYPES_MAX * _TYPE_BYTES

    def _end(self, agent: str | None, number: int) -> None:
        if self._touched[number]:
            self._peaks.note(type_number(agent), self._touched[number])
            self._is_new = True
        elif not self.resident_bytes[number] and not self._touched_before[number]:
            # Nothing here refers to it: its place is for another, and its peaks stay.
            del self._types[agent]
            self._free.append(number)
