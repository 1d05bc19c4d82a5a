"""Identical requests under way join: the upstream is asked once, and every client gets the reply.

Only requests that say so join, by one `Idempotency-Key` within one scope, and only while the first
is under way. What comes back is spooled, so who joins late gets it from its beginning. It goes on
while one of its clients is there.

Owns: that. Invariant: two requests with one key never share a reply where they differ in anything
that decides it: body, query, session, options. A reply that was cut off does not look whole.
Not here: what a request does.
"""

import asyncio
import functools
import hashlib
import logging
import tempfile
from collections.abc import Callable
from typing import Any, Final

from memopt.base.errors import MemoptError
from memopt.server.door import Work
from memopt.server.errors import ServerError, server_error
from memopt.server.exchange import Exchange, Outgoing
from memopt.server.threads import ended
from memopt.server.upstream import OURS

_SPOOL_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024
_DIGEST_BYTES: Final = 16
_ASKERS: Final = frozenset(
    {b"authorization", b"api-key", b"x-api-key", b"openai-organization", b"openai-project"}
)
"""Headers that say who asks the upstream."""

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
        digest = _digest_of(exchange)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(digest, self._bytes_max)
            flight.forget = functools.partial(self._forget, key, flight)
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
            flight.forget()
            flight.land(is_whole=out.is_ended)

    def _forget(self, key: Key, flight: "_Flight") -> None:
        """Nobody joins it any more."""
        if self._flights.get(key) is flight:
            del self._flights[key]


def _digest_of(exchange: Exchange) -> bytes:
    """Of all that decides what is done: body, query, who asks and with which of our headers."""
    caller = exchange.caller
    asked = sorted(
        (name, value)
        for name, value in exchange.headers
        if name.startswith(OURS) or name in _ASKERS
    )
    said = repr((caller.scope, caller.settings, exchange.query, exchange.options, asked))
    hashed = hashlib.blake2b(exchange.body, digest_size=_DIGEST_BYTES)
    hashed.update(hashlib.blake2b(said.encode("utf-8", "surrogatepass")).digest())
    return hashed.digest()


class _Flight:
    """A request under way, and what came back so far."""

    def __init__(self, digest: bytes, bytes_max: int) -> None:
        self.digest = digest
        self.task: asyncio.Task[None] | None = None
        self._bytes_max = bytes_max
        self._start: Any = None
        self._size = 0
        self.forget: Callable[[], None] = lambda: None
        """Let nobody join any more."""
        self._is_over = False
        self._is_whole = False
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

    def land(self, *, is_whole: bool) -> None:
        """Nothing more comes; not whole: the work was ended before it was done."""
        self._is_over, self._is_whole = True, is_whole
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
            if not self._is_whole:
                # A reply that is not whole must not look as if it were.
                raise ServerError(503, "the request was ended", code="ended")
            await out.end()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self._watchers -= 1
        if self._watchers:
            return
        self.forget()
        try:
            if self.task is not None and not self.task.done():
                self.task.cancel()
                await ended(self.task)
        finally:
            self._spool.close()
