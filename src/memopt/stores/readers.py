"""Reading connections, a few for all threads, and the snapshots that are taken on them.

Whose a connection is says a weak reference to the snapshot, so a `with` block that was interrupted
anywhere, even within its own end, gives it back by being gone; what transaction it left open is
ended by whoever comes next. Not here: how a connection is made (sqlite.py).
"""

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Final

import apsw

from memopt.base.errors import CorruptionError, MemoptError, StoreClosedError, StoreError
from memopt.base.protocols import Tables
from memopt.base.wakeups import Wakeup
from memopt.stores.sqlite_errors import translate, translated
from memopt.stores.tables import bind_tables

_READERS_MAX: Final = 4
_LOOKUPS_MAX: Final = 1
_WAIT_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05


class _Reader:
    """One connection; used by one snapshot at a time."""

    def __init__(self, owner: "weakref.ref[Snapshot]") -> None:
        self.owner: weakref.ref[Snapshot] | None = owner
        """Whose it is; changes under the pool's lock."""
        self.since = 0.0
        """When its snapshot began; 0.0 without one."""
        self.connection: apsw.Connection | None = None
        self.tables: Tables | None = None


class Readers:
    """The pool. Thread-safe."""

    def __init__(
        self, connect: Callable[[], apsw.Connection],
        disconnect: Callable[[apsw.Connection], None], mend: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._connect = connect
        self._disconnect = disconnect
        self.mend = mend
        self._all: list[_Reader] = []
        self._closed = False
        # Of C, so that no signal is handled between taking it and the block.
        self._lock = threading.Lock()
        self._is_awaited = False
        self._freed = Wakeup()

    def take(self, snapshot: "Snapshot", *, is_lookup: bool) -> _Reader:
        """A reader of `snapshot`'s own, as soon as one is free. A lookup is made by threads that
        hold a reader already: there is one more for those, which they never hold for long, or
        they would wait for each other."""
        limit = _READERS_MAX + (_LOOKUPS_MAX if is_lookup else 0)
        until = time.monotonic() + _WAIT_SECONDS
        while (reader := self._claim(snapshot, limit)) is None:
            if time.monotonic() > until:
                raise StoreError(f"no reader became free within {_WAIT_SECONDS:g} s")
            # Not longer, because one that was abandoned says nothing.
            self._freed.wait(_LOOK_SECONDS)
        if reader.connection is None:
            with translated():
                connection = self._connect()
                reader.tables = bind_tables(connection)
                reader.connection = connection
        return reader

    def give_back(self, reader: _Reader, snapshot: "Snapshot") -> None:
        with self._lock:
            if reader.owner is snapshot.me:
                reader.since = 0.0
                reader.owner = None
        if self._is_awaited:
            self._is_awaited = False
            self._freed.ring()

    def oldest_seconds(self) -> float:
        since = [reader.since for reader in self._all if reader.since]
        return max(0.0, time.monotonic() - min(since)) if since else 0.0

    def connections(self) -> list[apsw.Connection]:
        return [reader.connection for reader in self._all if reader.connection is not None]

    def close_idle(self) -> None:
        """Give back what the connections that nobody reads on occupy, but for the first: where all
        room is taken by then, no other could be made."""
        with self._lock:
            if self._closed:
                return
            rest = self._all[1:]
            idle = [one for one in rest if one.owner is None or one.owner() is None]
            self._all = [one for one in self._all if one not in idle]
        for reader in idle:
            if reader.connection is not None:
                reader.tables = None
                self._disconnect(reader.connection)

    def close(self) -> None:
        """Hand out no more."""
        self._closed = True

    def _claim(self, snapshot: "Snapshot", limit: int) -> _Reader | None:
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closed")
            free = None
            busy = 0
            for reader in self._all:
                if reader.owner is None:
                    free = free or reader
                elif reader.owner() is None:
                    # Abandoned: first of all, for it may still hold a moment of the log.
                    free = reader
                    break
                else:
                    busy += 1
            if busy >= limit:
                self._is_awaited = True
                return None
            if free is None:
                free = _Reader(snapshot.me)
                self._all.append(free)
            free.owner = snapshot.me
            snapshot.reader = free
            return free


class Snapshot:
    """A `with` block of reads that all see the same moment."""

    __slots__ = ("__weakref__", "_is_lookup", "_readers", "me", "reader")

    def __init__(self, readers: Readers, *, is_lookup: bool = False) -> None:
        self._readers = readers
        self._is_lookup = is_lookup
        self.reader: _Reader | None = None
        self.me = weakref.ref(self)

    @property
    def connection(self) -> apsw.Connection:
        """Within the block: what it reads on."""
        assert self.reader is not None
        assert self.reader.connection is not None
        return self.reader.connection

    def __enter__(self) -> Tables:
        try:
            reader = self._readers.take(self, is_lookup=self._is_lookup)
            connection, tables = self.connection, reader.tables
            assert tables is not None
            if not connection.get_autocommit():
                connection.execute("ROLLBACK")
            connection.execute("BEGIN")
        except apsw.Error as error:
            self._end()
            raise translate(error) from error
        except BaseException:
            self._end()
            raise
        reader.since = time.monotonic()
        return tables

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # A statement that failed is reported once more by the next call: `error` says it all.
            with contextlib.suppress(apsw.Error) if error is not None else translated():
                if not self.connection.get_autocommit():
                    self.connection.execute("COMMIT")
        finally:
            self._end()
        if isinstance(error, apsw.Error):
            raise self._judged(error) from error

    def _end(self) -> None:
        if self.reader is not None:
            self._readers.give_back(self.reader, self)
            self.reader = None

    def _judged(self, error: apsw.Error) -> MemoptError:
        """Ours for SQLite's; a page that failed its checksum is mended for the next read. This one
        has lost its snapshot."""
        judged = translate(error)
        if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA and self._readers.mend():
            judged = CorruptionError("a database page failed its checksum, and was mended")
            judged.mended = True
        return judged
