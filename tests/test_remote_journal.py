"""The journal through the owner's socket: what a client that reads on costs the owner."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.client.connection import CONNECTIONS_MAX
from memopt.owner import door
from memopt.owner.reads import BATCH_ITEMS_MAX, OWNER, JournalReader
from memopt.stores.entry_tables import SqliteEntryIndex
from waiting import until

BATCHES = 4


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="64MiB", durability="os", maintenance_seconds=0
    ) as memory:
        memory.mapping("m").update({f"k{n}": n for n in range(BATCHES * BATCH_ITEMS_MAX)})
        memory.session("a").extend([{"n": n} for n in range(BATCH_ITEMS_MAX)])
        yield memory
        memory._parts.budget.check()


@pytest.fixture
def remote(memory: memopt.Memory) -> Iterator[memopt.Memory]:
    with memopt.connect(memory.path) as remote:
        yield remote
    until(lambda: owner_bytes(memory) == 0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each look at all the entries, told by the LSN behind which it is."""
    seen = []
    look = SqliteEntryIndex.since

    def since(self: SqliteEntryIndex, after_lsn: int, limit: int) -> Any:
        seen.append(after_lsn)
        return look(self, after_lsn, limit)

    monkeypatch.setattr(SqliteEntryIndex, "since", since)
    return seen


def owner_bytes(memory: memopt.Memory) -> int:
    return memory._parts.budget.held_bytes(OWNER)


def test_a_remote_journal_looks_at_the_entries_as_often_as_a_local_one(
    memory: memopt.Memory, remote: memopt.Memory, looks: list[int]
) -> None:
    here = list(memory.journal())
    assert len(here) > BATCHES * BATCH_ITEMS_MAX
    assert looks == [0]
    there = []
    for record in remote.journal():
        there.append(record)
        if len(there) % 100 == 0:
            # Other calls meanwhile have other connections.
            assert remote.lsn == memory.lsn
    assert there == here
    assert looks == [0, 0]


def test_what_a_journal_keeps_is_reserved_until_the_client_leaves_it(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    reading = remote.journal()
    next(reading)
    until(lambda: owner_bytes(memory) > BATCHES * BATCH_ITEMS_MAX * 1024)
    del reading
    until(lambda: owner_bytes(memory) == 0)
    assert len(list(remote.journal())) > BATCHES * BATCH_ITEMS_MAX
    until(lambda: owner_bytes(memory) == door._CLIENT_BYTES)


def test_a_journal_that_finds_no_room_at_the_owner_is_read_all_the_same(
    memory: memopt.Memory, remote: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = list(memory.journal())
    reserve = memory._parts.budget.reserve

    def refuse(owner: str, size_bytes: int) -> None:
        if owner == OWNER and size_bytes > 1 << 20:
            raise memopt.BudgetError("full", limit="budget")
        reserve(owner, size_bytes)

    monkeypatch.setattr(memory._parts.budget, "reserve", refuse)
    reading = remote.journal()
    there = list(itertools.islice(reading, 10))
    assert owner_bytes(memory) == door._CLIENT_BYTES
    assert [*there, *reading] == here


def test_many_journals_at_a_time_are_read_to_their_ends(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    here = list(memory.journal())
    readings = [remote.journal() for _ in range(3 * CONNECTIONS_MAX)]
    for records in zip(*readings, here, strict=True):
        assert all(record == records[-1] for record in records)
    until(lambda: owner_bytes(memory) <= CONNECTIONS_MAX * door._CLIENT_BYTES)


def test_a_journal_gives_up_its_connection_where_the_owner_lets_no_more_in(tmp_path: Path) -> None:
    with (
        memopt.open(
            tmp_path, durability="os", maintenance_seconds=0, socket_clients_max=1
        ) as memory,
        memopt.connect(tmp_path) as remote,
    ):
        memory.session("a").extend([{"n": n} for n in range(2 * BATCH_ITEMS_MAX)])
        here, there = list(memory.journal()), []
        for record in remote.journal():
            there.append(record)
            assert remote.lsn == memory.lsn
        assert there == here


def test_a_journal_goes_on_when_its_connection_was_let_go(
    memory: memopt.Memory, remote: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = list(memory.journal())
    monkeypatch.setattr(door, "IDLE_SECONDS", 0.01)
    with memopt.connect(memory.path) as hasty:
        reading = hasty.journal()
        there = list(itertools.islice(reading, BATCH_ITEMS_MAX))
        until(lambda: owner_bytes(memory) <= door._CLIENT_BYTES)  # of the other one
        assert [*there, *reading] == here


def test_hanging_up_ends_a_journal(memory: memopt.Memory) -> None:
    remote = memopt.connect(memory.path)
    reading = remote.journal()
    next(reading)
    remote.close()
    until(lambda: owner_bytes(memory) == 0)
    with pytest.raises(memopt.StoreClosedError):
        list(reading)


@pytest.mark.parametrize("cursor", [{"since": -1}, {"since": 0, "up_to": -1}, {"up_to": "x"}])
def test_a_place_that_is_none_is_refused(memory: memopt.Memory, cursor: dict[str, Any]) -> None:
    reader = JournalReader(memory)
    with pytest.raises(memopt.UsageError):
        reader.batch(**cursor)
    assert reader.batch(0, 0) == [[], None]
