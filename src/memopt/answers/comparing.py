"""What questions are compared with: the embedder, the lexicon, the models, the hyperplanes.

All of it is brought in when the first question is compared, and paid for. The lexicon is the
shipped table of word pieces, whatever the embedder is: the models were fitted with its cosines.
Stored questions that are looked at again and again are read once.

Owns: those, and questions that were read lately, QUESTIONS_MAX at most. Not here: what is compared
(features.py), and what that says (matching.py).
"""

import collections
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from memopt.answers.entry import DIMENSIONS_MAX, space_of
from memopt.answers.features import Pair, Question, Reader
from memopt.answers.matching import open_matcher
from memopt.answers.nearest import planes_for
from memopt.answers.request import QUESTION_CHARACTERS_MAX
from memopt.base.budget import Budget
from memopt.base.errors import UsageError
from memopt.base.recall_protocols import Embedder, PieceEmbedder
from memopt.base.records import to_datetime

OWNER: Final = "answer models"
QUESTIONS_MAX: Final = 64
_QUESTION_CHARACTERS_MAX: Final = 256
"""A longer question is not remembered."""
_QUESTION_BYTES: Final = 12_288
"""One that is remembered, at most."""
_MODEL_BYTES: Final = 1 << 19


class Comparer:
    """Thread-safe."""

    def __init__(
        self, embedder: Embedder, make_lexicon: Callable[[], PieceEmbedder], budget: Budget
    ) -> None:
        """Raises BudgetError where there is no room, UsageError for too many dimensions."""
        if embedder.dimensions > DIMENSIONS_MAX:
            raise UsageError(
                f"{embedder.dimensions} dimensions, at most {DIMENSIONS_MAX} are compared",
                field="embedder",
            )
        self._embedder = embedder
        self._budget = budget
        self.space = space_of(embedder.space)
        self.planes = planes_for(embedder.dimensions)
        lexicon = _as_lexicon(embedder)
        self.is_lexicon = lexicon is not None
        """Whether the vectors that are searched are those that the models know."""
        need = _MODEL_BYTES + self.planes.charged_bytes + QUESTIONS_MAX * _QUESTION_BYTES
        if lexicon is None:
            lexicon = make_lexicon()
            need += lexicon.charged_bytes()
        budget.reserve(OWNER, need)
        self._charged = need
        self._lexicon = lexicon
        self._reader = Reader(lexicon)
        self.matcher = open_matcher()
        self._lock = threading.Lock()
        self._stored: collections.OrderedDict[tuple[str, int], Question] = collections.OrderedDict()

    def vector(self, question: str) -> Any:
        """The embedder's, float32 (d); None where there is nothing to be compared."""
        if len(question) > QUESTION_CHARACTERS_MAX:
            return None
        vector = self._embedder.embed([question])[0]
        return vector if np.any(vector) else None

    def lexicon_vectors(self, questions: list[str]) -> Any:
        """float32 (n, d) of unit length."""
        return self._lexicon.embed(questions)

    def read(self, question: str, vector: Any, at_us: int) -> Question:
        """A question that is asked now; `vector`: the embedder's."""
        known = vector if self.is_lexicon else None
        return self._reader.read(question, to_datetime(at_us), known)

    def stored(self, question: str, at_us: int) -> Question:
        """A question that was stored at a time."""
        key = question, at_us
        with self._lock:
            found = self._stored.get(key)
            if found is not None:
                self._stored.move_to_end(key)
                return found
        read = self._reader.read(question, to_datetime(at_us))
        if len(question) <= _QUESTION_CHARACTERS_MAX:
            with self._lock:
                self._stored[key] = read
                while len(self._stored) > QUESTIONS_MAX:
                    self._stored.popitem(last=False)
        return read

    def pair(self, one: Question, other: Question) -> Pair:
        return self._reader.pair(one, other)

    def close(self) -> None:
        with self._lock:
            self._stored.clear()
        self._budget.release(OWNER, self._charged)
        self._charged = 0


class LazyComparer:
    """The Comparer of a store, made when a question is compared for the first time."""

    def __init__(
        self, embedder: Callable[[], Embedder | None], make_lexicon: Callable[[], PieceEmbedder],
        budget: Budget,
    ) -> None:  # fmt: skip
        self._embedder = embedder
        self._make_lexicon = make_lexicon
        self._budget = budget
        self._made: Comparer | None = None
        self._lock = threading.Lock()

    def get(self) -> Comparer | None:
        """None where the store has no embedder. Raises BudgetError where there is no room now."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    embedder = self._embedder()
                    if embedder is None:
                        return None
                    self._made = Comparer(embedder, self._make_lexicon, self._budget)
        return self._made

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def _as_lexicon(embedder: Embedder) -> PieceEmbedder | None:
    """The embedder itself where it is the shipped table."""
    from memopt.embedding.static import SHIPPED, StaticEmbedder

    if isinstance(embedder, StaticEmbedder) and embedder.path == SHIPPED:
        return embedder
    return None
