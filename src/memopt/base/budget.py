"""A byte budget: reserve before you allocate, release when you free.

Invariant: 0 <= used_bytes <= limit_bytes after every public call, and the owners' bytes add up to
used_bytes. Not here: deciding what to free (policies) or when (pressure).
"""

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from memopt.base.errors import BudgetError
from memopt.base.forks import LostLock


class Budget:
    """One hard limit in bytes, shared by named owners. Thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.used_bytes_max = 0
        self._owners: dict[str, int] = {}
        self._reclaim: Callable[[int], None] | None = None
        self._lock: AbstractContextManager[Any] = threading.Lock()

    def try_reserve(self, owner: str, size_bytes: int) -> bool:
        """Take `size_bytes` for `owner`, or return False and take nothing."""
        assert size_bytes >= 0
        with self._lock:
            used = self.used_bytes + size_bytes
            if used > self.limit_bytes:
                return False
            held = self._owners.get(owner, 0)
            # No call from here on, for a Ctrl-C comes after calls: both or neither.
            self.used_bytes = used
            self._owners[owner] = held + size_bytes
            if used > self.used_bytes_max:
                self.used_bytes_max = used
            return True

    def try_settle(self, owner: str, size_bytes: int) -> bool:
        """Let `owner` hold `size_bytes` in all, where it grew or shrank by itself; or return False
        and change nothing."""
        with self._lock:
            held = self._owners.get(owner, 0)
            used = self.used_bytes + size_bytes - held
            if size_bytes > held and used > self.limit_bytes:
                return False
            # No call from here on, as above.
            self.used_bytes = used
            self._owners[owner] = size_bytes
            if used > self.used_bytes_max:
                self.used_bytes_max = used
            return True

    def reserve(self, owner: str, size_bytes: int) -> None:
        """Take `size_bytes` for `owner`, asking for room once where they do not fit. Raises
        BudgetError when there is none; where there never can be, it says so."""
        if self.try_reserve(owner, size_bytes):
            return
        self.ask(size_bytes)
        if not self.try_reserve(owner, size_bytes):
            raise BudgetError(
                f"{owner} wants {size_bytes} bytes, {self.limit_bytes - self.used_bytes} of "
                f"{self.limit_bytes} are free",
                limit="budget",
                wanted_bytes=size_bytes,
                limit_bytes=self.limit_bytes,
                retry_after_seconds=1.0 if size_bytes <= self.limit_bytes else math.inf,
            )

    def ask(self, size_bytes: int) -> None:
        """Ask whoever holds what can be made again to give up so much. Call it without a lock."""
        if self._reclaim is not None and size_bytes <= self.limit_bytes:
            self._reclaim(size_bytes)

    def release(self, owner: str, size_bytes: int) -> None:
        """Give back bytes that were reserved by the same owner."""
        assert size_bytes >= 0
        with self._lock:
            held = self._owners.get(owner, 0)
            assert held >= size_bytes, f"{owner} releases {size_bytes} of {held} bytes"
            self._owners[owner] = held - size_bytes
            self.used_bytes -= size_bytes

    def on_shortage(self, reclaim: Callable[[int], None]) -> None:
        """`reclaim(size_bytes)` is asked to free that much when a reservation does not fit."""
        self._reclaim = reclaim

    def free_bytes(self) -> int:
        return self.limit_bytes - self.used_bytes

    def release_all(self, owner: str) -> None:
        """Give back whatever an owner has."""
        with self._lock:
            held = self._owners.get(owner, 0)
            self._owners[owner] = 0
            self.used_bytes -= held

    def held_bytes(self, owner: str) -> int:
        return self._owners.get(owner, 0)

    def owners(self) -> dict[str, int]:
        """Bytes by owner, largest first."""
        with self._lock:
            return dict(sorted(self._owners.items(), key=lambda item: -item[1]))

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self._lock = LostLock()

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            assert sum(self._owners.values()) == self.used_bytes
            assert 0 <= self.used_bytes <= self.limit_bytes
            assert all(held >= 0 for held in self._owners.values())
