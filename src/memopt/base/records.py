"""The values that cross floors and the ones that callers get: frozen, and free of behaviour.

Rows (`…Row`) are what a home stores; they are NamedTuples because a hot path makes them by the
thousand. Everything a caller receives is a frozen msgspec Struct, so it also travels over the
owner's socket. Times are microseconds since 1970 UTC inside, aware datetimes outside.
"""

import enum
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, NewType

import msgspec

Lsn = NewType("Lsn", int)
"""The number of a record in the journal. Dense and rising; 0 is before the first."""
SessionNumber = NewType("SessionNumber", int)
LineNumber = NewType("LineNumber", int)
"""One branch of a session's tree of messages, unique in the store."""
PageNumber = NewType("PageNumber", int)
Head = NewType("Head", int)
"""Line and length in one number: `line << SEQ_BITS | length`. Opaque to callers; 0 = no session."""

SEQ_BITS: Final = 24
"""A line holds at most 2^24 messages, and there are at most 2^39 lines."""
SEQ_MASK: Final = (1 << SEQ_BITS) - 1

PLACE_BITS: Final = 33
"""A collection has 2^33 places, and there are at most 2^30 collections. A place is never used for a
second key, so this also limits how many keys a mapping sees in its life."""
PLACE_MASK: Final = (1 << PLACE_BITS) - 1
LARGE_RECORD_BYTES: Final = 1 << 16
"""Records and values of collections from here on are reserved while they are read or written."""

Message = dict[str, Any]
"""Any JSON object."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(at_us: int) -> datetime:
    """An aware UTC datetime, exact to the microsecond."""
    return _EPOCH + timedelta(microseconds=at_us)


def to_us(at: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime."""
    return (at - _EPOCH) // timedelta(microseconds=1)


class Reach(enum.StrEnum):
    """Which scopes a call looks at, by whole path components."""

    EXACT = "exact"
    SUBTREE = "subtree"
    ANCESTORS = "ancestors"


class Seal(enum.StrEnum):
    """When a tail becomes a page."""

    FULL = "full"
    """Only when it has reached the page target."""
    IDLE = "idle"
    """Also when its session was idle for the L1 idle time."""
    ALWAYS = "always"
    """After every append."""


class Prefetch(enum.StrEnum):
    """Which pages are brought in before they are asked for."""

    OFF = "off"
    NEXT = "next"
    """A session's next pages, while the ones before are read."""
    ORDER = "order"
    """The sessions that came after this one the last times, within its scope."""
    RECENCY = "recency"
    """Pages of sessions used lately that fell out, once there is free room."""
    ALL = "all"


class PoolShares(enum.StrEnum):
    """Whether agent types have shares of the page bytes."""

    OFF = "off"
    """All pages compete with each other."""
    SOFT = "soft"
    """When room is short, the type furthest above its predicted working set gives first."""


PREFETCHES: Final = tuple(Prefetch)
"""By the number that is kept for a page."""


class Durability(enum.StrEnum):
    """What an acknowledged write survives."""

    SYNC = "sync"
    """A power cut."""
    OS = "os"
    """A kill of the process. A power cut may lose the latest commits, never consistency."""


class Tier(enum.StrEnum):
    L1 = "l1"
    """Hot: encoded bytes, ready to decode."""
    L2 = "l2"
    """Warm: compressed bytes in RAM."""
    L3 = "l3"
    """Cold: the durable home."""


class Lifetime(enum.StrEnum):
    """How long a value in the arena is expected to live: those that die together lie together."""

    EPHEMERAL = "ephemeral"
    """A turn."""
    SESSION = "session"
    PERSISTENT = "persistent"


class ArenaUsage(NamedTuple):
    """What an arena holds, for whoever decides when to collect."""

    live_bytes: int
    """Of values that were not deleted."""
    dead_bytes: int
    """Of values that were, in extents that are still mapped."""
    resident_bytes: int
    """Everything that is mapped, room that was never filled included."""


class RecordKind(enum.StrEnum):
    """What a journal record says happened."""

    MESSAGE = "message"
    SESSION_CREATED = "session_created"
    HEAD_MOVED = "head_moved"
    FORKED = "forked"
    SESSION_DELETED = "session_deleted"
    REDACTED = "redacted"
    MESSAGE_PINNED = "message_pinned"
    MESSAGE_UNPINNED = "message_unpinned"
    STATE_SAVED = "state_saved"
    COLLECTION_CREATED = "collection_created"
    ENTRY_SET = "entry_set"
    ENTRY_DELETED = "entry_deleted"
    """Of a collection, the last time it lost entries; which ones is not said."""
    COLLECTION_DELETED = "collection_deleted"
    ITEM_STATED = "item_stated"
    ITEM_REVISED = "item_revised"
    ITEM_PINNED = "item_pinned"
    ITEM_UNPINNED = "item_unpinned"
    ITEM_ENDED = "item_ended"
    ITEM_DECIDED = "item_decided"
    ITEM_RATED = "item_rated"
    ITEM_FORGOTTEN = "item_forgotten"
    DOCUMENT_INGESTED = "document_ingested"
    """Behind the records of what was stated and forgotten of its pieces."""
    ANSWERS_DELETED = "answers_deleted"
    """Cached answers were taken away because a user asked for it; which ones is not said."""
    GAP = "gap"
    """Not stored: a subscriber fell behind, and records up to this LSN were dropped for it."""


# -- rows: what a home stores ---------------------------------------------------------------------


class SessionRow(NamedTuple):
    session: int
    scope_number: int
    scope: str
    id: str
    agent: str | None
    line: int
    made_lsn: int
    made_us: int
    touched_us: int


class LineRow(NamedTuple):
    """Messages `base…` of a line are its own; those before belong to `parent` (0 = none)."""

    line: int
    session: int
    """0 once its session is deleted and only forks still read it."""
    parent: int
    base: int
    made_lsn: int
    made_us: int


class PageRow(NamedTuple):
    """One entry of the page map: messages [start, stop) of a line are in `page`."""

    line: int
    start: int
    stop: int
    page: int
    first_lsn: int
    last_lsn: int
    raw_bytes: int
    stored_bytes: int


class StateRow(NamedTuple):
    session: int
    name: str
    version: int
    lsn: int
    at_us: int
    base: int
    """The version this one is a delta of; 0 when it stands alone."""
    raw_bytes: int
    body: bytes


class EventRow(NamedTuple):
    lsn: int
    at_us: int
    kind: str
    session: int
    line: int
    seq: int
    note: str | None
    """The name of a saved state; nothing else a user wrote is ever kept in an event."""


class KeyRow(NamedTuple):
    """An idempotency key and the receipt it was answered with."""

    session: int
    key: str
    lsn: int
    seq: int
    head: int
    made_us: int


class DictionaryRow(NamedTuple):
    dictionary: int
    scope_number: int
    version: int
    made_lsn: int
    retired: int
    """1 once something it may hold was forgotten, or a newer one replaced it."""
    body: bytes


class CollectionRow(NamedTuple):
    """A mapping or a sequence. Its number is never used again."""

    collection: int
    scope_number: int
    session: int
    """0 when the scope itself owns it."""
    kind: str
    name: str
    made_lsn: int
    made_us: int


class EntryRow(NamedTuple):
    """One value of a collection. The order of places is the order of the collection."""

    collection: int
    place: int
    key: bytes | None
    """None in a sequence."""
    lsn: int
    record: bytes


class EntryHead(NamedTuple):
    """A value of a collection without its record."""

    place: int
    key: bytes | None
    """None in a sequence."""
    lsn: int


# -- values: what a caller gets -------------------------------------------------------------------


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A write was acknowledged."""

    lsn: int
    """Of its last record."""
    seq: int
    """Of its last message; -1 when the session holds none."""
    head: int
    """Opaque; pass it as `if_head` to write only if nobody else did."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A value was set in a mapping."""

    raw_bytes: int
    """Encoded, before compression."""
    error_max: float
    """Largest absolute difference from what was given; 0.0 unless int8 or int4 was asked for."""


class StateVersion(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    version: int
    """From 1, without gaps for versions that were not trimmed."""
    lsn: int
    at: datetime


class State(msgspec.Struct, frozen=True, kw_only=True):
    value: Any
    version: int
    lsn: int
    at: datetime


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    scope: str
    id: str
    agent: str | None
    message_count: int
    """0 when it is damaged so that they cannot be counted."""
    head: int
    is_damaged: bool = False
    """Its messages cannot be counted: check() says why."""
    made_at: datetime
    touched_at: datetime


class JournalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. For a gap, `lsn` is the last record that was dropped."""

    lsn: int
    at: datetime
    kind: RecordKind
    scope: str | None = None
    """None where the session is gone: a journal never names what was forgotten."""
    session: str | None = None
    seq: int | None = None
    actor: str | None = None
    message: Message | None = None
    state: str | None = None
    collection: str | None = None
    """The name of a mapping or a sequence."""
    key: str | int | bytes | None = None
    """Of an entry that was set in a mapping; in a sequence, `seq` is its position."""
    item: str | None = None
    """The id of a stated memory; `seq` is the version of its text, which is in `text`."""
    text: str | None = None
    document: str | None = None
    """The source of a document that was ingested; `seq` is the number of its pieces."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message with what the journal knows about it."""

    seq: int
    lsn: int
    at: datetime
    """When it was said: `at=` of the append, else the time of the commit."""
    committed_at: datetime
    actor: str | None
    message: Message


class PageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a session, and where it is now."""

    page: int
    line: int
    start: int
    stop: int
    raw_bytes: int
    stored_bytes: int
    tier: str


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    scope: str | None = None
    session: str | None = None


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    sessions: int
    messages: int
    pages: int
    states: int
    bytes_checked: int
    damages: tuple[Damage, ...]
    lost_records: int
    """Acknowledged records that a damaged write-ahead log no longer held when it was opened."""
    cursor: int | None
    """Pass it as `after` to go on; None when everything was checked."""
    values: int = 0
    """Of mappings and sequences."""
    items: int = 0
    """Memories, and pieces of documents."""
    answers: int = 0
    """Cached ones."""

    @property
    def clean(self) -> bool:
        return not self.damages and not self.lost_records


class CompactReport(msgspec.Struct, frozen=True, kw_only=True):
    sealed_sessions: int
    pages_encoded: int
    dictionaries_trained: int
    dictionaries_dropped: int
    texts_dropped: int
    disk_bytes_before: int
    disk_bytes_after: int
    seconds: float


class BackupReport(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    lsn: int
    size_bytes: int
    seconds: float


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """What to forget: what passes every field that is given; at least one beside `scope` and
    `reach` has to be. `items`, `source` and `tags` choose among memories and documents, `session`
    among sessions, and the others among everything in the scope."""

    scope: str
    reach: Reach = Reach.EXACT
    session: str | None = None
    containing: str | None = None
    """Messages, states, values and memories whose text holds this string; the rest stays."""
    whole_scope: bool = False
    items: tuple[str, ...] = ()
    """Ids of memories."""
    source: str | None = None
    """Memories that were taken from there."""
    tags: tuple[str, ...] = ()
    """Memories with all of them."""
    since: datetime | None = None
    """Messages that were said and memories that were stated at that time or later..."""
    until: datetime | None = None
    """... and before that one."""


class ForgetTarget(msgspec.Struct, frozen=True, kw_only=True):
    scope: str
    session: str | None
    """None for what the scope itself owns: mappings, sequences, and memories."""
    seqs: tuple[int, ...] | None
    """Positions to redact, on whatever branch they are; None = the whole session."""
    entries: int
    """Messages it takes away."""
    states: int
    values: int = 0
    """Values of mappings and sequences it takes away."""
    items: int = 0
    """Memories, and pieces of documents."""
    answers: int = 0
    """Cached ones; besides, those go that were made of what is taken away."""


class ForgetPlan(msgspec.Struct, frozen=True, kw_only=True):
    selector: Selector
    targets: tuple[ForgetTarget, ...]
    backups: tuple[str, ...]
    """Copies that were made earlier and cannot be reached from here."""

    @property
    def entries(self) -> int:
        return sum(target.entries for target in self.targets)

    @property
    def values(self) -> int:
        return sum(target.values for target in self.targets)

    @property
    def items(self) -> int:
        return sum(target.items for target in self.targets)

    @property
    def answers(self) -> int:
        return sum(target.answers for target in self.targets)


class ForgetReceipt(msgspec.Struct, frozen=True, kw_only=True):
    lsn: int
    sessions: int
    entries: int
    states: int
    backups: tuple[str, ...]
    values: int = 0
    """Of mappings and sequences."""
    items: int = 0
    """Memories, and pieces of documents."""
    answers: int = 0
    """Cached ones."""
