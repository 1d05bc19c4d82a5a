"""What is visible of a scope's messages: its sessions' current lines, and nothing else.

A message has its place on a line and is seen through a session. Lines that a session left, and what
lies behind the point where it left, are seen by nobody; what a fork shares with its parent is found
once, under the session that is the older of the two. Not here: reading messages (places.py).
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.errors import CorruptionError
from memopt.base.protocols import Tables
from memopt.base.recall_records import ScopeLine
from memopt.base.records import SEQ_BITS, SEQ_MASK
from memopt.recall.places import Places

Array = np.ndarray[Any, Any]

_SEQ_STOP: Final = SEQ_MASK + 1
_RANGE_BYTES: Final = 6 * 8


class Range(NamedTuple):
    """Messages [start, stop) of a session are on a line."""

    session: int
    line: int
    start: int
    stop: int


class Visible:
    """The ranges of one scope, in two orders. Never changes."""

    def __init__(self, ranges: list[Range]) -> None:
        """`ranges` of one line do not overlap."""
        table = np.array(ranges, np.int64).reshape(-1, 4)
        table = table[np.lexsort((table[:, 2], table[:, 1]))]
        self._sessions = table[:, 0]
        self._starts = table[:, 1] << SEQ_BITS | table[:, 2]
        self._stops = (table[:, 1] << SEQ_BITS) + table[:, 3]
        table = table[np.lexsort((table[:, 2], table[:, 0]))]
        self._lines = table[:, 1]
        self._firsts = table[:, 0] << SEQ_BITS | table[:, 2]

    @property
    def charged_bytes(self) -> int:
        return len(self._starts) * _RANGE_BYTES + 6 * 112

    def sessions(self, lines: Array, seqs: Array) -> Array:
        """The session that each message is seen through; 0 where it is not."""
        if not len(self._starts):
            return np.zeros(len(lines), np.int64)
        keys = lines << SEQ_BITS | seqs
        at = self._starts.searchsorted(keys, "right") - 1
        seen = (at >= 0) & (keys < self._stops[at])
        return np.where(seen, self._sessions[at], 0)

    def seen_at(self, places: Sequence[Places]) -> tuple[Array, Array]:
        """(sessions, seqs) through which the messages there are seen; without those that are not
        seen."""
        seqs = np.concatenate([np.arange(one.start, one.stop) for one in places])
        lines = np.repeat([one.line for one in places], [one.stop - one.start for one in places])
        sessions = self.sessions(lines, seqs)
        return sessions[sessions > 0], seqs[sessions > 0]

    def line(self, session: int, seq: int) -> int:
        """On which line a visible message of a session is."""
        at = int(self._firsts.searchsorted(session << SEQ_BITS | seq, "right")) - 1
        return int(self._lines[at])


def visible_of(tables: Tables, scope_number: int) -> Visible:
    """As of a snapshot. Raises CorruptionError where a line is missing."""
    return Visible(ranges_of(tables, scope_number))


def ranges_of(tables: Tables, scope_number: int) -> list[Range]:
    """What is visible of a scope; those of one line do not overlap."""
    by_line: dict[int, list[Range]] = {}
    for current in sorted(tables.scope_lines.current(scope_number)):
        own = Range(current.session, current.line, current.base, _SEQ_STOP)
        for found in (own, *_inherited(tables, current)):
            by_line.setdefault(found.line, []).append(found)
    ranges: list[Range] = []
    for several in by_line.values():
        taken: list[Range] = []
        for found in several:
            taken += _without(found, taken)
        ranges += taken
    return ranges


def _inherited(tables: Tables, line: ScopeLine) -> list[Range]:
    """What a line has from those before it."""
    found: list[Range] = []
    parent, stop = line.parent, line.base
    while parent:
        row = tables.lines.get(parent)
        if row is None:
            raise CorruptionError(f"line {parent} is missing")
        found.append(Range(line.session, row.line, row.base, stop))
        parent, stop = row.parent, row.base
    return found


def _without(wanted: Range, others: list[Range]) -> list[Range]:
    """The parts of a range that none of the others has."""
    left = [wanted]
    for other in others:
        left = [
            part
            for old in left
            for part in (
                old._replace(stop=min(old.stop, other.start)),
                old._replace(start=max(old.start, other.stop)),
            )
            if part.start < part.stop
        ]
    return left
