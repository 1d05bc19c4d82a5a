"""What an upstream said, whatever it wrote: the client gets its bytes, and what is kept is the same
as far as it can be stored.

JSON has no NaN, but servers write it; an emoji may be cut into two halves; numbers may be larger
than any that a store holds. A reply is not refused for that.

Owns: what becomes of such values. Invariant: what can be stored stays as it is; what nobody can
read is an error, and never left out. Not here: what a reply means (assembling.py).
"""

import json
import math
from typing import Any, Final

import msgspec

from memopt.server.errors import ServerError

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_INT_CHARS_MAX: Final = 20
_HALF_FIRST: Final = 0xD800
_HALF_LAST: Final = 0xDBFF

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.msgpack.Encoder().encode


def read_reply(data: bytes) -> Any:
    """What it says; halves of characters are still in its texts. Raises ServerError for what is no
    JSON."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_loosely(data)


def read_loosely(data: bytes | memoryview) -> Any:
    """The same for what is known to be no JSON of the strict kind."""
    try:
        return json.loads(
            bytes(data).decode("utf-8-sig", "replace"), strict=False,
            parse_constant=lambda _: None, parse_float=_float_of, parse_int=_int_of,
        )  # fmt: skip
    except (ValueError, RecursionError):
        raise ServerError(
            502, "the upstream says what cannot be read", code="upstream_unreadable"
        ) from None


def storable(value: Any) -> Any:
    """The same where it can be stored; else a copy of it that can."""
    try:
        _encode(value)
    except (OverflowError, UnicodeEncodeError):
        return _mended(value)
    return value


def whole_text(text: str) -> str:
    """With halves of characters put together, and those without another replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_cut(text: str) -> bool:
    """Whether its last character may go on in the next piece."""
    return bool(text) and _HALF_FIRST <= ord(text[-1]) <= _HALF_LAST


def _float_of(said: str) -> float | None:
    value = float(said)
    return value if math.isfinite(value) else None


def _int_of(said: str) -> int | float | None:
    return int(said) if len(said) < _INT_CHARS_MAX else _number_of(said)


def _number_of(said: str) -> int | float | None:
    value = _float_of(said)
    return int(said) if value is not None and _INT_MIN <= value < _INT_MAX else value


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        # As most readers of JSON have it.
        return _float_of(str(value))
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    return value
