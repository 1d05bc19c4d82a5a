"""One flipped bit in a page of the database file is found by the page's checksum, and flipped back.

SQLite's checksum VFS ends every page with two sums over its words: `s1 += a + s2; s2 += b + s1` for
each pair of 32-bit words. They are linear modulo 2^32, so the difference between a page's sums and
the stored ones says which bit would explain it. Where exactly one bit does, it is flipped back, and
then both sums hold; where none or several do (high bits of words a Fibonacci period apart change
the sums alike), and what must stand there does not say either, the page is left as it is: damage is
then reported by whoever reads it.

Why this is safe beside a write-ahead log: a page with a newer frame in the log is never read from
the file, and is overwritten by the next checkpoint; until then one byte of it is made what it was.
Torn writes are no single bit, and would pass for one once in 2^49 cases.

The file is opened once and closed after SQLite closed it: closing any descriptor of a file drops
the locks that this process holds on it. Not here: when to look, and keeping checkpoints away
meanwhile (sqlite.py).
"""

import contextlib
import math
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from memopt.stores.schema import APPLICATION_ID

PAGE_BYTES: Final = 4096
_SUM_BYTES: Final = 8
_WORDS: Final = (PAGE_BYTES - _SUM_BYTES) // 4
_AT_ONCE: Final = 256
_IN_VAIN_SECONDS: Final = 60.0
_RESERVED_AT: Final = 20
_PAGE_COUNT_AT: Final = 28
_HEADER_BYTES: Final = 100
_HEADER_FIELDS: Final = (
    (0, b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + bytes((2, 2, 8, 64, 32, 32))),
    (44, (4).to_bytes(4, "big") + bytes(4)),  # schema format; default cache size
    (56, (1).to_bytes(4, "big")),  # UTF-8
    (64, (1).to_bytes(4, "big") + APPLICATION_ID.to_bytes(4, "big") + bytes(20)),
)
_LEAVES: Final = (10, 13)
_INTERIORS: Final = (2, 5)
_FILLER: Final = b"\xff"
"""Never what a page ends with: a page that was filled up fails its checksum."""


class Mender:
    """When to mend: before SQLite opens a file, and when a page it read failed its checksum.

    Thread-safe; `checkpoint_lock` is held meanwhile, so nobody else writes to the file.
    """

    def __init__(
        self,
        path: Path,
        checkpoint_lock: AbstractContextManager[Any],
        on_repair: Callable[[int], None],
    ) -> None:
        self._path = path
        self._checkpoint_lock = checkpoint_lock
        self._on_repair = on_repair
        self._file: PageFile | None = None
        self._in_vain_at = -math.inf

    def prepare(self) -> int:
        """Before SQLite opens the file: its first page and its length. How many bytes were gone."""
        if not self._path.exists() or not self._path.stat().st_size:
            return 0
        file = self._open()
        if file is None:
            return 0
        if file.mend_first():
            self._on_repair(1)
        return file.fill_up()

    def mend(self) -> bool:
        """Mend what can be mended in the whole file. True when something was, so that reading
        again makes sense. When nothing was, the next calls find nothing for a while."""
        with self._checkpoint_lock:
            file = self._open()
            if file is None or time.monotonic() < self._in_vain_at + _IN_VAIN_SECONDS:
                return False
            mended = file.mend_all()
            if not mended:
                self._in_vain_at = time.monotonic()
        for page in mended:
            self._on_repair(page)
        return bool(mended)

    def close(self) -> None:
        """After SQLite has closed the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> "PageFile | None":
        if self._file is None:
            # A file that cannot be written cannot be mended.
            with contextlib.suppress(OSError):
                self._file = PageFile(self._path)
        return self._file


class PageFile:
    """The database file, beside SQLite. No checkpoint may run while a method of this does."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))

    def close(self) -> None:
        os.close(self._descriptor)

    def mend_first(self) -> bool:
        """Mend the page that says how all others are to be read, before SQLite believes it: also
        that pages carry checksums at all. True when it had to be."""
        page = os.pread(self._descriptor, PAGE_BYTES, 0)
        return len(page) == PAGE_BYTES and not is_whole(page) and self._mend(1, page)

    def mend_all(self) -> list[int]:
        """Mend every page that fails its checksum and can be; their numbers."""
        if not self._has_checksums():
            return []
        return [number for number, page in self._damaged() if self._mend(number, page)]

    def fill_up(self) -> int:
        """Give a file that was cut its length back, so that the missing pages are noticed one by
        one, by whoever reads them; how many bytes were missing.

        SQLite takes what is missing of its last page for zeros, without verifying anything; and a
        file that misses whole pages it opens only where the log says how long it should be.
        """
        size = os.fstat(self._descriptor).st_size
        rest = -size % PAGE_BYTES
        if rest:
            os.pwrite(self._descriptor, _FILLER * rest, size)
        page = os.pread(self._descriptor, PAGE_BYTES, 0)
        whole = size + rest
        if self._has_checksums() and is_whole(page):
            wanted = PAGE_BYTES * int.from_bytes(page[_PAGE_COUNT_AT : _PAGE_COUNT_AT + 4], "big")
            if wanted > whole:
                # Zeros pass their checksum, but are no page of any kind.
                os.truncate(self._descriptor, wanted)
                whole = wanted
        if whole > size:
            os.fsync(self._descriptor)
        return whole - size

    def _has_checksums(self) -> bool:
        return os.pread(self._descriptor, 1, _RESERVED_AT) == bytes([_SUM_BYTES])

    def _damaged(self) -> Iterator[tuple[int, bytes]]:
        # Imported where damage is: numpy would be a third of the time that memopt takes to import.
        from memopt.stores.pagesums import damaged_pages

        offset = 0
        while chunk := os.pread(self._descriptor, _AT_ONCE * PAGE_BYTES, offset):
            chunk = chunk[: len(chunk) - len(chunk) % PAGE_BYTES]
            if not chunk:
                return
            for index in damaged_pages(chunk):
                at = index * PAGE_BYTES
                yield (offset + at) // PAGE_BYTES + 1, chunk[at : at + PAGE_BYTES]
            offset += len(chunk)

    def _mend(self, number: int, page: bytes) -> bool:
        from memopt.stores.pagesums import find_flip

        flip = find_flip(page)
        candidates = [(flip.offset, flip.mask)] if flip else _suspects(number, page)
        for offset, mask in candidates:
            byte = bytes([page[offset] ^ mask])
            if is_whole(page[:offset] + byte + page[offset + 1 :]):
                break
        else:
            return False
        os.pwrite(self._descriptor, byte, (number - 1) * PAGE_BYTES + offset)
        os.fsync(self._descriptor)
        return True


def _suspects(number: int, page: bytes) -> list[tuple[int, int]]:
    """Bits that are wrong by what must stand there, for flips that the sums alone cannot place: the
    fields of the header that never change, and the room between a page's index and its cells, which
    `secure_delete` keeps zero."""
    if number == 1:
        wrong = [
            (offset + index, page[offset + index] ^ byte)
            for offset, field in _HEADER_FIELDS
            for index, byte in enumerate(field)
        ]
        start = _HEADER_BYTES
    else:
        wrong, start = [], 0
    kind, _, cells, cells_at = struct.unpack_from(">BHHH", page, start)
    room = range(start + (8 if kind in _LEAVES else 12) + 2 * cells, cells_at)
    if kind in _LEAVES + _INTERIORS and room.stop <= PAGE_BYTES - _SUM_BYTES:
        wrong += [(at, page[at]) for at in room]
    found = [(at, bits) for at, bits in wrong if bits]
    return found if len(found) == 1 and found[0][1].bit_count() == 1 else []


def is_whole(page: bytes) -> bool:
    """Whether a page's checksum holds. For the one page that every opening looks at."""
    words = struct.unpack(f"<{PAGE_BYTES // 4}I", page)
    first = second = 0
    for index in range(0, _WORDS, 2):
        first = (first + words[index] + second) & 0xFFFFFFFF
        second = (second + words[index + 1] + first) & 0xFFFFFFFF
    return (first, second) == words[_WORDS:]
