"""What scopes ask of the memories and documents in them: count, search, forget, check.

Forgetting an item takes its row, every version of its text, its marks and those of others about it,
and the idempotency key that it was stated with, in one commit for many items; what is left in the
journal is numbers. Other items are then as if it had never been stated (standing.py).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.item_protocols import ItemWatcher
from memopt.base.item_records import ItemRow, item_number
from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.records import RecordKind, Selector, to_us
from memopt.codecs.item_text import open_text
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.recall.items import note_item
from memopt.recall.mending import damaged

_ROWS_AT_ONCE: Final = 256
_FORGOTTEN_A_COMMIT: Final = 512
_VERSIONS_AT_ONCE: Final = 64


class Keeper:
    """The ItemKeeper of a store. Thread-safe."""

    def __init__(
        self, home: Reader, committer: GroupCommitter, compressor: Compressor,
        watchers: Sequence[ItemWatcher],
    ) -> None:  # fmt: skip
        self._home = home
        self._committer = committer
        self._compressor = compressor
        self._watchers = watchers

    def count(self, tables: Tables, scope_number: int) -> int:
        return tables.item_topics.count(scope_number)

    # -- forgetting -------------------------------------------------------------------------------

    def matching(self, scope_number: int, selector: Selector) -> list[int]:
        """The items of a scope that a selector chooses, by their numbers."""
        chosen = {item_number(item_id) for item_id in selector.items}
        return [
            row.item
            for row in self._rows(scope_number, min(filter(None, chosen), default=1) - 1)
            if (not chosen or row.item in chosen) and self._matches(row, selector)
        ]

    def _matches(self, row: ItemRow, selector: Selector) -> bool:
        if selector.source is not None and row.source != selector.source:
            return False
        if not set(selector.tags).issubset(row.tags):
            return False
        if selector.since is not None and row.made_us < to_us(selector.since):
            return False
        if selector.until is not None and row.made_us >= to_us(selector.until):
            return False
        return selector.containing is None or self._holds(row, selector.containing)

    def _holds(self, row: ItemRow, text: str) -> bool:
        """Whether any version of its text does, or a name."""
        if any(text in (name or "") for name in (row.subject, row.attribute, row.source)):
            return True
        if any(text in tag for tag in row.tags):
            return True
        return any(
            text in open_text(self._compressor, row.item, version, record).text
            for version, record in self._texts(row.item)
        )

    def forget(self, scope: str, items: Sequence[int]) -> None:
        """Take them away, many in a commit."""
        for at in range(0, len(items), _FORGOTTEN_A_COMMIT):
            some = items[at : at + _FORGOTTEN_A_COMMIT]
            self._committer.commit(lambda t, some=some: self._forget(t, scope, some))  # type: ignore[misc]

    def _forget(self, transaction: CommitTransaction, scope: str, items: Sequence[int]) -> None:
        tables = transaction.tables
        for item in items:
            row = tables.items.get(item)
            # Where there is none, somebody else was faster.
            if row is not None:
                erase(transaction, row, self._watchers)

    # -- checking ---------------------------------------------------------------------------------

    def check(self, scope_number: int) -> tuple[int, int, list[str]]:
        """Verify every row, every version of every text and every mark, and what is indexed."""
        items = size = 0
        damages: list[str] = []
        try:
            for row in self._rows(scope_number, 0):
                items += 1
                size += self._check(row, damages)
        except CorruptionError as error:
            damages.append(f"the list of its items: {error.reason}")
        try:
            for _, segment, reason in damaged(self._home, scope_number):
                damages.append(f"segment {segment} of its index: {reason}; compact() makes it anew")
        except CorruptionError as error:
            damages.append(f"the list of its index: {error.reason}")
        return items, size, damages

    def _check(self, row: ItemRow, damages: list[str]) -> int:
        size, expected = 0, 1
        try:
            with self._home.snapshot() as tables:
                tables.item_marks.of_item(row.item)
                piece = tables.pieces.get(row.item) if row.document else None
            if row.document and (piece is None or piece.document != row.document):
                raise CorruptionError(f"where item {row.item} stands in its document is missing")
            for version, record in self._texts(row.item):
                if version != expected:
                    raise CorruptionError(f"version {expected} of item {row.item} is missing")
                size += len(open_text(self._compressor, row.item, version, record).text)
                expected += 1
            if expected <= row.version and self._is_still(row):
                raise CorruptionError(f"version {expected} of item {row.item} is missing")
        except (CorruptionError, StoreVersionError) as error:
            damages.append(str(getattr(error, "reason", error)))
        return size

    def _is_still(self, row: ItemRow) -> bool:
        """Whether it was not forgotten between two snapshots."""
        with self._home.snapshot() as tables:
            return tables.items.get(row.item) is not None

    # -- walks ------------------------------------------------------------------------------------

    def _rows(self, scope_number: int, after: int) -> Iterator[ItemRow]:
        while True:
            with self._home.snapshot() as tables:
                rows = tables.items.page(scope_number, after, _ROWS_AT_ONCE)
            yield from rows
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = rows[-1].item

    def _texts(self, item: int) -> Iterator[tuple[int, bytes]]:
        after = 0
        while True:
            with self._home.snapshot() as tables:
                records = tables.item_texts.of_item(item, after, _VERSIONS_AT_ONCE)
            yield from records
            if len(records) < _VERSIONS_AT_ONCE:
                return
            after = records[-1][0]


def erase(transaction: CommitTransaction, row: ItemRow, watchers: Sequence[ItemWatcher]) -> None:
    """In a commit: an item, with all that is known of it."""
    tables = transaction.tables
    tables.items.delete(row.item)
    tables.item_texts.delete(row.item)
    tables.item_marks.delete(row.item)
    tables.keys.delete(-row.scope_number, row.item)
    for watcher in watchers:
        watcher.forgotten(transaction, row.scope_number, row.item, row.version)
    note_item(transaction, RecordKind.ITEM_FORGOTTEN, row, None, transaction.next_lsn())
