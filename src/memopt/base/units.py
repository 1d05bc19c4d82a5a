"""Bytes and seconds as people write them: "64MiB", "15m"."""

import re
import sys
from collections.abc import Mapping
from typing import Final

from memopt.base.errors import UsageError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

_BYTE_UNITS: Final = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": GIB, "gib": GIB, "gb": 1000**3,
    "t": 1024 * GIB, "tib": 1024 * GIB, "tb": 1000**4,
}  # fmt: skip
_SECOND_UNITS: Final = {
    "": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z")


def parse_bytes(text: int | str, *, field: str = "bytes") -> int:
    """Bytes from "64MiB", "1.5 GB", or an int. Raises UsageError naming `field`."""
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise UsageError(f"expected bytes such as 64MiB, got {text!r}", field=field)
    if isinstance(text, int):
        if text < 0:
            raise UsageError(f"expected at least 0 bytes, got {text}", field=field)
        return text
    return int(_quantity(text, _BYTE_UNITS, "64MiB", field))


def parse_seconds(text: float | str, *, field: str = "seconds") -> float:
    """Seconds from "15m", "250ms", or a number. Raises UsageError naming `field`."""
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise UsageError(f"expected a duration such as 15m, got {text!r}", field=field)
    if not isinstance(text, str):
        if not 0 <= text <= sys.float_info.max:
            raise UsageError(f"expected at least 0 seconds, got {text}", field=field)
        return float(text)
    return _quantity(text, _SECOND_UNITS, "15m", field)


def format_bytes(count: float) -> str:
    """Bytes for people: 64.0 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Seconds for people: 17.2 µs, 4.1 ms, 2.0 s."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds:.1f} s"


def _quantity(text: str, units: Mapping[str, float], example: str, field: str) -> float:
    match = _QUANTITY.match(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"expected a quantity such as {example}, got {text!r}", field=field)
    quantity = float(match[1]) * factor
    if quantity > sys.float_info.max:
        raise UsageError(f"expected a quantity such as {example}, got {text!r}", field=field)
    return quantity
