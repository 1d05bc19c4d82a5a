"""Endpoints that are passed on unread: models and embeddings, and what is asked of responses by
their id."""

from memopt.server.calling import pass_on
from memopt.server.exchange import Exchange, Outgoing
from memopt.server.services import Services


class Passing:
    """Serves them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        reply = await self._services.upstream.send(
            exchange.method, exchange.path, exchange.query, exchange.headers, exchange.body,
            exchange.caller,
        )  # fmt: skip
        try:
            await pass_on(reply, out)
        finally:
            await reply.close()
