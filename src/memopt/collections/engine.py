"""What mappings and sequences have in common: reading an entry, writing one, deleting a range.

Everything here is in terms of places and encoded values; keys are mappings.py's, positions are
sequences.py's, Python objects are the handles'.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import CapacityError, UsageError
from memopt.base.events import EntriesFaulted, EntriesHit, EntriesWritten, Events
from memopt.base.forks import of_parent
from memopt.base.protocols import Compressor, EntryName, Reader, Room, Tables
from memopt.base.records import (
    LARGE_RECORD_BYTES,
    PLACE_MASK,
    EntryRow,
    EventRow,
    RecordKind,
)
from memopt.base.units import KIB
from memopt.codecs.entry import (
    HEAD_BYTES,
    METHOD,
    RAW,
    Packed,
    pack_entry,
    pack_value,
    raw_bytes_of,
    raw_of,
    verify_entry,
)
from memopt.codecs.message import decode_json
from memopt.codecs.values import JSON_AT, JSON_BYTE, decode_value
from memopt.collections.cache import OWNER, EntryCache
from memopt.collections.names import Name
from memopt.collections.rows import SEQUENCE, Commits, Draft, Ref, Rows, publish
from memopt.journal.commit import CommitTransaction
from memopt.journal.deleting import deleting

T = TypeVar("T")

HITS_AT_ONCE: Final = 32
"""Hits are told in batches: telling each would cost a fifth of it."""
BATCH_ROWS: Final = 128
BATCH_BYTES: Final = 256 * KIB
"""So many entries are read at a time, of so many bytes together; a larger one comes alone."""


class Figures(NamedTuple):
    """Limits of one store."""

    value_bytes_max: int
    """As for messages: the config's, or a quarter of the budget."""
    depth_max: int


class TurnsTold(NamedTuple):
    """How turns are told what is read and set: it counts as their use."""

    open: Mapping[Any, Any]
    """Nobody is told while this is empty, which every read looks at."""
    held: Callable[[str, str | None, EntryName, int], None]
    """Scope and session of the collection, which entry, encoded bytes."""


NO_TURNS: Final = TurnsTold({}, lambda scope, session, entry, size_bytes: None)


class Engine:
    """Thread-safe. One for a store's own collections, another for those of turns."""

    def __init__(
        self, home: Reader, committer: Commits, rows: Rows, cache: EntryCache,
        compressor: Compressor, budget: Budget, *, config: Config, events: Events,
        admit: Callable[[int], None], make_room: Callable[[], bool], turns: TurnsTold,
    ) -> None:  # fmt: skip
        self.turns_open, self._held = turns
        self.home = home
        self.committer = committer
        self.rows = rows
        self.cache = cache
        self.compressor = compressor
        self.budget = budget
        self.events = events
        self.limits = Figures(
            min(config.message_bytes_max, config.budget_bytes // 4), config.message_depth_max
        )
        self._admit = admit
        self._make_room = make_room
        self._hits = 0

    def abandon(self) -> None:
        """In a forked child: nobody may write, and this is said before the budget is asked."""

        def refuse(size_bytes: int) -> None:
            raise of_parent()

        self._admit = refuse

    # -- reading ----------------------------------------------------------------------------------

    def decoded(self, record: bytes, decode: Callable[[bytes], T]) -> T:
        """What `decode` makes of the raw value of a record that was verified."""
        size = raw_bytes_of(record)
        if size < LARGE_RECORD_BYTES:
            return decode(raw_of(self.compressor, record))
        # The record, too: the cache may let go of it meanwhile.
        size += len(record)
        self.budget.reserve(OWNER, size)
        try:
            return decode(raw_of(self.compressor, record))
        finally:
            self.budget.release(OWNER, size)

    def value(self, record: bytes) -> Any:
        """The value of a record that was verified, fresh."""
        if (
            record[METHOD] == RAW
            and record[HEAD_BYTES] == JSON_BYTE
            and len(record) < LARGE_RECORD_BYTES
        ):
            # Most values: one copy, and no other call.
            return decode_json(record[JSON_AT:])
        return self.decoded(record, decode_value)

    def tell_turn(self, ref: Ref, key: Hashable, size_bytes: int) -> None:
        """The caller holds a value of so many encoded bytes now. `key`: as far as it is known."""
        self._held(ref.scope, ref.session, (ref.kind, ref.name, key), size_bytes)

    def cached(self, name: Name) -> bytes | None:
        """The record of an entry, if RAM has it."""
        record = self.cache.get(name)
        if record is not None:
            self._hits += 1
            if self._hits == HITS_AT_ONCE:
                self._tell_hits()
        return record

    def _tell_hits(self) -> None:
        hits, self._hits = self._hits, 0
        self.events.emit(EntriesHit(hits))

    def faulted(
        self, collection: int, name: Name, read: Callable[[Tables], EntryRow | None]
    ) -> bytes | None:
        """The record that `read` finds in the home, verified and kept for the next time."""
        started = time.perf_counter()
        if self._hits:
            self._tell_hits()
        ticket = self.cache.ticket(name)
        try:
            with self.home.snapshot() as tables:
                row = read(tables)
            if row is None:
                return None
            verify_entry(row)
            self.cache.fill(collection, name, ticket, row.place, row.record)
        finally:
            self.cache.give_back(name, ticket)
        self.events.emit(EntriesFaulted(1, len(row.record), time.perf_counter() - started))
        return row.record

    def find(self, tables: Tables, collection: int, key: bytes) -> EntryRow | None:
        """The entry of a key, not verified."""
        with Reading(self.budget) as room:
            return tables.entries.find(collection, key, room)

    def at(self, tables: Tables, collection: int, place: int) -> EntryRow | None:
        """The entry in a place, not verified."""
        with Reading(self.budget) as room:
            rows = self.batch(tables, collection, place, place + 1, room)
        return rows[0] if rows else None

    def scan(
        self, tables: Tables, collection: int, start: int, stop: int, *, descending: bool = False
    ) -> list[EntryRow]:
        """The next entries in [start, stop), verified: a bounded number of rows, and of bytes.
        Whoever goes through them lets go of each before the next ones are read."""
        with Reading(self.budget) as room:
            rows = self.batch(tables, collection, start, stop, room, descending=descending)
        for row in rows:
            verify_entry(row)
        return rows

    def batch(
        self, tables: Tables, collection: int, start: int, stop: int, room: Room,
        *, descending: bool = False,
    ) -> list[EntryRow]:  # fmt: skip
        """The same, not verified."""
        return tables.entries.range(
            collection, start, stop, room, limit=BATCH_ROWS, bytes_max=BATCH_BYTES,
            descending=descending,
        )  # fmt: skip

    # -- writing ----------------------------------------------------------------------------------

    def write(
        self, raws: Sequence[bytes], member: Callable[[CommitTransaction, list[Packed]], T],
        *, is_one_write: bool,
    ) -> T:  # fmt: skip
        """Pack values and commit `member`, which is given them. `is_one_write`: it makes a single
        write where the collection is there already, see `commit_one`."""
        started = time.perf_counter()
        size = sum(map(len, raws))
        if size > self.limits.value_bytes_max:
            raise UsageError(
                f"{size} bytes encoded, at most {self.limits.value_bytes_max} in one call",
                field="values",
            )
        self._admit(size)
        large = 2 * size if size >= LARGE_RECORD_BYTES else 0
        if large:
            self.budget.reserve(OWNER, large)
        try:
            packed = [pack_value(self.compressor, raw) for raw in raws]
            commit = self.committer.commit_one if is_one_write else self.committer.commit
            result = commit(lambda transaction: member(transaction, packed))
        finally:
            if large:
                self.budget.release(OWNER, large)
        self.events.emit(EntriesWritten(len(raws), size, time.perf_counter() - started))
        return result

    def write_one(self, raw: bytes, member: Callable[[CommitTransaction, Packed], T]) -> T:
        """The same for a single value: this is what nearly every write is."""
        size = len(raw)
        if size >= LARGE_RECORD_BYTES:
            return self.write([raw], lambda t, packed: member(t, packed[0]), is_one_write=True)
        started = time.perf_counter()
        self._admit(size)
        packed = pack_value(self.compressor, raw)
        result = self.committer.commit_one(lambda transaction: member(transaction, packed))
        self.events.emit(EntriesWritten(1, size, time.perf_counter() - started))
        return result

    def change(self, member: Callable[[CommitTransaction], T]) -> T:
        """Commit a member that moves values."""
        self._admit(0)
        return self.committer.commit(member)

    def take_away(self, member: Callable[[CommitTransaction], T]) -> T:
        """Commit a member that deletes alone: it is what makes room, so nobody has to admit it."""
        return deleting(lambda: self.committer.commit(member), self._make_room)

    def put(
        self, transaction: CommitTransaction, draft: Draft, name: Name, place: int,
        key: bytes | None, packed: Packed,
    ) -> int:  # fmt: skip
        """In a commit: one entry, written; its LSN."""
        number = draft.number
        lsn = transaction.next_lsn()
        record = pack_entry(number, place, key, lsn=lsn, at_us=transaction.at_us, packed=packed)
        transaction.tables.entries.put(EntryRow(number, place, key, lsn, record))
        draft.effects.append((name, place, record))
        return lsn

    def deleted(self, transaction: CommitTransaction, ref: Ref, number: int) -> None:
        """In a commit: note that entries went. One record for all deletions of a collection, the
        last: what is gone is gone from the journal, too, and so is how often."""
        tables = transaction.tables
        lsn, kind = transaction.next_lsn(), RecordKind.ENTRY_DELETED
        tables.events.purge(-number, kind)
        tables.events.put(EventRow(lsn, transaction.at_us, kind, -number, 0, -1, None))
        publish(transaction, lsn, kind, ref)


class Reading:
    """A `with` block around a read: large records are reserved before they are there, twice, since
    SQLite holds a copy of its own meanwhile."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def __enter__(self) -> Room:
        return self._reserve

    def __exit__(self, *error: object) -> None:
        if self._held:
            self._budget.release(OWNER, self._held)

    def _reserve(self, size_bytes: int) -> None:
        self._budget.reserve(OWNER, 2 * size_bytes)
        self._held += 2 * size_bytes


def check_place(place: int, kind: str) -> None:
    if not 0 <= place <= PLACE_MASK:
        what = "its places are used up" if kind == SEQUENCE else "it has seen 2^33 keys"
        raise CapacityError(f"the {kind} is full: {what}", limit="places of a collection")
