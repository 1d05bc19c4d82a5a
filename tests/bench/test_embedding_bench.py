"""The embedder's benchmarks measure what they say."""

from typing import Any

import msgspec
import numpy as np
import pytest

from memopt.bench import embedding, likeness, vectors
from memopt.bench.data import SAMPLE


def task(system: str) -> Any:
    made = embedding.Task(system=system, files=(str(SAMPLE),), texts_max=20)
    return msgspec.to_builtins(made)


def test_slices_are_different_and_of_one_size() -> None:
    texts = embedding.sliced([str(SAMPLE)], 20)
    assert 2 <= len(texts) == len(set(texts)) <= 20
    assert all(165 <= len(text) <= 330 for text in texts)


def test_all_systems_cut_the_same_pieces() -> None:
    pytest.importorskip("tokenizers", reason="the baseline is the tokenizers library")
    found = {
        system: embedding.measure(task(system), lambda _: None) for system in embedding._SYSTEMS
    }
    assert len({answer["pieces_per_text"] for answer in found.values()}) == 1
    assert len({answer["texts"] for answer in found.values()}) == 1
    assert all(answer["texts_per_second"] > 0 for answer in found.values())


def test_recall_is_the_share_that_is_still_there() -> None:
    exact = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]])
    found = np.array([[0.9, 0.1, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4]])
    assert vectors._recall(exact, exact, 2) == 1.0
    assert vectors._recall(exact, found, 2) == 0.75
    assert vectors._recall(exact, found, 1) == 1.0


def test_a_query_is_not_its_own_neighbour() -> None:
    made = np.eye(3, dtype=np.float32)
    cosines = vectors._cosines(made, made, np.array([1]))
    assert cosines.tolist() == [[0.0, -2.0, 0.0]]


def test_the_area_is_the_chance_that_the_same_is_nearer() -> None:
    same = np.array([True, False, True, False])
    assert likeness._area(np.array([4, 3, 2, 1]), same) == 0.75
    assert likeness._area(np.array([1, 1, 1, 1]), same) == 0.5


def test_evidence_is_looked_for_among_the_nearest() -> None:
    texts = ["the cat sleeps", "interest rates", *[f"filler number {n}" for n in range(30)]]
    search = likeness.Search(texts, [("what about the cat?", (0,)), ("nothing of it", (0, 1))])
    found = likeness._found([search])
    assert set(found) == {"words", "float32", "int8", "int4"}
    assert all(0.5 <= share <= 1 for share in found.values())
