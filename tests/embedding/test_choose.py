"""What `embedder=` means, and what is said of what it cannot mean."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memopt.base.errors import UsageError
from memopt.embedding import choose
from memopt.embedding.choose import choose_embedder
from memopt.embedding.local import LocalEmbedder, load_model
from memopt.embedding.static import SHIPPED, StaticEmbedder
from memopt.embedding.vectors import CheckedEmbedder, CheckedPieceEmbedder


class Fixed:
    """Says and makes what it is told to."""

    def __init__(self, made: Any = None, space: Any = "fixed", dimensions: Any = 3) -> None:
        self.space, self.dimensions, self.made = space, dimensions, made

    def embed(self, texts: Any) -> Any:
        return self.made if self.made is not None else np.ones((len(texts), 3))


class Encodes:
    def __init__(self, made: Any) -> None:
        self.made = made

    def encode(self, texts: Any) -> Any:
        return self.made(texts) if callable(self.made) else self.made


@pytest.mark.parametrize("choice", [None, "static", str(SHIPPED), SHIPPED])
def test_the_shipped_table_is_the_default(choice: Any) -> None:
    embedder = choose_embedder(choice, environ={})
    assert isinstance(embedder, StaticEmbedder)
    assert embedder.space == StaticEmbedder().space


def test_off_is_none() -> None:
    assert choose_embedder("off") is None


def test_endpoints_are_named_with_their_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(choose, "_remote", lambda *arguments: asked.append(arguments))
    keys = {"OPENAI_API_KEY": "openai", "MEMOPT_EMBEDDER_KEY": "own"}
    choose_embedder("openai:small", environ=keys)
    choose_embedder("openai:small", environ=keys | {"OPENAI_BASE_URL": "http://proxy/v1"})
    choose_embedder("http://localhost:8000/v1#nomic/embed", environ=keys)
    choose_embedder("https://elsewhere/v1#m", environ={"OPENAI_API_KEY": "openai"})
    assert asked == [
        ("https://api.openai.com/v1", "small", "openai"),
        ("http://proxy/v1", "small", "openai"),
        ("http://localhost:8000/v1", "nomic/embed", "own"),
        ("https://elsewhere/v1", "m", None),
    ]


@pytest.mark.parametrize(
    "choice",
    ["", "statik", "openai:", "http://localhost/v1", "nowhere/at/all", 7, object(), [], b"static"],
)
def test_what_it_cannot_mean_is_refused_by_name(choice: Any) -> None:
    with pytest.raises(UsageError, match="embedder"):
        choose_embedder(choice, environ={})


def test_an_object_of_ours_is_taken_as_it_is() -> None:
    for embedder in (StaticEmbedder(), CheckedEmbedder(Fixed())):
        assert choose_embedder(embedder) is embedder


def test_an_object_of_the_protocol_is_held_to_its_word() -> None:
    embedder = choose_embedder(Fixed())
    assert isinstance(embedder, CheckedEmbedder)
    assert np.allclose(np.linalg.norm(embedder.embed(["a", "b"]), axis=1), 1)

    class Own(StaticEmbedder):
        pass

    static = StaticEmbedder()
    names = ("space", "dimensions", "embed", "pieces", "pooled", "piece_vectors", "piece_weights")
    alike = type("Alike", (), {name: getattr(static, name) for name in (*names, "charged_bytes")})
    assert isinstance(choose_embedder(alike), CheckedPieceEmbedder)


@pytest.mark.parametrize(
    "made",
    [
        np.ones((1, 4)),
        np.ones(3),
        np.ones((2, 3)),
        np.full((1, 3), np.nan),
        np.array([[np.inf, 0, 0]]),
        [["a", "b", "c"]],
        [[1], [2, 3]],
        "text",
        7,
        {"a": 1},
    ],
)
def test_vectors_that_are_none_are_refused_by_name(made: Any) -> None:
    for embedder in (
        choose_embedder(Fixed(made)),
        LocalEmbedder(Encodes(made), space="s", dimensions=3),
    ):
        assert embedder is not None
        with pytest.raises(UsageError, match="embedder"):
            embedder.embed(["a"])


@pytest.mark.parametrize(
    ("space", "dimensions"),
    [
        ("", 3),
        (None, 3),
        ("x" * 201, 3),
        ("a\nb", 3),
        ("s", 0),
        ("s", True),
        ("s", 1.5),
        ("s", None),
    ],
)
def test_a_space_or_dimensions_that_are_none_are_refused(space: Any, dimensions: Any) -> None:
    with pytest.raises(UsageError, match="embedder"):
        choose_embedder(Fixed(space=space, dimensions=dimensions))


def test_a_large_vector_has_a_direction_like_any_other() -> None:
    embedder = choose_embedder(Fixed(np.array([[3e300, 4e300, 0]])))
    assert embedder is not None
    assert np.allclose(embedder.embed(["a"]), [[0.6, 0.8, 0]])


def test_pieces_that_do_not_fit_their_texts_are_refused() -> None:
    static = StaticEmbedder()
    names = ("space", "dimensions", "embed", "pooled", "piece_vectors", "piece_weights")
    shared = {name: getattr(static, name) for name in (*names, "charged_bytes")}
    for wrong in (
        (np.zeros(2, np.int64), np.array([0, 2])),
        (np.zeros(2, np.uint16), np.array([0, 1, 2])),
        (np.zeros(2, np.uint16), np.array([0, 3])),
        (np.zeros(2, np.uint16), np.array([1, 2])),
    ):
        own = type("Own", (), {**shared, "pieces": lambda _, texts, limit=None, wrong=wrong: wrong})
        embedder = CheckedPieceEmbedder(own())
        with pytest.raises(UsageError, match="embedder"):
            embedder.pieces(["a"])


def test_the_space_of_a_model_is_what_it_makes_of_sentences() -> None:
    def turned(seed: int) -> Any:
        turn = np.random.default_rng(seed).normal(size=(64, 6))
        return lambda texts: np.array(
            [turn[[len(text), ord(text[0]) % 64]].sum(0) for text in texts]
        )

    first, again, other = (LocalEmbedder(Encodes(turned(seed))) for seed in (0, 0, 1))
    assert first.space == again.space != other.space
    assert first.dimensions == 6
    assert LocalEmbedder(Encodes(turned(0)), space="mine").space == "mine"


def test_a_model_gets_texts_in_batches_and_not_whole_books() -> None:
    sizes: list[tuple[int, int]] = []

    def noted(texts: list[str]) -> Any:
        sizes.append((len(texts), max(map(len, texts))))
        return np.ones((len(texts), 3))

    embedder = LocalEmbedder(Encodes(noted), space="s", dimensions=3)
    assert embedder.embed(["b" * 100_000] * 130).shape == (130, 3)
    assert sizes == [(64, 16_384), (64, 16_384), (2, 16_384)]


@pytest.mark.parametrize("made", [np.ones(3), 7, None])
def test_a_model_without_a_shape_is_refused(made: Any) -> None:
    with pytest.raises(UsageError, match="embedder"):
        LocalEmbedder(Encodes(made))


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UsageError, match="neither"):
        load_model(tmp_path)
    with pytest.raises(UsageError, match="no directory"):
        load_model(tmp_path / "none")


def test_a_model_whose_package_is_absent_is_refused_by_the_packages_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UsageError, match="sentence-transformers"):
        choose_embedder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "model2vec"}')
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(UsageError, match="the package model2vec"):
        choose_embedder(str(tmp_path))


def test_a_model_is_loaded_quietly_and_from_disk_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package, which is a gigabyte."""
    loaded: list[Any] = []

    class SentenceTransformer:
        def __init__(self, path: str, *, local_files_only: bool = False) -> None:
            loaded.append((path, local_files_only))

        def get_sentence_embedding_dimension(self) -> int:
            return 3

        def encode(self, sentences: Any, *, show_progress_bar: bool | None = None) -> Any:
            assert show_progress_bar is False
            return np.ones((len(sentences), 3))

    package = type(sys)("sentence_transformers")
    package.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "weights").write_bytes(b"a" * 200_000)
    first = choose_embedder(tmp_path)
    assert first is not None
    assert first.embed(["a"]).shape == (1, 3)
    assert loaded == [(str(tmp_path), True)]
    (tmp_path / "weights").write_bytes(b"a" * 199_999 + b"b")
    second = choose_embedder(tmp_path)
    assert second is not None
    assert first.space != second.space, "other weights are another space"


def test_nothing_is_imported_that_was_not_chosen() -> None:
    script = """
import sys
from memopt.embedding.choose import choose_embedder
choose_embedder("off")
assert "tokenizers" not in sys.modules
choose_embedder(None).embed(["a text"])
print([name for name in ("httpx", "tokenizers", "torch", "model2vec") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
