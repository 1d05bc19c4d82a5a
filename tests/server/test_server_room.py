"""Room for replies: what is reserved, who waits for it, and who gives way."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.budget import Budget
from memopt.base.errors import BackpressureError, MemoptError
from memopt.server.errors import ServerError
from memopt.server.room import OWNER, WIDEST, Held, Room, taken_bytes
from memopt.server.threads import StoreThreads

LIMIT = 8 << 20
HALF = LIMIT // 2
FREE = 1000


def with_room(work: Callable[[Room, Budget], Awaitable[Any]], *, wait_seconds: float = 30.0) -> Any:
    threads, budget = StoreThreads(1, 8), Budget(LIMIT)

    async def run() -> Any:
        room = Room(budget, threads, free_bytes=FREE, wait_seconds=wait_seconds)
        result = await work(room, budget)
        room.check()
        return result

    try:
        return asyncio.run(run())
    finally:
        threads.close()
        budget.check()


def test_a_small_reply_takes_nothing() -> None:
    async def work(room: Room, budget: Budget) -> None:
        with room.begin() as held:
            assert held.covers(FREE)
            await held.grow(FREE)
            assert budget.held_bytes(OWNER) == 0
            assert not held.covers(FREE + 1)
            await held.grow(FREE + 1)
            assert budget.held_bytes(OWNER) == 1
        assert budget.held_bytes(OWNER) == 0

    with_room(work)


def test_what_never_fits_is_refused_at_once() -> None:
    async def work(room: Room, budget: Budget) -> None:
        with room.begin() as held:
            with pytest.raises(ServerError) as raised:
                await held.grow(HALF + FREE + 1)
            assert raised.value.may_retry is False
            assert budget.held_bytes(OWNER) == 0

    with_room(work)


def test_who_waits_gets_what_is_given_back_in_order() -> None:
    async def work(room: Room, budget: Budget) -> None:
        first, served = room.begin(), []
        await first.grow(HALF)

        async def wait(name: str) -> None:
            with room.begin() as held:
                await held.grow(HALF)
                served.append(name)

        waiting = []
        for name in "abc":
            waiting.append(asyncio.create_task(wait(name)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert served == []
        first.close()
        await asyncio.gather(*waiting)
        assert served == ["a", "b", "c"]

    with_room(work)


def test_the_budget_is_asked_to_reclaim() -> None:
    async def work(room: Room, budget: Budget) -> None:
        budget.reserve("pages", LIMIT)
        asked: list[int] = []

        def reclaim(size_bytes: int) -> None:
            asked.append(size_bytes)
            budget.release("pages", size_bytes)

        budget.on_shortage(reclaim)
        with room.begin() as held:
            await held.grow(FREE + 5000)
        assert asked == [5000]

    with_room(work)


def test_what_others_than_replies_give_back_is_found() -> None:
    async def work(room: Room, budget: Budget) -> None:
        budget.reserve("pages", LIMIT)
        with room.begin() as held:
            waiting = asyncio.create_task(held.grow(FREE + 5000))
            await asyncio.sleep(0)
            budget.release("pages", LIMIT)
            await waiting

    with_room(work)


def test_where_no_room_comes_it_says_so() -> None:
    async def work(room: Room, budget: Budget) -> None:
        budget.reserve("pages", LIMIT)
        with room.begin() as held:
            with pytest.raises(BackpressureError) as raised:
                await held.grow(FREE + 1)
            assert raised.value.retry_after_seconds > 0

    with_room(work, wait_seconds=0.05)


def test_of_those_that_all_wait_for_more_the_last_one_gives_way() -> None:
    async def work(room: Room, budget: Budget) -> None:
        parts = [room.begin() for _ in range(3)]
        for held in parts:
            await held.grow(HALF // 3)
        growing = [asyncio.create_task(_grow_and_close(held, HALF)) for held in parts]
        results = await asyncio.gather(*growing, return_exceptions=True)
        # The one that came last makes room, and then the next one: the first is served.
        assert [isinstance(result, BackpressureError) for result in results] == [False, True, True]

    with_room(work)


def test_one_that_wants_less_is_served_before_anybody_gives_way() -> None:
    async def work(room: Room, budget: Budget) -> None:
        first, second = room.begin(), room.begin()
        await first.grow(HALF // 3)
        await second.grow(HALF // 4)
        large = asyncio.create_task(_grow_and_close(first, HALF))
        await asyncio.sleep(0)
        await _grow_and_close(second, HALF // 4 + HALF // 3)
        await large

    with_room(work)


async def _grow_and_close(held: Held, size_bytes: int) -> None:
    try:
        await held.grow(size_bytes)
    finally:
        held.close()


def test_one_that_leaves_while_it_waits_holds_nobody_up() -> None:
    async def work(room: Room, budget: Budget) -> None:
        first = room.begin()
        await first.grow(HALF)
        leaving = asyncio.create_task(_grow_and_close(room.begin(), HALF))
        await asyncio.sleep(0)
        staying = asyncio.create_task(_grow_and_close(room.begin(), HALF))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        first.close()
        await staying

    with_room(work)


def test_far_more_than_is_needed_is_given_back() -> None:
    async def work(room: Room, budget: Budget) -> None:
        with room.begin() as held:
            await held.grow(100_000)
            held.give_back(90_000)
            assert budget.held_bytes(OWNER) == 99_000
            held.give_back(10_000)
            assert budget.held_bytes(OWNER) == 10_000

    with_room(work)


@given(st.lists(st.lists(st.integers(1, HALF + 2000), min_size=1, max_size=4), max_size=8))
def test_whatever_replies_want_the_bound_holds_and_all_end(wanted: list[list[int]]) -> None:
    async def work(room: Room, budget: Budget) -> None:
        async def reply(sizes: list[int]) -> None:
            with room.begin() as held:
                for size in sizes:
                    await held.grow(size)
                    room.check()
                    assert budget.held_bytes(OWNER) <= HALF
                    await asyncio.sleep(0)

        replies = [asyncio.create_task(reply(sizes)) for sizes in wanted]
        results = await asyncio.gather(*replies, return_exceptions=True)
        assert all(result is None or isinstance(result, MemoptError) for result in results)
        assert budget.used_bytes == 0

    with_room(work)


def test_wide_characters_take_more() -> None:
    plain, wide = b'{"content":"abc"}', '{"content":"\u00fc"}'.encode()
    sizes = [taken_bytes(1000, data) for data in (plain, wide, WIDEST, b'"\\ud83d\\ude00"')]
    assert sizes == [4000, 7000, 10_000, 10_000]
