"""Long reads for clients, a batch at a time: each answer says how to ask for the next, so the owner
holds nothing in between, and a client that stops asking leaves nothing behind.

Invariant: a read gets what there was when it began, all of it, or an error.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from memopt.base.errors import NotFoundError
from memopt.base.records import JournalRecord
from memopt.base.units import MIB
from memopt.codecs.wire import encode
from memopt.journal.subscription import Subscription
from memopt.memory import Memory
from memopt.sessions.session import Session, SessionView

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


def read_journal(memory: Memory, since: int | None = None, up_to: int | None = None) -> list[Any]:
    up_to = memory.lsn if up_to is None else up_to
    last = since

    def records() -> Iterator[JournalRecord]:
        nonlocal last
        for record in memory.journal(since):
            if record.lsn > up_to:
                return
            last = record.lsn
            yield record

    items, whole = batch(records())
    return [items, None if whole else {"since": last, "up_to": up_to}]


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
