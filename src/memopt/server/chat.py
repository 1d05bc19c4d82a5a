"""`/v1/chat/completions`: passed on, and kept.

The body goes to the upstream as it came, and what comes back goes to the client as it comes. On
the way it is read: the messages that are new and the reply are committed in the session before the
client is told that the reply is whole. A call that failed adds nothing. A client that goes away
ends the upstream's work too, and leaves what it got, marked as partial.

Owns: that order. Not here: reading a request (asked.py), what is stored (keeping.py).
"""

import asyncio
import logging
from typing import Any, Final

import msgspec

from memopt.base.errors import MemoptError
from memopt.server.asked import Asked, History, read_chat
from memopt.server.assembling import ChatAssembler
from memopt.server.caching import STORED_BYTES_MAX, Hit, is_usage, look_up, store, with_usage
from memopt.server.canonical import TextDigest
from memopt.server.errors import ServerError, server_error
from memopt.server.events import DONE, EventCutter, data_of, event_of
from memopt.server.exchange import (
    CACHE_ANSWERED,
    SESSION_ANSWERED,
    TOKENS_ANSWERED,
    Exchange,
    Outgoing,
)
from memopt.server.keeping import PARTIAL, Place
from memopt.server.keeping import Reply as Said
from memopt.server.reading import read_loosely, read_reply, storable
from memopt.server.rewriting import with_history
from memopt.server.services import Services
from memopt.server.storing import keep, place_of, read, refuse_repeated
from memopt.server.threads import StoreThreads
from memopt.server.upstream import Headers, Reply
from memopt.server.window import Windowed, begin_window, make_window
from memopt.sessions.writer import MessageWriter

_LARGE_CHARS: Final = 128 * 1024
"""Longer texts are committed a few at a time."""
_FLUSHED_BYTES: Final = 8 * 1024
"""Text of a stream that waits for a thread to write it away."""


class _Choice(msgspec.Struct):
    message: dict[str, Any] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []


_read_completion: Final = msgspec.json.Decoder(_Completion).decode

log = logging.getLogger("memopt.server")


class Call(msgspec.Struct):
    """A request on its way, and where it belongs."""

    exchange: Exchange
    asked: Asked
    place: Place
    body: bytes
    """What a model is asked with."""
    windowed: Windowed | None = None
    is_kept: bool = False
    reply_id: str | None = None
    """What its reply is called as an item, where that is cached."""

    def headers(self, cached: bytes = b"miss") -> Headers:
        """What a reply tells besides."""
        headers = [(SESSION_ANSWERED, self.place.key.id.encode())]
        if self.exchange.options.answers:
            headers.append((CACHE_ANSWERED, cached))
        if self.windowed is not None:
            headers.append((TOKENS_ANSWERED, b"%d" % self.windowed.tokens))
        return headers

    @property
    def uses(self) -> tuple[str, ...]:
        """What an answer was made of, besides the request; and where it is kept."""
        uses = self.windowed.uses if self.windowed is not None else ()
        return uses if self.reply_id is None else (*uses, self.reply_id)

    async def prepare(self, services: Services) -> None:
        """Make the body to send, where it is not the client's. Raises what the store raises."""
        asked, options = self.asked, self.exchange.options
        await refuse_repeated(services, self.exchange, asked, self.place)
        if options.window_tokens is not None and not asked.is_upstreams:
            self.windowed = Windowed()
            arguments = (services.keeper, asked, self.place)
            await services.threads.finish(begin_window, *arguments, self.windowed)
            async with services.windows:
                await services.threads.finish(make_window, *arguments, options, self.windowed)
            self.body = self.windowed.body
            if asked.history is History.DELTA:
                # What it says is there already: only the reply is to be appended.
                self.asked = msgspec.structs.replace(asked, raws=[], chain=[])
        elif asked.history is History.DELTA and not asked.is_upstreams:
            self.body = await services.threads.run(with_history, services.keeper, asked, self.place)

    async def undo(self, services: Services) -> None:
        """After a call that failed: nothing of it stays."""
        begun = self.windowed.begun if self.windowed is not None else None
        if self.windowed is not None and begun is not None and not self.is_kept:
            self.windowed.begun = None
            await services.threads.finish(services.keeper.undo, self.place, begun)

    async def keep(self, services: Services, said: Said) -> None:
        """Commit it with what was said."""
        receipt = await keep(services, self.exchange, self.asked, self.place, said)
        if self.exchange.options.answers:
            find = services.keeper.item_of
            self.reply_id = await services.threads.run(find, self.place, receipt)
        self.is_kept = True


class Chat:
    """Serves Chat Completions."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        services = self._services
        asked = await read(services, read_chat, exchange)
        place = await place_of(services, asked, exchange)
        call = Call(exchange, asked, place, exchange.body)
        try:
            await call.prepare(services)
            await self._answer(call, out)
        finally:
            await call.undo(services)

    async def _answer(self, call: Call, out: Outgoing) -> None:
        services, exchange, asked, body = self._services, call.exchange, call.asked, call.body
        if exchange.options.answers:
            hit = await look_up(services, exchange, asked, body)
            if hit is not None:
                await self._replay(call, hit, out)
                return
            if asked.is_stream and not asked.wants_usage:
                body = with_usage(body)
        reply = await services.upstream.send(
            exchange.method, exchange.path, exchange.query, exchange.headers, body, exchange.caller
        )
        try:
            if reply.status != 200:
                # Before the client knows: it may look.
                await call.undo(services)
                await pass_on(reply, out)
            elif reply.is_stream and not reply.is_plain:
                log.warning("a stream cannot be read, and is not kept: its encoding is not known")
                await pass_on(reply, out)
            elif reply.is_stream:
                await _Stream(services, call).run(reply, out)
            else:
                await self._whole(call, reply, out)
        finally:
            await reply.close()

    async def _whole(self, call: Call, reply: Reply, out: Outgoing) -> None:
        body = await reply.body(self._services.settings.reply_bytes_max)
        headers = reply.headers(keep_length=False)
        said = said_of(body) if reply.is_plain else None
        if not reply.is_plain:
            log.warning("a reply cannot be read, and is not kept: its encoding is not known")
        if said is not None:
            await call.keep(self._services, said)
            headers += call.headers()
            if call.exchange.options.answers:
                whole = storable(read_reply(body))
                await store(self._services, call.exchange, call.body, whole, call.uses)
        await out.answer(200, headers, body)

    async def _replay(self, call: Call, hit: Hit, out: Outgoing) -> None:
        """An answer from the cache, as the upstream would have sent it; kept as any other."""
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


async def pass_on(reply: Reply, out: Outgoing) -> None:
    """A reply as it comes, unread."""
    if 300 <= reply.status < 400:
        raise ServerError(502, "the upstream wants to be asked elsewhere", code="redirect")
    await out.start(reply.status, reply.headers(keep_length=True))
    async for piece in reply.pieces():
        await out.send(piece)
    await out.end()


class SpooledText:
    """The text of a streamed message, on its way to the session's writer: a few KiB of it here, the
    rest where the writer has it."""

    def __init__(
        self, writer: MessageWriter, threads: StoreThreads, *, copied_max: int = 0
    ) -> None:
        """Of a text up to `copied_max` characters a copy stays at hand."""
        self.writer = writer
        self._threads = threads
        self._copy: list[str] | None = [] if copied_max else None
        self._copy_left = copied_max
        self._pieces: list[str] = []
        self._size = 0
        self.total = 0
        """Characters so far."""
        self.digest = TextDigest()

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        self.total += len(text)
        self.digest.add(text)
        if self._copy is not None:
            self._copy.append(text)
            self._copy_left -= len(text)
            if self._copy_left < 0:
                self._copy = None

    def copied(self) -> str | None:
        """The text, where there is a copy."""
        return None if self._copy is None else "".join(self._copy)

    @property
    def is_due(self) -> bool:
        return self._size >= _FLUSHED_BYTES

    async def flush(self) -> None:
        """Hand over what has come. Raises UsageError above the limit of a message."""
        if self._pieces:
            pieces, self._pieces, self._size = self._pieces, [], 0
            await self._threads.finish(self.writer.write, "".join(pieces))


class _Stream:
    """One reply that comes in pieces."""

    def __init__(self, services: Services, call: Call) -> None:
        self._services = services
        self._call = call
        wants_answers = call.exchange.options.answers
        self._strips_usage = wants_answers and not call.asked.wants_usage
        writer = services.keeper.session(call.place).writer({"role": "assistant"})
        copied_max = STORED_BYTES_MAX if wants_answers else 0
        self._text = SpooledText(writer, services.threads, copied_max=copied_max)
        is_alone = call.asked.choices == 1
        self._assembler = ChatAssembler(
            services.settings.reply_bytes_max, self._text.add if is_alone else None
        )
        self._cutter = EventCutter(services.settings.event_bytes_max)
        self._is_kept = False
        self._is_done = False

    async def run(self, reply: Reply, out: Outgoing) -> None:
        """Pass it on, and keep it before its end is passed on."""
        headers = reply.headers(keep_length=False)
        headers += self._call.headers()
        try:
            await out.start(200, headers, is_stream=True)
            await self._pass(reply, out)
        except asyncio.CancelledError:
            await self._keep_partial()
            raise
        except MemoptError as error:
            await out.fail(server_error(error))
        finally:
            self._text.writer.abandon()

    async def _pass(self, reply: Reply, out: Outgoing) -> None:
        text, size = self._text, 0
        async for piece in reply.pieces():
            size += len(piece)
            if size > self._services.settings.reply_bytes_max:
                raise ServerError(502, "the reply is too long", code="reply_bytes_max")
            ready: list[bytes] = []
            for event in self._cutter.feed(piece):
                data = data_of(event)
                if data.strip() == DONE:
                    if ready:
                        await out.send(b"".join(ready))
                        ready = []
                    await self._end()
                elif data:
                    chunk = self._assembler.add(data)
                    if self._strips_usage and is_usage(chunk):
                        continue
                ready.append(event)
            if ready:
                await out.send(b"".join(ready))
            if text.is_due:
                await text.flush()
        rest = self._cutter.rest()
        if not self._is_done:
            # Some end without a mark, and some break off.
            data = data_of(rest)
            if data and data.strip() != DONE:
                self._assembler.add(data)
            if data.strip() != DONE and not self._assembler.is_finished:
                raise ServerError(502, "the upstream broke off", code="upstream_failed")
            await self._end()
        await out.end(rest)

    async def _end(self) -> None:
        if not self._is_done:
            self._is_done = True
            if self._assembler.error is None and self._assembler.choices:
                await self._keep()

    async def _keep(self, fields: dict[str, Any] | None = None) -> None:
        self._assembler.end()
        await self._text.flush()
        if self._text.total < _LARGE_CHARS:
            self._is_kept = True
            await self._call.keep(self._services, self._said(fields or {}))
        else:
            # Whoever leaves while this waits has kept nothing yet.
            async with self._services.large:
                self._is_kept = True
                await self._call.keep(self._services, self._said(fields or {}))
        if self._call.exchange.options.answers and not fields:
            await self._cache()

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

    async def _keep_partial(self) -> None:
        """What a client got that did not wait for the rest."""
        choices = self._assembler.choices
        if self._is_kept or self._assembler.error is not None:
            return
        if any(not choice.is_empty for choice in choices.values()):
            await self._keep({PARTIAL: True})
