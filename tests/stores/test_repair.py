"""One flipped bit is found by a page's checksum and flipped back; anything else is left alone."""

import os
import random
import threading
from pathlib import Path

import apsw
import pytest

from memopt.base.budget import Budget
from memopt.stores.pagesums import find_flip
from memopt.stores.repair import PAGE_BYTES, Mender, PageFile, is_whole
from memopt.stores.sqlite import SqliteHome, checksum_vfs


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of some forty pages, closed."""
    path = tmp_path / "memopt.db"
    home = SqliteHome(path, Budget(64 << 20))
    chance = random.Random(3)
    home.writer.begin()
    for number in range(60):
        home.writer.tables.meta.put(f"name {number}", chance.randbytes(2000))
    home.writer.commit()
    home.close(checkpoint=True)
    return path


def pages_of(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return [content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]


def flipped(page: bytes, bit: int) -> bytes:
    damaged = bytearray(page)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def write(path: Path, offset: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def test_our_checksum_is_the_one_that_sqlite_writes(database: Path) -> None:
    pages = pages_of(database)
    assert len(pages) > 30
    assert all(is_whole(page) for page in pages)
    connection = apsw.Connection(":memory:")
    connection.execute("SELECT 1").fetchall()
    assert not is_whole(bytes([1]) + pages[0][1:])


def test_a_flip_is_found_where_it_is_or_not_at_all(database: Path) -> None:
    chance = random.Random(4)
    found = 0
    for _ in range(1000):
        page = chance.choice(pages_of(database))
        bit = chance.randrange(8 * PAGE_BYTES)
        flip = find_flip(flipped(page, bit))
        if flip is not None:
            found += 1
            assert (flip.offset, flip.mask) == (bit // 8, 1 << bit % 8)
    # High bits of words a period apart change the sums alike.
    assert found > 650


def test_a_flip_of_the_checksum_itself_is_found_or_left_alone(database: Path) -> None:
    page = pages_of(database)[2]
    bits = range(8 * (PAGE_BYTES - 8), 8 * PAGE_BYTES)
    flips = [find_flip(flipped(page, bit)) for bit in bits]
    assert {
        (flip.offset, flip.mask) == (bit // 8, 1 << bit % 8)
        for bit, flip in zip(bits, flips, strict=True)
        if flip is not None
    } == {True}


def test_a_whole_page_two_flips_and_noise_are_left_alone(database: Path) -> None:
    chance = random.Random(5)
    for page in pages_of(database)[:10]:
        assert find_flip(page) is None
        for _ in range(20):
            bits = chance.sample(range(8 * PAGE_BYTES), 2)
            assert find_flip(flipped(flipped(page, bits[0]), bits[1])) is None
        half = chance.randbytes(PAGE_BYTES // 2)
        assert find_flip(half + page[PAGE_BYTES // 2 :]) is None
        assert find_flip(page[: PAGE_BYTES // 2] + half) is None


def test_mending_a_file_changes_the_flipped_bits_and_no_other_byte(database: Path) -> None:
    before = database.read_bytes()
    for page, byte in ((3, 17), (9, 2000), (20, 4090)):
        at = (page - 1) * PAGE_BYTES + byte
        write(database, at, bytes([before[at] ^ 4]))
    repaired: list[int] = []
    mender = Mender(database, threading.Lock(), repaired.append)
    assert mender.mend()
    assert repaired == [3, 9, 20]
    assert database.read_bytes() == before
    assert not mender.mend()
    mender.close()


@pytest.mark.parametrize("byte", [0, 3, 16, 18, 19, 20, 23, 28, 47, 71, 91, 96])
def test_a_flip_in_the_header_is_mended_before_sqlite_believes_it(
    database: Path, byte: int
) -> None:
    before = database.read_bytes()
    write(database, byte, bytes([before[byte] ^ 1]))
    repaired: list[int] = []
    home = SqliteHome(database, Budget(64 << 20), on_repair=repaired.append)
    assert repaired == [1]
    assert home.writer.connection.pragma("checksum_verification") == "1"
    assert home.integrity() == []
    home.close(checkpoint=False)
    assert database.read_bytes() == before


def test_a_flip_that_the_sums_cannot_place_is_mended_where_nothing_may_stand(
    database: Path,
) -> None:
    """A high bit in the free middle of a page; beside another flip it is left alone."""
    before = database.read_bytes()
    number, gap = next(
        (number, at)
        for number, page in enumerate(pages_of(database)[1:], 2)
        if page[0] == 13 and (at := page.find(bytes(40), 30)) > 0
    )
    at = (number - 1) * PAGE_BYTES + (gap + 20 | 3)
    write(database, at, b"\x80")
    assert find_flip(pages_of(database)[number - 1]) is None
    file = PageFile(database)
    assert file.mend_all() == [number]
    assert database.read_bytes() == before
    write(database, at, b"\x80")
    write(database, at + 4, b"\x80")
    assert file.mend_all() == []
    file.close()


def test_a_file_without_checksums_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "plain.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (a); INSERT INTO t VALUES ('some content')")
    connection.close()
    before = path.read_bytes()
    file = PageFile(path)
    assert not file.mend_first()
    assert file.mend_all() == []
    assert file.fill_up() == 0
    file.close()
    assert path.read_bytes() == before


def test_a_file_that_was_cut_is_filled_up_so_that_what_is_missing_is_noticed(
    database: Path,
) -> None:
    size = database.stat().st_size
    os.truncate(database, size // 2 + 100)
    file = PageFile(database)
    assert file.fill_up() == size - (size // 2 + 100)
    assert file.fill_up() == 0
    file.close()
    assert database.stat().st_size == size
    connection = apsw.Connection(str(database), vfs=checksum_vfs())
    with pytest.raises((apsw.IOError, apsw.CorruptError)):
        connection.execute("SELECT * FROM meta").fetchall()
    connection.close()


def test_what_cannot_be_mended_is_not_looked_for_at_every_read(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[int] = []
    mend_all = PageFile.mend_all
    monkeypatch.setattr(PageFile, "mend_all", lambda self: scans.append(1) or mend_all(self))
    mender = Mender(database, threading.Lock(), lambda page: None)
    assert not mender.mend()
    assert not mender.mend()
    assert len(scans) == 1
    mender.close()


def test_the_locks_of_sqlite_stay_while_a_page_is_mended(database: Path) -> None:
    home = SqliteHome(database, Budget(64 << 20))
    [[root]] = home.writer.connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'events'"
    ).fetchall()
    at = (root - 1) * PAGE_BYTES + 30
    write_elsewhere = f"import os; f = os.open({str(database)!r}, os.O_RDWR); "
    write_elsewhere += f"b = os.pread(f, 1, {at}); os.pwrite(f, bytes([b[0] ^ 1]), {at})"
    # In another process: closing a descriptor of the file in this one would drop the locks.
    assert os.spawnlp(os.P_WAIT, "python3", "python3", "-c", write_elsewhere) == 0
    with pytest.raises(Exception, match="mended"), home.snapshot() as tables:
        tables.events.since(0, 10)
    with home.snapshot() as tables:
        assert tables.events.since(0, 10) == []
    probe = "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR)\n"
    probe += "try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 512, 0x40000000)\n"
    probe += "except OSError: sys.exit(7)"
    assert os.spawnlp(os.P_WAIT, "python3", "python3", "-c", probe, str(database)) == 7
    home.close(checkpoint=True)
