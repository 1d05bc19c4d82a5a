"""Values of collections: exact JSON, bytes, and arrays, each with a byte that says which.

Raw value: kind u8 (1 JSON in msgpack, 2 bytes, 3 an array), then the body. Frames, checksums and
compression are around it (entry.py); how an array is laid out is in arrays.py.
"""

from typing import Any, Final

from memopt.base.errors import CorruptionError, UsageError
from memopt.codecs.arrays import (
    arrays_equal,
    decode_array_body,
    encode_array_body,
    is_array,
    verify_array_body,
)
from memopt.codecs.entry import HEAD_BYTES
from memopt.codecs.message import decode_json, encode_json

_JSON: Final = b"\x01"
JSON_BYTE: Final = 1
JSON_AT: Final = HEAD_BYTES + 1
"""Where the JSON of a record of an entry begins, if it is raw."""
_BYTES: Final = b"\x02"
_ARRAY: Final = b"\x03"
_PLAIN: Final = frozenset({dict, list, str, int, float, bool, type(None)})


def encode_value(
    value: Any, *, bytes_max: int, depth_max: int, field: str, encoding: str | None = None
) -> tuple[bytes, float]:
    """(raw value, largest absolute error). The error is 0.0 unless a lossy `encoding` was asked
    for. Raises UsageError naming the field that is no exact JSON, no bytes and no array."""
    kind = type(value)
    if kind is bytes:
        raw, error = _BYTES + value, 0.0
    elif kind not in _PLAIN and is_array(value):
        body, error = encode_array_body(value, encoding, bytes_max=bytes_max, field=field)
        raw = _ARRAY + body
    else:
        body = encode_json(value, bytes_max=bytes_max, depth_max=depth_max, field=field)
        raw, error = _JSON + body, 0.0
    if encoding is not None and raw[:1] != _ARRAY:
        raise UsageError(f"{encoding} is for arrays, got {kind.__name__}", field="encoding")
    if len(raw) > bytes_max:
        raise UsageError(f"{len(raw)} bytes encoded, at most {bytes_max}", field=field)
    return raw, error


def decode_value(raw: bytes) -> Any:
    """A fresh value, the caller's to change. Raises CorruptionError for what was never encoded."""
    kind = raw[:1]
    if kind == _JSON:
        return decode_json(memoryview(raw)[1:])
    if kind == _BYTES:
        return raw[1:]
    if kind == _ARRAY:
        return decode_array_body(memoryview(raw)[1:])
    raise CorruptionError(f"a value is of kind {raw[:1]!r}, which there is not")


def verify_value(raw: bytes) -> None:
    """Raises CorruptionError as decoding does; makes no copy of bytes and no array."""
    if raw[:1] == _ARRAY:
        verify_array_body(memoryview(raw)[1:])
    elif raw[:1] != _BYTES:
        decode_value(raw)


def text_of(raw: bytes) -> Any:
    """What may hold text in a raw value: the JSON value, or the bytes; None for arrays."""
    return None if raw[:1] == _ARRAY else decode_value(raw)


def equal(one: Any, other: Any) -> bool:
    """Whether two values are; arrays as a whole, NaN equal to nothing."""
    if one is other:
        return True
    if (type(one) not in _PLAIN or type(other) not in _PLAIN) and (
        is_array(one) or is_array(other)
    ):
        return arrays_equal(one, other)
    return bool(one == other)
