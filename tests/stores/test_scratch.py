"""The file beside the store: what it says when there is no room."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memopt import CapacityError, DiskFullError
from memopt.base.budget import Budget
from memopt.base.protocols import Tables
from memopt.base.records import EntryRow
from memopt.base.units import MIB
from memopt.stores import scratch as scratch_module
from memopt.stores.entry_tables import FIRST_OF_SCRATCH
from memopt.stores.scratch import Scratch
from memopt.testing.disk import VFS_NAME, FaultyDisk

SIZES = pytest.mark.parametrize("size", [1000, 300_000], ids=["small", "large"])
WAYS = pytest.mark.parametrize("is_one", [True, False], ids=["one write", "a transaction"])


def fill(scratch: Scratch, size: int, *, is_one: bool) -> None:
    """Until nothing fits: a value in each commit, or all in one."""

    def put(tables: Tables, place: int) -> None:
        tables.entries.put(EntryRow(FIRST_OF_SCRATCH, place, None, 1, bytes(size)))

    if is_one:
        for place in range(100_000):
            scratch.write(lambda tables, place=place: put(tables, place), is_one=True)  # type: ignore[misc]
    else:
        scratch.write(lambda tables: [put(tables, place) for place in range(100_000)], is_one=False)


@SIZES
@WAYS
def test_a_full_disk_is_not_taken_for_the_limit(
    monkeypatch: pytest.MonkeyPatch, size: int, is_one: bool
) -> None:
    with FaultyDisk(capacity_bytes=MIB) as disk:
        path = disk.directory / "scratch"

        def statvfs(where: Path) -> Any:
            assert where == disk.directory
            assert disk.capacity_bytes is not None
            free = disk.capacity_bytes - sum(disk.files().values())
            return SimpleNamespace(f_bavail=free // 512, f_frsize=512)

        monkeypatch.setattr(scratch_module, "_VFS", VFS_NAME)
        monkeypatch.setattr(os, "statvfs", statvfs)
        scratch = Scratch(path, Budget(16 * MIB), 2 * MIB)
        with pytest.raises(DiskFullError) as raised:
            fill(scratch, size, is_one=is_one)
        assert raised.value.limit == "disk"
        # With room on the disk it goes on, up to its own limit.
        disk.capacity_bytes = 16 * MIB
        with pytest.raises(CapacityError) as limited:
            fill(scratch, size, is_one=is_one)
        assert limited.value.limit == "scratch_bytes_max"
        assert scratch._connection is not None
        scratch._connection.close()


@SIZES
@WAYS
def test_the_limit_is_not_taken_for_a_full_disk(tmp_path: Path, size: int, is_one: bool) -> None:
    scratch = Scratch(tmp_path / "scratch", Budget(16 * MIB), 2 * MIB)
    for _ in range(2):
        with pytest.raises(CapacityError) as raised:
            fill(scratch, size, is_one=is_one)
        assert type(raised.value) is CapacityError
        assert (raised.value.limit, raised.value.limit_bytes) == ("scratch_bytes_max", 2 * MIB)
    scratch.close()
