"""What every request passes on its way in: who it is from, how large it may be, whether there is
room, and how long it may take.

Owns: those limits. Invariant: room is reserved before a body is read, and given back when the
response has ended; a client that goes away ends the work for it. Not here: what is done for a
request (chat.py and its like).
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from memopt import Memory, Turn
from memopt.base.errors import MemoptError, UsageError
from memopt.server.errors import ServerError, busy, server_error
from memopt.server.exchange import Exchange, Outgoing, Send, options_of
from memopt.server.levels import Levels
from memopt.server.settings import Callers, ServerSettings, is_loopback
from memopt.server.threads import ended
from memopt.server.upstream import Headers

Receive = Callable[[], Awaitable[Any]]
Work = Callable[[Exchange, Outgoing], Awaitable[None]]

_DECODED_FACTOR: Final = 4
"""What a body takes while it is read, passed on and stored, over its own bytes."""
_REQUESTS: Final = "request-"

log = logging.getLogger("memopt.server")


class Door:
    """Lets requests in. Used on one event loop."""

    def __init__(self, memory: Memory, settings: ServerSettings, levels: Levels) -> None:
        self._memory = memory
        self._settings = settings
        self._levels = levels
        self._callers = Callers(settings)
        self._numbers = itertools.count()
        self._hosts = _hosts_of(settings)
        self.open_requests = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def serve(self, scope: Any, receive: Receive, send: Send, path: str, work: Work) -> None:
        """Read a request and do `work` for it; `path` is the one to ask upstream for."""
        out = Outgoing(send)
        if self.open_requests >= self._settings.requests_max:
            error = busy(f"{self.open_requests} requests are open", code="requests_max")
            await out.fail(error)
            return
        self.open_requests += 1
        self._is_empty.clear()
        try:
            await self._serve(scope, receive, out, path, work)
        except MemoptError as error:
            await out.fail(server_error(error))
        except Exception:
            log.exception("%s %s failed", scope["method"], path)
            await out.fail(ServerError(500, "an error of the server", code="internal"))
        except asyncio.CancelledError:
            # The server is stopping: what there was to keep is kept, and the task ends here.
            log.info("%s %s was ended", scope["method"], path)
        finally:
            self.open_requests -= 1
            if not self.open_requests:
                self._is_empty.set()

    async def emptied(self, seconds: float) -> None:
        """Wait until every request has ended, those that were cancelled too."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()

    async def _serve(
        self, scope: Any, receive: Receive, out: Outgoing, path: str, work: Work
    ) -> None:
        headers: Headers = scope["headers"]
        named = self._names_of(headers)
        self._check_origin(named)
        key = named.get("api-key") or named.get("x-api-key")
        caller = self._callers.of(named.get("authorization"), key)
        if caller is None:
            raise ServerError(401, "the key is not known", code="invalid_api_key")
        options = options_of(named, caller)
        self._levels.admit(is_low=options.is_low)
        size, limit = self._size_of(named)
        turn = self._memory.session(f"{_REQUESTS}{next(self._numbers)}", scope=caller.scope).turn(
            expected_bytes=self._settings.request_bytes + _DECODED_FACTOR * size,
            wait_seconds=self._settings.admission_wait_seconds,
        )
        await _enter(turn)
        try:
            body = await self._body(receive, limit)
            exchange = Exchange(
                scope["method"], path, scope["query_string"], headers, named, body, caller, options
            )
            await _until_gone(work(exchange, out), receive, out, self._settings.request_seconds)
        finally:
            turn.end()

    def _names_of(self, headers: Headers) -> dict[str, str]:
        settings = self._settings
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > settings.headers_max or size > settings.header_bytes_max:
            raise ServerError(431, "the headers are too large", code="header_bytes_max")
        return {name.decode("latin-1"): _text_of(value) for name, value in headers}

    def _check_origin(self, named: dict[str, str]) -> None:
        """A page in a browser must not reach a server that trusts whoever reaches it."""
        origin = named.get("origin")
        if origin is not None and origin not in self._settings.origins:
            raise ServerError(403, "pages of this origin may not call", code="origin")
        if self._hosts is None:
            return
        host = named.get("host", "").rsplit("]", 1)
        name = host[0] + "]" if len(host) == 2 else host[0].partition(":")[0]
        if (
            name
            and name.strip("[]").lower() not in self._hosts
            and not is_loopback(name.strip("[]"))
        ):
            raise ServerError(403, "this host's name is not the server's", code="host")

    def _size_of(self, named: dict[str, str]) -> tuple[int, int]:
        """What a body is expected to have, and may have."""
        settings = self._settings
        said = named.get("content-length")
        if said is None:
            if "transfer-encoding" not in named:
                return 0, settings.unsized_body_bytes_max
            return settings.unsized_body_bytes_max, settings.unsized_body_bytes_max
        if not said.isdecimal() or len(said) > 18:
            raise ServerError(400, "a length is a number", code="content_length")
        if int(said) > settings.body_bytes_max:
            raise ServerError(
                413, f"at most {settings.body_bytes_max} bytes", code="body_bytes_max",
                may_retry=False,
            )  # fmt: skip
        return int(said), settings.body_bytes_max

    async def _body(self, receive: Receive, limit: int) -> bytes:
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                return await _read(receive, limit)
        except TimeoutError:
            raise ServerError(408, "the body did not come in time", code="body_seconds") from None


def _text_of(value: bytes) -> str:
    """A session's name in a header is the same as in a body, where it is UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _read(receive: Receive, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ServerError(400, "the client went away", code="gone")
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise ServerError(413, f"at most {limit} bytes", code="body_bytes_max", may_retry=False)
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _enter(turn: Turn) -> None:
    """Begin a turn without keeping a thread waiting. Raises BackpressureError."""
    loop, decided = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(decided.set)

    if turn.ask(wake):
        return
    try:
        try:
            async with asyncio.timeout(turn.wait_seconds):
                await decided.wait()
        except TimeoutError:
            pass
        turn.settle()
    except BaseException:
        turn.withdraw()
        raise


async def _until_gone(work: Any, receive: Receive, out: Outgoing, seconds: float) -> None:
    """Do the work, unless the client goes away or the time is over: then it is cancelled, and ends
    what it has to end."""
    doing = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, watching}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        was_gone = watching.done()
        watching.cancel()
        if not doing.done():
            # A response that has ended is reported as a client that went away, too: then there is
            # only tidying up left, which must not be cut short.
            if not out.is_ended:
                doing.cancel()
            # And if this one is cancelled, for the server stops: what there is to keep is kept.
            await ended(doing)
    if not doing.cancelled():
        doing.result()
    elif not was_gone:
        raise ServerError(504, "it took too long", code="request_seconds")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _hosts_of(settings: ServerSettings) -> frozenset[str] | None:
    """The names under which a server without keys may be asked: others are a page's that had its
    name point here."""
    if settings.keys:
        return None
    if not is_loopback(settings.host):
        raise UsageError("keys are needed", field="host")
    return frozenset({"localhost", settings.host.lower()})
