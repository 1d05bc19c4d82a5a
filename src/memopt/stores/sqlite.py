"""The embedded home: one SQLite file, one writing connection, a few reading ones.

Opened on `unix-excl`, which keeps the index of the write-ahead log on the heap and takes file
locks once instead of at every transaction, under SQLite's own checksum VFS, which refuses a page
whose bytes were changed at rest. docs/design/0002 has the figures and what lost.

Invariant: outside `begin`…`commit` nothing is half-written; no snapshot outlives its `with`. Not
here: grouping commits (journal), what rows mean (sessions), when to checkpoint (maintenance).
"""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import apsw
import apsw.sqlite_extra

from memopt.base.budget import Budget
from memopt.base.errors import (
    CorruptionError,
    MemoptError,
    StoreClosedError,
    StoreFailedError,
    StoreVersionError,
)
from memopt.base.protocols import Tables
from memopt.base.records import Durability
from memopt.base.units import KIB, MIB
from memopt.stores.readers import Readers, Snapshot
from memopt.stores.repair import PAGE_BYTES as PAGE_BYTES
from memopt.stores.repair import Mender
from memopt.stores.schema import APPLICATION_ID, migrate
from memopt.stores.sqlite_errors import translate, translated
from memopt.stores.tables import bind_tables
from memopt.stores.wal_header import HEADER_BYTES, salt_of

T = TypeVar("T")

FRAME_BYTES: Final = PAGE_BYTES + 24
_CHECKSUM_BYTES: Final = 8
_READER_CACHE_BYTES: Final = 512 * KIB
_WRITER_CACHE_BYTES: Final = 2 * MIB
_CONNECTION_BYTES: Final = 160 * KIB
"""Schema, statements and lookaside of one connection, measured."""
_BUSY_MILLISECONDS: Final = 10_000


class WalState(NamedTuple):
    """The write-ahead log: how long, how much of it is in the database, and which one it is."""

    frames: int
    home: int
    salt: int


class SqliteHome:
    """A directory's `memopt.db`. `writer` is used by the committer alone, under its lock."""

    def __init__(
        self,
        path: Path,
        budget: Budget,
        *,
        durability: Durability = Durability.SYNC,
        vfs: str | None = None,
        on_repair: Callable[[int], None] = lambda page: None,
    ) -> None:
        self.path = path
        self._folder = str(path.parent)
        self._budget = budget
        self._vfs = vfs or checksum_vfs()
        self.page_checksums = self._vfs == _CHECKSUM_VFS
        self._synchronous = "FULL" if durability is Durability.SYNC else "NORMAL"
        self._charged = 0
        self._lock = threading.Lock()
        self._readers = Readers(
            lambda: self._connect(_READER_CACHE_BYTES),
            lambda connection: self._disconnect(connection, _READER_CACHE_BYTES), self._mend,
        )  # fmt: skip
        # SQLite answers "busy" at once, without waiting, to the second of two checkpoints.
        self._checkpoint_lock = threading.Lock()
        self.closed = False
        self._checkpointer: apsw.Connection | None = None
        self._mender = Mender(path, self._checkpoint_lock, on_repair)
        try:
            self.missing_bytes = self._mender.prepare() if self.page_checksums else 0
            """By how much the file was too short; what was there is damage to whoever reads it."""
            self.writer = self.retried(lambda: SqliteWriter(self._connect(_WRITER_CACHE_BYTES)))
        except BaseException:
            self._mender.close()
            raise

    # -- reading ----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """A `with` block of reads that all see the same moment. None of them within another."""
        if self.closed:
            raise StoreClosedError("the store is closed")
        return Snapshot(self._readers)

    def lookup(self) -> Snapshot:
        """The same for a short read of what never changes, also within a snapshot."""
        if self.closed:
            raise StoreClosedError("the store is closed")
        return Snapshot(self._readers, is_lookup=True)

    def close_idle_readers(self) -> None:
        """Where room is short: they are made again when somebody reads."""
        self._readers.close_idle()

    def oldest_reader_seconds(self) -> float:
        """Age of the oldest snapshot that is open now; 0.0 when there is none."""
        return self._readers.oldest_seconds()

    def newest_page(self) -> int:
        """The highest page number in use; 0 when there is none."""
        query = "SELECT ifnull(max(page), 0) FROM pages"
        try:
            return int(self.retried(lambda: _row(self.writer.connection, query)[0]))
        except CorruptionError:
            # Where that cannot be read: a number that no page has, rather than no store at all.
            return time.time_ns() >> 8

    def retried(self, read: Callable[[], T]) -> T:
        """What `read` returns, after a second attempt if it met a page that could be mended."""
        try:
            with translated():
                return read()
        except CorruptionError:
            if not self._mend():
                raise
        with translated():
            return read()

    def _mend(self) -> bool:
        return self.page_checksums and self._mender.mend()

    # -- the log ----------------------------------------------------------------------------------

    def wal_bytes(self) -> int:
        return self.writer.wal_frames * FRAME_BYTES

    def wal_state(self) -> WalState:
        """What SQLite recovered or wrote, without moving anything."""
        with translated():
            _, frames, home = _row(self.writer.connection, "PRAGMA wal_checkpoint(NOOP)")
        return WalState(max(frames, 0), max(home, 0), self.wal_salt())

    def wal_salt(self) -> int:
        """The two salts of the log's header, as one number; 0 when there is no log, or its header
        does not verify."""
        try:
            with open(self.wal_path, "rb") as file:
                return salt_of(file.read(HEADER_BYTES))
        except FileNotFoundError:
            return 0

    def checkpoint_passive(self) -> WalState:
        """Copy what can be copied while writers go on. On a connection and thread of its own."""
        with self._checkpoint_lock, translated():
            if self._checkpointer is None:
                self._checkpointer = self._connect(64 * KIB)
            _, frames, home = _row(self._checkpointer, "PRAGMA wal_checkpoint(PASSIVE)")
        return WalState(max(frames, 0), max(home, 0), 0)

    def checkpoint_restart(self, *, truncate: bool, wait_seconds: float = 10.0) -> bool:
        """Under the commit lock: copy the rest, so that the log begins anew. True when it could;
        False when a reader still needs it after `wait_seconds`."""
        mode = "TRUNCATE" if truncate else "RESTART"
        connection = self.writer.connection
        with self._checkpoint_lock, translated():
            connection.set_busy_timeout(round(1000 * wait_seconds))
            try:
                busy = _row(connection, f"PRAGMA wal_checkpoint({mode})")[0]
            finally:
                connection.set_busy_timeout(_BUSY_MILLISECONDS)
        if not busy:
            self.writer.wal_frames = 0
        return not busy

    # -- room -------------------------------------------------------------------------------------

    def vacuum(self, pages_max: int) -> int:
        """Under the commit lock: give up to `pages_max` free pages back; how many are left."""
        with translated():
            self.writer.connection.execute(f"PRAGMA incremental_vacuum({pages_max})").fetchall()
            return int(self.writer.connection.pragma("freelist_count"))

    def disk_bytes(self) -> int:
        total = 0
        for path in (self.path, self.wal_path):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def disk_free_bytes(self) -> int:
        stat = os.statvfs(self._folder)
        return stat.f_bavail * stat.f_frsize

    def integrity(self) -> list[str]:
        """What SQLite itself finds wrong with its structure, once what can be mended is; reads the
        whole file."""
        self._mend()
        try:
            snapshot = self.snapshot()
            with snapshot:
                rows = snapshot.connection.execute("PRAGMA quick_check(20)").fetchall()
        except CorruptionError as error:
            return [str(error)]
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def backup(self, target: Path, progress: Callable[[int, int], None] | None) -> None:
        """Copy one moment of the database to `target`, page by page, in use."""
        with translated():
            source = self._connect(256 * KIB)
            copy = apsw.Connection(str(target), vfs=self._vfs)
            try:
                # A snapshot of the source is held, or each commit would start the copy anew.
                source.execute("BEGIN; SELECT count(*) FROM meta").fetchall()
                with copy.backup("main", source, "main") as job:
                    while not job.done:
                        job.step(256)
                        if progress is not None:
                            progress(job.page_count - job.remaining, job.page_count)
                source.execute("COMMIT")
            finally:
                copy.close()
                self._disconnect(source, 256 * KIB)

    # -- life -------------------------------------------------------------------------------------

    @property
    def wal_path(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def close(self, *, checkpoint: bool) -> None:
        """Close every connection; the log is brought home first unless the store failed."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        with contextlib.suppress(MemoptError):
            if checkpoint:
                self.checkpoint_restart(truncate=True)
        if not checkpoint:
            self.writer.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._readers.close()
        for connection in self._readers.connections():
            with contextlib.suppress(apsw.Error):
                if not checkpoint:
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.close()
        if self._checkpointer is not None:
            self._checkpointer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._checkpointer.close()
        with contextlib.suppress(apsw.Error):
            self.writer.connection.close()
        self._mender.close()
        self._budget.release("sqlite", self._charged)
        self._charged = 0

    def abandon(self) -> None:
        """In a forked child: never close, for closing would end the parent's log."""
        self.closed = True
        self._readers.close()
        connections = [self.writer.connection, *self._readers.connections()]
        if self._checkpointer is not None:
            connections.append(self._checkpointer)
        for connection in connections:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    def _connect(self, cache_bytes: int) -> apsw.Connection:
        charge = cache_bytes + _CONNECTION_BYTES
        self._budget.reserve("sqlite", charge)
        with self._lock:
            self._charged += charge
        connection = apsw.Connection(str(self.path), vfs=self._vfs, statementcachesize=64)
        try:
            if not _row(connection, "SELECT count(*) FROM sqlite_schema")[0]:
                _prepare_new(connection, self.page_checksums)
            elif self._vfs == _PLAIN_VFS and _reserved_bytes(self.path) == _CHECKSUM_BYTES:
                raise StoreVersionError(
                    "the store has page checksums, and this apsw lacks SQLite's checksum VFS"
                )
            connection.set_busy_timeout(_BUSY_MILLISECONDS)
            # Plans must not depend on bound values: otherwise SQLite compiles a range query anew
            # whenever a binding changes, which costs more than running it.
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            for pragma in (
                f"synchronous = {self._synchronous}",
                f"cache_size = -{cache_bytes // KIB}",
                "wal_autocheckpoint = 0",
                "secure_delete = ON",
                "temp_store = MEMORY",
                "trusted_schema = OFF",
                "cell_size_check = ON",
                "fullfsync = ON",
                "checkpoint_fullfsync = ON",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._disconnect(connection, cache_bytes)
            raise
        return connection

    def _disconnect(self, connection: apsw.Connection, cache_bytes: int) -> None:
        connection.close()
        charge = cache_bytes + _CONNECTION_BYTES
        with self._lock:
            self._charged -= charge
        self._budget.release("sqlite", charge)


class SqliteWriter:
    """The one writing connection. Not thread-safe: the committer's lock is its lock."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.wal_frames = 0
        self.commits = 0
        """Commits that were made and changed something."""
        with translated():
            migrate(connection)
        self.tables: Tables = bind_tables(connection)
        self._execute = connection.execute
        connection.set_wal_hook(self._committed)

    def begin(self) -> None:
        """Begin a transaction, if there is none."""
        try:
            if self.connection.get_autocommit():
                self._execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise translate(error) from error

    def commit(self) -> None:
        """End it; without one, every write was committed already."""
        try:
            if not self.connection.get_autocommit():
                self._execute("COMMIT")
        except apsw.Error as error:
            raise translate(error) from error

    def rollback(self, error: BaseException | None) -> BaseException | None:
        try:
            # A full disk or a failed write may have ended the transaction already.
            if not self.connection.get_autocommit():
                self._execute("ROLLBACK")
        except apsw.Error as failure:
            return StoreFailedError(f"a rollback failed: {failure}")
        return translate(error) if isinstance(error, apsw.Error) else error

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        try:
            self._execute("SAVEPOINT member")
            try:
                yield
            except BaseException:
                if not self.connection.get_autocommit():
                    self._execute("ROLLBACK TO member")
                    self._execute("RELEASE member")
                raise
            self._execute("RELEASE member")
        except apsw.Error as error:
            raise translate(error) from error

    def _committed(self, connection: apsw.Connection, name: str, frames: int) -> int:
        del connection, name
        self.wal_frames = frames
        self.commits += 1
        return apsw.SQLITE_OK


# -- the checksum VFS -----------------------------------------------------------------------------

_CHECKSUM_VFS: Final = "cksmvfs"
_PLAIN_VFS: Final = "unix-excl"
_load_lock: Final = threading.Lock()


def checksum_vfs() -> str:
    """The VFS to open a home on: `cksmvfs` over `unix-excl`, or `unix-excl` where it is missing.

    SQLite's checksum VFS wraps whatever is the default when it is loaded, and makes itself the
    default; both are undone, so other users of apsw in this process see no difference.
    """
    with _load_lock:
        if _CHECKSUM_VFS in apsw.vfs_names():
            return _CHECKSUM_VFS
        if apsw.sqlite_extra.has("cksumvfs") != "extension":
            return _PLAIN_VFS
        default = apsw.vfs_names()[0]
        apsw.set_default_vfs(_PLAIN_VFS)
        try:
            loader = apsw.Connection(":memory:")
            apsw.sqlite_extra.load(loader, "cksumvfs")
            loader.close()
        finally:
            apsw.set_default_vfs(default)
        return _CHECKSUM_VFS


def _row(connection: apsw.Connection, sql: str) -> tuple[Any, ...]:
    row: Any = connection.execute(sql).fetchone()
    return tuple(row)


def _prepare_new(connection: apsw.Connection, page_checksums: bool) -> None:
    if page_checksums:
        reserved = ctypes.c_int(_CHECKSUM_BYTES)
        connection.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, ctypes.addressof(reserved))
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "auto_vacuum = INCREMENTAL",
        f"application_id = {APPLICATION_ID}",
        "journal_mode = WAL",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _reserved_bytes(path: Path) -> int:
    with open(path, "rb") as file:
        header = file.read(21)
    return header[20] if len(header) == 21 else 0


def sqlite_memory_bytes() -> int:
    """What SQLite has allocated in this process, all connections together."""
    return int(apsw.memory_used())
