"""Peaks by agent type: a short history of each, and from it how high the next one may be.

What a peak is, its caller says: bytes of pages touched in a window, bytes a turn took. A type is
known by a number that `type_number` makes of its name, so that what is stored holds no name.

Invariant: at most `types_max` types with `peaks_max` peaks each, whatever is noted or restored.
Not here: what is done with a prediction.
"""

import collections
import math
import threading
from array import array
from hashlib import blake2b
from typing import Final

import msgspec

from memopt.base.errors import CorruptionError

NO_TYPE: Final = 0
"""Of sessions without an agent: a type like any other."""

_TYPE_BYTES: Final = 520
"""Of a type: its place in the table, its number, its array and what that holds to spare; measured
in the tests, without the peaks."""
_VERSION: Final = 1
PEAK_MAX: Final = (1 << 63) - 1
"""The largest peak that a table holds."""


def type_number(agent: str | None) -> int:
    """The number of an agent type, the same in every process. A digest of the name and not the
    name, for it is stored beyond the session that may have to be forgotten."""
    if agent is None:
        return NO_TYPE
    digest = blake2b(agent.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1


class Peaks:
    """The latest peaks of each agent type; the type that was noted longest ago leaves first.
    Thread-safe, constant memory."""

    def __init__(self, *, types_max: int = 64, peaks_max: int = 16, quantile: float = 0.9) -> None:
        assert types_max > 0
        assert peaks_max > 0
        assert 0 < quantile <= 1
        self._types_max = types_max
        self._peaks_max = peaks_max
        self._quantile = quantile
        self._peaks: collections.OrderedDict[int, array[int]] = collections.OrderedDict()
        """By type, oldest peak first."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._peaks)

    def note(self, agent_type: int, peak: int) -> None:
        """One more peak of a type; its oldest one goes when there are `peaks_max`."""
        with self._lock:
            self._note(agent_type, peak)

    def predicted(self, agent_type: int) -> int | None:
        """The upper quantile of a type's peaks. None: nothing is known of it."""
        with self._lock:
            peaks = self._peaks.get(agent_type)
            return None if peaks is None else self._upper(peaks)

    def predictions(self) -> dict[int, int]:
        """The same of every type that is known."""
        with self._lock:
            return {agent_type: self._upper(peaks) for agent_type, peaks in self._peaks.items()}

    def charged_bytes(self) -> int:
        """What a full table occupies: to be reserved once, when the table is made."""
        return self._types_max * (_TYPE_BYTES + 8 * self._peaks_max)

    def pack(self) -> bytes:
        """The table as bytes, oldest type first, to be stored where bytes are checksummed."""
        with self._lock:
            rows = [(agent_type, list(peaks)) for agent_type, peaks in self._peaks.items()]
        return msgspec.msgpack.encode((_VERSION, rows))

    def restore(self, packed: bytes) -> None:
        """Note what `pack` gave. Raises CorruptionError, and notes nothing, where it is not
        that."""
        try:
            version, rows = msgspec.msgpack.decode(
                packed, type=tuple[int, list[tuple[int, list[int]]]]
            )
        except msgspec.MsgspecError as error:
            raise CorruptionError(f"a table of peaks cannot be read: {error}") from error
        if version != _VERSION:
            raise CorruptionError(f"a table of peaks has version {version}, not {_VERSION}")
        if not all(
            0 <= number <= PEAK_MAX for agent_type, peaks in rows for number in (agent_type, *peaks)
        ):
            raise CorruptionError("a table of peaks holds a number out of bounds")
        with self._lock:
            for agent_type, peaks in rows:
                for peak in peaks:
                    self._note(agent_type, peak)

    def _note(self, agent_type: int, peak: int) -> None:
        peaks = self._peaks.get(agent_type)
        if peaks is None:
            if len(self._peaks) == self._types_max:
                self._peaks.popitem(last=False)
            peaks = self._peaks[agent_type] = array("q")
        else:
            self._peaks.move_to_end(agent_type)
        if len(peaks) == self._peaks_max:
            del peaks[0]
        peaks.append(peak)

    def _upper(self, peaks: "array[int]") -> int:
        return sorted(peaks)[math.ceil(self._quantile * len(peaks)) - 1]
