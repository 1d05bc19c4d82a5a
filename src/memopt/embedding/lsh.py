"""Hyperplane LSH: unit vectors as bits, and the nearest of them by Hamming distance.

A sketch has one bit for each hyperplane: the side on which the vector lies. Two vectors at an angle
of a differ in a share of a ÷ π of their bits (Charikar, STOC 2002); hyperplanes at right angles to
each other estimate it better than random ones (Ji et al., "Super-bit LSH", NIPS 2012). So a scan
of 32 bytes a vector proposes candidates, and whoever asks scores those exactly.

Owns the hyperplanes, the scan and the choice of candidates. Invariant: the same dimensions and bits
give the same hyperplanes. Not here: the vectors, their exact scores, and who keeps the sketches.

Sketches lie word by word, not vector by vector: (bits ÷ 64, n). With numpy's loops over short rows,
the other order took ten times as long.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from memopt.base.errors import UsageError

BITS: Final = 256
"""Of 100,000 vectors, the best one is among 500 candidates in 999 of 1,000 cases."""
BITS_MAX: Final = 1024
DIMENSIONS_MAX: Final = 4096

_SEED: Final = 0x6D656D6F
_WORD: Final = 64
_BLOCK: Final = 1 << 15
"""Vectors that are compared at a time: what that needs besides stays in a core's cache."""
_SAMPLE: Final = 1 << 13
_TIES: Final = 4
"""So many times the candidates that were asked for are handed out before some are cut off."""

Sketches = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.float32]


class Hyperplanes:
    """`bits` hyperplanes through the origin of a space. Immutable."""

    def __init__(self, dimensions: int, bits: int = BITS) -> None:
        """Raises UsageError for sizes out of bounds, or bits that are no multiple of 64."""
        if not 1 <= dimensions <= DIMENSIONS_MAX:
            raise UsageError(f"from 1 to {DIMENSIONS_MAX}, got {dimensions}", field="dimensions")
        if not _WORD <= bits <= BITS_MAX or bits % _WORD:
            raise UsageError(f"a multiple of 64 up to {BITS_MAX}, got {bits}", field="bits")
        self.dimensions = dimensions
        self.bits = bits
        self._normals = _normals(dimensions, bits)

    def sketch(self, vectors: Vectors) -> Sketches:
        """The sketches of vectors (n, dimensions), word by word: (bits ÷ 64, n)."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise UsageError(
                f"expected vectors of {self.dimensions} dimensions, got shape {vectors.shape}",
                field="vectors",
            )
        sketches = np.empty((self.bits // _WORD, len(vectors)), np.uint64)
        for start in range(0, len(vectors), _BLOCK):
            part = vectors[start : start + _BLOCK]
            sides = np.packbits(part @ self._normals > 0, axis=1, bitorder="little")
            sketches[:, start : start + _BLOCK] = sides.view(np.uint64).T
        return sketches

    @property
    def charged_bytes(self) -> int:
        return self._normals.nbytes


def _normals(dimensions: int, bits: int) -> Vectors:
    """Normals as columns, orthogonal to each other in groups of as many as there can be."""
    random = np.random.Generator(np.random.PCG64(_SEED))
    groups = [
        np.linalg.qr(random.standard_normal((dimensions, dimensions)))[0]
        for _ in range(-(-bits // dimensions))
    ]
    return np.ascontiguousarray(np.hstack(groups)[:, :bits], np.float32)


def distances(sketches: Sketches, probe: Sketches) -> npt.NDArray[np.uint8]:
    """Bits in which each sketch (words, n) differs from `probe` (words,), at most 255. With 256
    bits, one that differs in all of them has 0: whoever scores it exactly finds it out."""
    words, count = sketches.shape
    found = np.empty(count, np.uint8)
    size = min(count, _BLOCK)
    sides, ones = np.empty(size, np.uint64), np.empty(size, np.uint8)
    is_wide = words * _WORD > 256
    total = np.empty(size if is_wide else 0, np.uint16)
    for start in range(0, count, _BLOCK):
        part, into = sketches[:, start : start + _BLOCK], found[start : start + _BLOCK]
        n = len(into)
        sums: Any = total[:n] if is_wide else into
        sums[:] = 0
        for word in range(words):
            np.bitwise_xor(part[word], probe[word], out=sides[:n])
            count_ones(sides[:n], ones[:n])
            np.add(sums, ones[:n], out=sums)
        if is_wide:
            np.minimum(sums, 255, out=into, casting="unsafe")
    return found


def closest(found: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.intp]:
    """Where the `count` smallest of `found` are, in rising order of place; of those that are as
    far as the last one, some more. A distance of 255 is out of question."""
    if count < 1:
        raise UsageError(f"expected at least 1, got {count}", field="count")
    step = max(1, len(found) // _SAMPLE)
    sample = found[::step]
    rank = min(len(sample) - 1, count // step + 1)
    limit = int(np.partition(sample, rank)[rank]) if len(sample) else 0
    while True:
        limit = min(limit, 254)
        places = np.flatnonzero(found <= limit)
        if len(places) >= count or limit == 254:
            break
        limit += 1
    if len(places) > _TIES * count:
        nearest = np.argpartition(found[places], count)[:count]
        places = np.sort(places[nearest])
    return places


def _count_by_instruction(words: Sketches, out: npt.NDArray[np.uint8]) -> None:
    np.bitwise_count(words, out=out)


def _count_by_halves(words: Sketches, out: npt.NDArray[np.uint8]) -> None:
    """Adds neighbours, in fields of 2, 4 and 8 bits; the words are overwritten."""
    half = words >> _ONE
    half &= _PAIRS
    words -= half
    np.right_shift(words, _TWO, out=half)
    half &= _QUARTERS
    words &= _QUARTERS
    words += half
    np.right_shift(words, _FOUR, out=half)
    words += half
    words &= _EIGHTHS
    words *= _BYTES
    np.right_shift(words, _LAST, out=out, casting="unsafe")


_ONE, _TWO, _FOUR, _LAST = (np.uint64(shift) for shift in (1, 2, 4, 56))
_PAIRS, _QUARTERS, _EIGHTHS, _BYTES = (
    np.uint64(0x0101010101010101 * byte) for byte in (0x55, 0x33, 0x0F, 0x01)
)
count_ones: Callable[[Sketches, npt.NDArray[np.uint8]], None] = (
    _count_by_instruction if hasattr(np, "bitwise_count") else _count_by_halves
)
"""Set bits of each word, into bytes; may overwrite the words. numpy before 2.0 has no instruction
for it."""
