"""Turns through the owner's socket: who waits, who leaves, and what is left of the connections."""

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import aio
from memopt.base.units import MIB
from memopt.client.connection import CONNECTIONS_MAX, _Connection
from memopt.codecs import wire
from memopt.owner import door
from memopt.owner.bell import Bell
from memopt.pressure.admission import Admission
from waiting import PATIENCE, until

LARGE = 16 * MIB
"""Two turns of it fit, each of a session of its own."""
FOR_EVER: dict[str, Any] = {"expected_bytes": LARGE, "wait_seconds": 3600.0}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0
    ) as memory:
        yield memory
        if not memory._closed:
            until(lambda: admission_of(memory).turns == admission_of(memory).waiting == 0)
            admission_of(memory).check()
            memory._parts.budget.check()


@pytest.fixture
def remote(memory: memopt.Memory) -> Iterator[memopt.Memory]:
    with memopt.connect(memory.path) as remote:
        yield remote


@pytest.fixture
def full(memory: memopt.Memory) -> Iterator[list[Any]]:
    """Turns that leave no room for another."""
    turns = [memory.session(f"full{n}").turn(expected_bytes=LARGE) for n in range(2)]
    for turn in turns:
        turn.__enter__()
    yield turns
    for turn in turns:
        turn.end()


def admission_of(memory: memopt.Memory) -> Admission:
    return memory._parts.pressure.admission


async def becomes(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, condition)


def connected(memory: memopt.Memory, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on a connection, and see that none of its threads is left."""

    async def whole() -> None:
        async with aio.connect(memory.path) as remote:
            await asyncio.wait_for(work(remote), PATIENCE)

    asyncio.run(whole())
    for thread in threading.enumerate():
        if thread.name.startswith(("memopt-aio", "memopt-client")):
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread.name


def clients(memory: memopt.Memory) -> int:
    return memory.stats().owners.get("owner socket", 0) // door._CLIENT_BYTES


# -- who waits ------------------------------------------------------------------------------------


def test_remote_turns_that_wait_do_not_hold_up_the_one_that_they_wait_for(
    memory: memopt.Memory,
) -> None:
    count = aio.THREADS_MAX + 2

    async def work(remote: Any) -> None:
        async def exchange(n: int) -> None:
            async with remote.session(f"s{n}").turn(**FOR_EVER) as turn:
                await turn.session.append({"n": n})

        async with (
            remote.session("a").turn(**FOR_EVER) as first,
            remote.session("b").turn(**FOR_EVER),
        ):
            waiting = [asyncio.ensure_future(exchange(n)) for n in range(count)]
            await becomes(lambda: admission_of(memory).waiting == count)
            await first.session.append({"n": "held"})
            first.note(1000)
            assert first.used_bytes > 1000
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)

    connected(memory, work)
    assert [len(memory.session(f"s{n}")) for n in range(count)] == [1] * count


def test_a_remote_turn_is_refused_by_the_owner_when_its_wait_is_over(
    memory: memopt.Memory, full: list[Any]
) -> None:
    async def work(remote: Any) -> None:
        turn = remote.session("a").turn(expected_bytes=LARGE, wait_seconds=0.001)
        with pytest.raises(memopt.BackpressureError) as refused:
            async with turn:
                pass
        assert refused.value.limit == "turn_wait_seconds"
        assert refused.value.retry_after_seconds is not None
        with pytest.raises(memopt.UsageError, match="entered once"):
            async with turn:
                pass

    connected(memory, work)


# -- who leaves -----------------------------------------------------------------------------------


def test_an_asynchronous_remote_turn_that_is_cancelled_leaves_the_queue(
    memory: memopt.Memory, full: list[Any]
) -> None:
    async def work(remote: Any) -> None:
        waiting = asyncio.ensure_future(remote.session("a").turn(**FOR_EVER).__aenter__())
        await becomes(lambda: admission_of(memory).waiting == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await becomes(lambda: admission_of(memory).waiting == 0)
        # The connection that carried it is gone, the other goes on.
        await remote.session("a").append({"n": 1})
        await becomes(lambda: clients(memory) == 1)

    connected(memory, work)


def test_hanging_up_sends_away_turns_that_wait(memory: memopt.Memory, full: list[Any]) -> None:
    async def work(remote: Any) -> None:
        waiting = asyncio.ensure_future(remote.session("a").turn(**FOR_EVER).__aenter__())
        await becomes(lambda: admission_of(memory).waiting == 1)
        await remote.close()
        with pytest.raises(memopt.StoreClosedError, match="this connection"):
            await waiting

    connected(memory, work)
    until(lambda: admission_of(memory).waiting == 0)


def test_hanging_up_ends_turns_that_are_open(memory: memopt.Memory) -> None:
    remote = memopt.connect(memory.path)
    with remote.session("a").turn() as turn:
        remote.close()
        until(lambda: admission_of(memory).turns == 0)
        with pytest.raises(memopt.StoreClosedError, match="this connection"):
            turn.note(1)
    until(lambda: clients(memory) == 0)


def test_a_client_that_is_killed_while_its_turn_waits_leaves_the_queue(
    memory: memopt.Memory, full: list[Any]
) -> None:
    script = f"""
        import sys, memopt
        with memopt.connect(sys.argv[1]) as memory:
            with memory.session("a").turn(expected_bytes={LARGE}, wait_seconds=3600):
                print("let in")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(memory.path)], stdout=subprocess.PIPE
    )
    try:
        until(lambda: admission_of(memory).waiting == 1)
    finally:
        process.kill()
        process.wait(PATIENCE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read() == b""
    until(lambda: admission_of(memory).waiting == 0)
    until(lambda: clients(memory) == 0)
    assert admission_of(memory).turns == len(full)


def test_a_client_that_does_not_wait_for_its_answer_is_let_in_all_the_same(
    memory: memopt.Memory, remote: memopt.Memory, full: list[Any]
) -> None:
    connection = remote._pool._take()  # type: ignore[attr-defined]
    connection.send(("Session", "default", "a", None, None), "turn", FOR_EVER)
    until(lambda: admission_of(memory).waiting == 1)
    note = [["Session", "default", "a", None, None], "turn_note", {"size_bytes": 7}, False]
    connection._channel.connection.sendall(wire.frame(note, 1000))
    full[0].end()
    assert connection.answer() is None
    connection._is_asked = True
    assert connection.answer()[0] == 7
    connection.close()


def test_a_bell_may_be_rung_before_and_after_and_often() -> None:
    bell = Bell()
    client, other = door.socket.socketpair()
    with client, other:
        for _ in range(100_000):
            bell.ring()
        assert bell.wait(PATIENCE, client)
        assert bell.wait(0, client)
        bell.close()
        bell.ring()
        bell = Bell()
        other.close()
        assert not bell.wait(PATIENCE, client)
        bell.close()


# -- what is left ---------------------------------------------------------------------------------


def test_a_remote_turn_whose_owner_closed_says_so_and_ends(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    with remote.session("a").turn() as turn:
        memory.close()
        for _ in range(2):
            with pytest.raises(memopt.StoreClosedError):
                turn.note(1)
        with pytest.raises(memopt.StoreClosedError):
            _ = turn.used_bytes
    with pytest.raises(memopt.UsageError):
        turn.note(1)


def test_what_cannot_travel_does_not_end_the_turn(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    with remote.session("a").turn() as turn:
        with pytest.raises(memopt.UsageError):
            turn.note(2**70)
        with pytest.raises(memopt.UsageError):
            turn.note("much")  # type: ignore[arg-type]
        turn.note(7)
        assert turn.used_bytes == 7
        assert admission_of(memory).turns == 1


@pytest.mark.parametrize("how", ["open", "connect"])
def test_an_ending_that_finds_something_closed_is_heard_and_keeps_no_other_from_running(
    memory: memopt.Memory, remote: memopt.Memory, how: str
) -> None:
    said: list[int] = []

    def fail() -> None:
        raise memopt.StoreClosedError("something else is closed")

    turn = {"open": memory, "connect": remote}[how].session("a").turn()
    turn.__enter__()
    turn.at_end(lambda: said.append(1))
    turn.at_end(fail)
    turn.at_end(lambda: said.append(2))
    with pytest.raises(memopt.StoreClosedError, match="something else"):
        turn.end()
    assert said == [2, 1]
    assert admission_of(memory).turns == 0


def test_connections_of_turns_that_ended_are_not_kept(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    turns = [remote.session(f"s{n}").turn(expected_bytes=1) for n in range(3 * CONNECTIONS_MAX)]
    for turn in turns:
        turn.__enter__()
    assert clients(memory) >= len(turns)
    for turn in turns:
        turn.end()
    assert len(remote._pool._idle) == CONNECTIONS_MAX  # type: ignore[attr-defined]
    until(lambda: clients(memory) == CONNECTIONS_MAX)
    assert remote.session("a").append({"n": 1}).seq == 0


def test_a_ctrl_c_leaves_no_answer_for_the_next_call(
    memory: memopt.Memory, remote: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object) -> object:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with remote.subscribe() as subscription:
        monkeypatch.setattr(_Connection, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            subscription.get(0)
        assert subscription.get(0) is None
        monkeypatch.setattr(_Connection, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remote.session("a").append({"n": 1})
        assert isinstance(remote.lsn, int)
        record = subscription.get()
        assert record is not None
        assert record.session == "a"
