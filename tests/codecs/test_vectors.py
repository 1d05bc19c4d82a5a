"""Vectors come back within half a step, in a quarter and an eighth of their bytes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memopt.base.errors import CorruptionError, UsageError
from memopt.codecs.arrays import pack_nibbles, unpack_nibbles
from memopt.codecs.vectors import (
    QuantisedVectors,
    VectorCodec,
    dequantise,
    quantisation_error,
    quantise,
)

MOST = {VectorCodec.INT8: 127, VectorCodec.INT4: 7}
VECTORS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9),
    elements=st.floats(-1, 1, width=32),
)
every_codec = pytest.mark.parametrize("codec", VectorCodec)


@every_codec
@given(vectors=VECTORS)
def test_a_component_comes_back_within_half_a_step(codec: VectorCodec, vectors: Any) -> None:
    quantised = quantise(vectors, codec)
    back = dequantise(quantised)
    assert back.shape == vectors.shape
    assert back.dtype == np.float32
    steps = quantised.scales.astype(np.float64)[:, None]
    assert np.all(np.abs(back.astype(np.float64) - vectors) <= steps * 0.5001)
    if vectors.size:
        largest = np.abs(vectors).max(axis=1)
        # A float16 has eleven bits, and its smallest step.
        assert np.all(steps[:, 0] <= largest / MOST[codec] * (1 + 2**-10) + 2**-24)


@every_codec
def test_they_occupy_what_was_promised(codec: VectorCodec) -> None:
    quantised = quantise(np.ones((10, 256), np.float32), codec)
    width = {VectorCodec.INT8: 256, VectorCodec.INT4: 128}[codec]
    assert quantised.codes.nbytes == 10 * width
    assert quantised.scales.nbytes == 20


@every_codec
def test_an_error_is_measured_in_lengths(codec: VectorCodec) -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(200, 256)).astype(np.float32)
    vectors[0] = 0
    errors = quantisation_error(vectors, quantise(vectors, codec))
    back = dequantise(quantise(vectors, codec))
    assert errors[0] == 0
    assert np.isclose(errors[5], np.linalg.norm(back[5] - vectors[5]) / np.linalg.norm(vectors[5]))
    low, high = {VectorCodec.INT8: (0.001, 0.02), VectorCodec.INT4: (0.05, 0.2)}[codec]
    assert np.all((low < errors[1:]) & (errors[1:] < high))


@given(arrays.arrays(np.int8, (5, 7), elements=st.integers(-8, 7)))
def test_nibbles_are_unpacked_as_they_were_packed(codes: Any) -> None:
    packed = pack_nibbles(codes)
    assert packed.dtype == np.uint8
    assert packed.shape == (5, 4)
    assert np.array_equal(unpack_nibbles(packed, 7), codes)


def test_nibbles_of_another_width_are_refused() -> None:
    wrong = QuantisedVectors(
        VectorCodec.INT4, np.zeros((2, 3), np.uint8), np.ones(2, np.float16), 7
    )
    with pytest.raises(CorruptionError):
        dequantise(wrong)


@every_codec
@pytest.mark.parametrize(
    "vectors",
    [
        np.ones(3),
        np.ones((1, 2, 3)),
        np.array([[np.nan]]),
        np.array([[np.inf]]),
        np.array([[1e38]]),
    ],
)
def test_what_cannot_be_rounded_is_refused_by_name(codec: VectorCodec, vectors: Any) -> None:
    with pytest.raises(UsageError, match="vectors"):
        quantise(vectors, codec)


def test_integers_without_a_scale_are_zero() -> None:
    nothing = QuantisedVectors(
        VectorCodec.INT8, np.ones((1, 2), np.int8), np.zeros(1, np.float16), 2
    )
    assert dequantise(nothing).tolist() == [[0.0, 0.0]]
