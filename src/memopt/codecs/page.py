"""A page: an immutable run of messages of one line, as it is before compression.

Layout, little-endian: tag u8, version u8, flags u16, count u32, first LSN u64, first commit i64 µs;
then columns of `count` entries each: body lengths u32, LSN steps (u32, or u64 where flagged),
commit steps in µs (the same), [said i64 µs, or the flag value for "when committed"], [actor
indices u16]; [the actors as a msgpack list behind its length u32]; then the bodies as one msgpack
array of 32-bit length, so that a whole page is decoded in one call.

Not here: compression and checksums (frame.py, zstd.py), or what a shared text stands for
(texts.py).
"""

import struct
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import msgspec

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.codecs.record import TailRecord

_TAG: Final = 0x50
_VERSION: Final = 1
_WIDE: Final = 1
_HAS_SAID: Final = 2
_HAS_ACTORS: Final = 4
_HAS_TEXTS: Final = 8
_HEAD: Final = struct.Struct("<BBHIQq")
_U32: Final = struct.Struct("<I")
_ARRAY: Final = struct.Struct(">BI")
_NOT_SAID: Final = -(2**63)
_ACTORS_MAX: Final = 2**16 - 1

Decode = Callable[[Any], Any]


def pack_page(records: Sequence[TailRecord], *, has_texts: bool) -> bytes:
    """The raw page of records in seq order; `has_texts` when a body refers to a shared text."""
    first = records[0]
    lsns = [record.lsn for record in records]
    times = [record.committed_us for record in records]
    lsn_steps = [b - a for a, b in pairwise(lsns)]
    time_steps = [b - a for a, b in pairwise(times)]
    wide = any(not 0 <= step < 2**32 for step in (*lsn_steps, *time_steps))
    flags = (_WIDE if wide else 0) | (_HAS_TEXTS if has_texts else 0)
    parts = [
        array("I", [len(record.body) for record in records]).tobytes(),
        array("q" if wide else "I", [0, *lsn_steps]).tobytes(),
        array("q" if wide else "I", [0, *time_steps]).tobytes(),
    ]
    if any(record.said_us is not None for record in records):
        flags |= _HAS_SAID
        said = (_NOT_SAID if r.said_us is None else r.said_us for r in records)
        parts.append(array("q", said).tobytes())
    actors = sorted({record.actor for record in records if record.actor is not None})
    if actors:
        assert len(actors) <= _ACTORS_MAX
        flags |= _HAS_ACTORS
        index = {actor: i + 1 for i, actor in enumerate(actors)}
        names = msgspec.msgpack.encode(actors)
        parts.append(array("H", [index[r.actor] if r.actor else 0 for r in records]).tobytes())
        parts.append(_U32.pack(len(names)) + names)
    head = _HEAD.pack(_TAG, _VERSION, flags, len(records), first.lsn, first.committed_us)
    bodies = [record.body for record in records]
    return b"".join((head, *parts, _ARRAY.pack(0xDD, len(records)), *bodies))


class Page:
    """Reads a raw page. Decoding is fresh on every call: what callers get is theirs."""

    __slots__ = ("_bodies", "_columns", "_flags", "_lengths", "_wide", "count", "raw")

    def __init__(self, raw: bytes) -> None:
        try:
            tag, version, self._flags, self.count, _, _ = _HEAD.unpack_from(raw)
        except struct.error:
            raise CorruptionError("a page is cut short") from None
        if tag != _TAG:
            raise CorruptionError("a page has no tag")
        if version != _VERSION:
            raise StoreVersionError(f"a page has version {version}, this memopt knows 1")
        self.raw = raw
        self._wide = "q" if self._flags & _WIDE else "I"
        self._lengths = self._column("I", _HEAD.size)
        self._columns = _HEAD.size + 4 * self.count
        self._bodies = len(raw) - sum(self._lengths)
        if self._bodies - _ARRAY.size < self._columns or (
            _ARRAY.unpack_from(raw, self._bodies - _ARRAY.size) != (0xDD, self.count)
        ):
            raise CorruptionError("a page's lengths do not add up")

    @property
    def has_texts(self) -> bool:
        return bool(self._flags & _HAS_TEXTS)

    def messages(self, start: int, stop: int, decode: Decode) -> list[Any]:
        """Messages [start, stop), counted from the page's first."""
        if start <= 0 and stop >= self.count:
            whole: list[Any] = decode(memoryview(self.raw)[self._bodies - _ARRAY.size :])
            return whole
        return [decode(body) for body in self.bodies(start, stop)]

    def bodies(self, start: int, stop: int) -> list[memoryview]:
        raw = memoryview(self.raw)
        at = self._bodies + sum(self._lengths[:start])
        found = []
        for length in self._lengths[start:stop]:
            found.append(raw[at : at + length])
            at += length
        return found

    def lsns(self) -> list[int]:
        (_, _, _, _, first, _) = _HEAD.unpack_from(self.raw)
        return list(accumulate(self._steps(0)[1:], initial=first))

    def committed_us(self) -> list[int]:
        (_, _, _, _, _, first) = _HEAD.unpack_from(self.raw)
        return list(accumulate(self._steps(1)[1:], initial=first))

    def records(self) -> list[TailRecord]:
        """Everything, as it was before sealing."""
        said: Sequence[int | None] = [None] * self.count
        actors: Sequence[str | None] = [None] * self.count
        at = self._columns + 2 * self.count * array(self._wide).itemsize
        if self._flags & _HAS_SAID:
            said = [None if us == _NOT_SAID else us for us in self._column("q", at)]
            at += 8 * self.count
        if self._flags & _HAS_ACTORS:
            index = self._column("H", at)
            at += 2 * self.count
            names = self._actors(at)
            actors = [names[i - 1] if i else None for i in index]
        bodies = map(bytes, self.bodies(0, self.count))
        columns = (self.lsns(), self.committed_us(), said, actors, bodies)
        return [TailRecord(*values) for values in zip(*columns, strict=True)]

    def record(self, at: int) -> TailRecord:
        """One of those, counted from the page's first: what is read of a page for one message of
        it is not much more than that message."""
        (_, _, _, _, first_lsn, first_us) = _HEAD.unpack_from(self.raw)
        lsn = first_lsn + sum(self._steps(0)[1 : at + 1])
        committed_us = first_us + sum(self._steps(1)[1 : at + 1])
        said = actor = None
        column = self._columns + 2 * self.count * array(self._wide).itemsize
        if self._flags & _HAS_SAID:
            said_us = self._column("q", column)[at]
            said = None if said_us == _NOT_SAID else said_us
            column += 8 * self.count
        if self._flags & _HAS_ACTORS:
            index = self._column("H", column)[at]
            actor = self._actors(column + 2 * self.count)[index - 1] if index else None
        (body,) = self.bodies(at, at + 1)
        return TailRecord(lsn, committed_us, said, actor, bytes(body))

    def _actors(self, at: int) -> list[str]:
        (length,) = _U32.unpack_from(self.raw, at)
        return msgspec.msgpack.decode(self.raw[at + 4 : at + 4 + length], type=list[str])

    def _steps(self, index: int) -> "array[int]":
        size = array(self._wide).itemsize * self.count
        return self._column(self._wide, self._columns + index * size)

    def _column(self, code: str, at: int) -> "array[int]":
        column = array(code)
        end = at + column.itemsize * self.count
        if end > len(self.raw):
            raise CorruptionError("a page is cut short")
        column.frombytes(self.raw[at:end])
        return column
