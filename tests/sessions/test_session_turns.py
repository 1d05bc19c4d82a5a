"""Turns of a real store: what counts as their use, who waits, and what is left when they end."""

import asyncio
import gc
import multiprocessing
import random
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import aio
from memopt.base.clock import ManualClock
from memopt.base.units import KIB, MIB
from memopt.pressure.admission import TICKET_BYTES, Admission
from memopt.sessions.turns import _holds
from waiting import PATIENCE, until


def opened(path: Path, **settings: Any) -> memopt.Memory:
    settings = {
        "budget": "16MiB", "durability": "os", "maintenance_seconds": 0, "ballast_bytes": 0,
        "clock": ManualClock(),
    } | settings  # fmt: skip
    return memopt.open(path / "store", **settings)


def admission_of(memory: memopt.Memory) -> Admission:
    return memory._parts.pressure.admission


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with opened(tmp_path) as memory:
        yield memory
        admission_of(memory).check()
        memory._parts.budget.check()


def said(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"{number} " + "x" * 1000}


def test_what_a_session_reads_and_appends_is_the_use_of_its_turn(memory: memopt.Memory) -> None:
    session, other = memory.session("a"), memory.session("b")
    session.extend([said(n) for n in range(100)])
    with session.turn() as turn:
        assert turn.session is session
        assert turn.used_bytes == 0
        assert turn.admitted_bytes == 256 * KIB
        list(session.messages())
        read = turn.used_bytes
        assert read == pytest.approx(3 * 100 * 1030, rel=0.05)
        # Another handle of the same session, and again: it is held once.
        list(memory.session("a").messages())
        list(session.entries(10, 20))
        assert turn.used_bytes == read
        other.append(said(0))
        assert turn.used_bytes == read
        session.append(said(100))
        assert turn.used_bytes == pytest.approx(read + 3 * 1030, rel=0.05)
        assert turn.admitted_bytes >= turn.used_bytes
        turn.note(-turn.used_bytes)
        assert turn.used_bytes == 0
    assert admission_of(memory).turns == 0
    assert memory.stats().counters["turns"] == 1
    assert memory.stats().counters["turn_peak_bytes"] > read


def test_the_tail_of_a_conversation_counts_and_then_what_came_before_it(
    memory: memopt.Memory,
) -> None:
    session = memory.session("a")
    session.extend([said(n) for n in range(100)])
    with session.turn() as turn:
        list(session.messages(90))
        tail = turn.used_bytes
        list(session.messages(0, 90))
        assert 0 < tail < turn.used_bytes
        whole = turn.used_bytes
        list(session.messages())
        assert turn.used_bytes <= 1.2 * whole


def test_peaks_outlive_the_store(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        session = memory.session("a", agent="coder")
        for _ in range(20):
            with session.turn() as turn:
                turn.note(2 * MIB)
    with opened(tmp_path) as memory, memory.session("b", agent="coder").turn() as turn:
        assert turn.admitted_bytes == int(1.1 * 2 * MIB)
    assert b"coder" not in b"".join(
        path.read_bytes() for path in (tmp_path / "store").iterdir() if "db" not in path.name
    )


def test_peaks_are_written_every_minute_and_only_when_there_are_new_ones(
    memory: memopt.Memory,
) -> None:
    clock = memory._parts.clock
    assert isinstance(clock, ManualClock)
    commits = memory.stats().counters["commits"]
    with memory.session("a").turn():
        pass
    for _ in range(10):
        clock.advance(61.0)
        memory._parts.pressure.look()
        memory._parts.maintenance.once()
    assert memory.stats().counters["commits"] == commits + 1


def test_a_turn_is_entered_once_and_ended_once(memory: memopt.Memory) -> None:
    turn = memory.session("a").turn()
    with pytest.raises(memopt.UsageError):
        _ = turn.used_bytes
    with turn:
        pass
    turn.end()
    with pytest.raises(memopt.UsageError):
        turn.__enter__()
    assert admission_of(memory).turns == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"expected_bytes": -1}, "expected_bytes"),
        ({"expected_bytes": "much"}, "expected_bytes"),
        ({"wait_seconds": -1}, "wait_seconds"),
        ({"wait_seconds": "long"}, "wait_seconds"),
    ],
)
def test_bad_arguments_are_named(
    memory: memopt.Memory, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(memopt.UsageError) as wrong:
        memory.session("a").turn(**arguments)
    assert wrong.value.field == field
    with memory.session("a").turn() as turn, pytest.raises(memopt.UsageError):
        turn.note(1.5)  # type: ignore[arg-type]


def test_collections_of_a_turn_are_gone_with_it(memory: memopt.Memory) -> None:
    with memory.session("a").turn() as turn:
        found = turn.mapping("found")
        found["x"] = {"answer": 42}
        turn.sequence("steps").append("one")
        assert turn.mapping("found")["x"] == {"answer": 42}
    with pytest.raises(memopt.UsageError):
        turn.mapping("found")
    with memory.session("a").turn() as turn:
        assert len(turn.mapping("found")) == 0
        ended: list[int] = []
        turn.at_end(lambda: ended.append(admission_of(memory).turns))
    assert ended == [1]


def test_an_ending_that_fails_ends_the_turn_all_the_same(memory: memopt.Memory) -> None:
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError), memory.session("a").turn() as turn:
        turn.at_end(fail)
    assert admission_of(memory).turns == 0


def test_what_is_held_of_collections_is_the_use_of_the_turn(memory: memopt.Memory) -> None:
    session, value = memory.session("a"), {"text": "x" * 1000}
    session.mapping("notes").update({f"n{n}": value for n in range(10)})
    with session.turn() as turn:
        found = turn.mapping("found")
        for _ in range(5):
            found["x"] = value
            # Set and read again and again: it is held once.
            assert found["x"] == value
        assert turn.used_bytes == pytest.approx(3 * 1013, rel=0.02)
        turn.sequence("steps").extend([value] * 3)
        assert turn.used_bytes == pytest.approx(3 * 4 * 1013, rel=0.02)
        notes = session.mapping("notes")
        for _ in range(5):
            assert notes["n1"] == value
        assert turn.used_bytes == pytest.approx(3 * 5 * 1013, rel=0.02)
        list(memory.session("a").mapping("notes").items())
        assert turn.used_bytes == pytest.approx(3 * 14 * 1013, rel=0.02)
        session.sequence("log").append(value)
        assert list(session.sequence("log")) == [value]
        assert turn.used_bytes == pytest.approx(3 * 16 * 1013, rel=0.02)
        # Those of other sessions and of the scope are not its use.
        memory.session("b").mapping("notes")["x"] = value
        memory.mapping("notes")["x"] = value
        assert turn.used_bytes == pytest.approx(3 * 16 * 1013, rel=0.02)
    with session.turn() as turn:
        assert turn.used_bytes == 0


def test_an_ending_that_fails_keeps_no_other_from_running(memory: memopt.Memory) -> None:
    def fail() -> None:
        raise KeyError("gone")

    ended: list[str] = []
    turn = memory.session("a").turn()
    turn.__enter__()
    turn.mapping("found")["x"] = 1
    turn.at_end(lambda: ended.append("first"))
    turn.at_end(fail)
    with pytest.raises(KeyError):
        turn.end()
    assert ended == ["first"]
    assert memory._parts.sessions.turns._owners.open == {}  # type: ignore[attr-defined]


def test_collections_of_a_turn_that_was_dropped_go_with_the_next(memory: memopt.Memory) -> None:
    turn = memory.session("a").turn()
    turn.__enter__()
    turn.mapping("found")["x"] = 1
    del turn
    gc.collect()
    with memory.session("a").turn() as turn:
        turn.mapping("found")["y"] = 2
        assert len(memory._parts.sessions.turns._owners.open) == 1  # type: ignore[attr-defined]
    assert memory._parts.sessions.turns._owners.open == {}  # type: ignore[attr-defined]


def test_two_threads_that_want_each_others_room_are_refused_and_not_stuck(tmp_path: Path) -> None:
    """Each has one half and wants the other one's: what breaks the circle is that waiting ends."""
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0
    ) as memory:
        admission = admission_of(memory)
        half = admission.capacity_bytes // 2 - KIB
        both = threading.Barrier(2)
        found: list[object] = []

        def work(mine: str, wanted: str) -> None:
            with memory.session(mine).turn(expected_bytes=half):
                both.wait(PATIENCE)
                try:
                    with memory.session(wanted).turn(expected_bytes=half, wait_seconds=0.05):
                        found.append("entered")
                except memopt.BackpressureError as error:
                    found.append(error.retry_after_seconds)

        threads = [threading.Thread(target=work, args=pair) for pair in (("a", "b"), ("b", "a"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(found) == 2
        assert any(isinstance(each, float) and each > 0 for each in found)
        assert admission.turns == admission.waiting == 0
        admission.check()


def test_a_turn_within_a_turn_of_the_same_session(memory: memopt.Memory) -> None:
    session = memory.session("a")
    half = admission_of(memory).capacity_bytes // 2 - KIB
    with session.turn() as outer:
        with session.turn() as inner:
            # What the session does counts for the newest.
            session.append(said(1))
            assert inner.used_bytes > outer.used_bytes == 0
        session.append(said(2))
        assert outer.used_bytes > 0
    with session.turn(expected_bytes=half), pytest.raises(memopt.BackpressureError):
        # Together they are more than a session may have: it waits for itself, and not for ever.
        session.turn(expected_bytes=half, wait_seconds=0.01).__enter__()
    admission_of(memory).check()


def test_a_turn_that_was_dropped_is_ended(memory: memopt.Memory) -> None:
    memory.session("a").turn().__enter__()
    memory._parts.pressure.look()
    assert admission_of(memory).turns == 0


def test_closing_sends_away_turns_that_wait_and_lets_open_ones_end(tmp_path: Path) -> None:
    memory = opened(tmp_path)
    turn = memory.session("a").turn(expected_bytes=16 * MIB)
    other = memory.session("c").turn(expected_bytes=16 * MIB)
    turn.__enter__()
    other.__enter__()
    found: list[BaseException] = []

    def wait() -> None:
        try:
            memory.session("b").turn(expected_bytes=16 * MIB).__enter__()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: admission_of(memory).waiting == 1)
    memory.close()
    thread.join(PATIENCE)
    assert isinstance(found[0], memopt.StoreClosedError)
    turn.end()
    other.end()


def _in_the_child(memory: memopt.Memory, answers: Any) -> None:
    try:
        memory.session("b").turn().__enter__()
        answers.put("entered")
    except memopt.StoreClosedError:
        answers.put("closed")


def test_a_forked_child_has_no_turns_and_the_parent_keeps_its_own(memory: memopt.Memory) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with memory.session("a").turn():
        # As if another thread were within it at the moment of the fork.
        with admission_of(memory)._lock:
            child = context.Process(target=_in_the_child, args=(memory, answers))
            child.start()
        child.join(PATIENCE)
        assert answers.get() == "closed"
        assert admission_of(memory).turns == 1


def _ends_in_the_child(turn: Any, answers: Any) -> None:
    turn.end()
    answers.put("ended")


def test_a_turn_that_ends_in_a_forked_child_goes_on_in_the_parent(memory: memopt.Memory) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with memory.session("a").turn() as turn:
        found = turn.mapping("found")
        found["x"] = 1
        # As if other threads were within them at the moment of the fork.
        with memory._parts.budget._lock, admission_of(memory)._lock:
            child = context.Process(target=_ends_in_the_child, args=(turn, answers))
            child.start()
        child.join(PATIENCE)
        assert child.exitcode == 0
        assert answers.get() == "ended"
        # It has not been deleted in the file that both have open.
        memory._parts.sessions.collections.cache.clear()  # type: ignore[attr-defined]
        assert found["x"] == 1


def test_a_session_may_be_forked_and_deleted_within_its_turn(memory: memopt.Memory) -> None:
    session = memory.session("a")
    session.append(said(1))
    with session.turn():
        with session.fork("b").turn():
            pass
        session.delete()
    assert admission_of(memory).turns == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_anywhere_in_a_turn_leaves_nothing_admitted(memory: memopt.Memory) -> None:
    chance = random.Random(9)
    session = memory.session("a")
    met = 0

    def exchange() -> None:
        with session.turn() as turn:
            turn.note(100)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(3000):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-6, 60e-6))
                    exchange()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                met += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    admission = admission_of(memory)
    # What a frame of a traceback still holds.
    gc.collect()
    with session.turn():
        pass
    assert met > 20
    admission.check()
    assert list(admission._open.values()) == []
    assert admission.waiting == admission.admitted_bytes == 0


def test_a_remote_turn_ends_with_its_connection(memory: memopt.Memory) -> None:
    remote = memopt.connect(memory.path)
    with remote.session("a", agent="x").turn(expected_bytes=MIB) as turn:
        remote.session("a").append(said(1))
        turn.note(5000)
        assert turn.used_bytes > 5000
        assert turn.admitted_bytes == MIB
        with pytest.raises(memopt.UsageError):
            turn.mapping("m")
    assert admission_of(memory).turns == 0
    lost = remote.session("b").turn()
    lost.__enter__()
    assert admission_of(memory).turns == 1
    del lost
    until(lambda: admission_of(memory).turns == 0)
    remote.close()


def test_an_asynchronous_turn_waits_without_a_thread(tmp_path: Path) -> None:
    async def run() -> None:
        async with aio.open(
            tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0
        ) as memory:
            admission = memory._sync._parts.pressure.admission
            large = 16 * MIB

            async def exchange(id: str) -> None:
                async with memory.session(id).turn(expected_bytes=large) as turn:
                    await turn.session.append(said(1))
                    assert turn.admitted_bytes > MIB
                    (await turn.mapping("m"))["x"] = 1
                    assert turn.used_bytes > 1000

            # Far more than there are threads, two at a time.
            await asyncio.gather(*(exchange(f"s{n}") for n in range(60)))
            assert admission.turns == 0
            first = memory.session("a").turn(expected_bytes=large)
            second = memory.session("b").turn(expected_bytes=large)
            async with first, second:
                waiting = asyncio.ensure_future(exchange("c"))
                while not admission.waiting:
                    await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert admission.waiting == 0
                with pytest.raises(memopt.BackpressureError):
                    async with memory.session("d").turn(wait_seconds=0.001, expected_bytes=large):
                        pass
            admission.check()
            assert admission.turns == admission.waiting == 0

    asyncio.run(run())


def test_closing_does_not_wait_for_a_client_that_waits_for_its_turn(tmp_path: Path) -> None:
    memory = opened(tmp_path)
    remote = memopt.connect(memory.path)
    held = [memory.session(f"h{n}").turn(expected_bytes=16 * MIB) for n in range(2)]
    for turn in held:
        turn.__enter__()
    found: list[BaseException] = []

    def wait() -> None:
        try:
            remote.session("b").turn(expected_bytes=16 * MIB).__enter__()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: admission_of(memory).waiting == 1)
    memory.close()
    thread.join(PATIENCE)
    assert isinstance(found[0], memopt.StoreClosedError)
    remote.close()


def test_a_turn_occupies_no_more_than_it_is_charged(memory: memopt.Memory) -> None:
    sessions = [memory.session(f"s{n}") for n in range(200)]
    turns = [session.turn(expected_bytes=1) for session in sessions]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for session, turn in zip(sessions, turns, strict=True):
            turn.__enter__()
            # It has a table of the keys that it holds, too.
            _holds(admission_of(memory), turn._entered(), ("mapping", session.id, b"k"), 1)
        gc.collect()
        occupied = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for turn in turns:
        turn.end()
    assert 0.3 * TICKET_BYTES < occupied / len(turns) <= TICKET_BYTES
