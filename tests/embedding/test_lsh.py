"""Sketches tell angles, and the scan finds what a slow one would."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.embedding import lsh
from memopt.embedding.lsh import BITS_MAX, DIMENSIONS_MAX, Hyperplanes, closest, distances


def units(count: int, dimensions: int, seed: int = 0) -> lsh.Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def slow_distances(sketches: lsh.Sketches, probe: lsh.Sketches) -> list[int]:
    return [
        sum(int(word ^ other).bit_count() for word, other in zip(column, probe, strict=True))
        for column in sketches.T.tolist()
    ]


@pytest.mark.parametrize("bits", [64, 256, 512])
@pytest.mark.parametrize("dimensions", [3, 200, 256, 300])
def test_bits_differ_in_proportion_to_the_angle(dimensions: int, bits: int) -> None:
    one, other = units(2, dimensions, seed=dimensions)
    mean = (one + other) / np.linalg.norm(one + other)
    vectors = np.stack([one, one, -one, mean, other])
    sketches = Hyperplanes(dimensions, bits).sketch(vectors)
    assert sketches.shape == (bits // 64, 5)
    found = slow_distances(sketches, sketches[:, 0])
    assert found[:3] == [0, 0, bits]
    angles = np.arccos(np.clip(vectors[3:] @ one, -1, 1)) / np.pi
    assert np.allclose(np.array(found[3:]) / bits, angles, atol=4 * 0.5 / bits**0.5)


@pytest.mark.parametrize("count", [0, 1, 100, (1 << 15) + 7])
@pytest.mark.parametrize("words", [1, 3, 4, 5, 8])
def test_distances_are_those_of_a_slow_count(count: int, words: int) -> None:
    random = np.random.default_rng(words)
    sketches = random.integers(0, 2**64, (words, count), np.uint64)
    probe = random.integers(0, 2**64, words, np.uint64)
    found = distances(sketches, probe).tolist()
    shown = range(0, count, 97)
    expected = slow_distances(sketches[:, ::97], probe)
    assert [found[place] for place in shown] == [min(distance, 255) for distance in expected]


def test_what_differs_in_more_than_255_bits_is_far() -> None:
    sketches = np.zeros((8, 3), np.uint64)
    sketches[:, 1] = 2**64 - 1
    sketches[:4, 2] = 2**64 - 1
    assert distances(sketches, np.zeros(8, np.uint64)).tolist() == [0, 255, 255]


def test_both_ways_to_count_bits_agree() -> None:
    words = np.random.default_rng(1).integers(0, 2**64, 1000, np.uint64)
    words[:3] = 0, 2**64 - 1, 1
    expected = [int(word).bit_count() for word in words]
    ways = [lsh._count_by_halves]
    ways += [lsh._count_by_instruction] if hasattr(np, "bitwise_count") else []
    for way in ways:
        out = np.empty(1000, np.uint8)
        way(words.copy(), out)
        assert out.tolist() == expected


@given(
    st.lists(st.integers(0, 255), max_size=300), st.integers(1, 50), st.integers(1, 200),
)  # fmt: skip
def test_the_closest_are_the_smallest(found: list[int], count: int, repeats: int) -> None:
    values = np.array(found * repeats, np.uint8)
    places = closest(values, count)
    assert np.all(np.diff(places) > 0)
    candidates = np.sort(values[values < 255])
    assert len(places) >= min(count, len(candidates))
    taken = np.sort(values[places])
    assert taken[:count].tolist() == candidates[:count].tolist()[: len(taken)]
    left = np.delete(values, places)
    if len(left) and len(taken):
        assert taken.max() <= left.min()


def test_the_best_of_many_is_a_candidate() -> None:
    stored, asked = units(20_000, 64), units(100, 64, seed=1)
    # Near to one of them, as a question is to its paraphrase.
    asked = 0.6 * asked + stored[:100]
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    planes = Hyperplanes(64)
    sketches, probes = planes.sketch(stored), planes.sketch(asked)
    best = (asked @ stored.T).argmax(1)
    found = [best[i] in closest(distances(sketches, probes[:, i]), 200) for i in range(100)]
    assert sum(found) >= 99


def test_the_same_sizes_give_the_same_hyperplanes() -> None:
    vectors = units(50, 40)
    one, other = Hyperplanes(40, 128), Hyperplanes(40, 128)
    assert np.array_equal(one.sketch(vectors), other.sketch(vectors))
    assert one.charged_bytes == 40 * 128 * 4


@pytest.mark.parametrize(
    ("dimensions", "bits", "field"),
    [
        (0, 256, "dimensions"),
        (DIMENSIONS_MAX + 1, 256, "dimensions"),
        (256, 0, "bits"),
        (256, 100, "bits"),
        (256, BITS_MAX + 64, "bits"),
    ],
)
def test_sizes_out_of_bounds_are_refused(dimensions: int, bits: int, field: str) -> None:
    with pytest.raises(UsageError) as raised:
        Hyperplanes(dimensions, bits)
    assert raised.value.field == field


@pytest.mark.parametrize("shape", [(3, 7), (8,), (2, 2, 8)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="dimensions"):
        Hyperplanes(8).sketch(np.zeros(shape, np.float32))


def test_no_candidate_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        closest(np.zeros(3, np.uint8), 0)
