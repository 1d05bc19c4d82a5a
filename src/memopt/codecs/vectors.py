"""Vectors in a quarter or an eighth of their bytes: int8 and int4, one float16 scale to a vector.

Owns: the arithmetic of rounding and its error. Invariant: a component comes back within half a
step, which is the vector's largest component by 127 or by 7. Not here: headers and checksums, which
are those of whatever the vectors are part of; arrays of callers (arrays).

int4 packs two components to a byte, as arrays does; of an odd count the last high half is 0.
"""

import enum
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.errors import CorruptionError, UsageError
from memopt.codecs.arrays import pack_nibbles, unpack_nibbles


class VectorCodec(enum.StrEnum):
    INT8 = "int8"
    INT4 = "int4"


_LARGEST: Final = {VectorCodec.INT8: 127, VectorCodec.INT4: 7}
_SCALE_MAX: Final = 65504.0
"""Of a float16."""


class QuantisedVectors(NamedTuple):
    """n vectors of d components."""

    codec: VectorCodec
    codes: Any
    """int8 (n, d); packed, u8 (n, (d + 1) ÷ 2)."""
    scales: Any
    """float16 (n): what a step is worth."""
    dimensions: int


def quantise(vectors: Any, codec: VectorCodec = VectorCodec.INT8) -> QuantisedVectors:
    """float32 (n, d) as integers. Raises UsageError for what is not finite, or has another shape,
    or is too large for a float16 scale."""
    values = np.asarray(vectors, np.float32)
    if values.ndim != 2:
        raise UsageError(f"expected a shape of (n, d), got {values.shape}", field="vectors")
    if not np.isfinite(values).all():
        raise UsageError("a component is not a finite number", field="vectors")
    most = _LARGEST[codec]
    count, dimensions = values.shape
    largest = np.abs(values).max(axis=1) if dimensions else np.zeros(count, np.float32)
    if count and float(largest.max()) / most > _SCALE_MAX:
        raise UsageError(f"a component is larger than {most * _SCALE_MAX:g}", field="vectors")
    # Rounded up, so that the largest component is within the integers.
    scales = (largest / most).astype(np.float16)
    low = scales.astype(np.float32) * most < largest
    scales[low] = np.nextafter(scales[low], np.float16(np.inf))
    steps = scales.astype(np.float32)
    rounded = np.rint(values / np.where(steps > 0, steps, 1)[:, None])
    codes = np.clip(rounded, -most, most).astype(np.int8)
    if codec is VectorCodec.INT4:
        codes = pack_nibbles(codes)
    return QuantisedVectors(codec, codes, scales, dimensions)


def dequantise(quantised: QuantisedVectors) -> Any:
    """float32 (n, d). Raises CorruptionError where codes are packed in another width."""
    codes = quantised.codes
    if quantised.codec is VectorCodec.INT4:
        if codes.ndim != 2 or codes.shape[1] != (quantised.dimensions + 1) // 2:
            raise CorruptionError(f"{quantised.dimensions} components are packed as {codes.shape}")
        codes = unpack_nibbles(codes, quantised.dimensions)
    return codes.astype(np.float32) * quantised.scales.astype(np.float32)[:, None]


def quantisation_error(vectors: Any, quantised: QuantisedVectors) -> Any:
    """float32 (n): the length of what each vector lost, by its own length; 0 for zeros."""
    values = np.asarray(vectors, np.float32)
    lost = np.linalg.norm(dequantise(quantised) - values, axis=1)
    lengths = np.linalg.norm(values, axis=1)
    return np.where(lengths > 0, lost / np.where(lengths > 0, lengths, 1), 0).astype(np.float32)
