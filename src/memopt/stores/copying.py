"""A copy of a store, made in use: under a temporary name, synced, verified, renamed."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from memopt.base.budget import Budget
from memopt.base.errors import ConflictError, CorruptionError
from memopt.base.units import MIB
from memopt.stores.sqlite import SqliteHome

_VERIFY_BUDGET_BYTES = 16 * MIB


def copy_store(home: SqliteHome, target: Path, progress: Callable[[int, int], None] | None) -> int:
    """Copy `home` into a new directory `target`; its size. Raises ConflictError when something is
    there already, CorruptionError when the copy does not verify. Nothing is left behind then."""
    if target.exists():
        raise ConflictError(
            "the backup's directory is there already", expected="", actual=str(target)
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    work.mkdir(mode=0o700)
    try:
        database = work / home.path.name
        home.backup(database, progress)
        _verify(database)
        _sync(database)
        _sync(work)
        work.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return (target / home.path.name).stat().st_size


def _verify(database: Path) -> None:
    """Read every page of the copy, so that its checksums are verified. A copy has no log."""
    copy = SqliteHome(database, Budget(_VERIFY_BUDGET_BYTES))
    try:
        problems = copy.integrity()
    finally:
        copy.close(checkpoint=True)
    if problems:
        raise CorruptionError(f"the backup does not verify: {problems[0]}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
