"""Recorded accesses: which page was touched, how large it is, and when. No content and no names.

Owns the bytes of a block: a header with a checksum, then rows of one width. A recording is blocks
one after the other, each whole in itself, so a log that was cut off by a kill is readable up to
there. Not here: the file (paging/access_log.py) and what is made of it (`bench/`).
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from memopt.base.errors import CorruptionError, StoreVersionError

TAG: Final = 0x41
VERSION: Final = 1
HEADER: Final = struct.Struct("<BBHII")
"""Tag, version, 0, rows, CRC-32 of the eight bytes before it and the rows."""
ROW: Final = struct.Struct("<QIId")
"""Page, bytes before compression, bytes as stored, seconds on the monotonic clock."""
BLOCK_ROWS_MAX: Final = 1 << 20
_COVERED: Final = struct.Struct("<BBHI")


def encode_block(rows: Sequence[bytes]) -> bytes:
    """A block of rows, each packed with ROW."""
    assert len(rows) <= BLOCK_ROWS_MAX
    body = b"".join(rows)
    covered = _COVERED.pack(TAG, VERSION, 0, len(rows))
    return HEADER.pack(TAG, VERSION, 0, len(rows), zlib.crc32(body, zlib.crc32(covered))) + body


def is_recording(start: bytes) -> bool:
    """Whether a file that begins like this is a recording, of whatever version."""
    return len(start) >= 4 and start[0] == TAG and start[1] < 0x20 and start[2:4] == b"\0\0"


def whole_bytes(file: BinaryIO) -> int | None:
    """Bytes of a file that are whole blocks, by their headers; None for a file that has bytes and
    is no recording of this version."""
    size = file.seek(0, 2)
    offset = 0
    while size - offset >= HEADER.size:
        file.seek(offset)
        tag, version, _, count, _ = HEADER.unpack(file.read(HEADER.size))
        if tag != TAG or version != VERSION or count > BLOCK_ROWS_MAX:
            return None
        end = offset + HEADER.size + count * ROW.size
        if end > size:
            break
        offset = end
    return offset if offset or not size else None


def decode_blocks(stream: Iterator[bytes]) -> Iterator[bytes]:
    """The rows of each block of a recording that arrives in chunks, joined.

    The last block may be cut off, as a kill leaves it: it is left out. Raises CorruptionError for
    a block whose checksum does not match, StoreVersionError for one of a newer version.
    """
    held = b""
    offset = 0
    for chunk in stream:
        held += chunk
        while len(held) >= HEADER.size:
            tag, version, _, count, crc = HEADER.unpack_from(held)
            if tag != TAG or count > BLOCK_ROWS_MAX:
                raise CorruptionError(f"no block of accesses at byte {offset}")
            if version != VERSION:
                raise StoreVersionError(f"accesses of version {version} at byte {offset}")
            size = HEADER.size + count * ROW.size
            if len(held) < size:
                break
            covered, body = held[: _COVERED.size], held[HEADER.size : size]
            if zlib.crc32(body, zlib.crc32(covered)) != crc:
                raise CorruptionError(f"the block of accesses at byte {offset} is damaged")
            yield body
            held, offset = held[size:], offset + size
