"""`/v1/responses`: passed on, with its items kept as they are.

Nothing is translated: a session holds what its API said, and one of the other form is refused where
its history would have to be sent. With `conversation` or `previous_response_id` the upstream has
the history, so a request holds what is new. Which session a response is in is kept in the scope's
mapping `responses`.

Owns: that. Not here: the order of things (calling.py, streaming.py), what is stored (keeping.py).
"""

import asyncio
from typing import Any, Final

import msgspec

from memopt.server.asked import Asked, read_responses
from memopt.server.calling import Call, Calls
from memopt.server.exchange import Exchange, Outgoing
from memopt.server.keeping import PARTIAL, Place
from memopt.server.keeping import Reply as Said
from memopt.server.lines import PREFIX, SessionKey, auto_id
from memopt.server.naming import check_named, one_meaning
from memopt.server.reading import read_loosely, storable
from memopt.server.services import Services
from memopt.server.streaming import Stream, Taken
from memopt.server.threads import finished
from memopt.server.upstream import Reply

_ENDED: Final = frozenset({"response.completed", "response.incomplete"})
_FAILED: Final = frozenset({"response.failed", "error"})
_CREATED: Final = "response.created"
PENDING: Final = frozenset({"queued", "in_progress"})
"""Of a response that is made in the background."""
_ITEM_DONE: Final = "response.output_item.done"
_TEXT: Final = "response.output_text.delta"


class Response(msgspec.Struct):
    """What is read of one."""

    id: Any = None
    status: Any = None
    output: list[dict[str, Any]] = []
    conversation: Any = None
    model: Any = None
    usage: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    delta: Any = None
    item: Any = None
    response: msgspec.Raw = msgspec.Raw(b"")


_read_response: Final = msgspec.json.Decoder(Response).decode
_read_event: Final = msgspec.json.Decoder(_Event).decode


class Responses(Calls):
    """Serves the making of responses."""

    reader = staticmethod(read_responses)

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        services = self._services
        if services.upstream.is_shared(exchange.caller):
            body = await services.threads.run(one_meaning, exchange.body)
            exchange = msgspec.structs.replace(exchange, body=body)
        await super().__call__(exchange, out)

    async def _place(self, asked: Asked, exchange: Exchange) -> Place:
        services, scope = self._services, exchange.caller.scope
        if services.upstream.is_shared(exchange.caller):
            named = (services.memory, services.notes, scope, asked)
            await services.threads.run(check_named, *named)
        if asked.session is None and asked.previous is not None:
            return await services.threads.run(
                _place_behind, services, scope, asked, exchange.options.agent
            )
        return await super()._place(asked, exchange)

    async def _keep_whole(self, call: Call, body: bytes) -> bool:
        response = await self._read_whole(response_of, body)
        if response is None or response.status not in PENDING:
            await self._note(call, body)
        if response is None or response.status in ("failed", "cancelled"):
            return False
        await keep_response(self._services, call, response)
        return True

    async def _stream(self, call: Call, reply: Reply, out: Outgoing) -> None:
        await ResponseStream(self._services, call).run(reply, out)


def response_of(data: bytes | msgspec.Raw) -> Response | None:
    """None where it is none. Raises ServerError for what nobody can read."""
    try:
        return _storable(_read_response(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.convert(storable(read_loosely(memoryview(data))), Response)
    except msgspec.ValidationError:
        return None


def _storable(response: Response) -> Response:
    response.output = storable(response.output)
    return response


async def keep_response(services: Services, call: Call, response: Response) -> None:
    """Commit a request and the items of its reply, and note where the response is. Cancelled, it
    ends what it began."""
    is_pending = response.status in PENDING

    async def keep() -> None:
        await call.keep(services, Said(messages=[] if is_pending else response.output))
        await services.threads.finish(_note, services, call.place, response, is_pending)

    await finished(asyncio.ensure_future(keep()))


def _note(services: Services, place: Place, response: Response, is_pending: bool) -> None:
    services.notes.note(place.key, response.id, is_pending=is_pending)
    if isinstance(response.conversation, dict):
        services.notes.note(place.key, response.conversation.get("id"))


def _place_behind(services: Services, scope: str, asked: Asked, agent: str | None) -> Place:
    """Where it goes on behind a response. What goes on behind one that is not the last is a
    fork."""
    assert asked.previous is not None
    known = services.notes.find(scope, asked.previous)
    if known is None:
        # It was made elsewhere: what follows is kept under its name.
        return Place(SessionKey(scope, f"{PREFIX}{asked.previous}"), None, agent, 0)
    if len(services.memory.session(known.session, scope=scope)) == known.length:
        return Place(SessionKey(scope, known.session), None, agent, known.length)
    new = auto_id(asked.previous, ())
    return Place(SessionKey(scope, new), known.session, agent, known.length)


class ResponseStream(Stream):
    """One response that comes in events."""

    def __init__(self, services: Services, call: Call) -> None:
        super().__init__(services, call, {"type": "message"})
        self._items: list[dict[str, Any]] = []
        """That came whole, until the response has..."""
        self._items_bytes = 0
        """... as events."""
        self._has_text = False
        self._begun: Response | None = None
        self._response: Response | None = None

    def _take(self, data: bytes) -> Taken:
        try:
            event = _read_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Taken.ON
        if event.type == _CREATED:
            self._begun = response_of(event.response)
        elif event.type == _TEXT and isinstance(event.delta, str):
            self._has_text = True
            self._text.add(event.delta)
        elif event.type == _ITEM_DONE and isinstance(event.item, dict):
            self._items.append(event.item)
            self._items_bytes += len(data)
            if event.item.get("type") == "message":
                # What was spooled is in an item now.
                self._text.writer.abandon()
                self._text, self._has_text = self._spool(), False
        elif event.type in _ENDED:
            self._response = response_of(event.response)
            return Taken.END
        elif event.type in _FAILED:
            self._is_kept = True
            return Taken.END
        return Taken.ON

    @property
    def _taken_bytes(self) -> int:
        return self._items_bytes

    @property
    def _is_finished(self) -> bool:
        return False

    async def _keep(self) -> None:
        self._is_kept = True
        if self._response is not None:
            self._note(self._response.model, self._response.usage)
            await keep_response(self._services, self._call, self._response)

    async def _keep_partial(self) -> None:
        if self._call.asked.is_background and self._begun is not None:
            # It goes on, and is fetched later.
            self._is_kept = True
            await keep_response(self._services, self._call, self._begun)
        elif self._has_text or self._items:
            await self._commit(self._partial)
            if self._begun is not None:
                note = (_note, self._services, self._call.place, self._begun, False)
                await self._services.threads.finish(*note)

    def _partial(self) -> Said:
        if not self._has_text:
            last = self._items[-1] | {PARTIAL: True}
            return Said(messages=[*self._items[:-1], last])
        return Said(
            before=self._items, writer=self._text.writer,
            fields={"role": "assistant", PARTIAL: True}, text_digest=self._text.digest.digest(),
        )  # fmt: skip
