"""The contract of an embedder, as tests anybody can run on an embedder of their own.

With pytest, subclass `EmbedderConformance`, or `PieceEmbedderConformance` for one that is made of
word pieces:

    class TestMine(EmbedderConformance):
        def make(self) -> Embedder:
            return Mine()

Not here: whether what means the same is near. That is a question for `memopt bench recall`.
"""

import threading
from abc import ABC, abstractmethod
from typing import Any, Final

import numpy as np

from memopt.base.errors import UsageError
from memopt.base.recall_protocols import Embedder, PieceEmbedder

ALIKE: Final = 1e-3
"""By so much may a vector differ where other texts are embedded beside it: models round in
batches."""
_UNIT: Final = 1e-3

TEXTS: Final = (
    "The train to the coast leaves at a quarter past nine.",
    "My daughter is allergic to peanuts.",
    "my daughter is allergic to peanuts",
    "naïve café — “quoted”, 東京, Ελλάς, 🦉",
    "def total(prices):\n\treturn sum(prices)",
    "a",
    "9 + 10 = 19; -4.5e-3 %",
    "word " * 600,
)


class EmbedderConformance(ABC):
    """The suite. Every method named `test_…` is one promise of
    `memopt.base.recall_protocols.Embedder`."""

    @abstractmethod
    def make(self) -> Embedder:
        """An embedder; called once for each test."""

    def test_it_names_its_space_and_its_dimensions(self) -> None:
        embedder = self.make()
        assert isinstance(embedder.space, str)
        assert 0 < len(embedder.space.encode()) <= 200, "a space's name is stored with each segment"
        assert embedder.space.isprintable()
        assert embedder.dimensions > 0
        again = self.make()
        assert (again.space, again.dimensions) == (embedder.space, embedder.dimensions), (
            "what is made alike must be compared with what was made before"
        )

    def test_vectors_are_finite_and_of_unit_length(self) -> None:
        embedder = self.make()
        vectors = embedder.embed(TEXTS)
        _check_shape(vectors, len(TEXTS), embedder)
        lengths = np.linalg.norm(vectors, axis=1)
        assert np.all((np.abs(lengths - 1) < _UNIT) | (lengths == 0)), f"lengths {lengths}"
        assert np.any(lengths > 0), "nothing that was said has a direction"

    def test_no_texts_make_no_vectors(self) -> None:
        embedder = self.make()
        _check_shape(embedder.embed([]), 0, embedder)

    def test_an_empty_text_has_a_vector_or_zeros(self) -> None:
        embedder = self.make()
        vectors = embedder.embed(["", " \n\t", TEXTS[0], ""])
        _check_shape(vectors, 4, embedder)
        assert np.array_equal(vectors[0], vectors[3])
        assert _alike(vectors[2], embedder.embed([TEXTS[0]])[0])

    def test_a_vector_depends_on_its_text_alone(self) -> None:
        embedder = self.make()
        together = embedder.embed(TEXTS)
        turned = embedder.embed(TEXTS[::-1])[::-1]
        apart = np.concatenate([embedder.embed([text]) for text in TEXTS])
        assert _alike(together, turned), "another order, another vector"
        assert _alike(together, apart), "other company, another vector"

    def test_many_texts_come_back_in_their_order(self) -> None:
        embedder = self.make()
        texts = [TEXTS[number * 7 % len(TEXTS)] for number in range(300)]
        vectors = embedder.embed(texts)
        _check_shape(vectors, len(texts), embedder)
        expected = embedder.embed(TEXTS)
        for number, vector in enumerate(vectors):
            assert _alike(vector, expected[number * 7 % len(TEXTS)]), f"text {number} is another's"

    def test_a_huge_text_is_embedded_like_any_other(self) -> None:
        embedder = self.make()
        _check_shape(embedder.embed(["ab " * 400_000, "x" * 1_000_000, "\x00" * 9]), 3, embedder)

    def test_what_is_no_sequence_of_texts_is_refused(self) -> None:
        embedder = self.make()
        wrong: tuple[Any, ...] = ("one text", [b"bytes"], [None], [3], [["nested"]])
        for texts in wrong:
            try:
                embedder.embed(texts)
            except UsageError:
                continue
            raise AssertionError(f"{texts!r} was embedded")

    def test_what_it_returns_is_the_callers(self) -> None:
        embedder = self.make()
        first = embedder.embed([TEXTS[0]])
        kept = first.copy()
        first[:] = 7
        assert _alike(embedder.embed([TEXTS[0]]), kept), "a vector was changed by its reader"

    def test_threads_may_share_it(self) -> None:
        embedder = self.make()
        expected = embedder.embed(TEXTS)
        wrong: list[str] = []

        def work(start: int) -> None:
            for number in range(4):
                turn = (start + number) % len(TEXTS)
                texts = TEXTS[turn:] + TEXTS[:turn]
                found = np.roll(embedder.embed(texts), turn, axis=0)
                if not _alike(found, expected):
                    wrong.append(f"thread {start}, round {number}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class PieceEmbedderConformance(EmbedderConformance):
    """The suite for `memopt.base.recall_protocols.PieceEmbedder`."""

    @abstractmethod
    def make(self) -> PieceEmbedder: ...

    def test_pieces_are_cut_text_by_text(self) -> None:
        embedder = self.make()
        pieces, starts = embedder.pieces(TEXTS)
        assert (pieces.dtype, pieces.ndim) == (np.uint16, 1)
        assert starts.shape == (len(TEXTS) + 1,)
        assert (starts[0], starts[-1]) == (0, len(pieces))
        for number, text in enumerate(TEXTS):
            alone, _ = embedder.pieces([text])
            assert np.array_equal(alone, pieces[starts[number] : starts[number + 1]])
            some, bounds = embedder.pieces([text], limit=3)
            assert np.array_equal(some, alone[:3])
            assert bounds.tolist() == [0, len(some)]

    def test_pooled_pieces_are_what_is_embedded(self) -> None:
        embedder = self.make()
        texts = [*TEXTS, ""]
        assert _alike(embedder.pooled(*embedder.pieces(texts)), embedder.embed(texts))

    def test_a_piece_has_a_direction_and_a_weight(self) -> None:
        embedder = self.make()
        pieces, _ = embedder.pieces(TEXTS)
        vectors, weights = embedder.piece_vectors(pieces), embedder.piece_weights(pieces)
        _check_shape(vectors, len(pieces), embedder)
        lengths = np.linalg.norm(vectors, axis=1)
        assert np.all((np.abs(lengths - 1) < _UNIT) | (lengths == 0))
        assert weights.shape == (len(pieces),)
        assert np.all((weights >= 0) & (weights <= 1))

    def test_it_says_what_it_occupies(self) -> None:
        assert self.make().charged_bytes() > 0


def check_embedder(embedder: Embedder) -> None:
    """Run the whole suite on one embedder. Raises AssertionError at the first broken promise."""

    class Suite(EmbedderConformance):
        def make(self) -> Embedder:
            return embedder

    suite = Suite()
    for name in vars(EmbedderConformance):
        if name.startswith("test_"):
            getattr(suite, name)()


def _check_shape(vectors: Any, count: int, embedder: Embedder) -> None:
    assert isinstance(vectors, np.ndarray)
    assert vectors.dtype == np.float32, f"vectors of {vectors.dtype}"
    assert vectors.shape == (count, embedder.dimensions), f"vectors of shape {vectors.shape}"
    assert np.isfinite(vectors).all()


def _alike(one: Any, other: Any) -> bool:
    return bool(np.abs(one - other).max(initial=0) < ALIKE)
