"""JSON that other programs wrote, and the times and texts in it."""

import json
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

_YEAR_MIN: Final = 1970
_YEAR_MAX: Final = 9999
_SECONDS_MIN: Final = 366 * 86_400
_SECONDS_MAX: Final = 1e11
"""Larger numbers count milliseconds."""

PARSE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parsed(line: bytes | msgspec.Raw, decoder: "msgspec.json.Decoder[T]") -> T:
    """Raises one of PARSE_ERRORS. Halves of characters, which some programs write where they cut
    a text, become U+FFFD."""
    try:
        return decoder.decode(line)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = _mended(bytes(line))
        if mended is None:
            raise error
        return decoder.decode(mended)


def _mended(line: bytes) -> bytes | None:
    if b"\\ud" not in line.lower() and line.isascii():
        return None
    try:
        value = json.loads(line.decode("utf-8", "replace"))
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(
            "utf-16-le", "surrogatepass"
        ).decode("utf-16-le", "replace").encode()  # fmt: skip
    except (ValueError, RecursionError):
        return None


def time_of(value: Any) -> datetime | None:
    """A time as text (ISO 8601; UTC where no zone is named) or as seconds or milliseconds since
    1970. None for what is none."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value.strip())
            if not _YEAR_MIN < at.year < _YEAR_MAX:
                return None
            return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value / 1000 if value > _SECONDS_MAX else value
            return datetime.fromtimestamp(seconds, UTC) if seconds >= _SECONDS_MIN else None
    except (ValueError, OverflowError, OSError):
        pass
    return None


def text_of(value: Any) -> str:
    """The text of a value that should be one: itself, or as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def reason_of(error: Exception) -> str:
    """Why a line was refused."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    return f"not what was expected: {error}" if isinstance(
        error, msgspec.ValidationError
    ) else f"no JSON: {error}"  # fmt: skip
