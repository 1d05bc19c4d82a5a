"""A tail record: one message as it is appended, with its own checksum over key and value.

Layout, little-endian: tag u8, version u8, flags u16, LSN u64, committed i64 µs, [said i64 µs],
[actor length u16, actor UTF-8], crc32 u32, body. The checksum covers the key (line and seq), all
that stands before it, and the body.
"""

import struct
import zlib
from typing import Final, NamedTuple

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.records import SEQ_BITS

_TAG: Final = 0x52
_VERSION: Final = 1
_HAS_SAID: Final = 1
_HAS_ACTOR: Final = 2
_HEAD: Final = struct.Struct("<QBBHQq")
_KEY_BYTES: Final = 8
_SAID: Final = struct.Struct("<q")
_ACTOR: Final = struct.Struct("<H")
_CRC: Final = struct.Struct("<I")
_FIXED_BYTES: Final = _HEAD.size - _KEY_BYTES
_KEY: Final = struct.Struct("<Q")
_PLAIN: Final = struct.Struct("<QqI")
_PLAIN_PREFIX: Final = bytes((_TAG, _VERSION, 0, 0))
_PLAIN_BYTES: Final = _FIXED_BYTES + _CRC.size


class TailRecord(NamedTuple):
    lsn: int
    committed_us: int
    said_us: int | None
    actor: str | None
    body: bytes


def pack_record(
    line: int, seq: int, *, lsn: int, committed_us: int, said_us: int | None, actor: str | None,
    body: bytes,
) -> bytes:  # fmt: skip
    if said_us is None and actor is None:
        head = _HEAD.pack(line << SEQ_BITS | seq, _TAG, _VERSION, 0, lsn, committed_us)
    else:
        flags = (_HAS_SAID if said_us is not None else 0) | (_HAS_ACTOR if actor is not None else 0)
        head = _HEAD.pack(line << SEQ_BITS | seq, _TAG, _VERSION, flags, lsn, committed_us)
        if said_us is not None:
            head += _SAID.pack(said_us)
        if actor is not None:
            name = actor.encode()
            head += _ACTOR.pack(len(name)) + name
    return b"".join((head[_KEY_BYTES:], _CRC.pack(zlib.crc32(body, zlib.crc32(head))), body))


def open_record(line: int, seq: int, record: bytes) -> TailRecord:
    """Raises CorruptionError unless the record is whole and belongs to (line, seq)."""
    try:
        if record[:4] == _PLAIN_PREFIX:
            # Most records have neither flag: a read of a tail is mostly this.
            lsn, committed_us, crc = _PLAIN.unpack_from(record, 4)
            body = record[_PLAIN_BYTES:]
            key = _KEY.pack(line << SEQ_BITS | seq)
            if crc == zlib.crc32(body, zlib.crc32(record[:_FIXED_BYTES], zlib.crc32(key))):
                return TailRecord(lsn, committed_us, None, None, body)
        return _open(line, seq, record)
    except (struct.error, UnicodeDecodeError):
        raise CorruptionError(f"message {seq}: its tail record is cut short") from None


def _open(line: int, seq: int, record: bytes) -> TailRecord:
    head = _KEY.pack(line << SEQ_BITS | seq) + record[:_FIXED_BYTES]
    _, tag, version, flags, lsn, committed_us = _HEAD.unpack(head)
    if tag != _TAG:
        raise CorruptionError(f"message {seq}: its tail record has no tag")
    at = _FIXED_BYTES
    said_us = actor = None
    if flags & _HAS_SAID:
        (said_us,) = _SAID.unpack_from(record, at)
        at += _SAID.size
    if flags & _HAS_ACTOR:
        (length,) = _ACTOR.unpack_from(record, at)
        at += _ACTOR.size + length
        actor = record[at - length : at]
    (crc,) = _CRC.unpack_from(record, at)
    body = record[at + _CRC.size :]
    if crc != zlib.crc32(body, zlib.crc32(record[:at], zlib.crc32(head[:_KEY_BYTES]))):
        raise CorruptionError(f"message {seq}: its tail record fails its checksum")
    if version != _VERSION:
        raise StoreVersionError(f"a tail record has version {version}, this memopt knows 1")
    return TailRecord(
        lsn, committed_us, said_us, actor.decode() if actor is not None else None, body
    )
