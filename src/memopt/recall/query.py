"""What is asked: its terms, its vector, whom it names, which kind of answer it wants, and when.

Owns: the analysis of a query against one scope. Invariant: a query without a single word that says
something is still a query, with no terms; what is searched then is its vector, if it has one. Not
here: scores (features, ranking), the reading of time expressions (text/times.py).
"""

import dataclasses
import enum
import itertools
from typing import Any, Final, Self

import numpy as np

from memopt.base.errors import UsageError
from memopt.base.recall_protocols import Embedder
from memopt.recall.entries import PIECES_MAX
from memopt.text.analysis import Analyser, fold, name_of, term_of, words_of
from memopt.text.words import ASKS_WHEN, ASKS_WHERE, ASKS_WHO, ASKS_WHY

Array = np.ndarray[Any, Any]

CHARS_MAX: Final = 8_192
"""Of a query; what is longer is no question, and is read so far."""
TERMS_MAX: Final = 32
"""Different terms that are looked up; of more, the rarest."""


class Asks(enum.IntFlag):
    """The kind of answer that a question wants, by its question word."""

    WHEN = 1
    WHO = 2
    WHERE = 4
    WHY = 8
    HOW_MANY = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """A query, ready for one scope."""

    text: str
    terms: tuple[int, ...]
    """Different ones, in order."""
    stems: tuple[str, ...]
    """Of each term, as it is shown."""
    sequence: tuple[int, ...]
    """Terms in order, with repetitions."""
    names: frozenset[int]
    """Speakers of the scope that it names."""
    asks: int
    flags: int
    vector: Array | None
    """float32, of unit length; None without an embedder, or where it says nothing."""
    piece_vectors: Array | None
    piece_weights: Array | None
    now_us: int | None
    from_us: int | None
    to_us: int | None
    """The time that it speaks of: from_us <= t < to_us."""

    @classmethod
    def of(
        cls,
        text: str,
        *,
        analyser: Analyser,
        embedder: Embedder | None,
        speakers: frozenset[int] = frozenset(),
        now_us: int | None = None,
        times: tuple[int | None, int | None] = (None, None),
    ) -> Self:
        """Names of `speakers` are no terms: nearly every entry would be about them.

        Raises UsageError for what is no text."""
        if not isinstance(text, str):
            raise UsageError(f"expected text, got {type(text).__name__}", field="query")
        text = text[:CHARS_MAX]
        words = words_of(text)
        named = {word: name_of(word) for word in words}
        names = frozenset(named.values()) & speakers
        pairs = [
            (stem, term_of(stem))
            for word, stem in analyser.stems(text)
            if name_of(fold(word).removesuffix("'s")) not in names
        ]
        stem_of = {term: stem for stem, term in pairs}
        vector, pieces, weights = _embedded(text, embedder, names)
        return cls(
            text=text,
            terms=tuple(stem_of),
            stems=tuple(stem_of.values()),
            sequence=tuple(term for _, term in pairs),
            names=names,
            asks=_asks(words),
            flags=analyser.analyse(text).flags,
            vector=vector,
            piece_vectors=pieces,
            piece_weights=weights,
            now_us=now_us,
            from_us=times[0],
            to_us=times[1],
        )


def _asks(words: list[str]) -> int:
    held = set(words)
    asks = 0
    for asked, known in (
        (Asks.WHEN, ASKS_WHEN),
        (Asks.WHO, ASKS_WHO),
        (Asks.WHERE, ASKS_WHERE),
        (Asks.WHY, ASKS_WHY),
    ):
        if not known.isdisjoint(held):
            asks |= int(asked)
    follows = dict(itertools.pairwise(words))
    if follows.get("how") in ("many", "much", "old", "often", "far", "big", "tall"):
        asks |= int(Asks.HOW_MANY)
    if follows.get("how") == "long" or follows.get("what") in _TIMES:
        asks |= int(Asks.WHEN)
    if follows.get("which") in _TIMES:
        asks |= int(Asks.WHEN)
    return asks


_TIMES: Final = frozenset({"year", "month", "day", "date", "time", "season", "week", "weekday"})


def _embedded(
    text: str, embedder: Embedder | None, names: frozenset[int]
) -> tuple[Array | None, Array | None, Array | None]:
    if embedder is None:
        return None, None, None
    if names:
        kept = [w for w in text.split() if name_of(w) not in names]
        text = " ".join(kept) or text
    vector = np.asarray(embedder.embed([text]), np.float32)[0]
    if not vector.any():
        return None, None, None
    vectors = getattr(embedder, "piece_vectors", None)
    cut = getattr(embedder, "pieces", None)
    if vectors is None or cut is None:
        return vector, None, None
    pieces = np.unique(np.asarray(cut([text])[0], np.uint16)[:PIECES_MAX])
    weights = np.asarray(embedder.piece_weights(pieces), np.float32)  # type: ignore[attr-defined]
    return vector, np.asarray(vectors(pieces), np.float32), weights
