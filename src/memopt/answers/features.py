"""Two questions as numbers: how alike they are, and in what they differ.

Owns: what is read from a pair of questions. There are two parts. The dense one holds similarities:
of vectors, words, letters and word pieces. The sparse one names what differs, as hashes: an
unmatched "good" hardly makes another question of one, an unmatched "not" does, and which word does
how much is learnt (matching.py). Invariant: the order of the two makes no difference. Not here:
weights.
"""

import itertools
import math
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
import Stemmer

from memopt.answers.verification import CHECKS, Traits, compared, traits_of
from memopt.base.recall_protocols import PieceEmbedder
from memopt.embedding.vectors import products

BUCKETS: Final = 1 << 16
"""Of hashes."""
NAMES: Final = (
    "cosine", "words", "stems", "pairs", "letters", "order", "covered_least", "covered_most",
    "aligned_least", "aligned_most", "worst_least", "worst_most", "difference", "unmatched_least",
    "unmatched_most", "weight_least", "weight_most", "shortest", "longest", "ratio", "first",
    "last", *CHECKS,
)  # fmt: skip
"""Of the dense part, in order."""
LIKENESS: Final = len(NAMES) - len(CHECKS)
"""So many of them are not checks."""
_PIECES_MAX: Final = 64
_PAIRED_MAX: Final = 16
_ORDERED_MAX: Final = 128
_RARE: Final = 5.0
"""Added to a piece's log-odds of saying something, so that a common one has about 0."""
_LEAST: Final = 0.1
_SAME: Final = 0.999
"""A cosine of pieces from which on they are one."""
_LEFT: Final = 0.1


class Question(NamedTuple):
    """A question, read."""

    traits: Traits
    stems: tuple[str, ...]
    """Of all its words, in order."""
    letters: frozenset[str]
    """Runs of three."""
    vector: Any
    """float32 (d): the lexicon's, of unit length."""
    pieces: Any
    """u16: of the lexicon."""
    weights: Any
    """float32 (pieces): how rare each is."""


class Pair(NamedTuple):
    dense: list[float]
    sparse: list[tuple[int, float]]
    """(bucket, value)."""


class Reader:
    """Reads questions. `lexicon` knows word pieces: the shipped table, whatever the embedder is.
    Thread-safe."""

    def __init__(self, lexicon: PieceEmbedder) -> None:
        self._lexicon = lexicon
        # Without a cache: its own grows without a limit in bytes.
        self._stem: Any = Stemmer.Stemmer("english", 0).stemWords

    def read(self, text: str, at: datetime, vector: Any = None) -> Question:
        """`at`: when it was asked. `vector`: the lexicon's, where it is known."""
        traits = traits_of(text, at)
        pieces, _ = self._lexicon.pieces([text], limit=_PIECES_MAX)
        shares = np.clip(self._lexicon.piece_weights(pieces), 0.004, 0.9999)
        spaced = f" {' '.join(traits.words)} "
        return Question(
            traits, tuple(self._stem(list(traits.words))),
            frozenset(spaced[at : at + 3] for at in range(len(spaced) - 2)),
            self._lexicon.embed([text])[0] if vector is None else vector, pieces,
            np.maximum(np.log(shares / (1 - shares)) + _RARE, _LEAST),
        )  # fmt: skip

    def pair(self, one: Question, other: Question) -> Pair:
        """The numbers of a pair."""
        vectors = self._lexicon.piece_vectors
        mine, theirs = vectors(one.pieces), vectors(other.pieces)
        return _pair(one, other, _alignment(one, other, mine, theirs))


def _pair(one: Question, other: Question, alignment: list[float]) -> Pair:
    mine, theirs = set(one.stems), set(other.stems)
    only_mine, only_theirs = mine - theirs, theirs - mine
    my_pairs, their_pairs = _neighbours(one.stems), _neighbours(other.stems)
    a, b = one.traits.words, other.traits.words
    short, long = sorted((len(a), len(b)))
    dense = [
        float(one.vector @ other.vector),
        _overlap(set(a), set(b)),
        _overlap(mine, theirs),
        _overlap(my_pairs, their_pairs),
        _overlap(one.letters, other.letters),
        _in_order(one.stems, other.stems),
        *alignment,
        min(len(only_mine), len(only_theirs)),
        max(len(only_mine), len(only_theirs)),
        *sorted((float(one.weights.sum()), float(other.weights.sum()))),
        math.log1p(short),
        math.log1p(long),
        short / max(long, 1),
        a[:1] == b[:1],
        a[-1:] == b[-1:],
        *(check.passed for check in compared(one.traits, other.traits)),
    ]
    sparse = _differences(one, other, only_mine, only_theirs, my_pairs ^ their_pairs)
    return Pair(dense, sparse)


def _neighbours(stems: Sequence[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(stems))


def _overlap(one: "set[Any] | frozenset[Any]", other: "set[Any] | frozenset[Any]") -> float:
    both = len(one & other)
    return both / max(1, len(one) + len(other) - both)


def _in_order(one: Sequence[str], other: Sequence[str]) -> float:
    """How much of both is common in the same order (Dice of the longest common subsequence), by
    their beginnings."""
    one, other = one[:_ORDERED_MAX], other[:_ORDERED_MAX]
    before = [0] * (len(other) + 1)
    for word in one:
        now = [0]
        for index, theirs in enumerate(other):
            now.append(before[index] + 1 if word == theirs else max(before[index + 1], now[index]))
        before = now
    return 2 * before[-1] / max(1, len(one) + len(other))


def _alignment(one: Question, other: Question, mine: Any, theirs: Any) -> list[float]:
    """Each piece beside the most similar one of the other question. `mine`, `theirs`: float32
    (pieces, d), their directions."""
    if not len(mine) or not len(theirs):
        return [0.0] * 7
    likeness = products(mine, theirs)
    found, lefts = [], []
    for best, weights, vectors in (
        (likeness.max(axis=1), one.weights, mine), (likeness.max(axis=0), other.weights, theirs),
    ):  # fmt: skip
        total = float(weights.sum())
        missing = weights * (1 - best)
        found.append(
            (
                float(weights[best > _SAME].sum()) / total, float(weights @ best) / total,
                float(missing.max()),
            )
        )  # fmt: skip
        # What is left of the question without what the other says, too.
        lefts.append(np.where(missing > _LEFT * weights, missing, 0) @ vectors)
    lengths = float(np.linalg.norm(lefts[0]) * np.linalg.norm(lefts[1]))
    columns = [number for pair in zip(*found, strict=True) for number in sorted(pair)]
    return [*columns, float(lefts[0] @ lefts[1]) / lengths if lengths > 1e-6 else 0.0]


def _differences(
    one: Question, other: Question, mine: set[str], theirs: set[str],
    pairs: set[tuple[str, str]],
) -> list[tuple[int, float]]:  # fmt: skip
    """What stands on one side alone, by hash."""
    keys = [(f"u{stem}", 1.0) for stem in mine | theirs]
    if not mine or not theirs:
        keys += [(f"o{stem}", 1.0) for stem in mine | theirs]
    if len(mine) * len(theirs) <= _PAIRED_MAX:
        keys += [(f"p{min(x, y)}|{max(x, y)}", 1.0) for x in mine for y in theirs]
    keys += [(f"b{x} {y}", 0.5) for x, y in pairs]
    for letter, count in (("g", 1), ("f", 2)):
        first, second = sorted((" ".join(one.stems[:count]), " ".join(other.stems[:count])))
        keys.append((f"{letter}{first}|{second}", 1.0))
    return [(zlib.crc32(key.encode()) % BUCKETS, value) for key, value in keys]
