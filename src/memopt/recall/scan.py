"""One look at every entry of a scope, with what costs one pass over an array.

Owns: BM25, cosine, runs, speakers and times of all entries, and the features SCANNED that are made
of them. Invariant: they are finite, whatever the texts, and depend on the query and the scope
alone. Not here: what is asked only of candidates (features), weights (ranking).
"""

import math
from typing import Any, Final

import numpy as np

from memopt.recall.entries import Role
from memopt.recall.index import K1, B, ScopeIndex
from memopt.recall.query import Asks, Query
from memopt.text.analysis import Flag

Array = np.ndarray[Any, Any]

TINY: Final = 1e-6
_DAY_US: Final = 86_400_000_000
_NEAR_DAYS: Final = 14.0
_NARROW_DAYS: Final = 2.0
# Within, flags are plain integers: an operation of IntFlag costs as much as one of an array.
_QUESTION, _FIRST_PERSON, _TIME = int(Flag.QUESTION), int(Flag.FIRST_PERSON), int(Flag.TIME)

SCANNED: Final = (
    "words",
    "words_root",
    "meaning",
    "words_before",
    "words_after",
    "words_before2",
    "meaning_before",
    "run_words",
    "run_words_best",
    "said",
    "near_time",
    "in_time",
    "in_narrow_time",
    "length",
    "question",
    "first_person",
    "when_time",
    "my_assistant",
)
"""Features of every entry."""


class Scan:
    """What one pass over a scope says of a query. Arrays of entries have one place more, which is
    0, for the neighbour that is not there."""

    def __init__(self, index: ScopeIndex, query: Query) -> None:
        self.index = index
        self.query = query
        count = len(index)
        self.parts, idf, self._found = index.weigh(query.terms, query.weights)
        """BM25's part of each term."""
        self.known = np.array([len(places) > 0 for places, _ in self._found], bool)
        """Which terms anybody has."""
        self.idf = idf * query.weights
        self.full = max(float(self.idf.sum()), TINY)
        """What an entry that has every term would be covered by."""
        self.words = self.parts.sum(axis=0)
        self.words_top = max(float(self.words.max()), TINY)
        self.words /= self.words_top
        """BM25, the best entry's being 1."""
        self.meaning = np.zeros(count + 1, np.float32)
        """Cosine, in standard deviations above the scope's mean."""
        if query.vector is not None and count:
            self.meaning[:count] = standard(index.cosines(query.vector))
        self.said = np.zeros(count + 1, np.float32)
        """1 for what was said by somebody whom the query names."""
        for name in query.names:
            self.said[:count] += index.entries.speaker == name
        self.table = np.empty((len(SCANNED), count), np.float32)
        """Features SCANNED of every entry."""
        self._fill()

    def _fill(self) -> None:
        index, entries, query = self.index, self.index.entries, self.query
        count, runs = len(index), len(index.run_first)
        words, meaning, flags = self.words, self.meaning, entries.flags
        # Of its own kind of integer, numpy takes several times as fast.
        before, after = (near[:count].astype(np.intp) for near in (index.before, index.after))
        before2 = index.before.take(before)
        own_words, own_meaning = words[:count], meaning[:count]
        # The third root of a sum of cubes: nearly the best of a run, and more where there are many.
        best = np.cbrt(np.bincount(index.run, own_words * own_words * own_words, runs))
        run = index.run.astype(np.intp)
        near, within, narrow = _in_times(entries.at_us, query.times)
        rows: tuple[Any, ...] = (
            own_words,
            np.sqrt(own_words),
            own_meaning,
            words.take(before),
            words.take(after),
            words.take(before2),
            meaning.take(before),
            self._run_words().take(run),
            _of_best(best).take(run),
            self.said[:count],
            near,
            within,
            narrow,
            index.log_lengths,
            flags & _QUESTION > 0,
            flags & _FIRST_PERSON > 0,
            flags & _TIME > 0 if query.asks & Asks.WHEN else 0.0,
            # Where people talk with each other, roles say little: only who asks of himself.
            entries.role == Role.ASSISTANT if query.flags & _FIRST_PERSON else 0.0,
        )
        for at, row in enumerate(rows):
            self.table[at] = row

    def _run_words(self) -> Array:
        """BM25 of each run, as if it were one text."""
        index = self.index
        runs = len(index.run_first)
        words = np.zeros(runs)
        if not runs:
            return words
        lengths = index.run_lengths
        slack = K1 * (1 - B + B * lengths / max(float(lengths.mean()), TINY))
        for (places, counts), weight in zip(self._found, self.query.weights, strict=True):
            if len(places):
                many = np.bincount(index.run.take(places), counts, runs)
                having = np.count_nonzero(many)
                idf = np.log(1 + (runs - having + 0.5) / (having + 0.5))
                words += weight * idf * (K1 + 1) * many / (many + slack)
        return _of_best(words)


def standard(values: Array) -> Array:
    """In standard deviations above the mean; zeros where all are alike."""
    if not len(values):
        return np.zeros_like(values)
    # Not values.mean(), which is half of it python.
    distances: Array = values - np.add.reduce(values) / values.dtype.type(len(values))
    spread = math.sqrt(float(distances @ distances) / len(values))
    if spread < TINY:
        return np.zeros_like(values)
    distances /= values.dtype.type(spread)
    return distances


def _of_best(values: Array) -> Array:
    best: Array = values / max(float(values.max(initial=0)), TINY)
    return best


def _in_times(at_us: Array, times: tuple[tuple[int, int], ...]) -> tuple[Any, Any, Any]:
    """(near, within, narrow): how near in time each entry is to what the query speaks of, whether
    it is of that time or of the day after, and whether that time is a day or so."""
    if not times:
        return 0.0, 0.0, 0.0
    outside = np.full(len(at_us), np.inf)
    narrow = np.zeros(len(at_us), bool)
    days = at_us / _DAY_US
    for start_us, stop_us in times:
        start, stop = start_us / _DAY_US, stop_us / _DAY_US
        away = np.maximum(np.maximum(start - days, days - stop), 0)
        outside = np.minimum(outside, away)
        if stop - start <= _NARROW_DAYS:
            narrow |= away < 1
    return np.exp(-outside / _NEAR_DAYS), outside < 1, narrow
