"""What embedders take and give, verified: texts that are texts, vectors of one shape and length.

Owns: the checks that every embedder of ours makes, and CheckedEmbedder, which makes them for one
that is not ours. Invariant: what `unit` returns is finite, float32, and of unit length or zero.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from memopt.base.errors import UsageError
from memopt.base.recall_protocols import Embedder, PieceEmbedder

FIELD: Final = "embedder"
DIMENSIONS_MAX: Final = 4096
SPACE_BYTES_MAX: Final = 200
TEXTS_MAX: Final = 4096
"""Of one call of somebody else's embedder."""
_ALONE: Final = 1 << 18
"""Multiplications from which on OpenBLAS starts threads: those wait for each other, and where
another program has a core, they wait for that: a recall took five times as long."""


def texts_of(texts: Sequence[str]) -> list[str]:
    """The same as a list. Raises UsageError for one string, and for what is no text."""
    if isinstance(texts, str | bytes):
        raise UsageError("expected a sequence of texts, got one", field="texts")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(f"expected a text, got {type(text).__name__}", field=f"texts[{index}]")
    return found


def unit(vectors: Any, *, count: int, dimensions: int) -> Any:
    """float32 (count, dimensions) of unit length, zeros where there is no direction.

    Raises UsageError, naming the embedder, for another shape and for what is not finite.
    """
    try:
        values = np.asarray(vectors, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"expected arrays of numbers: {error}", field=FIELD) from None
    if count == 0 and values.size == 0:
        return np.empty((0, dimensions), np.float32)
    if values.shape != (count, dimensions):
        raise UsageError(
            f"expected vectors of shape {(count, dimensions)}, got {values.shape}", field=FIELD
        )
    if not np.isfinite(values).all():
        raise UsageError("a vector has components that are not finite", field=FIELD)
    # By the largest component first: the square of a large one would be infinite.
    largest = np.abs(values).max(axis=1, keepdims=True)
    values = values / np.where(largest > 0, largest, 1)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    return (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def products(one: Any, other: Any) -> Any:
    """float32 (len(one), len(other)): one @ other.T, on this thread alone."""
    rows = max(1, _ALONE // max(1, other.size))
    found = np.empty((len(one), len(other)), np.float32)
    for at in range(0, len(one), rows):
        np.matmul(one[at : at + rows], other.T, out=found[at : at + rows])
    return found


def checked_space(space: Any) -> str:
    """A name that can be stored. Raises UsageError."""
    if not isinstance(space, str) or not space.isprintable():
        raise UsageError(f"expected a printable name of its space, got {space!r}", field=FIELD)
    size_bytes = len(space.encode("utf-8", "surrogatepass"))
    if not 0 < size_bytes <= SPACE_BYTES_MAX:
        raise UsageError(
            f"expected a space of up to {SPACE_BYTES_MAX} bytes, got {size_bytes}", field=FIELD
        )
    return space


def checked_dimensions(dimensions: Any) -> int:
    """Raises UsageError for what is no size of a vector."""
    if type(dimensions) is bool or not hasattr(dimensions, "__index__"):
        raise UsageError(f"expected dimensions, got {dimensions!r}", field=FIELD)
    number = int(dimensions)
    if not 0 < number <= DIMENSIONS_MAX:
        raise UsageError(f"expected 1 to {DIMENSIONS_MAX} dimensions, got {number}", field=FIELD)
    return number


class CheckedEmbedder:
    """Somebody else's embedder, whose every answer is verified and made unit length."""

    def __init__(self, embedder: Embedder) -> None:
        """Raises UsageError where space or dimensions are not what they should be."""
        self._embedder = embedder
        self.space = checked_space(embedder.space)
        self.dimensions = checked_dimensions(embedder.dimensions)

    def embed(self, texts: Sequence[str]) -> Any:
        found = texts_of(texts)
        parts = [
            unit(self._embedder.embed(some), count=len(some), dimensions=self.dimensions)
            for start in range(0, len(found), TEXTS_MAX)
            for some in [found[start : start + TEXTS_MAX]]
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.dimensions), np.float32)


class CheckedPieceEmbedder(CheckedEmbedder):
    """The same of one that is made of word pieces."""

    def __init__(self, embedder: PieceEmbedder) -> None:
        super().__init__(embedder)
        self._of_pieces = embedder

    def pieces(self, texts: Sequence[str], *, limit: int | None = None) -> tuple[Any, Any]:
        found = texts_of(texts)
        pieces, starts = map(np.asarray, self._of_pieces.pieces(found, limit=limit))
        if (
            pieces.dtype != np.uint16
            or starts.shape != (len(found) + 1,)
            or starts[0] != 0
            or starts[-1] != len(pieces)
            or np.any(np.diff(starts) < 0)
        ):
            raise UsageError("expected pieces (u16) and where each text begins", field=FIELD)
        return pieces, starts

    def pooled(self, pieces: Any, starts: Any) -> Any:
        vectors = self._of_pieces.pooled(pieces, starts)
        return unit(vectors, count=len(starts) - 1, dimensions=self.dimensions)

    def piece_vectors(self, pieces: Any) -> Any:
        vectors = self._of_pieces.piece_vectors(pieces)
        return unit(vectors, count=len(pieces), dimensions=self.dimensions)

    def piece_likeness(self, pieces: Any, vectors: Any) -> Any:
        return self.piece_vectors(pieces) @ vectors.T

    def piece_weights(self, pieces: Any) -> Any:
        return self._of_pieces.piece_weights(pieces)

    def charged_bytes(self) -> int:
        return self._of_pieces.charged_bytes()
