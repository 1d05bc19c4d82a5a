"""One request and its response: what came, who it is from, and the way back.

Not here: reading it from the socket (door.py).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from memopt.base.errors import UsageError
from memopt.base.names import check_name
from memopt.server.errors import ServerError
from memopt.server.events import event_of
from memopt.server.settings import Caller
from memopt.server.upstream import Headers

Send = Callable[[Any], Awaitable[None]]

AGENT_HEADER: Final = "x-memopt-agent"
ANSWERS_HEADER: Final = "x-memopt-answers"
IDEMPOTENCY_HEADER: Final = "idempotency-key"
PRIORITY_HEADER: Final = "x-memopt-priority"
RECALL_HEADER: Final = "x-memopt-recall"
TOOLS_HEADER: Final = "x-memopt-tools"
WINDOW_HEADER: Final = "x-memopt-window"
SESSION_ANSWERED: Final = b"x-memopt-session"
CACHE_ANSWERED: Final = b"x-memopt-cache"
TOKENS_ANSWERED: Final = b"x-memopt-tokens"

_PIECE_BYTES: Final = 64 * 1024
_YES: Final = frozenset({"1", "true", "on", "yes"})
_NO: Final = frozenset({"0", "false", "off", "no"})


class Options(msgspec.Struct, frozen=True):
    """What a request gets beyond being passed on: asked for by its key or its headers."""

    window_tokens: int | None = None
    recall: bool = False
    tools: bool = False
    answers: bool = False
    is_low: bool = False
    """Refused as soon as memory is short."""
    agent: str | None = None
    idempotency_key: str | None = None


class Exchange(msgspec.Struct):
    """A request that was let in."""

    method: str
    path: str
    """Below the base URL."""
    query: bytes
    headers: Headers
    named: dict[str, str]
    """The same by their names."""
    body: bytes
    caller: Caller
    options: Options


def options_of(named: dict[str, str], caller: Caller) -> Options:
    """What the headers ask for, else what the key has. Raises UsageError."""
    key = caller.settings
    window: int | None = key.window_tokens if key is not None else None
    if WINDOW_HEADER in named:
        said = named[WINDOW_HEADER].strip()
        if not said.isdecimal() or len(said) > 9:
            raise UsageError(f"expected a number of tokens, got {said!r}", field="X-Memopt-Window")
        window = int(said) or None
    priority = named.get(PRIORITY_HEADER, key.priority if key is not None else "normal")
    if priority not in ("normal", "low"):
        raise UsageError(f"expected normal or low, got {priority!r}", field="X-Memopt-Priority")
    agent = named.get(AGENT_HEADER)
    idempotency = named.get(IDEMPOTENCY_HEADER)
    return Options(
        window_tokens=window,
        recall=_flag(named, RECALL_HEADER, key is not None and key.recall),
        tools=_flag(named, TOOLS_HEADER, key is not None and key.tools),
        answers=_flag(named, ANSWERS_HEADER, key is not None and key.answers),
        is_low=priority == "low" or (key is not None and key.priority == "low"),
        agent=check_name(agent, field="X-Memopt-Agent") if agent else None,
        idempotency_key=(check_name(idempotency, field="Idempotency-Key") if idempotency else None),
    )


def _flag(named: dict[str, str], header: str, otherwise: bool) -> bool:
    said = named.get(header, "").strip().lower()
    if not said:
        return otherwise
    if said not in _YES | _NO:
        raise UsageError(f"expected on or off, got {said!r}", field=header)
    return said in _YES


class Outgoing:
    """The way back to a client. What was sent is sent: a failure behind the head of a stream is an
    event of it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_started = False
        self.is_ended = False
        self.is_stream = False

    async def start(self, status: int, headers: Headers, *, is_stream: bool = False) -> None:
        self.is_started = True
        self.is_stream = is_stream
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        """A piece of the body; it waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        self.is_ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """All at once."""
        length = (b"content-length", b"%d" % len(body))
        kept = [header for header in headers if header[0] != b"content-length"]
        await self.start(status, [*kept, length])
        # In pieces, which wait while the client is slow: a whole one would be copied for it.
        last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
        for place in range(0, last, _PIECE_BYTES):
            await self.send(body[place : place + _PIECE_BYTES])
        await self.end(body[last:])

    async def fail(self, error: ServerError) -> None:
        """Say what went wrong, wherever the response is."""
        if self.is_ended:
            return
        if not self.is_started:
            await self.answer(error.status, error.headers(), error.body())
        elif self.is_stream:
            await self.end(event_of(error.body()))
        # Else the length that was said is not kept, and the client sees that.
