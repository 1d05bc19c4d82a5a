"""Messages and state values: exact JSON in, msgpack bytes inside, equal JSON out.

msgspec would turn tuples, sets, dates, Decimals and enums into other types, and take NaN and
integer keys, without a word; so a value is walked before it is encoded, and what would not come
back equal is refused by the path of the field it is in.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from memopt.base.errors import UsageError

DECODED_FACTOR: Final = 3
"""What a decoded message occupies, over its encoded bytes: at most, for text."""

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_INFINITY: Final = float("inf")

_ARRAY: Final = struct.Struct(">BI")

_encode: Final = msgspec.msgpack.Encoder().encode


def encode_json(value: Any, *, bytes_max: int, depth_max: int, field: str) -> bytes:
    """msgpack bytes of an exact JSON value. Raises UsageError that names the field by its path."""
    try:
        _walk(value, depth_max)
        body = _encode(value)
    except _Inexact as error:
        # Keys are not proven to be text yet.
        path = "".join(reversed(error.path)).encode("utf-8", "backslashreplace").decode()
        raise UsageError(error.reason, field=field + path) from None
    except UnicodeEncodeError:
        path = _find_surrogate(value) or ""
        raise UsageError("a lone surrogate is not text", field=field + path) from None
    if len(body) > bytes_max:
        raise UsageError(f"{len(body)} bytes encoded, at most {bytes_max}", field=field)
    return body


def encode_message(message: Any, *, bytes_max: int, depth_max: int, field: str) -> bytes:
    """The same for a message: a JSON object, or a pydantic model that dumps to one."""
    if type(message) is not dict:
        dump = getattr(message, "model_dump", None)
        if dump is None:
            raise UsageError(
                f"expected a dict or a pydantic model, got {type(message).__name__}", field=field
            )
        message = dump(mode="json")
        if type(message) is not dict:
            raise UsageError("the model does not dump to a JSON object", field=field)
    return encode_json(message, bytes_max=bytes_max, depth_max=depth_max, field=field)


decode_json: Final = msgspec.msgpack.Decoder().decode
"""msgpack bytes to a fresh JSON value, for bodies without shared texts."""


def decode_array(bodies: Sequence[bytes]) -> list[Any]:
    """Many bodies in one call, which costs a third of as many calls."""
    values: list[Any] = decode_json(b"".join((_ARRAY.pack(0xDD, len(bodies)), *bodies)))
    return values


def contains(value: Any, text: str) -> bool:
    """Whether any string in a JSON value, keys included, holds `text`."""
    if type(value) is str:
        return text in value
    if type(value) is dict:
        return any(text in key or contains(item, text) for key, item in value.items())
    if type(value) is list:
        return any(contains(item, text) for item in value)
    return False


class _Inexact(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []


def _walk(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is dict:
        if not depth:
            raise _Inexact("nested too deep")
        for key, item in value.items():
            if type(key) is not str:
                raise _Inexact(f"keys must be strings, got {key!r}")
            if type(item) is str:
                continue
            try:
                _walk(item, depth - 1)
            except _Inexact as error:
                error.path.append(f".{key}")
                raise
    elif kind is list:
        if not depth:
            raise _Inexact("nested too deep")
        for index, item in enumerate(value):
            try:
                _walk(item, depth - 1)
            except _Inexact as error:
                error.path.append(f"[{index}]")
                raise
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise _Inexact("integers reach from -2**63 to 2**64-1")
    elif kind is float:
        if not -_INFINITY < value < _INFINITY:
            raise _Inexact(f"{value} is not JSON")
    else:
        raise _Inexact(f"{kind.__name__} is not a JSON type")


def _find_surrogate(value: Any) -> str | None:
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return ""
    elif type(value) is dict:
        for key, item in value.items():
            if _find_surrogate(key) is not None:
                return f".{key.encode('utf-8', 'backslashreplace').decode()}"
            path = _find_surrogate(item)
            if path is not None:
                return f".{key}{path}"
    elif type(value) is list:
        for index, item in enumerate(value):
            path = _find_surrogate(item)
            if path is not None:
                return f"[{index}]{path}"
    return None
