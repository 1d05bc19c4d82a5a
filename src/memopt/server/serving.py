"""Sockets: the server process, its limits on connections, and how it stops.

Told to stop, it takes no new connection, lets what is open end within `drain_seconds`, then ends it
as if its clients had gone, so that what they got is kept; the store is closed behind that.
"""

import asyncio
import gc
import logging
import resource
import socket
import sys
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from memopt import Memory
from memopt.base.errors import UsageError
from memopt.server.app import make_app
from memopt.server.settings import ServerSettings

_BACKLOG: Final = 2048
_FILES_A_REQUEST: Final = 3
"""Two sockets and a spool."""
_FILES_BESIDES: Final = 256
_SWITCH_SECONDS: Final = 0.0005
"""A thread that computes gives way after so long. The event loop waits for it at each of its turns,
and ten times as long by default."""
_COLLECTED_OBJECTS: Final = (10_000, 20, 50)
"""Before cyclic garbage is looked for. A look at everything there is takes 40 ms and more, in which
nobody is served; little that the server makes is a cycle."""
_READ_BYTES_MAX: Final = 256 * 1024
"""What an event loop reads from a socket at once."""

log = logging.getLogger("memopt.server")


def serve(memory: Memory, settings: ServerSettings, *, on_ready: Any = None) -> None:
    """Serve until a signal says to stop. `on_ready(url)` is called once connections are taken.
    Raises UsageError where the address cannot be had."""
    _raise_files_limit(settings)
    sys.setswitchinterval(_SWITCH_SECONDS)
    server = make_server(memory, settings)
    listening = listen(settings)
    # What is there by now stays, and need not be looked at again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_OBJECTS)
    if on_ready is not None:
        on_ready(url_of(settings, listening))
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()


def make_server(memory: Memory, settings: ServerSettings) -> uvicorn.Server:
    """The same, to be run by who calls it."""
    config = uvicorn.Config(
        make_app(memory, settings),
        http=_protocol_of(settings),
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        limit_concurrency=settings.connections_max,
        timeout_keep_alive=int(settings.keep_alive_seconds),
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )
    return uvicorn.Server(config)


def listen(settings: ServerSettings) -> socket.socket:
    """A socket on the address of the settings, or on a free port of it where that is 0."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise UsageError(
            f"{settings.host}:{settings.port} cannot be had: {error.strerror or error}",
            field="port",
        ) from None
    listening.listen(_BACKLOG)
    return listening


def url_of(settings: ServerSettings, listening: socket.socket) -> str:
    """What a client is given as its base URL."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listening.getsockname()[1]}/v1"


def _protocol_of(settings: ServerSettings) -> type[asyncio.Protocol]:
    class Bounded(HttpToolsProtocol):
        """Heads of requests that are too long, or too slow, end their connection."""

        _head_bytes = 0
        _head_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._head_bytes = 0
            self._expect_head()
            super().on_message_begin()

        def data_received(self, data: bytes) -> None:
            if self._head_due is not None:
                # What comes with the head may be the beginning of a body.
                self._head_bytes += len(data)
                if self._head_bytes > settings.header_bytes_max + _READ_BYTES_MAX:
                    self.transport.abort()
                    return
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._head_came()
            super().on_headers_complete()

        def _expect_head(self) -> None:
            self._head_came()
            self._head_due = self.loop.call_later(settings.header_seconds, self._too_slow)

        def _head_came(self) -> None:
            if self._head_due is not None:
                self._head_due.cancel()
                self._head_due = None

        def _too_slow(self) -> None:
            self.transport.close()

    return Bounded


def _raise_files_limit(settings: ServerSettings) -> None:
    """Every stream has two sockets and a spool, and systems begin with 1,024 files."""
    wanted = _FILES_A_REQUEST * settings.requests_max + _FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
