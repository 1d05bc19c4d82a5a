"""Long reads for clients, a batch at a time: each answer says how to ask for the next, so the owner
need not hold anything in between. Where it is in a journal it keeps with the connection all the
same, as long as nothing else is asked there.

Invariant: a read gets what there was when it began, all of it, or an error.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from memopt.base.errors import BudgetError, NotFoundError
from memopt.base.records import JournalRecord
from memopt.base.units import MIB
from memopt.codecs.wire import encode
from memopt.journal.history import Held
from memopt.journal.subscription import Subscription
from memopt.memory import Memory
from memopt.sessions.names import check_count
from memopt.sessions.session import Session, SessionView

OWNER: Final = "owner socket"
"""What clients occupy, in the budget."""
BATCH_ITEMS_MAX: Final = 256
BATCH_BYTES_MAX: Final = 1 * MIB
POLL_SECONDS_MAX: Final = 1.0
"""The longest the owner waits for a record before it answers a subscriber that there is none."""


def read_session(
    memory: Memory, session: Session, verb: str, start: int = 0, stop: int | None = None,
    lsn: int | None = None,
) -> list[Any]:  # fmt: skip
    """The session as it was when the read began, however many batches it takes: what others
    append, truncate or pop meanwhile is not part of it."""
    goes_on = lsn is not None
    lsn = memory.lsn if lsn is None else lsn
    view = memory.at(lsn).session(session.id, scope=session.scope)
    try:
        items, more = read_view(view, verb, start, stop, goes_on)
    except NotFoundError:
        if goes_on:
            raise
        # It is not there, or was made this very moment: no messages.
        return [[], None]
    return [items, {"start": more["start"], "stop": more["stop"], "lsn": lsn} if more else None]


def read_view(
    view: SessionView, verb: str, start: int = 0, stop: int | None = None, goes_on: bool = False
) -> list[Any]:
    items, whole = batch(getattr(view, verb)(start, stop))
    end = start + len(items)
    if goes_on and whole and stop is not None and end < stop:
        raise NotFoundError(
            f"session {view.id!r} of scope {view.scope!r} was deleted while it was read"
        )
    if whole:
        return [items, None]
    # From here on it is known how many there must be, so an end that comes early is noticed.
    stop = len(view) if stop is None else min(stop, len(view))
    return [items, {"start": end, "stop": stop, "goes_on": True} if end < stop else None]


class JournalReader:
    """The journal for one client, a batch at a time. Between two of them it keeps where it is: to
    find that anew takes a look at every entry of the collections. What it holds is reserved, and
    where there is no room it is let go."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._at: tuple[int | None, int] | None = None
        """What the batch begins with that goes on from here; None where nothing is kept."""
        self._records: Iterator[JournalRecord] = iter(())
        self._held = Held()
        self._reserved_bytes = 0

    def batch(self, since: int | None = None, up_to: int | None = None) -> list[Any]:
        end = self._memory.lsn if up_to is None else check_count(up_to, field="up_to")
        if (since, end) != self._at:
            self.close()
            if since is not None:
                check_count(since, field="since")
            history = self._memory._parts.history
            self._records = history.read(since, lambda: end, self._held)
        last = since

        def noted() -> Iterator[JournalRecord]:
            nonlocal last
            for record in self._records:
                last = record.lsn
                yield record

        # An error on the way leaves nothing that could be gone on with.
        self._at = None
        items, whole = batch(noted())
        if whole:
            self.close()
            return [items, None]
        if self._has_room():
            self._at = (last, end)
        else:
            self.close()
        return [items, {"since": last, "up_to": end}]

    def _has_room(self) -> bool:
        more = self._held.size_bytes - self._reserved_bytes
        try:
            if more > 0:
                self._memory._parts.budget.reserve(OWNER, more)
            else:
                self._memory._parts.budget.release(OWNER, -more)
        except BudgetError:
            return False
        self._reserved_bytes += more
        return True

    def close(self) -> None:
        """Let go of it. A batch that goes on is read all the same."""
        self._at = None
        self._records = iter(())
        self._held = Held()
        reserved, self._reserved_bytes = self._reserved_bytes, 0
        self._memory._parts.budget.release(OWNER, reserved)


def next_records(subscription: Subscription, timeout: float) -> list[Any]:
    """What came, waiting at most `timeout` seconds for the first record."""
    first = subscription.get(max(0.0, min(float(timeout), POLL_SECONDS_MAX)))
    if first is None:
        return []
    rest = iter(lambda: subscription.get(0), None)
    return batch(itertools.chain([first], rest))[0]


def batch(values: Iterable[Any]) -> tuple[list[bytes], bool]:
    """The first values, encoded, as many as a batch may hold; and whether that is all."""
    items: list[bytes] = []
    size = 0
    for value in values:
        items.append(encode(value))
        size += len(items[-1])
        if len(items) >= BATCH_ITEMS_MAX or size >= BATCH_BYTES_MAX:
            return items, False
    return items, True
