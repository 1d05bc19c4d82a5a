"""What the server remembers of what is in the store: copies, charged to the budget.

Owns: the budget's owner "server". Invariant: an entry is reserved before it is remembered, and what
is asked for by others is forgotten, the oldest first. Thread-safe. Not here: what is remembered
(lines.py, canonical.py).
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from memopt.base.budget import Budget
from memopt.base.units import MIB

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

OWNER: Final = "server"
_SHARE: Final = 1 / 32
_BYTES_MAX: Final = 16 * MIB


class Remembered(Generic[K, V]):
    """Up to so many entries, and a part of the budget. What does not fit is not remembered."""

    def __init__(self, budget: Budget, *, entries_max: int) -> None:
        self._budget = budget
        self._entries_max = entries_max
        self._bytes_max = min(_BYTES_MAX, int(budget.limit_bytes * _SHARE))
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        found = self._entries.get(key)
        return None if found is None else found[0]

    def renew(self, key: K) -> None:
        """It is in use: others go before it."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Remember it, if there is room for it."""
        with self._lock:
            self._drop(key)
            if size_bytes > self._bytes_max:
                return
            while (
                len(self._entries) >= self._entries_max
                or self._held + size_bytes > self._bytes_max
                or not self._budget.try_reserve(OWNER, size_bytes)
            ):
                if not self._entries:
                    return
                self._drop(next(iter(self._entries)))
            self._held += size_bytes
            self._entries[key] = value, size_bytes

    def drop(self, key: K) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: K) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._held -= found[1]
            self._budget.release(OWNER, found[1])

    def make_free(self, size_bytes: int) -> None:
        """Forget until so much of the budget is free, or nothing is left."""
        with self._lock:
            while self._entries and self._budget.free_bytes() < size_bytes:
                self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        with self._lock:
            while self._entries:
                self._drop(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def check(self) -> None:
        """Assert that what is charged is what is here."""
        with self._lock:
            assert self._held == sum(size for _, size in self._entries.values())
