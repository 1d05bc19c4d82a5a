"""Who listens to the journal as it grows.

Records are put into each listener's own bounded queue after their commit, in LSN order; what the
listener does with them happens on its own thread, outside every lock. One that falls behind loses
the oldest and is told so by a gap record.
"""

import collections
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Self

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, StoreClosedError
from memopt.base.records import JournalRecord, RecordKind

_OWNER: Final = "subscriptions"
_BUDGET_PART: Final = 4
"""One listener that lags may take so much of the budget: a fourth."""


class Subscription:
    """An endless iterator of JournalRecord. Close it, or use it in a `with` block."""

    def __init__(
        self,
        pending_max: int,
        forget: Callable[["Subscription"], None],
        budget: Budget,
    ) -> None:
        self._pending: collections.deque[tuple[JournalRecord, int]] = collections.deque()
        self._pending_bytes = 0
        self._bytes_max = budget.limit_bytes // _BUDGET_PART
        self._budget = budget
        self._pending_max = pending_max
        self._dropped: JournalRecord | None = None
        self._history: Iterator[JournalRecord] = iter(())
        self._last_lsn = 0
        self._changed = threading.Condition()
        self._closed = False
        self._forget = forget

    def begin_with(self, history: Iterable[JournalRecord]) -> None:
        """Hand out `history` before what comes."""
        self._history = iter(history)

    def get(self, timeout: float | None = None) -> JournalRecord | None:
        """The next record; None when none came within `timeout` seconds, or it is closed."""
        for record in self._history:
            self._last_lsn = record.lsn
            return record
        while True:
            with self._changed:
                if not self._changed.wait_for(self._has_news, timeout) or self._closed:
                    return None
                record = self._take()
            if record.lsn > self._last_lsn:
                self._last_lsn = record.lsn
                return record

    def __iter__(self) -> Iterator[JournalRecord]:
        while (record := self.get()) is not None:
            yield record

    def close(self) -> None:
        self._forget(self)
        with self._changed:
            self._closed = True
            while self._pending:
                self._let_oldest_go()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put(self, records: Iterable[tuple[JournalRecord, int]]) -> None:
        """Records and what each occupies. The oldest go where the number or the listener's part
        of the budget is used up, and the record itself where there is no room at all."""
        with self._changed:
            if self._closed:
                return
            for record, size_bytes in records:
                if len(self._pending) >= self._pending_max:
                    self._dropped = self._let_oldest_go()
                while self._pending and self._pending_bytes + size_bytes > self._bytes_max:
                    self._dropped = self._let_oldest_go()
                try:
                    self._budget.reserve(_OWNER, size_bytes)
                except BudgetError:
                    self._dropped = record
                    continue
                self._pending.append((record, size_bytes))
                self._pending_bytes += size_bytes
            self._changed.notify_all()

    def _let_oldest_go(self) -> JournalRecord:
        record, size_bytes = self._pending.popleft()
        self._budget.release(_OWNER, size_bytes)
        self._pending_bytes -= size_bytes
        return record

    def _has_news(self) -> bool:
        return self._closed or bool(self._pending) or self._dropped is not None

    def _take(self) -> JournalRecord:
        if self._dropped is not None:
            dropped, self._dropped = self._dropped, None
            return JournalRecord(lsn=dropped.lsn, at=dropped.at, kind=RecordKind.GAP)
        return self._let_oldest_go()


class Subscriptions:
    """All listeners of one store. Thread-safe."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()
        self._closed = False

    def open(self, pending_max: int) -> Subscription:
        """A new listener. Called between commits, so that it gets all records of the next one."""
        subscription = Subscription(pending_max, self._remove, self._budget)
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closed")
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def has_listeners(self) -> bool:
        return bool(self._subscriptions)

    def deliver(self, records: list[tuple[JournalRecord, int]]) -> None:
        for subscription in self._subscriptions:
            subscription.put(records)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            subscriptions = self._subscriptions
        for subscription in subscriptions:
            subscription.close()

    def abandon(self) -> None:
        """In a forked child: every listener is closed, whoever held its lock in the parent."""
        self._lock = threading.Lock()
        self._closed = True
        for subscription in self._subscriptions:
            subscription._changed = threading.Condition()
            subscription._closed = True
            subscription._pending.clear()

    def _remove(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
