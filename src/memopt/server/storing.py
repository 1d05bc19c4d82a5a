"""From the event loop to the store: where a request goes, and the commit of what was said.

Not here: what is written (keeping.py), and which session it is (matching.py).
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from memopt import Receipt
from memopt.server.asked import Asked, History
from memopt.server.errors import ServerError
from memopt.server.exchange import Exchange
from memopt.server.keeping import Place, Reply
from memopt.server.services import Services

READ_ON_LOOP_BYTES: Final = 128 * 1024
"""A larger body is read on a thread: the others would wait for it."""


async def read(services: Services, reader: object, exchange: Exchange) -> Asked:
    """The request, by `reader`. Raises UsageError."""
    assert callable(reader)
    arguments = (exchange.body, exchange.named, services.digests)
    if len(exchange.body) <= READ_ON_LOOP_BYTES:
        asked: Asked = reader(*arguments)
    else:
        asked = await services.threads.run(reader, *arguments)
    asked.key = key_of(asked, exchange)
    return asked


async def place_of(services: Services, asked: Asked, exchange: Exchange) -> Place:
    """Whose session it is."""
    scope, agent = exchange.caller.scope, exchange.options.agent
    if asked.session is not None:
        return services.matcher.named(asked, scope, agent)
    if asked.history is History.DELTA:
        raise ServerError(
            400, "only a request that names its session can leave its history out",
            code="delta_without_session", param="X-Memopt-History",
        )  # fmt: skip
    place = services.matcher.known(asked, scope, agent)
    if place is None:
        place = await services.threads.run(services.matcher.look, asked, scope, agent)
    return place


@contextlib.contextmanager
def alone(services: Services, asked: Asked, place: Place) -> Iterator[None]:
    """Let no other request that names no session go on where this one does: who comes while it is
    under way, or too late, gets a fork."""
    if asked.session is not None:
        yield
        return
    if services.claims.is_taken(place.key) or not services.matcher.is_behind(asked, place):
        place.turn_off(asked)
    with services.claims.take(place.key):
        yield


def key_of(asked: Asked, exchange: Exchange) -> str | None:
    """The idempotency key, where it matters to the store: only where every message is appended
    could one call be taken for another."""
    return exchange.options.idempotency_key if asked.history is History.DELTA else None


async def refuse_repeated(
    services: Services, exchange: Exchange, asked: Asked, place: Place
) -> None:
    """Raises ServerError for a request that was answered before: its reply is in the session, and
    another one would not be."""
    key = key_of(asked, exchange)
    if key is not None and await services.threads.run(services.keeper.has_repeated, place, key):
        raise ServerError(
            409, "a request with this key was answered before: its reply is in the session",
            code="idempotency_key_used", param="Idempotency-Key", may_retry=False,
        )  # fmt: skip


async def keep(
    services: Services, exchange: Exchange, asked: Asked, place: Place, reply: Reply
) -> Receipt:
    """Commit a request and its reply. Cancelled, it ends what it began. Raises what the store
    raises."""
    threads, keeper, lines = services.threads, services.keeper, services.lines
    session = place.key
    # One that was cut short may be asked for again.
    key = None if reply.is_partial else key_of(asked, exchange)
    has_prompt = (not asked.prompts and not asked.attributes) or lines.has_prompt(
        place.key, asked.prompt_digest
    )
    keeping = threads.finish(keeper.keep, asked, place, reply, key)
    if has_prompt:
        return await keeping
    if lines.knows(place.key):
        # One sync for both.
        receipt, _ = await asyncio.gather(keeping, threads.finish(keeper.keep_prompt, asked, place))
        if place.key == session:
            return receipt
    else:
        receipt = await keeping
    await threads.finish(keeper.keep_prompt, asked, place)
    return receipt
