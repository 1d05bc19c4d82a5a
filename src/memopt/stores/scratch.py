"""A file beside the store for what lives no longer than a turn: the tables of collections without
durability. No sync, no log, no journal; limited in size, emptied at open, at close and in between.

One connection under one lock reads and writes. Invariant: nothing of it is read after a restart,
and numbers of collections never return: a file that is made anew goes on where the last one ended.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import apsw

from memopt.base.budget import Budget
from memopt.base.errors import CapacityError, StoreClosedError
from memopt.base.forks import LostLock
from memopt.base.protocols import Tables
from memopt.base.records import EventRow
from memopt.base.units import KIB, MIB
from memopt.stores.entry_tables import (
    FIRST_OF_SCRATCH,
    NUMBERS_STOP,
    SqliteCollections,
    SqliteEntries,
    SqliteEntryIndex,
    used_up,
)
from memopt.stores.schema import COLLECTION_TABLES
from memopt.stores.sqlite_errors import translate, translated

T = TypeVar("T")

_CACHE_BYTES: Final = 512 * KIB
_CONNECTION_BYTES: Final = 160 * KIB
_KEPT_BYTES: Final = 4 * MIB
"""A file of this size is kept for the next turn; a larger one is deleted once it is empty."""
_PAGE_BYTES: Final = 4096
_VFS: Final = "unix-excl"


class Scratch:
    """The file, made when it is needed. Thread-safe."""

    def __init__(self, path: Path, budget: Budget, bytes_max: int) -> None:
        self._path = path
        self._budget = budget
        self._bytes_max = bytes_max
        self._lock: contextlib.AbstractContextManager[Any] = threading.RLock()
        self._connection: apsw.Connection | None = None
        self._tables: Tables | None = None
        self._closed = False
        self._numbers = iter(range(FIRST_OF_SCRATCH, NUMBERS_STOP))
        self._unlink()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Tables]:
        """Nobody writes meanwhile."""
        with self._lock, translated():
            yield self._opened()[1]

    lookup = snapshot

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """For what belongs to a write and comes after it."""
        with self._lock:
            yield

    def begin(self) -> None:
        """Within `write`: make what follows one transaction, if it is not in one."""
        connection, _ = self._opened()
        if connection.get_autocommit():
            connection.execute("BEGIN")

    def write(self, act: Callable[[Tables], T], *, is_one: bool) -> T:
        """Run `act` in a transaction; `is_one`: it makes one write, or calls `begin` before."""
        with self._lock:
            connection, tables = self._opened()
            try:
                if not is_one:
                    connection.execute("BEGIN")
                result = act(tables)
                if not connection.get_autocommit():
                    connection.execute("COMMIT")
            except BaseException as error:
                if not connection.get_autocommit():
                    connection.execute("ROLLBACK")
                if isinstance(error, apsw.FullError) and not self._disk_is_full(connection):
                    raise CapacityError(
                        "the collections of turns have no more room",
                        limit="scratch_bytes_max",
                        limit_bytes=self._bytes_max,
                    ) from error
                if isinstance(error, apsw.Error):
                    raise translate(error) from error
                raise
            return result

    def _disk_is_full(self, connection: apsw.Connection) -> bool:
        """After a full error, for which SQLite does not say what is full: the disk, if it has less
        room than the limit leaves. How many pages it wanted is rolled back by now."""
        pages = int(connection.pragma("max_page_count")) - int(connection.pragma("page_count"))
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize < pages * _PAGE_BYTES

    def shrink(self) -> None:
        """Nothing is in it any more: delete the file if it is large."""
        with self._lock:
            if self._path.exists() and self._path.stat().st_size > _KEPT_BYTES:
                self._let_go()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._let_go()

    def abandon(self) -> None:
        """In a forked child: never close, for that may write to the parent's file."""
        self._lock = LostLock()
        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._tables = None
            self._budget.release("sqlite", _CACHE_BYTES + _CONNECTION_BYTES)
            self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _opened(self) -> tuple[apsw.Connection, Tables]:
        if self._closed:
            raise StoreClosedError("the store is closed")
        if self._connection is None:
            self._unlink()
            self._budget.reserve("sqlite", _CACHE_BYTES + _CONNECTION_BYTES)
            try:
                with translated():
                    self._connection = self._made()
            except BaseException:
                self._budget.release("sqlite", _CACHE_BYTES + _CONNECTION_BYTES)
                raise
            self._tables = _tables(self._connection, self._numbers)
        assert self._tables is not None
        return self._connection, self._tables

    def _made(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), vfs=_VFS, statementcachesize=32)
        self._path.chmod(0o600)
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            "locking_mode = EXCLUSIVE",
            "journal_mode = MEMORY",
            "synchronous = OFF",
            f"cache_size = -{_CACHE_BYTES // KIB}",
            f"max_page_count = {self._bytes_max // _PAGE_BYTES}",
            "secure_delete = ON",
            "temp_store = MEMORY",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.execute(COLLECTION_TABLES).fetchall()
        return connection


class _Collections(SqliteCollections):
    """Their numbers outlive the file, and commits that were rolled back."""

    def __init__(self, connection: apsw.Connection, numbers: Iterator[int]) -> None:
        super().__init__(connection)
        self._numbers = numbers

    def _new_number(self) -> int:
        number = next(self._numbers, None)
        if number is None:
            raise used_up("turns have had 2^29 collections since the store was opened")
        return number


class _NoEvents:
    """The event table of what is not journalled."""

    def put(self, row: EventRow) -> None: ...
    def since(self, after_lsn: int, limit: int) -> list[EventRow]:
        return []

    def of_session(self, session: int) -> list[EventRow]:
        return []

    def delete(self, up_to_lsn: int, limit: int) -> int:
        return 0

    def purge(self, session: int, kind: str | None = None) -> None: ...


def _tables(connection: apsw.Connection, numbers: Iterator[int]) -> Tables:
    absent = cast("Any", None)
    return Tables(
        scopes=absent, sessions=absent, lines=absent, tail=absent, pages=absent, texts=absent,
        states=absent, events=_NoEvents(), keys=absent, dictionaries=absent, meta=absent,
        collections=_Collections(connection, numbers), entries=SqliteEntries(connection),
        entry_index=SqliteEntryIndex(connection), segments=absent, unindexed=absent,
        masked=absent, scope_lines=absent, items=absent, item_topics=absent, item_texts=absent,
        item_marks=absent, answers=absent, answer_order=absent, answer_entries=absent,
        answer_uses=absent, answer_categories=absent, documents=absent, pieces=absent,
        contexts=absent, message_pins=absent,
    )  # fmt: skip
