"""The questions of one scope in RAM, as arrays, and the nearest of them.

Owns: vectors (int8), their sketches, and the keys and times of answers, each with room to grow.
Invariant: an answer that was added and not taken out is found, if it is the nearest; nothing of
another scope is here. Not here: who is in RAM (residents.py), and what near means (matching.py).

A reader takes a view, which stays as it is while others add: arrays are written behind what a view
shows, and replaced by larger ones rather than moved.
"""

import threading
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.answers.entry import NEVER_US, Entry
from memopt.embedding.lsh import Hyperplanes, closest, distances

NEIGHBOURS: Final = 16
"""So many are looked at."""
SKETCH_BITS: Final = 192
CANDIDATES: Final = 256
"""Of sketches, which are then compared exactly. Of 100,000 questions the nearest is found in 992 of
1,000 cases; with 256 bits and 512 candidates in 996, which takes a third longer."""
SCANNED_MAX: Final = 4096
"""Up to so many vectors are all compared exactly."""
_GROWTH: Final = 1.25
_ROOM_MIN: Final = 64
_GONE_US: Final = -(2**63)
_GONE_SHARE: Final = 0.25


class Neighbours(NamedTuple):
    """The nearest questions, nearest first."""

    answers: list[int]
    cosines: Any
    """float32 (n)."""
    responses: Any
    """u64 (n): equal where the responses say the same."""

    def reordered(self, kept: list[int], cosines: Any) -> "Neighbours":
        """Those at the places `kept`, by other cosines."""
        order = np.argsort(-cosines, kind="stable")
        places = np.array(kept, np.intp)[order]
        return Neighbours(
            [self.answers[place] for place in places], cosines[order], self.responses[places]
        )


class _Columns(NamedTuple):
    answers: Any
    contexts: Any
    responses: Any
    expiries: Any
    scales: Any
    codes: Any
    sketches: Any

    @classmethod
    def empty(cls, room: int, dimensions: int, words: int) -> "_Columns":
        return cls(
            np.zeros(room, np.int64), np.zeros(room, np.uint64), np.zeros(room, np.uint64),
            np.zeros(room, np.int64), np.zeros(room, np.float32),
            np.zeros((room, dimensions), np.int8), np.zeros((words, room), np.uint64),
        )  # fmt: skip

    def grown(self, room: int, count: int) -> "_Columns":
        more = _Columns.empty(room, self.codes.shape[1], len(self.sketches))
        for old, new in zip(self[:-1], more[:-1], strict=True):
            new[:count] = old[:count]
        more.sketches[:, :count] = self.sketches[:, :count]
        return more

    @property
    def room(self) -> int:
        return len(self.answers)

    @property
    def size_bytes(self) -> int:
        return sum(column.nbytes for column in self)


def planes_for(dimensions: int) -> Hyperplanes:
    """What questions are sketched by."""
    return Hyperplanes(dimensions, SKETCH_BITS)


def room_bytes(room: int, planes: Hyperplanes) -> int:
    """What columns with room for so many occupy."""
    return room * (36 + planes.dimensions + planes.bits // 8)


def room_for(count: int) -> int:
    return max(_ROOM_MIN, int(count * _GROWTH))


class ScopeQuestions:
    """Thread-safe. Whoever adds sees to it that its room is paid for."""

    def __init__(self, planes: Hyperplanes, room: int) -> None:
        self._planes = planes
        self._columns = _Columns.empty(room, planes.dimensions, planes.bits // 64)
        self._count = 0
        self._gone = 0
        self._context: int | None = None
        """That of all, while there is one; 0 when there are several."""
        self._soonest_us = NEVER_US
        """No answer expires before it."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count - self._gone

    @property
    def size_bytes(self) -> int:
        return self._columns.size_bytes

    @property
    def free(self) -> int:
        """How many can be added before it has to grow."""
        return self._columns.room - self._count

    @property
    def is_full(self) -> bool:
        return not self.free

    @property
    def is_sparse(self) -> bool:
        """So many are gone that it is better brought in anew."""
        return self._gone > max(_ROOM_MIN, _GONE_SHARE * self._count)

    # -- changing ---------------------------------------------------------------------------------

    def grow(self) -> None:
        with self._lock:
            self._columns = self._columns.grown(room_for(self._count), self._count)

    def grown_bytes(self) -> int:
        """What it will occupy once it is grown."""
        return room_bytes(room_for(self._count), self._planes)

    def add(self, answers: list[int], entries: list[Entry]) -> None:
        """In rising order, above those that are here; there is room for them."""
        with self._lock:
            start = self._count
            stop = start + len(answers)
            columns = self._columns
            assert stop <= columns.room
            columns.answers[start:stop] = answers
            columns.contexts[start:stop] = [entry.context for entry in entries]
            columns.responses[start:stop] = [entry.response for entry in entries]
            columns.expiries[start:stop] = [entry.expires_us for entry in entries]
            columns.scales[start:stop] = [entry.scale for entry in entries]
            codes = np.stack([entry.codes for entry in entries])
            columns.codes[start:stop] = codes
            # The scale changes no side.
            columns.sketches[:, start:stop] = self._planes.sketch(codes.astype(np.float32))
            for entry in entries:
                if self._context is None:
                    self._context = entry.context
                elif self._context != entry.context:
                    self._context = 0
                self._soonest_us = min(self._soonest_us, entry.expires_us)
            self._count = stop

    def take_out(self, answer: int) -> bool:
        """Whether it was there."""
        with self._lock:
            columns = self._columns
            place = int(np.searchsorted(columns.answers[: self._count], answer))
            there = (
                place < self._count
                and columns.answers[place] == answer
                and columns.expiries[place] != _GONE_US
            )
            if there:
                columns.expiries[place] = self._soonest_us = _GONE_US
                self._gone += 1
            return bool(there)

    # -- looking ----------------------------------------------------------------------------------

    def nearest(self, vector: Any, context: int | None, now_us: int) -> Neighbours:
        """The nearest of a context (None: of any) that have not expired. `vector`: float32 (d), of
        unit length."""
        columns, count = self._columns, self._count
        allowed = self._allowed(columns, count, context, now_us)
        if allowed is None:
            places = np.arange(count) if count <= SCANNED_MAX else None
        else:
            places = np.flatnonzero(allowed)
            if len(places) > SCANNED_MAX:
                places = None
        if places is None:
            probe = self._planes.sketch(vector[None])[:, 0]
            found = distances(columns.sketches[:, :count], probe)
            if allowed is not None:
                found[~allowed] = 255
            places = closest(found, CANDIDATES)
        cosines = (columns.codes[places].astype(np.float32) @ vector) * columns.scales[places]
        if len(places) > NEIGHBOURS:
            best = np.argpartition(cosines, -NEIGHBOURS)[-NEIGHBOURS:]
            places, cosines = places[best], cosines[best]
        # Of equals, the newest: it was said last.
        order = np.lexsort((-places, -cosines))
        places, cosines = places[order], cosines[order]
        return Neighbours(columns.answers[places].tolist(), cosines, columns.responses[places])

    def _allowed(self, columns: _Columns, count: int, context: int | None, now_us: int) -> Any:
        """Which may be found; None for all of them."""
        allowed: Any = None
        if self._soonest_us <= now_us:
            allowed = columns.expiries[:count] > now_us
        if context is not None and self._context != context:
            same = columns.contexts[:count] == np.uint64(context)
            allowed = same if allowed is None else allowed & same
        return allowed

    def has_context(self, context: int) -> bool:
        columns, count = self._columns, self._count
        if self._context == context:
            return count > self._gone
        live = columns.expiries[:count] != _GONE_US
        return bool(np.any(live & (columns.contexts[:count] == np.uint64(context))))
