"""The embedded home: its log, its room, its checksums, and what it leaves alone."""

import contextlib
import itertools
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

import memopt
from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.errors import BackpressureError, CorruptionError, StoreError
from memopt.journal.recovery import LogFacts, judge_log
from memopt.stores.sqlite import SqliteHome

WAL_LIMIT = 256 << 10
SEAL = 96 << 10
"""At most what the commit that seals adds to the log, with its index entries."""


def opened(path: Path, **settings: Any) -> memopt.Memory:
    defaults: dict[str, Any] = {
        "budget": "32MiB", "durability": "os", "maintenance_seconds": 0, "ballast_bytes": 0,
        "wal_limit_bytes": WAL_LIMIT, "clock": ManualClock(),
    }  # fmt: skip
    return memopt.open(path, **(defaults | settings))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with opened(tmp_path / "store") as memory:
        yield memory


def home_of(memory: memopt.Memory) -> SqliteHome:
    return memory._parts.directory.home


def wal_file_bytes(memory: memopt.Memory) -> int:
    return home_of(memory).wal_path.stat().st_size


# -- the log --------------------------------------------------------------------------------------


def test_the_writer_keeps_the_log_within_its_limit(memory: memopt.Memory) -> None:
    for number in range(600):
        memory.session(f"s{number % 7}").append({"n": number, "text": "x" * 2000})
        assert memory.stats().wal_bytes <= WAL_LIMIT + SEAL
    assert wal_file_bytes(memory) <= WAL_LIMIT + SEAL


def test_one_commit_larger_than_the_limit_leaves_no_long_log(memory: memopt.Memory) -> None:
    sequence = memory.sequence("s")
    for _ in range(20):
        sequence.extend(["x" * 200] * 500)
    sizes: list[int] = []
    checkpoint = home_of(memory).checkpoint_restart

    def watched(**arguments: Any) -> bool:
        sizes.append(wal_file_bytes(memory))
        return checkpoint(**arguments)

    home_of(memory).checkpoint_restart = watched  # type: ignore[method-assign]
    for change in (lambda: sequence.insert(5000, "new"), sequence.reverse, sequence.clear):
        sizes.clear()
        change()
        # It is one commit, so it is in the log as a whole; and then it is not.
        assert max(sizes) > 4 * WAL_LIMIT
        assert wal_file_bytes(memory) == 0
        sequence.append("goes on")
        assert wal_file_bytes(memory) < WAL_LIMIT
    assert list(sequence) == ["goes on"]
    assert memory.check().clean


def test_a_reader_that_holds_a_snapshot_lets_the_log_grow_until_writers_are_turned_away(
    memory: memopt.Memory,
) -> None:
    session = memory.session("a")
    session.append({"n": -1})
    with home_of(memory).snapshot() as tables:
        assert tables.sessions.find("default", "a")
        taken = itertools.count()

        def fill() -> None:
            while True:
                session.append({"n": next(taken), "text": "x" * 2000})

        with pytest.raises(BackpressureError) as refused:
            fill()
        assert refused.value.limit == "wal_limit_bytes"
        assert refused.value.retry_after_seconds > 0
        assert 4 * WAL_LIMIT < memory.stats().wal_bytes < 5 * WAL_LIMIT
        # Reading goes on, for others, and nothing that was taken is missing.
        number = next(taken)
        with ThreadPoolExecutor(1) as others:
            assert others.submit(len, session).result() == number
        with pytest.raises(BackpressureError):
            memory.session("b").save_state({"n": 1})
    # Nobody else writes and no thread helps: the next call itself finds that the reader is gone.
    session.append({"n": 0})
    assert len(session) == number + 1
    session.append({"n": 0})
    assert memory.stats().wal_bytes < WAL_LIMIT


def test_a_reader_in_the_way_costs_a_writer_no_long_wait(memory: memopt.Memory) -> None:
    memory.session("a").append({"n": 0})
    waits = []
    checkpoint = home_of(memory).checkpoint_restart

    def watched(*, truncate: bool, wait_seconds: float = 10.0) -> bool:
        waits.append(wait_seconds)
        return checkpoint(truncate=truncate, wait_seconds=wait_seconds)

    home_of(memory).checkpoint_restart = watched  # type: ignore[method-assign]
    with home_of(memory).snapshot() as tables:
        tables.sessions.find("default", "a")
        while memory.stats().wal_bytes < 3 * WAL_LIMIT:
            memory.session("a").append({"text": "x" * 2000})
    assert 10 < len(waits) < 40, "each commit beyond the limit tries again"
    assert max(waits) <= 0.1


def test_the_log_that_is_begun_anew_is_known_by_its_salt(memory: memopt.Memory) -> None:
    acked = memory._parts.directory.acked
    salts = set()
    for number in range(400):
        memory.session("a").append({"n": number, "text": "x" * 2000})
        assert acked.record.wal_salt == home_of(memory).wal_salt() != 0
        assert acked.record.wal_frames == home_of(memory).wal_state().frames
        assert acked.record.wal_home <= acked.record.wal_frames
        salts.add(acked.record.wal_salt)
    assert len(salts) > 3


def test_at_no_moment_does_the_page_say_more_than_there_is(memory: memopt.Memory) -> None:
    acked, home = memory._parts.directory.acked, home_of(memory)
    write, seen = acked._write, []

    def watched() -> None:
        write()
        if not home.writer.connection.get_autocommit():
            return  # The log cannot be asked, nor has it changed.
        record, found = acked.record, home.wal_state()
        facts = LogFacts(
            record.wal_salt, record.wal_frames, record.wal_home, record.wal_copying, found.salt,
            found.frames,
        )  # fmt: skip
        assert not judge_log(facts).is_short, record
        assert not judge_log(facts).is_stale, record
        seen.append(record.wal_salt)

    acked._write = watched  # type: ignore[method-assign]
    for number in range(300):
        memory.session("a").append({"n": number, "text": "x" * 2000})
    memory.compact()
    memory.session("a").append({"n": 0})
    assert len(set(seen)) > 3


def test_the_page_is_synced_before_the_log_is_cut(memory: memopt.Memory) -> None:
    directory, home = memory._parts.directory, home_of(memory)
    memory.session("a").append({"n": 1})
    sync, cut, synced = directory.acked.sync, home.checkpoint_restart, []

    def noted() -> None:
        sync()
        synced.append(directory.acked.record.wal_home)

    def watched(*, truncate: bool, wait_seconds: float = 10.0) -> bool:
        if truncate:
            assert synced
            assert synced[-1] == directory.acked.record.wal_frames > 0
        return cut(truncate=truncate, wait_seconds=wait_seconds)

    directory.acked.sync = noted  # type: ignore[method-assign]
    home.checkpoint_restart = watched  # type: ignore[method-assign]
    assert memory._parts.committer.exclusive(lambda: directory.checkpoint(truncate=True))
    assert wal_file_bytes(memory) == 0
    home.checkpoint_restart = cut  # type: ignore[method-assign]


def test_a_commit_that_comes_while_the_log_is_copied_home_notices_that_it_began_anew(
    memory: memopt.Memory,
) -> None:
    directory, home = memory._parts.directory, home_of(memory)
    for number in range(50):
        memory.session("a").append({"n": number, "text": "x" * 2000})
    copy = home.checkpoint_passive

    def slow() -> Any:
        state = copy()
        # All is home, and the page does not say so yet: this commit begins the log anew.
        memory.session("a").append({"n": 0})
        assert directory.acked.record.wal_frames < 10
        assert directory.acked.record.wal_salt == home.wal_salt()
        assert directory.acked.record.wal_home == 0
        return state

    home.checkpoint_passive = slow  # type: ignore[method-assign]
    directory.checkpoint_passive()
    record = directory.acked.record
    assert record.wal_home <= record.wal_frames < 10


def test_a_header_that_was_damaged_is_no_log(memory: memopt.Memory) -> None:
    memory.session("a").append({"n": 1})
    home = home_of(memory)
    whole = home.wal_path.read_bytes()
    assert home.wal_salt() == int.from_bytes(whole[16:24], "big") != 0
    try:
        for byte in range(32):
            for bit in range(8):
                damaged = bytearray(whole)
                damaged[byte] ^= 1 << bit
                home.wal_path.write_bytes(damaged)
                assert home.wal_salt() == 0, (byte, bit)
        home.wal_path.write_bytes(whole[:31])
        assert home.wal_salt() == 0
    finally:
        home.wal_path.write_bytes(whole)


def test_closing_leaves_no_log_behind(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.session("a").append({"n": 1})
        assert wal_file_bytes(memory) > 0
    assert not (tmp_path / "memopt.db-wal").exists()
    with opened(tmp_path) as memory:
        assert memory.stats().lost_records == 0
        assert memory.stats().notes == ()


def test_lsns_stay_dense_over_a_close_and_rise_over_a_kill(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        first = memory.session("a").append({"n": 1}).lsn
    with opened(tmp_path) as memory:
        assert memory.session("a").append({"n": 2}).lsn == first + 1


# -- snapshots ------------------------------------------------------------------------------------


def open_snapshots(memory: memopt.Memory) -> int:
    return sum(not reader.connection.get_autocommit() for reader in home_of(memory)._readers._all)


def test_no_read_transaction_outlives_a_call(memory: memopt.Memory, tmp_path: Path) -> None:
    session = memory.session("a")
    session.extend([{"n": n, "text": "x" * 900} for n in range(100)])
    session.save_state({"n": 1})
    half_read: list[Iterator[Any]] = [session.messages(), session.entries(), memory.journal()]
    calls: list[Any] = [
        lambda: len(session), lambda: session.head, memory.stats, memory.sessions, memory.check,
        session.load_state, session.states, lambda: memory.pages("a"), memory.compact,
        lambda: memory.backup(tmp_path / "copy"),
        lambda: list(memory.at(5).session("a").messages()),
        *(lambda each=each: next(each) for each in half_read),
    ]  # fmt: skip
    for call in calls:
        call()
        assert open_snapshots(memory) == 0
    with contextlib.suppress(memopt.NotFoundError):
        memory.session("nobody").pop()
    assert open_snapshots(memory) == 0
    assert memory.stats().oldest_reader_seconds == 0.0


def test_a_snapshot_that_ends_in_an_error_is_given_back(memory: memopt.Memory) -> None:
    memory.session("a").append({"n": 1})
    for _ in range(20):
        with pytest.raises(AttributeError), home_of(memory).snapshot() as tables:
            assert tables.sessions.find("default", "a").nothing  # type: ignore[union-attr]
    assert open_snapshots(memory) == 0


def test_more_readers_than_connections_wait_for_each_other(memory: memopt.Memory) -> None:
    memory.session("a").append({"n": 1})
    found = []

    def read() -> None:
        for _ in range(20):
            with home_of(memory).snapshot() as tables:
                found.append(tables.sessions.find("default", "a") is not None)

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 240
    assert len(home_of(memory)._readers._all) <= 4


# -- room -----------------------------------------------------------------------------------------


def test_free_pages_are_given_back_a_bounded_number_at_a_time(tmp_path: Path) -> None:
    budget = Budget(32 << 20)
    home = SqliteHome(tmp_path / "memopt.db", budget)
    connection = home.writer.connection
    home.writer.begin()
    for page in range(500):
        home.writer.tables.meta.put(f"m{page}", bytes(3000))
    home.writer.commit()
    home.writer.begin()
    for page in range(500):
        home.writer.tables.meta.delete(f"m{page}")
    home.writer.commit()
    free = connection.pragma("freelist_count")
    assert free > 400
    left = home.vacuum(100)
    assert free - 101 <= left <= free - 100
    while left:
        before, left = left, home.vacuum(100)
        assert before - left <= 101
    assert connection.pragma("page_count") < 100
    home.close(checkpoint=True)
    assert budget.used_bytes == 0
    assert (tmp_path / "memopt.db").stat().st_size < 100 * 4096


def test_compact_gives_the_room_of_what_was_deleted_back_to_the_disk(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        for number in range(60):
            memory.session(f"s{number}").extend(
                [
                    {"n": n, "text": random.Random(100 * number + n).randbytes(500).hex()}
                    for n in range(10)
                ]
            )
        memory.compact()
        full = memory.stats().disk_bytes
        for number in range(60):
            memory.session(f"s{number}").delete()
        report = memory.compact()
        assert report.disk_bytes_after < full / 2


def test_deleted_bytes_are_in_no_file_after_a_checkpoint(tmp_path: Path) -> None:
    canary = b"canary-in-the-coal-mine"
    home = SqliteHome(tmp_path / "memopt.db", Budget(32 << 20))

    def found() -> list[str]:
        return [file.name for file in tmp_path.iterdir() if canary in file.read_bytes()]

    home.writer.begin()
    home.writer.tables.meta.put("small", canary)
    home.writer.tables.meta.put("large", canary + bytes(20_000) + canary)
    home.writer.commit()
    assert found() == ["memopt.db-wal"]
    home.checkpoint_restart(truncate=True)
    assert found() == ["memopt.db"]
    home.writer.begin()
    home.writer.tables.meta.delete("small")
    home.writer.tables.meta.delete("large")
    home.writer.commit()
    assert found() == ["memopt.db"]
    home.checkpoint_restart(truncate=True)
    assert found() == []
    home.close(checkpoint=True)


# -- checksums, and the rest of the process -------------------------------------------------------


def test_pages_carry_checksums_and_a_damaged_one_is_reported(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        chance = random.Random(1)
        for number in range(50):
            memory.session("a").append({"n": number, "text": chance.randbytes(1000).hex()})
        connection = home_of(memory).writer.connection
        if not home_of(memory).page_checksums:
            pytest.skip("this apsw has no checksum VFS")
        assert int(connection.pragma("checksum_verification")) == 1
        assert home_of(memory).integrity() == []
    content = bytearray((tmp_path / "memopt.db").read_bytes())
    assert content[20] == 8, "no room is kept in the pages for checksums"
    for offset in range(10 * 4096, len(content), 4096):
        # Without the pages of the schema nothing can be opened.
        if b"CREATE" not in content[offset : offset + 4096]:
            content[offset + 1000 : offset + 1040] = b"\xa5" * 40
    (tmp_path / "memopt.db").write_bytes(content)
    with opened(tmp_path) as memory:
        with pytest.raises(CorruptionError):
            list(memory.session("a").messages())
        assert not memory.check().clean


def test_other_users_of_sqlite_in_the_process_see_no_difference(tmp_path: Path) -> None:
    # Which VFS is the default is a matter of the process, so this takes one of its own.
    script = """
import apsw, sqlite3, sys
from pathlib import Path
default = apsw.vfs_names()[0]
import memopt
with memopt.open(sys.argv[1]) as memory:
    memory.session("a").append({"n": 1})
    assert apsw.vfs_names()[0] == default, apsw.vfs_names()
    for connect in (apsw.Connection, sqlite3.connect):
        path = Path(sys.argv[1]) / f"{connect.__module__}.other"
        other = connect(str(path))
        other.execute("CREATE TABLE t (x)")
        other.close()
        assert path.read_bytes()[20] == 0
assert apsw.vfs_names()[0] == default
print("same")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "same\n", done.stderr


def test_errors_of_sqlite_become_ours(tmp_path: Path) -> None:
    home = SqliteHome(tmp_path / "memopt.db", Budget(32 << 20))
    home.writer.begin()
    home.writer.begin()  # once is enough, twice does no harm
    with pytest.raises(StoreError), home.writer.savepoint():
        home.writer.tables.lines._execute("SELECT nothing FROM nowhere")
    home.writer.rollback(None)
    with pytest.raises(CorruptionError), home.snapshot():
        raise apsw.exception_for(apsw.SQLITE_CORRUPT)
    home.close(checkpoint=True)
    with pytest.raises(StoreError):
        home.snapshot()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "memopt.db").write_bytes(b"not a database at all" * 500)
    for _ in range(2):
        with pytest.raises(CorruptionError):
            opened(tmp_path)


def test_lookups_within_snapshots_do_not_wait_for_each_other(memory: memopt.Memory) -> None:
    home = home_of(memory)
    memory.session("a").append({"n": 0})
    gate = threading.Barrier(4)
    found: list[int] = []

    def read() -> None:
        with home.snapshot():
            gate.wait(10)
            with home.lookup() as tables:
                found.append(len(tables.tail.scan((0, 0), 10)))
            gate.wait(10)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [1, 1, 1, 1]
    assert len(home._readers._all) <= 5
