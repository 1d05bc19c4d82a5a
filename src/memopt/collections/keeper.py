"""What owners ask of the collections they own: count, delete, search, forget, check."""

from collections.abc import Iterator
from typing import Final

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.protocols import Tables
from memopt.base.records import PLACE_MASK, CollectionRow, EntryRow
from memopt.codecs.entry import decode_key, verify_entry
from memopt.codecs.message import contains
from memopt.codecs.values import decode_value, text_of
from memopt.collections.engine import Engine
from memopt.collections.mappings import Mappings
from memopt.collections.rows import SEQUENCE, Ref
from memopt.collections.sequences import Sequences
from memopt.journal.commit import CommitTransaction

_CHECKED_AT_ONCE: Final = 64


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
            lsns = [entry.lsn for entry in self._entries(row) if self._holds(entry, text)]
            if lsns:
                found[row.collection] = lsns
        return found

    def _holds(self, entry: EntryRow, text: str) -> bool:
        key = None if entry.key is None else decode_key(entry.key)
        if (isinstance(key, str) and text in key) or (
            isinstance(key, bytes) and text.encode() in key
        ):
            return True
        value = text_of(self._engine.raw(entry.record))
        return text.encode() in value if isinstance(value, bytes) else contains(value, text)

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
        gone: list[EntryRow] = []
        while rows := transaction.tables.entries.range(
            number, at, PLACE_MASK + 1, limit=_CHECKED_AT_ONCE
        ):
            gone += [entry._replace(record=b"") for entry in rows if entry.lsn in wanted]
            at = rows[-1].place + 1
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
                for entry in self._batches(row, damages, what):
                    values += 1
                    size += len(entry.record)
            except CorruptionError as error:
                damages.append(f"{what}: {error.reason}")
        return values, size, damages

    def _batches(self, row: CollectionRow, damages: list[str], what: str) -> Iterator[EntryRow]:
        """The entries that are whole; the others are named."""
        at: int | None = None
        while True:
            with self._engine.home.snapshot() as tables:
                rows = tables.entries.range(
                    row.collection, 0 if at is None else at + 1, PLACE_MASK + 1,
                    limit=_CHECKED_AT_ONCE,
                )  # fmt: skip
            if not rows:
                return
            for entry in rows:
                if row.kind == SEQUENCE and at is not None and entry.place != at + 1:
                    # Unless somebody writes to it: then there are other rows by now.
                    if not self._is_still(row, at, entry):
                        return
                    damages.append(f"{what}: places {at + 1} to {entry.place - 1} are missing")
                at = entry.place
                try:
                    verify_entry(entry)
                    decode_value(self._engine.raw(entry.record))
                except (CorruptionError, StoreVersionError) as error:
                    reason = getattr(error, "reason", str(error))
                    damages.append(f"{what}: {reason}")
                else:
                    yield entry

    def _is_still(self, row: CollectionRow, at: int, entry: EntryRow) -> bool:
        """Whether the gap between two places is there in one moment, too."""
        with self._engine.home.snapshot() as tables:
            rows = tables.entries.range(row.collection, at, entry.place + 1, limit=2)
        return [found.place for found in rows] == [at, entry.place]

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
            yield from rows
            at = rows[-1].place + 1
