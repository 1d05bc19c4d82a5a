"""Recording touches: all of them, within its limits, and never in anybody's way."""

from pathlib import Path

import numpy as np
import pytest

import memopt
from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.records import PageRow
from memopt.base.units import KIB, MIB
from memopt.codecs.accesses import HEADER, ROW, decode_blocks
from memopt.paging import access_log
from memopt.paging.access_log import ROWS_MAX, AccessLog, earlier


def row(page: int) -> PageRow:
    return PageRow(1, 0, 10, page, 1, 10, 16_000, 1500)


def made(file: Path, budget: Budget, bytes_max: int = MIB) -> AccessLog:
    return AccessLog(file, bytes_max=bytes_max, clock=ManualClock(), budget=budget)


def pages(file: Path) -> list[int]:
    body = b"".join(decode_blocks(iter([file.read_bytes()])))
    return [ROW.unpack_from(body, at)[0] for at in range(0, len(body), ROW.size)]


def test_what_is_touched_is_written_on_flush_and_on_close(tmp_path: Path) -> None:
    file, budget = tmp_path / "accesses", Budget(64 * MIB)
    log = made(file, budget)
    held = budget.used_bytes
    assert held > ROWS_MAX * ROW.size
    log.touched(row(5))
    log.touched(row(6))
    assert pages(file) == []
    log.flush()
    assert pages(file) == [5, 6]
    log.flush()
    log.touched(row(5))
    log.close()
    log.close()
    log.touched(row(9))
    assert log._rows == []
    assert pages(file) == [5, 6, 5]
    assert budget.used_bytes == 0


def test_no_more_than_its_limit_waits(tmp_path: Path) -> None:
    file = tmp_path / "accesses"
    log = made(file, Budget(64 * MIB))
    for page in range(ROWS_MAX + 3):
        log.touched(row(page))
    assert pages(file) == list(range(ROWS_MAX))
    log.close()
    assert pages(file) == list(range(ROWS_MAX + 3))


def test_the_file_and_the_one_before_it_stay_below_the_limit(tmp_path: Path) -> None:
    file, limit = tmp_path / "accesses", 8 * KIB
    log = made(file, Budget(64 * MIB), limit)
    for page in range(1000):
        log.touched(row(page))
        if page % 10 == 9:
            log.flush()
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    log.close()
    kept = pages(earlier(file)) + pages(file)
    assert kept == list(range(1000 - len(kept), 1000))
    assert len(kept) > limit // 2 // ROW.size


def test_the_smallest_limit_that_a_store_takes_holds_for_touches_that_come_at_once(
    tmp_path: Path,
) -> None:
    smallest = 256 * KIB
    with pytest.raises(UsageError, match="access_log_bytes_max"):
        Config(access_log_bytes_max=smallest - 1)
    limit = Config(access_log_bytes_max=smallest).access_log_bytes_max
    log = made(tmp_path / "accesses", Budget(64 * MIB), limit)
    for page in range(6 * ROWS_MAX):
        log.touched(row(page))
        if page % ROWS_MAX == 0:
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    assert len(pages(earlier(tmp_path / "accesses"))) == ROWS_MAX


def test_a_recording_goes_on_after_a_kill_cut_its_last_block_off(tmp_path: Path) -> None:
    file, budget = tmp_path / "accesses", Budget(64 * MIB)
    log = made(file, budget)
    for page in (1, 2):
        log.touched(row(page))
        log.flush()
    whole = HEADER.size + ROW.size
    file.write_bytes(file.read_bytes()[: whole + 5])
    again = made(file, budget)
    again.touched(row(3))
    again.close()
    assert pages(file) == [1, 3]


@pytest.mark.parametrize("content", [b"somebody's letter, long enough to be read", b"short"])
def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "letter"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="no recording"):
        made(file, Budget(64 * MIB))
    assert file.read_bytes() == content


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "accesses", tmp_path):
        with pytest.raises(UsageError, match="access_log"):
            made(path, Budget(64 * MIB))


def test_a_disk_that_is_full_ends_the_recording_and_no_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, budget = tmp_path / "accesses", Budget(64 * MIB)
    log = made(file, budget)
    log.touched(row(1))
    log.flush()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(access_log, "open", full, raising=False)
        for page in range(ROWS_MAX):
            log.touched(row(page))
    # Nobody is charged for what would wait now, so nothing does.
    for page in range(10):
        log.touched(row(page))
    assert log._rows == []
    log.flush()
    log.close()
    assert "No space left on device" in caplog.text
    assert budget.used_bytes == 0
    assert pages(file) == [1]


def test_a_store_records_the_touches_of_its_pages_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "accesses"
    secret = "a word that is nowhere else"
    config = Config(
        budget_bytes=16 * MIB, access_log=str(file), page_target_bytes=2 * KIB,
        maintenance_seconds=0,
    )  # fmt: skip
    with memopt.open(tmp_path / "store", config=config) as memory:
        session = memory.session("s1", scope="acme/ann")
        for index in range(60):
            session.append({"role": "user", "content": f"{secret} {index} " + "x" * 200})
        for _ in range(3):
            assert len(list(session.messages())) == 60
        charged = memory.stats()
        counters = dict(charged.counters)
    touched = counters["page_hits"] + counters["faults_minor"] + counters["faults_major"]
    found = pages(file)
    assert len(found) == touched > 6
    assert len(set(found)) == len(found) / 3
    content = file.read_bytes()
    for word in (secret, "s1", "acme", "ann"):
        assert word.encode() not in content or len(word) < 4
    sizes = np.frombuffer(content[HEADER.size :][: ROW.size], dtype="<u4")
    assert (sizes > 0).any()


def test_maintenance_writes_what_waits(tmp_path: Path) -> None:
    file = tmp_path / "accesses"
    config = Config(
        budget_bytes=16 * MIB, access_log=str(file), page_target_bytes=KIB, maintenance_seconds=0
    )
    with memopt.open(tmp_path / "store", config=config) as memory:
        session = memory.session("s1")
        session.append({"role": "user", "content": "x" * 2000})
        assert len(list(session.messages())) == 1
        assert pages(file) == []
        memory._parts.maintenance.once()
        assert len(pages(file)) == 1


def test_a_store_that_records_nothing_has_no_log(tmp_path: Path) -> None:
    with memopt.open(tmp_path / "store", budget="16MiB") as memory:
        memory.session("s1").append({"role": "user", "content": "hello"})
    assert Config().access_log is None
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
