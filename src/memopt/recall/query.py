"""What is asked: its terms, its vector, whom it names, which kind of answer it wants, and when.

Owns: the analysis of a query against one scope. Invariant: a query without a single word that says
something is still a query, with no terms; what is searched then is its vector, if it has one. Not
here: scores (features, ranking), what a time expression means (text/times.py).
"""

import collections
import dataclasses
import enum
import itertools
from datetime import datetime
from typing import Any, Final, Self, cast

import numpy as np

from memopt.base.errors import UsageError
from memopt.base.recall_protocols import Embedder, PieceEmbedder
from memopt.base.records import to_us
from memopt.text.analysis import Analyser, fold, name_of, term_of, words_of
from memopt.text.times import TimeScope, find_times
from memopt.text.words import (
    ASKS_WHEN,
    ASKS_WHERE,
    ASKS_WHO,
    FRAME_WORDS,
)

Array = np.ndarray[Any, Any]

CHARS_MAX: Final = 8_192
"""Of a query; what is longer is no question, and is read so far."""
TERMS_MAX: Final = 32
"""Different terms that are looked up: the first ones."""
PIECES_MAX: Final = 32
"""Different word pieces that are compared with those of entries."""
_PIECE_LEAST: Final = 0.1
"""Of the weight of the query's best piece: what says less is not looked for."""
FRAME_WEIGHT: Final = 0.3
"""Of a word by which is asked, or which names a time, beside the words that are asked about."""


class Asks(enum.IntFlag):
    """The kind of answer that a question wants, by its words."""

    WHEN = 1
    WHO = 2
    WHERE = 4
    HOW_MANY = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryPieces:
    """The word pieces of a query that say something, and its terms as if they were pieces."""

    embedder: PieceEmbedder
    vectors: Array
    """float32 (vectors, dimensions), each of unit length or zero: the pieces, then the words of
    terms that are no piece by themselves."""
    weights: Array
    """float32 (pieces): how much each says; their sum is 1, or 0."""
    terms: Array
    """Which of the vectors is that of each term."""

    @classmethod
    def of(
        cls, embedder: PieceEmbedder, text: str, bare: str, words: list[str]
    ) -> tuple[Array, Self]:
        """(the vector of `bare`, the pieces): the text without names, and those of all of it;
        `words`: those of the terms. All are cut and pooled at once: a call takes longer than a
        text."""
        cut, starts = embedder.pieces([bare, text, *words])
        pieces = np.unique(cut[starts[1] : starts[2]])
        weights = np.asarray(embedder.piece_weights(pieces), np.float32)
        best = np.argsort(-weights, kind="stable")[:PIECES_MAX]
        best = np.sort(best[weights[best] >= _PIECE_LEAST * weights[best[:1]]])
        pieces, weights = pieces[best], weights[best]
        place_of = {piece: place for place, piece in enumerate(pieces.tolist())}
        terms = np.empty(len(words), np.int64)
        several = [cut[: starts[1]]]
        for number, (begin, end) in enumerate(itertools.pairwise(starts[2:].tolist())):
            place = place_of.get(int(cut[begin])) if end == begin + 1 else None
            if place is None:
                place = len(pieces) + len(several) - 1
                several.append(cut[begin:end])
            terms[number] = place
        ends = np.cumsum([0, *map(len, several)])
        pooled = np.asarray(embedder.pooled(np.concatenate(several), ends), np.float32)
        known = np.asarray(embedder.piece_vectors(pieces), np.float32)
        return pooled[0], cls(
            embedder=embedder, vectors=np.concatenate((known, pooled[1:])),
            weights=weights / max(float(weights.sum()), 1e-9), terms=terms,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """A query, ready for one scope."""

    text: str
    terms: tuple[int, ...]
    """Different ones, in order."""
    stems: tuple[str, ...]
    """Of each term."""
    words: tuple[str, ...]
    """Of each term, as it is shown: the word that was asked for, or the stem where several came of
    one word."""
    weights: Array
    """float32, of each term: FRAME_WEIGHT or 1."""
    names: tuple[int, ...]
    """Speakers of the scope that it names, in order."""
    asks: int
    flags: int
    vector: Array | None
    """float32, of unit length; None without an embedder, or where it says nothing."""
    pieces: QueryPieces | None
    """None with an embedder that has no word pieces, and without one."""
    times: tuple[tuple[int, int], ...]
    """Intervals that it speaks of, µs: start <= t < stop."""

    @property
    def says_something(self) -> bool:
        """Whether it has a term, a name or a time. Stop-words have vectors, too, and are near to
        whatever is short."""
        return bool(self.terms or self.names or self.times)

    @classmethod
    def of(
        cls,
        text: str,
        *,
        analyser: Analyser,
        embedder: Embedder | None,
        speakers: frozenset[int] = frozenset(),
        now: datetime | None = None,
    ) -> Self:
        """Names of `speakers` are no terms: nearly every entry would be about them. Times are read
        as seen from `now`, and not without it.

        Raises UsageError for what is no text."""
        if not isinstance(text, str):
            raise UsageError(f"expected text, got {type(text).__name__}", field="query")
        text = text[:CHARS_MAX]
        words = words_of(text)
        numbers = [name_of(word) for word in words] if speakers else []
        names = tuple(dict.fromkeys(n for n in numbers if n in speakers))
        pairs = [
            (word, stem)
            for word, stem in analyser.stems(text)
            if not names or name_of(fold(word).removesuffix("'s")) not in names
        ]
        word_of: dict[int, tuple[str, str]] = {}
        for word, stem in pairs:
            word_of.setdefault(term_of(stem), (word, stem))
        terms = tuple(word_of)[:TERMS_MAX]
        times = find_times(text, now) if now is not None else []
        frame = FRAME_WORDS.union(*(map(fold, words_of(time.text)) for time in times))
        known = [word_of[term] for term in terms]
        vector, pieces = None, None
        if embedder is not None:
            bare = _without(text, names)
            if hasattr(embedder, "piece_vectors"):
                by_pieces = cast(PieceEmbedder, embedder)
                vector, pieces = QueryPieces.of(by_pieces, text, bare, [word for word, _ in known])
            else:
                vector = np.asarray(embedder.embed([bare]), np.float32)[0]
            if not vector.any():
                vector, pieces = None, None
        return cls(
            text=text,
            terms=terms,
            stems=tuple(stem for _, stem in known),
            words=_shown(known),
            weights=np.array(
                [FRAME_WEIGHT if fold(word) in frame else 1 for word, _ in known], np.float32
            ),
            names=names,
            asks=_asks(words),
            flags=analyser.analyse(text).flags,
            vector=vector,
            pieces=pieces,
            times=_begun(times, now),
        )


def _shown(known: list[tuple[str, str]]) -> tuple[str, ...]:
    stems = collections.Counter(fold(word) for word, _ in known)
    return tuple(stem if stems[fold(word)] > 1 else fold(word) for word, stem in known)


_TIMES: Final = frozenset({"year", "month", "day", "date", "time", "season", "week", "weekday"})
_AMOUNTS: Final = frozenset({"many", "much", "old", "often", "far", "big", "tall", "high"})


def _asks(words: list[str]) -> int:
    held = set(words)
    asks = 0
    for asked, known in (
        (Asks.WHEN, ASKS_WHEN),
        (Asks.WHO, ASKS_WHO),
        (Asks.WHERE, ASKS_WHERE),
    ):
        if not known.isdisjoint(held):
            asks |= int(asked)
    follows = dict(itertools.pairwise(words))
    if follows.get("how") in _AMOUNTS:
        asks |= int(Asks.HOW_MANY)
    if follows.get("how") == "long" or {follows.get("what"), follows.get("which")} & _TIMES:
        asks |= int(Asks.WHEN)
    return asks


def _begun(times: list[TimeScope], now: datetime | None) -> tuple[tuple[int, int], ...]:
    """Of what has not begun nothing was said then: "any tips for this weekend?"."""
    if now is None:
        return ()
    now_us = to_us(now)
    return tuple((time.start_us, time.stop_us) for time in times if time.start_us <= now_us)


def _without(text: str, names: tuple[int, ...]) -> str:
    """The text without these names; all of it where it is nothing else."""
    if not names:
        return text
    return " ".join(word for word in text.split() if name_of(word) not in names) or text
