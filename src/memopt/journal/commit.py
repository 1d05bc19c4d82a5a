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
    StoreFailedError,
)
from memopt.base.events import Committed, Events
from memopt.base.protocols import Clock, Tables, Writer

T = TypeVar("T")

LSN_BLOCK: Final = 1024
"""LSNs are handed out in blocks this large; a crash skips the rest of one."""


class CommitLog(Protocol):
    """What the committer tells the acked page, after COMMIT and before it returns."""

    def reserve_lsns(self, lsn_limit: int) -> None: ...
    def acknowledge(self, lsn: int, at_us: int, unsealed_delta: int) -> None: ...


class CommitTransaction:
    """What a member sees. One value is reused for all batches: it is only valid inside a member."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
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

    def publish(self, record: Any) -> None:
        if self.watched:
            self.records.append(record)


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
        self._transaction = CommitTransaction(writer.tables)
        self._transaction.lsn = lsn
        self._lsn_limit = lsn
        self._last_us = at_us
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._queue_max = queue_max
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: MemoptError | None = None
        self._closed = False
        self.lsn = lsn
        """The highest committed LSN."""

    def commit(self, member: Callable[[CommitTransaction], T]) -> T:
        """Run `member` in a commit and return what it returned, once that is durable."""
        if self._queue.empty() and self._lock.acquire(blocking=False):
            try:
                return self._commit_alone(member)
            finally:
                self._lock.release()
        if self._queue.qsize() >= self._queue_max:
            raise BackpressureError(
                f"{self._queue_max} calls wait for a commit already", limit="commit_queue_max"
            )
        waiting = _Waiting(member)
        if self._thread is None:
            self._start()
        self._queue.put(waiting)
        waiting.done.acquire()
        if waiting.error is not None:
            raise waiting.error
        result: T = waiting.result
        return result

    def exclusive(self, action: Callable[[], T]) -> T:
        """Run `action` between commits, on this thread: for what needs the connection itself."""
        with self._lock:
            self._ready()
            return action()

    def close(self) -> None:
        """Let what waits finish, then refuse everything."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        with self._lock:
            self._closed = True

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def fail(self, error: MemoptError) -> None:
        """Refuse everything from now on, with this error."""
        self._failure = self._failure or error

    # -- one batch --------------------------------------------------------------------------------

    def _commit_alone(self, member: Callable[[CommitTransaction], T]) -> T:
        self._ready()
        transaction = self._begin()
        try:
            result = member(transaction)
        except BaseException as error:
            raise self._abort(error) from error
        self._finish(1)
        return result

    def _commit_batch(self, batch: list[_Waiting]) -> None:
        try:
            self._ready()
            transaction = self._begin()
        except MemoptError as error:
            for waiting in batch:
                waiting.error = error
            return
        failure: BaseException | None = None
        for waiting in batch:
            lsn, delta, marks = transaction.lsn, transaction.unsealed_delta, self._marks()
            try:
                with self._writer.savepoint():
                    waiting.result = waiting.member(transaction)
                waiting.ran = True
            except BaseException as error:  # noqa: BLE001 - handed to the member's own caller
                transaction.lsn, transaction.unsealed_delta = lsn, delta
                self._undo(marks)
                waiting.error = error
                if isinstance(error, StoreFailedError | DiskFullError):
                    failure = error
                    break
        if failure is None and any(waiting.ran for waiting in batch):
            try:
                self._finish(len(batch))
            except BaseException as error:  # noqa: BLE001 - handed to every member's caller
                failure = error
        else:
            self._abort(failure)
        if failure is not None:
            for waiting in batch:
                waiting.error = waiting.error or failure

    def _begin(self) -> CommitTransaction:
        transaction = self._transaction
        now = self._clock.now_us()
        if now < self._last_us:
            now = self._last_us
        transaction.at_us = now
        transaction.watched = self._has_listeners()
        self._writer.begin()
        return transaction

    def _finish(self, members: int) -> None:
        transaction = self._transaction
        if transaction.lsn > self._lsn_limit:
            self._lsn_limit = transaction.lsn + LSN_BLOCK
            self._log.reserve_lsns(self._lsn_limit)
        started = time.perf_counter()
        try:
            self._writer.commit()
        except BaseException as error:
            raise self._abort(error) from error
        seconds = time.perf_counter() - started
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
        if isinstance(judged, StoreFailedError) and self._failure is None:
            self._failure = StoreFailedError(f"the store closed itself: {judged}")
            self._on_failure(self._failure)
        return judged or StoreFailedError("nothing was committed")

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
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="memopt-committer", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            with self._lock:
                # Callers that arrive while the lock is awaited still join this batch.
                ended = False
                while len(batch) < self._batch_max:
                    try:
                        more = self._queue.get_nowait()
                    except queue.Empty:
                        break
                    if more is None:
                        ended = True
                        break
                    batch.append(more)
                self._commit_batch(batch)
            for waiting in batch:
                waiting.done.release()
            if ended:
                return
