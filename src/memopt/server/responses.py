"""`/v1/responses`: passed on, with its items kept as they are.

Nothing is translated: a session holds what its API said, and one of the other form is refused where
its history would have to be sent. With `conversation` or `previous_response_id` the upstream has
the history, so a request holds what is new. Which session a response is in is kept in the scope's
mapping `responses`.

Owns: that. Invariant: the items of a reply are committed before its last event is passed on.
Not here: what is stored (keeping.py).
"""

import asyncio
import logging
import secrets
from typing import Any, Final

import msgspec

from memopt import Memory
from memopt.base.errors import MemoptError
from memopt.server.asked import Asked, read_responses
from memopt.server.chat import Call, SpooledText, pass_on
from memopt.server.errors import ServerError, server_error
from memopt.server.events import EventCutter, data_of
from memopt.server.exchange import Exchange, Outgoing
from memopt.server.keeping import PARTIAL, Place
from memopt.server.keeping import Reply as Said
from memopt.server.lines import SessionKey
from memopt.server.matching import PREFIX
from memopt.server.reading import read_loosely, storable
from memopt.server.services import Services
from memopt.server.storing import place_of, read
from memopt.server.upstream import Reply

RESPONSES: Final = "responses"
"""The mapping of a scope from the ids of responses to their sessions."""
_ENDED: Final = frozenset({"response.completed", "response.incomplete"})
_FAILED: Final = frozenset({"response.failed", "error"})
_ITEM_DONE: Final = "response.output_item.done"
_SALT_BYTES: Final = 4
_TEXT: Final = "response.output_text.delta"

log = logging.getLogger("memopt.server")


class _Response(msgspec.Struct):
    id: Any = None
    status: Any = None
    output: list[dict[str, Any]] = []


class _Event(msgspec.Struct):
    type: Any = None
    delta: Any = None
    item: Any = None
    response: msgspec.Raw = msgspec.Raw(b"")


_read_response: Final = msgspec.json.Decoder(_Response).decode
_read_event: Final = msgspec.json.Decoder(_Event).decode


class Responses:
    """Serves the making of responses."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        services = self._services
        asked = await read(services, read_responses, exchange)
        place = await self._place(asked, exchange)
        call = Call(exchange, asked, place, exchange.body)
        try:
            await call.prepare(services)
            await self._answer(call, out)
        finally:
            await call.undo(services)

    async def _answer(self, call: Call, out: Outgoing) -> None:
        services, exchange = self._services, call.exchange
        reply = await services.upstream.send(
            exchange.method, exchange.path, exchange.query, exchange.headers, call.body,
            exchange.caller,
        )  # fmt: skip
        try:
            if reply.status != 200:
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

    async def _place(self, asked: Asked, exchange: Exchange) -> Place:
        if asked.session is None and asked.previous is not None:
            return await self._services.threads.run(
                _place_behind, self._services.memory, exchange.caller.scope, asked,
                exchange.options.agent,
            )  # fmt: skip
        return await place_of(self._services, asked, exchange)

    async def _whole(self, call: Call, reply: Reply, out: Outgoing) -> None:
        body = await reply.body(self._services.settings.reply_bytes_max)
        headers = reply.headers(keep_length=False)
        response = response_of(body) if reply.is_plain else None
        if response is not None and response.status not in ("failed", "cancelled"):
            await keep_response(self._services, call, response)
            headers += call.headers()
        await out.answer(200, headers, body)


def response_of(data: bytes | msgspec.Raw) -> _Response | None:
    """None where it is none. Raises ServerError for what nobody can read."""
    try:
        return _storable(_read_response(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.convert(storable(read_loosely(memoryview(data))), _Response)
    except msgspec.ValidationError:
        return None


def _storable(response: _Response) -> _Response:
    response.output = storable(response.output)
    return response


async def keep_response(services: Services, call: Call, response: _Response) -> None:
    """Commit a request and the items of its reply, and note where the response is."""
    await call.keep(services, Said(messages=response.output))
    if isinstance(response.id, str) and response.id:
        await services.threads.finish(_note, services, call.place, response.id)


def _note(services: Services, place: Place, id: str) -> None:
    session = services.keeper.session(place)
    places = services.memory.mapping(RESPONSES, scope=place.key.scope)
    places[id] = [place.key.id, len(session)]


def _place_behind(memory: Memory, scope: str, asked: Asked, agent: str | None) -> Place:
    """Where it goes on behind a response. What goes on behind one that is not the last is a
    fork."""
    assert asked.previous is not None
    known = memory.mapping(RESPONSES, scope=scope).get(asked.previous)
    if known is None:
        # It was made elsewhere: what follows is kept under its name.
        return Place(SessionKey(scope, f"{PREFIX}{asked.previous}"), None, agent)
    id, length = known
    if len(memory.session(id, scope=scope)) == length:
        return Place(SessionKey(scope, id), None, agent)
    new = f"{PREFIX}{asked.previous}-{secrets.token_hex(_SALT_BYTES)}"
    return Place(SessionKey(scope, new), id, agent, length)


class _Stream:
    """One response that comes in events."""

    def __init__(self, services: Services, call: Call) -> None:
        self._services = services
        self._call = call
        writer = services.keeper.session(call.place).writer({"type": "message"})
        self._text = SpooledText(writer, services.threads)
        self._cutter = EventCutter(services.settings.event_bytes_max)
        self._items: list[dict[str, Any]] = []
        """That came whole, until the response has."""
        self._has_text = False
        self._is_over = False

    async def run(self, reply: Reply, out: Outgoing) -> None:
        """Pass it on, and keep it before its end is passed on."""
        headers = [*reply.headers(keep_length=False), *self._call.headers()]
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
        size = 0
        async for piece in reply.pieces():
            size += len(piece)
            if size > self._services.settings.reply_bytes_max:
                raise ServerError(502, "the reply is too long", code="reply_bytes_max")
            ready: list[bytes] = []
            for event in self._cutter.feed(piece):
                ended = self._take(data_of(event))
                if ended is not None:
                    if ready:
                        await out.send(b"".join(ready))
                        ready = []
                    await keep_response(self._services, self._call, ended)
                ready.append(event)
            if ready:
                await out.send(b"".join(ready))
            if self._text.is_due:
                await self._text.flush()
        rest = self._cutter.rest()
        if not self._is_over:
            ended = self._take(data_of(rest))
            if ended is None and not self._is_over:
                raise ServerError(502, "the upstream broke off", code="upstream_failed")
            if ended is not None:
                await keep_response(self._services, self._call, ended)
        await out.end(rest)

    def _take(self, data: bytes) -> _Response | None:
        """Take up an event; the response, where it is the last one."""
        try:
            event = _read_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if event.type == _TEXT and isinstance(event.delta, str):
            self._has_text = True
            self._text.add(event.delta)
        elif event.type == _ITEM_DONE and isinstance(event.item, dict):
            self._items.append(event.item)
            if event.item.get("type") == "message":
                self._begin_text()
        elif event.type in _ENDED:
            self._is_over = True
            return response_of(event.response)
        elif event.type in _FAILED:
            self._is_over = True
        return None

    def _begin_text(self) -> None:
        """What was spooled is in an item now."""
        self._text.writer.abandon()
        writer = self._services.keeper.session(self._call.place).writer({"type": "message"})
        self._text = SpooledText(writer, self._services.threads)
        self._has_text = False

    async def _keep_partial(self) -> None:
        if self._is_over or not (self._has_text or self._items):
            return
        self._is_over = True
        if not self._has_text:
            last = self._items[-1] | {PARTIAL: True}
            await self._call.keep(self._services, Said(messages=[*self._items[:-1], last]))
            return
        await self._text.flush()
        fields = {"role": "assistant", PARTIAL: True}
        said = Said(
            before=self._items, writer=self._text.writer, fields=fields,
            text_digest=self._text.digest.digest(),
        )  # fmt: skip
        await self._call.keep(self._services, said)
