"""Which entries of a scope answer a query best, and why.

Owns: the weights and what is made of them. Every entry gets a score from what one pass over the
scope tells; the best are looked at closely and scored again. Both scores are sums of weighted
features, so each can be taken apart. Invariant: the same scope, query and weights give the same
order; of equal entries the earlier one is first. Not here: the features themselves, texts, and what
may be seen (the caller says which entries are `among` the searched).

Weights are fitted by tools/fit_ranking.py: listwise, each piece of evidence against all else that
was found for its question. Trees and a small network lost: they gained less than a point on the
dialogues at hand, and nothing on others.
"""

import functools
import itertools
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.errors import UsageError
from memopt.recall.entries import Role
from memopt.recall.features import PIECES_KNOWN, WINDOW, examine
from memopt.recall.index import ScopeIndex
from memopt.recall.query import Query
from memopt.recall.reasons import parts_of, why
from memopt.recall.scan import SCANNED, Scan
from memopt.recall.weights import SHIPPED, RankingWeights, Weights, read_weights

Array = np.ndarray[Any, Any]

CANDIDATES: Final = 112
"""Entries of a scope that are looked at closely."""
_STEEP: Final = 50.0
_TOGETHER: Final = 10
"""Places that are explained at once: as many as are usually asked for."""
_ENTRY_BYTES: Final = 112
_CANDIDATE_BYTES: Final = 2048
_WINDOW_BYTES: Final = 128
_PIECE_BYTES: Final = 40
_KNOWN_FEW: Final = 256
_FIXED_BYTES: Final = 256 * 1024


class Priors(NamedTuple):
    """What is known of entries whatever is asked: added to their sums."""

    importance: Array
    """float32 (entries)."""
    feedback: Array


class Ranked:
    """The best entries for a query, best first."""

    def __init__(
        self, query: Query, numbers: Array, sums: Array, scores: Array, names: tuple[str, ...],
        shares: Array, matched: Array,
    ) -> None:  # fmt: skip
        self.numbers = numbers
        """i64: entries of the index."""
        self.sums = sums
        """float64: by which they are ordered."""
        self.scores = scores
        """float64, from 0 to 1: how often an entry of such features was evidence."""
        self._query = query
        self._names = names
        self._shares = shares
        self._matched = matched
        self._made: dict[int, list[tuple[list[float], str]]] = {}

    @classmethod
    def none(cls, query: Query) -> "Ranked":
        """Where there is nothing."""
        return cls(
            query, np.empty(0, np.int64), np.empty(0), np.empty(0), (), np.empty((0, 0)),
            np.empty((len(query.terms), 0), bool),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.numbers)

    def shares(self, place: int) -> dict[str, float]:
        """What each feature added to the sum of the entry at `place`, beside the average
        candidate's: they add up to the difference."""
        return dict(zip(self._names, self._shares[:, place].tolist(), strict=True))

    def features(self, place: int) -> dict[str, float]:
        """The same to three digits, without what is next to nothing."""
        shares, _ = self._explained(place)
        return dict(zip(itertools.compress(self._names, shares), filter(None, shares), strict=True))

    def words(self, place: int) -> list[str]:
        """The query's words that the entry at `place` has, in whatever form."""
        has = self._matched[:, place].tolist()
        return list(itertools.compress(self._query.words, has))

    def why(self, place: int) -> str:
        """In one line: "has adopted, dog; its meaning +1.21, its words +0.52"."""
        return why(self.words(place), self._explained(place)[1])

    def _explained(self, place: int) -> tuple[list[float], str]:
        """(shares, the families' in words), made for some places at once: for one alone it would
        take as long."""
        number = place // _TOGETHER
        if number not in self._made:
            shares = self._shares[:, number * _TOGETHER : (number + 1) * _TOGETHER]
            self._made[number] = list(
                zip(shares.T.round(3).tolist(), parts_of(self._names, shares), strict=True)
            )
        return self._made[number][place % _TOGETHER]


class Ranker:
    """Scores by one set of weights. Holds nothing of a query; thread-safe."""

    def __init__(self, weights: RankingWeights) -> None:
        """Raises UsageError where the weights are not those of these features."""
        if weights.scan.names != SCANNED:
            raise UsageError("the features are not those of this release", field="scan")
        self._scan_slopes, self._scan_offset = _line(weights.scan)
        self._slopes, self._offset = _line(weights.examine)
        self._means = np.array(weights.examine.means, np.float32)
        self._names = weights.examine.names
        self._slope, self._bend = weights.slope, weights.offset

    @staticmethod
    @functools.cache
    def shipped() -> "Ranker":
        """With the weights that come with this release."""
        return Ranker(read_weights(SHIPPED))

    def rank(
        self,
        index: ScopeIndex,
        query: Query,
        *,
        among: Array | None = None,
        priors: Priors | None = None,
        candidates: int = CANDIDATES,
    ) -> Ranked:
        """The best entries, at most `candidates`, of those that the mask `among` holds. Headings
        are never among them: they name what is found."""
        if not query.terms and query.vector is None:
            return Ranked.none(query)
        searched = index.entries.role != Role.HEADING
        if among is not None:
            searched &= among
        places = np.flatnonzero(searched)
        if not len(places):
            return Ranked.none(query)
        return self.rank_scan(Scan(index, query), places, priors=priors, candidates=candidates)

    def rank_scan(
        self, scan: Scan, places: Array, *, priors: Priors | None = None,
        candidates: int = CANDIDATES,
    ) -> Ranked:  # fmt: skip
        """The same of `places`, entries of which there is at least one, where they were looked at
        already."""
        scores = self._scan_slopes @ scan.table + np.float32(self._scan_offset)
        chosen = best_of(scores, places, candidates)
        names, table = examine(scan, chosen, scores)
        if names != self._names:
            raise UsageError("the features are not those of this release", field="examine")
        sums = self._slopes @ table + np.float32(self._offset)
        shares = (table - self._means[:, None]) * self._slopes[:, None]
        if priors is not None:
            added = np.stack([column[chosen] for column in priors])
            sums += added.sum(axis=0)
            names, shares = (*names, *Priors._fields), np.concatenate((shares, added))
        order = np.argsort(-sums, kind="stable")
        chosen, sums = chosen[order], sums[order].astype(np.float64)
        return Ranked(
            scan.query, chosen, sums,
            1 / (1 + np.exp(-np.clip(self._slope * sums + self._bend, -_STEEP, _STEEP))),
            names, shares[:, order], scan.parts[:, chosen] > 0,
        )  # fmt: skip


def work_bytes(index: ScopeIndex, query: Query) -> int:
    """About what a ranking occupies while it lasts; measured in the tests."""
    terms, count = len(query.terms), len(index)
    each = 4 * len(SCANNED) + 9 * terms + _ENTRY_BYTES
    window = min(count, WINDOW * CANDIDATES)
    near = min(count, CANDIDATES) * _CANDIDATE_BYTES + window * (20 * terms + _WINDOW_BYTES)
    if query.pieces is not None and count:
        pieces = window * len(index.entries.pieces) // count
        known = min(pieces, PIECES_KNOWN)
        near += 4 * len(query.pieces.vectors) * (2 * window + known) + pieces * _PIECE_BYTES
        near += min(known, _KNOWN_FEW) * 8 * index.entries.dimensions
    return count * each + near + _FIXED_BYTES


def best_of(scores: Array, places: Array, count: int) -> Array:
    """The `count` of `places` with the highest scores, best first; of equals the first."""
    own = scores.take(places)
    if len(places) > count:
        # All that are as good as the last one, so that it does not depend on chance which stay.
        least = np.partition(own, len(own) - count)[len(own) - count]
        places = places[own >= least]
        own = scores[places]
    best: Array = places[np.argsort(-own, kind="stable")[:count]]
    return best


def _line(weights: Weights) -> tuple[Array, float]:
    """(slopes, offset) of the features as they come."""
    means, scales, factors = (
        np.array(column, np.float64) for column in (weights.means, weights.scales, weights.weights)
    )
    slopes = factors / scales
    return slopes.astype(np.float32), -float(slopes @ means)
