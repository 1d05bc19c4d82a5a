"""What a committer does when something fails under it: whom it tells, and whether it goes on."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.base.errors import CorruptionError, DiskFullError, StoreFailedError
from memopt.base.events import Committed
from memopt.journal.commit import CommitTransaction, _Waiting


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    memory = memopt.open(
        tmp_path / "store", budget="32MiB", durability="os", maintenance_seconds=0,
        ballast_bytes=0, clock=ManualClock(),
    )  # fmt: skip
    yield memory
    memory.close()


def put(name: str) -> Callable[[CommitTransaction], int]:
    def member(transaction: CommitTransaction) -> int:
        lsn = transaction.next_lsn()
        transaction.tables.meta.put(name, str(lsn).encode())
        return lsn

    return member


def stored(memory: memopt.Memory, *names: str) -> list[int | None]:
    with memory._parts.directory.home.snapshot() as tables:
        return [int(value) if (value := tables.meta.get(n)) else None for n in names]


def batch(memory: memopt.Memory, *members: Callable[[CommitTransaction], Any]) -> list[_Waiting]:
    """Run members in one batch, as the committer thread does."""
    waiting = [_Waiting(member) for member in members]
    committer = memory._parts.committer
    with committer._lock:
        committer._commit_batch(waiting)
    return waiting


def test_a_member_that_fails_takes_nothing_of_the_others_with_it(memory: memopt.Memory) -> None:
    def fails(transaction: CommitTransaction) -> None:
        put("b")(transaction)
        raise memopt.ConflictError("somebody was first", expected=1, actual=2)

    first, second, third = batch(memory, put("a"), fails, put("c"))
    assert isinstance(second.error, memopt.ConflictError)
    assert first.error is None
    assert third.error is None
    assert (first.result, third.result) == (1, 2)
    assert stored(memory, "a", "b", "c") == [1, None, 2]


def test_damage_that_ends_the_transaction_under_a_batch_fails_its_finder_alone(
    memory: memopt.Memory,
) -> None:
    connection = memory._parts.directory.home.writer.connection

    def finds_damage(transaction: CommitTransaction) -> None:
        # SQLite ends a transaction by itself when a page in it cannot be read.
        put("b")(transaction)
        connection.execute("ROLLBACK")
        raise apsw.exception_for(apsw.SQLITE_CORRUPT)

    before = memory.lsn
    first, second, third, fourth = batch(
        memory, put("a"), finds_damage, put("c"), put("d")
    )  # fmt: skip
    assert isinstance(second.error, CorruptionError)
    results = [first.result, third.result, fourth.result]
    assert [w.error for w in (first, third, fourth)] == [None, None, None]
    assert sorted(set(results)) == results
    assert stored(memory, "a", "b", "c", "d") == [results[0], None, *results[1:]]
    assert memory.lsn == results[-1] == before + 3
    assert memory.session("x").append({"n": 1}).lsn > memory.lsn - 3


def test_a_full_disk_fails_the_batch_and_can_be_retried(memory: memopt.Memory) -> None:
    full = [True]

    def finds_no_room(transaction: CommitTransaction) -> None:
        if full[0]:
            raise apsw.exception_for(apsw.SQLITE_FULL)
        put("b")(transaction)

    for waiting in batch(memory, put("a"), finds_no_room, put("c")):
        assert isinstance(waiting.error, DiskFullError)
    assert stored(memory, "a", "b", "c") == [None, None, None]
    full[0] = False
    assert [w.error for w in batch(memory, put("a"), finds_no_room, put("c"))] == [None] * 3
    assert stored(memory, "a", "b", "c") == [1, 2, 3]


def test_nothing_is_acknowledged_before_it_is_committed(memory: memopt.Memory) -> None:
    acked = memory._parts.directory.acked
    writer = memory._parts.directory.home.writer
    commit, seen = writer.commit, []

    def watched() -> None:
        seen.append(acked.record.lsn)
        commit()
        seen.append(acked.record.lsn)

    writer.commit = watched  # type: ignore[method-assign]
    lsn = memory._parts.committer.commit(put("a"))
    assert seen == [lsn - 1, lsn - 1]
    assert acked.record.lsn == lsn


def test_a_commit_that_cannot_be_concluded_is_there_and_is_the_last_one(
    memory: memopt.Memory,
) -> None:
    def member(transaction: CommitTransaction) -> None:
        put("a")(transaction)
        transaction.after_commit(lambda: memory.session("x").nothing)  # type: ignore[attr-defined]

    with pytest.raises(StoreFailedError, match="could not be concluded"):
        memory._parts.committer.commit(member)
    assert stored(memory, "a") == [1]
    for _ in range(2):
        with pytest.raises(StoreFailedError, match="open it again"):
            memory.session("x").append({"n": 1})


def test_a_sync_that_fails_between_commits_closes_the_store_too(memory: memopt.Memory) -> None:
    def fails() -> None:
        raise StoreFailedError("the disk failed")

    with pytest.raises(StoreFailedError):
        memory._parts.committer.exclusive(fails)
    with pytest.raises(StoreFailedError, match="open it again"):
        memory.session("x").append({"n": 1})
    assert memory._parts.directory.acked.record.sync_failed == 1


def test_an_interrupt_in_a_member_undoes_it_and_the_store_goes_on(memory: memopt.Memory) -> None:
    def member(transaction: CommitTransaction) -> None:
        put("a")(transaction)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory._parts.committer.commit(member)
    assert stored(memory, "a") == [None]
    assert memory._parts.committer.commit(put("b")) == 1


def test_an_interrupt_at_the_end_of_a_commit_closes_the_store(memory: memopt.Memory) -> None:
    writer = memory._parts.directory.home.writer
    commit = writer.commit

    def interrupted() -> None:
        commit()
        raise KeyboardInterrupt

    writer.commit = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        memory._parts.committer.commit(put("a"))
    writer.commit = commit  # type: ignore[method-assign]
    with pytest.raises(StoreFailedError, match="interrupted"):
        memory.session("x").append({"n": 1})
    # LSN 1 is taken, and is not handed out again.
    assert stored(memory, "a") == [1]


def test_a_limit_of_lsns_is_stored_with_the_first_of_them(memory: memopt.Memory) -> None:
    memory._parts.committer.commit(put("a"))
    [limit] = stored(memory, "lsn_limit")
    assert limit is not None
    assert limit >= 1000
    for _ in range(limit + 5):
        memory._parts.committer.commit(put("a"))
    [later] = stored(memory, "lsn_limit")
    assert later is not None
    assert later > memory.lsn > limit
    assert memory._parts.directory.acked.record.lsn_limit == later


def test_a_signal_handler_within_a_commit_is_refused_rather_than_waited_for(
    memory: memopt.Memory,
) -> None:
    """Here the member stands for the handler: both run on the thread that holds the lock."""
    session, committer = memory.session("s"), memory._parts.committer
    refused: list[memopt.StoreError] = []

    def handler(transaction: CommitTransaction) -> None:
        for call in (lambda: session.append({"n": 1}), memory.close, memory.compact):
            with pytest.raises(memopt.StoreError, match="within a commit") as caught:
                call()
            refused.append(caught.value)

    committer.commit(handler)
    assert len(refused) == 3
    assert session.append({"n": 2}).seq == 0


def test_a_thread_that_cannot_start_is_said_so_and_is_no_obstacle_later(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer = memory._parts.committer

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(committer, "_may_go_alone", lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(memopt.BackpressureError, match="thread"):
            memory.session("s").append({"n": 1})
    assert memory.session("s").append({"n": 2}).seq == 0


def test_a_slow_commit_makes_nobody_wait_for_long_and_no_batch_too_large(tmp_path: Path) -> None:
    with memopt.open(
        tmp_path / "slow", budget="32MiB", durability="os", maintenance_seconds=0,
        commit_batch_max=3,
    ) as memory:  # fmt: skip
        committer = memory._parts.committer
        members: list[int] = []
        emit = committer._events.emit

        def watched(event: Any) -> None:
            if isinstance(event, Committed):
                members.append(event.members)
            emit(event)

        committer._events.emit = watched
        commit = committer._writer.commit
        full = threading.Event()

        class Noting(queue.SimpleQueue[Any]):
            count = 0

            def put(self, item: Any, *more: Any, **named: Any) -> None:
                super().put(item, *more, **named)
                self.count += 1
                if self.count == 7:
                    full.set()

        assert committer._thread is None, "nobody waits at the queue yet"
        committer._queue = Noting()

        def slow() -> None:
            # All others wait by then.
            assert full.wait(60.0)
            commit()

        committer._writer.commit = slow  # type: ignore[method-assign]

        def work(thread: int) -> None:
            for number in range(12):
                memory.session(f"s{thread}").append({"n": number})

        threads = [threading.Thread(target=work, args=(each,)) for each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(members) == 3
        committer._commit_seconds = 600.0
        committer._expected = 3
        started = time.monotonic()
        memory.session("s0").append({"n": 12})
        assert time.monotonic() - started < 1.0
        assert len(memory.session("s0")) == 13
