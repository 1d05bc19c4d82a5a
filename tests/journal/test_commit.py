"""Many callers, one order: grouped commits under threads, failures and full queues."""

import queue
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock

THREADS = 16
PATIENCE = 30.0
"""Seconds after which a test that waits for another thread has failed."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[memopt.Memory]:
    with opened(tmp_path, clock) as memory:
        yield memory


def opened(path: Path, clock: ManualClock, **settings: Any) -> memopt.Memory:
    settings = {"page_target_bytes": 512, "seal": "full"} | settings
    return memopt.open(
        path / "store", budget="32MiB", durability="os", maintenance_seconds=0, clock=clock,
        **settings,
    )  # fmt: skip


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("what a test waits for did not happen")


class Watched(queue.Queue[Any]):
    """Counts what came and what went."""

    puts = gets = 0

    def _put(self, item: Any) -> None:
        super()._put(item)
        self.puts += 1

    def _get(self) -> Any:
        self.gets += 1
        return super()._get()


class Held:
    """A commit that is under way for as long as the block lasts."""

    def __init__(self, memory: memopt.Memory, member: Callable[[Any], Any] = lambda t: None):
        self._committer = memory._parts.committer
        assert self._committer._thread is None, "nobody waited for a commit before"
        self._queue = self._committer._queue = Watched()  # type: ignore[assignment]
        self._entered, self._go = threading.Event(), threading.Event()
        self._member = member

    def _run(self, transaction: Any) -> Any:
        self._entered.set()
        assert self._go.wait(PATIENCE)
        return self._member(transaction)

    def __enter__(self) -> "Held":
        self._thread = threading.Thread(target=lambda: self._committer.commit(self._run))
        self._thread.start()
        assert self._entered.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def wait_for(self, count: int) -> None:
        """Until so many wait behind it, the first of them in the hand of the committer's thread."""
        until(lambda: self._queue.puts == count and self._queue.gets == min(count, 1))


def test_sixteen_threads_on_four_sessions_are_some_serial_order(memory: memopt.Memory) -> None:
    each, sessions = 40, 4
    start = threading.Barrier(THREADS + 3)
    receipts: list[list[tuple[int, memopt.Receipt]]] = [[] for _ in range(THREADS)]
    running = threading.Event()
    running.set()
    reads = 0

    def write(thread: int) -> None:
        chance = random.Random(thread)
        start.wait(PATIENCE)
        for n in range(each):
            number = chance.randrange(sessions)
            body = {"thread": thread, "n": n, "pad": "x" * chance.randrange(60)}
            receipts[thread].append((number, memory.session(f"s{number}").append(body)))

    def read() -> None:
        nonlocal reads
        start.wait(PATIENCE)
        seen: dict[int, list[Any]] = defaultdict(list)
        while running.is_set():
            for number in range(sessions):
                entries = list(memory.session(f"s{number}").entries())
                assert [entry.seq for entry in entries] == list(range(len(entries)))
                now = [
                    (entry.lsn, entry.message["thread"], entry.message["n"]) for entry in entries
                ]
                assert now[: len(seen[number])] == seen[number]
                seen[number] = now
                reads += 1

    def compact() -> None:
        start.wait(PATIENCE)
        while running.is_set():
            memory.compact()

    with ThreadPoolExecutor(THREADS + 3) as pool:
        background = [pool.submit(read), pool.submit(read), pool.submit(compact)]
        writers = [pool.submit(write, thread) for thread in range(THREADS)]
        try:
            for writer in writers:
                writer.result(PATIENCE)
        finally:
            running.clear()
        for work in background:
            work.result(PATIENCE)
    assert reads
    by_place = {
        (number, receipt.seq): (receipt.lsn, thread, n)
        for thread, own in enumerate(receipts)
        for n, (number, receipt) in enumerate(own)
    }
    assert len(by_place) == THREADS * each
    for number in range(sessions):
        entries = list(memory.session(f"s{number}").entries())
        found = [(e.lsn, e.message["thread"], e.message["n"]) for e in entries]
        assert found == [by_place[number, seq] for seq in range(len(entries))]
        assert found == sorted(found)
        for thread in range(THREADS):
            own = [n for _, writer, n in found if writer == thread]
            assert own == sorted(own)
    assert memory.check().clean
    messages = [r for r in memory.journal() if r.message is not None]
    assert [r.lsn for r in messages] == sorted(place[0] for place in by_place.values())


def test_writers_that_truncate_fork_and_append_leave_no_gap(memory: memopt.Memory) -> None:
    """Whoever moves heads while others append: every read is one state of the session."""
    start = threading.Barrier(6)

    def append(thread: int) -> None:
        start.wait(PATIENCE)
        for n in range(60):
            memory.session("s").append({"thread": thread, "n": n, "pad": "x" * 100})

    def move(thread: int) -> None:
        chance = random.Random(thread)
        start.wait(PATIENCE)
        for n in range(25):
            session = memory.session("s")
            length = len(session)
            try:
                session.truncate(chance.randrange(length + 1), if_head=session.head)
                session.fork(f"fork-{thread}-{n}", at=chance.randrange(length + 1))
            except (memopt.ConflictError, memopt.NotFoundError, memopt.UsageError):
                continue

    def read() -> None:
        start.wait(PATIENCE)
        for _ in range(60):
            for info in memory.sessions("default", limit=1000):
                entries = list(memory.session(info.id).entries())
                assert [entry.seq for entry in entries] == list(range(len(entries)))
                assert [e.lsn for e in entries] == sorted({e.lsn for e in entries})

    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(append, 0), pool.submit(append, 1), pool.submit(append, 2)]
        work += [pool.submit(move, 0), pool.submit(move, 1), pool.submit(read)]
        for done in work:
            done.result(PATIENCE)
    assert memory.check().clean


def test_a_member_that_fails_does_not_hurt_its_batch(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.append({"n": 0})
    head = session.head

    def fails_late(transaction: Any) -> None:
        transaction.next_lsn()
        transaction.tables.meta.put("half", b"written")
        transaction.next_lsn()
        raise ZeroDivisionError

    with Held(memory) as held, ThreadPoolExecutor(5) as pool:
        work: list[Future[Any]] = []
        for call in (
            lambda: memory.session("s").append({"n": 1}),
            lambda: memory.session("s").extend([{"n": 2}, {"n": 3}], if_head=head),
            lambda: memory.session("s").truncate(99),
            lambda: memory._parts.committer.commit(fails_late),
            lambda: memory.session("t").append({"n": 4}),
        ):
            work.append(pool.submit(call))
            held.wait_for(len(work))
        held.__exit__()
        assert work[0].result(PATIENCE).seq == 1
        with pytest.raises(memopt.ConflictError):
            work[1].result(PATIENCE)
        with pytest.raises(memopt.UsageError):
            work[2].result(PATIENCE)
        with pytest.raises(ZeroDivisionError):
            work[3].result(PATIENCE)
        assert work[4].result(PATIENCE).seq == 0
    assert list(session.messages()) == [{"n": 0}, {"n": 1}]
    assert session.append({"n": 5}).seq == 2
    assert memory._parts.metrics.counters["commit_members"] >= 6
    with memory._parts.directory.home.snapshot() as tables:
        assert tables.meta.get("half") is None
    lsns = [record.lsn for record in memory.journal()]
    assert lsns == list(range(1, memory.lsn + 1)), "a failed member gives its LSNs back"


def test_what_waits_is_committed_in_the_order_it_came(memory: memopt.Memory) -> None:
    with Held(memory) as held, ThreadPoolExecutor(8) as pool:
        work = []
        for n in range(8):
            work.append(pool.submit(memory.session("s").append, {"n": n}))
            held.wait_for(n + 1)
        held.__exit__()
        assert [done.result(PATIENCE).seq for done in work] == list(range(8))
    assert [message["n"] for message in memory.session("s").messages()] == list(range(8))
    counters = memory._parts.metrics.counters
    assert counters["commits"] < counters["commit_members"]


def test_a_full_queue_refuses_the_next_caller(tmp_path: Path, clock: ManualClock) -> None:
    with opened(tmp_path, clock, commit_queue_max=2) as memory:
        with Held(memory) as held, ThreadPoolExecutor(3) as pool:
            work = []
            for n in range(3):
                work.append(pool.submit(memory.session("s").append, {"n": n}))
                held.wait_for(n + 1)
            with pytest.raises(memopt.BackpressureError) as refused:
                memory.session("s").append({"n": 3})
            assert refused.value.limit == "commit_queue_max"
            held.__exit__()
            assert {done.result(PATIENCE).seq for done in work} == {0, 1, 2}
        assert memory.session("s").append({"n": 3}).seq == 3


def test_closing_finishes_what_waits_and_refuses_what_comes(
    tmp_path: Path, clock: ManualClock
) -> None:
    memory = opened(tmp_path, clock)
    late = memory.session("late")
    with Held(memory) as held, ThreadPoolExecutor(3) as pool:
        first = pool.submit(memory.session("s").append, {"n": 0})
        held.wait_for(1)
        closing = pool.submit(memory.close)
        until(lambda: memory._parts.committer._closing)
        refused = pool.submit(late.append, {"n": 1})
        with pytest.raises(memopt.StoreClosedError):
            refused.result(PATIENCE)
        held.__exit__()
        assert first.result(PATIENCE).seq == 0
        closing.result(PATIENCE)
    with pytest.raises(memopt.StoreClosedError):
        late.append({"n": 2})
    with opened(tmp_path, clock) as memory:
        assert list(memory.session("s").messages()) == [{"n": 0}]
        assert not len(memory.session("late"))


def test_a_lone_caller_commits_on_its_own_thread(memory: memopt.Memory) -> None:
    threads = [memory._parts.committer.commit(lambda t: threading.current_thread())]
    memory.session("s").append({"n": 0})
    assert threads == [threading.current_thread()]
    assert memory._parts.committer._thread is None


def test_time_never_runs_backwards_in_the_journal(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    session = memory.session("s")
    session.append({"n": 0})
    clock.advance(-3600)
    session.append({"n": 1})
    clock.advance(7200)
    session.append({"n": 2})
    times = [entry.committed_at for entry in session.entries()]
    assert times == sorted(times)
    assert times[0] == times[1] < times[2]


def test_a_failed_commit_leaves_memory_as_it_was(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.append({"n": 0})
    parts = memory._parts
    seen: list[str] = []

    def member(transaction: Any) -> None:
        transaction.on_rollback(seen.append, "first")
        transaction.on_rollback(seen.append, "second")
        transaction.after_commit(lambda: seen.append("committed"))
        transaction.next_lsn()
        transaction.tables.meta.put("x", b"y")
        raise memopt.ConflictError("on purpose", expected=0, actual=1)

    with pytest.raises(memopt.ConflictError) as raised:
        parts.committer.commit(member)
    assert raised.value.__cause__ is None
    assert seen == ["second", "first"]
    with parts.directory.home.snapshot() as tables:
        assert tables.meta.get("x") is None
    lsn = memory.lsn
    assert session.append({"n": 1}).lsn == lsn + 1
    assert seen == ["second", "first"]


def test_an_exclusive_action_runs_between_commits(memory: memopt.Memory) -> None:
    with ThreadPoolExecutor(1) as pool, Held(memory):
        action = pool.submit(memory._parts.committer.exclusive, lambda: "done")
        assert not action.done()
    assert action.result(PATIENCE) == "done"
    memory._parts.committer.exclusive(lambda: memory._parts.directory.home.writer.begin())
    memory._parts.committer.exclusive(lambda: memory._parts.directory.home.writer.rollback(None))


def test_many_first_writers_of_one_session_make_it_once(memory: memopt.Memory) -> None:
    start = threading.Barrier(THREADS)

    def write(n: int) -> memopt.Receipt:
        start.wait(PATIENCE)
        return memory.session("new", scope="acme/user-4").append({"n": n})

    with ThreadPoolExecutor(THREADS) as pool:
        receipts = list(pool.map(write, range(THREADS)))
    assert sorted(receipt.seq for receipt in receipts) == list(range(THREADS))
    created = [r for r in memory.journal() if r.kind is memopt.RecordKind.SESSION_CREATED]
    assert len(created) == 1


def test_one_key_from_many_threads_is_written_once(memory: memopt.Memory) -> None:
    start = threading.Barrier(THREADS)

    def write(n: int) -> memopt.Receipt:
        start.wait(PATIENCE)
        return memory.session("s").append({"n": n}, key="once")

    with ThreadPoolExecutor(THREADS) as pool:
        receipts = list(pool.map(write, range(THREADS)))
    assert len({(receipt.lsn, receipt.seq, receipt.head) for receipt in receipts}) == 1
    assert len(memory.session("s")) == 1


def test_of_many_writers_with_one_head_one_wins(memory: memopt.Memory) -> None:
    head = memory.session("s").append({"n": -1}).head
    start = threading.Barrier(THREADS)

    def write(n: int) -> bool:
        start.wait(PATIENCE)
        try:
            memory.session("s").extend([{"n": n}], if_head=head)
        except memopt.ConflictError:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(write, range(THREADS))) == 1
    assert len(memory.session("s")) == 2
