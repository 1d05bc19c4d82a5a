"""How long a mapping is: counted once a run, beside the commits, and never wrong afterwards."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.errors import StoreFailedError, UsageError
from memopt.codecs.entry import pack_value
from memopt.journal.commit import _Waiting
from memopt.stores.entry_tables import SqliteEntryIndex


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    """With a mapping of five keys that nobody has counted."""

    def opened() -> memopt.Memory:
        return memopt.open(
            tmp_path / "store", budget="8MiB", durability="os", maintenance_seconds=0,
            ballast_bytes=0,
        )  # fmt: skip

    with opened() as memory:
        memory.mapping("m").update(dict.fromkeys("abcde", 1))
    with opened() as memory:
        yield memory


def test_counting_waits_for_no_commit(memory: memopt.Memory) -> None:
    mapping = memory.mapping("m")
    lengths: list[int] = []
    thread = threading.Thread(target=lambda: lengths.append(len(mapping)))

    def while_committing() -> list[int]:
        thread.start()
        thread.join(10)
        return list(lengths)

    try:
        assert memory._parts.committer.exclusive(while_committing) == [5]
    finally:
        thread.join()
    mapping["new"] = 1
    assert len(mapping) == 6


@pytest.mark.parametrize("is_left_open", [False, True])
def test_what_a_failed_store_holds_can_be_counted(
    memory: memopt.Memory, is_left_open: bool
) -> None:
    mapping = memory.mapping("m")
    assert mapping["a"] == 1
    [row] = memory._parts.sessions.collections.rows._rows.values()  # type: ignore[attr-defined]
    # A commit that could not be concluded leaves its change under way.
    row.writers += is_left_open
    memory._parts.committer._disk_failed(StoreFailedError("no more"))
    assert len(mapping) == 5


@pytest.mark.parametrize("times", range(4))
def test_a_count_that_was_overtaken_is_not_believed(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    mapping = memory.mapping("m")
    count, left = SqliteEntryIndex.count, list(range(times))

    def overtaken(self: Any, collection: int) -> int:
        counted = count(self, collection)
        if left:
            mapping[left.pop()] = 1
        return counted

    monkeypatch.setattr(SqliteEntryIndex, "count", overtaken)
    assert len(mapping) == 5 + times
    assert left == []
    del mapping["a"]
    assert len(mapping) == len(list(mapping)) == 4 + times


def test_a_count_between_a_failed_member_and_the_next_is_not_added_to(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = memory.mapping("m")
    assert mapping["a"] == 1
    made: Any = memory._parts.sessions.collections
    [ref] = made.rows._rows
    read = made.rows._row_in

    def put(key: bytes) -> Any:
        packed = pack_value(made.engine.compressor, b"\x01\x09")
        return lambda t: made._mappings._put(t, ref, made.rows.draft(t, ref), key, packed)

    def fail(transaction: Any) -> None:
        put(b"s2")(transaction)
        raise UsageError("on purpose")

    def overtaken(*arguments: Any) -> Any:
        row = read(*arguments)
        assert made.rows.counted(row, row.version, 5)
        return row

    monkeypatch.setattr(made.rows, "_row_in", overtaken)
    batch = [_Waiting(member) for member in (put(b"s1"), fail, put(b"s3"))]
    committer: Any = memory._parts.committer
    committer._alone(committer._commit_batch, batch)
    assert [waiting.ran for waiting in batch] == [True, False, True]
    assert list(mapping) == [*"abcde", "1", "3"]
    assert len(mapping) == 7
