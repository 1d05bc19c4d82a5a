"""Room for what is held of replies, in the budget of the store.

A request is let in with room for a small reply. What more is held of one, whole or of a stream, is
reserved here before it is taken in: at once where its length is said, in growing steps else. Where
there is no room, the budget is asked to reclaim some, and the reply waits, and its upstream with
it. Who came first is served first, but for little; where all who hold something wait for more, none
would ever get it, and the one that came last gives way.

Owns: the budget's owner "replies". Invariant: what is held beyond what requests were let in with is
reserved, and at most half of the budget: the rest is for storing it. Used on one event loop.
Not here: reading replies (upstream.py, streaming.py).
"""

import asyncio
import contextlib
import itertools
from types import TracebackType
from typing import Final, Self

from memopt.base.budget import Budget
from memopt.base.errors import BackpressureError
from memopt.server.errors import ServerError
from memopt.server.threads import StoreThreads

OWNER: Final = "replies"
_SHARE: Final = 1 / 2
_LITTLE_BYTES: Final = 1024 * 1024
_LOOK_SECONDS: Final = 0.1
"""Others than replies give room back as well, and tell nobody."""
_RETRY_SECONDS: Final = 1.0
_FACTORS: Final = {1: 4, 2: 7, 4: 10}
"""What a reply takes over its bytes, by the width of its characters: as it came, its texts, those
again as UTF-8 where they are wider, and packed to be stored. Measured with messages of 8 MiB; the
store's commit of a long one takes more, of one at a time."""
WIDEST: Final = b"\xf0"
_WIDE: Final = (WIDEST, b"\xf3", b"\xf4", b"\\ud", b"\\uD")
"""With which a character of four bytes begins; halves of characters are such ones, too."""


class Room:
    """What there is for all replies."""

    def __init__(
        self, budget: Budget, threads: StoreThreads, *, free_bytes: int, wait_seconds: float
    ) -> None:
        """`free_bytes`: of each, that it was let in with."""
        self.free_bytes = free_bytes
        self._budget = budget
        self._bytes_max = int(budget.limit_bytes * _SHARE)
        self._reserved_bytes = 0
        self._threads = threads
        self._wait_seconds = wait_seconds
        self._numbers = itertools.count()
        self._holding: dict[int, Held] = {}
        self._waiting: dict[int, Held] = {}
        self._first: Held | None = None
        """Of those that wait."""

    def begin(self) -> "Held":
        """Nothing yet, of one reply."""
        return Held(self, next(self._numbers))

    async def reserve(self, held: "Held", more_bytes: int) -> None:
        """Take so much for one reply. Raises BackpressureError, and ServerError where it never
        fits."""
        if held.reserved_bytes + more_bytes > self._bytes_max:
            raise ServerError(
                502, "the upstream's reply is too large for the server's budget",
                code="reply_too_large", may_retry=False,
            )  # fmt: skip
        held.wanted_bytes = more_bytes
        is_little = held.reserved_bytes + more_bytes <= _LITTLE_BYTES
        if (is_little or not self._waiting) and self._take(held):
            return
        self._wait_for(held)
        try:
            async with asyncio.timeout(self._wait_seconds):
                while held.wanted_bytes:
                    await self._try(held)
        except TimeoutError:
            raise _no_room(more_bytes) from None
        finally:
            self._waits_no_more(held)

    def _wait_for(self, held: "Held") -> None:
        self._waiting[held.number] = held
        if self._first is None or held.number < self._first.number:
            self._first = held
        if held.reserved_bytes:
            # It may be the last one that others wait for.
            self._wake_first()

    def _waits_no_more(self, held: "Held") -> None:
        del self._waiting[held.number]
        held.wanted_bytes, held.gives_way = 0, False
        if held is self._first:
            self._first = self._waiting[min(self._waiting)] if self._waiting else None
            self._wake_first()

    def _wake_first(self) -> None:
        if self._first is not None:
            self._first.woken.set()

    def release(self, held: "Held", size_bytes: int) -> None:
        """Give back what was reserved."""
        self._budget.release(OWNER, size_bytes)
        self._reserved_bytes -= size_bytes
        held.reserved_bytes -= size_bytes
        if not held.reserved_bytes:
            self._holding.pop(held.number, None)
        self._wake_first()

    async def _try(self, held: "Held") -> None:
        """Take what it wants, or wait for something to change."""
        held.woken.clear()
        if held.gives_way:
            raise _no_room(held.wanted_bytes)
        if held is not self._first:
            await held.woken.wait()
            return
        if not self._take(held):
            await self._threads.run(self._budget.ask, held.wanted_bytes)
        if held.wanted_bytes and not self._take(held):
            self._let_others_go_on(held)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await held.woken.wait()

    def _let_others_go_on(self, held: "Held") -> None:
        """Where all others that hold something wait behind this one."""
        others = self._holding.keys() - {held.number}
        if not others or not others <= self._waiting.keys():
            return
        served = [other for number in sorted(others) if self._take(other := self._holding[number])]
        for other in served or [self._holding[max(others)]]:
            other.gives_way = not served
            other.woken.set()

    def _take(self, held: "Held") -> bool:
        size_bytes = held.wanted_bytes
        if self._reserved_bytes + size_bytes > self._bytes_max:
            return False
        if not self._budget.try_reserve(OWNER, size_bytes):
            return False
        self._reserved_bytes += size_bytes
        held.reserved_bytes += size_bytes
        held.wanted_bytes = 0
        self._holding[held.number] = held
        return True

    def check(self) -> None:
        """Assert that what is charged is what is held."""
        held = sum(each.reserved_bytes for each in self._holding.values())
        assert held == self._reserved_bytes == self._budget.held_bytes(OWNER)
        assert all(each.reserved_bytes > 0 for each in self._holding.values())


class Held:
    """What is reserved for one reply; close it, or use it in a `with` block."""

    def __init__(self, room: Room, number: int) -> None:
        self.number = number
        self.reserved_bytes = 0
        self.wanted_bytes = 0
        """While it waits."""
        self.gives_way = False
        """It is told so..."""
        self.woken = asyncio.Event()
        """... and that something has changed."""
        self._room = room

    def covers(self, size_bytes: int) -> bool:
        """Whether there is room for so much in all."""
        return size_bytes <= self._room.free_bytes + self.reserved_bytes

    def give_back(self, size_bytes: int) -> None:
        """Keep room for so much in all, where that is far less than there is."""
        excess = self.reserved_bytes - size_bytes
        if excess > self._room.free_bytes + size_bytes:
            self._room.release(self, excess)

    async def grow(self, size_bytes: int) -> None:
        """Have room for so much in all. Raises what `Room.reserve` raises."""
        missing = size_bytes - self._room.free_bytes - self.reserved_bytes
        if missing > 0:
            await self._room.reserve(self, missing)

    def close(self) -> None:
        if self.reserved_bytes:
            self._room.release(self, self.reserved_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def taken_bytes(size_bytes: int, data: bytes) -> int:
    """What so many bytes of JSON take till they are stored, where their texts are like `data`."""
    width = 1
    if not data.isascii() or b"\\u" in data:
        width = 4 if any(mark in data for mark in _WIDE) else 2
    return _FACTORS[width] * size_bytes


def _no_room(size_bytes: int) -> BackpressureError:
    return BackpressureError(
        f"there is no room for {size_bytes} bytes of a reply", limit="budget",
        wanted_bytes=size_bytes, retry_after_seconds=_RETRY_SECONDS,
    )  # fmt: skip
