"""Entries by key. Keys and values are encoded already; every change is one commit."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from memopt.base.errors import CorruptionError, StoreFailedError
from memopt.base.records import PLACE_MASK, EntryHead, EntryRow, RecordKind
from memopt.codecs.entry import Packed, decode_key, raw_bytes_of, verify_entry
from memopt.collections.engine import BATCH_ROWS, Engine, check_place
from memopt.collections.names import name_of_key
from memopt.collections.rows import MAPPING, Draft, Ref, Row, damaged, naming, publish
from memopt.journal.commit import CommitTransaction

MISSING: Final = object()
_ATTEMPTS_MAX: Final = 3


class Item(NamedTuple):
    key: bytes
    raw: bytes


class Mappings:
    """Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.limits = engine.limits

    # -- reading ----------------------------------------------------------------------------------

    def value(self, ref: Ref, row: Row | None, key: bytes) -> Any:
        """The value of a key, fresh; MISSING when there is none. `row`: of the collection."""
        if row is None:
            return MISSING
        engine = self._engine
        name = row.prefix + key
        record = engine.cached(name)
        try:
            if record is None:
                number = row.number
                record = engine.faulted(
                    number, name, lambda tables: engine.find(tables, number, key)
                )
                if record is None:
                    return MISSING
            value = engine.value(record)
        except CorruptionError as error:
            raise damaged(error, ref) from error
        if engine.turns_open:
            engine.tell_turn(ref, key, raw_bytes_of(record))
        return value

    def has(self, ref: Ref, key: bytes) -> bool:
        row = self._engine.rows.find(ref)
        if row is None:
            return False
        if self._engine.cache.place(name_of_key(row.number, key)) is not None:
            return True
        with naming(ref), self._engine.home.snapshot() as tables:
            return tables.entry_index.place(row.number, key) is not None

    def count(self, ref: Ref) -> int:
        row = self._engine.rows.find(ref)
        if row is None:
            return 0
        count = row.count
        if count is not None:
            return count
        with naming(ref):
            return self._counted(ref, row)

    def _counted(self, ref: Ref, row: Row) -> int:
        """Once a run. Beside the commits, and between them only where others keep changing it."""
        engine, number = self._engine, row.number
        for _ in range(_ATTEMPTS_MAX):
            version = row.version
            if not row.writers:
                count = self._count(number)
                if engine.rows.counted(row, version, count):
                    return count

        def member(transaction: CommitTransaction) -> int:
            count = transaction.tables.entry_index.count(number)
            if not transaction.undo:
                # Alone in its batch so far, so this is what was committed last.
                row.count = count
            return count

        try:
            return engine.committer.commit(member)
        except StoreFailedError:
            # What was acknowledged can still be read.
            return self._count(number)

    def _count(self, number: int) -> int:
        with self._engine.home.snapshot() as tables:
            return tables.entry_index.count(number)

    def is_empty(self, ref: Ref) -> bool:
        row = self._engine.rows.find(ref)
        if row is None:
            return True
        with naming(ref), self._engine.home.snapshot() as tables:
            return tables.entries.bounds(row.number) is None

    def row(self, ref: Ref) -> Row | None:
        """For who goes over it: says whether it has changed."""
        return self._engine.rows.find(ref)

    def keys(self, ref: Ref, row: Row, at: int | None, *, descending: bool) -> list[EntryHead]:
        """The next keys behind place `at`; None begins."""
        start, stop = _behind(at, descending)
        with naming(ref), self._engine.home.snapshot() as tables:
            return tables.entry_index.heads(
                row.number, start, stop, limit=BATCH_ROWS, descending=descending
            )

    def entries(self, ref: Ref, row: Row, at: int | None, *, descending: bool) -> list[EntryRow]:
        """The next entries behind place `at`."""
        start, stop = _behind(at, descending)
        try:
            with self._engine.home.snapshot() as tables:
                return self._engine.scan(tables, row.number, start, stop, descending=descending)
        except CorruptionError as error:
            raise damaged(error, ref) from error

    def value_of(self, ref: Ref, entry: EntryRow) -> Any:
        if self._engine.turns_open:
            self._engine.tell_turn(ref, entry.key, raw_bytes_of(entry.record))
        return self._engine.value(entry.record)

    # -- changing ---------------------------------------------------------------------------------

    def put(self, ref: Ref, agent: str | None, items: Sequence[Item]) -> None:
        """Set keys, each once, in one commit."""

        def member(transaction: CommitTransaction, packed: list[Packed]) -> None:
            draft = self._engine.rows.draft(transaction, ref, agent=agent)
            for (key, _), value in zip(items, packed, strict=True):
                self._put(transaction, ref, draft, key, value)

        self._engine.write([item.raw for item in items], member, is_one_write=len(items) == 1)
        if self._engine.turns_open:
            for key, raw in items:
                self._engine.tell_turn(ref, key, len(raw))

    def put_one(self, ref: Ref, agent: str | None, key: bytes, raw: bytes) -> None:
        """Set one key."""

        def member(transaction: CommitTransaction, packed: Packed) -> None:
            draft = self._engine.rows.draft(transaction, ref, agent=agent)
            self._put(transaction, ref, draft, key, packed)

        self._engine.write_one(raw, member)
        if self._engine.turns_open:
            self._engine.tell_turn(ref, key, len(raw))

    def setdefault(self, ref: Ref, agent: str | None, item: Item) -> bytes | None:
        """Set a key that is not there; what is there, raw, if it is."""
        engine = self._engine

        def member(transaction: CommitTransaction, packed: list[Packed]) -> bytes | None:
            number = engine.rows.peek(transaction, ref)
            found = None if number is None else engine.find(transaction.tables, number, item.key)
            if found is not None:
                verify_entry(found)
                return found.record
            draft = engine.rows.draft(transaction, ref, agent=agent)
            self._put(transaction, ref, draft, item.key, packed[0])
            return None

        record = engine.write([item.raw], member, is_one_write=True)
        raw = None if record is None else engine.decoded(record, lambda raw: raw)
        if engine.turns_open:
            engine.tell_turn(ref, item.key, len(item.raw if raw is None else raw))
        return raw

    def _put(
        self, transaction: CommitTransaction, ref: Ref, draft: Draft, key: bytes, value: Packed
    ) -> None:
        engine, number = self._engine, draft.number
        name = name_of_key(number, key)
        # What the cache says is so unless somebody in this batch took keys away.
        place = None if draft.moves else engine.cache.place(name)
        if place is None:
            place = transaction.tables.entry_index.place(number, key)
        if place is None:
            check_place(draft.next, MAPPING)
            place = draft.next
            draft.next += 1
            draft.count += 1
            draft.moves += 1
        lsn = engine.put(transaction, draft, name, place, key, value)
        if transaction.watched:
            publish(transaction, lsn, RecordKind.ENTRY_SET, ref, key=decode_key(key))

    def delete(self, ref: Ref, key: bytes) -> bool:
        """Whether it was there. What is damaged can be deleted, too."""

        def member(transaction: CommitTransaction) -> bool:
            number = self._engine.rows.peek(transaction, ref)
            if number is None:
                return False
            place = transaction.tables.entry_index.place(number, key)
            if place is None:
                return False
            self._delete(transaction, ref, place, key)
            return True

        return self._engine.take_away(member)

    def pop(self, ref: Ref, key: bytes) -> Any:
        """The value of a key, which is deleted; MISSING when there is none."""
        engine = self._engine

        def member(transaction: CommitTransaction) -> Any:
            number = engine.rows.peek(transaction, ref)
            row = None if number is None else engine.find(transaction.tables, number, key)
            return MISSING if row is None else self._take(transaction, ref, row)[1]

        try:
            return engine.take_away(member)
        except CorruptionError as error:
            raise damaged(error, ref) from error

    def pop_last(self, ref: Ref) -> tuple[bytes, Any] | None:
        """The key and value that were put last, which are deleted."""
        engine = self._engine

        def member(transaction: CommitTransaction) -> tuple[bytes, Any] | None:
            number = engine.rows.peek(transaction, ref)
            if number is None:
                return None
            tables = transaction.tables
            bounds = tables.entries.bounds(number)
            row = None if bounds is None else engine.at(tables, number, bounds[1] - 1)
            return None if row is None else self._take(transaction, ref, row)

        try:
            return engine.take_away(member)
        except CorruptionError as error:
            raise damaged(error, ref) from error

    def _take(self, transaction: CommitTransaction, ref: Ref, row: EntryRow) -> tuple[bytes, Any]:
        """Key and value of an entry, which is deleted."""
        verify_entry(row)
        assert row.key is not None
        # Before it goes: where there is no room for the value, it stays where it is.
        value = self._engine.value(row.record)
        self._delete(transaction, ref, row.place, row.key)
        return row.key, value

    def clear(self, ref: Ref) -> None:
        """Delete everything, in one commit."""
        engine = self._engine

        def member(transaction: CommitTransaction) -> None:
            number = engine.rows.peek(transaction, ref)
            if number is None or transaction.tables.entries.bounds(number) is None:
                return
            draft = engine.rows.draft(transaction, ref)
            gone = transaction.tables.entries.delete(number, 0, PLACE_MASK + 1)
            draft.first = draft.next = 0
            draft.count -= gone
            draft.moves += 1
            draft.drop_all()
            engine.deleted(transaction, ref, number)

        engine.take_away(member)

    def discard(self, transaction: CommitTransaction, ref: Ref, heads: Sequence[EntryHead]) -> None:
        """In a commit: delete these entries."""
        for head in heads:
            assert head.key is not None
            self._delete(transaction, ref, head.place, head.key)

    def _delete(self, transaction: CommitTransaction, ref: Ref, place: int, key: bytes) -> None:
        engine = self._engine
        draft = engine.rows.draft(transaction, ref)
        number = draft.number
        transaction.tables.entries.delete(number, place, place + 1)
        draft.count -= 1
        draft.moves += 1
        draft.effects.append((name_of_key(number, key), place, None))
        engine.deleted(transaction, ref, number)


def _behind(at: int | None, descending: bool) -> tuple[int, int]:
    if descending:
        return 0, PLACE_MASK + 1 if at is None else at
    return 0 if at is None else at + 1, PLACE_MASK + 1
