"""One version of an item's text as it is stored, with its own checksum over key and value.

Layout, little-endian: tag u8, version u8, method u8 (0 raw, 1 a compressed frame), 0 u8, bytes of
the raw text u32, LSN u64, commit time i64 µs, CRC-32 u32, payload (UTF-8, or a frame of it). The
checksum covers the item's number, the version, everything before it, and the payload.
"""

import struct
import zlib
from typing import Final

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.item_records import ItemText
from memopt.base.protocols import Compressor
from memopt.codecs.entry import RAW, pack_value

_TAG: Final = 0x54
_VERSION: Final = 1
_FRAME: Final = 1
_HEAD: Final = struct.Struct("<BBBBIQq")
_CRC: Final = struct.Struct("<I")
_HEAD_BYTES: Final = _HEAD.size + _CRC.size
_WHERE: Final = struct.Struct("<QI")
_FRAME_KEY: Final = b"E"


def pack_text(compressor: Compressor, text: ItemText) -> bytes:
    """Raises BudgetError."""
    packed = pack_value(compressor, text.text.encode())
    head = _HEAD.pack(_TAG, _VERSION, packed.method, 0, packed.raw_bytes, text.lsn, text.at_us)
    crc = zlib.crc32(head, zlib.crc32(_WHERE.pack(text.item, text.version)))
    return b"".join((head, _CRC.pack(zlib.crc32(packed.payload, crc)), packed.payload))


def open_text(compressor: Compressor, item: int, version: int, record: bytes) -> ItemText:
    """Raises CorruptionError unless the record is whole and belongs to (item, version)."""
    where = f"the text of version {version} of item {item}"
    if len(record) < _HEAD_BYTES:
        raise CorruptionError(f"{where} is cut short")
    head, payload = record[: _HEAD.size], record[_HEAD_BYTES:]
    crc = zlib.crc32(head, zlib.crc32(_WHERE.pack(item, version)))
    if zlib.crc32(payload, crc) != _CRC.unpack_from(record, _HEAD.size)[0]:
        raise CorruptionError(f"{where} fails its checksum")
    tag, form, method, zero, raw_bytes, lsn, at_us = _HEAD.unpack(head)
    if tag != _TAG or zero or method not in (RAW, _FRAME):
        raise CorruptionError(f"{where} has another layout")
    if form != _VERSION:
        raise StoreVersionError(f"{where} has version {form}, this memopt knows {_VERSION}")
    raw = payload if method == RAW else compressor.decode(payload, key=_FRAME_KEY)
    if len(raw) != raw_bytes:
        raise CorruptionError(f"{where} has another length than its record says")
    return ItemText(item, version, lsn, at_us, raw.decode())
