"""What happened, as small values. Emitters make them; metrics, logs and `top` read them.

Not here: counting (metrics.py) and the journal, whose records are durable and say what a *user*
did; an event says what the *machine* did, and is gone when nobody listens.
"""

from typing import NamedTuple

from memopt.base.protocols import Sink


class Committed(NamedTuple):
    members: int
    records: int
    size_bytes: int
    seconds: float
    """Of the COMMIT alone: the sync, where there is one."""


class Appended(NamedTuple):
    messages: int
    size_bytes: int
    seconds: float


class Sealed(NamedTuple):
    messages: int
    raw_bytes: int
    stored_bytes: int
    seconds: float


class Faulted(NamedTuple):
    kind: str
    """minor or major."""
    pages: int
    size_bytes: int
    seconds: float


class Hit(NamedTuple):
    pages: int


class Demoted(NamedTuple):
    pages: int
    size_bytes: int
    reason: str
    """room or idle."""


class Evicted(NamedTuple):
    pages: int
    size_bytes: int
    reason: str


class StateSaved(NamedTuple):
    raw_bytes: int
    stored_bytes: int


class Checkpointed(NamedTuple):
    wal_bytes: int
    seconds: float
    forced: bool
    """The writer had to stop for it, because the limit was reached."""


class DictionaryTrained(NamedTuple):
    scope: str
    size_bytes: int
    samples: int
    seconds: float


class RecordsLost(NamedTuple):
    records: int
    reason: str


class PageRepaired(NamedTuple):
    page: int
    """Of the database file, from 1. One bit of it had flipped."""


class Quarantined(NamedTuple):
    scope: str
    session: str
    reason: str


class Refused(NamedTuple):
    limit: str
    reason: str


class Events:
    """Hands every event to every sink, in order. A sink must not raise and must not block."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def emit(self, event: NamedTuple) -> None:
        for sink in self._sinks:
            sink.emit(event)

    def add(self, sink: Sink) -> None:
        self._sinks = (*self._sinks, sink)
