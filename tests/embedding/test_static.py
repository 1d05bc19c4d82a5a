"""The static embedder: its file is verified, and a text's vector is its own."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError, StoreVersionError, UsageError
from memopt.codecs.vectors import VectorCodec, dequantise, quantise
from memopt.embedding.static import (
    CHECKSUM_AT,
    HEADER,
    SHIPPED,
    StaticEmbedder,
    StaticTable,
    open_table,
    pack_table,
)

SHIPPED_ONE = StaticEmbedder()


def small_table() -> StaticTable:
    chance = np.random.default_rng(0)
    vocabulary = ("[UNK]", "a", "b", "##b", "the")
    rows = chance.integers(-127, 128, (5, 6)).astype(np.int8)
    scales = np.array([0, 0.5, 0.25, 1, 0.001], np.float32)
    return StaticTable("small-1", rows, scales, scales.copy(), vocabulary)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "table.bin"
    path.write_bytes(pack_table(small_table()))
    return path


def sealed(raw: bytes) -> bytes:
    """With the checksum that it should have."""
    bare = raw[:CHECKSUM_AT] + bytes(4) + raw[CHECKSUM_AT + 4 :]
    return raw[:CHECKSUM_AT] + zlib.crc32(bare).to_bytes(4, "little") + raw[CHECKSUM_AT + 4 :]


def test_a_table_comes_back(file: Path) -> None:
    table, expected = open_table(file), small_table()
    assert (table.space, table.vocabulary) == (expected.space, expected.vocabulary)
    for name in ("rows", "scales", "weights"):
        assert np.array_equal(getattr(table, name), getattr(expected, name))
    assert pack_table(table) == file.read_bytes()


def test_a_text_is_the_sum_of_its_pieces(file: Path) -> None:
    table = small_table()
    sums = (table.rows[[1, 3, 3, 4]].astype(np.float64) * table.scales[[1, 3, 3, 4]][:, None]).sum(
        axis=0
    )
    (vector,) = StaticEmbedder(file).embed(["ABB the"])
    assert np.allclose(vector, sums / np.linalg.norm(sums), atol=1e-6)


def test_every_flipped_bit_of_a_table_is_noticed(file: Path) -> None:
    raw = file.read_bytes()
    for place in range(len(raw)):
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 16]) + raw[place + 1 :])
        with pytest.raises((CorruptionError, StoreVersionError)):
            open_table(file)


def test_a_table_that_is_cut_or_longer_is_refused(file: Path) -> None:
    raw = file.read_bytes()
    for other in (b"", raw[:10], raw[: HEADER.size], raw[:-1], raw + b"\0"):
        file.write_bytes(other)
        with pytest.raises(CorruptionError):
            open_table(file)


@pytest.mark.parametrize(
    ("at", "value"),
    [(6, 0), (8, 0), (8, 1 << 30), (16, 1 << 31), (16, 3), (12, 1)],
)
def test_declared_sizes_are_checked_though_the_checksum_holds(
    file: Path, at: int, value: int
) -> None:
    raw = file.read_bytes()
    width = 2 if at == 6 else 4
    file.write_bytes(sealed(raw[:at] + value.to_bytes(width, "little") + raw[at + width :]))
    with pytest.raises(CorruptionError):
        open_table(file)


def test_a_later_version_is_refused_by_name(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(sealed(raw[:4] + b"\x02\x00" + raw[6:]))
    with pytest.raises(StoreVersionError, match="version 2"):
        open_table(file)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="embedder"):
        StaticEmbedder(tmp_path / "none.bin")


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_a_vector_does_not_depend_on_what_is_embedded_beside_it(texts: list[str]) -> None:
    together = SHIPPED_ONE.embed(texts)
    apart = np.concatenate([SHIPPED_ONE.embed([text]) for text in texts])
    assert together.tobytes() == apart.tobytes()
    lengths = np.linalg.norm(together, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))


def test_pieces_can_be_asked_for_and_pooled() -> None:
    texts = ["The cat sat.", "", "quantisation of vectors"]
    pieces, starts = SHIPPED_ONE.pieces(texts)
    assert (pieces.dtype, starts.tolist()[0], len(starts)) == (np.uint16, 0, 4)
    assert SHIPPED_ONE.pooled(pieces, starts).tobytes() == SHIPPED_ONE.embed(texts).tobytes()
    vectors = SHIPPED_ONE.piece_vectors(pieces)
    assert vectors.shape == (len(pieces), SHIPPED_ONE.dimensions)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    weights = SHIPPED_ONE.piece_weights(pieces)
    assert weights[1] > weights[0] >= 0, "a cat says more than an article"


def test_what_means_the_same_is_nearer() -> None:
    a, b, c = SHIPPED_ONE.embed(
        ["My dog is ill", "The puppy feels sick", "Interest rates rose again this year"]
    )
    assert a @ b > 0.3 > a @ c


@pytest.mark.parametrize("texts", ["one text", [b"bytes"], [None], [1]])
def test_what_is_no_sequence_of_texts_is_refused(texts: Any) -> None:
    with pytest.raises(UsageError, match="texts"):
        SHIPPED_ONE.embed(texts)


def test_the_shipped_table_is_small_and_whole() -> None:
    assert SHIPPED.stat().st_size < 8_200_000
    table = open_table(SHIPPED)
    assert table.rows.shape == (len(table.vocabulary), 256)
    assert np.all((table.weights >= 0) & (table.weights <= 1))
    assert np.all(np.isfinite(table.scales))
    assert SHIPPED_ONE.embed([""]).tolist() == [[0.0] * 256]


@pytest.mark.parametrize(("codec", "share"), [(VectorCodec.INT8, 0.95), (VectorCodec.INT4, 0.7)])
def test_rounded_vectors_keep_most_of_their_neighbours(codec: VectorCodec, share: float) -> None:
    """The table is turned so that no component is much larger than the others."""
    vocabulary = open_table(SHIPPED).vocabulary
    words = [word for word in vocabulary[1000:] if word.isalpha() and len(word) > 3]
    texts = [" ".join(words[at * 7 : at * 7 + 12]) for at in range(2000)]
    vectors = SHIPPED_ONE.embed(texts)
    exact = vectors[:100] @ vectors.T
    found = vectors[:100] @ dequantise(quantise(vectors, codec)).T
    nearest, still = (np.argsort(-cosines, axis=1)[:, :10] for cosines in (exact, found))
    kept = [len({*a} & {*b}) / 10 for a, b in zip(nearest.tolist(), still.tolist(), strict=True)]
    assert np.mean(kept) > share


@given(st.lists(st.integers(0, 29_000), max_size=600))
def test_likeness_is_the_product_of_directions(pieces: list[int]) -> None:
    chosen = np.array(pieces, np.uint16)
    asked = SHIPPED_ONE.piece_vectors(np.array([7, 2000, 12_345], np.uint16))
    found = SHIPPED_ONE.piece_likeness(chosen, asked)
    assert np.allclose(found, SHIPPED_ONE.piece_vectors(chosen) @ asked.T, atol=1e-5)
    lengths = np.linalg.norm(SHIPPED_ONE.piece_vectors(chosen), axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
