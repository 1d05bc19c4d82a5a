"""The header of SQLite's write-ahead log: which log it is.

SQLite's own checksum is verified, so a salt that was damaged is never taken for another log's.
"""

import struct
from typing import Final

HEADER_BYTES: Final = 32
_HEADER: Final = struct.Struct(">8I")
_MAGIC: Final = 0x377F0682
_SUMMED_BYTES: Final = 24


def salt_of(header: bytes) -> int:
    """The two salts as one number; 0 when the header is cut short or does not verify. The upper
    half is counted up whenever the log is begun anew, the lower half is random."""
    if len(header) < HEADER_BYTES:
        return 0
    magic, _, _, _, high, low, first, second = _HEADER.unpack(header)
    if magic & ~1 != _MAGIC:
        return 0
    # The magic's lowest bit is the byte order that the sums were made in.
    words = struct.unpack(f"{'>' if magic & 1 else '<'}6I", header[:_SUMMED_BYTES])
    a = b = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        a = (a + even + b) & 0xFFFFFFFF
        b = (b + odd + a) & 0xFFFFFFFF
    if (a, b) != (first, second):
        return 0
    return int(high << 32 | low)
