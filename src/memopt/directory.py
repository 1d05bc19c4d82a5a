"""A store's directory: who owns it, where the journal ended, and what was lost, if anything.

Opening takes the lock, opens the home, and holds what it finds in its log against the acked page.
Closing brings the log home and says so in the page. In between, the page is told of every commit.

Invariant: what the acked page says was acknowledged is in the home, or is reported as lost.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import (
    CorruptionError,
    DiskFullError,
    MemoptError,
    NotFoundError,
    StoreFailedError,
)
from memopt.base.events import Checkpointed, Events, PageRepaired, RecordsLost
from memopt.base.protocols import Clock
from memopt.journal.recovery import LogFacts, highest_lsn, judge_log, lost_records
from memopt.sessions.checking import LOST
from memopt.stores.acked import Acked, AckedPage
from memopt.stores.ballast import Ballast
from memopt.stores.lock import DirectoryLock
from memopt.stores.repair import PAGE_BYTES
from memopt.stores.sqlite import FRAME_BYTES, SqliteHome
from memopt.stores.sqlite_errors import translated

DATABASE: Final = "memopt.db"
_STORE: Final = "store"
_WAL_PASSIVE_SHARE: Final = 0.5
_WAL_EXCESS: Final = 4
_WAL_KEPT: Final = 2
"""A file of more than so many limits, which one large commit leaves behind, is cut."""
_WAL_RETRY_SHARE: Final = 1 / 16
"""A log that a reader keeps, or that found no room, is tried again after growing by this much."""
_WAL_WAIT_SECONDS: Final = 0.05
_ROOM_FRAMES: Final = 64
"""Room is looked for once in so many frames of the log."""
_LSN_LIMIT: Final = "lsn_limit"
"""Meta entry: no LSN above it is in this database. The acked page says so too, but after a power
cut that may be older."""


class Directory:
    """What is on disk, opened. `lsn` and `at_us` say where the journal ended."""

    def __init__(
        self, path: Path, config: Config, budget: Budget, clock: Clock, events: Events,
        *, create: bool, vfs: str | None = None,
    ) -> None:  # fmt: skip
        if not create and not (path / DATABASE).exists():
            raise NotFoundError(f"there is no memopt store in {path}")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self.notes: list[str] = []
        self._report: Callable[[MemoptError], None] = lambda error: None
        self._copy_lock = threading.Lock()
        self._copying = False
        """Something is being copied home, so a commit may find that all of the log is."""
        self._limit_frames = -(-config.wal_limit_bytes // FRAME_BYTES)
        self._checkpoint_from_frames = self._limit_frames
        self._room_frames = -_ROOM_FRAMES
        """Frames of the log when there was last seen to be room."""
        self._config = config
        self._clock = clock
        self._events = events
        self._repaired = 0
        self._lock = DirectoryLock(path / "lock")
        try:
            acked = self._read_acked()
            self._refuse_empty(acked)
            self.home = self._open_home(budget, vfs)
            try:
                with translated():
                    self._judge(acked, budget, vfs)
            except BaseException as error:
                page = getattr(self, "acked", acked)
                if isinstance(error, StoreFailedError) and page is not None:
                    page.update(sync_failed=1)
                self.home.close(checkpoint=False)
                raise
        except BaseException:
            self._lock.release()
            raise
        self.ballast = Ballast(path / "ballast", config.ballast_bytes)
        self.ballast.restore()
        if not self.home.page_checksums:
            self.notes.append("this apsw has no checksum VFS: pages carry record checksums alone")

    # -- the committer's side ---------------------------------------------------------------------

    def on_failure(self, report: Callable[[MemoptError], None]) -> None:
        """`report` hears of a disk that failed outside of a commit."""
        self._report = report

    def reserve_lsns(self, lsn_limit: int) -> None:
        """In the transaction whose LSNs are the first beyond the last limit."""
        self.home.writer.tables.meta.put(_LSN_LIMIT, str(lsn_limit).encode())
        self.acked.update(lsn_limit=lsn_limit)

    def acknowledge(self, lsn: int, at_us: int, unsealed_delta: int) -> None:
        """Under the commit lock, after COMMIT."""
        acked, frames = self.acked, self.home.writer.wal_frames
        record = acked.record
        if self._copying or record.wal_home >= record.wal_frames or frames <= record.wal_frames:
            # Everything may have been at home, so this commit may have begun the log anew.
            salt = self.home.wal_salt()
            if salt != record.wal_salt:
                acked.update(wal_salt=salt, wal_frames=0, wal_home=0, wal_copying=0)
        acked.acknowledge(lsn, at_us, frames, unsealed_delta)
        if frames >= self._checkpoint_from_frames:
            self._relieve()

    def fail(self) -> None:
        """A sync failed: whoever opens the store next has to write the log's content again."""
        self.acked.update(sync_failed=1)

    def _relieve(self) -> None:
        """Empty the log. That this fails is not the fault of the commit that was just made."""
        limit = self._limit_frames
        step = int(limit * _WAL_RETRY_SHARE)
        self._checkpoint_from_frames = max(limit, self.home.writer.wal_frames + step)
        with contextlib.suppress(DiskFullError, StoreFailedError):
            if self.checkpoint(truncate=False):
                self._checkpoint_from_frames = limit

    def wal_is_excessive(self) -> bool:
        """A reader has kept the log from being begun anew for far too long, and still does. Looks
        by itself, for where writers are refused no commit will."""
        writer, limit = self.home.writer, _WAL_EXCESS * self._limit_frames
        if writer.wal_frames <= limit:
            return False
        self._copy_home()
        record = self.acked.record
        return record.wal_home < record.wal_frames and writer.wal_frames > limit

    # -- room -------------------------------------------------------------------------------------

    def has_room(self, size_bytes: int) -> bool:
        """Whether so much can be written and the log still be brought home: were it not, a full
        disk could not even be deleted from. Asks the system once in a while."""
        frames = self.home.writer.wal_frames
        small = size_bytes <= _ROOM_FRAMES * PAGE_BYTES
        if small and 0 <= frames - self._room_frames < _ROOM_FRAMES:
            return True
        if self.home.disk_free_bytes() < self._needed_bytes() + 2 * size_bytes:
            self._room_frames = -_ROOM_FRAMES
            return False
        self._room_frames = frames
        return True

    def note_free(self, free_bytes: int) -> None:
        """What the probe saw: room that there was may be others' by now, and where few frames are
        written it would be long until it was looked for again. Where it is short, the next does."""
        if free_bytes < self._needed_bytes():
            self._room_frames = -_ROOM_FRAMES

    def _needed_bytes(self) -> int:
        """To bring the log home, and what is written before room is looked for again."""
        away = max(0, self.home.writer.wal_frames - self.acked.record.wal_home)
        return (away + 2 * _ROOM_FRAMES) * PAGE_BYTES

    def make_room(self) -> bool:
        """Under the commit lock, when the disk is full: give up the ballast, bring the log home and
        cut it. True when there is more room than before."""
        free = self.home.disk_free_bytes()
        dropped = self.ballast.drop()
        with contextlib.suppress(DiskFullError):
            self.checkpoint(truncate=True)
        return dropped or self.home.disk_free_bytes() > free

    # -- checkpoints ------------------------------------------------------------------------------

    def checkpoint(self, *, truncate: bool) -> bool:
        """Under the commit lock: bring the whole log home, so that it begins anew. The acked page
        knows, durably, before anything of the log is overwritten or cut."""
        started, size = self._clock.monotonic(), self.home.wal_bytes()
        frames = max(self.acked.record.wal_frames, self.home.writer.wal_frames)
        wait = {} if truncate else {"wait_seconds": _WAL_WAIT_SECONDS}
        with self._reported():
            self.acked.update(wal_copying=frames)
            done = self.home.checkpoint_restart(truncate=False, **wait)
            if done:
                self.acked.update(wal_home=frames)
                self.acked.sync()
                if truncate:
                    done = self.home.checkpoint_restart(truncate=True)
                elif size > _WAL_KEPT * self._config.wal_limit_bytes:
                    # Where a reader came meanwhile it stays, and is written over.
                    self.home.checkpoint_restart(truncate=True, **wait)
        self._events.emit(Checkpointed(size, self._clock.monotonic() - started, True))
        return done

    def checkpoint_passive(self) -> None:
        """On the maintenance thread: copy what can be copied while others write, from half the
        limit on, so that the writer finds little left to do."""
        size = self.home.wal_bytes()
        record = self.acked.record
        if size < _WAL_PASSIVE_SHARE * self._config.wal_limit_bytes:
            return
        if record.wal_home * 2 <= record.wal_frames:
            self._copy_home()

    def _copy_home(self) -> None:
        started, size = self._clock.monotonic(), self.home.wal_bytes()
        with self._copy_lock, self._reported():
            record = self.acked.record
            self._copying = True
            try:
                self.acked.update_log(record.wal_salt, wal_copying=self.home.writer.wal_frames)
                state = self.home.checkpoint_passive()
                self.acked.update_log(record.wal_salt, wal_home=max(record.wal_home, state.home))
                # Where all is home the next commit begins the log anew: after a power cut, an older
                # page would miss what the old log held.
                self.acked.sync()
            finally:
                self._copying = False
        self._events.emit(Checkpointed(size, self._clock.monotonic() - started, False))

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """What a failed sync left behind is not known: the committer must hear of it."""
        try:
            yield
        except StoreFailedError as error:
            self._report(error)
            raise

    # -- life -------------------------------------------------------------------------------------

    def close(self, lsn: int, *, failed: bool) -> None:
        """Let go of everything, whatever happens. What could not be brought home stays in the log,
        and is read when the store is opened again."""
        with contextlib.ExitStack() as last:
            last.callback(self._lock.release)
            last.callback(self.acked.close)
            last.callback(lambda: self.home.close(checkpoint=not failed))
            if failed:
                return
            try:
                self._bring_home(lsn)
            except DiskFullError:
                failed = True
            except MemoptError:
                failed = True
                self.fail()
                raise

    def _bring_home(self, lsn: int) -> None:
        """Leave no log behind, and no LSN that was reserved in vain."""
        writer = self.home.writer
        if int(writer.tables.meta.get(_LSN_LIMIT) or b"0") != lsn:
            writer.begin()
            try:
                writer.tables.meta.put(_LSN_LIMIT, str(lsn).encode())
                writer.commit()
            except BaseException as error:
                raise writer.rollback(error) or error from error
        if self.checkpoint(truncate=True):
            self.acked.update(
                lsn=max(lsn, self.acked.record.lsn), lsn_limit=lsn, wal_salt=0, wal_frames=0,
                wal_home=0, wal_copying=0,
            )  # fmt: skip
            self.acked.sync()

    def abandon(self) -> None:
        """In a forked child."""
        self.home.abandon()
        with contextlib.suppress(OSError):
            self._lock.abandon()

    # -- opening ----------------------------------------------------------------------------------

    def _read_acked(self) -> AckedPage | None:
        try:
            return AckedPage.open(self.path / "acked")
        except CorruptionError as error:
            self.notes.append(f"{error.reason}: lost records cannot be ruled out")
            (self.path / "acked").replace(self.path / "acked.damaged")
            return None

    def _refuse_empty(self, acked: AckedPage | None) -> None:
        """An empty database where records were acknowledged is a loss, not a new store."""
        path = self.path / DATABASE
        size = path.stat().st_size if path.exists() else 0
        if acked is not None and acked.record.lsn and not size:
            lost = acked.record.lsn
            acked.close()
            raise CorruptionError(
                f"{DATABASE} is {'empty' if path.exists() else 'missing'}, and {lost} records were "
                "acknowledged: restore a backup"
            )

    def _open_home(self, budget: Budget, vfs: str | None) -> SqliteHome:
        home = SqliteHome(
            self.path / DATABASE, budget, durability=self._config.durability, vfs=vfs,
            on_repair=self._note_repair,
        )  # fmt: skip
        # A checkpoint that was cut short leaves a short file, and all that it lacks in the log.
        if home.missing_bytes and not home.wal_salt():
            self.notes.append(
                f"{DATABASE} was {home.missing_bytes} bytes too short: check() names what is gone"
            )
        return home

    def _note_repair(self, page: int) -> None:
        note = "{} pages of the database had a flipped bit, which was flipped back".format
        with contextlib.suppress(ValueError):
            self.notes.remove(note(self._repaired))
        self._repaired += 1
        self.notes.append(note(self._repaired))
        self._events.emit(PageRepaired(page))

    def _judge(self, acked: AckedPage | None, budget: Budget, vfs: str | None) -> None:
        found = self.home.wal_state()
        tables = self.home.writer.tables
        store = self.home.retried(lambda: tables.meta.get(_STORE))
        if store is None:
            self._begin(acked)
            return
        lost = 0
        if acked is not None and acked.record.store == int(store):
            record = acked.record
            facts = LogFacts(
                record.wal_salt, record.wal_frames, record.wal_home, record.wal_copying,
                found.salt, found.frames,
            )  # fmt: skip
            verdict = judge_log(facts)
            if verdict.is_stale:
                self._set_log_aside(budget, vfs)
                found = self.home.wal_state()
                tables = self.home.writer.tables
            self.lsn, acked_lsn = record.lsn_limit, record.lsn
            if verdict.is_short:
                acked_lsn = highest_lsn(tables)
                lost = lost_records(
                    verdict, acked_lsn=record.lsn, run_lsn=record.run_lsn, highest=acked_lsn
                )
                self.lsn = max(self.lsn, acked_lsn)
                if not lost:
                    self.notes.append(
                        "the log lost its end, and no acknowledged record with it, or the acked "
                        "page is old"
                    )
            self.at_us, unsealed = record.at_us, record.unsealed_bytes
            sync_failed = record.sync_failed
        else:
            if acked is not None:
                self.notes.append("the acked page is of another store: it was set aside")
                acked.close()
                (self.path / "acked").replace(self.path / "acked.other")
            elif not self.notes:
                self.notes.append("the acked page is missing: lost records cannot be ruled out")
            self.lsn = acked_lsn = highest_lsn(tables)
            self.at_us = unsealed = 0
            acked, sync_failed = None, 0
        self.lsn = max(self.lsn, int(tables.meta.get(_LSN_LIMIT) or b"0"))
        self.home.writer.wal_frames = found.frames
        at_home = 0
        if sync_failed and found.frames and self.home.checkpoint_restart(truncate=False):
            # Written again, into the database, it can be synced again.
            at_home = found.frames
        fresh = Acked(
            store=int(store), lsn=acked_lsn, lsn_limit=self.lsn, run_lsn=self.lsn,
            wal_salt=found.salt, wal_frames=found.frames, wal_home=at_home, wal_copying=at_home,
            unsealed_bytes=unsealed, at_us=self.at_us,
        )  # fmt: skip
        if lost:
            self._report_lost(lost)
        if acked is None:
            self.acked = AckedPage.create(self.path / "acked", fresh)
        else:
            self.acked = acked
            acked.update(**fresh._asdict())

    def _begin(self, acked: AckedPage | None) -> None:
        """A new store: its number goes into the database and into the acked page."""
        if acked is not None:
            acked.close()
        store = secrets.randbits(63)
        # The page comes first: a database without one would be taken for a loss of it.
        self.acked = AckedPage.create(self.path / "acked", Acked(store, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        sync_directory(self.path)
        writer = self.home.writer
        writer.begin()
        writer.tables.meta.put(_STORE, str(store).encode())
        writer.commit()
        # From here on the database is never empty, so an empty one is a loss.
        self.home.checkpoint_restart(truncate=True)
        self.lsn = self.at_us = 0

    def _report_lost(self, lost: int) -> None:
        """Say it now, and keep saying it in check() until somebody accepts it."""
        writer = self.home.writer
        known = writer.tables.meta.get(LOST)
        writer.begin()
        writer.tables.meta.put(LOST, str(lost + int(known or b"0")).encode())
        writer.commit()
        self.notes.append(f"{lost} acknowledged records lost: the write-ahead log was damaged")
        self._events.emit(RecordsLost(lost, "the write-ahead log was damaged or cut short"))

    def _set_log_aside(self, budget: Budget, vfs: str | None) -> None:
        """The log's whole beginning is older than the database: it must not be applied."""
        log = self.home.wal_path
        self.home.close(checkpoint=False)
        if log.exists():
            log.replace(log.with_name(log.name + ".stale"))
        self.home = self._open_home(budget, vfs)
        self.notes.append("a damaged log whose whole records were at home already was set aside")


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
