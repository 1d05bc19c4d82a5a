"""Calls of a model, in whichever form: passed on, and kept.

The body goes to the upstream as it came, and what comes back goes to the client as it comes. On
the way it is read: the messages that are new and the reply are committed in the session before the
client is told that the reply is whole. A call that failed adds nothing. A client that goes away
ends the upstream's work too, and leaves what it got, marked as partial.

Owns: that order. Not here: how a form says what it says (chat.py, responses.py), replies that come
in pieces (streaming.py), what is stored (keeping.py).
"""

import abc
import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from memopt.server.asked import Asked, History
from memopt.server.books import told_of
from memopt.server.errors import ServerError
from memopt.server.exchange import (
    CACHE_ANSWERED,
    SESSION_ANSWERED,
    TOKENS_ANSWERED,
    Exchange,
    Outgoing,
)
from memopt.server.keeping import Begun, Place
from memopt.server.keeping import Reply as Said
from memopt.server.rewriting import with_history
from memopt.server.services import Services
from memopt.server.storing import (
    READ_ON_LOOP_BYTES,
    alone,
    keep,
    key_of,
    place_of,
    read,
    refuse_repeated,
)
from memopt.server.upstream import Headers, Reply
from memopt.server.window import Windowed, begin_window, make_window

T = TypeVar("T")

log: Final = logging.getLogger("memopt.server")


class Call(msgspec.Struct):
    """A request on its way, and where it belongs."""

    exchange: Exchange
    asked: Asked
    place: Place
    body: bytes
    """What a model is asked with."""
    windowed: Windowed | None = None
    withdrawn: Begun | None = None
    """What an earlier try left, which this one takes the place of."""
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
        if key_of(asked, self.exchange) is not None:
            withdraw = services.keeper.withdraw
            self.withdrawn = await services.threads.finish(withdraw, asked, self.place)
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
        """After a call that was not kept: nothing of it stays."""
        begun, withdrawn = self.windowed and self.windowed.begun, self.withdrawn
        if self.is_kept or (begun is None and withdrawn is None):
            return
        self.withdrawn = None
        if self.windowed is not None:
            self.windowed.begun = None
        if withdrawn is not None:
            begun = Begun(withdrawn.before, (begun or withdrawn).head)
        await services.threads.finish(services.keeper.undo, self.place, begun)

    async def keep(self, services: Services, said: Said) -> None:
        """Commit it with what was said."""
        receipt = await keep(services, self.exchange, self.asked, self.place, said)
        if self.exchange.options.answers:
            find = services.keeper.item_of
            self.reply_id = await services.threads.run(find, self.place, receipt)
        self.is_kept = True


class Calls(abc.ABC):
    """Serves the calls of one form."""

    reader: Any
    """Reads a request: a function of asked.py."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        services = self._services
        asked = await read(services, self.reader, exchange)
        place = await self._place(asked, exchange)
        key = key_of(asked, exchange)
        async with services.claims.claim(None if key is None else (place.key, key)):
            with alone(services, asked, place):
                call = Call(exchange, asked, place, exchange.body)
                try:
                    await call.prepare(services)
                    await self._answer(call, out)
                finally:
                    await call.undo(services)

    async def _place(self, asked: Asked, exchange: Exchange) -> Place:
        return await place_of(self._services, asked, exchange)

    async def _answer(self, call: Call, out: Outgoing) -> None:
        await self._ask(call, call.body, out)

    async def _ask(self, call: Call, body: bytes, out: Outgoing) -> None:
        """Ask the upstream, and pass on and keep what it says."""
        services = self._services
        reply = await self._send(call, body)
        try:
            if reply.status != 200:
                # Before the client knows: it may look.
                await call.undo(services)
                await pass_on(reply, out)
            elif reply.is_stream and not reply.is_plain:
                log.warning("a stream cannot be read, and is not kept: its encoding is not known")
                await call.undo(services)
                await pass_on(reply, out)
            elif reply.is_stream:
                await self._stream(call, reply, out)
            else:
                await self._whole(call, reply, out)
        finally:
            await reply.close()

    async def _send(self, call: Call, body: bytes) -> Reply:
        return await self._send_with(call, body, call.exchange.headers)

    async def _send_with(self, call: Call, body: bytes, headers: Headers) -> Reply:
        exchange = call.exchange
        return await self._services.upstream.send(
            exchange.method, exchange.path, exchange.query, headers, body, exchange.caller
        )

    async def _whole(self, call: Call, reply: Reply, out: Outgoing) -> None:
        with self._services.room.begin() as held:
            body = await reply.body(held, self._services.settings.reply_bytes_max)
            headers = reply.headers(keep_length=False)
            if not reply.is_plain:
                log.warning("a reply cannot be read, and is not kept: its encoding is not known")
            elif await self._keep_whole(call, body):
                headers += call.headers()
            await call.undo(self._services)
            held.give_back(len(body))
            await out.answer(200, headers, body)

    async def _read_whole(self, reader: Callable[[bytes], T], body: bytes) -> T:
        """What a reply says: a large one is read on a thread, for the others would wait for it."""
        if len(body) <= READ_ON_LOOP_BYTES:
            return reader(body)
        return await self._services.threads.run(reader, body)

    async def _note(self, call: Call, body: bytes) -> None:
        """What a reply cost, in the books."""
        told = await self._read_whole(told_of, body)
        self._services.books.note(call.exchange.caller, told.model or call.asked.model, told.usage)

    @abc.abstractmethod
    async def _keep_whole(self, call: Call, body: bytes) -> bool:
        """Commit a reply; whether there was something to keep."""

    @abc.abstractmethod
    async def _stream(self, call: Call, reply: Reply, out: Outgoing) -> None:
        """Pass on a reply that comes in pieces, and keep it."""


async def pass_on(reply: Reply, out: Outgoing) -> None:
    """A reply as it comes, unread."""
    if 300 <= reply.status < 400:
        raise ServerError(502, "the upstream wants to be asked elsewhere", code="redirect")
    await out.start(reply.status, reply.headers(keep_length=True))
    async for piece in reply.pieces():
        await out.send(piece)
    await out.end()
