"""Grouped commits on the one writing connection.

A caller that finds nobody else committing commits by itself, on its own thread: a hand-over to
another thread costs more than the commit. Whoever comes meanwhile is queued, and one committer
thread takes all that wait into the next batch, a savepoint for each. So a lone writer pays no
hand-over and many writers share their syncs (docs/design/0003 has the figures).

Invariant: a result is returned only after its commit and after the acked page says so; a failed
batch leaves memory as it was, because every member registers how to undo what it changed.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from memopt.base.errors import (
    BackpressureError,
    DiskFullError,
    MemoptError,
    StoreClosedError,
    StoreError,
    StoreFailedError,
)
from memopt.base.events import Committed, Events
from memopt.base.protocols import Clock, Tables, Writer
from memopt.base.wakeups import Wakeup

T = TypeVar("T")
A = TypeVar("A")

LSNS_OF_ONE: Final = 2
"""At most so many LSNs does a member of commit_one take: a session and its first message."""
_PATIENCE_SHARE: Final = 0.5
_PATIENCE_SECONDS_MIN: Final = 20e-6
_PATIENCE_SECONDS_MAX: Final = 0.01
LSN_BLOCK: Final = 1024
"""LSNs are handed out in blocks this large; a crash skips the rest of one."""


class CommitLog(Protocol):
    """What the committer tells the acked page: LSNs before COMMIT, and what was acknowledged after
    it and before it returns."""

    def reserve_lsns(self, lsn_limit: int) -> None: ...
    def acknowledge(self, lsn: int, at_us: int, unsealed_delta: int) -> None: ...
    def fail(self) -> None: ...
    def on_failure(self, report: Callable[[MemoptError], None]) -> None: ...


class CommitTransaction:
    """What a member sees. One value is reused for all batches: it is only valid inside a member."""

    def __init__(self, tables: Tables, begin: Callable[[], None]) -> None:
        self.tables = tables
        self.begin = begin
        """Make what follows one transaction, if it is not in one: see `commit_one`."""
        self.at_us = 0
        self.lsn = 0
        self.unsealed_delta = 0
        self.watched = False
        self.undo: list[tuple[Callable[[Any], None], Any]] = []
        self.actions: list[Callable[[], None]] = []
        self.records: list[Any] = []

    def next_lsn(self) -> int:
        self.lsn += 1
        return self.lsn

    def after_commit(self, action: Callable[[], None]) -> None:
        self.actions.append(action)

    def on_rollback(self, undo: Callable[[Any], None], argument: Any) -> None:
        """Memory that a member changes early is put right if its commit fails."""
        self.undo.append((undo, argument))

    def publish(self, record: Any, size_bytes: int) -> None:
        """Tell subscribers after the commit; `size_bytes` is what the record occupies."""
        if self.watched:
            self.records.append((record, size_bytes))


class _Waiting:
    __slots__ = ("done", "error", "member", "ran", "result")

    def __init__(self, member: Callable[[CommitTransaction], Any]) -> None:
        self.member = member
        self.result: Any = None
        self.ran = False
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class GroupCommitter:
    """Runs members in commits. Thread-safe; members must not call back into it."""

    def __init__(
        self,
        writer: Writer,
        log: CommitLog,
        *,
        clock: Clock,
        events: Events,
        lsn: int,
        at_us: int,
        batch_max: int,
        queue_max: int,
        deliver: Callable[[list[Any]], None],
        has_listeners: Callable[[], bool],
        on_failure: Callable[[MemoptError], None],
    ) -> None:
        self._writer = writer
        self._log = log
        self._clock = clock
        self._events = events
        self._batch_max = batch_max
        self._deliver = deliver
        self._has_listeners = has_listeners
        self._on_failure = on_failure
        self._transaction = CommitTransaction(writer.tables, writer.begin)
        self._transaction.lsn = lsn
        self._lsn_limit = lsn
        self._last_us = at_us
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._arrived = Wakeup()
        """Rings when something was put into the queue."""
        self._queue_max = queue_max
        self._expected = 1
        """How many calls the next batch is likely to have: those of the last one come back."""
        self._commit_seconds = 0.0
        self._lock = threading.Lock()
        self._holder = 0
        """The thread that holds the lock, by its ident."""
        self._queue_lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._failure: MemoptError | None = None
        self._closing = False
        self._closed = False
        self._refusal: MemoptError | None = None
        self.lsn = lsn
        """The highest committed LSN."""
        log.on_failure(self._disk_failed)

    def commit(self, member: Callable[[CommitTransaction], T]) -> T:
        """Run `member` in a commit and return what it returned, once that is durable."""
        if self._may_go_alone():
            return self._alone(self._commit_alone, member)
        return self._commit_queued(member)

    def commit_one(self, member: Callable[[CommitTransaction], T]) -> T:
        """The same for a member that makes one write, after everything that may fail: when it is
        alone, that statement is the commit, without a BEGIN and a COMMIT around it. Before a
        second write it calls `transaction.begin()`."""
        if self._may_go_alone():
            # `_alone`, written out: this is the path of nearly every append.
            with self._lock:
                self._holder = threading.get_ident()
                try:
                    return self._commit_bare(member)
                finally:
                    self._holder = 0
        return self._commit_queued(member)

    def _may_go_alone(self) -> bool:
        # Where commits are slow and others made the last one together, joining them is faster.
        return self._expected == 1 and self._queue.empty() and not self._lock.locked()

    def _alone(self, run: Callable[[A], T], argument: A) -> T:
        # In a `with` of a C lock, whose end no Ctrl-C can come between.
        with self._lock:
            self._holder = threading.get_ident()
            try:
                return run(argument)
            finally:
                self._holder = 0

    def refuse_reentry(self) -> None:
        """Raise rather than wait for oneself: a signal handler runs within whatever its thread was
        doing, and that may be a commit."""
        if self._holder == threading.get_ident():
            raise StoreError("called from within a commit, as a signal handler may be: let it end")

    def _commit_queued(self, member: Callable[[CommitTransaction], T]) -> T:
        # A forked child has neither the thread nor whoever held the lock.
        self._ready()
        self.refuse_reentry()
        waiting = _Waiting(member)
        with self._queue_lock:
            if self._closing:
                # Behind what ends the queue, nobody would ever answer it.
                raise StoreClosedError("the store is closed")
            if self._queue.qsize() >= self._queue_max:
                raise BackpressureError(
                    f"{self._queue_max} calls wait for a commit already", limit="commit_queue_max"
                )
            if self._thread is None:
                self._start()
            self._queue.put(waiting)
            self._arrived.ring()
        waiting.done.acquire()
        if waiting.error is not None:
            raise waiting.error
        result: T = waiting.result
        return result

    def exclusive(self, action: Callable[[], T]) -> T:
        """Run `action` between commits, on this thread: for what needs the connection itself."""

        def run(action: Callable[[], T]) -> T:
            self._ready()
            try:
                return action()
            except StoreFailedError as error:
                self._disk_failed(error)
                raise

        self.refuse_reentry()
        return self._alone(run, action)

    def close(self) -> None:
        """Let what waits finish, then refuse everything."""
        self.refuse_reentry()
        with self._queue_lock:
            self._closing = True
            if self._thread is not None:
                self._queue.put(None)
                self._arrived.ring()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._closed = True

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def fail(self, error: MemoptError) -> None:
        """Refuse everything from now on, with this error."""
        self._failure = self._failure or error

    def refuse(self, error: MemoptError) -> None:
        """Commit nothing: every call gets this error. The store itself is sound."""
        self._refusal = error

    @property
    def refusing(self) -> bool:
        return self._refusal is not None

    # -- one batch --------------------------------------------------------------------------------

    def _commit_alone(self, member: Callable[[CommitTransaction], T]) -> T:
        self._ready()
        try:
            result = member(self._begin())
        except BaseException as error:
            judged = self._abort(error)
            if judged is error:
                raise
            raise judged from error
        self._finish(1)
        return result

    def _commit_bare(self, member: Callable[[CommitTransaction], T]) -> T:
        self._ready()
        made = self._writer.commits
        started = time.perf_counter()
        try:
            transaction = self._prepare()
            if transaction.lsn + LSNS_OF_ONE > self._lsn_limit:
                # The next block of LSNs is reserved in the same transaction.
                transaction.begin()
            result = member(transaction)
        except BaseException as error:
            judged = self._abort(error)
            if self._writer.commits != made:
                # The one write is committed, and its caller will not hear of it: go no further.
                self._disk_failed(StoreFailedError(f"a commit was interrupted: {error!r}"))
            if judged is error:
                raise
            raise judged from error
        self._finish(1, started)
        return result

    def _commit_batch(self, batch: list[_Waiting]) -> None:
        try:
            self._ready()
            self._commit_together(batch)
        except BaseException as error:  # noqa: BLE001 - handed to every member's caller
            for waiting in batch:
                waiting.error = waiting.error or error
            return
        if not any(waiting.ran for waiting in batch):
            # One of them met damage, and SQLite may have ended the transaction under the others.
            for waiting in batch:
                if waiting.error is None:
                    self._commit_batch([waiting])

    def _commit_together(self, batch: list[_Waiting]) -> None:
        """Run the members in one transaction. A member that fails has its error; where none ran,
        those without an error are still to be run. Raises what all of them failed by."""
        try:
            transaction = self._begin()
            for waiting in batch:
                if not self._run_member(transaction, waiting):
                    for other in batch:
                        other.ran = False
                    break
            if not any(waiting.ran for waiting in batch):
                self._abort(None)
                return
        except BaseException as error:
            judged = self._abort(error)
            if judged is error:
                raise
            raise judged from error
        self._finish(len(batch))

    def _run_member(self, transaction: CommitTransaction, waiting: _Waiting) -> bool:
        """False when the transaction may have ended with it."""
        lsn, delta, marks = transaction.lsn, transaction.unsealed_delta, self._marks()
        try:
            with self._writer.savepoint():
                waiting.result = waiting.member(transaction)
            waiting.ran = True
        except BaseException as error:
            if isinstance(error, StoreFailedError | DiskFullError):
                raise
            waiting.error = error
            transaction.lsn, transaction.unsealed_delta = lsn, delta
            self._undo(marks)
            return not isinstance(error, StoreError)
        return True

    def _begin(self) -> CommitTransaction:
        transaction = self._prepare()
        transaction.begin()
        return transaction

    def _prepare(self) -> CommitTransaction:
        if self._refusal is not None:
            raise self._refusal
        transaction = self._transaction
        now = self._clock.now_us()
        if now < self._last_us:
            now = self._last_us
        transaction.at_us = now
        transaction.watched = self._has_listeners()
        return transaction

    def _finish(self, members: int, started: float = 0.0) -> None:
        transaction, limit = self._transaction, self._lsn_limit
        try:
            if transaction.lsn > limit:
                limit = transaction.lsn + LSN_BLOCK
                self._log.reserve_lsns(limit)
            started = started or time.perf_counter()
            self._writer.commit()
            seconds = time.perf_counter() - started
        except BaseException as error:
            judged = self._abort(error)
            if not isinstance(error, Exception):
                # Ctrl-C, on its way out of COMMIT: whether that was made is not known.
                self._disk_failed(StoreFailedError("a commit was interrupted"))
            if judged is error:
                raise
            raise judged from error
        try:
            self._lsn_limit = limit
            self._conclude(members, seconds)
        except BaseException as error:
            # It is committed, and not everybody who has to knows of it: go no further.
            failure = StoreFailedError(f"a commit was made and could not be concluded: {error!r}")
            self._disk_failed(failure)
            if not isinstance(error, Exception):
                raise
            raise failure from error

    def _conclude(self, members: int, seconds: float) -> None:
        """After COMMIT: tell the acked page, then memory, then subscribers."""
        transaction = self._transaction
        self._commit_seconds = seconds
        records = transaction.lsn - self.lsn
        self.lsn = transaction.lsn
        self._last_us = transaction.at_us
        self._log.acknowledge(transaction.lsn, transaction.at_us, transaction.unsealed_delta)
        transaction.unsealed_delta = 0
        transaction.undo.clear()
        if transaction.actions:
            for action in transaction.actions:
                action()
            transaction.actions.clear()
        if transaction.records:
            self._deliver(transaction.records)
            transaction.records = []
        self._events.emit(Committed(members, records, 0, seconds))

    def _abort(self, error: BaseException | None) -> BaseException:
        """Undo everything; the error to raise. A full disk can be retried, any other failure to
        write ends the store: what a failed sync left behind is not known."""
        transaction = self._transaction
        transaction.lsn = self.lsn
        transaction.unsealed_delta = 0
        self._undo((0, 0, 0))
        judged = self._writer.rollback(error)
        if isinstance(judged, StoreFailedError):
            self._disk_failed(judged)
        return judged or StoreFailedError("nothing was committed")

    def _disk_failed(self, error: MemoptError) -> None:
        """From now on nothing is acknowledged any more."""
        if self._failure is None:
            self._failure = StoreFailedError(f"the store closed itself, open it again: {error}")
            self._log.fail()
            self._on_failure(self._failure)

    def _marks(self) -> tuple[int, int, int]:
        transaction = self._transaction
        return len(transaction.undo), len(transaction.actions), len(transaction.records)

    def _undo(self, marks: tuple[int, int, int]) -> None:
        transaction = self._transaction
        undo, actions, records = marks
        while len(transaction.undo) > undo:
            function, argument = transaction.undo.pop()
            function(argument)
        del transaction.actions[actions:]
        del transaction.records[records:]

    def _ready(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        if self._closed:
            raise StoreClosedError("the store is closed")

    # -- the committer thread ---------------------------------------------------------------------

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="memopt-committer", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise BackpressureError(
                f"no thread could be started: {error}", limit="threads"
            ) from error
        self._thread = thread

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            ended = not self._gather(batch, self._expected, self._patience_seconds())
            # Callers that arrive while the lock is awaited still join this batch.
            ended = not self._alone(self._commit_with_more, batch) or ended
            patient = self._patience_seconds() > 0.0
            back = len(batch) + self._queue.qsize() if patient else 1
            self._expected = min(back, self._batch_max)
            for waiting in batch:
                waiting.done.release()
            if ended:
                return

    def _commit_with_more(self, batch: list[_Waiting]) -> bool:
        goes_on = self._gather(batch, self._batch_max, 0.0)
        self._commit_batch(batch)
        return goes_on

    def _patience_seconds(self) -> float:
        """How long to wait for those who are expected: less than what a commit of their own would
        cost them, and not at all where a commit is quick."""
        seconds = min(self._commit_seconds * _PATIENCE_SHARE, _PATIENCE_SECONDS_MAX)
        return seconds if seconds >= _PATIENCE_SECONDS_MIN else 0.0

    def _gather(self, batch: list[_Waiting], count: int, seconds: float) -> bool:
        """Take up to `count` calls for a batch, waiting for `seconds`; False at the queue's end."""
        deadline = time.monotonic() + seconds
        while len(batch) < count:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                left = deadline - time.monotonic() if seconds else 0.0
                if left <= 0.0:
                    return True
                self._arrived.wait(left)
                continue
            if more is None:
                return False
            batch.append(more)
        return True
