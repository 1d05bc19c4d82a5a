"""The simulated disk under a plain SQLite in WAL mode: what survives, what fails, what fills up."""

import contextlib
import ctypes
import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from memopt.base.errors import UsageError
from memopt.testing.disk import VFS_NAME, Call, Fault, FaultyDisk, PowerLoss

every_loss = pytest.mark.parametrize("mode", list(PowerLoss))


def connect(path: str, synchronous: str = "full") -> apsw.Connection:
    """A connection set up the way memopt's home sets up its own."""
    connection = apsw.Connection(path, vfs=VFS_NAME)
    try:
        reserve = ctypes.c_int(8)
        code = apsw.SQLITE_FCNTL_RESERVE_BYTES
        connection.file_control("main", code, ctypes.addressof(reserve))
        for pragma in (
            "page_size=4096",
            "auto_vacuum=incremental",
            f"synchronous={synchronous}",
            "journal_mode=wal",
            "secure_delete=on",
            "wal_autocheckpoint=0",
        ):
            connection.execute(f"pragma {pragma}").fetchall()
    except apsw.Error:
        close(connection)
        raise
    return connection


def close(connection: apsw.Connection) -> None:
    """Close on a disk that may be failing: SQLite's last checkpoint may then raise."""
    try:
        connection.close()
    except apsw.Error:
        connection.close()


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """As apsw's own, but SQLite may already have rolled back when a disk call has failed."""
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except apsw.Error:
        if connection.in_transaction:
            with contextlib.suppress(apsw.Error):
                connection.execute("rollback")
        raise


def make(connection: apsw.Connection) -> None:
    with transaction(connection):
        connection.execute("create table counter(n)")
        connection.execute("insert into counter values(0)")
        connection.execute("create table filler(body)")


def count_to(connection: apsw.Connection, number: int, rng: random.Random) -> None:
    """One commit that moves the counter, adds a row or drops some, and touches several pages."""
    with transaction(connection):
        connection.execute("update counter set n=?", (number,))
        if rng.random() < 0.7:
            connection.execute("insert into filler values(?)", (rng.randbytes(2000),))
        else:
            connection.execute("delete from filler where rowid % 3 = 0")


def checkpoint(connection: apsw.Connection, kind: str) -> None:
    connection.execute(f"pragma wal_checkpoint({kind})").fetchall()


def work(
    connection: apsw.Connection, commits: int, acknowledge: Callable[[int], None] = lambda _: None
) -> None:
    rng = random.Random(7)
    make(connection)
    acknowledge(0)
    for number in range(1, commits + 1):
        count_to(connection, number, rng)
        acknowledge(number)
        if number % 5 == 0:
            connection.execute("pragma incremental_vacuum(4)").fetchall()
            checkpoint(connection, rng.choice(["passive", "truncate"]))


def counter_of(disk: FaultyDisk) -> int | None:
    """What a recovered database counts, None without its table; asserts that it is consistent."""
    connection = apsw.Connection(disk.path("a.db"), vfs=VFS_NAME)
    try:
        assert connection.pragma("integrity_check") == "ok"
        if not connection.execute("select 1 from sqlite_schema where name='counter'").get:
            return None
        return int(connection.execute("select n from counter").get)
    finally:
        connection.close()


def counted_after(disk: FaultyDisk, rng: random.Random, mode: PowerLoss) -> int | None:
    with disk.lose_power(rng, mode) as after:
        return counter_of(after)


# -- power ----------------------------------------------------------------------------------------


@every_loss
def test_a_synced_commit_survives_every_power_loss(mode: PowerLoss) -> None:
    rng = random.Random(1)
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"))

        def crash(number: int) -> None:
            for _ in range(3):
                assert counted_after(disk, rng, mode) == number

        work(connection, 30, crash)
        connection.close()


@every_loss
def test_power_lost_at_any_disk_call_keeps_what_was_acknowledged(mode: PowerLoss) -> None:
    rng = random.Random(2)
    for at in itertools.count(1, 3):
        with FaultyDisk() as disk:
            acknowledged: list[int] = []
            disk.fail(at=at, repeat=True)
            try:
                connection = connect(disk.path("a.db"))
                try:
                    work(connection, 6, acknowledged.append)
                finally:
                    close(connection)
            except apsw.Error:
                assert disk.faults_raised
            last = acknowledged[-1] if acknowledged else None
            # The commit under way may have become durable before the call that failed.
            expected = {last, 0 if last is None else min(last + 1, 6)}
            for _ in range(2):
                assert counted_after(disk, rng, mode) in expected
            if not disk.faults_raised:
                break
    assert last == 6


@every_loss
def test_normal_loses_a_suffix_of_the_commits_and_never_consistency(mode: PowerLoss) -> None:
    rng = random.Random(3)
    counted = set()
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"), "normal")
        work(connection, 5)  # its checkpoint syncs all five

        for number in range(6, 16):
            count_to(connection, number, rng)
        counted = {counted_after(disk, rng, mode) for _ in range(60)}
        connection.close()
    assert counted <= set(range(5, 16))
    assert min(n for n in counted if n is not None) < 15, "nothing was ever lost"
    assert mode is PowerLoss.DROP_ALL or len(counted) > 3


@every_loss
def test_without_syncs_the_disk_does_lose_data(mode: PowerLoss) -> None:
    rng = random.Random(4)
    lost = 0
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"), "off")
        work(connection, 12)
        for _ in range(20):
            with disk.lose_power(rng, mode) as after:
                try:
                    lost += counter_of(after) != 12
                except (apsw.Error, AssertionError):
                    lost += 1  # without syncs, consistency goes as well
        connection.close()
    assert lost > 0


@pytest.mark.parametrize(("synchronous", "survives"), [("full", False), ("extra", True)])
def test_a_synced_deletion_survives_as_sqlite_expects(synchronous: str, survives: bool) -> None:
    # With a rollback journal the deletion of the journal is the commit. Only EXTRA syncs it.
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"), synchronous)
        make(connection)
        assert connection.execute("pragma journal_mode=delete").get == "delete"
        connection.execute("update counter set n=1")
        assert (counted_after(disk, random.Random(0), PowerLoss.DROP_ALL) == 1) is survives
        connection.close()


def test_a_killed_process_loses_nothing_even_without_syncs() -> None:
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"), "off")
        work(connection, 12)
        with disk.kill() as after:
            assert counted_after(after, random.Random(0), PowerLoss.DROP_ALL) != 12
            assert counter_of(after) == 12
        connection.close()


def test_the_same_seed_gives_the_same_crash_states() -> None:
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"), "off")
        work(connection, 12)

        def states(seed: int) -> list[dict[str, bytes]]:
            rng = random.Random(seed)
            crashed = [disk.lose_power(rng) for _ in range(20)]
            return [{name: after.read_file(name) for name in after.files()} for after in crashed]

        assert states(5) == states(5)
        assert states(5) != states(6)
        connection.close()


def test_a_power_loss_leaves_the_disk_and_its_connections_as_they_were() -> None:
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"), "off")
        work(connection, 7)
        disk.lose_power(random.Random(0), "drop_all").close()
        count_to(connection, 8, random.Random(0))
        assert connection.execute("select n from counter").get == 8
        connection.close()
        assert counter_of(disk) == 8


# -- several connections --------------------------------------------------------------------------


def test_connections_share_the_wal_and_readers_keep_their_snapshots() -> None:
    with FaultyDisk() as disk:
        writer = connect(disk.path("a.db"))
        make(writer)
        readers = [connect(disk.path("a.db")) for _ in range(3)]
        for reader in readers:
            reader.execute("begin")
            assert reader.execute("select n from counter").get == 0
        count_to(writer, 1, random.Random(0))
        checkpoint(writer, "passive")
        assert [reader.execute("select n from counter").get for reader in readers] == [0, 0, 0]
        for reader in readers:
            reader.execute("commit")
        assert [reader.execute("select n from counter").get for reader in readers] == [1, 1, 1]
        with transaction(writer), pytest.raises(apsw.BusyError):
            count_to(readers[0], 3, random.Random(0))
        for connection in [writer, *readers]:
            connection.close()


def test_reads_see_writes_that_no_sync_has_covered() -> None:
    with FaultyDisk() as disk:
        writer = connect(disk.path("a.db"), "off")
        make(writer)
        reader = connect(disk.path("a.db"), "off")
        synced = disk.calls_by_kind[Call.SYNC]
        count_to(writer, 1, random.Random(0))
        assert reader.execute("select n from counter").get == 1
        assert disk.calls_by_kind[Call.SYNC] == synced
        assert counted_after(disk, random.Random(0), PowerLoss.DROP_ALL) != 1
        writer.close()
        reader.close()


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", list(Fault))
@pytest.mark.parametrize("repeat", [False, True])
def test_a_walk_over_the_nth_call_ends_and_never_breaks_the_database(
    error: Fault, repeat: bool
) -> None:
    untouched = 0
    for at in itertools.count(1):
        with FaultyDisk() as disk:
            acknowledged: list[int] = []
            disk.fail(at=at, error=error, repeat=repeat)
            try:
                connection = connect(disk.path("a.db"))
                try:
                    work(connection, 2, acknowledged.append)
                    checkpoint(connection, "truncate")
                finally:
                    close(connection)
            except (apsw.IOError, apsw.CantOpenError, apsw.FullError):
                assert disk.faults_raised
            disk.heal()
            assert disk.open_files == 0
            assert (counter_of(disk) or 0) >= max(acknowledged, default=0)
            if not disk.faults_raised:
                untouched = disk.calls
                break
    assert acknowledged == [0, 1, 2]
    assert error is not Fault.EIO or at > untouched / 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("eio", apsw.SQLITE_IOERR_WRITE),
        ("enospc", apsw.SQLITE_FULL),
        ("eio_sync", apsw.SQLITE_IOERR_FSYNC),
    ],
)
def test_a_fault_is_the_sqlite_error_it_claims_to_be(error: str, code: int) -> None:
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"))
        make(connection)
        disk.fail(at=1, error=error)
        with pytest.raises(apsw.Error) as raised:
            connection.execute("update counter set n=1")
        assert vars(raised.value)["extendedresult"] == code
        assert disk.faults_raised == 1
        connection.execute("update counter set n=2")  # the fault came once
        assert connection.execute("select n from counter").get == 2
        connection.close()


def test_a_failed_sync_can_be_made_good_unless_the_system_forgets() -> None:
    for error, survives in (("eio_sync", True), ("eio_sync_forget", False)):
        with FaultyDisk() as disk:
            connection = connect(disk.path("a.db"))
            make(connection)
            disk.fail(at=1, error=error)
            with pytest.raises(apsw.IOError):
                count_to(connection, 1, random.Random(0))
            with disk.kill() as killed:
                again = connect(killed.path("a.db"))
                again.execute("update counter set n=2")
                assert again.execute("select n from counter").get == 2
                after = counted_after(killed, random.Random(0), PowerLoss.DROP_ALL)
                assert (after == 2) is survives
                again.close()
            connection.close()


def test_a_repeated_fault_ends_when_it_is_healed() -> None:
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"))
        make(connection)
        disk.fail(at=2, error="eio_sync", repeat=True)
        count_to(connection, 1, random.Random(0))
        for _ in range(3):
            with pytest.raises(apsw.IOError):
                count_to(connection, 2, random.Random(0))
        assert disk.faults_raised == 3
        disk.heal()
        count_to(connection, 3, random.Random(0))
        assert disk.faults_raised == 3
        connection.close()


def test_a_simulated_error_that_no_one_gets_is_not_shown_and_others_are() -> None:
    script = """
import apsw
from memopt.testing.disk import VFS_NAME, FaultyDisk

class Loud:
    def __del__(self):
        raise RuntimeError("shown")

disk = FaultyDisk()
for at in range(1, 60):
    disk = FaultyDisk()
    disk.fail(at=at, repeat=True)
    try:
        connection = apsw.Connection(disk.path("a.db"), vfs=VFS_NAME)
        script = "pragma journal_mode=wal; create table t(a); insert into t values(1)"
        connection.execute(script).fetchall()
    except apsw.Error:
        pass
Loud()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "shown" in done.stderr
    assert "disk call" not in done.stderr


def test_calls_are_counted_from_one() -> None:
    with pytest.raises(UsageError):
        FaultyDisk().fail(at=0)


# -- room -----------------------------------------------------------------------------------------


def test_a_full_disk_refuses_writes_and_goes_on_reading_and_recovers() -> None:
    with FaultyDisk(capacity_bytes=300_000) as disk:
        ballast = disk.directory / "ballast"
        ballast.write_bytes(bytes(100_000))
        connection = connect(disk.path("a.db"))
        make(connection)
        with contextlib.suppress(apsw.FullError):
            for number in range(1, 1000):
                count_to(connection, number, random.Random(0))
        assert 1 < number < 999
        assert 190_000 < sum(disk.files().values()) <= 200_000
        assert connection.execute("select n from counter").get == number - 1

        ballast.unlink()
        connection.execute("delete from filler")
        connection.execute("pragma incremental_vacuum").fetchall()
        checkpoint(connection, "truncate")
        assert disk.files()["a.db-wal"] == 0
        count_to(connection, number, random.Random(0))
        connection.close()
        assert counter_of(disk) == number


def test_a_write_on_a_full_disk_is_cut_where_the_room_ends() -> None:
    disk = FaultyDisk(capacity_bytes=1000)
    disk.write_file("a", bytes(600))
    with pytest.raises(OSError) as raised:
        disk.write_file("b", b"x" * 500)
    assert raised.value.errno == errno.ENOSPC
    assert disk.files() == {"a": 600, "b": 400}
    disk.delete_file("a")
    disk.write_file("b", b"x" * 500)
    assert disk.files() == {"b": 500}


# -- files ----------------------------------------------------------------------------------------


def test_files_that_are_not_sqlites_are_durable_once_synced() -> None:
    rng = random.Random(8)
    disk = FaultyDisk()
    disk.write_file("acked", b"1" * 1024)
    assert {"acked" in disk.lose_power(rng).files() for _ in range(40)} == {True, False}
    disk.sync_file("acked")
    disk.write_file("acked", b"2" * 1024)
    assert disk.read_file("acked") == b"2" * 1024
    kept = {disk.lose_power(rng, "torn").read_file("acked") for _ in range(200)}
    assert {b"1" * 1024, b"", b"2" * 512} <= kept
    assert any(len(content) % 512 for content in kept)
    assert {disk.lose_power(rng, "drop_all").read_file("acked")} == {b"1" * 1024}
    assert disk.kill().read_file("acked") == b"2" * 1024
    for missing in (disk.read_file, disk.sync_file, disk.delete_file):
        with pytest.raises(FileNotFoundError):
            missing("nothing")


def test_a_deletion_may_be_undone_by_a_power_loss_until_the_directory_is_synced() -> None:
    rng = random.Random(9)
    disk = FaultyDisk()
    disk.write_file("old", b"x")
    disk.sync_file("old")
    disk.delete_file("old")
    assert disk.files() == {}
    assert {"old" in disk.lose_power(rng, "reorder").files() for _ in range(40)} == {True, False}


def test_real_files_in_the_directory_are_carried_over_a_crash() -> None:
    with FaultyDisk() as disk:
        (disk.directory / "lock").write_bytes(b"pid")
        connection = connect(disk.path("a.db"))
        with disk.kill() as killed, disk.lose_power(random.Random(0)) as after:
            for crashed in (killed, after):
                assert "lock" not in crashed.files()
                assert (crashed.directory / "lock").read_bytes() == b"pid"
        connection.close()
        directory = disk.directory
    assert not directory.exists()


def test_a_snapshot_can_be_restored_more_than_once() -> None:
    with FaultyDisk() as disk:
        connection = connect(disk.path("a.db"), "off")
        make(connection)
        snapshot = disk.snapshot()
        count_to(connection, 1, random.Random(0))
        with pytest.raises(UsageError):
            disk.restore(snapshot)
        connection.close()
        for _ in range(2):
            disk.restore(snapshot)
            assert counter_of(disk) == 0
            connection = connect(disk.path("a.db"))
            count_to(connection, 5, random.Random(0))
            connection.close()
            assert counter_of(disk) == 5
        with FaultyDisk(snapshot) as other:
            assert counter_of(other) == 0


def test_the_directory_mirrors_what_reads_see(tmp_path: Path) -> None:
    def mirrored(disk: FaultyDisk) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in disk.directory.iterdir()}

    def contents(disk: FaultyDisk) -> dict[str, bytes]:
        return {name: disk.read_file(name) for name in disk.files()}

    with FaultyDisk() as disk:
        disk.write_file("before", b"x")
        assert mirrored(disk) == {"before": b"x"}
        connection = connect(disk.path("a.db"), "off")
        chunk = ctypes.c_int(1 << 20)  # SQLite's own VFS would grow its file in such steps
        connection.file_control("main", apsw.SQLITE_FCNTL_CHUNK_SIZE, ctypes.addressof(chunk))
        hint = ctypes.c_longlong(3 << 20)
        connection.file_control("main", apsw.SQLITE_FCNTL_SIZE_HINT, ctypes.addressof(hint))
        assert mirrored(disk) == contents(disk)
        empty = disk.snapshot()
        work(connection, 7)
        disk.write_file("other", b"longer")
        disk.write_file("other", b"short")
        disk.write_file("empty", b"")
        assert mirrored(disk) == contents(disk)
        assert set(contents(disk)) == {"a.db", "a.db-wal", "before", "empty", "other"}
        with disk.lose_power(random.Random(1), "keep_prefix") as after:
            assert mirrored(after) == contents(after) != contents(disk)
        shutil.copytree(disk.directory, tmp_path / "copy")
        for name in ("a.db-wal", "before", "empty", "other"):
            disk.delete_file(name)
        count_to(connection, 8, random.Random(0))  # it still writes to the deleted log
        assert mirrored(disk) == contents(disk)
        assert set(contents(disk)) == {"a.db"}
        close(connection)
        disk.restore(empty)
        assert mirrored(disk) == contents(disk)
    copy = apsw.Connection(str(tmp_path / "copy" / "a.db"), vfs="unix")
    assert copy.execute("select n from counter").get == 7
    copy.close()


def test_paths_of_no_disk_are_real(tmp_path: Path) -> None:
    connection = connect(str(tmp_path / "a.db"))
    work(connection, 7)
    assert (tmp_path / "a.db-wal").exists()
    assert os.path.getsize(tmp_path / "a.db") > 4096
    connection.close()
    assert not (tmp_path / "a.db-wal").exists()


def test_only_a_create_makes_a_file() -> None:
    with FaultyDisk() as disk, pytest.raises(apsw.CantOpenError):
        apsw.Connection(disk.path("a.db"), vfs=VFS_NAME, flags=apsw.SQLITE_OPEN_READWRITE)


def test_page_checksums_lie_on_top_of_the_disk_and_notice_a_flipped_bit() -> None:
    # cksumvfs wraps one VFS for as long as a process lives, so this takes a process of its own.
    script = """
import random, sys, apsw
sys.path.insert(0, sys.argv[1])
import test_disk
from memopt.testing.disk import FaultyDisk, install_checksums

test_disk.VFS_NAME = install_checksums()
assert install_checksums() == "cksmvfs" and apsw.vfs_names()[0] == "unix"
disk = FaultyDisk()
connection = test_disk.connect(disk.path("a.db"))
test_disk.work(connection, 5)
connection.close()
for _ in range(20):
    assert test_disk.counter_of(disk.lose_power(random.Random(1))) == 5
content = disk.read_file("a.db")
pages = len(content) // 4096
noticed = 0
for page in range(1, pages):
    damaged = bytearray(content)
    damaged[page * 4096 + 2000] ^= 1
    disk.write_file("a.db", bytes(damaged))
    try:
        test_disk.counter_of(disk)
    except (apsw.IOError, AssertionError):
        noticed += 1
print(pages - 1, noticed)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    damaged, noticed = map(int, done.stdout.split())
    assert damaged > 2
    assert noticed == damaged


def test_checksums_that_already_wrap_another_vfs_are_refused() -> None:
    script = """
import apsw, apsw.sqlite_extra
from memopt.base.errors import UsageError
from memopt.testing.disk import install_checksums

apsw.sqlite_extra.load(apsw.Connection(":memory:"), "cksumvfs")
try:
    install_checksums()
except UsageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "already wraps" in done.stdout
