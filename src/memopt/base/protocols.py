"""Every plug point, on one page but for those of recall and of answers, which have their own. Each
is narrow: at most five methods.

A home is many narrow tables (`…Table`) behind one `Tables` value, so a second home can be written
and proven table by table. All tables of one `Tables` see one snapshot; those of a write
transaction also write.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from memopt.base.answer_protocols import (
    AnswerCategoryTable,
    AnswerEntryTable,
    AnswerOrder,
    AnswerTable,
    AnswerUseTable,
)
from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.context_protocols import ContextTable, PinTable
from memopt.base.item_protocols import (
    DocumentTable,
    ItemTable,
    ItemTextTable,
    ItemTopics,
    MarkTable,
    PieceTable,
)
from memopt.base.readings import Reading
from memopt.base.recall_protocols import MaskTable, ScopeLines, SegmentTable, UnindexedTable
from memopt.base.records import (
    ArenaUsage,
    CollectionRow,
    DictionaryRow,
    EntryHead,
    EntryRow,
    EventRow,
    KeyRow,
    LineRow,
    PageRow,
    SessionRow,
    StateRow,
)

T = TypeVar("T")


class Clock(Protocol):
    """Time as an argument."""

    def now_us(self) -> int: ...
    def monotonic(self) -> float: ...


class Sink(Protocol):
    """Takes events. Called after the fact, outside locks where the emitter can help it."""

    def emit(self, event: Any) -> None: ...


class Policy(Protocol):
    """Chooses who goes. Never moves bytes, never sees them; keys are integers, and one that comes
    back is the same page: policies remember some of those that left.

    `removed` follows every departure, also that of a victim: choosing one changes no membership.
    Removing the key that `victim` named last is an eviction, which may leave a ghost; any other
    removal is a deletion and leaves none. Asked again while the one it named is still a member,
    `victim` takes that one for held and names another, so asking goes round all members. A key
    that is admitted twice, or touched or removed without being a member, is an assert.

    `cost` is what bringing the page back would cost, above 0 and in any unit that all pages share,
    such as seconds; `importance` is from 0 to 1, and 1 is a pin. A policy heeds them where its
    algorithm knows them.
    """

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None: ...
    def touched(self, key: int) -> None: ...
    def removed(self, key: int) -> None: ...
    def victim(self) -> int | None: ...
    def charged_bytes(self) -> int:
        """What the policy itself occupies, ghosts included: charged to the budget."""
        ...


class TimedLocks(Protocol):
    """Of a policy that can be asked to keep a member for a while.

    A locked member is named only where all members are locked: the budget is the one hard limit.
    A lock ends by itself, and with the member. Locking or unlocking a stranger is an assert.
    """

    def lock(self, key: int, until: float) -> None:
        """Keep `key` until that moment of the policy's own time; a second lock replaces it."""
        ...

    def unlock(self, key: int) -> None: ...


class Admission(Protocol):
    """Says who may stay when room is short: a newcomer, or who would go for it."""

    def accessed(self, key: int) -> None:
        """`key` was asked for, whether it was there or not."""
        ...

    def admits(self, key: int, size_bytes: int, victim: int) -> bool:
        """Whether newcomer `key` may have the place of `victim`."""
        ...

    def resized(self, members: int, resident_bytes: int) -> None:
        """How much there is now, so that what is remembered keeps its proportion."""
        ...

    def charged_bytes(self) -> int: ...


class Trigger(Protocol):
    """Says when the arena is collected. Moves nothing, and is asked again and again: `now` is
    monotonic seconds and never falls. Where nothing is dead, nothing is due."""

    def due(self, usage: ArenaUsage, now: float) -> bool: ...
    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        """A collection ended, whoever began it: what is left, and all its pauses together."""
        ...


class Collectable(Protocol):
    """What can be collected in slices."""

    def usage(self) -> ArenaUsage: ...
    def collect(self, bytes_max: int, *, reason: str) -> Any:
        """One slice, of about so many bytes of work; the event `Collected`, which was emitted."""
        ...


class Probe(Protocol):
    """How much memory there is, and how much of it is taken."""

    def read(self) -> Reading: ...


class Compressor(Protocol):
    """Bytes to framed, checksummed, compressed bytes and back. `key` is covered by the checksum."""

    def encode(
        self, raw: bytes, *, key: bytes, dictionary: int = 0, without_room: bool = False
    ) -> bytes: ...
    def decode(self, frame: bytes, *, key: bytes) -> bytes: ...
    def encode_delta(self, raw: bytes, *, key: bytes, base: bytes) -> bytes: ...
    def decode_delta(self, frame: bytes, *, key: bytes, base: bytes) -> bytes: ...


# -- a home, table by table -----------------------------------------------------------------------


class ScopeTable(Protocol):
    """Scope paths and their numbers."""

    def number(self, path: str) -> int | None: ...
    def path(self, number: int) -> str | None: ...
    def create(self, path: str) -> int: ...
    def subtree(self, path: str) -> list[tuple[int, str]]: ...
    def page(self, start: str, limit: int) -> list[tuple[int, str]]:
        """Up to `limit` scopes with paths from `start` on, in order."""
        ...

    def delete(self, number: int) -> None: ...


class SessionTable(Protocol):
    def find(self, scope: str, id: str) -> SessionRow | None: ...
    def get(self, session: int) -> SessionRow | None: ...
    def put(self, row: SessionRow) -> None: ...
    def delete(self, session: int) -> None: ...
    def page(self, scope_number: int | None, after: int, limit: int) -> list[SessionRow]:
        """Up to `limit` sessions with numbers above `after`, in order; of one scope, or of all."""
        ...

    def by_id(self, scope_number: int, after: str, limit: int) -> list[SessionRow]:
        """Up to `limit` sessions of a scope with ids above `after`, in order."""
        ...


class LineTable(Protocol):
    def get(self, line: int) -> LineRow | None: ...
    def put(self, row: LineRow) -> None: ...
    def delete(self, line: int) -> None: ...
    def of_session(self, session: int) -> list[LineRow]: ...
    def children(self, line: int) -> list[LineRow]: ...


class TailTable(Protocol):
    """Unsealed records of a line: (seq, record) in order."""

    def put(self, line: int, seq: int, record: bytes) -> None: ...
    def last(self, line: int) -> int | None:
        """The highest seq of a line's tail."""
        ...

    def range(self, line: int, start: int, stop: int) -> list[tuple[int, bytes]]: ...
    def delete(self, line: int, start: int, stop: int) -> None: ...
    def scan(self, after: tuple[int, int], limit: int) -> list[tuple[int, int, bytes]]:
        """Up to `limit` (line, seq, record) above `after`, in key order, over all lines."""
        ...


class PageTable(Protocol):
    """The page map and the pages."""

    def map(self, line: int, start: int, stop: int, *, last: int | None = None) -> list[PageRow]:
        """Entries of a line that overlap [start, stop), in order; only the `last` of them."""
        ...

    def body(self, page: int) -> bytes | None: ...
    def put(self, row: PageRow, body: bytes) -> None: ...
    def delete(self, row: PageRow) -> None: ...
    def scan(self, after: tuple[int, int], limit: int, *, last_lsn_above: int = 0) -> list[PageRow]:
        """Up to `limit` entries above (line, start) `after`, in that order, over all lines."""
        ...


class TextTable(Protocol):
    """Texts stored once by content, and who refers to them. References are rows, not counts."""

    def intern(
        self, scope_number: int, digest: bytes, raw_bytes: int, make: Callable[[], bytes]
    ) -> int:
        """The number of a text of that digest; `make` gives its body where it is new."""
        ...

    def get(self, text: int) -> bytes | None: ...
    def of_page(self, page: int) -> list[tuple[int, bytes, int]]:
        """(text, digest, raw bytes) of everything a page refers to."""
        ...

    def refer(self, page: int, texts: Iterable[int]) -> None: ...
    def release(self, page: int) -> int:
        """Drop the references of a page, and every text that is left without one: how many."""
        ...


class StateTable(Protocol):
    def latest(self, session: int, name: str) -> StateRow | None: ...
    def get(self, session: int, name: str, version: int) -> StateRow | None: ...
    def put(self, row: StateRow) -> None: ...
    def versions(self, session: int, name: str | None) -> list[StateRow]:
        """Without bodies (`body` is empty)."""
        ...

    def delete(self, session: int, name: str | None, below: int | None) -> int: ...


class EventTable(Protocol):
    def put(self, row: EventRow) -> None: ...
    def since(self, after_lsn: int, limit: int) -> list[EventRow]: ...
    def of_session(self, session: int) -> list[EventRow]: ...
    def delete(self, up_to_lsn: int, limit: int) -> int: ...
    def purge(self, session: int, kind: str | None = None) -> None:
        """Delete the events of a session, of one kind or all. Those of a collection are under
        minus its number."""
        ...


class KeyTable(Protocol):
    def find(self, session: int, key: str) -> KeyRow | None: ...
    def put(self, row: KeyRow) -> None: ...
    def delete(self, session: int, head: int | None = None) -> None:
        """Of a session, or those that were answered with this head. A scope's own keys, of what is
        stated in it, are under minus its number, with an item's number as their head."""
        ...

    def trim(self, made_before_us: int, limit: int) -> int: ...


class DictionaryTable(Protocol):
    def get(self, dictionary: int) -> DictionaryRow | None: ...
    def current(self, scope_number: int) -> DictionaryRow | None:
        """The newest one of a scope that is not retired."""
        ...

    def put(self, row: DictionaryRow) -> int: ...
    def list(self) -> list[DictionaryRow]:
        """Without bodies."""
        ...

    def delete(self, dictionary: int) -> None: ...


class CollectionTable(Protocol):
    """Mappings and sequences by owner and name."""

    def find(
        self, scope_number: int, session: int, kind: str, name: str
    ) -> CollectionRow | None: ...
    def get(self, collection: int) -> CollectionRow | None: ...
    def create(self, row: CollectionRow) -> int:
        """Store a new one, whose number is given by the table and returned."""
        ...

    def delete(self, collection: int) -> None: ...
    def owned(self, scope_number: int, session: int) -> list[CollectionRow]:
        """Those of a session; with session 0, those of the scope itself."""
        ...


Room = Callable[[int], None]
"""Is told the size of a record of LARGE_RECORD_BYTES or more before it is read, and may raise."""


class EntryTable(Protocol):
    """The values of collections, in the order of their places."""

    def find(self, collection: int, key: bytes, room: Room) -> EntryRow | None: ...
    def range(
        self, collection: int, start: int, stop: int, room: Room, *, limit: int, bytes_max: int,
        descending: bool = False,
    ) -> list[EntryRow]:  # fmt: skip
        """The first entries with places in [start, stop): up to `limit` of them, whose records are
        up to `bytes_max` together; at least one, if there is one."""
        ...

    def put(self, row: EntryRow) -> None:
        """Store an entry, in the place of what was there."""
        ...

    def delete(self, collection: int, start: int, stop: int) -> int:
        """Delete the entries with places in [start, stop): how many."""
        ...

    def bounds(self, collection: int) -> tuple[int, int] | None:
        """The lowest place in use and the one behind the highest; None when there is none."""
        ...


class EntryIndex(Protocol):
    """The same entries seen from their keys and from their LSNs."""

    def place(self, collection: int, key: bytes) -> int | None: ...
    def heads(
        self, collection: int, start: int, stop: int, *, limit: int, descending: bool = False
    ) -> list[EntryHead]:
        """Up to `limit` with places in [start, stop)."""
        ...

    def count(self, collection: int) -> int: ...
    def since(self, after_lsn: int, limit: int) -> list[tuple[int, int, int]]:
        """(LSN, collection, place) of up to `limit` entries with LSNs above `after_lsn`, in order.
        Looks at every entry: an index by LSN would make each overwrite half as slow again."""
        ...

    def highest_lsn(self) -> int: ...


class MetaTable(Protocol):
    """Small named values."""

    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, value: bytes) -> None: ...
    def delete(self, name: str) -> None: ...
    def names(self, prefix: str) -> Sequence[str]: ...


class Tables(NamedTuple):
    """One snapshot, or one write transaction, of a home."""

    scopes: ScopeTable
    sessions: SessionTable
    lines: LineTable
    tail: TailTable
    pages: PageTable
    texts: TextTable
    states: StateTable
    events: EventTable
    keys: KeyTable
    dictionaries: DictionaryTable
    meta: MetaTable
    collections: CollectionTable
    entries: EntryTable
    entry_index: EntryIndex
    segments: SegmentTable
    unindexed: UnindexedTable
    masked: MaskTable
    scope_lines: ScopeLines
    items: ItemTable
    item_topics: ItemTopics
    item_texts: ItemTextTable
    item_marks: MarkTable
    answers: AnswerTable
    answer_order: AnswerOrder
    answer_entries: AnswerEntryTable
    answer_uses: AnswerUseTable
    answer_categories: AnswerCategoryTable
    documents: DocumentTable
    pieces: PieceTable
    contexts: ContextTable
    message_pins: PinTable


class Reader(Protocol):
    """Snapshots of a home. None may outlive the call that took it."""

    def snapshot(self) -> AbstractContextManager[Tables]: ...
    def lookup(self) -> AbstractContextManager[Tables]:
        """The same for a short read of what never changes, also within a snapshot."""
        ...


class Writer(Protocol):
    """The one writing side of a home. Only the committer uses it, under its lock."""

    commits: int
    """Commits that were made and changed something."""

    @property
    def tables(self) -> Tables: ...
    def begin(self) -> None:
        """Begin a transaction, if there is none. Without one, every write is a commit."""
        ...

    def commit(self) -> None:
        """End it, if there is one."""
        ...

    def rollback(self, error: BaseException | None) -> BaseException | None:
        """End the transaction without effect; `error`, as one of ours, is returned."""
        ...

    def savepoint(self) -> AbstractContextManager[None]: ...


class Committer(Protocol):
    """Runs members in commits, grouped; returns after they are as durable as was asked for."""

    def commit(self, member: "Callable[[Transaction], T]") -> T: ...


class Transaction(Protocol):
    """What a member of a commit sees."""

    @property
    def tables(self) -> Tables: ...
    @property
    def at_us(self) -> int:
        """The time of the commit; never before that of an earlier one."""
        ...

    def next_lsn(self) -> int: ...
    def after_commit(self, action: Callable[[], None]) -> None:
        """Run once the commit has succeeded, still under the commit lock: memory changes here."""
        ...

    def publish(self, record: Any, size_bytes: int) -> None:
        """Hand a journal record to subscribers once the commit has succeeded."""
        ...


class CollectionOwners(Protocol):
    """Whose collections are: the numbers of a scope and of a session, by their names."""

    def find(self, tables: Tables, scope: str, session: str | None) -> tuple[int, int] | None:
        """(scope number, session number or 0); None where it is not there yet."""
        ...

    def make(
        self, transaction: Any, scope: str, session: str | None, agent: str | None
    ) -> tuple[int, int]:
        """In a commit, with its transaction: the same, made where it is not there."""
        ...


class CollectionMaker(Protocol):
    """Makes handles on collections. `session` None: the scope's own."""

    def mapping(
        self, name: str, scope: str, session: str | None = None, agent: str | None = None
    ) -> StoredMapping: ...
    def sequence(
        self, name: str, scope: str, session: str | None = None, agent: str | None = None
    ) -> StoredSequence: ...


class TurnCollections(Protocol):
    """The mappings and sequences of one turn, gone when it is closed."""

    def mapping(self, name: str) -> StoredMapping: ...
    def sequence(self, name: str) -> StoredSequence: ...
    def close(self) -> None: ...


EntryName = tuple[str, str, Hashable]
"""The kind and the name of a collection, and the key in it; NEW: one that was not there before."""
Held = Callable[[EntryName, int], None]
"""Told what a turn reads or sets in a collection: where, and its encoded bytes."""
NEW: Final = object()


class TurnMaker(Protocol):
    def begin(self, held: Held) -> TurnCollections:
        """For a turn that begins now, or needs them now."""
        ...


class CollectionKeeper(Protocol):
    """What owners ask of the collections they own: those of a session, or with session number 0
    those of the scope itself. Names are for errors and for whoever holds a handle."""

    def count(self, tables: Tables, scope_number: int, session: int) -> int:
        """Values in all of them."""
        ...

    def delete(
        self, transaction: Any, scope: str, id: str | None, scope_number: int, session: int
    ) -> int:
        """In a commit: delete them all; how many collections there were."""
        ...

    def matching(self, scope_number: int, session: int, text: str) -> dict[int, list[int] | None]:
        """By collection, the LSNs of the entries that hold `text`; None for all of it."""
        ...

    def forget(self, scope: str, id: str | None, found: dict[int, list[int] | None]) -> None:
        """Delete what `matching` found."""
        ...

    def check(self, scope_number: int, session: int) -> tuple[int, int, list[str]]:
        """Verify every entry: (values, bytes, what is damaged)."""
        ...


class PageSource(Protocol):
    """Raw page bytes, wherever they are now."""

    def pages(self, rows: Sequence[PageRow]) -> Iterator[bytes]: ...
