"""Who may go on, of requests that are one and the same: one after the other.

Requests that name no session do not wait for each other: each has a session of its own.

Owns: that. Used on one event loop. Not here: which requests are (calling.py), and those that join
(joining.py).
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Hashable, Iterator


class Claims:
    """A lock for each name that is in use."""

    def __init__(self) -> None:
        self._taken: set[Hashable] = set()
        self._locks = weakref.WeakValueDictionary[Hashable, asyncio.Lock]()

    @contextlib.asynccontextmanager
    async def claim(self, name: Hashable | None) -> AsyncIterator[None]:
        """Wait for those that have it. None: there is nothing to wait for."""
        if name is None:
            yield
            return
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield

    def is_taken(self, name: Hashable) -> bool:
        return name in self._taken

    @contextlib.contextmanager
    def take(self, name: Hashable) -> Iterator[None]:
        """Have it till the end; nobody else has."""
        assert name not in self._taken
        self._taken.add(name)
        try:
            yield
        finally:
            self._taken.discard(name)
