"""What happened, as small values. Emitters make them; metrics, logs and `top` read them.

Not here: counting (metrics.py) and the journal, whose records are durable and say what a *user*
did; an event says what the *machine* did, and is gone when nobody listens.
"""

from collections.abc import Callable

import msgspec

from memopt.base.protocols import Sink


class Event(msgspec.Struct, frozen=True, gc=False):
    """A struct because an append makes two: a quarter of what a NamedTuple costs."""


class Committed(Event, frozen=True):
    members: int
    records: int
    size_bytes: int
    seconds: float
    """Of the COMMIT alone: the sync, where there is one."""


class Appended(Event, frozen=True):
    messages: int
    size_bytes: int
    seconds: float


class Sealed(Event, frozen=True):
    messages: int
    raw_bytes: int
    stored_bytes: int
    seconds: float


class Faulted(Event, frozen=True):
    kind: str
    """minor or major."""
    pages: int
    size_bytes: int
    seconds: float
    refaults: int = 0
    """Of the pages, those that had left for room not long ago."""


class Hit(Event, frozen=True):
    pages: int


class Demoted(Event, frozen=True):
    pages: int
    size_bytes: int
    reason: str
    """room, idle or pressure."""


class Evicted(Event, frozen=True):
    pages: int
    size_bytes: int
    reason: str


class Thrashing(Event, frozen=True):
    """It began, or it ended."""

    is_on: bool
    refaults: int
    """In the window that was judged."""
    faults: int


class Collected(Event, frozen=True):
    """One bounded slice of the arena's cleaner."""

    moved_bytes: int
    """Live bytes copied out of extents that were mostly dead."""
    freed_bytes: int
    extents: int
    """Extents that were closed, so that their memory is back with the system."""
    seconds: float
    """The pause: for so long nobody else could use the arena."""
    reason: str
    """The trigger's name, `room` for a put that found none, or what the caller says."""
    more: bool = False
    """Another slice would find something to do."""


class Prefetched(Event, frozen=True):
    by: str
    """next, order or recency."""
    pages: int
    size_bytes: int
    seconds: float


class PrefetchSettled(Event, frozen=True):
    """Pages that were prefetched were touched, or left untouched."""

    by: str
    pages: int
    was_used: bool


class StateSaved(Event, frozen=True):
    raw_bytes: int
    stored_bytes: int


class EntriesHit(Event, frozen=True):
    """Reads of collections that RAM answered."""

    entries: int


class EntriesFaulted(Event, frozen=True):
    entries: int
    size_bytes: int
    seconds: float


class EntriesWritten(Event, frozen=True):
    entries: int
    size_bytes: int
    seconds: float


class EntriesEvicted(Event, frozen=True):
    entries: int
    size_bytes: int


class ScopeFaulted(Event, frozen=True):
    """The index of a scope was brought in."""

    entries: int
    size_bytes: int
    seconds: float


class ScopesEvicted(Event, frozen=True):
    scopes: int
    size_bytes: int


class Recalled(Event, frozen=True):
    hits: int
    candidates: int
    seconds: float


class AnswerServed(Event, frozen=True):
    match: str
    """exact, words, question or neighbours."""
    seconds: float


class AnswerMissed(Event, frozen=True):
    reason: str
    seconds: float


class AnswerStored(Event, frozen=True):
    size_bytes: int


class AnswersEvicted(Event, frozen=True):
    """Answers had to go for another one, or had expired."""

    answers: int


class AnswerJudged(Event, frozen=True):
    verdict: str


class SegmentsMerged(Event, frozen=True):
    segments: int
    """That became one."""
    entries: int
    seconds: float


class Checkpointed(Event, frozen=True):
    wal_bytes: int
    seconds: float
    forced: bool
    """The writer had to stop for it, because the limit was reached."""


class DictionaryTrained(Event, frozen=True):
    scope: str
    size_bytes: int
    samples: int
    seconds: float


class RecordsLost(Event, frozen=True):
    records: int
    reason: str


class PageRepaired(Event, frozen=True):
    page: int
    """Of the database file, from 1. One bit of it had flipped."""


class Quarantined(Event, frozen=True):
    scope: str
    session: str
    reason: str


class Refused(Event, frozen=True):
    limit: str
    reason: str


class PressureChanged(Event, frozen=True):
    level: str
    before: str
    nearest: str
    """The limit that is nearest: budget, rss, memory or data; or `stall`."""
    share: float
    """Of that limit, with what is forecast."""


class StepTaken(Event, frozen=True):
    step: str
    level: str
    seconds: float


class StepUndone(Event, frozen=True):
    step: str
    level: str
    seconds: float


class Forecast(Event, frozen=True):
    """The moment of an earlier forecast has come."""

    exceeded: bool


class OutsideCharged(Event, frozen=True):
    """The budget gave up, or got back, what RSS has beyond the accounts."""

    size_bytes: int
    outside_bytes: int


class LeakSuspected(Event, frozen=True):
    owner: str
    """Of the budget, whose bytes grew most; or "outside memopt"."""
    grown_bytes: int
    seconds: float


class TurnEnded(Event, frozen=True):
    peak_bytes: int
    seconds: float


class TurnWaited(Event, frozen=True):
    """It was let in after a wait."""

    seconds: float


class Events:
    """Hands every event to every sink, in order. A sink must not raise and must not block."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._bind()

    def add(self, sink: Sink) -> None:
        self._sinks = (*self._sinks, sink)
        self._bind()

    def _bind(self) -> None:
        # Most stores have one sink, the metrics: then that is what `emit` is.
        self.emit: Callable[[Event], None]
        self.emit = self._sinks[0].emit if len(self._sinks) == 1 else self._emit_to_all

    def _emit_to_all(self, event: Event) -> None:
        for sink in self._sinks:
            sink.emit(event)
