"""Models that open what their window left out: the tool `open_output` is put into a request, and
its calls are answered here, before the client sees a reply.

What is opened is in the session already, so neither such a call nor its answer is kept, and the
reply is what the model says in the end. Where it calls the client's tools besides, those are the
client's to answer, and it may open what it wanted later.

Owns: those rounds. Invariant: a client sees no call of a tool that it does not have, and what is
opened has room in the window. Only Chat Completions with one choice. Not here: handles, and what
they stand for (context/).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from memopt import Session
from memopt.base.errors import MemoptError
from memopt.context.handles import OPEN_OUTPUT, open_output_tool
from memopt.server.asked import Asked, Form
from memopt.server.assembling import ChatAssembler
from memopt.server.errors import ServerError
from memopt.server.events import DONE, EventCutter, data_of, event_of
from memopt.server.exchange import IDEMPOTENCY_HEADER
from memopt.server.reading import read_reply, storable
from memopt.server.rewriting import encode_body
from memopt.server.room import Held
from memopt.server.services import Services
from memopt.server.upstream import Headers, Reply

Message = dict[str, Any]
Ask = Callable[[bytes, Headers], Awaitable[Reply]]

ROUNDS_MAX: Final = 6
"""In which a model may open something, for one reply."""
OPENED_SHARE: Final = 1 / 4
"""Of a window, which is left for what is opened."""
_CHARS_A_TOKEN: Final = 3
"""At most, of most texts."""
_CALLS_MAX: Final = 16
_TEXT_CHARS_MAX: Final = 64 * 1024
"""Said before something is opened; who says more is not asked again."""
_HELD_BYTES_MAX: Final = 4 * 1024 * 1024
_NO_MORE: Final = "Nothing more can be opened before the next message."

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
    return tools is None or (isinstance(tools, list) and not any(map(_is_ours, tools)))


def with_tool(body: bytes) -> bytes:
    """The body of a request with the tool."""
    tools = _decode(_fields_of(body).get("tools", b"null")) or []
    return encode_body(body, "tools", [*tools, open_output_tool()])


class Rounds:
    """Of one request."""

    def __init__(
        self, services: Services, session: Session, window_tokens: int, body: bytes,
        headers: Headers, ask: Ask,
    ) -> None:  # fmt: skip
        self.services = services
        self.left = ROUNDS_MAX
        self.usage: Any = None
        """Of the rounds that are over."""
        self._session = session
        self._chars_left = int(window_tokens * OPENED_SHARE) * _CHARS_A_TOKEN
        self._body = body
        self._headers = headers
        self._ask = ask

    async def begin(self) -> Reply:
        """The reply, whose calls of the tool will be answered."""
        reply = await self._ask(self._body, self._headers)
        return _OpenedReply(reply, self) if reply.status == 200 and reply.is_plain else reply

    async def go_on(self, message: Message, is_stream: bool) -> Reply:
        """The next reply, behind a message that opens something. Raises what `begin` raises."""
        self.left -= 1
        answers = await self.services.threads.run(self._opened, message["tool_calls"])
        messages = _raws_of(_fields_of(self._body)["messages"])
        self._body = encode_body(self._body, "messages", [*messages, message, *answers])
        # It is another request than the first.
        headers = [header for header in self._headers if header[0] != IDEMPOTENCY_HEADER.encode()]
        reply = await self._ask(self._body, headers)
        if reply.status != 200 or not reply.is_plain or reply.is_stream != is_stream:
            await reply.close()
            raise ServerError(
                502, f"the upstream answered {reply.status} when something had been opened",
                code="upstream_failed",
            )  # fmt: skip
        return reply

    def _opened(self, calls: list[Message]) -> list[Message]:
        """On one of the store's threads."""
        return [
            {
                "role": "tool",
                "tool_call_id": call.get("id"),
                "content": self._answer(call) if at < _CALLS_MAX else _NO_MORE,
            }
            for at, call in enumerate(calls)
        ]

    def _answer(self, call: Message) -> str:
        if self._chars_left <= 0:
            return _NO_MORE
        try:
            asked = _read_arguments(call["function"].get("arguments") or "{}")
            start = asked.start or 0
            stop = start + self._chars_left
            opened = self._session.open_output(
                asked.handle,
                start=start,
                stop=stop if asked.stop is None else min(asked.stop, stop),
            )
        except (MemoptError, msgspec.DecodeError, OverflowError) as error:
            return f"It cannot be opened: {error}"
        self._chars_left -= len(opened.text)
        return opened.answer

    def add_usage(self, usage: Any) -> None:
        """What a round took that is over."""
        self.usage = _sum(self.usage, usage)

    def usage_with(self, last: Any) -> Any:
        return _sum(self.usage, last)


class _OpenedReply(Reply):
    """A reply behind which others come, as if they were one."""

    def __init__(self, first: Reply, rounds: Rounds) -> None:
        self.status, self.is_plain, self.is_stream = first.status, True, first.is_stream
        self._first = self._current = first
        self._rounds = rounds

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
            if OPEN_OUTPUT.encode() not in body and self._rounds.left == ROUNDS_MAX:
                return body
            completion = read_reply(body)
            message = _message_of(completion)
            if message is None:
                return body
            if _opens_alone(message) and self._rounds.left:
                self._rounds.add_usage(completion.get("usage"))
                await self._go_on(storable(message))
                continue
            _hide(completion["choices"][0], message)
            completion["usage"] = self._rounds.usage_with(completion.get("usage"))
            return _encode(storable(completion))

    async def pieces(self) -> AsyncIterator[bytes]:
        if not self.is_stream:
            async for piece in self._current.pieces():
                yield piece
            return
        while True:
            part = _StreamedRound(self._rounds)
            async for piece in self._current.pieces():
                ready = part.feed(piece)
                if ready:
                    yield ready
            ready = part.end()
            if ready:
                yield ready
            if not part.goes_on:
                return
            await self._go_on(part.message())


class _StreamedRound:
    """The events of one reply, without calls of the tool."""

    def __init__(self, rounds: Rounds) -> None:
        self.goes_on = False
        """Whether something is opened, and another reply follows."""
        self._rounds = rounds
        self._cutter = EventCutter(rounds.services.settings.event_bytes_max)
        self._assembler = ChatAssembler(_HELD_BYTES_MAX, self._hold)
        self._text: list[str] = []
        self._chars_left = _TEXT_CHARS_MAX
        self._ours: set[Any] = set()
        self._others: dict[Any, int] = {}
        """Places of the client's calls, and those that it is told."""

    def feed(self, piece: bytes) -> bytes:
        """What is passed on of it."""
        return b"".join(map(self._shown, self._cutter.feed(piece)))

    def end(self) -> bytes:
        return self._shown(self._cutter.rest())

    def message(self) -> Message:
        """What was said and called."""
        self._assembler.end()
        [choice] = self._assembler.choices.values()
        return choice.message() | {"content": "".join(self._text) or None}

    def _hold(self, text: str) -> None:
        self._chars_left -= len(text)
        if self._chars_left >= 0:
            self._text.append(text)

    def _shown(self, event: bytes) -> bytes:
        data = data_of(event)
        if not data or data.strip() == DONE:
            return b"" if self.goes_on and data else event
        chunk = read_reply(data)
        if type(chunk) is not dict:
            return event
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        is_changed = False
        if type(choice) is dict:
            if not self._others:
                # Once the client's tools are called, nothing is opened.
                self._assembler.add(data)
            is_changed = self._take(choice)
        is_changed |= self._take_usage(chunk)
        if (is_changed or self.goes_on) and _is_empty(chunk, choice):
            return b""
        return event_of(_encode(storable(chunk))) if is_changed else event

    def _take_usage(self, chunk: Message) -> bool:
        """Whether it was changed."""
        if chunk.get("usage") is None:
            return False
        if self.goes_on:
            self._rounds.add_usage(chunk["usage"])
            chunk["usage"] = None
            return True
        if self._rounds.usage is None:
            return False
        chunk["usage"] = self._rounds.usage_with(chunk["usage"])
        return True

    @property
    def _opens_alone(self) -> bool:
        is_whole = self._chars_left >= 0 and self._rounds.left > 0
        return bool(self._ours) and not self._others and is_whole

    def _take(self, choice: Message) -> bool:
        delta = choice.get("delta")
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        is_changed = False
        if isinstance(delta, dict) and isinstance(calls, list):
            shown = [call for call in calls if self._is_clients(call)]
            is_changed = bool(self._ours)
            if shown:
                delta["tool_calls"] = shown
            else:
                del delta["tool_calls"]
        if choice.get("finish_reason") is not None and self._ours:
            self.goes_on = self._opens_alone
            if not self._others:
                choice["finish_reason"] = None if self.goes_on else "stop"
                is_changed = True
        return is_changed

    def _is_clients(self, call: Any) -> bool:
        """Whether the client sees it; its place is then the one that it has among those."""
        if not isinstance(call, dict):
            return True
        place = call.get("index", 0)
        if place in self._ours:
            return False
        if place not in self._others:
            if _is_ours(call):
                self._ours.add(place)
                return False
            self._others[place] = len(self._others)
        if self._ours and "index" in call:
            call["index"] = self._others[place]
        return True


def _is_ours(call: Any) -> bool:
    """A call, or a tool, by the name of its function."""
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and function.get("name") == OPEN_OUTPUT


def _is_empty(chunk: Message, choice: Any) -> bool:
    """Whether it says nothing."""
    if chunk.get("usage") is not None:
        return False
    return not isinstance(choice, dict) or not (choice.get("delta") or choice.get("finish_reason"))


def _message_of(completion: Any) -> Message | None:
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    message = choices[0].get("message")
    return message if isinstance(message, dict) else None


def _opens_alone(message: Message) -> bool:
    calls = message.get("tool_calls")
    return isinstance(calls, list) and bool(calls) and all(map(_is_ours, calls))


def _hide(choice: Message, message: Message) -> None:
    """Take the calls of the tool out of a message."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not any(map(_is_ours, calls)):
        return
    message["tool_calls"] = [call for call in calls if not _is_ours(call)]
    if not message["tool_calls"]:
        del message["tool_calls"]
        choice["finish_reason"] = "stop"


def _sum(one: Any, other: Any) -> Any:
    """Of numbers, by their names."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _sum(one.get(name), other.get(name)) for name in {**one, **other}}
    if one is None or other is None:
        return one if other is None else other
    are_numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return one + other if are_numbers else other
