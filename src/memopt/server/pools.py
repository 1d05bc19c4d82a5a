"""Connections to the upstream, in pools of a few.

httpcore looks at every connection of a pool for each request that comes or goes, and at every other
one for each that is idle: with 32 idle ones that took as long as all else a request costs here. So
there are several pools, and the first one that has room is taken: whoever asks one request after
the other stays on one connection.

Owns: which pool a request goes to. Invariant: a pool has at most POOL_MAX requests under way. Used
on one event loop. Not here: requests and replies (upstream.py).
"""

import time
from collections.abc import Callable
from typing import Final

import httpx

POOL_MAX: Final = 8


class Pool:
    """One transport, and how many requests are under way on it."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self.requests = 0
        self.used = time.monotonic()

    def give_back(self) -> None:
        """A request has ended."""
        self.requests -= 1
        self.used = time.monotonic()


class Pools:
    """All of them. Those that are no longer needed are closed."""

    def __init__(self, make: Callable[[], httpx.AsyncHTTPTransport], idle_seconds: float) -> None:
        self._make = make
        self._idle_seconds = idle_seconds
        self._pools: list[Pool] = []

    async def take(self) -> Pool:
        """One with room for a request, which is counted until it is given back."""
        await self._tidy()
        pool = next((one for one in self._pools if one.requests < POOL_MAX), None)
        if pool is None:
            pool = Pool(self._make())
            self._pools.append(pool)
        pool.requests += 1
        return pool

    async def _tidy(self) -> None:
        """Close the last one, where nobody has used it for long: its connections are closed at the
        other end, and nobody would notice."""
        last = self._pools[-1] if len(self._pools) > 1 else None
        if last is None or last.requests or time.monotonic() - last.used < self._idle_seconds:
            return
        self._pools.remove(last)
        await last.transport.aclose()

    async def close(self) -> None:
        pools, self._pools = self._pools, []
        for pool in pools:
            await pool.transport.aclose()
