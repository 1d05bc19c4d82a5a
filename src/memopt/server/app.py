"""The application: which path does what, and what begins and ends with it.

Requests go from the router straight to the door, without FastAPI's reading of them: they are passed
on as bytes. Not here: sockets (serving.py).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import FastAPI
from starlette.routing import Route

from memopt import Memory
from memopt.server.chat import Chat
from memopt.server.door import Door, Receive, Work
from memopt.server.errors import ServerError
from memopt.server.exchange import Outgoing, Send
from memopt.server.joining import Joining
from memopt.server.levels import Levels
from memopt.server.named import Named
from memopt.server.passing import Passing
from memopt.server.responses import Responses
from memopt.server.services import services_of
from memopt.server.settings import ServerSettings
from memopt.server.shown import Metrics

_ROOT: Final = "/v1"
_ENDING_SECONDS: Final = 30.0
"""In which requests that were cancelled keep what they have."""


class Front:
    """What requests meet first: those of a path without variables go to the door, and what else a
    framework does is done for the others."""

    def __init__(self, app: FastAPI, endpoints: dict[tuple[str, str], "_Endpoint"]) -> None:
        self.app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = self._endpoints.get((scope["method"], scope["path"]))
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self.app(scope, receive, send)


def make_app(memory: Memory, settings: ServerSettings) -> Front:
    """The proxy over an open store, which stays the caller's to close."""
    services = services_of(memory, settings)
    levels = Levels(memory, services.threads, settings.level_seconds)
    door = Door(memory, settings, levels)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(levels.watch())
        try:
            async with services.upstream:
                yield
                await door.emptied(_ENDING_SECONDS)
        finally:
            # Behind the last connection, and before the threads that keep what came over it.
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            services.close()

    app = FastAPI(
        title="memopt", openapi_url=None, docs_url=None, redoc_url=None, lifespan=life,
        redirect_slashes=False,
    )  # fmt: skip
    passing, named = Passing(services), Named(services)
    routes: list[tuple[str, list[str], Work]] = [
        ("/chat/completions", ["POST"], Joining(Chat(services), settings.reply_bytes_max)),
        ("/responses", ["POST"], Joining(Responses(services), settings.reply_bytes_max)),
        ("/responses/{id}", ["GET", "DELETE"], named),
        ("/responses/{id}/cancel", ["POST"], named),
        ("/responses/{id}/input_items", ["GET"], named),
        ("/metrics", ["GET"], Metrics(services, lambda: door.open_requests)),
        ("/models", ["GET"], passing),
        ("/models/{model:path}", ["GET"], passing),
        ("/embeddings", ["POST"], passing),
    ]
    endpoints: dict[tuple[str, str], _Endpoint] = {}
    for below, methods, work in routes:
        endpoint = _Endpoint(door, work)
        # Also for clients whose base URL has no version in it.
        for path in (_ROOT + below, below):
            if "{" in path:
                app.router.routes.append(Route(path, endpoint, methods=methods))
            endpoints |= {(method, path): endpoint for method in methods}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it answers, and how it is."""
        return {"status": "ok", "level": levels.level, "open_requests": door.open_requests}

    app.router.default = _missing
    return Front(app, endpoints)


class _Endpoint:
    """An application of one route: the door, and what is behind it."""

    def __init__(self, door: Door, work: Work) -> None:
        self._door = door
        self._work = work

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        raw: bytes = scope.get("raw_path") or path.encode()
        below = raw.decode("latin-1").removeprefix(_ROOT)
        parts = path.split("/")
        # What a server further on might take for another path.
        if "." in parts or ".." in parts or "%2f" in below.lower():
            await Outgoing(send).fail(ServerError(404, "there is no such path", code="not_found"))
            return
        await self._door.serve(scope, receive, send, below, self._work)


async def _missing(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        error = ServerError(404, "there is no such path", code="not_found")
        await Outgoing(send).fail(error)
