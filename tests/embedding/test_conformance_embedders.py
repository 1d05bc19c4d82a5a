"""Every embedder of ours keeps the contract; one that breaks it is noticed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memopt.base.recall_protocols import Embedder, PieceEmbedder
from memopt.embedding.choose import choose_embedder
from memopt.embedding.local import LocalEmbedder
from memopt.embedding.remote import RemoteEmbedder
from memopt.embedding.static import StaticEmbedder
from memopt.embedding.vectors import CheckedEmbedder, CheckedPieceEmbedder
from memopt.testing.embedders import (
    EmbedderConformance,
    PieceEmbedderConformance,
    check_embedder,
)

httpx = pytest.importorskip("httpx", reason="httpx is what endpoints are reached by")


def vector_of(text: str, dimensions: int = 24) -> list[float]:
    """Any function of a text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).normal(size=dimensions).tolist()  # type: ignore[no-any-return]


class Model:
    """What sentence-transformers and model2vec have in common."""

    dim = 24

    def encode(self, sentences: Sequence[str], show_progress_bar: bool = True) -> Any:
        assert not show_progress_bar
        return np.array([vector_of(text) for text in sentences], np.float32)


class Bare:
    """An Embedder of somebody's own that does not look at lengths and lists."""

    space = "bare-1"
    dimensions = 24

    def embed(self, texts: Sequence[str]) -> Any:
        return [[3 * number for number in vector_of(text)] for text in texts]


def answer(request: Any) -> Any:
    texts = json.loads(request.content)["input"]
    data = [{"index": at, "embedding": vector_of(text)} for at, text in enumerate(texts)]
    return httpx.Response(200, json={"data": data[::-1]})


class TestStatic(PieceEmbedderConformance):
    def make(self) -> PieceEmbedder:
        return StaticEmbedder()


class TestCheckedPieces(PieceEmbedderConformance):
    def make(self) -> PieceEmbedder:
        return CheckedPieceEmbedder(StaticEmbedder())


class TestChecked(EmbedderConformance):
    def make(self) -> Embedder:
        return CheckedEmbedder(Bare())


class TestLocal(EmbedderConformance):
    def make(self) -> Embedder:
        return LocalEmbedder(Model())


class TestRemote(EmbedderConformance):
    def make(self) -> Embedder:
        return RemoteEmbedder("http://model.test/v1", "tiny", transport=httpx.MockTransport(answer))


class TestModel2Vec(EmbedderConformance):
    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path) -> None:
        self.path = made_model2vec(tmp_path / "tiny")

    def make(self) -> Embedder:
        found = choose_embedder(self.path)
        assert found is not None
        return found


def made_model2vec(path: Path) -> Path:
    """A model of its own format, with a vocabulary of a few words."""
    model2vec = pytest.importorskip("model2vec", reason="model2vec is not installed")
    import tokenizers

    words = ["[UNK]", "[PAD]", "the", "train", "my", "daughter", "word", "a", "ab", "x", "9"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, "[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    model = model2vec.StaticModel(vectors, tokenizer, config={"model_type": "model2vec"})
    model.save_pretrained(path)
    return path


def changed(**attributes: Any) -> Embedder:
    """A conforming embedder but for what is given."""
    own = LocalEmbedder(Model())
    names: dict[str, Any] = {"space": own.space, "dimensions": own.dimensions, "embed": own.embed}
    return type("Changed", (), {**names, **attributes})()  # type: ignore[no-any-return]


def first_counts(embed: Callable[[Sequence[str]], Any]) -> Callable[..., Any]:
    """Vectors that depend on the first text beside them."""
    return lambda _, texts: embed(texts) if not texts else embed([texts[0]] * len(texts))


@pytest.mark.parametrize(
    "attributes",
    [
        {"space": ""},
        {"space": "two\nlines"},
        {"dimensions": 25},
        {"embed": lambda _, texts: 2 * LocalEmbedder(Model()).embed(texts)},
        {"embed": lambda _, texts: LocalEmbedder(Model()).embed(texts).astype(np.float64)},
        {"embed": lambda _, texts: LocalEmbedder(Model()).embed(list(map(str, texts)))},
        {"embed": lambda _, texts: LocalEmbedder(Model()).embed(texts)[:5]},
        {"embed": lambda _, texts: np.zeros((len(texts), 24), np.float32)},
        {"embed": first_counts(LocalEmbedder(Model()).embed)},
    ],
)
def test_an_embedder_that_breaks_its_word_is_noticed(attributes: dict[str, Any]) -> None:
    check_embedder(changed())
    with pytest.raises(AssertionError):
        check_embedder(changed(**attributes))
