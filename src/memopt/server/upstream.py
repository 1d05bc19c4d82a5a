"""Asking the upstream: one base URL, no redirects, no proxies of the environment, few retries.

A request is sent again only where the upstream cannot have accepted it, because no connection came
about, or says with 429 or 503 and Retry-After that it did not. Whatever else fails is the client's
to repeat, for the upstream may have done the work.

Owns: that, and which headers travel. Invariant: only URLs below the base URLs of the settings are
asked. Not here: what a reply means.
"""

import asyncio
import functools
import io
import math
import os
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import anyio
import httpx

from memopt.base.errors import UsageError
from memopt.server.errors import ServerError
from memopt.server.pools import POOL_MAX, Pool, Pools
from memopt.server.room import WIDEST, Held, taken_bytes
from memopt.server.settings import Caller, KeySettings, ServerSettings

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection",
    }
)  # fmt: skip
_NOT_SENT: Final = _HOP_BY_HOP | {b"host", b"content-length", b"accept-encoding", b"expect"}
OURS: Final = b"x-memopt-"
_KEY_HEADERS: Final = frozenset({b"authorization", b"api-key", b"x-api-key"})
_RETRIED: Final = frozenset({429, 503})
_IDLE_SECONDS: Final = 4.0
"""Shorter than what servers usually allow: a connection that they close as it is used again would
fail a request that cannot be repeated."""
_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_HEADER: Final = zlib.MAX_WBITS | 32
_UNPACKED_BYTES: Final = 64 * 1024
_BACKOFF_SECONDS: Final = 0.25
_STEP_BYTES: Final = 64 * 1024
"""Room is asked for at least so much of a reply at a time."""


class Upstream:
    """The way to the model. Used on one event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._bases: dict[str | None, str] = {None: _base(settings.upstream)}
        self._bases |= {key.upstream: _base(key.upstream) for key in settings.keys if key.upstream}
        self._keys = _keys_of(settings)
        self._shared = _shared_of(settings, self._keys)
        # Made once: reading the certificates takes longer than a request.
        verify = httpx.create_ssl_context(trust_env=False)
        self._pools = Pools(
            functools.partial(_transport, verify, settings.socket_bytes), _IDLE_SECONDS
        )
        self._timeout = {
            "timeout": {
                "connect": settings.connect_seconds,
                "read": settings.reply_seconds,
                "write": settings.reply_seconds,
                "pool": settings.connect_seconds,
            }
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._pools.close()

    def is_shared(self, caller: Caller) -> bool:
        """Whether the upstream takes the callers of other scopes for this one, too."""
        return (caller.settings.name if caller.settings is not None else None) in self._shared

    async def send(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, caller: Caller
    ) -> "Reply":
        """The head of the reply; its body is for the caller to read and to close. Raises
        ServerError where there is none."""
        base = self._bases[caller.settings.upstream if caller.settings is not None else None]
        url = httpx.URL(base + path, query=query or None)
        sent = self._headers(headers, caller)
        for attempt in range(self._settings.retries_max + 1):
            is_last = attempt == self._settings.retries_max
            request = httpx.Request(
                method, url, headers=sent, content=body, extensions=self._timeout
            )
            pool = await self._pools.take()
            response = None
            try:
                response = await _unharmed(pool.transport, request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if is_last:
                    raise _failed(error) from None
                await asyncio.sleep(_BACKOFF_SECONDS * 2**attempt)
                continue
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise _failed(error) from None
            finally:
                if response is None:
                    pool.give_back()
            reply = Reply(response, pool)
            wait = self._wait_of(response)
            if wait is None or is_last:
                return reply
            await reply.close()
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _headers(self, headers: Headers, caller: Caller) -> Headers:
        sent = [
            (name, value)
            for name, value in headers
            if name not in _NOT_SENT and not name.startswith(OURS)
        ]
        key = self._keys.get(caller.settings.name if caller.settings is not None else None)
        if key is not None:
            sent = [(name, value) for name, value in sent if name not in _KEY_HEADERS]
            sent.append((b"authorization", b"Bearer " + key))
        # What is stored has to be read, and what is read is passed on as it came.
        sent.append((b"accept-encoding", b"identity"))
        return sent

    def _wait_of(self, response: httpx.Response) -> float | None:
        """How long the upstream wants to be left alone, if it is worth waiting for here."""
        if response.status_code not in _RETRIED:
            return None
        seconds = seconds_of(response.headers.get("retry-after"))
        if seconds is None or seconds > self._settings.retry_after_seconds_max:
            return None
        return seconds


def _transport(verify: ssl.SSLContext, socket_bytes: int) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(
        verify=verify,
        trust_env=False,
        retries=0,
        # What a socket takes in is read at once, and held: 250 KB a stream where it may.
        socket_options=[
            (socket.SOL_SOCKET, socket.SO_RCVBUF, socket_bytes),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        ],
        limits=httpx.Limits(
            max_connections=POOL_MAX, max_keepalive_connections=POOL_MAX,
            keepalive_expiry=_IDLE_SECONDS,
        ),
    )  # fmt: skip


async def _unharmed(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
    """The response. Cancelled, it is ended by a scope, as the transport expects: a task's own
    cancelling goes through what it shields, and leaves connections that it was closing open."""
    scope = anyio.CancelScope()

    async def send() -> httpx.Response | None:
        with scope:
            return await transport.handle_async_request(request)
        return None

    sending = asyncio.ensure_future(send())
    try:
        response = await asyncio.shield(sending)
    except asyncio.CancelledError:
        scope.cancel()
        await asyncio.wait({sending})
        if not sending.cancelled() and sending.exception() is None:
            late = sending.result()
            if late is not None:
                await late.aclose()
        raise
    assert response is not None
    return response


class Reply:
    """A reply whose body has not been read."""

    def __init__(self, response: httpx.Response, pool: Pool) -> None:
        self._response = response
        self._pool: Pool | None = pool
        self.status = response.status_code
        encoding = response.headers.get("content-encoding", "identity").lower()
        self._is_packed = encoding in _PACKED
        self.is_plain = self._is_packed or encoding in ("", "identity")
        """Whether `pieces` can be read: some pack what they were asked not to."""
        self.is_stream = "text/event-stream" in response.headers.get("content-type", "")

    @property
    def held_bytes(self) -> int:
        """Of its pieces, what is not passed on yet."""
        return 0

    @property
    def retry_after_seconds(self) -> float | None:
        return seconds_of(self._response.headers.get("retry-after"))

    def headers(self, *, keep_length: bool) -> Headers:
        """To be passed on."""
        return [
            (name.lower(), value)
            for name, value in self._response.headers.raw
            if name.lower() not in _HOP_BY_HOP
            and (name.lower() != b"content-length" or (keep_length and not self._is_packed))
            and (name.lower() != b"content-encoding" or not self._is_packed)
        ]

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ServerError where it breaks off."""
        assert isinstance(self._response.stream, httpx.AsyncByteStream)
        try:
            if self._is_packed:
                async for piece in _unpacked(self._response.stream):
                    yield piece
                return
            async for piece in self._response.stream:
                yield piece
        except (httpx.HTTPError, zlib.error) as error:
            raise _failed(error) from None

    async def body(self, held: Held, bytes_max: int) -> bytes:
        """All of it, for which there is room in `held` first. Raises ServerError above the limit,
        BackpressureError where there is no room."""
        said = self._response.headers.get("content-length", "")
        if said.isdigit() and not self._is_packed:
            _check_size(int(said), bytes_max)
            await held.grow(taken_bytes(int(said), b""))
        size, collected = 0, io.BytesIO()
        async for piece in self.pieces():
            size += len(piece)
            _check_size(size, bytes_max)
            if not held.covers(taken_bytes(size, b"")):
                await held.grow(taken_bytes(size + max(_STEP_BYTES, size // 4), b""))
            collected.write(piece)
        body = collected.getvalue()
        if not held.covers(taken_bytes(size, WIDEST)):
            await held.grow(taken_bytes(size, body))
        return body

    async def close(self) -> None:
        """Let go of it: what has not come yet is not wanted. May be called twice."""
        pool, self._pool = self._pool, None
        try:
            await self._response.aclose()
        finally:
            if pool is not None:
                pool.give_back()


async def _unpacked(packed: AsyncIterator[bytes] | httpx.AsyncByteStream) -> AsyncIterator[bytes]:
    """In pieces that are not large, however small they were packed."""
    unpacking = zlib.decompressobj(_ANY_HEADER)
    async for data in packed:
        while data and not unpacking.eof:
            piece = unpacking.decompress(data, _UNPACKED_BYTES)
            data = unpacking.unconsumed_tail
            if piece:
                yield piece
    rest = unpacking.flush()
    if rest:
        yield rest
    if not unpacking.eof:
        raise zlib.error("it breaks off")


def seconds_of(retry_after: str | None) -> float | None:
    """Of a Retry-After header: seconds, or a date."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = parsedate_to_datetime(retry_after)
            seconds = moment.timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _base(url: str) -> str:
    return url.rstrip("/")


def _keys_of(settings: ServerSettings) -> dict[str | None, bytes]:
    """The keys for the upstream, by the name of the client key; None: of the others."""
    keys: dict[str | None, bytes] = {}
    named: Sequence[tuple[str | None, str | None]] = [
        (None, settings.upstream_key_env),
        *((key.name, _variable_of(key, settings)) for key in settings.keys),
    ]
    for name, variable in named:
        if variable is None:
            continue
        value = os.environ.get(variable)
        if not value:
            raise UsageError(f"{variable} is not set", field="upstream_key_env")
        keys[name] = value.encode()
    return keys


def _shared_of(settings: ServerSettings, keys: dict[str | None, bytes]) -> set[str | None]:
    """The names of client keys whose key for the upstream others use that have another scope."""
    if not settings.keys:
        # Each key that a client sends has a scope of its own.
        return set(keys)
    scopes: dict[bytes, set[str]] = {}
    for key in settings.keys:
        if key.name in keys:
            scopes.setdefault(keys[key.name], set()).add(key.scope)
    return {
        key.name for key in settings.keys if key.name in keys and len(scopes[keys[key.name]]) > 1
    }


def _variable_of(key: KeySettings, settings: ServerSettings) -> str | None:
    """The server's key is for the server's upstream: no other host gets it."""
    if key.upstream_key_env is None and key.upstream is None:
        return settings.upstream_key_env
    return key.upstream_key_env


def path_below(base: str, path: str) -> bool:
    """Whether a path stays where it was put."""
    return not any(part in (".", "..") for part in urlsplit(base + path).path.split("/"))


def _failed(error: Any) -> ServerError:
    # Its text may hold the URL with what a client wrote into it; its kind says enough.
    kind = type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return ServerError(504, f"the upstream does not answer: {kind}", code="upstream_timeout")
    return ServerError(502, f"the upstream cannot be reached: {kind}", code="upstream_failed")


def _check_size(size_bytes: int, bytes_max: int) -> None:
    if size_bytes > bytes_max:
        raise ServerError(
            502, f"the upstream's reply has more than {bytes_max} bytes", code="reply_bytes_max",
            may_retry=False,
        )  # fmt: skip
