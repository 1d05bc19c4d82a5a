"""Arrays come back as they went in, or are refused by name; damage is never decoded."""

import struct
import sys
import tracemalloc
from typing import Any

import msgspec
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memopt.base.errors import CorruptionError, StoreVersionError, UsageError
from memopt.codecs.values import decode_value, encode_value, equal, verify_value

try:
    from scipy import sparse
except ImportError:
    sparse = None
needs_scipy = pytest.mark.skipif(sparse is None, reason="scipy is not installed")


def encoded(value: Any, encoding: str | None = None, bytes_max: int = 1 << 20) -> bytes:
    return encode_value(value, bytes_max=bytes_max, depth_max=64, field="value", encoding=encoding)[
        0
    ]


def same(one: Any, other: Any) -> bool:
    """To the bit: also -0.0 and every kind of NaN."""
    return bool(
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


dtypes = st.one_of(
    arrays.boolean_dtypes(), arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    arrays.complex_number_dtypes(sizes=(64, 128), endianness="?"),
    arrays.datetime64_dtypes(), arrays.timedelta64_dtypes(),
    arrays.byte_string_dtypes(max_len=5), arrays.unicode_string_dtypes(max_len=5),
)  # fmt: skip


@given(
    arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12)),
    st.booleans(),
)
def test_an_array_comes_back_to_the_bit(array: Any, is_transposed: bool) -> None:
    value = array.T[::-1] if is_transposed and array.ndim else array
    back = decode_value(encoded(value))
    assert same(back, numpy.ascontiguousarray(value).reshape(value.shape))
    # Fresh and the caller's to change.
    assert back.flags.writeable
    assert back.flags.owndata or back.base is None or back.base.flags.owndata


def test_zeros_are_left_out_where_that_is_smaller() -> None:
    array = numpy.zeros((100, 100), "f4")
    array[3, 5], array[7, 0] = 1.5, -0.0
    raw = encoded(array)
    assert len(raw) < 100
    assert same(decode_value(raw), array)
    assert same(decode_value(encoded(numpy.zeros(5000, "f8"))), numpy.zeros(5000, "f8"))
    full = numpy.ones(5000, "f8")
    assert len(encoded(full)) > full.nbytes
    dates = numpy.zeros(1000, "M8[ns]")
    dates[7] = numpy.datetime64("NaT")
    assert same(decode_value(encoded(dates)), dates)


@pytest.mark.parametrize(("encoding", "most"), [("int8", 127), ("int4", 7)])
@pytest.mark.parametrize("shape", [(7,), (3, 8), (2, 3, 5), (4, 1), (0, 3), (3, 0)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_rounding_stays_within_the_error_that_it_states(
    encoding: str, most: int, shape: tuple[int, ...], dtype: str
) -> None:
    array = numpy.random.default_rng(1).normal(size=shape).astype(dtype)
    raw, error = encode_value(
        array, bytes_max=1 << 20, depth_max=9, field="value", encoding=encoding
    )
    back = decode_value(raw)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    if array.size:
        found = numpy.abs(back.astype("f8") - array.astype("f8"))
        assert found.max() == error
        rows = numpy.abs(array.astype("f8")).max(axis=-1, keepdims=True)
        # Half a step, and what float16 itself rounds away.
        assert (found <= rows * (0.5001 / most + numpy.finfo(dtype).eps)).all()
    else:
        assert error == 0.0


def test_rows_of_zeros_and_of_very_little_are_rounded_to_zeros() -> None:
    array = numpy.array([[0.0, 0.0], [1e-300, 0.0], [3.0, -3.0]])
    raw, error = encode_value(array, bytes_max=999, depth_max=9, field="value", encoding="int8")
    assert numpy.allclose(decode_value(raw), array, atol=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize(
    "array",
    [
        numpy.array([1, 2]), numpy.array(1.0), numpy.array([numpy.nan]),
        numpy.array([numpy.inf]), numpy.array([1e300]), numpy.array([True]), [1.0], b"b",
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_rounded_is_refused(array: Any) -> None:
    with pytest.raises(UsageError):
        encoded(array, "int8")


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(UsageError, match="encoding: expected one of int8, int4"):
        encoded(numpy.ones(3), "int2")


@pytest.mark.parametrize(
    "array",
    [
        numpy.array([object()]), numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        numpy.ma.masked_array([1, 2], [True, False]), numpy.array([b"x"], "V4"),
        numpy.array([1, 2]).view(numpy.recarray), numpy.float64(1.0), numpy.int8(1),
        *([numpy.ones(2, numpy.longdouble)] if numpy.dtype(numpy.longdouble).itemsize > 8 else []),
    ],
    ids=lambda array: f"{type(array).__name__} of {array.dtype}",
)  # fmt: skip
def test_what_would_not_come_back_equal_is_refused_by_name(array: Any) -> None:
    with pytest.raises(UsageError, match=r"^value"):
        encoded(array)


def test_an_array_above_the_limit_is_refused_before_it_is_copied() -> None:
    with pytest.raises(UsageError, match="8000 bytes, at most 1000"):
        encoded(numpy.zeros(1000), bytes_max=1000)


@needs_scipy
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("make", ["array", "matrix"])
def test_a_sparse_matrix_comes_back_in_its_class(form: str, make: str) -> None:
    dense = numpy.zeros((40, 30), "f4")
    dense[3, 4], dense[39, 29], dense[3, 5] = 1.5, -2, 7
    value = getattr(sparse, f"coo_{make}")(dense).asformat(form)
    back = decode_value(encoded(value))
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert numpy.array_equal(back.toarray(), dense)
    assert equal(back, value)


def test_nothing_damaged_is_decoded() -> None:
    raws = [
        encoded(numpy.arange(300.0).reshape(3, 100)),
        encoded(numpy.eye(50)),
        encoded(numpy.arange(60.0).reshape(3, 20), "int4"),
    ]
    if sparse is not None:
        raws.append(encoded(sparse.csr_array(numpy.eye(9))))
    for raw in raws:
        for length in range(1, len(raw), 7):
            for read in (decode_value, verify_value):
                with pytest.raises((CorruptionError, StoreVersionError)):
                    read(raw[:length])


def with_header(*fields: Any, payload: bytes = b"") -> bytes:
    head = msgspec.msgpack.encode(fields)
    return b"\x03" + struct.pack("<H", len(head)) + head + payload


@pytest.mark.parametrize(
    "raw",
    [
        with_header(1, "dense", "<f8", [1 << 60]),
        with_header(1, "coo", "<f8", [1 << 40], 0),
        with_header(1, "coo", "<f8", [1 << 20, 1 << 20, 1 << 20], 0),
        with_header(1, "int8", "<f8", [1 << 31, 4], 0.0),
        with_header(1, "dense", "|O", [1], payload=bytes(8)),
        with_header(1, "dense", "<f8", [-1], payload=bytes(8)),
        with_header(1, "dense", "<f8", "x", payload=bytes(8)),
        with_header(1, "dense", "nonsense", [1], payload=bytes(8)),
        with_header(1, "coo", "<f8", [4], 1, payload=struct.pack("<Id", 4, 1.0)),
        with_header(1, "coo", "<f8", [4], 2, payload=struct.pack("<IIdd", 2, 1, 1.0, 1.0)),
        with_header(1, "packed", "<f8", [1], payload=bytes(8)),
        with_header(1, "sparse", "<f8", [], [2, 2], 1, "evil", False, payload=bytes(16)),
        with_header(1, "sparse", "<f8", [], [2, 2], 1, "csr", False, payload=b"\2" * 16),
        with_header(1, "sparse", "<f8", [], [2], 1, "csr", False, payload=bytes(16)),
        with_header(1, "sparse", "<f8", [], [2, -2], 1, "csr", False, payload=bytes(16)),
        b"\x03", b"\x03\xff\xff", b"\x09", b"",
    ],
    ids=range(19),
)  # fmt: skip
def test_what_was_never_encoded_is_refused_before_room_is_made_for_it(raw: bytes) -> None:
    for read in (decode_value, verify_value):
        with pytest.raises(CorruptionError):
            read(raw)


def test_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(StoreVersionError, match="version 2"):
        decode_value(with_header(2, "dense", "<f8", [0]))


@needs_scipy
def test_without_scipy_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encoded(sparse.csr_array(numpy.eye(3)))
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(UsageError, match="install scipy"):
        decode_value(raw)
    verify_value(raw)


def test_an_array_is_verified_without_making_it() -> None:
    array = numpy.zeros(1 << 16)
    array[7] = 1
    raws = [encoded(array), encoded(array + 1), encoded(array, "int4")]
    tracemalloc.start()
    try:
        for raw in raws:
            verify_value(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


def test_json_and_bytes_come_back_and_others_are_refused() -> None:
    for value in (None, True, 1.5, "ä", [1, {"k": []}], {}, b"", b"\x00"):
        back = decode_value(encoded(value))
        assert back == value
        assert type(back) is type(value)
    for bad in (
        bytearray(b"x"),
        memoryview(b"x"),
        (1,),
        {1: 2},
        {"k": b"x"},
        object(),
        float("nan"),
    ):
        with pytest.raises(UsageError, match=r"^value"):
            encoded(bad)
    assert equal(numpy.ones(2), numpy.ones(2))
    assert not equal(numpy.ones(2), [1.0, 1.0])
    assert not equal(numpy.ones(2), numpy.ones(2, "f4"))
