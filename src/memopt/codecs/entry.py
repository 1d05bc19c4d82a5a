"""An entry as it is stored: keys and records of mappings and sequences.

Record, little-endian: tag u8, version u8, method u8 (0 raw, 1 a compressed frame), 0 u8, bytes of
the raw value u32, commit time i64 µs, CRC-32 u32, payload. The checksum covers the entry's number,
its LSN, its key, everything before it, and the payload; so a record that turns up under another key
or in another place is refused.

Key: `s` and UTF-8, `b` and bytes, or `i` and the shortest big-endian two's complement.
"""

import struct
import zlib
from typing import Final, NamedTuple

from memopt.base.errors import CorruptionError, StoreVersionError, UsageError
from memopt.base.protocols import Compressor
from memopt.base.records import PLACE_BITS, EntryRow
from memopt.base.units import KIB

KEY_BYTES_MAX: Final = 1024
_SHORT_KEY: Final = 256
"""Characters of a key that cannot be too long."""
COMPRESSED_FROM_BYTES: Final = 1 * KIB
"""Smaller values are stored as they are."""

_TAG: Final = 0x45
_VERSION: Final = 1
RAW: Final = 0
METHOD: Final = 2
"""Where the method of a record is."""
_FRAME: Final = 1
_HEAD: Final = struct.Struct("<BBBBIq")
_CRC: Final = struct.Struct("<I")
HEAD_BYTES: Final = _HEAD.size + _CRC.size
_WHERE: Final = struct.Struct("<QQ")
_WHOLE: Final = struct.Struct("<QQBBBBIq")
_FRAME_KEY: Final = b"E"
"""The record around a frame says whose it is."""


class Packed(NamedTuple):
    """A value on its way to a record."""

    method: int
    raw_bytes: int
    payload: bytes | memoryview


def encode_key(key: object, *, field: str = "key") -> bytes:
    """Raises UsageError for what is no str, int or bytes, and for more than KEY_BYTES_MAX."""
    packed: bytes
    if type(key) is str:
        try:
            packed = b"s" + key.encode()
        except UnicodeEncodeError:
            raise UsageError("a lone surrogate is not text", field=field) from None
    elif type(key) is bytes:
        packed = b"b" + key
    elif type(key) is int:
        packed = b"i" + key.to_bytes(key.bit_length() // 8 + 1, "big", signed=True)
    else:
        kind = type(key).__name__
        raise UsageError(f"expected a str, an int or bytes, got {kind}", field=field)
    if len(packed) > KEY_BYTES_MAX:
        raise UsageError(f"{len(packed)} bytes encoded, at most {KEY_BYTES_MAX}", field=field)
    return packed


def find_key(key: object) -> bytes | None:
    """The same to look for a key: None for what is no key and so is nowhere. Raises TypeError for
    what a dict could not look for either."""
    if type(key) is str and len(key) <= _SHORT_KEY and key.isascii():
        # Most keys: no other call.
        return b"s" + key.encode()
    try:
        return encode_key(key)
    except UsageError:
        hash(key)
        return None


def decode_key(packed: bytes) -> str | int | bytes:
    """Raises CorruptionError for bytes that `encode_key` never made."""
    kind, body = packed[:1], packed[1:]
    try:
        if kind == b"s":
            return body.decode()
    except UnicodeDecodeError:
        raise CorruptionError("a key is no text") from None
    if kind == b"b":
        return body
    if kind == b"i" and body:
        return int.from_bytes(body, "big", signed=True)
    raise CorruptionError("a key is of no known kind")


def pack_value(compressor: Compressor, raw: bytes) -> Packed:
    """Compressed where that saves anything. Raises BudgetError, UsageError."""
    if len(raw) >= COMPRESSED_FROM_BYTES:
        frame = compressor.encode(raw, key=_FRAME_KEY)
        if len(frame) < len(raw):
            return Packed(_FRAME, len(raw), frame)
    return Packed(RAW, len(raw), raw)


def pack_entry(
    collection: int, place: int, key: bytes | None, *, lsn: int, at_us: int, packed: Packed
) -> bytes:
    method, raw_bytes, payload = packed
    head = _WHOLE.pack(
        collection << PLACE_BITS | place, lsn, _TAG, _VERSION, method, 0, raw_bytes, at_us
    )
    crc = zlib.crc32(head)
    if key is not None:
        crc = zlib.crc32(key, crc)
    return b"".join((head[_WHERE.size :], _CRC.pack(zlib.crc32(payload, crc)), payload))


def verify_entry(row: EntryRow) -> None:
    """Raises CorruptionError unless the record is whole, and of this key and place."""
    collection, place, key, lsn, record = row
    if len(record) < HEAD_BYTES:
        raise CorruptionError(f"entry {place} of collection {collection} is cut short")
    whole = memoryview(record)
    crc = zlib.crc32(
        whole[: _HEAD.size], zlib.crc32(_WHERE.pack(collection << PLACE_BITS | place, lsn))
    )
    if key is not None:
        crc = zlib.crc32(key, crc)
    if zlib.crc32(whole[HEAD_BYTES:], crc) != _CRC.unpack_from(record, _HEAD.size)[0]:
        raise CorruptionError(f"entry {place} of collection {collection} fails its checksum")
    tag, version, method, zero, _, _ = _HEAD.unpack_from(record)
    if tag != _TAG or zero or method not in (RAW, _FRAME):
        raise CorruptionError(f"entry {place} of collection {collection} has another layout")
    if version != _VERSION:
        raise StoreVersionError(f"an entry has version {version}, this memopt knows {_VERSION}")


def raw_bytes_of(record: bytes) -> int:
    """Of the value, once decoded."""
    return int(_HEAD.unpack_from(record)[4])


def at_us_of(record: bytes) -> int:
    """When it was committed."""
    return int(_HEAD.unpack_from(record)[5])


def raw_of(compressor: Compressor, record: bytes) -> bytes:
    """The raw value of a verified record."""
    if record[METHOD] == RAW:
        return record[HEAD_BYTES:]
    raw = compressor.decode(record[HEAD_BYTES:], key=_FRAME_KEY)
    if len(raw) != raw_bytes_of(record):
        raise CorruptionError("a value has another length than its record says")
    return raw


def moved(row: EntryRow, place: int) -> EntryRow:
    """The same entry in another place. Raises CorruptionError where it is damaged."""
    verify_entry(row)
    method, raw_bytes, at_us = _HEAD.unpack_from(row.record)[2], *_HEAD.unpack_from(row.record)[4:]
    packed = Packed(method, raw_bytes, memoryview(row.record)[HEAD_BYTES:])
    record = pack_entry(row.collection, place, row.key, lsn=row.lsn, at_us=at_us, packed=packed)
    return row._replace(place=place, record=record)
