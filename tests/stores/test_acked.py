"""The acked page: two copies, of which one may be damaged at any time."""

import itertools
import random
import struct
import zlib
from pathlib import Path

import pytest

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.stores.acked import Acked, AckedPage
from memopt.testing.flips import single_bit_flips, truncations

FIRST, SECOND = 0, 2048
RECORD_BYTES = 88
"""Of one copy, its checksum included."""


def record(**changes: int) -> Acked:
    return Acked(
        store=7, lsn=11, lsn_limit=1035, run_lsn=3, wal_salt=1 << 63 | 5, wal_frames=9, wal_home=4,
        wal_copying=6, unsealed_bytes=-100, at_us=1_700_000_000_000_000,
    )._replace(**changes)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    page = AckedPage.create(tmp_path / "acked", record())
    page.update(lsn=12)
    page.close()
    return tmp_path / "acked"


def read(path: Path) -> Acked:
    page = AckedPage.open(path)
    assert page is not None
    try:
        return page.record
    finally:
        page.close()


def flip(path: Path, *offsets: int) -> None:
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset] ^= 16
    path.write_bytes(content)


def test_what_is_written_is_read_back_in_full(path: Path) -> None:
    assert read(path) == record(lsn=12)
    assert path.stat().st_size == 4096


def test_a_page_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert AckedPage.open(tmp_path / "acked") is None


def test_a_new_page_is_whole_before_it_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "acked").write_bytes(b"an older one")
    AckedPage.create(tmp_path / "acked", record()).close()
    assert read(tmp_path / "acked") == record()
    assert [file.name for file in tmp_path.iterdir()] == ["acked"]


def test_an_acknowledgement_is_in_the_file_before_it_returns(path: Path) -> None:
    page = AckedPage.open(path)
    assert page is not None
    for lsn in range(13, 40):
        page.acknowledge(lsn, 5, 100 + lsn, 30)
        other = read(path)
        assert (other.lsn, other.wal_frames) == (lsn, 100 + lsn)
    assert read(path).unsealed_bytes == -100 + 27 * 30
    page.close()


def test_every_bit_of_either_copy_may_flip_and_the_other_is_believed(path: Path) -> None:
    for copy in (FIRST, SECOND):
        flips = single_bit_flips(path, random.Random(1), start=copy, stop=copy + RECORD_BYTES)
        for what, damaged in flips:
            with damaged:
                assert AckedPage.open(path) is not None, what
                assert read(path) == record(lsn=12), what


def test_a_flip_in_both_copies_is_reported(path: Path) -> None:
    flip(path, FIRST + 30, SECOND + 30)
    with pytest.raises(CorruptionError, match="no copy of the acked page"):
        AckedPage.open(path)


def test_the_newer_copy_is_believed_when_a_kill_came_between_the_two(path: Path) -> None:
    older = path.read_bytes()
    page = AckedPage.open(path)
    assert page is not None
    page.update(lsn=500)
    page.close()
    newer = path.read_bytes()
    for first, second in itertools.product((older, newer), repeat=2):
        path.write_bytes(first[:SECOND] + second[SECOND:])
        assert read(path).lsn == (12 if first is second is older else 500)


def test_a_write_mends_the_copy_that_was_damaged(path: Path) -> None:
    flip(path, FIRST + 40)
    page = AckedPage.open(path)
    assert page is not None
    page.update(lsn=13)
    page.close()
    flip(path, SECOND + 40)
    assert read(path).lsn == 13


def test_a_page_that_was_cut_is_whole_or_reported(path: Path) -> None:
    whole = path.read_bytes()
    for what, damaged in truncations(path, random.Random(2), 200):
        with damaged:
            size = path.stat().st_size
            if size < RECORD_BYTES:
                with pytest.raises(CorruptionError):
                    AckedPage.open(path)
            else:
                page = AckedPage.open(path)
                assert page is not None
                assert page.record == record(lsn=12), what
                page.update(lsn=12)
                page.close()
                assert path.stat().st_size == 4096
        path.write_bytes(whole)


def test_a_newer_version_is_refused_by_name(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for copy in (FIRST, SECOND):
        content[copy + 4 : copy + 6] = struct.pack("<H", 2)
        body = bytes(content[copy : copy + RECORD_BYTES - 4])
        content[copy + RECORD_BYTES - 4 : copy + RECORD_BYTES] = struct.pack("<I", zlib.crc32(body))
    path.write_bytes(content)
    with pytest.raises(StoreVersionError, match="version 2"):
        AckedPage.open(path)


def test_what_is_said_of_a_log_that_is_no_more_is_not_believed_of_the_next(path: Path) -> None:
    page = AckedPage.open(path)
    assert page is not None
    page.update_log(page.record.wal_salt + 1, wal_home=9)
    assert page.record.wal_home == 4
    page.update_log(page.record.wal_salt, wal_home=9)
    assert page.record.wal_home == 9
    page.close()
