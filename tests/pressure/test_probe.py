"""What the kernel says, from directories that look like /, for both versions and for none."""

from pathlib import Path

import pytest

from memopt.base.budget import Budget
from memopt.base.units import KIB, MIB
from memopt.pressure.probe import (
    RSS_MARGIN_BYTES,
    SystemProbe,
    control_groups,
    file_cache_bytes,
    parse_stalls,
    parse_vm_data,
    read_start,
    tightest_group,
)

PAGES = 4096
"""Resident pages that the made-up process has."""
PSI = (
    "some avg10=1.25 avg60=0.50 avg300=0.10 total=99\nfull avg10=0.75 avg60=0.1 avg300=0.0 total=9"
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def process(root: Path) -> Path:
    return write(
        root,
        {
            "proc/self/statm": f"90000 {PAGES} 100 1 0 5000 0\n",
            "proc/self/status": "VmPeak:\t  9 kB\nVmData:\t  2048 kB\nVmStk:\t 1 kB\n",
        },
    )


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    return write(
        process(tmp_path),
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/memory.current": "999",
            "sys/fs/cgroup/pod/memory.current": str(300 * MIB),
            "sys/fs/cgroup/pod/memory.max": str(310 * MIB),
            "sys/fs/cgroup/pod/memory.stat": f"active_file {2 * MIB}\ninactive_file {3 * MIB}\n",
            "sys/fs/cgroup/pod/box/memory.current": str(100 * MIB),
            "sys/fs/cgroup/pod/box/memory.max": "max",
            "sys/fs/cgroup/pod/box/memory.stat": "anon 5\n",
            "sys/fs/cgroup/pod/box/memory.pressure": PSI,
        },
    )


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    return write(
        process(tmp_path),
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(500 * MIB),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(80 * MIB),
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(128 * MIB),
            "sys/fs/cgroup/memory/box/memory.stat": (
                f"inactive_file 7\ntotal_inactive_file {10 * MIB}\ntotal_active_file {1 * MIB}\n"
            ),
            "proc/pressure/memory": PSI,
        },
    )


def test_version_2_takes_the_tightest_of_the_groups_around_it(version_2: Path) -> None:
    groups = control_groups(version_2)
    assert len(groups) == 3
    assert tightest_group(version_2, groups) == (295 * MIB, 310 * MIB)
    # One further out that leaves more room.
    (version_2 / "sys/fs/cgroup/memory.max").write_text("900000000")
    assert tightest_group(version_2, groups) == (295 * MIB, 310 * MIB)


def test_version_1_knows_its_own_word_for_no_limit(version_1: Path) -> None:
    groups = control_groups(version_1)
    assert len(groups) == 2
    assert tightest_group(version_1, groups) == (69 * MIB, 128 * MIB)
    (version_1 / "sys/fs/cgroup/memory/box/memory.limit_in_bytes").write_text("9223372036854771712")
    assert tightest_group(version_1, groups) is None


def test_a_path_that_is_not_mounted_here_is_the_top_of_the_mount(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/docker-1.scope\n",
            "sys/fs/cgroup/memory.current": "1000",
            "sys/fs/cgroup/memory.max": "4000",
        },
    )
    assert tightest_group(tmp_path, control_groups(tmp_path)) == (1000, 4000)


def test_files_that_go_or_are_damaged_are_no_limit(version_2: Path) -> None:
    groups = control_groups(version_2)
    (version_2 / "sys/fs/cgroup/pod/memory.max").write_text("")
    assert tightest_group(version_2, groups) is None
    (version_2 / "sys/fs/cgroup/pod/memory.max").unlink()
    (version_2 / "sys/fs/cgroup/pod/memory.current").unlink()
    assert tightest_group(version_2, groups) is None


def test_a_reading_says_everything_that_is_known(version_2: Path) -> None:
    budget = Budget(100 * MIB)
    probe = SystemProbe(
        budget, lambda: 7, read_start(version_2), root=version_2, disk=version_2,
        data_limit_bytes=64 * MIB,
    )  # fmt: skip
    budget.reserve("pages", 40 * MIB)
    reading = probe.read()
    rss = PAGES * 4 * KIB
    assert (reading.reserved_bytes, reading.budget_bytes) == (40 * MIB, 100 * MIB)
    assert reading.evictable_bytes == 7
    assert (reading.rss_bytes, reading.rss_start_bytes) == (rss, rss)
    assert reading.rss_limit_bytes == rss + int(1.05 * 100 * MIB) + RSS_MARGIN_BYTES
    assert not reading.rss_limit_is_hard
    assert (reading.memory_used_bytes, reading.memory_limit_bytes) == (295 * MIB, 310 * MIB)
    assert reading.data_start_bytes == 2 * MIB
    assert reading.data_limit_bytes == 64 * MIB
    assert (reading.stall_some_percent, reading.stall_full_percent) == (1.25, 0.75)
    assert reading.disk_free_bytes is not None
    assert reading.disk_free_bytes > 0
    assert probe.notes == []
    probe.close()


def test_where_nothing_is_told_the_reading_says_so_and_works(tmp_path: Path) -> None:
    probe = SystemProbe(
        Budget(10 * MIB), lambda: 0, read_start(tmp_path), root=tmp_path, rss_limit_bytes=1 << 40
    )
    reading = probe.read()
    assert reading.rss_bytes > MIB
    assert (reading.rss_limit_bytes, reading.rss_limit_is_hard) == (1 << 40, True)
    assert reading.memory_used_bytes is reading.memory_limit_bytes is None
    assert reading.stall_some_percent is reading.stall_full_percent is None
    assert reading.disk_free_bytes is None
    assert [note.split()[0] for note in probe.notes] == ["RSS", "no", "memory"]


def test_what_another_store_of_the_process_takes_comes_to_the_limit(tmp_path: Path) -> None:
    process(tmp_path)
    first = SystemProbe(Budget(10 * MIB), lambda: 0, read_start(tmp_path), root=tmp_path)
    before = first.read().rss_limit_bytes
    other = Budget(50 * MIB)
    second = SystemProbe(other, lambda: 0, read_start(tmp_path), root=tmp_path)
    other.reserve("pages", 30 * MIB)
    assert first.read().rss_limit_bytes == before + 30 * MIB
    second.close()
    assert first.read().rss_limit_bytes == before


def test_the_real_one_reads_this_process() -> None:
    probe = SystemProbe(Budget(10 * MIB), lambda: 0, read_start())
    held = bytearray(40 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    reading = probe.read()
    assert reading.rss_bytes - reading.rss_start_bytes > 20 * MIB
    del held


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PSI.encode(), (1.25, 0.75)),
        (b"some avg10=3.00 avg60=0 avg300=0 total=1\n", (3.0, None)),
        (b"full avg10=x", (None, None)),
        (b"", (None, None)),
        (None, (None, None)),
    ],
)
def test_stalls(text: bytes | None, found: tuple[float | None, float | None]) -> None:
    assert parse_stalls(text) == found


def test_small_parsers() -> None:
    assert parse_vm_data(b"VmPeak: 3 kB\nVmData:\t     292 kB\n") == 292 * KIB
    assert parse_vm_data(b"") is None
    assert parse_vm_data(None) is None
    assert (
        file_cache_bytes("active_file 3\ninactive_file 4\ntotal_active_file 50\n", total=False) == 7
    )
    assert file_cache_bytes("active_file 3\ntotal_active_file 50\n", total=True) == 50
    assert file_cache_bytes(None, total=True) == 0


def test_an_rss_limit_that_is_exceeded_already_leaves_room_for_the_least(tmp_path: Path) -> None:
    system = SystemProbe(Budget(64 * MIB), lambda: 0, read_start(), rss_limit_bytes=MIB)
    reading = system.read()
    assert reading.rss_limit_is_hard
    assert reading.rss_limit_bytes == reading.rss_start_bytes + RSS_MARGIN_BYTES
    assert any("rss_limit_bytes is 1.0 MiB" in note for note in system.notes)
    system.close()
