"""The on-disk frame: 16 bytes that say what the payload is, and prove it is whole and in its place.

    offset  size  field
    0       1     tag, 0x4D
    1       1     version, 1
    2       1     method, see Method
    3       1     reserved, 0
    4       4     dictionary number, 0 when none
    8       4     bytes of the value once decoded
    12      4     CRC-32 of key, bytes 0 to 11, payload
    16      …     payload

Numbers are little-endian. Invariant: what `open_frame` returns was written under the same key, and
declares no more bytes than the caller allows. Not here: compression (zstd), what a key is.
"""

import enum
import struct
import zlib
from typing import Final, NamedTuple

from memopt.base.errors import CorruptionError, StoreVersionError

TAG: Final = 0x4D
VERSION: Final = 1
HEADER_BYTES: Final = 16
RAW_BYTES_MAX: Final = 2**32 - 1

_FIELDS = struct.Struct("<BBBBII")
_HEADER = struct.Struct("<BBBBIII")
_CHECKSUM = struct.Struct("<I")


class Method(enum.IntEnum):
    """How a payload is to be turned back into the value."""

    STORED = 0
    ZSTD = 1
    ZSTD_DICTIONARY = 2
    """zstd with the dictionary of this number."""
    ZSTD_BASE = 3
    """zstd with another value as its raw-content dictionary."""


class Header(NamedTuple):
    method: int
    dictionary: int
    raw_bytes: int


_METHODS: Final = frozenset(int(method) for method in Method)


def pack_frame(
    payload: bytes, *, key: bytes, method: Method, raw_bytes: int, dictionary: int = 0
) -> bytes:
    """A frame around `payload`. `raw_bytes` is the length of the value once decoded."""
    fields = _FIELDS.pack(TAG, VERSION, method, 0, dictionary, raw_bytes)
    checksum = zlib.crc32(payload, zlib.crc32(fields, zlib.crc32(key)))
    return b"".join((fields, _CHECKSUM.pack(checksum), payload))


def open_frame(frame: bytes, *, key: bytes, raw_bytes_max: int) -> tuple[Header, memoryview]:
    """The header and the payload, not copied, of a frame that was packed under `key`.

    Raises CorruptionError for a frame that is damaged, cut, of another key, or declares more than
    `raw_bytes_max`; StoreVersionError for a version this release does not know.
    """
    if len(frame) < HEADER_BYTES:
        raise CorruptionError(f"a frame has {len(frame)} bytes, its header alone {HEADER_BYTES}")
    tag, version, method, reserved, dictionary, raw_bytes, checksum = _HEADER.unpack_from(frame)
    if tag != TAG:
        raise CorruptionError(f"a frame begins with {tag:#04x}, expected {TAG:#04x}")
    if version != VERSION:
        raise StoreVersionError(
            f"a frame is of version {version}, this release reads version {VERSION}"
        )
    whole = memoryview(frame)
    payload = whole[HEADER_BYTES:]
    found = zlib.crc32(payload, zlib.crc32(whole[: _FIELDS.size], zlib.crc32(key)))
    if found != checksum:
        raise CorruptionError(
            f"a frame's checksum is {found:#010x}, expected {checksum:#010x}: "
            "damaged, or written under another key"
        )
    # The checksum holds, so what follows was packed like this: by a bug, or by someone.
    if reserved != 0 or method not in _METHODS:
        raise CorruptionError(f"a frame's method is {method} and its reserved byte {reserved}")
    if raw_bytes > raw_bytes_max:
        raise CorruptionError(
            f"a frame declares {raw_bytes} bytes, at most {raw_bytes_max} are allowed"
        )
    if method == Method.STORED and raw_bytes != len(payload):
        raise CorruptionError(f"a frame declares {raw_bytes} bytes and stores {len(payload)}")
    return Header(method, dictionary, raw_bytes), payload


def dictionary_of(frame: bytes) -> int:
    """The number of the dictionary a frame needs, unverified; 0 for none."""
    return _FIELDS.unpack_from(frame)[4] if len(frame) >= HEADER_BYTES else 0
