"""Responses that are named by their id: `/responses/{id}` and what is below it.

They are passed on. Where several scopes share one key for the upstream, only those that are noted
in the scope may be named. One that was made in the background is kept when it is fetched, once: its
items join the session behind the request, or a fork of it where the session has gone on.

Owns: that. Not here: where responses are (noted.py).
"""

import asyncio
from typing import Final
from urllib.parse import unquote

from memopt.server.asked import NOTHING
from memopt.server.calling import Call, Calls, pass_on
from memopt.server.exchange import Exchange, Outgoing
from memopt.server.keeping import Place
from memopt.server.keeping import Reply as Said
from memopt.server.lines import SessionKey, auto_id
from memopt.server.noted import not_found
from memopt.server.responses import Response, ResponseStream, response_of
from memopt.server.services import Services
from memopt.server.upstream import Reply

_KEPT: Final = frozenset({"completed", "incomplete"})


class Named(Calls):
    """Serves them."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._one = asyncio.Lock()
        """Of those that fetch one response, one keeps it."""

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        services, scope = self._services, exchange.caller.scope
        _, _, id, *below = exchange.path.split("/")
        id = unquote(id)
        noted = await services.threads.run(services.notes.find, scope, id)
        if noted is None and services.upstream.is_shared(exchange.caller):
            raise not_found("Response", id)
        if noted is not None and noted.is_pending and exchange.method == "GET" and not below:
            place = Place(SessionKey(scope, noted.session), None, exchange.options.agent)
            await self._ask(Call(exchange, NOTHING, place, b""), b"", out)
            return
        reply = await services.upstream.send(
            exchange.method, exchange.path, exchange.query, exchange.headers, exchange.body,
            exchange.caller,
        )  # fmt: skip
        try:
            if exchange.method == "DELETE" and reply.status == 200:
                await services.threads.finish(services.notes.forget, scope, id)
            await pass_on(reply, out)
        finally:
            await reply.close()

    async def _keep_whole(self, call: Call, body: bytes) -> bool:
        response = await self._read_whole(response_of, body)
        return response is not None and await self.keep(call, response)

    async def _stream(self, call: Call, reply: Reply, out: Outgoing) -> None:
        await _Fetched(self._services, call, self).run(reply, out)

    async def keep(self, call: Call, response: Response) -> bool:
        """Commit the items of a response that has ended; whether it has."""
        if response.status not in _KEPT:
            return False
        services = self._services
        async with self._one:
            is_new = await services.threads.finish(_keep, services, call.place, response)
        if is_new:
            services.books.note(call.exchange.caller, response.model, response.usage)
        return True


def _keep(services: Services, place: Place, response: Response) -> bool:
    """Whether it was not kept before."""
    scope, id = place.key.scope, str(response.id)
    noted = services.notes.find(scope, id)
    if noted is None or not noted.is_pending:
        return False
    key = f"response {id}"
    has_grown = len(services.keeper.session(place)) != noted.length
    if has_grown and not services.keeper.has_repeated(place, key):
        new = SessionKey(scope, auto_id(id, ()))
        place = Place(new, noted.session, place.agent, noted.length)
    services.keeper.keep(NOTHING, place, Said(messages=response.output), key)
    services.notes.note(place.key, id)
    return True


class _Fetched(ResponseStream):
    """One that was begun earlier."""

    def __init__(self, services: Services, call: Call, named: Named) -> None:
        super().__init__(services, call)
        self._named = named

    async def _keep(self) -> None:
        self._is_kept = True
        if self._response is not None:
            await self._named.keep(self._call, self._response)

    async def _keep_partial(self) -> None:
        """All of it can be fetched later."""
