"""Identical requests under way join: the upstream is asked once, and every client gets the reply.

Only requests that say so join, by one `Idempotency-Key` within one scope, and only while the first
is under way. What comes back is spooled, so who joins late gets it from its beginning. It goes on
while one of its clients is there.

Owns: that. Invariant: two requests with one key and different bodies never share a reply.
Not here: what a request does.
"""

import asyncio
import contextlib
import hashlib
import logging
import tempfile
from typing import Any, Final

from memopt.base.errors import MemoptError
from memopt.server.door import Work
from memopt.server.errors import ServerError, server_error
from memopt.server.exchange import Exchange, Outgoing

_SPOOL_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024
_DIGEST_BYTES: Final = 16

log = logging.getLogger("memopt.server")

Key = tuple[str, str, str]


class Joining:
    """Does `work` once for requests that join."""

    def __init__(self, work: Work, bytes_max: int) -> None:
        self._work = work
        self._bytes_max = bytes_max
        self._flights: dict[Key, _Flight] = {}

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        named = exchange.options.idempotency_key
        if named is None:
            await self._work(exchange, out)
            return
        key = (exchange.caller.scope, exchange.path, named)
        digest = hashlib.blake2b(exchange.body, digest_size=_DIGEST_BYTES).digest()
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(digest, self._bytes_max)
            flight.task = asyncio.create_task(self._fly(key, flight, exchange))
        elif flight.digest != digest:
            raise ServerError(
                409, "another request with this key is under way", code="idempotency_key",
                param="Idempotency-Key", may_retry=False,
            )  # fmt: skip
        await flight.watch(out)

    async def _fly(self, key: Key, flight: "_Flight", exchange: Exchange) -> None:
        out = Outgoing(flight.record)
        try:
            await self._work(exchange, out)
        except MemoptError as error:
            await out.fail(server_error(error))
        except Exception:
            log.exception("%s failed", exchange.path)
            await out.fail(ServerError(500, "an error of the server", code="internal"))
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.land()


class _Flight:
    """A request under way, and what came back so far."""

    def __init__(self, digest: bytes, bytes_max: int) -> None:
        self.digest = digest
        self.task: asyncio.Task[None] | None = None
        self._bytes_max = bytes_max
        self._start: Any = None
        self._size = 0
        self._is_over = False
        self._watchers = 0
        self._changed = asyncio.Event()
        # Closed when the last watcher leaves.
        self._spool = tempfile.SpooledTemporaryFile[bytes](max_size=_SPOOL_BYTES)

    async def record(self, message: Any) -> None:
        """Take up what is sent to whoever asked first."""
        if message["type"] == "http.response.start":
            self._start = message
        else:
            body = message.get("body", b"")
            if self._size + len(body) > self._bytes_max:
                raise ServerError(502, "the reply is too long", code="reply_bytes_max")
            self._spool.seek(self._size)
            self._spool.write(body)
            self._size += len(body)
        self._tell()

    def land(self) -> None:
        self._is_over = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self, out: Outgoing) -> None:
        """Pass on what came and what comes, to the end."""
        self._watchers += 1
        try:
            place = 0
            while True:
                changed = self._changed
                if self._start is not None and not out.is_started:
                    await out.start(self._start["status"], self._start["headers"])
                while place < self._size:
                    self._spool.seek(place)
                    piece = self._spool.read(min(_PIECE_BYTES, self._size - place))
                    place += len(piece)
                    await out.send(piece)
                if self._is_over and place == self._size:
                    break
                await changed.wait()
            if out.is_started:
                await out.end()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self._watchers -= 1
        if self._watchers:
            return
        if self.task is not None and not self.task.done():
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({self.task})
        self._spool.close()
