"""The embedder of a store: made when it is first needed, and paid for before it is used.

Not here: what `embedder=` may mean (embedding/choose.py), and what is embedded (indexing.py).
"""

import threading
from collections.abc import Callable
from typing import Final

from memopt.base.budget import Budget
from memopt.base.recall_protocols import Embedder, EmbedderMaker

OWNER: Final = "embedder"
_SHARE_MAX: Final = 1 / 4
"""Of the budget: an embedder that takes more is done without."""


class EmbedderInUse:
    """Thread-safe. Calling it gives the embedder; None where the budget is too small for one."""

    def __init__(self, make: EmbedderMaker, budget: Budget, note: Callable[[str], None]) -> None:
        """`note` is told, in words, where it is done without."""
        self._make = make
        self._budget = budget
        self._note = note
        self._lock = threading.Lock()
        self._embedder: Embedder | None = None
        self._is_made = False

    def __call__(self) -> Embedder | None:
        if not self._is_made:
            with self._lock:
                if not self._is_made:
                    self._embedder = self._paid(self._make())
                    self._is_made = True
        return self._embedder

    def _paid(self, embedder: Embedder | None) -> Embedder | None:
        charged_bytes = getattr(embedder, "charged_bytes", None)
        need = charged_bytes() if charged_bytes is not None else 0
        if need > self._budget.limit_bytes * _SHARE_MAX:
            self._note(
                f"the embedder takes {need} bytes, more than a quarter of the budget of "
                f"{self._budget.limit_bytes}: messages are found by their words alone"
            )
            return None
        # Where there is no room now, the caller does without and asks again.
        self._budget.reserve(OWNER, need)
        return embedder

    def close(self) -> None:
        close = getattr(self._embedder, "close", None)
        if close is not None:
            close()
        self._budget.release_all(OWNER)
