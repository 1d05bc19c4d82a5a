"""The lock, which one process holds for life, and the ballast, which is given up in need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import memopt
from memopt.base.errors import StoreLockedError
from memopt.stores.ballast import Ballast
from memopt.stores.lock import DirectoryLock


def test_a_second_lock_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "lock")
    with pytest.raises(StoreLockedError) as refused:
        DirectoryLock(tmp_path / "lock")
    assert refused.value.owner is not None
    assert f"pid {os.getpid()} " in refused.value.owner
    lock.release()
    DirectoryLock(tmp_path / "lock").release()


def test_another_process_is_refused_as_long_as_the_store_is_open(tmp_path: Path) -> None:
    script = "import memopt, sys\nmemopt.open(sys.argv[1]).close()\nprint('opened')"

    def attempt() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        memory.session("a").append({"n": 1})
        assert "StoreLockedError" in attempt().stderr
    assert attempt().stdout == "opened\n"


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    script = (
        "import memopt, sys, os, signal\nm = memopt.open(sys.argv[1])\n"
        "m.session('a').append({'n': 1})\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert "pid" in (tmp_path / "lock").read_text()
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        assert list(memory.session("a").messages()) == [{"n": 1}]


def test_the_lock_is_held_until_the_log_is_home(tmp_path: Path) -> None:
    memory = memopt.open(tmp_path, maintenance_seconds=0)
    memory.session("a").append({"n": 1})
    directory = memory._parts.directory
    seen = []
    close = directory.home.close

    def watched(*, checkpoint: bool) -> None:
        close(checkpoint=checkpoint)
        with pytest.raises(StoreLockedError):
            DirectoryLock(tmp_path / "lock")
        seen.append(True)

    directory.home.close = watched  # type: ignore[method-assign]
    memory.close()
    assert seen
    DirectoryLock(tmp_path / "lock").release()


def test_the_ballast_is_written_given_up_and_taken_back(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 100_000)
    assert ballast.restore()
    assert ballast.restore()
    stat = (tmp_path / "ballast").stat()
    assert stat.st_size == 100_000
    assert stat.st_blocks * 512 >= 100_000, "a hole holds no room"
    assert ballast.drop()
    assert not ballast.drop()
    assert not (tmp_path / "ballast").exists()
    assert ballast.restore()


def test_a_ballast_that_was_cut_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / "ballast").write_bytes(b"x" * 10)
    assert Ballast(tmp_path / "ballast", 5000).restore()
    assert (tmp_path / "ballast").stat().st_size == 5000


def test_no_ballast_is_taken_from_a_disk_that_is_almost_full(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    ballast = Ballast(tmp_path / "ballast", free.f_bavail * free.f_frsize // 2)
    assert not ballast.restore()
    assert not (tmp_path / "ballast").exists()


def test_without_a_ballast_there_is_no_file(tmp_path: Path) -> None:
    assert not Ballast(tmp_path / "ballast", 0).restore()
    assert list(tmp_path.iterdir()) == []
