"""What is kept of a cached question to compare others with: a record in a table of its own.

Layout, little-endian: tag u8, version u8, flags u8 (1 = for equal requests alone), 0 u8,
dimensions u16, 0 u16, space u64, context u64, response u64, expiry i64 µs, scale f32, CRC-32 u32,
and of the vector an i8 for each dimension. The checksum covers scope and answer, everything before
it, and the vector. Space, context and response are the first 64 bits of digests: of the name of the
space the vector is of, of the request without its question, of what the response says.

Owns: that layout. Invariant: what `open_entry` returns was packed for the same answer. Not here:
what is done with entries (residents.py).
"""

import hashlib
import struct
import zlib
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.codecs.vectors import quantise

_TAG: Final = 0x51
_VERSION: Final = 1
_EXACT: Final = 1
_HEAD: Final = struct.Struct("<BBBBHHQQQqf")
_CRC: Final = struct.Struct("<I")
_HEAD_BYTES: Final = _HEAD.size + _CRC.size
_WHERE: Final = struct.Struct("<QQ")
DIMENSIONS_MAX: Final = 4096
NEVER_US: Final = 2**63 - 1
PENDING_SPACE: Final = 1
"""Of a question that could not be embedded when it was stored."""


class Entry(NamedTuple):
    context: int
    response: int
    expires_us: int
    """NEVER_US: never."""
    space: int
    """0 without a vector."""
    is_exact: bool
    """Only an equal request gets it."""
    scale: float
    codes: Any
    """int8 (d): the vector by its scale; empty without one."""


def entry_of(
    vector: Any, *, context: bytes, response: int, expires_us: int | None, space: int,
    is_exact: bool = False,
) -> Entry:  # fmt: skip
    """`vector`: float32 (d) of unit length; None for a question that is not compared, or
    not yet."""
    codes, scale = np.empty(0, np.int8), 0.0
    if vector is None:
        space = PENDING_SPACE if space == PENDING_SPACE else 0
    else:
        quantised = quantise(vector[None])
        codes, scale = quantised.codes[0], float(quantised.scales[0])
    return Entry(
        number_of(context), response, NEVER_US if expires_us is None else expires_us,
        space, is_exact, scale, codes,
    )  # fmt: skip


def pack_entry(scope_number: int, answer: int, entry: Entry) -> bytes:
    head = _HEAD.pack(
        _TAG, _VERSION, _EXACT if entry.is_exact else 0, 0, len(entry.codes), 0, entry.space,
        entry.context, entry.response, entry.expires_us, entry.scale,
    )  # fmt: skip
    codes = entry.codes.tobytes()
    return b"".join((head, _CRC.pack(_crc(scope_number, answer, head, codes)), codes))


def open_entry(scope_number: int, answer: int, record: bytes) -> Entry:
    """Raises CorruptionError unless the record is whole and belongs to the answer."""
    where = f"the entry of answer {answer}"
    if len(record) < _HEAD_BYTES:
        raise CorruptionError(f"{where} is cut short")
    head, codes = record[: _HEAD.size], record[_HEAD_BYTES:]
    if _CRC.unpack_from(record, _HEAD.size)[0] != _crc(scope_number, answer, head, codes):
        raise CorruptionError(f"{where} fails its checksum")
    tag, version, flags, zero, dimensions, also, space, context, response, expires_us, scale = (
        _HEAD.unpack(head)
    )
    if tag != _TAG or zero or also or flags > _EXACT or dimensions != len(codes):
        raise CorruptionError(f"{where} has another layout")
    if version != _VERSION:
        raise StoreVersionError(f"{where} has version {version}, this memopt knows {_VERSION}")
    return Entry(
        context, response, expires_us, space, bool(flags & _EXACT), scale,
        np.frombuffer(codes, np.int8),
    )  # fmt: skip


def _crc(scope_number: int, answer: int, head: bytes, codes: bytes) -> int:
    return zlib.crc32(codes, zlib.crc32(head, zlib.crc32(_WHERE.pack(scope_number, answer))))


def number_of(digest: bytes) -> int:
    """The first 64 bits of a digest, and never 0."""
    return int.from_bytes(digest[:8], "little") or 1


def space_of(name: str) -> int:
    """The number of a space by its name."""
    return number_of(hashlib.blake2b(name.encode(), digest_size=8).digest())
