"""The coroutines: the same verbs off the loop, cancelled without harm, on a few threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import aio

WAIT_SECONDS = 30.0
SETTINGS: dict[str, Any] = {"budget": "16MiB", "durability": "os", "maintenance_seconds": 0}


def run(path: Path, work: Callable[[Any], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a coroutine on a fresh store, and see that nothing of it is left."""

    async def whole() -> None:
        async with aio.open(path, **(SETTINGS | settings)) as memory:
            await work(memory)

    asyncio.run(whole(), debug=False)
    no_thread_is_left()


def no_thread_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("memopt"):
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), thread.name


@contextmanager
def held_commits(memory: Any) -> Iterator[threading.Event]:
    """Nothing is committed before the event is set, or the block is left."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        leave.wait(WAIT_SECONDS)

    holding = threading.Thread(
        target=lambda: memory._sync._parts.committer.exclusive(hold), name="holding"
    )
    holding.start()
    entered.wait(WAIT_SECONDS)
    try:
        yield leave
    finally:
        leave.set()
        holding.join(WAIT_SECONDS)


class Said:
    """A message that tells when the call that appends it has begun."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.begun = threading.Event()

    def model_dump(self, *, mode: str) -> dict[str, int]:
        self.begun.set()
        return {"n": self.n}


async def off_loop(wait: threading.Event) -> None:
    assert await asyncio.to_thread(wait.wait, WAIT_SECONDS)


@asynccontextmanager
async def reached(memory: Any, how: str) -> AsyncIterator[Any]:
    """The memory itself, or through its own socket."""
    if how == "open":
        yield memory
        return
    async with aio.connect(memory.path) as remote:
        yield remote


@pytest.mark.parametrize("how", ["open", "connect"])
def test_the_verbs_are_coroutines_with_the_same_results(tmp_path: Path, how: str) -> None:
    async def work(opened: Any) -> None:
        async with reached(opened, how) as memory:
            assert memory.path == tmp_path
            assert memory.config.durability is memopt.Durability.OS
            session = memory.session("a", scope="x/y", agent="helper")
            assert (session.id, session.scope) == ("a", "x/y")
            receipt = await session.append({"n": 0}, actor="me")
            assert isinstance(receipt, memopt.Receipt)
            receipt = await session.extend([{"n": 1}, {"n": 2}], if_head=receipt.head)
            assert await session.head() == receipt.head
            assert await memory.lsn() == receipt.lsn
            assert await session.length() == 3
            assert [m["n"] async for m in session.messages(1)] == [1, 2]
            assert [e.actor async for e in session.entries()] == ["me", None, None]
            async with session.writer({"role": "assistant"}) as writer:
                await writer.write("in ")
                await writer.write("pieces")
                await writer.commit()
            assert (await session.pop())["content"] == "in pieces"
            await session.truncate(2)
            fork = await session.fork("b", at=1)
            assert (fork.id, await fork.length()) == ("b", 1)
            assert (await session.save_state({"s": 1})).version == 1
            state = await session.load_state()
            assert state.value == {"s": 1}
            assert len(await session.states()) == 1
            assert [s.id for s in await memory.sessions("x", reach="subtree")] == ["a", "b"]
            then = await memory.at(receipt.lsn)
            assert [m["n"] async for m in then.session("a", scope="x/y").messages()] == [0, 1, 2]
            assert await then.session("a", scope="x/y").length() == 3
            assert len(await then.sessions()) == 1
            journal = [record.lsn async for record in memory.journal(receipt.lsn - 1)]
            assert journal[0] == receipt.lsn
            steps: list[int] = []
            assert (await memory.check(progress=lambda done, total: steps.append(done))).clean
            assert steps
            assert (await memory.compact()).disk_bytes_after
            report = await memory.backup(tmp_path / "copy")
            assert report.lsn == await memory.lsn()
            assert (await memory.forget(memopt.Selector(scope="x/y", session="b"))).sessions == 1
            await session.delete()
            assert await memory.sessions() == []
            assert (await memory.stats()).lsn == await memory.lsn()

    run(tmp_path, work)


def test_errors_come_out_as_they_are(tmp_path: Path) -> None:
    async def work(memory: Any) -> None:
        session = memory.session("a")
        with pytest.raises(memopt.UsageError) as bad:
            await session.append({"x": (1,)})
        assert bad.value.field == "message.x"
        with pytest.raises(memopt.ConflictError):
            await session.extend([{}], if_head=9)
        with pytest.raises(memopt.NotFoundError):
            await session.pop()
        with pytest.raises(memopt.UsageError):
            memory.session("")
        with pytest.raises(memopt.UsageError):
            [m async for m in session.messages(-1)]
        with pytest.raises(memopt.StoreLockedError):
            await aio.open(tmp_path, **SETTINGS)

    run(tmp_path, work)
    with pytest.raises(memopt.NotFoundError):
        asyncio.run(opening(tmp_path / "none", create=False))
    with pytest.raises(memopt.StoreClosedError):
        asyncio.run(connecting(tmp_path))
    no_thread_is_left()


async def opening(path: Path, **settings: Any) -> Any:
    return await aio.open(path, **(SETTINGS | settings))


async def connecting(path: Path) -> Any:
    return await aio.connect(path)


def test_a_memory_may_be_awaited_and_closed_twice(tmp_path: Path) -> None:
    async def whole() -> None:
        memory = await aio.open(tmp_path, **SETTINGS)
        await asyncio.gather(*(memory.session("a").append({"n": n}) for n in range(3)))
        await asyncio.gather(memory.close(), memory.close())
        await memory.close()
        with pytest.raises(memopt.StoreClosedError):
            await memory.session("a").append({"n": 3})
        async with aio.open(tmp_path, **SETTINGS) as memory:
            assert await memory.session("a").length() == 3

    asyncio.run(whole())
    no_thread_is_left()


def test_many_calls_at_a_time_are_all_carried_out(tmp_path: Path) -> None:
    async def work(memory: Any) -> None:
        session = memory.session("a")
        await asyncio.gather(*(session.append({"n": n}) for n in range(200)))
        said = [m["n"] async for m in session.messages()]
        assert sorted(said) == list(range(200))
        threads = [t for t in threading.enumerate() if t.name.startswith("memopt-aio")]
        assert 1 < len(threads) <= aio.THREADS_MAX

    run(tmp_path, work)


def test_a_call_that_blocks_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    async def work(memory: Any) -> None:
        said = Said(1)
        with held_commits(memory) as leave:
            appending = asyncio.create_task(memory.session("a").append(said))
            await off_loop(said.begun)
            assert await memory.session("b").length() == 0
            assert not appending.done()
            leave.set()
            assert (await appending).seq == 0

    run(tmp_path, work)


def test_cancelling_a_call_that_has_begun_keeps_its_commit(tmp_path: Path) -> None:
    async def work(memory: Any) -> None:
        session, said = memory.session("a"), Said(7)
        with held_commits(memory):
            appending = asyncio.create_task(session.append(said))
            await off_loop(said.begun)
            appending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await appending
            assert await session.length() == 0
        await session.append({"n": 8})
        # The one that was cancelled is still on its way, on a thread of its own.
        async with asyncio.timeout(20):
            while await session.length() < 2:
                await asyncio.sleep(0.001)
        assert sorted([m["n"] async for m in session.messages()]) == [7, 8]

    run(tmp_path, work)


def test_a_call_that_was_cancelled_before_it_began_is_never_made(tmp_path: Path) -> None:
    async def work(memory: Any) -> None:
        session = memory.session("a")
        with held_commits(memory):
            working = [Said(n) for n in range(aio.THREADS_MAX)]
            tasks = [asyncio.create_task(session.append(said)) for said in working]
            for said in working:
                await off_loop(said.begun)
            waiting = asyncio.create_task(session.append({"n": "never"}))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await asyncio.gather(*tasks)
        said_numbers = [m["n"] async for m in session.messages()]
        assert sorted(said_numbers) == list(range(aio.THREADS_MAX))

    run(tmp_path, work)


def test_one_call_too_many_is_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "WAITING_MAX", 3)

    async def work(memory: Any) -> None:
        session = memory.session("a")
        with held_commits(memory):
            tasks = [
                asyncio.create_task(session.append({"n": n})) for n in range(aio.THREADS_MAX + 3)
            ]
            await asyncio.sleep(0)
            with pytest.raises(memopt.BackpressureError) as refused:
                await session.append({"n": "too many"})
            assert refused.value.limit == "aio.WAITING_MAX"
        await asyncio.gather(*tasks)
        assert await session.length() == aio.THREADS_MAX + 3

    run(tmp_path, work)


class Slow:
    """The path of a settings file that takes its time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __fspath__(self) -> str:
        self.begun.set()
        self.go_on.wait(WAIT_SECONDS)
        return str(self.file)


def test_a_store_whose_opening_was_cancelled_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("")
    settings = Slow(tmp_path / "settings.toml")

    async def whole() -> None:
        opening_it = asyncio.create_task(opening(tmp_path / "store", config=settings))
        await off_loop(settings.begun)
        opening_it.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening_it
        settings.go_on.set()

    asyncio.run(whole())
    no_thread_is_left()
    memopt.open(tmp_path / "store", create=False, **SETTINGS).close()


def test_long_reads_come_in_batches_while_the_loop_goes_on(tmp_path: Path) -> None:
    async def work(memory: Any) -> None:
        session = memory.session("a")
        for start in range(0, 5000, 1000):
            await session.extend([{"n": n, "text": "x" * 200} for n in range(start, start + 1000)])
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        expected = 0
        async for message in session.messages():
            assert message["n"] == expected
            expected += 1
        ticking.cancel()
        assert expected == 5000
        assert ticks > 5
        # One that is given up midway leaves nothing behind.
        async for message in session.messages():
            assert message["n"] == 0
            break

    run(tmp_path, work)


def test_a_batch_is_bounded_in_items_and_in_bytes() -> None:
    assert len(aio._batch(iter([{"n": 1}] * 10_000))) == 256
    assert len(aio._batch(iter([{"text": "x" * 300_000}] * 100))) == 4
    assert aio._batch(iter([])) == []


@pytest.mark.parametrize("how", ["open", "connect"])
def test_a_subscription_is_an_endless_asynchronous_iterator(tmp_path: Path, how: str) -> None:
    async def work(opened: Any) -> None:
        async with reached(opened, how) as memory:
            session = memory.session("a")
            await session.append({"n": 0})
            async with memory.subscribe(since=0) as subscription:
                await session.append({"n": 1})
                got = []
                async for record in subscription:
                    if record.message is not None:
                        got.append(record.message["n"])
                    if len(got) == 2:
                        break
                assert got == [0, 1]
                assert await subscription.get(0.01) is None
                await session.append({"n": 2})
                assert (await subscription.get()).message == {"n": 2}
            assert await subscription.get() is None

    run(tmp_path, work)


def test_a_record_is_not_lost_with_the_task_that_waited_for_it(tmp_path: Path) -> None:
    async def work(memory: Any) -> None:
        subscription = await memory.subscribe()
        waiting = asyncio.create_task(subscription.get())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await memory.session("a").extend([{"n": 0}, {"n": 1}])
        kinds = [(await subscription.get()).kind for _ in range(3)]
        assert kinds == ["session_created", "message", "message"]
        # Two tasks share what comes, one record each.
        two = [asyncio.create_task(subscription.get()) for _ in range(2)]
        await memory.session("a").extend([{"n": 2}, {"n": 3}])
        assert sorted(r.message["n"] for r in await asyncio.gather(*two)) == [2, 3]
        await subscription.close()

    run(tmp_path, work)


def test_subscriptions_end_with_the_store_and_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "SUBSCRIPTIONS_MAX", 2)

    async def whole() -> None:
        memory = await aio.open(tmp_path, **SETTINGS)
        with pytest.raises(TypeError):
            await memory.subscribe(nonsense=1)
        subscriptions = [await memory.subscribe() for _ in range(2)]
        with pytest.raises(memopt.BackpressureError):
            await memory.subscribe()
        # One waits for a record; the other got one, and nobody waits for its next.
        await memory.session("a").append({"n": 1})
        assert (await subscriptions[0].get()).kind == "session_created"
        for _ in range(2):
            await subscriptions[1].get()
        waiting = asyncio.create_task(subscriptions[1].get())
        await asyncio.sleep(0)
        await memory.close()
        assert await waiting is None

    asyncio.run(whole())
    no_thread_is_left()


def test_a_loop_that_ends_leaves_no_call_behind(tmp_path: Path) -> None:
    said = Said(1)

    async def whole() -> None:
        memory = await aio.open(tmp_path, **SETTINGS)
        appending = asyncio.create_task(memory.session("a").append(said))
        await off_loop(said.begun)
        appending.cancel()
        await memory.close()

    asyncio.run(whole())
    no_thread_is_left()
    with memopt.open(tmp_path, **SETTINGS) as memory:
        assert list(memory.session("a").messages()) == [{"n": 1}]
