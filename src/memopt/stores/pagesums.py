"""The checksum that SQLite's checksum VFS keeps at the end of every page, and single flipped bits.

Two 32-bit sums over the words of a page, both linear modulo 2^32: so a bit that flipped can be
told from the difference it made. The algorithm is that of SQLite's ext/misc/cksumvfs.c.
"""

import functools
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

PAGE_BYTES: Final = 4096
_SUM_BYTES: Final = 8
_WORDS: Final = (PAGE_BYTES - _SUM_BYTES) // 4

_BITS_TOLD_APART: Final = 23
"""Of a word: a flip of one of these changes the sums as no other in the page does. Of higher bits
some can be told apart too; but those pass for one flip where there were two in 1 of 700 cases, and
these in 1 of 5,000, which is a third as often as the checksum misses two flips altogether."""

Words = npt.NDArray[np.uint32]


class Flip(NamedTuple):
    """A bit to flip back: in which byte of a page, and which."""

    offset: int
    mask: int


def damaged_pages(chunk: bytes) -> list[int]:
    """Which of the pages in `chunk`, from 0, fail their checksums."""
    words: Words = np.frombuffer(chunk, "<u4").reshape(-1, PAGE_BYTES // 4)
    wrong = (_sums(words) != words[:, _WORDS:]).any(axis=1)
    indices: list[int] = np.flatnonzero(wrong).tolist()
    return indices


def find_flip(page: bytes) -> Flip | None:
    """The one bit that, flipped back, makes the checksum hold; None when it is not exactly one."""
    words: Words = np.frombuffer(page, "<u4")
    wrong = words[_WORDS:] - _sums(words.reshape(1, -1))[0]
    if not wrong.any():
        return None
    bits = np.uint32(1) << np.arange(_BITS_TOLD_APART, dtype=np.uint32)
    # What flipping each bit back adds to its word: +2^k where it is 0, -2^k where it is 1.
    step = np.where(words[:_WORDS, None] & bits, np.uint32(0) - bits, bits)
    fits = np.ones(step.shape, dtype=bool)
    for weights, difference in zip(_weights(), wrong, strict=True):
        fits &= step * weights[:, None] == difference
    found = [(word, 1 << bit) for word, bit in np.argwhere(fits).tolist()]
    # Or the bit is in the stored sums themselves, where it has to explain one and leave the other.
    sums = words[_WORDS:] ^ (words[_WORDS:] - wrong)
    if not sums.all() and int(sums.max()) in bits:
        found.append((_WORDS + int(sums.argmax()), int(sums.max())))
    if len(found) != 1:
        return None
    [(word, mask)] = found
    byte = (mask.bit_length() - 1) // 8
    flip = Flip(4 * word + byte, mask >> 8 * byte)
    mended = bytearray(page)
    mended[flip.offset] ^= flip.mask
    return None if damaged_pages(bytes(mended)) else flip


def _sums(pages: Words) -> Words:
    """Both sums of each page, a row of words."""
    columns = [(pages[:, :_WORDS] * w).sum(axis=1, dtype=np.uint32) for w in _weights()]
    return np.stack(columns, axis=1)


@functools.cache
def _weights() -> tuple[Words, Words]:
    """By how much each word of a page counts in each of its sums."""
    rows: list[tuple[int, int]] = []
    first, second = 1, 1  # of the earlier word of a pair: it is in both sums
    third, fourth = 0, 1  # of the later one: in the second sum alone
    for _ in range(_WORDS // 2):
        rows += [(third, fourth), (first, second)]
        # One more pair of zeros behind it: s1 += s2, then s2 += s1.
        first, second = (first + second) % 2**32, (first + 2 * second) % 2**32
        third, fourth = (third + fourth) % 2**32, (third + 2 * fourth) % 2**32
    table: npt.NDArray[Any] = np.array(rows[::-1], dtype=np.uint32)
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
