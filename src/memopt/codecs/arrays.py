"""numpy arrays and scipy sparse matrices as bytes: exact, or quantised where that was asked for.

Body: header length u16, header, payload. The header is a msgpack array: version, encoding, dtype,
shape, and what the encoding needs. Encodings:

    dense   the elements in C order
    coo     positions of what is not zero, counted in C order (u32, or u64 above 2^32 elements),
            then those elements; chosen when it is smaller than dense
    sparse  a scipy matrix: format and class, row and column (u32 or u64) and value of each entry
    int8    rows along the last axis: a float32 scale each, then round(x ÷ scale) in -127…127
    int4    the same in -7…7, two to a byte, the first in the low half

numpy is imported when an array is met and not before. Nothing that arrives chooses what code runs:
dtypes are numbers, booleans, dates and fixed text; objects and structures are refused.
"""

import contextlib
import math
import struct
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from memopt.base.errors import CorruptionError, StoreVersionError, UsageError

if TYPE_CHECKING:
    import numpy as np

_VERSION: Final = 1
_LENGTH: Final = struct.Struct("<H")
_DENSE: Final = "dense"
_COO: Final = "coo"
_SPARSE: Final = "sparse"
QUANTISED: Final = {"int8": 127, "int4": 7}
"""Encodings that are asked for by name, and the largest integer of each."""
_KINDS: Final = "biufcmMSU"
_ITEM_BYTES_MAX: Final = 16
_TEXT_BYTES_MAX: Final = 1 << 16
_DIMENSIONS_MAX: Final = 64
_ELEMENTS_BYTES_MAX: Final = 1 << 30
"""Of a decoded array: more was never encoded, for values are limited to less."""
_SPARSE_FROM_BYTES: Final = 1024
_WORDS: Final = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


def is_array(value: Any) -> bool:
    """Whether a value is a numpy array or a scipy sparse matrix. Imports neither."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return True
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def encode_array_body(
    value: Any, encoding: str | None, *, bytes_max: int, field: str
) -> tuple[bytes, float]:
    """(body, largest absolute error). Raises UsageError by name of the field for a dtype or a class
    that would not come back equal, and where the array is larger than `bytes_max`."""
    import numpy

    if encoding is not None and encoding not in QUANTISED:
        choices = ", ".join(QUANTISED)
        raise UsageError(f"expected one of {choices}, got {encoding!r}", field="encoding")
    if not isinstance(value, numpy.ndarray):
        if encoding is not None:
            raise UsageError("sparse matrices are stored exactly", field="encoding")
        return _encode_sparse(value, bytes_max, field), 0.0
    if type(value) not in (numpy.ndarray, numpy.memmap):
        raise UsageError(f"{type(value).__name__} is not a plain array", field=field)
    _check_dtype(value.dtype, field)
    if value.nbytes > bytes_max:
        raise UsageError(f"{value.nbytes} bytes, at most {bytes_max}", field=field)
    if encoding is not None:
        return _quantised(value, encoding, field)
    sparse = _as_coo(value)
    if sparse is not None:
        positions, values = sparse
        payload = positions.tobytes() + values.tobytes()
        return _body(_COO, value.dtype, value.shape, [len(values)], payload), 0.0
    return _body(_DENSE, value.dtype, value.shape, [], value.tobytes()), 0.0


def decode_array_body(body: memoryview) -> Any:
    """A fresh array. Raises CorruptionError where header and payload do not agree, UsageError for
    a sparse matrix where there is no scipy."""
    with _refusing_damage():
        return _laid_out(body)()


def verify_array_body(body: memoryview) -> None:
    """Raises CorruptionError as decoding does; makes no array, and needs no scipy."""
    with _refusing_damage():
        _laid_out(body)


@contextlib.contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, TypeError, IndexError, msgspec.MsgspecError) as error:
        if isinstance(error, UsageError):
            raise
        raise CorruptionError(f"an array cannot be decoded: {error}") from None


def _laid_out(body: memoryview) -> Callable[[], Any]:
    """What makes the array, once its layout was verified."""
    import numpy

    (length,) = _LENGTH.unpack_from(body)
    head = _decode(body[_LENGTH.size : _LENGTH.size + length])
    version, encoding, dtype_name, shape, *rest = head
    if version != _VERSION:
        raise StoreVersionError(f"an array has version {version}, this memopt knows {_VERSION}")
    dtype = numpy.dtype(dtype_name)
    payload = body[_LENGTH.size + length :]
    _check_layout(dtype, shape)
    if encoding == _DENSE:
        return numpy.frombuffer(payload, dtype).reshape(shape).copy
    if encoding == _COO:
        return _from_coo(dtype, shape, rest[0], payload)
    if encoding in QUANTISED:
        return _dequantised(dtype, shape, encoding, payload)
    if encoding == _SPARSE:
        return _from_sparse(dtype, rest, payload)
    raise CorruptionError(f"an array has encoding {encoding!r}, which there is not")


def _body(
    encoding: str, dtype: "np.dtype[Any]", shape: tuple[int, ...], rest: list[Any], payload: bytes
) -> bytes:
    head = _encode([_VERSION, encoding, dtype.str, list(map(int, shape)), *rest])
    return b"".join((_LENGTH.pack(len(head)), head, payload))


def _check_dtype(dtype: "np.dtype[Any]", field: str) -> None:
    if dtype.kind not in _KINDS or dtype.subdtype is not None or dtype.fields is not None:
        raise UsageError(f"arrays of dtype {dtype} cannot be stored", field=field)
    limit = _TEXT_BYTES_MAX if dtype.kind in "SU" else _ITEM_BYTES_MAX
    if dtype.itemsize > limit or (dtype.kind == "f" and dtype.itemsize > 8):
        # long double is of another size on other machines.
        raise UsageError(f"arrays of dtype {dtype} cannot be stored", field=field)


def _check_layout(dtype: "np.dtype[Any]", shape: Any) -> None:
    """Before anything is allocated."""
    if dtype.kind not in _KINDS or dtype.fields is not None or dtype.subdtype is not None:
        raise CorruptionError(f"an array of dtype {dtype} was never stored")
    if type(shape) is not list or len(shape) > _DIMENSIONS_MAX:
        raise CorruptionError("an array has no shape")
    if any(type(size) is not int or size < 0 for size in shape):
        raise CorruptionError(f"an array has shape {shape}")
    if math.prod(shape) * dtype.itemsize > _ELEMENTS_BYTES_MAX:
        raise CorruptionError(f"an array declares shape {shape}, which is too large")


# -- zeros left out -------------------------------------------------------------------------------


def _as_coo(value: "np.ndarray[Any, Any]") -> "tuple[np.ndarray[Any, Any], Any] | None":
    """Positions and elements of what is not zero, where that is smaller. By bits: -0.0 is kept."""
    import numpy

    word = _WORDS.get(value.dtype.itemsize)
    if word is None or value.nbytes < _SPARSE_FROM_BYTES or value.dtype.kind in "SU":
        return None
    flat = numpy.ascontiguousarray(value).reshape(-1)
    bits = flat.view(word)
    position = "<u4" if flat.size <= 2**32 else "<u8"
    count = int(numpy.count_nonzero(bits))
    if count * (numpy.dtype(position).itemsize + value.dtype.itemsize) >= value.nbytes:
        return None
    positions = numpy.flatnonzero(bits)
    return positions.astype(position), flat[positions]


def _from_coo(
    dtype: "np.dtype[Any]", shape: list[int], count: Any, payload: memoryview
) -> Callable[[], Any]:
    import numpy

    size = math.prod(shape)
    position = numpy.dtype("<u4" if size <= 2**32 else "<u8")
    if type(count) is not int or len(payload) != count * (position.itemsize + dtype.itemsize):
        raise CorruptionError("a sparse array has another length")
    positions = numpy.frombuffer(payload, position, count)
    if count and (positions[-1] >= size or numpy.any(positions[1:] <= positions[:-1])):
        raise CorruptionError("a sparse array has positions out of order")
    values = numpy.frombuffer(payload[count * position.itemsize :], dtype, count)

    def make() -> Any:
        whole = numpy.zeros(size, dtype)
        whole[positions] = values
        return whole.reshape(shape)

    return make


# -- quantised ------------------------------------------------------------------------------------


def _quantised(value: "np.ndarray[Any, Any]", encoding: str, field: str) -> tuple[bytes, float]:
    import numpy

    if value.dtype.kind != "f" or not value.ndim:
        raise UsageError(f"{encoding} is for arrays of floats", field="encoding")
    if not numpy.isfinite(value).all():
        raise UsageError(f"{encoding} holds finite numbers alone", field=field)
    most = QUANTISED[encoding]
    width = value.shape[-1]
    rows = numpy.ascontiguousarray(value, "<f8").reshape(-1, width) if value.size else None
    if rows is None:
        return _body(encoding, value.dtype, value.shape, [0.0], b""), 0.0
    largest = numpy.abs(rows).max(axis=1)
    with numpy.errstate(over="ignore"):
        scales = (largest / most).astype("<f4")
    if not numpy.isfinite(scales).all():
        raise UsageError(f"{encoding} holds numbers of the range of float32", field=field)
    # A row of zeros, or of less than a float32 can say, becomes zeros.
    divisors = numpy.where(scales > 0, scales, 1).astype("<f8")[:, None]
    codes = numpy.clip(numpy.rint(rows / divisors), -most, most).astype("i1")
    back = (codes * scales.astype("<f8")[:, None]).astype(value.dtype)
    error = float(numpy.abs(back.astype("<f8") - rows).max())
    packed = codes if encoding == "int8" else pack_nibbles(codes)
    payload = scales.tobytes() + packed.tobytes()
    return _body(encoding, value.dtype, value.shape, [error], payload), error


def pack_nibbles(codes: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """int8 (n, d) within -8…7 as u8 (n, (d + 1) ÷ 2), the first of two in the low half."""
    import numpy

    if codes.shape[1] % 2:
        codes = numpy.pad(codes, ((0, 0), (0, 1)))
    low, high = codes[:, ::2].view("u1") & 15, codes[:, 1::2].view("u1") & 15
    return low | high << 4


def unpack_nibbles(packed: "np.ndarray[Any, Any]", width: int) -> "np.ndarray[Any, Any]":
    """int8 (n, width)."""
    import numpy

    codes = numpy.empty((packed.shape[0], 2 * packed.shape[1]), "i1")
    signed = packed.view("i1")
    # Up and down again, which brings the sign along.
    codes[:, ::2] = (signed << 4) >> 4
    codes[:, 1::2] = signed >> 4
    return codes[:, :width]


def _dequantised(
    dtype: "np.dtype[Any]", shape: list[int], encoding: str, payload: memoryview
) -> Callable[[], Any]:
    import numpy

    if dtype.kind != "f" or not shape:
        raise CorruptionError(f"an array of dtype {dtype} is not quantised")
    size, width = math.prod(shape), shape[-1]
    if not size:
        return lambda: numpy.zeros(shape, dtype)
    count = size // width
    row_bytes = width if encoding == "int8" else (width + 1) // 2
    if len(payload) != count * (4 + row_bytes):
        raise CorruptionError("a quantised array has another length")
    scales = numpy.frombuffer(payload, "<f4", count)
    packed = numpy.frombuffer(payload[4 * count :], "i1").reshape(count, row_bytes)

    def make() -> Any:
        codes = packed if encoding == "int8" else unpack_nibbles(packed, width)
        return (codes * scales.astype("<f8")[:, None]).astype(dtype).reshape(shape)

    return make


# -- scipy ----------------------------------------------------------------------------------------


def _encode_sparse(value: Any, bytes_max: int, field: str) -> bytes:
    import numpy

    coo = value.tocoo()
    _check_dtype(coo.data.dtype, field)
    if coo.ndim != 2:
        raise UsageError(f"a sparse array of {coo.ndim} dimensions cannot be stored", field=field)
    index = "<u4" if max(coo.shape) <= 2**32 else "<u8"
    size = coo.nnz * (2 * numpy.dtype(index).itemsize + coo.data.dtype.itemsize)
    if size > bytes_max:
        raise UsageError(f"{size} bytes, at most {bytes_max}", field=field)
    payload = b"".join(
        (coo.row.astype(index).tobytes(), coo.col.astype(index).tobytes(), coo.data.tobytes())
    )
    is_matrix = type(value).__name__.endswith("_matrix")
    rest = [coo.nnz, value.format, is_matrix]
    head = _encode([_VERSION, _SPARSE, coo.data.dtype.str, [], list(map(int, coo.shape)), *rest])
    return b"".join((_LENGTH.pack(len(head)), head, payload))


def _from_sparse(dtype: "np.dtype[Any]", rest: list[Any], payload: memoryview) -> Callable[[], Any]:
    import numpy

    shape, count, form, is_matrix = rest
    if len(shape) != 2 or any(type(size) is not int or size < 0 for size in shape):
        raise CorruptionError(f"a sparse matrix has shape {shape}")
    index = numpy.dtype("<u4" if max(shape) <= 2**32 else "<u8")
    if type(count) is not int or len(payload) != count * (2 * index.itemsize + dtype.itemsize):
        raise CorruptionError("a sparse matrix has another length")
    if form not in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil"):
        raise CorruptionError(f"a sparse matrix has format {form!r}")
    row = numpy.frombuffer(payload, index, count)
    column = numpy.frombuffer(payload[count * index.itemsize :], index, count)
    if count and (row.max() >= shape[0] or column.max() >= shape[1]):
        raise CorruptionError("a sparse matrix has entries outside of it")
    data = numpy.frombuffer(payload[2 * count * index.itemsize :], dtype, count)

    def make() -> Any:
        try:
            import scipy.sparse as sparse
        except ImportError:
            raise UsageError(
                "this value is a sparse matrix: install scipy", field="value"
            ) from None
        made = sparse.coo_matrix if is_matrix else sparse.coo_array
        places = (row.astype("i8"), column.astype("i8"))
        return made((data.copy(), places), shape=tuple(shape)).asformat(form)

    return make


def arrays_equal(one: Any, other: Any) -> bool:
    """Of two values, at least one of which is an array: same class, shape, dtype and elements."""
    import numpy

    if not isinstance(one, numpy.ndarray) or not isinstance(other, numpy.ndarray):
        if not is_array(one) or not is_array(other) or type(one) is not type(other):
            return False
        return bool(
            one.shape == other.shape and one.dtype == other.dtype and not (one != other).nnz
        )
    return one.dtype == other.dtype and bool(numpy.array_equal(one, other))
