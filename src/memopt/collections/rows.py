"""What is known in RAM about a collection that is in use: its number, its bounds, its length.

A row is derived from the home and can be dropped at any time. Readers see rows as they were
committed last. Members of a commit change drafts, which become the rows' content after the commit;
a member that fails marks its draft, and whoever comes behind it in the same batch reads the tables.

Invariant: there is one Row for a collection's number at a time, however often it was let go of and
loaded; what iterates over it holds it, and so sees that it was changed.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from memopt.base.budget import Budget
from memopt.base.errors import BackpressureError, CorruptionError
from memopt.base.forks import LostLock
from memopt.base.protocols import CollectionOwners, Reader, Tables
from memopt.base.records import (
    PLACE_BITS,
    CollectionRow,
    EventRow,
    JournalRecord,
    RecordKind,
    to_datetime,
)
from memopt.collections.cache import Effect, EntryCache
from memopt.journal.commit import CommitTransaction

T = TypeVar("T")

ROWS_MAX: Final = 4096
ROW_BYTES: Final = 1200
"""A row, its reference with three strings of usual length, and its place in two tables."""
MIDDLE: Final = 1 << (PLACE_BITS - 1)
"""Where a sequence begins: it grows to both sides."""
MAPPING: Final = "mapping"
SEQUENCE: Final = "sequence"
RECORD_BYTES: Final = 1024
_OWNER: Final = "collections"
_ATTEMPTS_MAX: Final = 8


class Commits(Protocol):
    """What a committer does for collections: the journal's, or that of the scratch file."""

    def commit(self, member: Callable[[CommitTransaction], T]) -> T: ...
    def commit_one(self, member: Callable[[CommitTransaction], T]) -> T: ...


class Ref(NamedTuple):
    """A collection by name. `session` None: the scope's own."""

    kind: str
    scope: str
    session: str | None
    name: str


@contextlib.contextmanager
def naming(ref: Ref) -> Iterator[None]:
    """Damage that is met in here is damage of this collection, and says so."""
    try:
        yield
    except CorruptionError as error:
        raise damaged(error, ref) from error


def damaged(error: CorruptionError, ref: Ref) -> CorruptionError:
    """The same, saying whose bytes they are."""
    what = f"{ref.kind} {ref.name!r}: "
    if error.reason.startswith(what):
        return error
    said = CorruptionError(what + error.reason)
    if ref.session is not None:
        said = said.named(ref.scope, ref.session)
    said.mended = error.mended
    return said


class Row:
    """A collection as it was committed last."""

    __slots__ = (
        "__weakref__", "bounds", "count", "epoch", "is_gone", "moves", "number", "prefix",
        "version", "writers",
    )  # fmt: skip

    def __init__(self, number: int, bounds: tuple[int, int], count: int | None) -> None:
        self.number = number
        self.prefix = number.to_bytes(8, "big")
        """What names of its keys begin with in the cache."""
        self.bounds = bounds
        """The first place and the one behind the last; of a sequence, all between are in use."""
        self.count = count
        """Entries of a mapping; None until somebody asks."""
        self.version = 0
        """Counts when a change begins and when it ends."""
        self.writers = 0
        """Changes that are under way."""
        self.moves = 0
        """Counts entries that came or went."""
        self.epoch = 0
        """Of the cache, in which somebody asked for it last."""
        self.is_gone = False


class Draft:
    """A row as the members of a batch have changed it so far."""

    __slots__ = (
        "count", "drops", "effects", "first", "is_open", "is_partial", "moves", "next", "number",
        "row",
    )  # fmt: skip

    def __init__(self, row: Row) -> None:
        self.row = row
        self.first, self.next = row.bounds
        self.count = 0
        """How many entries more there are."""
        self.is_partial = False
        """Others in this batch may have changed entries before one failed."""
        self.moves = 0
        self.is_open = True
        self.number = row.number
        self.effects: list[Effect] = []
        """What is to be done to the cache after the commit..."""
        self.drops = False
        """... once everything of the collection was dropped from it."""

    def drop_all(self) -> None:
        """What the cache has of the collection is wrong after the commit."""
        self.drops = True
        self.effects.clear()


class _Load:
    """Readers of the tables who are looking for one collection's row."""

    __slots__ = ("readers",)

    def __init__(self) -> None:
        self.readers = 0


class Rows:
    """Thread-safe; `draft` and `forget` are for members of a commit."""

    def __init__(
        self,
        home: Reader,
        owners: CollectionOwners,
        budget: Budget,
        cache: EntryCache,
    ) -> None:
        self._home = home
        self._owners = owners
        self._budget = budget
        self._cache = cache
        self._lock: contextlib.AbstractContextManager[Any] = threading.Lock()
        self._rows: dict[Ref, Row] = {}
        self._alive: weakref.WeakValueDictionary[int, Row] = weakref.WeakValueDictionary()
        self._loads: dict[Ref, _Load] = {}
        """Whoever changes a collection takes its load out: what that reads is stale."""
        self._drafts: dict[Ref, Draft | None] = {}
        """None: look at the tables, for a member that failed had changed it."""

    # -- readers ----------------------------------------------------------------------------------

    def find(self, ref: Ref) -> Row | None:
        """The row of a collection; None while there is none."""
        row = self._rows.get(ref)
        if row is None:
            return self._load(ref)
        row.epoch = self._cache.epochs.now
        return row

    def _load(self, ref: Ref) -> Row | None:
        for _ in range(_ATTEMPTS_MAX):
            with self._lock:
                row = self._rows.get(ref)
                if row is not None:
                    return row
                load = self._loads.setdefault(ref, _Load())
                load.readers += 1
            found = None
            try:
                with naming(ref), self._home.snapshot() as tables:
                    found = self._read(tables, ref)
            finally:
                with self._lock:
                    load.readers -= 1
                    is_fresh = self._loads.get(ref) is load
                    if is_fresh and not load.readers:
                        del self._loads[ref]
                    if is_fresh and found is not None:
                        row = self._row_of(*found)
                        self._keep(ref, row)
            if is_fresh:
                return row
        raise BackpressureError("others keep writing to the collection", limit="load attempts")

    def _read(self, tables: Tables, ref: Ref) -> tuple[int, tuple[int, int]] | None:
        owner = self._owners.find(tables, ref.scope, ref.session)
        if owner is None:
            return None
        row = tables.collections.find(*owner, ref.kind, ref.name)
        if row is None:
            return None
        return row.collection, tables.entries.bounds(row.collection) or _empty(ref.kind)

    def _row_of(self, number: int, bounds: tuple[int, int]) -> Row:
        """Under the lock: the row of a number, which an iterator may hold already."""
        row = self._alive.get(number)
        if row is None:
            row = self._alive[number] = Row(number, bounds, None)
        return row

    def _keep(self, ref: Ref, row: Row) -> None:
        """Under the lock."""
        if ref in self._rows:
            self._rows[ref] = row
            return
        while len(self._rows) >= ROWS_MAX:
            self._let_go(next(iter(self._rows)))
        row.epoch = self._cache.epochs.now
        if self._budget.try_reserve(_OWNER, ROW_BYTES):
            self._rows[ref] = row

    def _let_go(self, ref: Ref) -> Row | None:
        row = self._rows.pop(ref, None)
        if row is not None:
            self._budget.release(_OWNER, ROW_BYTES)
        return row

    def counted(self, row: Row, version: int, count: int) -> bool:
        """Believe what a snapshot held that was taken at this version, while nobody wrote; False
        when a change has begun since."""
        with self._lock:
            if row.version != version:
                return False
            row.count = count
            return True

    def shrink(self) -> None:
        """Let go of all that are here: they are loaded again when they are needed."""
        with self._lock:
            for ref in list(self._rows):
                self._let_go(ref)

    def let_idle_go(self, epoch: int) -> None:
        """Let go of those that nobody asked for since an epoch of the cache."""
        with self._lock:
            for ref, row in list(self._rows.items()):
                if row.epoch <= epoch:
                    self._let_go(ref)

    def __len__(self) -> int:
        return len(self._rows)

    # -- members ----------------------------------------------------------------------------------

    def peek(self, transaction: CommitTransaction, ref: Ref) -> int | None:
        """In a commit: a collection's number, changing nothing; None when there is none."""
        if not transaction.undo:
            self._drafts.clear()
        if ref in self._drafts:
            draft = self._drafts[ref]
            if draft is not None:
                return draft.number
        else:
            row = self._rows.get(ref)
            if row is not None:
                return row.number
        found = self._read(transaction.tables, ref)
        return None if found is None else found[0]

    def draft(self, transaction: CommitTransaction, ref: Ref, *, agent: str | None = None) -> Draft:
        """In a commit, of something that is about to be changed; made if it is not there."""
        if not transaction.undo:
            # Nobody in this batch has changed anything: what is here is of one that failed.
            self._drafts.clear()
        transaction.on_rollback(self._rolled_back, ref)
        draft = self._drafts.get(ref)
        if draft is not None:
            return draft
        was_undone = ref in self._drafts
        row = None if was_undone else self._rows.get(ref)
        if row is None:
            row = self._row_in(transaction, ref, agent)
        row.epoch = self._cache.epochs.now
        draft = Draft(row)
        draft.is_partial = was_undone
        draft.moves = int(was_undone)
        row.writers += 1
        row.version += 1
        self._drafts[ref] = draft
        transaction.after_commit(lambda: self._publish(ref, draft))
        return draft

    def _row_in(self, transaction: CommitTransaction, ref: Ref, agent: str | None) -> Row:
        found = self._read(transaction.tables, ref)
        if found is not None:
            with self._lock:
                if ref in self._drafts:
                    # Others in this batch have changed it, and one of them failed: what the row
                    # says is not what the tables say.
                    self._retire(found[0])
                return self._row_of(*found)
        transaction.begin()
        number = create(transaction, self._owners, ref, agent)
        row = Row(number, _empty(ref.kind), 0)
        with self._lock:
            self._alive[number] = row
        return row

    def _retire(self, number: int) -> None:
        """Under the lock: whoever holds the row of a number holds one that is no more."""
        row = self._alive.pop(number, None)
        if row is not None:
            row.is_gone = True

    def _publish(self, ref: Ref, draft: Draft) -> None:
        """After the commit: the cache first, so that who believes the row finds it as it says."""
        row, cache = draft.row, self._cache
        if self._loads:
            self._loads.pop(ref, None)
        if self._drafts.get(ref) is draft:
            del self._drafts[ref]
            if draft.drops:
                cache.drop(draft.number)
            cache.apply(draft.number, draft.effects)
            if draft.moves or draft.drops:
                row.bounds = (draft.first, draft.next)
                if draft.count or draft.is_partial:
                    with self._lock:
                        if row.count is not None:
                            row.count = None if draft.is_partial else row.count + draft.count
                row.moves += draft.moves
            if self._rows.get(ref) is not row:
                with self._lock:
                    self._keep(ref, row)
        else:
            # A later member failed, so this draft is not what was committed.
            cache.drop(draft.number)
            with self._lock:
                self._let_go(ref)
                if self._alive.get(row.number) is row:
                    self._retire(row.number)
        _close(draft)

    def _rolled_back(self, ref: Ref) -> None:
        draft = self._drafts.get(ref)
        if draft is not None:
            _close(draft)
        self._drafts[ref] = None
        self._loads.pop(ref, None)
        with self._lock:
            self._let_go(ref)

    def forget(self, transaction: CommitTransaction, ref: Ref, number: int) -> None:
        """In a commit that deletes the collection."""
        if not transaction.undo:
            self._drafts.clear()
        self._rolled_back(ref)
        transaction.on_rollback(self._rolled_back, ref)

        def gone() -> None:
            self._loads.pop(ref, None)
            self._cache.drop(number)
            with self._lock:
                self._let_go(ref)
                self._retire(number)

        transaction.after_commit(gone)

    def distrust(self) -> None:
        """A change was made and not everything here knows of it: everything is loaded anew."""
        self._loads.clear()
        self._cache.clear()
        with self._lock:
            for number in list(self._alive):
                self._retire(number)
            for ref in list(self._rows):
                self._let_go(ref)

    def close(self) -> None:
        self.shrink()

    def abandon(self) -> None:
        """In a forked child: refuse everything. Handles and iterators that hold a row find it gone,
        and ask here for another."""
        self._lock = LostLock()
        self._rows = {}
        for row in list(self._alive.values()):
            row.is_gone = True


def _close(draft: Draft) -> None:
    if draft.is_open:
        draft.is_open = False
        draft.row.writers -= 1
        draft.row.version += 1


def _empty(kind: str) -> tuple[int, int]:
    return (MIDDLE, MIDDLE) if kind == SEQUENCE else (0, 0)


def create(
    transaction: CommitTransaction, owners: CollectionOwners, ref: Ref, agent: str | None
) -> int:
    """In a commit: a new collection, with the session and the scopes it needs; its number."""
    tables = transaction.tables
    scope_number, session = owners.make(transaction, ref.scope, ref.session, agent)
    lsn, at_us = transaction.next_lsn(), transaction.at_us
    number = tables.collections.create(
        CollectionRow(0, scope_number, session, ref.kind, ref.name, lsn, at_us)
    )
    kind = RecordKind.COLLECTION_CREATED
    tables.events.put(EventRow(lsn, at_us, kind, -number, 0, -1, None))
    publish(transaction, lsn, kind, ref)
    return number


def publish(
    transaction: CommitTransaction, lsn: int, kind: RecordKind, ref: Ref | None,
    *, key: str | int | bytes | None = None, seq: int | None = None,
) -> None:  # fmt: skip
    """Tell subscribers; nothing is made when there are none."""
    if transaction.watched:
        transaction.publish(
            JournalRecord(
                lsn=lsn, at=to_datetime(transaction.at_us), kind=kind,
                scope=ref.scope if ref else None, session=ref.session if ref else None,
                collection=ref.name if ref else None, key=key, seq=seq,
            ),
            RECORD_BYTES,
        )  # fmt: skip
