"""What owners ask of the collections they own: count, delete, search, forget, check."""

from collections.abc import Iterator
from typing import Final

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.protocols import Tables
from memopt.base.records import PLACE_MASK, CollectionRow, EntryHead, EntryRow
from memopt.codecs.entry import decode_key, verify_entry
from memopt.codecs.message import contains
from memopt.codecs.values import text_of, verify_value
from memopt.collections.engine import Engine, Reading
from memopt.collections.mappings import Mappings
from memopt.collections.rows import SEQUENCE, Ref
from memopt.collections.sequences import Sequences
from memopt.journal.commit import CommitTransaction

_HEADS_AT_ONCE: Final = 256


class Keeper:
    """The CollectionKeeper of a store. Thread-safe."""

    def __init__(self, engine: Engine, mappings: Mappings, sequences: Sequences) -> None:
        self._engine = engine
        self._mappings = mappings
        self._sequences = sequences

    def count(self, tables: Tables, scope_number: int, session: int) -> int:
        """Values in all of them."""
        return sum(
            tables.entry_index.count(row.collection)
            for row in tables.collections.owned(scope_number, session)
        )

    def delete(
        self, transaction: CommitTransaction, scope: str, id: str | None, scope_number: int,
        session: int,
    ) -> int:  # fmt: skip
        """In a commit: delete them all; how many collections there were."""
        rows = transaction.tables.collections.owned(scope_number, session)
        for row in rows:
            self._delete(transaction, scope, id, row)
        return len(rows)

    def _delete(
        self, transaction: CommitTransaction, scope: str, id: str | None, row: CollectionRow
    ) -> None:
        tables, number = transaction.tables, row.collection
        tables.entries.delete(number, 0, PLACE_MASK + 1)
        tables.collections.delete(number)
        tables.events.purge(-number)
        self._engine.rows.forget(transaction, Ref(row.kind, scope, id, row.name), number)

    # -- forgetting a text ------------------------------------------------------------------------

    def matching(self, scope_number: int, session: int, text: str) -> dict[int, list[int] | None]:
        """By collection, the LSNs of the entries that hold `text` in their key, their strings or
        their bytes; None for a collection whose name does."""
        found: dict[int, list[int] | None] = {}
        for row in self._owned(scope_number, session):
            if text in row.name:
                found[row.collection] = None
                continue
            lsns: list[int] = []
            for entry in self._entries(row):
                if self._holds(entry, text):
                    lsns.append(entry.lsn)
                # Before the next one is read.
                del entry
            if lsns:
                found[row.collection] = lsns
        return found

    def _holds(self, entry: EntryRow, text: str) -> bool:
        key = None if entry.key is None else decode_key(entry.key)
        if (isinstance(key, str) and text in key) or (
            isinstance(key, bytes) and text.encode() in key
        ):
            return True
        return self._engine.decoded(entry.record, lambda raw: _is_in(raw, text))

    def forget(self, scope: str, id: str | None, found: dict[int, list[int] | None]) -> None:
        """Delete what `matching` found, a commit for each collection. What was set since stays."""
        for number, lsns in found.items():
            self._engine.committer.commit(
                lambda t, number=number, lsns=lsns: self._forget(t, scope, id, number, lsns)  # type: ignore[misc]
            )

    def _forget(
        self, transaction: CommitTransaction, scope: str, id: str | None, number: int,
        lsns: list[int] | None,
    ) -> None:  # fmt: skip
        row = transaction.tables.collections.get(number)
        if row is None:
            return
        ref = Ref(row.kind, scope, id, row.name)
        if lsns is None:
            self._delete(transaction, scope, id, row)
            return
        wanted, at = set(lsns), 0
        gone: list[EntryHead] = []
        while heads := transaction.tables.entry_index.heads(
            number, at, PLACE_MASK + 1, limit=_HEADS_AT_ONCE
        ):
            gone += [head for head in heads if head.lsn in wanted]
            at = heads[-1].place + 1
        if gone:
            kept = self._sequences if row.kind == SEQUENCE else self._mappings
            kept.discard(transaction, ref, gone)

    # -- checking ---------------------------------------------------------------------------------

    def check(self, scope_number: int, session: int) -> tuple[int, int, list[str]]:
        """Verify every entry: (values, bytes, what is damaged)."""
        values = size = 0
        damages: list[str] = []
        try:
            rows = self._owned(scope_number, session)
        except CorruptionError as error:
            return 0, 0, [f"the list of its collections: {error.reason}"]
        for row in rows:
            what = f"{row.kind} {row.name!r}"
            try:
                for size_bytes in self._whole(row, damages, what):
                    values += 1
                    size += size_bytes
            except CorruptionError as error:
                damages.append(f"{what}: {error.reason}")
        return values, size, damages

    def _whole(self, row: CollectionRow, damages: list[str], what: str) -> Iterator[int]:
        """The record bytes of each entry that is whole; the others are named."""
        engine, number = self._engine, row.collection
        at: int | None = None
        while True:
            start = 0 if at is None else at + 1
            with engine.home.snapshot() as tables, Reading(engine.budget) as room:
                rows = engine.batch(tables, number, start, PLACE_MASK + 1, room)
            if not rows:
                return
            rows.reverse()
            while rows:
                place, size_bytes = rows[-1].place, len(rows[-1].record)
                if row.kind == SEQUENCE and at is not None and place != at + 1:
                    # Unless somebody writes to it: then there are other rows by now.
                    if not self._is_still(row, at, place):
                        return
                    damages.append(f"{what}: places {at + 1} to {place - 1} are missing")
                at = place
                damage = self._damage(rows.pop())
                if damage is None:
                    yield size_bytes
                else:
                    damages.append(f"{what}: {damage}")

    def _damage(self, entry: EntryRow) -> str | None:
        try:
            verify_entry(entry)
            self._engine.decoded(entry.record, verify_value)
        except (CorruptionError, StoreVersionError) as error:
            return str(getattr(error, "reason", error))
        return None

    def _is_still(self, row: CollectionRow, at: int, place: int) -> bool:
        """Whether the gap between two places is there in one moment, too."""
        with self._engine.home.snapshot() as tables:
            heads = tables.entry_index.heads(row.collection, at, place + 1, limit=2)
        return [head.place for head in heads] == [at, place]

    def _owned(self, scope_number: int, session: int) -> list[CollectionRow]:
        with self._engine.home.snapshot() as tables:
            return tables.collections.owned(scope_number, session)

    def _entries(self, row: CollectionRow) -> Iterator[EntryRow]:
        at = 0
        while True:
            with self._engine.home.snapshot() as tables:
                rows = self._engine.scan(tables, row.collection, at, PLACE_MASK + 1)
            if not rows:
                return
            at = rows[-1].place + 1
            rows.reverse()
            while rows:
                yield rows.pop()


def _is_in(raw: bytes, text: str) -> bool:
    value = text_of(raw)
    return text.encode() in value if isinstance(value, bytes) else contains(value, text)
