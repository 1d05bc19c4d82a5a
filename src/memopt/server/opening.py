"""Models that open what their window left out: the tool `open_output` is put into a request, and
its calls are answered here, before the client sees a reply.

What is opened is in the session already, so neither such a call nor its answer is kept, and the
reply is what the model says in the end. Where it calls the client's tools besides, those are the
client's to answer, and it may open what it wanted later.

Owns: those rounds. Invariant: a client sees no call of a tool that it does not have; what rounds
add to a request has room in the window. Only Chat Completions with one choice. Not here: handles,
and what they stand for (context/); streams (opening_stream.py).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from memopt import Session
from memopt.base.errors import MemoptError
from memopt.context.handles import open_output_tool
from memopt.server.asked import Asked, Form
from memopt.server.errors import ServerError
from memopt.server.exchange import IDEMPOTENCY_HEADER
from memopt.server.opening_stream import StreamedRound, is_ours, usage_sum
from memopt.server.reading import read_reply, storable
from memopt.server.rewriting import encode_body
from memopt.server.room import Held
from memopt.server.services import Services
from memopt.server.upstream import Headers, Reply
from memopt.sessions.session import open_output_at

Message = dict[str, Any]
Ask = Callable[[bytes, Headers], Awaitable[Reply]]

ROUNDS_MAX: Final = 6
"""In which a model may open something, for one reply."""
OPENED_SHARE: Final = 1 / 4
"""Of a window, which is left for what rounds add to a request."""
_CALLS_MAX: Final = 16
_MESSAGE_TOKENS: Final = 8
_TOKENS_MIN: Final = 48
_CHARS_A_TOKEN: Final = 4
_ATTEMPTS: Final = 3
_MARGIN: Final = 0.9
_NO_MORE: Final = "Nothing more can be opened before the next message."
_LATER: Final = frozenset({429, 503})

_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_raws_of: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class _Arguments(msgspec.Struct):
    handle: str
    start: int | None = None
    stop: int | None = None


_read_arguments: Final = msgspec.json.Decoder(_Arguments).decode


def can_open(asked: Asked, tools: Any) -> bool:
    """Whether the tool may be put into a request that has these: not where the client says which
    one is to be called, or has one of that name."""
    if asked.form is not Form.CHAT or asked.choices != 1:
        return False
    fields = _fields_of(asked.body)
    if _decode(fields.get("tool_choice", b"null")) not in (None, "auto") or "functions" in fields:
        return False
    return tools is None or (isinstance(tools, list) and not any(map(is_ours, tools)))


def with_tool(body: bytes) -> bytes:
    """The body of a request with the tool."""
    tools = _decode(_fields_of(body).get("tools", b"null")) or []
    return encode_body(body, "tools", [*tools, open_output_tool()])


class Opened(NamedTuple):
    """What is opened, and how it is counted."""

    session: Session
    head: int | None
    """What the window was made of."""
    window_tokens: int
    count: Callable[[str], int]


class Rounds:
    """Of one request."""

    def __init__(
        self, services: Services, opened: Opened, body: bytes, headers: Headers, ask: Ask
    ) -> None:
        self.services = services
        self.left = ROUNDS_MAX
        self.usage: Any = None
        """Of the rounds that are over."""
        self._opened = opened
        self._tokens_left = int(opened.window_tokens * OPENED_SHARE)
        self._body = body
        self._headers = headers
        self._ask = ask

    async def begin(self) -> Reply:
        """The reply, whose calls of the tool will be answered."""
        reply = await self._ask(self._body, self._headers)
        return _OpenedReply(reply, self) if reply.status == 200 and reply.is_plain else reply

    def may_go_on(self, message: Message) -> bool:
        """Whether a message that opens something, and nothing else, has room besides what is
        opened."""
        calls = message.get("tool_calls")
        if not self.left or not isinstance(calls, list) or not calls:
            return False
        if not all(map(is_ours, calls)):
            return False
        return self._cost(message) + _TOKENS_MIN * len(calls) <= self._tokens_left

    def _cost(self, message: Message) -> int:
        return self._opened.count(_encode(storable(message)).decode()) + _MESSAGE_TOKENS

    async def go_on(self, message: Message, is_stream: bool) -> Reply:
        """The next reply, behind such a message. Raises what `begin` raises."""
        self.left -= 1
        self._tokens_left -= self._cost(message)
        # Some models give none, or one that another call has.
        calls = [
            {"type": "function", **call, "id": f"open_{self.left}_{at}"}
            for at, call in enumerate(message["tool_calls"])
        ]
        answers = await self.services.threads.run(self._answers, calls)
        messages = _raws_of(_fields_of(self._body)["messages"])
        said = storable(message | {"tool_calls": calls})
        self._body = encode_body(self._body, "messages", [*messages, said, *answers])
        # It is another request than the first.
        headers = [header for header in self._headers if header[0] != IDEMPOTENCY_HEADER.encode()]
        reply = await self._ask(self._body, headers)
        if reply.status != 200 or not reply.is_plain or reply.is_stream != is_stream:
            await reply.close()
            raise _failed(reply)
        return reply

    def _answers(self, calls: list[Message]) -> list[Message]:
        """On one of the store's threads."""
        return [
            {
                "role": "tool",
                "tool_call_id": call["id"],
                "content": self._answer(call, len(calls) - at) if at < _CALLS_MAX else _NO_MORE,
            }
            for at, call in enumerate(calls)
        ]

    def _answer(self, call: Message, calls_left: int) -> str:
        """Half of what is left, for it may be gone on with, and what leaves the others a word."""
        room = self._tokens_left - _TOKENS_MIN * (calls_left - 1) - _MESSAGE_TOKENS
        room = max(room // 2, min(room, 2 * _TOKENS_MIN))
        try:
            answer = self._open(call["function"].get("arguments"), room)
        except (MemoptError, msgspec.DecodeError, OverflowError, RecursionError) as error:
            answer = f"It cannot be opened: {str(error)[:80]}"
        self._tokens_left -= self._opened.count(answer) + _MESSAGE_TOKENS
        return answer

    def _open(self, arguments: Any, room: int) -> str:
        """As much of it as has room."""
        if room < _TOKENS_MIN:
            return _NO_MORE
        said = arguments if isinstance(arguments, str) else _encode(arguments or {}).decode()
        asked = _read_arguments(said or "{}")
        start, chars = asked.start or 0, room * _CHARS_A_TOKEN
        for _ in range(_ATTEMPTS):
            stop = start + chars
            stop = stop if asked.stop is None else min(asked.stop, stop)
            session, head = self._opened.session, self._opened.head
            opened = open_output_at(session, head, asked.handle, start, stop)
            tokens = self._opened.count(opened.answer)
            if tokens <= room:
                return opened.answer
            chars = int(len(opened.text) * room / tokens * _MARGIN)
        return _NO_MORE

    def add_usage(self, usage: Any) -> None:
        """What a round took that is over."""
        self.usage = usage_sum(self.usage, usage)

    def usage_with(self, last: Any) -> Any:
        return usage_sum(self.usage, last)


class _OpenedReply(Reply):
    """A reply behind which others come, as if they were one."""

    def __init__(self, first: Reply, rounds: Rounds) -> None:
        self.status, self.is_plain, self.is_stream = first.status, True, first.is_stream
        self._first = self._current = first
        self._rounds = rounds
        self._part: StreamedRound | None = None

    @property
    def held_bytes(self) -> int:
        return 0 if self._part is None else self._part.held_bytes

    def headers(self, *, keep_length: bool) -> Headers:
        return self._first.headers(keep_length=False)

    async def close(self) -> None:
        await self._current.close()

    async def _go_on(self, message: Message) -> None:
        await self._current.close()
        self._current = await self._rounds.go_on(message, self.is_stream)

    async def body(self, held: Held, bytes_max: int) -> bytes:
        while True:
            body = await self._current.body(held, bytes_max)
            completion = read_reply(body)
            choice = _choice_of(completion)
            if choice is None:
                return body
            message = choice["message"]
            if self._rounds.may_go_on(message):
                self._rounds.add_usage(completion.get("usage"))
                await self._go_on(message)
                continue
            is_changed = _hide(choice)
            if not is_changed and self._rounds.usage is None:
                return body
            completion["usage"] = self._rounds.usage_with(completion.get("usage"))
            return _encode(storable(completion))

    async def pieces(self) -> AsyncIterator[bytes]:
        if not self.is_stream:
            async for piece in self._current.pieces():
                yield piece
            return
        rounds = self._rounds
        while True:
            part = self._part = StreamedRound(
                rounds.may_go_on, rounds.services.settings.event_bytes_max, rounds.usage
            )
            async for piece in self._current.pieces():
                ready = part.feed(piece)
                if ready:
                    yield ready
            ready = part.end()
            if ready:
                yield ready
            if part.message is None:
                return
            rounds.add_usage(part.usage)
            await self._go_on(part.message)


def _choice_of(completion: Any) -> Message | None:
    """The only one, if it is one with a message."""
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    return choices[0] if isinstance(choices[0].get("message"), dict) else None


def _hide(choice: Message) -> bool:
    """Take the calls of the tool out of a message; whether there were any."""
    message = choice["message"]
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not any(map(is_ours, calls)):
        return False
    message["tool_calls"] = [call for call in calls if not is_ours(call)]
    if not message["tool_calls"]:
        del message["tool_calls"]
        choice["finish_reason"] = "stop"
    return True


def _failed(reply: Reply) -> ServerError:
    """A later round came to nothing."""
    said = f"the upstream answered {reply.status} when something had been opened"
    if reply.status not in _LATER:
        return ServerError(502, said, code="upstream_failed")
    return ServerError(
        reply.status, said, code="upstream_busy", retry_after_seconds=reply.retry_after_seconds
    )
