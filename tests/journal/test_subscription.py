"""Who listens gets every record once, in order, after its commit, or is told what it missed."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import RecordKind
from memopt.base.clock import ManualClock

PATIENCE = 30.0
"""Seconds after which a test that waits for another thread has failed."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="32MiB", durability="os", maintenance_seconds=0,
        page_target_bytes=512, clock=ManualClock(),
    ) as memory:  # fmt: skip
        yield memory


def drain(subscription: Any) -> list[memopt.JournalRecord]:
    records = []
    while (record := subscription.get(timeout=0)) is not None:
        records.append(record)
    return records


def test_records_come_after_their_commit_in_order(memory: memopt.Memory) -> None:
    session = memory.session("s", scope="acme/ann")
    with memory.subscribe() as subscription:
        assert subscription.get(timeout=0) is None
        receipt = session.append({"n": 0}, actor="ann")
        session.extend([{"n": 1}, {"n": 2}])
        session.save_state({"x": 1}, name="plan")
        session.truncate(1)
        session.redact(0)
        session.fork("f")
        session.delete()
        records = drain(subscription)
    kinds = [record.kind for record in records]
    assert kinds == [
        RecordKind.SESSION_CREATED, RecordKind.MESSAGE, RecordKind.MESSAGE, RecordKind.MESSAGE,
        RecordKind.STATE_SAVED, RecordKind.HEAD_MOVED, RecordKind.REDACTED, RecordKind.FORKED,
        RecordKind.SESSION_DELETED,
    ]  # fmt: skip
    lsns = [record.lsn for record in records]
    assert lsns == list(range(1, len(records) + 1))
    message = records[1]
    assert (message.lsn, message.seq, message.actor) == (receipt.lsn, 0, "ann")
    assert (message.scope, message.session, message.message) == ("acme/ann", "s", {"n": 0})
    assert records[4].state == "plan"
    assert records[-1].session is None


def test_what_listeners_get_is_what_the_journal_keeps(memory: memopt.Memory) -> None:
    with memory.subscribe() as subscription:
        for n in range(30):
            memory.session(f"s{n % 3}").append({"n": n, "pad": "x" * 100})
            if n % 7 == 0:
                memory.session(f"s{n % 3}").truncate(n // 7)
        memory.session("s0").save_state([1, 2])
        live = drain(subscription)
    assert live == list(memory.journal())


def test_what_was_rolled_back_is_told_to_nobody(memory: memopt.Memory) -> None:
    with memory.subscribe() as subscription:
        head = memory.session("s").append({"n": 0}).head
        with pytest.raises(memopt.ConflictError):
            memory.session("s").extend([{"n": 1}], if_head=head + 1)
        with pytest.raises(memopt.ConflictError):
            memory.session("s").fork("s")
        memory.session("s").append({"n": 2})
        assert [r.message for r in drain(subscription) if r.message] == [{"n": 0}, {"n": 2}]


def test_since_gives_what_was_and_then_what_comes(memory: memopt.Memory) -> None:
    session = memory.session("s")
    lsns = [session.append({"n": n}).lsn for n in range(20)]
    with memory.subscribe(since=lsns[9]) as subscription:
        session.append({"n": 20})
        records = drain(subscription)
        session.append({"n": 21})
        records += drain(subscription)
    assert [r.message["n"] for r in records if r.message] == list(range(10, 22))


def test_between_history_and_live_there_is_neither_hole_nor_double(memory: memopt.Memory) -> None:
    total, stop = 400, threading.Event()

    def write() -> None:
        for n in range(total):
            memory.session(f"s{n % 3}").append({"n": n})
            if n == total // 8:
                stop.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        assert stop.wait(PATIENCE)
        with memory.subscribe(since=0) as subscription:
            found: list[int] = []
            while len(found) < total:
                record = subscription.get(PATIENCE)
                assert record is not None
                if record.message is not None:
                    found.append(record.message["n"])
            writer.result(PATIENCE)
    assert found == list(range(total))


def test_a_commit_that_is_under_way_is_not_missed(memory: memopt.Memory) -> None:
    """One that began before anybody listened has decided already that nobody is told."""
    entered, go = threading.Event(), threading.Event()
    transcripts = memory._parts.sessions.transcripts
    memory.session("s").append({"n": 0})
    original = transcripts._append

    def slow(*arguments: Any) -> Any:
        entered.set()
        assert go.wait(PATIENCE)
        return original(*arguments)

    with ThreadPoolExecutor(2) as pool:
        transcripts._append = slow  # type: ignore[method-assign]
        writing = pool.submit(memory.session("s").append, {"n": 1})
        assert entered.wait(PATIENCE)
        subscribing = pool.submit(memory.subscribe, since=0)
        with contextlib.suppress(TimeoutError):
            # It may not come back before the commit did; where it does, what follows fails.
            subscribing.exception(timeout=0.1)
        go.set()
        writing.result(PATIENCE)
        with subscribing.result(PATIENCE) as subscription:
            assert [r.message["n"] for r in drain(subscription) if r.message] == [0, 1]


def test_one_that_falls_behind_loses_the_oldest_and_is_told(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.append({"n": -1})
    with memory.subscribe(pending_max=3) as subscription:
        lsns = [session.append({"n": n}).lsn for n in range(10)]
        gap, *rest = drain(subscription)
        assert (gap.kind, gap.lsn, gap.message) == (RecordKind.GAP, lsns[6], None)
        assert [record.lsn for record in rest] == lsns[7:]
        again = session.append({"n": 10})
        assert [record.lsn for record in drain(subscription)] == [again.lsn]
        missed = list(memory.journal(since=lsns[0] - 1))[:7]
        assert [record.lsn for record in missed] == lsns[:7]


def test_a_gap_within_the_history_is_no_gap(memory: memopt.Memory) -> None:
    session = memory.session("s")
    for n in range(10):
        session.append({"n": n})
    with memory.subscribe(since=0, pending_max=2) as subscription:
        first = subscription.get(PATIENCE)
        assert first is not None
        for n in range(10, 20):
            session.append({"n": n})
        records = drain(subscription)
    kinds = [record.kind for record in records]
    seen = [record.message["n"] for record in records if record.message]
    assert kinds.count(RecordKind.GAP) == 1
    assert seen == [*range(10), 18, 19]
    lsns = [record.lsn for record in records]
    assert lsns == sorted(set(lsns))


def test_closing_the_store_ends_every_subscription(memory: memopt.Memory) -> None:
    subscription = memory.subscribe()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [record.lsn for record in subscription])
        memory.session("s").append({"n": 0})
        memory.close()
        assert reading.result(PATIENCE) in ([], [1], [1, 2])
    assert subscription.get(timeout=0) is None
    with pytest.raises(memopt.StoreClosedError):
        memory.subscribe()


def test_a_closed_subscription_costs_nothing_more(memory: memopt.Memory) -> None:
    subscriptions = memory._parts.subscriptions
    one, two = memory.subscribe(), memory.subscribe()
    one.close()
    assert subscriptions.has_listeners()
    memory.session("s").append({"n": 0})
    assert one.get(timeout=0) is None
    assert len(drain(two)) == 2
    two.close()
    assert not subscriptions.has_listeners()


def test_nobody_who_does_not_read_holds_a_writer_up(memory: memopt.Memory) -> None:
    with memory.subscribe(pending_max=5), memory.subscribe(pending_max=1) as slow:
        for n in range(50):
            memory.session("s").append({"n": n})
        assert len(slow._pending) == 1


@pytest.mark.parametrize("pending_max", [0, -1])
def test_a_subscription_holds_at_least_one(memory: memopt.Memory, pending_max: int) -> None:
    with pytest.raises(memopt.UsageError) as refused:
        memory.subscribe(pending_max=pending_max)
    assert refused.value.field == "pending_max"


def test_what_a_listener_has_not_read_is_charged_and_limited(tmp_path: Path) -> None:
    with memopt.open(
        tmp_path / "small", budget="8MiB", durability="os", maintenance_seconds=0
    ) as memory:
        budget = memory._parts.budget
        with memory.subscribe() as listener:
            for number in range(400):
                memory.session("s").append({"n": number, "pad": "x" * 14_000})
                assert budget.owners()["subscriptions"] <= budget.limit_bytes // 4
            first = listener.get(timeout=1)
            assert first is not None
            assert first.kind is memopt.RecordKind.GAP
            rest = [listener.get(timeout=1) for _ in range(10)]
            assert [record.lsn for record in rest if record] == [
                *range(first.lsn + 1, first.lsn + 11)
            ]
        assert budget.owners()["subscriptions"] == 0
        assert len(memory.session("s")) == 400
