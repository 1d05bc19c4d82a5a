"""How sure it is that a stored answer answers a question: from a pair, and from the neighbourhood.

Two models, both fitted on labelled questions (tools/fit_answers.py) and shipped in one file:

    a pair      a linear model of what differs (features.py), whose sum is one more number for
                boosted trees, each of which asks the same few questions at all its nodes; so it is
                evaluated in one array operation
    neighbours  a linear model of the sixteen nearest questions: what share of them has this answer,
                how far the nearest one with another answer is, how like the nearest one with it is

Each gives log-odds, and a table turns those into a score: the share of right answers among
development questions at or above those log-odds, at its lower confidence bound. So scores of both
mean the same, and a threshold of 0.99 asks for one wrong answer in a hundred.

Owns: those models and their file. Invariant: a score rises with the log-odds. Not here: thresholds
(categories.py) and what must agree besides (verification.py).
"""

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from memopt.answers.features import BUCKETS, LIKENESS, NAMES, Pair
from memopt.base.errors import CorruptionError, StoreVersionError

SHIPPED: Final = Path(__file__).with_name("matcher.bin")
NEIGHBOUR_NAMES: Final = (
    "nearest", "chosen", "votes", "votes_wide", "share", "run", "margin", "mean", "least", "gap",
    "count", "alike", *(f"pair {name}" for name in NAMES[:LIKENESS]),
)  # fmt: skip
"""Of the neighbourhood; `alike` is the log-odds of the pair, and what follows is the pair's."""
SAME_ANSWERS_MIN: Final = 3
"""So many neighbours must have an answer for it to be theirs."""
ALIKE_MAX: Final = 4.0
"""Log-odds of a pair beyond it say no more to the neighbourhood."""
_TAG: Final = b"mAns"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sHHII")
_BYTES_MAX: Final = 4 << 20
_ROUNDS_MAX: Final = 4096
_DEPTH_MAX: Final = 10
_NARROW: Final = 15.0
_WIDE: Final = 6.0
_FEW_APART: Final = 0.3
"""How far the next answer is taken to be, where there are no other questions."""


class PairModel(NamedTuple):
    means: Any
    """float32 (dense): of the dense part, with `scales`, to standardise it."""
    scales: Any
    weights: Any
    """float32 (dense)."""
    bias: float
    buckets: Any
    """int8 (BUCKETS), by `bucket_scale`."""
    bucket_scale: float
    asked: Any
    """u8 (trees, depth): which number each level looks at."""
    cuts: Any
    """float32 (trees, depth): above it, the right branch."""
    leaves: Any
    """float32 (trees, 2 to the depth)."""
    base: float


class NeighbourModel(NamedTuple):
    weights: Any
    """float32 (neighbour features)."""
    bias: float
    pair_most: float
    """No pair that was fitted to added more than this to the log-odds."""


class Scores(NamedTuple):
    """Log-odds, rising, and the score of each."""

    logits: Any
    scores: Any

    def of(self, logit: float) -> float:
        return float(np.interp(logit, self.logits, self.scores))

    @property
    def most(self) -> float:
        return float(self.scores[-1])


class Matcher(NamedTuple):
    lexicon: str
    """The space of the table of word pieces that it was fitted with."""
    pair: PairModel
    neighbours: NeighbourModel
    pair_scores: Scores
    neighbour_scores: Scores

    def linear(self, dense: Any, sparse: Sequence[tuple[int, float]]) -> float:
        """What the linear model says of a pair."""
        model = self.pair
        standard = (dense - model.means) / model.scales
        total = float(standard @ model.weights) + model.bias
        buckets = model.buckets
        return total + model.bucket_scale * sum(int(buckets[b]) * v for b, v in sparse)

    def alike(self, pair: Pair) -> float:
        """The log-odds that two questions mean the same."""
        model = self.pair
        dense = np.array(pair.dense, np.float32)
        row = np.append(dense, np.float32(self.linear(dense, pair.sparse)))
        return model.base + float(grown(model, row[None])[0])


def grown(model: PairModel, rows: Any) -> Any:
    """What the trees add, for rows (n, numbers)."""
    depth = model.asked.shape[1]
    sides = rows[:, model.asked] > model.cuts
    leaf = sides @ (1 << np.arange(depth)[::-1])
    return model.leaves[np.arange(len(model.leaves)), leaf].sum(axis=1)


class Chosen(NamedTuple):
    """The answer that the neighbourhood speaks for."""

    place: int
    """Of the nearest question that has it."""
    holders: int
    """Neighbours that have it."""
    features: list[float]
    """The first of NEIGHBOUR_NAMES, which need no pair."""


def chosen_of(cosines: Sequence[float], responses: Sequence[int], looked_at: int) -> Chosen:
    """`cosines` falling, of the nearest; `looked_at`: how many are looked at where there are so
    many."""
    nearest = cosines[0]
    narrow = [math.exp(_NARROW * (cosine - nearest)) for cosine in cosines]
    wide = [math.exp(_WIDE * (cosine - nearest)) for cosine in cosines]
    votes: dict[int, float] = {}
    for response, weight in zip(responses, narrow, strict=True):
        votes[response] = votes.get(response, 0.0) + weight
    best = max(votes, key=votes.__getitem__)
    mine = [place for place, response in enumerate(responses) if response == best]
    others = [c for c, response in zip(cosines, responses, strict=True) if response != best]
    least = cosines[-1]
    # Who would come next is not known where all are of one answer, or there are no more.
    beyond = others[0] if others else least - (0.1 if len(cosines) >= looked_at else _FEW_APART)
    run = next((n for n, response in enumerate(responses) if response != best), len(responses))
    top = [cosines[place] for place in mine[:3]]
    further = others[:3] or [beyond]
    place = mine[0]
    features = [
        nearest, cosines[place], votes[best] / sum(narrow), sum(wide[p] for p in mine) / sum(wide),
        len(mine) / len(cosines), min(run, 8) / 8, cosines[place] - beyond,
        sum(cosines[p] for p in mine) / len(mine), least,
        sum(top) / len(top) - sum(further) / len(further), math.log1p(len(mine)),
    ]  # fmt: skip
    return Chosen(place, len(mine), features)


def neighbour_features(chosen: Chosen, alike: float, pair: Pair) -> list[float]:
    """NEIGHBOUR_NAMES; `pair`: of what is asked and the chosen question."""
    return [*chosen.features, min(max(alike, -ALIKE_MAX), ALIKE_MAX), *pair.dense[:LIKENESS]]


def neighbour_logit(model: NeighbourModel, features: Sequence[float]) -> float:
    """The log-odds that the chosen answer is right."""
    return float(model.weights @ np.array(features, np.float32)) + model.bias


def hope_of(model: NeighbourModel, chosen: Chosen) -> float:
    """What those log-odds may be at most, before the chosen question is read."""
    known = np.array(chosen.features, np.float32)
    return float(model.weights[: len(known)] @ known) + model.bias + model.pair_most


# -- the file -------------------------------------------------------------------------------------


class _File(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    lexicon: str
    names: list[str]
    neighbour_names: list[str]
    means: bytes
    scales: bytes
    weights: bytes
    bias: float
    buckets: bytes
    bucket_scale: float
    depth: int
    asked: bytes
    cuts: bytes
    leaves: bytes
    base: float
    neighbour_weights: bytes
    neighbour_bias: float
    neighbour_pair_most: float
    pair_scores: list[list[float]]
    neighbour_scores: list[list[float]]


def pack_matcher(matcher: Matcher) -> bytes:
    pair = matcher.pair
    body = msgspec.msgpack.encode(
        _File(
            matcher.lexicon, list(NAMES), list(NEIGHBOUR_NAMES), _bytes(pair.means, "<f4"),
            _bytes(pair.scales, "<f4"), _bytes(pair.weights, "<f4"), pair.bias,
            _bytes(pair.buckets, "i1"), pair.bucket_scale, pair.asked.shape[1],
            _bytes(pair.asked, "u1"), _bytes(pair.cuts, "<f4"), _bytes(pair.leaves, "<f4"),
            pair.base, _bytes(matcher.neighbours.weights, "<f4"), matcher.neighbours.bias,
            matcher.neighbours.pair_most,
            *(
                [table.logits.tolist(), table.scores.tolist()]
                for table in (matcher.pair_scores, matcher.neighbour_scores)
            ),
        )
    )  # fmt: skip
    packed = zlib.compress(body, 9)
    head = _HEAD.pack(_TAG, _VERSION, 0, len(body), 0)[:-_CRC_BYTES]
    return head + zlib.crc32(packed, zlib.crc32(head)).to_bytes(_CRC_BYTES, "little") + packed


_CRC_BYTES: Final = 4


def open_matcher(path: Path = SHIPPED) -> Matcher:
    """Raises CorruptionError for a damaged file, StoreVersionError for one of another version."""
    packed = path.read_bytes()
    if len(packed) < _HEAD.size or packed[:4] != _TAG:
        raise CorruptionError(f"{path} is no matcher")
    _, version, _, size_bytes, crc = _HEAD.unpack_from(packed)
    head, rest = packed[: _HEAD.size - _CRC_BYTES], packed[_HEAD.size :]
    if zlib.crc32(rest, zlib.crc32(head)) != crc:
        raise CorruptionError(f"{path} fails its checksum")
    if version != _VERSION:
        raise StoreVersionError(f"{path} has version {version}, this memopt knows {_VERSION}")
    if size_bytes > _BYTES_MAX:
        raise CorruptionError(f"{path} declares {size_bytes} bytes, at most {_BYTES_MAX}")
    try:
        body = zlib.decompressobj().decompress(rest, size_bytes)
        return _matcher(msgspec.msgpack.decode(body, type=_File))
    except (zlib.error, msgspec.MsgspecError, ValueError) as error:
        raise CorruptionError(f"{path} has another layout: {error}") from error


def _matcher(file: _File) -> Matcher:
    if file.names != list(NAMES) or file.neighbour_names != list(NEIGHBOUR_NAMES):
        raise ValueError("it was fitted to other numbers")
    if not 1 <= file.depth <= _DEPTH_MAX or len(file.asked) > _ROUNDS_MAX * file.depth:
        raise ValueError(f"trees of depth {file.depth}")
    dense = len(NAMES)
    asked = np.frombuffer(file.asked, "u1").reshape(-1, file.depth)
    if len(asked) and asked.max() > dense:
        raise ValueError("a tree asks for a number that there is not")
    tables = []
    for logits, scores in (file.pair_scores, file.neighbour_scores):
        table = Scores(np.array(logits, np.float64), np.array(scores, np.float64))
        if not len(logits) or len(logits) != len(scores):
            raise ValueError("a table of scores has no rows, or half of one")
        if np.any(np.diff(table.logits) <= 0) or np.any(np.diff(table.scores) < 0):
            raise ValueError("a table of scores does not rise")
        tables.append(table)
    pair = PairModel(
        _floats(file.means, dense), _floats(file.scales, dense), _floats(file.weights, dense),
        file.bias, np.frombuffer(file.buckets, "i1").reshape(BUCKETS), file.bucket_scale,
        asked.astype(np.intp), _floats(file.cuts, asked.size).reshape(asked.shape),
        _floats(file.leaves, len(asked) << file.depth).reshape(len(asked), -1), file.base,
    )  # fmt: skip
    neighbours = NeighbourModel(
        _floats(file.neighbour_weights, len(NEIGHBOUR_NAMES)), file.neighbour_bias,
        file.neighbour_pair_most,
    )  # fmt: skip
    return Matcher(file.lexicon, pair, neighbours, tables[0], tables[1])


def _floats(packed: bytes, count: int) -> Any:
    values = np.frombuffer(packed, "<f4").reshape(count).astype(np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError("a weight is no number")
    return values


def _bytes(values: Any, kind: str) -> bytes:
    return np.ascontiguousarray(values, kind).tobytes()
