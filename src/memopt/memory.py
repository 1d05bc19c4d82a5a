"""Memory: the verbs people call. It owns nothing but its parts, which wiring.py puts together."""

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from memopt.answering import Answering
from memopt.base.config import Config
from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.errors import (
    ConflictError,
    NotFoundError,
    StoreClosedError,
    UsageError,
)
from memopt.base.moments import NOW, Bound, bound_of
from memopt.base.records import (
    BackupReport,
    CheckReport,
    CompactReport,
    ForgetPlan,
    ForgetReceipt,
    JournalRecord,
    PageInfo,
    Reach,
    Selector,
    SessionInfo,
    to_datetime,
)
from memopt.base.stats_records import Stats
from memopt.figures import figures
from memopt.journal.deleting import deleting
from memopt.journal.history import journal_start, journal_start_us
from memopt.journal.subscription import Subscription
from memopt.parts import Parts
from memopt.recalling import Recalling, RecallingView, check_reach
from memopt.sessions.checking import LOST
from memopt.sessions.forgetting import BACKUPS
from memopt.sessions.listing import describe, list_sessions, scope_numbers
from memopt.sessions.names import SessionKey, check_count, check_name, check_scope
from memopt.sessions.reading import SEQ_STOP, line_as_of, segments_of
from memopt.sessions.session import Session, SessionView
from memopt.sessions.transcripts import QUARANTINE
from memopt.stores.copying import copy_store
from memopt.upkeep import trim_heap

T = TypeVar("T")

_VACUUM_PAGES: Final = 256
_RESTORE_ROWS: Final = 256


class Memory(Recalling, Answering):
    """A store, opened. Thread-safe; close it, or use it in a `with` block."""

    def __init__(self, parts: Parts, *, read_only: bool) -> None:
        self._parts = parts
        self._read_only = read_only
        self._closed = False
        self._close_lock = threading.Lock()
        self._compact_lock = threading.Lock()
        _open_memories.add(self)
        if read_only:
            parts.committer.refuse(UsageError("the store was opened read-only", field="read_only"))
        parts.maintenance.start()
        parts.pressure.start()
        self._stop_serving = parts.serve(self)

    @property
    def path(self) -> Path:
        return self._parts.directory.path

    @property
    def config(self) -> Config:
        return self._parts.config

    @property
    def lsn(self) -> int:
        """The highest committed LSN."""
        return self._parts.committer.lsn

    def __repr__(self) -> str:
        return f"Memory({str(self.path)!r})"

    # -- sessions ---------------------------------------------------------------------------------

    def session(self, id: str, *, scope: str = "default", agent: str | None = None) -> Session:
        """A handle on a conversation. Reads and writes nothing; the first write makes it."""
        self._ready()
        key = SessionKey(check_scope(scope), check_name(id, field="id"))
        name = None if agent is None else check_name(agent, field="agent")
        return Session(self._parts.sessions, key, name)

    def sessions(
        self, scope: str | None = None, *, reach: Reach | str = Reach.EXACT,
        after: tuple[str, str] | None = None, limit: int = 100,
    ) -> list[SessionInfo]:  # fmt: skip
        """Up to `limit` sessions of a scope (None: of all), by scope and id, behind `after`: the
        (scope, id) of the last one that was seen, which may be gone since."""
        return self._list(scope, reach, after, limit, NOW)

    def _list(
        self, scope: str | None, reach: Reach | str, after: tuple[str, str] | None, limit: int,
        bound: Bound,
    ) -> list[SessionInfo]:  # fmt: skip
        self._ready()
        reach = check_reach(reach)
        if scope is not None:
            check_scope(scope)
        with self._parts.directory.home.snapshot() as tables:
            rows = list_sessions(tables, scope, reach, after, limit, bound)
        found = []
        for row in rows:
            # One may be deleted between the list and its description.
            with contextlib.suppress(NotFoundError):
                found.append(describe(self._parts.sessions.reader, row, bound))
        return found

    def mapping(self, name: str, *, scope: str = "default") -> StoredMapping:
        """A dict of a scope, by name, which spills instead of growing: as durable as messages."""
        self._ready()
        return self._parts.sessions.collections.mapping(name, check_scope(scope))

    def sequence(self, name: str, *, scope: str = "default") -> StoredSequence:
        """The same as a list."""
        self._ready()
        return self._parts.sessions.collections.sequence(name, check_scope(scope))

    def pages(self, id: str, *, scope: str = "default") -> list[PageInfo]:
        """The pages that hold a session's messages, and the tier each is in now."""
        self._ready()
        with self._parts.directory.home.snapshot() as tables:
            row = tables.sessions.find(scope, id)
            if row is None:
                raise NotFoundError(f"there is no session {id!r} in scope {scope!r}")
            rows = [
                (segment, page)
                for segment in segments_of(tables, line_as_of(tables, row, NOW))
                for page in tables.pages.map(
                    segment.line, segment.start, min(segment.stop, SEQ_STOP)
                )
            ]
        return [
            PageInfo(
                page=page.page, line=page.line, start=page.start,
                stop=min(page.stop, segment.stop), raw_bytes=page.raw_bytes,
                stored_bytes=page.stored_bytes, tier=self._parts.pager.tier_of(page.page),
            )
            for segment, page in rows
        ]  # fmt: skip

    # -- time -------------------------------------------------------------------------------------

    def at(self, moment: int | datetime) -> "MemoryView":
        """Everything as it was at an LSN or at an aware datetime: read-only. What was deleted,
        redacted or forgotten since is not in it."""
        self._ready()
        bound = bound_of(moment, field="moment")
        with self._parts.directory.home.snapshot() as tables:
            start, start_us = journal_start(tables), journal_start_us(tables)
        if bound.lsn < start:
            raise NotFoundError(f"history is kept from LSN {start}, got {bound.lsn}")
        if bound.at_us < start_us:
            raise NotFoundError(f"history is kept from {to_datetime(start_us)}, got {moment}")
        return MemoryView(self, bound)

    def journal(self, since: int | None = None) -> Iterator[JournalRecord]:
        """Every record above LSN `since`, in order, up to now. Lazy."""
        self._ready()
        if since is not None:
            check_count(since, field="since")
        return self._parts.history.read(since, lambda: self.lsn)

    def subscribe(
        self, *, since: int | None = None, pending_max: int | None = None
    ) -> Subscription:
        """Records as they are committed, after those above `since` if it is given. One that falls
        `pending_max` records behind loses the oldest and gets a gap record."""
        self._ready()
        limit = self.config.subscription_pending_max if pending_max is None else pending_max
        check_count(limit, field="pending_max", least=1)
        if since is not None:
            check_count(since, field="since")
        parts = self._parts
        subscription, lsn = parts.committer.exclusive(
            lambda: (parts.subscriptions.open(limit), parts.committer.lsn)
        )
        if since is not None:
            subscription.begin_with(parts.history.read(since, lambda: lsn))
        return subscription

    def restore(self, scope: str, lsn: int, *, reach: Reach | str = Reach.EXACT) -> int:
        """Make every session of a scope what it was at `lsn`: heads move back and states get new
        versions equal to the old ones; nothing is overwritten. Sessions made since are emptied.
        How many sessions were changed."""
        self._writable()
        view = self.at(lsn)
        with self._parts.directory.home.snapshot() as tables:
            numbers = scope_numbers(tables, check_scope(scope), check_reach(reach))
        changed = 0
        for number in numbers:
            after = 0
            while True:
                with self._parts.directory.home.snapshot() as tables:
                    rows = tables.sessions.page(number, after, _RESTORE_ROWS)
                if not rows:
                    break
                changed += sum(self._restore(row.scope, row.id, view) for row in rows)
                after = rows[-1].session
        return changed

    def _restore(self, scope: str, id: str, view: "MemoryView") -> bool:
        parts = self._parts.sessions
        key = SessionKey(scope, id)
        line, length = parts.reader.length(scope, id)
        try:
            old_line, old_length = parts.reader.length(scope, id, view.bound)
        except NotFoundError:
            old_line, old_length = None, 0
        if line is None:
            return False
        changed = (old_line and old_line.line, old_length) != (line.line, length)
        if changed and (length or old_length):
            parts.branches.restore(key, old_line, old_length)
        session, old = self.session(id, scope=scope), view.session(id, scope=scope)
        newest = {version.name: version for version in session.states()}
        for name, version in {v.name: v for v in old.states()}.items():
            if newest[name].version != version.version:
                state = old.load_state(name=name)
                assert state is not None
                session.save_state(state.value, name=name)
                changed = True
        return bool(changed)

    # -- forgetting -------------------------------------------------------------------------------

    def plan_forget(self, selector: Selector) -> ForgetPlan:
        """What `forget` would take away. Changes nothing."""
        self._ready()
        return self._parts.forgetting.plan(selector)

    def forget(self, what: ForgetPlan | Selector) -> ForgetReceipt:
        """Take it away: hidden at once, erased by the next compact(). Copies made by backup() are
        listed in the receipt, for they cannot be reached."""
        self._writable()
        selector = what.selector if isinstance(what, ForgetPlan) else what
        if not isinstance(selector, Selector):
            raise UsageError(
                f"expected a plan or a Selector, got {type(what).__name__}", field="what"
            )
        return self._with_room(lambda: self._parts.forgetting.forget(selector))

    # -- upkeep -----------------------------------------------------------------------------------

    def check(
        self, *, after: int | None = None, limit: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CheckReport:  # fmt: skip
        """Verify every checksum, length and sequence of up to `limit` sessions behind `after` (the
        cursor of an earlier report). Damaged sessions are quarantined and named."""
        self._ready()
        if after is not None:
            check_count(after, field="after")
        if limit is not None:
            check_count(limit, field="limit", least=1)
        report = self._parts.checking.check(
            after, limit, self._parts.directory.home.integrity, progress
        )
        for damage in report.damages:
            if damage.scope is not None and damage.session is not None:
                # The next write looks at the quarantine again.
                self._parts.residents.drop(SessionKey(damage.scope, damage.session))
        return report

    def accept_damage(self) -> int:
        """Take note of lost records and lift quarantines: what is damaged stays unreadable, what
        is whole can be written to again. How many marks were cleared."""
        self._writable()

        def member(transaction: Any) -> int:
            meta = transaction.tables.meta
            names = [*meta.names(QUARANTINE), *meta.names(LOST)]
            for name in names:
                meta.delete(name)
            return len(names)

        return self._parts.committer.commit(member)

    def compact(self, *, progress: Callable[[int, int], None] | None = None) -> CompactReport:
        """Seal every tail, renew dictionaries, erase what was forgotten, apply retention, give
        free room back to the disk. Others go on meanwhile."""
        self._writable()
        if not self._compact_lock.acquire(blocking=False):
            raise ConflictError("a compaction is running", expected="none", actual="one")
        try:
            return self._with_room(lambda: self._compact(progress))
        finally:
            self._compact_lock.release()

    def _compact(self, progress: Callable[[int, int], None] | None) -> CompactReport:
        parts = self._parts
        home, started = parts.directory.home, time.monotonic()
        before = home.disk_bytes()
        done = parts.compaction.run(progress)
        while parts.committer.exclusive(lambda: home.vacuum(_VACUUM_PAGES)):
            pass
        # Twice: the vacuum moved pages, and their old places are in the log.
        for _ in range(2):
            parts.committer.exclusive(lambda: parts.directory.checkpoint(truncate=True))
        trim_heap()
        if progress is not None:
            progress(100, 100)
        return CompactReport(
            **done._asdict(), disk_bytes_before=before, disk_bytes_after=home.disk_bytes(),
            seconds=time.monotonic() - started,
        )  # fmt: skip

    def backup(
        self, path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
    ) -> BackupReport:
        """Copy the store, in use, to a new directory: under a temporary name first, synced,
        verified, then renamed. The copy is of one moment."""
        self._ready()
        started = time.monotonic()
        target = Path(path)
        lsn = self.lsn
        if not self._read_only:
            name = f"{BACKUPS}{target.absolute()}"
            self._parts.committer.commit(lambda t: t.tables.meta.put(name, str(lsn).encode()))
        size = copy_store(self._parts.directory.home, target, progress)
        return BackupReport(
            path=str(target), lsn=lsn, size_bytes=size, seconds=time.monotonic() - started
        )

    def stats(self) -> Stats:
        """Figures of now; cheap enough to ask every second."""
        self._ready()
        return figures(self._parts)

    # -- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish what was begun and let go of the directory. May be called twice."""
        self._parts.committer.refuse_reentry()
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        parts = self._parts
        with contextlib.ExitStack() as last:
            # Each of them, whatever happens to the others; last in, first out.
            last.callback(_open_memories.discard, self)
            last.callback(parts.release)
            last.callback(lambda: parts.directory.close(self.lsn, failed=parts.committer.failed))
            last.callback(parts.committer.close)
            last.callback(parts.subscriptions.close)
            last.callback(parts.prefetcher.close)
            last.callback(parts.recall.engine.stop)
            last.callback(parts.contexts.stop)
            last.callback(parts.maintenance.close)
            last.callback(parts.dictionaries.stop_learning)
            last.callback(self._stop_serving)
            # Before the owner's door: a client may be waiting to begin a turn.
            last.callback(parts.pressure.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def abandon(self) -> None:
        """In a forked child: everything here is the parent's."""
        self._closed = True
        self._close_lock = threading.Lock()
        self._parts.abandon()

    def _ready(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed")

    def _writable(self) -> None:
        self._ready()
        if self._read_only:
            raise UsageError("the store was opened read-only", field="read_only")

    def _with_room(self, action: Callable[[], T]) -> T:
        parts = self._parts
        return deleting(action, lambda: parts.committer.exclusive(parts.directory.make_room))


class MemoryView(RecallingView):
    """A store as it was. Read-only; sees through the same code."""

    _memory: Memory

    def __init__(self, memory: Memory, bound: Bound) -> None:
        self._memory = memory
        self.bound = bound

    def session(self, id: str, *, scope: str = "default") -> SessionView:
        """A session as it was then."""
        key = SessionKey(check_scope(scope), check_name(id, field="id"))
        return SessionView(self._memory._parts.sessions, key, self.bound)

    def sessions(
        self, scope: str | None = None, *, reach: Reach | str = Reach.EXACT,
        after: tuple[str, str] | None = None, limit: int = 100,
    ) -> list[SessionInfo]:  # fmt: skip
        """Sessions that were there then."""
        return self._memory._list(scope, reach, after, limit, self.bound)


_open_memories: "weakref.WeakSet[Memory]" = weakref.WeakSet()


def _abandon_all() -> None:
    for memory in list(_open_memories):
        memory.abandon()


os.register_at_fork(after_in_child=_abandon_all)
