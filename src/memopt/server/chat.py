"""`/v1/chat/completions`: passed on, and kept.

Owns: how this form says what a model says. Not here: reading a request (asked.py), the order of
things (calling.py, streaming.py), what is stored (keeping.py).
"""

import functools
from typing import Any, Final

import msgspec

from memopt.server.asked import read_chat
from memopt.server.assembling import ChatAssembler
from memopt.server.caching import STORED_BYTES_MAX, Hit, is_usage, look_up, store, with_usage
from memopt.server.calling import Call, Calls
from memopt.server.events import DONE, event_of
from memopt.server.exchange import Outgoing
from memopt.server.keeping import PARTIAL
from memopt.server.keeping import Reply as Said
from memopt.server.opening import Opened, Rounds
from memopt.server.reading import read_loosely, read_reply, storable
from memopt.server.services import Services
from memopt.server.streaming import Stream, Taken
from memopt.server.upstream import Reply


class _Choice(msgspec.Struct):
    message: dict[str, Any] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []


_read_completion: Final = msgspec.json.Decoder(_Completion).decode


class Chat(Calls):
    """Serves Chat Completions."""

    reader = staticmethod(read_chat)

    async def _answer(self, call: Call, out: Outgoing) -> None:
        body = call.body
        if call.exchange.options.answers:
            hit = await look_up(self._services, call.exchange, call.asked, body)
            if hit is not None:
                await self._replay(call, hit, out)
                return
            if call.asked.is_stream and not call.asked.wants_usage:
                body = with_usage(body)
        await self._ask(call, body, out)

    async def _send(self, call: Call, body: bytes) -> Reply:
        window_tokens = call.exchange.options.window_tokens
        if call.windowed is None or not call.windowed.opens or window_tokens is None:
            return await super()._send(call, body)
        services, begun = self._services, call.windowed.begun
        opened = Opened(
            services.keeper.session(call.place), None if begun is None else begun.head or None,
            window_tokens, services.count_of(call.asked.model),
        )  # fmt: skip
        ask = functools.partial(self._send_with, call)
        rounds = Rounds(services, opened, body, call.exchange.headers, ask)
        return await rounds.begin()

    async def _keep_whole(self, call: Call, body: bytes) -> bool:
        said = await self._read_whole(said_of, body)
        await self._note(call, body)
        if said is None:
            return False
        await call.keep(self._services, said)
        if call.exchange.options.answers:
            whole = storable(read_reply(body))
            await store(self._services, call.exchange, call.body, whole, call.uses)
        return True

    async def _stream(self, call: Call, reply: Reply, out: Outgoing) -> None:
        await _ChatStream(self._services, call).run(reply, out)

    async def _replay(self, call: Call, hit: Hit, out: Outgoing) -> None:
        """An answer from the cache, as the upstream would have sent it; kept as any other."""
        books = self._services.books
        books.note(call.exchange.caller, call.asked.model, None, is_hit=True)
        headers = call.headers(b"hit")
        said = Said(messages=[hit.message])
        if not call.asked.is_stream:
            await call.keep(self._services, said)
            await out.answer(200, [(b"content-type", b"application/json"), *headers], hit.body())
            return
        headers.append((b"content-type", b"text/event-stream"))
        await out.start(200, headers, is_stream=True)
        for event in hit.events(wants_usage=call.asked.wants_usage):
            await out.send(event)
        await call.keep(self._services, said)
        await out.end(event_of(DONE))


def said_of(body: bytes) -> Said | None:
    """The messages of a reply; None where there are none. Raises ServerError for what nobody can
    read."""
    messages: list[dict[str, Any]]
    try:
        read = _read_completion(body)
        messages = [choice.message for choice in read.choices if choice.message is not None]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        messages = _messages_of(read_loosely(body))
    messages = storable(messages)
    if not messages:
        return None
    return Said(messages=messages) if len(messages) == 1 else Said(candidates=messages)


def _messages_of(value: Any) -> list[dict[str, Any]]:
    choices = value.get("choices") if isinstance(value, dict) else None
    found = [
        choice.get("message")
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
    ]
    return [message for message in found if isinstance(message, dict)]


class _ChatStream(Stream):
    """One reply that comes in chunks."""

    def __init__(self, services: Services, call: Call) -> None:
        wants_answers = call.exchange.options.answers
        copied_max = STORED_BYTES_MAX if wants_answers else 0
        super().__init__(services, call, {"role": "assistant"}, copied_max=copied_max)
        self._strips_usage = wants_answers and not call.asked.wants_usage
        is_alone = call.asked.choices == 1
        self._assembler = ChatAssembler(
            services.settings.reply_bytes_max, self._text.add if is_alone else None
        )

    def _take(self, data: bytes) -> Taken:
        if data.strip() == DONE:
            return Taken.END
        if data:
            chunk = self._assembler.add(data)
            if chunk is not None and chunk.get("error"):
                return Taken.FAILED
            if self._strips_usage and is_usage(chunk):
                return Taken.OUT
        return Taken.ON

    @property
    def _taken_bytes(self) -> int:
        return self._assembler.held_bytes

    @property
    def _is_finished(self) -> bool:
        return self._assembler.is_finished

    async def _keep(self) -> None:
        self._note(self._assembler.head.get("model"), self._assembler.usage)
        if self._assembler.error is None and self._assembler.choices:
            self._assembler.end()
            await self._commit(lambda: self._said({}))
            if self._call.exchange.options.answers:
                await self._cache()

    async def _keep_partial(self) -> None:
        choices = self._assembler.choices.values()
        if self._assembler.error is None and any(not choice.is_empty for choice in choices):
            self._assembler.end()
            await self._commit(lambda: self._said({PARTIAL: True}))

    async def _cache(self) -> None:
        """Store the answer, put together as one that was not streamed."""
        choice, text = self._assembler.choices.get(0), self._text.copied()
        if choice is None or len(self._assembler.choices) > 1 or text is None:
            return
        message = choice.message()
        if choice.has_text:
            message["content"] = text
        whole = storable(self._assembler.head) | {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": choice.finish_reason}],
        }
        if self._assembler.usage is not None:
            whole["usage"] = storable(self._assembler.usage)
        await store(self._services, self._call.exchange, self._call.body, whole, self._call.uses)

    def _said(self, fields: dict[str, Any]) -> Said:
        messages = {
            # One that came to its end is whole: its calls may be answered.
            index: choice.message() | (fields if choice.finish_reason is None else {})
            for index, choice in sorted(self._assembler.choices.items())
        }
        if self._call.asked.choices > 1:
            return Said(candidates=list(messages.values()))
        index = min(messages)
        message = messages.pop(index)
        if self._assembler.choices[index].has_text and index == 0:
            message.pop("content", None)
        else:
            message.setdefault("content", None)
        return Said(
            candidates=list(messages.values()), writer=self._text.writer, fields=message,
            text_digest=self._text.digest.digest(),
        )  # fmt: skip
