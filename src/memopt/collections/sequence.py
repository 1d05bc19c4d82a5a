"""The handle on a sequence: a list's verbs over encoded values."""

import collections.abc
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex, overload

from memopt.base.containers import StoredSequence
from memopt.codecs.values import encode_value, equal
from memopt.collections.mappings import MISSING
from memopt.collections.rows import Ref
from memopt.collections.sequences import Run, Sequences


class Sequence(StoredSequence):
    """A list that lives in the store: it spills instead of growing, and lives as long as its owner.

    Thread-safe; cheap to make and to throw away. Values as in a mapping; what is read is fresh.
    Taking and adding at either end costs one row; in the middle, the entries of the shorter side
    are moved one by one. Every call is one commit, `extend` and slices too. Iteration goes by
    position, as a list's does, and sees what changes.
    """

    __slots__ = ("_agent", "_ref", "_store")

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, store: Sequences, ref: Ref, agent: str | None) -> None:
        self._store = store
        self._ref = ref
        self._agent = agent

    @property
    def name(self) -> str:
        return self._ref.name

    def __repr__(self) -> str:
        owner = f"scope={self._ref.scope!r}"
        if self._ref.session is not None:
            owner += f", session={self._ref.session!r}"
        return f"Sequence({self._ref.name!r}, {owner})"

    # -- reading ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._store.count(self._ref)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._store.part(self._ref, index)
        value = self._store.value(self._ref, _index(index))
        if value is MISSING:
            raise IndexError("sequence index out of range")
        return value

    def __iter__(self) -> Iterator[Any]:
        at, run = 0, None
        while True:
            if run is None or not _holds(run):
                run = self._store.run(self._ref, at, 1 << 62)
                if run is None or not run.entries:
                    return
            yield self._store.value_of(self._ref, run.entries.pop())
            at += 1

    def __reversed__(self) -> Iterator[Any]:
        at, run = len(self) - 1, None
        while at >= 0:
            if run is None or not _holds(run):
                if at >= len(self):
                    return
                run = self._store.run(self._ref, 0, at + 1, descending=True)
                if run is None or not run.entries:
                    return
            yield self._store.value_of(self._ref, run.entries.pop())
            at -= 1

    def __contains__(self, value: object) -> bool:
        return any(equal(value, found) for found in self)

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        length = len(self)
        first = max(0, start + length) if start < 0 else start
        behind = length if stop is None else max(0, stop + length) if stop < 0 else stop
        for position, found in enumerate(self):
            if position >= behind:
                break
            if position >= first and equal(value, found):
                return position
        raise ValueError(f"{value!r} is not in the sequence")

    def count(self, value: Any) -> int:
        return sum(1 for found in self if equal(value, found))

    def copy(self) -> list[Any]:
        """A list with everything in it."""
        return self[:]

    __copy__ = copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a stored sequence cannot be pickled or deep-copied: copy() gives a list")

    def __lt__(self, other: Any) -> bool:
        return self.copy() < list(other) if isinstance(other, list | Sequence) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return self.copy() <= list(other) if isinstance(other, list | Sequence) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return self.copy() > list(other) if isinstance(other, list | Sequence) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return self.copy() >= list(other) if isinstance(other, list | Sequence) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(equal, self, other))

    def __add__(self, other: Any) -> list[Any]:
        if not isinstance(other, list | Sequence):
            return NotImplemented
        return self.copy() + list(other)

    def __radd__(self, other: Any) -> list[Any]:
        if not isinstance(other, list):
            return NotImplemented
        return other + self.copy()

    def __mul__(self, times: SupportsIndex) -> list[Any]:
        return self.copy() * times

    __rmul__ = __mul__

    # -- changing ---------------------------------------------------------------------------------

    @overload
    def __setitem__(self, index: int, value: Any) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[Any]) -> None: ...
    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            self._store.put_slice(self._ref, self._agent, index, self._encoded_all(value))
        elif not self._store.put(self._ref, _index(index), self._encoded(value, "value")):
            raise IndexError("sequence assignment index out of range")

    def __delitem__(self, index: int | slice) -> None:
        where = index if isinstance(index, slice) else _index(index)
        if not self._store.delete(self._ref, where):
            raise IndexError("sequence assignment index out of range")

    def insert(self, index: int, value: Any) -> None:
        self._store.insert(self._ref, self._agent, _index(index), self._encoded(value, "value"))

    def append(self, value: Any) -> None:
        self._store.append(self._ref, self._agent, [self._encoded(value, "value")])

    def extend(self, values: Iterable[Any]) -> None:
        """Append many in one commit: all of them or none. Encoded, they are limited like one value:
        UsageError."""
        raws = self._encoded_all(values)
        if raws:
            self._store.append(self._ref, self._agent, raws)

    def __iadd__(self, values: Iterable[Any]) -> "Sequence":  # type: ignore[misc]
        self.extend(values)
        return self

    def __imul__(self, times: SupportsIndex) -> "Sequence":
        self[:] = self.copy() * times
        return self

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """In place; written in one commit, limited like `extend`. What others change between
        reading and writing is overwritten."""
        self[:] = sorted(self.copy(), key=key, reverse=reverse)

    def pop(self, index: int = -1) -> Any:
        value = self._store.pop(self._ref, _index(index))
        if value is MISSING:
            raise IndexError("pop from an empty sequence, or index out of range")
        return value

    def remove(self, value: Any) -> None:
        """Take out the first that is equal. Raises ValueError where there is none."""
        del self[self.index(value)]

    def clear(self) -> None:
        """Take everything out, in one commit."""
        self._store.delete(self._ref, slice(None))

    def reverse(self) -> None:
        """In place, in one commit. Every entry is moved."""
        self._store.reverse(self._ref)

    def _encoded(self, value: Any, field: str) -> bytes:
        limits = self._store.limits
        return encode_value(
            value, bytes_max=limits.value_bytes_max, depth_max=limits.depth_max, field=field
        )[0]

    def _encoded_all(self, values: Iterable[Any]) -> list[bytes]:
        if not isinstance(values, collections.abc.Iterable):
            raise TypeError(f"{type(values).__name__!r} object is not iterable")
        return [
            self._encoded(value, f"values[{index}]") for index, value in enumerate(list(values))
        ]


def _holds(run: Run) -> bool:
    """Whether the next value of a run is still what a list would yield."""
    return bool(run.entries) and run.row.version == run.version and not run.row.is_gone


def _index(index: SupportsIndex) -> int:
    # As lists do: bools and numpy integers count, floats raise TypeError.
    return operator.index(index)
