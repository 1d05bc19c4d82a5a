"""Entries as arrays and as bytes: what is decoded is what was encoded, or it is refused."""

import itertools
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError, MemoptError, StoreVersionError, UsageError
from memopt.recall import entries as module
from memopt.recall.entries import PIECES_MAX, Draft, Entries, Role
from memopt.text.analysis import Analyser, name_of

ANALYSER = Analyser()
ARRAYS = [name for name in Entries.__dataclass_fields__ if name != "space"]


class Letters:
    """An embedder that counts letters."""

    space = "letters"
    dimensions = 5

    def embed(self, texts: Sequence[str]) -> Any:
        made = np.array([[t.count(c) for c in "aeiou"] for t in texts], np.float32)
        return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)

    def pooled(self, pieces: Any, starts: Any) -> Any:
        cut = [pieces[a:b] for a, b in itertools.pairwise(starts)]
        return self.embed(["".join(map(chr, some)) for some in cut])

    def pieces(self, texts: Sequence[str]) -> Any:
        starts = np.cumsum([0, *map(len, texts)])
        return np.array([ord(c) & 0xFFFF for t in texts for c in t], np.uint16), starts


drafts = st.builds(
    Draft,
    source=st.integers(-(2**62), 2**62),
    seq=st.integers(-(2**31), 2**31 - 1),
    at_us=st.integers(-(2**63), 2**63 - 1),
    text=st.text(max_size=90),
    role=st.integers(0, 4),
    kind=st.integers(0, 255),
    speaker=st.none() | st.text(max_size=10),
)
many = st.lists(drafts, max_size=12)


def made(some: list[Draft], embedder: Any = Letters()) -> Entries:  # noqa: B008
    return Entries.of(some, embedder=embedder, analyser=ANALYSER)


def assert_same(one: Entries, other: Entries) -> None:
    assert one.space == other.space
    for name in ARRAYS:
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype, name
        assert left.shape == right.shape, name
        assert np.array_equal(left, right), name


@given(many, st.booleans())
def test_what_is_decoded_is_what_was_encoded(some: list[Draft], has_vectors: bool) -> None:
    entries = made(some, Letters() if has_vectors else None)
    assert_same(Entries.decode(entries.encode()), entries)


@given(many, many)
def test_parts_are_joined_and_taken_apart_again(some: list[Draft], more: list[Draft]) -> None:
    joined = Entries.concat([made(some), made(more)])
    assert_same(joined, made(some + more))
    mask = np.arange(len(joined)) < len(some)
    assert_same(joined.take(mask), made(some))
    assert_same(joined.take(np.flatnonzero(~mask)), made(more))
    backwards = np.arange(len(joined))[::-1]
    assert_same(joined.take(backwards), made((some + more)[::-1]))


def test_nothing_at_all_is_entries_too() -> None:
    assert_same(Entries.concat([]), Entries.none())
    assert_same(Entries.decode(made([]).encode()), Entries.none("letters", 5))


@given(many.filter(len), st.data())
def test_damaged_bytes_are_refused(some: list[Draft], data: st.DataObject) -> None:
    raw = bytearray(made(some).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CorruptionError, StoreVersionError)):
        Entries.decode(bytes(raw))
    with pytest.raises(CorruptionError):
        Entries.decode(bytes(raw[:at]))


@given(many.filter(len), st.data())
def test_bytes_that_lie_under_a_right_checksum_raise_nothing_else(
    some: list[Draft], data: st.DataObject
) -> None:
    raw = bytearray(made(some).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    head = module._HEAD
    raw[head.size - 4 : head.size] = bytes(4)
    checksum = zlib.crc32(raw[head.size :], zlib.crc32(raw[: head.size]))
    raw[head.size - 4 : head.size] = struct.pack("<I", checksum)
    try:
        entries = Entries.decode(bytes(raw))
    except MemoptError:
        return
    assert len({len(getattr(entries, name)) for name in module._COLUMNS}) == 1
    assert int(entries.terms_start[-1]) == len(entries.terms)
    assert int(entries.pieces_start[-1]) == len(entries.pieces)


def test_four_bits_halve_the_vectors_and_keep_their_directions() -> None:
    some = [Draft(source=1, seq=n, at_us=n, text="aeiou"[: n % 5 + 1] * n) for n in range(1, 40)]
    entries = made(some)
    small = entries.encode(vector_bits=4)
    assert len(entries.encode()) - len(small) == 2 * len(entries)  # 5 bytes become 3
    back = Entries.decode(small)
    one, other = entries.vectors.astype(float), back.vectors.astype(float)
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() > 0.98
    with pytest.raises(UsageError, match="vector_bits"):
        entries.encode(vector_bits=3)


def test_an_entry_says_where_who_and_when() -> None:
    draft = Draft(
        source=7, seq=3, at_us=5, text="ab" * 49 + "zz", role=Role.of("user"), speaker="Mel B"
    )
    entries = made([draft])
    assert entries.role[0] == Role.USER
    assert entries.speaker[0] == name_of("mel")
    assert entries.chars[0] == 100
    # Each once, of the first ones: z comes too late.
    assert len(entries.pieces) == 2 < PIECES_MAX
    assert entries.charged_bytes > sum(getattr(entries, name).nbytes for name in ARRAYS)


def test_a_wrong_embedder_and_mixed_spaces_are_refused() -> None:
    class Wrong(Letters):
        dimensions = 6

    with pytest.raises(UsageError, match="embedder"):
        made([Draft(source=1, seq=1, at_us=1, text="a")], Wrong())
    with pytest.raises(UsageError, match="space"):
        Entries.concat([made([]), made([], None)])
