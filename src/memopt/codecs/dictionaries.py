"""Training of zstd dictionaries that hold no one's data.

Guarantee: every string without a zero byte that can be found in the content of a dictionary made
with `scopes_min` occurs, contiguously, in the samples of at least that many leaf scopes. So what
is known to fewer scopes is not in it, whole or as part of something longer. Zero bytes stand at
every joint, so no string is formed where two pieces meet. The entropy tables before the content
are statistics of such strings and hold no text.

How: count for each 16-byte window of the samples the scopes it occurs in (in two small hashed
tables, which can only count too many); keep the stretches in which every window is common; train
on those; then compare the result with the samples byte by byte, and cut it where it stops being
common, which windows alone cannot tell: two common strings that overlap make a third that need not
be. On airline conversations of 81 users, pages of 142 others took 5 % more bytes than with a
dictionary trained on everything, which held dozens of ids and e-mail addresses. A raw-content
dictionary of the same pieces lost: 2.7 % more bytes again, for want of entropy tables.

Not here: when to train, where dictionaries are kept, and the budget: the caller reserves
TRAINING_BYTES.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from memopt.base.errors import UsageError
from memopt.base.units import KIB, MIB
from memopt.codecs.contexts import LEVEL

INPUT_BYTES_MAX: Final = 4 * MIB
"""Samples beyond it are thinned out evenly."""
SCOPE_BYTES_MAX: Final = 256 * KIB
"""The same for the samples of one leaf scope."""
SCOPES_MIN_MAX: Final = 64
TRAINING_BYTES: Final = 32 * MIB
"""What training occupies, beside the samples that were handed in: 26 MB were measured at most."""

_WINDOW_BYTES: Final = 16
_TABLE_LOGS: Final = (12, 22)
"""Of counters, at least and at most: as many as there are bytes of samples."""
_SLICE_BYTES: Final = 16 * KIB
_PAIRS_MAX: Final = 8 * _SLICE_BYTES
_COPIES_MAX: Final = 64
"""Limits on what is compared at once: bytes of a sample; equal windows; places of one window."""
_CONTENT_BYTES_MIN: Final = 1 * KIB
"""Less than this is not worth a dictionary and its contexts."""
_SAMPLES_PER_DICTIONARY: Final = 8
"""A dictionary is at most this fraction of what it is trained on: zstd refuses much more."""
_REPEAT_OFFSETS: Final = b"\1\0\0\0\4\0\0\0\10\0\0\0"
"""The last field before a dictionary's content: zstd's trainer always writes 1, 4, 8."""
_HEADER_BYTES_MAX: Final = 300

Words = NDArray[np.uint64]


class _Cover(NamedTuple):
    """Parameters of zstd's COVER algorithm: bytes of a unit, and of the segments it takes over."""

    dmer: int
    segment: int


_SEARCHED: Final = _Cover(dmer=0, segment=0)  # zstd tries several
_FIXED: Final = _Cover(dmer=6, segment=256)
"""Better on held-out pages than what zstd finds when it searches on stretches cut apart."""


def train_dictionary(
    samples: Sequence[tuple[int, bytes]], *, size_bytes: int, scopes_min: int
) -> bytes | None:
    """A dictionary of at most `size_bytes` from (leaf scope number, raw page) pairs, or None where
    too little of them is common to `scopes_min` scopes.

    With `scopes_min` 1 it may hold anything in the samples: for use within one leaf scope only.
    """
    if not 1 <= scopes_min <= SCOPES_MIN_MAX:
        raise UsageError(f"expected 1 to {SCOPES_MIN_MAX}, got {scopes_min}", field="scopes_min")
    thinned = _thinned(samples)
    if scopes_min == 1:
        return _trained([raw for _, raw in thinned], size_bytes, _SEARCHED)
    by_scope: dict[int, list[bytes]] = {}
    for scope, raw in thinned:
        by_scope.setdefault(scope, []).append(raw)
    if len(by_scope) < scopes_min:
        return None
    counts = _Counts(by_scope, scopes_min)
    stretches = [common for _, raw in thinned if (common := counts.common(raw))]
    body = _trained(stretches, size_bytes * 11 // 10, _FIXED)  # a tenth is cut away again
    if body is None:
        return None
    start = body.find(_REPEAT_OFFSETS, 0, _HEADER_BYTES_MAX) + len(_REPEAT_OFFSETS)
    if start < len(_REPEAT_OFFSETS):
        return None
    content = _common_content(body[start:], by_scope, scopes_min)
    if len(content) < _CONTENT_BYTES_MIN:
        return None
    # The trainer puts the best last.
    return _loadable(body[:start] + content[-(size_bytes - start) :])


class _Counts:
    """In how many scopes each window occurs, at least as far as two tables of small counters can
    tell: windows may share a counter, so a count may be too high and is never too low."""

    def __init__(self, by_scope: dict[int, list[bytes]], scopes_min: int) -> None:
        self._least = min(scopes_min, 255)
        size = sum(len(raw) for raws in by_scope.values() for raw in raws)
        self._log = min(max(size.bit_length(), _TABLE_LOGS[0]), _TABLE_LOGS[1])
        self._first = np.zeros(1 << self._log, np.uint8)
        self._second = np.zeros(1 << self._log, np.uint8)
        for raws in by_scope.values():
            slots = [self._slots(raw) for raw in raws if len(raw) >= _WINDOW_BYTES]
            for table, column in ((self._first, 0), (self._second, 1)):
                if slots:
                    # Once for each scope: a counter that is named twice here grows by one.
                    hit = np.concatenate([pair[column] for pair in slots])
                    table[hit] = np.minimum(table[hit], 254) + 1

    def common(self, raw: bytes) -> bytes:
        """The stretches of `raw` in which every window is common, a zero byte between them."""
        if len(raw) < _WINDOW_BYTES:
            return b""
        first, second = self._slots(raw)
        rare = np.minimum(self._first[first], self._second[second]) < self._least
        edges = np.flatnonzero(np.diff(np.concatenate(([True], rare, [True])))).tolist()
        return b"\0".join(
            raw[begin : end + _WINDOW_BYTES - 1]
            for begin, end in zip(edges[::2], edges[1::2], strict=True)
        )

    def _slots(self, raw: bytes) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        hashes = _Windows(raw).hashes
        high = (hashes >> np.uint64(64 - self._log)).astype(np.uint32)
        low = ((hashes >> np.uint64(8)) & np.uint64((1 << self._log) - 1)).astype(np.uint32)
        return high, low


class _Windows:
    """Every 16-byte window of some bytes, as two words and a hash of them."""

    def __init__(self, raw: bytes) -> None:
        count = len(raw) - _WINDOW_BYTES + 1
        words = np.empty(len(raw) - 7, np.uint64)
        for offset in range(8):
            words[offset::8] = np.frombuffer(
                raw, "<u8", count=(len(raw) - offset) // 8, offset=offset
            )
        self.words = words
        mixed = words[:count] * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= words[8:] * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        self.hashes = mixed


def _common_content(content: bytes, by_scope: dict[int, list[bytes]], scopes_min: int) -> bytes:
    """The pieces of `content` that occur as a whole in `scopes_min` scopes, and no shorter than a
    window; a zero byte between them."""
    lengths = _common_lengths(content, by_scope, scopes_min).tolist()
    pieces: list[bytes] = []
    at = 0
    while at < len(lengths):
        if lengths[at]:
            pieces.append(content[at : at + lengths[at]])
        at += lengths[at] or 1
    return b"\0".join(pieces)


def _common_lengths(
    content: bytes, by_scope: dict[int, list[bytes]], scopes_min: int
) -> NDArray[np.int32]:
    """For each offset of `content` the length of the longest string there that occurs in
    `scopes_min` scopes; 0 where that is shorter than a window. It may be too short where a string
    repeats itself more often than is looked at, and is never too long."""
    if len(content) < _WINDOW_BYTES:
        return np.zeros(0, np.int32)
    index = _Index(content)
    largest = np.zeros((scopes_min, index.count), np.int32)  # the scopes_min largest, descending
    for raws in by_scope.values():
        lengths = np.zeros(index.count, np.int32)
        for raw in raws:
            for start in range(0, len(raw), _SLICE_BYTES):
                index.lengthen(lengths, raw[start : start + _SLICE_BYTES])
        for row in largest:
            larger = np.maximum(row, lengths)
            np.minimum(row, lengths, out=lengths)
            row[:] = larger
    kept: NDArray[np.int32] = largest[-1]
    return kept


class _Index:
    """Where each window of the content stands in it."""

    def __init__(self, content: bytes) -> None:
        windows = _Windows(content)
        self._words = windows.words
        self.count = len(windows.hashes)
        self._order = np.argsort(windows.hashes, kind="stable")
        self._hashes, self._first, self._copies = np.unique(
            windows.hashes[self._order], return_index=True, return_counts=True
        )

    def lengthen(self, lengths: NDArray[np.int32], text: bytes) -> None:
        """Raise `lengths` to those of the longest matches with `text` at each offset."""
        if len(text) < _WINDOW_BYTES:
            return
        windows = _Windows(text)
        found = np.searchsorted(self._hashes, windows.hashes)
        found[found == len(self._hashes)] = 0
        offsets = np.flatnonzero(self._hashes[found] == windows.hashes)
        found = found[offsets]
        copies = np.minimum(self._copies[found], _COPIES_MAX)
        if copies.sum() > _PAIRS_MAX:
            copies = np.minimum(copies, _PAIRS_MAX // _SLICE_BYTES)
        # Every pair of an offset in the text and one in the content with the same window.
        ends = np.cumsum(copies)
        ranks = np.arange(len(ends) and int(ends[-1])) - np.repeat(ends - copies, copies)
        there = np.repeat(offsets, copies)
        here = self._order[np.repeat(self._first[found], copies) + ranks]
        same = (windows.words[there] == self._words[here]) & (
            windows.words[there + 8] == self._words[here + 8]
        )
        here, there = here[same], there[same]
        if len(here) == 0:
            return
        # Side by side on one diagonal they are one longer match: runs of consecutive numbers.
        place = (here - there + len(text)) * (len(text) + 1) + there
        order = np.argsort(place)
        last = np.append(np.flatnonzero(np.diff(place[order]) != 1), len(order) - 1)
        run_ends = np.repeat(last, np.diff(last, prepend=-1))
        matched = run_ends - np.arange(len(order)) + _WINDOW_BYTES
        np.maximum.at(lengths, here[order], matched.astype(np.int32))


def _trained(raws: list[bytes], size_bytes: int, cover: _Cover) -> bytes | None:
    """What zstd's trainer makes of it, or None when it finds too little."""
    size_bytes = min(size_bytes, sum(map(len, raws)) // _SAMPLES_PER_DICTIONARY)
    if size_bytes < _CONTENT_BYTES_MIN:
        return None
    try:
        return zstandard.train_dictionary(
            size_bytes, [*raws], level=LEVEL, d=cover.dmer, k=cover.segment
        ).as_bytes()
    except zstandard.ZstdError:
        return None


def _loadable(body: bytes) -> bytes | None:
    """The dictionary, if zstd takes it for one."""
    try:
        dictionary = zstandard.ZstdCompressionDict(body, dict_type=zstandard.DICT_TYPE_FULLDICT)
        zstandard.ZstdDecompressor(dict_data=dictionary)
    except zstandard.ZstdError:
        return None
    return body


def _thinned(samples: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Samples spread evenly over those given, within the limits of a scope and of the whole."""
    by_scope: dict[int, list[tuple[int, bytes]]] = {}
    for scope, raw in samples:
        by_scope.setdefault(scope, []).append((scope, raw[:SCOPE_BYTES_MAX]))
    capped = [sample for scoped in by_scope.values() for sample in _evenly(scoped, SCOPE_BYTES_MAX)]
    return _evenly(capped, INPUT_BYTES_MAX)


def _evenly(samples: list[tuple[int, bytes]], limit_bytes: int) -> list[tuple[int, bytes]]:
    total = sum(len(raw) for _, raw in samples)
    if total <= limit_bytes:
        return samples
    kept: list[tuple[int, bytes]] = []
    kept_bytes = seen_bytes = 0
    for scope, raw in samples:
        seen_bytes += len(raw)
        # Kept once the share of what was seen has room for it.
        if kept_bytes + len(raw) <= limit_bytes * seen_bytes // total:
            kept.append((scope, raw))
            kept_bytes += len(raw)
    return kept
