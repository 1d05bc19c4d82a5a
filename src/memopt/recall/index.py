"""One scope's entries in RAM, ready to be searched by words, by vectors and by neighbourhood.

Owns: postings, lengths, neighbours and session runs, made from Entries. Invariant: what a search
sees of an entry is the same whether it came with the others or was added later; an index never
changes, so a reader needs no lock. Not here: weights and features (features, ranking), who may be
in RAM (resident), what is visible of it.

Entries lie ordered by (source, seq); those that were added since lie behind them in their order of
coming, with postings of their own, and are linked to their neighbours. When they are many, all of
it is made anew: one sort of (term, entry) is 3 ms for 6,000 messages.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.recall.entries import Entries

Array = np.ndarray[Any, Any]

K1: Final = 1.2
B: Final = 0.75
RUN_GAP_US: Final = 6 * 3_600_000_000
"""A longer silence ends a run: what is said after it is another occasion."""
FRESH_MIN: Final = 256
FRESH_SHARE: Final = 8
"""Added entries beyond FRESH_MIN, and beyond one in so many, are sorted in."""
VECTORS_AT_ONCE: Final = 512
"""Rows that are widened to float together: they stay in the processor's second cache."""
NONE: Final = -1
_AT_ONCE: Final = 1 << 14
"""Entries or pairs that are worked at together while postings are made."""
_TERM_BYTES: Final = 20
_ENTRY_BYTES: Final = 160
"""What building takes for each, at its height; measured."""


class Postings(NamedTuple):
    """Which entries have a term, and how often. Numbers are those of the whole index."""

    table: Array
    """u32, sorted: the terms."""
    starts: Array
    """u32 (terms + 1)."""
    entries: Array
    """i32."""
    counts: Array
    """u16."""

    @classmethod
    def of(cls, entries: Entries, first: int) -> "Postings":
        """Of these entries, which are numbered from `first`."""
        lengths = entries.terms_start[1:].astype(np.int64) - entries.terms_start[:-1]
        keys = entries.terms.astype(np.uint64)
        keys <<= np.uint64(32)
        # In place and piece by piece: this is what an index takes most for while it is built.
        for at in range(0, len(entries), _AT_ONCE):
            some = lengths[at : at + _AT_ONCE]
            inside = slice(int(entries.terms_start[at]), int(entries.terms_start[at + len(some)]))
            numbers = np.arange(first + at, first + at + len(some), dtype=np.uint64)
            keys[inside] |= np.repeat(numbers, some)
        keys.sort()
        new = _changes(keys)
        counts = np.empty(len(new), np.uint16)
        for at in range(0, len(new), _AT_ONCE):
            begins = new[at : at + _AT_ONCE]
            ends = np.append(new[at + 1 : at + len(begins) + 1], len(keys))[: len(begins)]
            counts[at : at + len(begins)] = np.minimum(ends - begins, 0xFFFF)
            # What is moved to comes before what is still to be moved.
            keys[at : at + len(begins)] = keys[begins]
        pairs = keys[: len(new)]
        del new
        numbers = pairs.astype(np.uint32).astype(np.int32)
        pairs >>= np.uint64(32)
        begins = _changes(pairs)
        return cls(
            table=pairs[begins].astype(np.uint32),
            starts=np.r_[begins, len(pairs)].astype(np.uint32),
            entries=numbers,
            counts=counts,
        )

    def find(self, term: int) -> tuple[Array, Array]:
        """(entries, counts) of one term."""
        at = int(self.table.searchsorted(term))
        if at == len(self.table) or int(self.table[at]) != term:
            return self.entries[:0], self.counts[:0]
        span = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return self.entries[span], self.counts[span]


class Weighed(NamedTuple):
    """Terms by the entries that have them."""

    parts: Array
    """float32 (terms, entries + 1): BM25's part of each term in each entry. The last is 0, for the
    neighbour that is not there."""
    idf: Array
    """float32 (terms): inverse document frequency."""
    found: list[tuple[Array, Array]]
    """What `find` has of each."""


class ScopeIndex:
    """All entries of one scope. Entry numbers are places in its arrays."""

    def __init__(self, entries: Entries, postings: tuple[Postings, ...], sealed: int) -> None:
        """`of` and `adding` make one; `sealed` entries are ordered and covered by the first
        postings."""
        self.entries = entries
        self.sealed = sealed
        self._postings = postings
        self.lengths = np.diff(entries.terms_start.astype(np.int64)).astype(np.int32)
        """Terms of each entry."""
        order = np.arange(len(entries))
        if sealed < len(entries):
            order = np.lexsort((entries.seq, entries.source))
        self.before, self.after, self.run, self.run_first = _linked(entries, order)
        self.log_lengths = np.log1p(self.lengths, dtype=np.float32)
        self.run_lengths = np.bincount(self.run, self.lengths, len(self.run_first))
        """Terms of each run."""
        mean = float(self.lengths.mean()) if len(entries) else 0.0
        self._slack = (K1 * (1 - B + B * self.lengths / max(mean, 1e-9))).astype(np.float32)

    @staticmethod
    def build_bytes(entries: Entries) -> int:
        """What `of` takes for a moment and for good, beside the entries that it is given in
        order."""
        return _build_bytes(len(entries), len(entries.terms))

    def adding_bytes(self, entries: int, terms: int) -> int:
        """What `adding` takes for so many entries of so many terms, beside them and what is
        here."""
        whole = self.entries.charged_bytes + entries * _ENTRY_BYTES + 4 * terms
        if self._is_remade_by(entries):
            both = len(self) + entries, len(self.entries.terms) + terms
            return 2 * whole + _build_bytes(*both)
        return whole + _ENTRY_BYTES * (len(self) + entries) + _build_bytes(entries, terms)

    def _is_remade_by(self, fresh: int) -> bool:
        count = len(self.entries) - self.sealed + fresh
        return not self.sealed or count > max(FRESH_MIN, self.sealed // FRESH_SHARE)

    @classmethod
    def of(cls, parts: Sequence[Entries]) -> "ScopeIndex":
        """Of segments in any order."""
        entries = Entries.concat(parts)
        order = np.lexsort((entries.seq, entries.source))
        if len(order) and not np.array_equal(order, np.arange(len(order))):
            entries = entries.take(order)
        return cls(entries, (Postings.of(entries, 0),), len(entries))

    def adding(self, fresh: Entries) -> "ScopeIndex":
        """This index and `fresh`, which shares what is large with it where it can."""
        entries = Entries.concat([self.entries, fresh]) if len(self.entries) else fresh
        if self._is_remade_by(len(fresh)):
            return ScopeIndex.of([entries])
        added = entries.take(np.arange(self.sealed, len(entries)))
        postings = (self._postings[0], Postings.of(added, self.sealed))
        return ScopeIndex(entries, postings, self.sealed)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def charged_bytes(self) -> int:
        """Bytes of all arrays, those of the entries among them."""
        own = (self.lengths, self.log_lengths, self.before, self.after, self.run, self.run_first)
        arrays = [
            *own,
            self.run_lengths,
            self._slack,
            *(array for part in self._postings for array in part),
        ]
        own_bytes = sum(int(array.nbytes) + 112 for array in arrays)
        return self.entries.charged_bytes + own_bytes + 512

    @functools.cached_property
    def speakers(self) -> frozenset[int]:
        """Who speaks here, as name_of numbers them."""
        return frozenset(np.unique(self.entries.speaker).tolist()) - {0}

    def find(self, term: int) -> tuple[Array, Array]:
        """(entries, counts) of one term."""
        found = [part.find(term) for part in self._postings]
        if len(found) == 1:
            return found[0]
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def idf(self, terms: Array) -> Array:
        """float32: of these terms, how rare each is here."""
        having = np.zeros(len(terms), np.int64)
        for part in self._postings:
            if len(part.table):
                at = np.minimum(np.searchsorted(part.table, terms), len(part.table) - 1)
                many = part.starts[at + 1].astype(np.int64) - part.starts[at]
                having += np.where(part.table[at] == terms, many, 0)
        found: Array = np.log(1 + (len(self) - having + 0.5) / (having + 0.5)).astype(np.float32)
        return found

    def weigh(self, terms: Sequence[int], factors: Array | None = None) -> Weighed:
        """BM25 by terms, each of which counts by its factor. A term that nobody has gets the
        highest idf.

        Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009; idf as in Lucene,
        which is never negative.
        """
        parts = np.zeros((len(terms), len(self) + 1), np.float32)
        found = [self.find(term) for term in terms]
        having = np.array([len(places) for places, _ in found], np.float64)
        idf = np.log(1 + (len(self) - having + 0.5) / (having + 0.5)).astype(np.float32)
        weights = idf if factors is None else idf * factors
        for part, weight, (places, counts) in zip(parts, weights, found, strict=True):
            many = counts.astype(np.float32)
            slack = self._slack.take(places)
            slack += many
            many *= weight * np.float32(K1 + 1)
            many /= slack
            part[places] = many
        return Weighed(parts, idf, found)

    def cosines(self, vector: Array) -> Array:
        """float32 (entries): with a vector of unit length."""
        entries = self.entries
        products = np.empty(len(self), np.float32)
        if not entries.dimensions:
            products[:] = 0
            return products
        room = np.empty((min(len(self), VECTORS_AT_ONCE), entries.dimensions), np.float32)
        for at in range(0, len(self), VECTORS_AT_ONCE):
            rows = room[: len(self) - at]
            rows[:] = entries.vectors[at : at + VECTORS_AT_ONCE]
            np.dot(rows, vector, out=products[at : at + VECTORS_AT_ONCE])
        products *= entries.scales
        return products


def _build_bytes(entries: int, terms: int) -> int:
    return _ENTRY_BYTES * entries + _TERM_BYTES * terms


def _changes(sorted_values: Array) -> Array:
    """int64: where another value begins."""
    changes = np.empty(len(sorted_values), np.bool_)
    changes[:1] = True
    np.not_equal(sorted_values[1:], sorted_values[:-1], out=changes[1:])
    return np.flatnonzero(changes)


def _linked(entries: Entries, order: Array) -> tuple[Array, Array, Array, Array]:
    """(before, after, run, run_first) from the order of (source, seq): each entry's neighbours in
    its run, or NONE; the number of its run; each run's first entry."""
    count = len(order)
    # One longer than the entries: from NONE one comes to NONE.
    before = np.full(count + 1, NONE, np.int32)
    after = np.full(count + 1, NONE, np.int32)
    run = np.empty(count, np.int32)
    if not count:
        return before, after, run, np.empty(0, np.int32)
    source, at_us = entries.source[order], entries.at_us[order]
    breaks = (source[1:] != source[:-1]) | (np.abs(at_us[1:] - at_us[:-1]) > RUN_GAP_US)
    joined = np.flatnonzero(~breaks)
    before[order[joined + 1]] = order[joined]
    after[order[joined]] = order[joined + 1]
    run[order] = np.cumsum(np.r_[0, breaks])
    return before, after, run, order[np.flatnonzero(np.r_[True, breaks])].astype(np.int32)
