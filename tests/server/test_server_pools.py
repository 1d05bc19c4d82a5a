"""Connections to the upstream: kept, bounded for each pool, and closed when nobody needs them."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from memopt.server.pools import POOL_MAX, Pool, Pools

Answer = Callable[[], Awaitable[None]]


class Server:
    """Answers every request, and knows its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await self.may_answer.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def ask(pools: Pools, url: str) -> Pool:
    pool = await pools.take()
    response = await pool.transport.handle_async_request(httpx.Request("GET", url))
    await response.aread()
    await response.aclose()
    pool.give_back()
    return pool


def run(check: Callable[[Pools, Server, str], Awaitable[None]], idle_seconds: float = 60) -> None:
    async def main() -> None:
        server = Server()
        listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        limits = httpx.Limits(max_connections=POOL_MAX, max_keepalive_connections=POOL_MAX)
        pools = Pools(lambda: httpx.AsyncHTTPTransport(limits=limits), idle_seconds)
        try:
            await check(pools, server, url)
        finally:
            await pools.close()
            listening.close()

    asyncio.run(main())


def test_one_request_after_the_other_stays_on_one_connection() -> None:
    async def check(pools: Pools, server: Server, url: str) -> None:
        for _ in range(20):
            await ask(pools, url)
        assert server.connections == 1

    run(check)


@pytest.mark.parametrize("count", [POOL_MAX, POOL_MAX + 1, 5 * POOL_MAX])
def test_many_at_once_have_a_connection_each(count: int) -> None:
    async def check(pools: Pools, server: Server, url: str) -> None:
        server.may_answer.clear()
        asking = [asyncio.ensure_future(ask(pools, url)) for _ in range(count)]
        while server.open < count:
            await asyncio.sleep(0)
        server.may_answer.set()
        used = await asyncio.gather(*asking)
        assert all(used.count(pool) <= POOL_MAX for pool in used)
        assert server.connections == count
        # All of them are there for the next ones.
        await asyncio.gather(*(ask(pools, url) for _ in range(count)))
        assert server.connections == count

    run(check)


def test_pools_that_nobody_uses_are_closed() -> None:
    async def check(pools: Pools, server: Server, url: str) -> None:
        await asyncio.gather(*(ask(pools, url) for _ in range(4 * POOL_MAX)))
        assert server.open == 4 * POOL_MAX
        for _ in range(8):
            await ask(pools, url)
        while server.open > POOL_MAX:
            await asyncio.sleep(0)
        assert server.connections == 4 * POOL_MAX

    run(check, idle_seconds=0)
