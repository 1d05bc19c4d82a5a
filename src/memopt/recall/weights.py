"""The weights of recall's ranking, as a file: read, checked, sealed.

Owns: the form of weights.json. Invariant: weights that were read have one finite mean, scale and
weight to each name, and the checksum over all of it is theirs. Not here: what the features mean
(scan, features), fitting (tools/fit_ranking.py).
"""

import math
import zlib
from pathlib import Path
from typing import Final

import msgspec

from memopt.base.errors import UsageError

SHIPPED: Final = Path(__file__).with_name("weights.json")
VERSION: Final = 1
FEATURES_MAX: Final = 1024
FILE_BYTES_MAX: Final = 1 << 20
WHOLES_MAX: Final = 64
"""Sets of weights in one file."""


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One weighted sum."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    """Of each feature, over what it was fitted on."""
    scales: tuple[float, ...]
    """Standard deviations."""
    weights: tuple[float, ...]
    """Of the features less their means, by their scales."""


class RankingWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both sums, and what makes a probability of the second."""

    version: int
    fitted_on: str
    """In words."""
    scan: Weights
    examine: Weights
    slope: float
    offset: float
    """1 / (1 + exp(-(slope * sum + offset))): how often such an entry was evidence."""
    checksum: int = 0
    """CRC-32 of all else, as `sealed` encodes it."""


class _Versioned(msgspec.Struct):
    version: int


def sealed(weights: RankingWeights) -> RankingWeights:
    """With its checksum. Raises UsageError for what could not be read again."""
    _check(weights)
    return msgspec.structs.replace(weights, checksum=_checksum(weights))


def read_weights(path: Path) -> RankingWeights:
    """Raises UsageError for a file that holds no weights, or others than this release reads."""
    raw = _raw(path)
    return _read(raw, path)


def read_several(path: Path) -> list[RankingWeights]:
    """The same of a file that holds a list of them."""
    try:
        parts = msgspec.json.decode(_raw(path), type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise UsageError(f"holds no weights: {error}", field=str(path)) from error
    if len(parts) > WHOLES_MAX:
        raise UsageError(f"{len(parts)} sets of weights, at most {WHOLES_MAX}", field=str(path))
    return [_read(bytes(part), path) for part in parts]


def _raw(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"holds no weights: {error}", field=str(path)) from error
    if len(raw) > FILE_BYTES_MAX:
        raise UsageError(f"more than {FILE_BYTES_MAX} bytes are no weights", field=str(path))
    return raw


def _read(raw: bytes, path: Path) -> RankingWeights:
    try:
        version = msgspec.json.decode(raw, type=_Versioned).version
        if version != VERSION:
            raise UsageError(f"weights of version {version}, expected {VERSION}", field=str(path))
        weights = msgspec.json.decode(raw, type=RankingWeights)
    except msgspec.DecodeError as error:
        raise UsageError(f"holds no weights: {error}", field=str(path)) from error
    _check(weights)
    if weights.checksum != _checksum(weights):
        raise UsageError("the checksum does not match: it is damaged", field=str(path))
    return weights


def _checksum(weights: RankingWeights) -> int:
    return zlib.crc32(msgspec.msgpack.encode(msgspec.structs.replace(weights, checksum=0)))


def _check(weights: RankingWeights) -> None:
    for field, one in (("scan", weights.scan), ("examine", weights.examine)):
        columns = (one.means, one.scales, one.weights)
        if len(one.names) > FEATURES_MAX or {len(c) for c in columns} != {len(one.names)}:
            raise UsageError("there is not one mean, scale and weight to each name", field=field)
        if len(set(one.names)) != len(one.names):
            raise UsageError("a name is there twice", field=field)
        if not all(map(math.isfinite, (*one.means, *one.scales, *one.weights))):
            raise UsageError("a mean, scale or weight is not a finite number", field=field)
        if any(scale <= 0 for scale in one.scales):
            raise UsageError("a scale is not above zero", field=field)
    if not (math.isfinite(weights.slope) and math.isfinite(weights.offset)):
        raise UsageError("slope or offset is not a finite number", field="slope")
