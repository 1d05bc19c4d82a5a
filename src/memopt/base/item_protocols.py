"""The plug points of stated memories: their tables in a home, and what their owners ask of them.

As in protocols.py, each is narrow: at most five methods.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from memopt.base.document_records import DocumentRow, PieceRow
from memopt.base.item_records import ItemRow, MarkRow
from memopt.base.records import Selector


class ItemTable(Protocol):
    """What was stated, and pieces of documents, by number."""

    def get(self, item: int) -> ItemRow | None: ...
    def put(self, row: ItemRow) -> int:
        """Store it, in the place of what was there; 0 asks for the next number. The number."""
        ...

    def delete(self, item: int) -> None: ...
    def page(self, scope_number: int, after: int, limit: int) -> list[ItemRow]:
        """Up to `limit` of a scope with numbers above `after`, in order."""
        ...

    def changed(self, scope_number: int, after_lsn: int, limit: int) -> list[ItemRow]:
        """Up to `limit` of a scope that were changed after an LSN, in the order of the changes."""
        ...


class ItemTopics(Protocol):
    """The same items by what they are about."""

    def of_topic(self, scope_number: int, topic: int, after: int = 0) -> list[ItemRow]:
        """Those with numbers above `after`, in the order in which they were stated."""
        ...

    def pinned(self, scope_number: int, topic: int) -> list[ItemRow]: ...
    def newest(self, scope_number: int, limit: int) -> list[tuple[int, int]]:
        """(item, version) of what was stated last, the newest first, without pieces of documents.
        Not verified: whoever wants more of a row gets it."""
        ...

    def of_document(self, document: int) -> list[ItemRow]: ...
    def count(self, scope_number: int) -> int: ...


class ItemTextTable(Protocol):
    """The records of every version of every text."""

    def get(self, item: int, version: int) -> bytes | None: ...
    def put(self, item: int, version: int, record: bytes) -> None: ...
    def of_item(self, item: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` (version, record) above version `after`, in order."""
        ...

    def delete(self, item: int) -> None:
        """All versions."""
        ...


class MarkTable(Protocol):
    """What was noted about items."""

    def put(self, row: MarkRow) -> None: ...
    def of_item(self, item: int) -> list[MarkRow]:
        """In order."""
        ...

    def of_other(self, other: int) -> list[MarkRow]:
        """Marks of other items that are about this one."""
        ...

    def of_topic(self, scope_number: int, topic: int | None, after: int = 0) -> list[MarkRow]:
        """Of all items about a topic, or of a whole scope, with numbers above `after`; each item's
        own, in order."""
        ...

    def delete(self, item: int) -> None:
        """Its own, and those of others that are about it."""
        ...


class DocumentTable(Protocol):
    """Which documents there are."""

    def get(self, document: int) -> DocumentRow | None: ...
    def find(self, scope_number: int, source: str) -> DocumentRow | None: ...
    def put(self, row: DocumentRow) -> int:
        """Store it, in the place of what was there; 0 asks for the next number. The number."""
        ...

    def delete(self, document: int) -> None: ...


class PieceTable(Protocol):
    """Where pieces stand in their documents."""

    def get(self, item: int) -> PieceRow | None: ...
    def put(self, row: PieceRow) -> None: ...
    def delete(self, item: int) -> None: ...
    def of_document(self, document: int) -> list[PieceRow]:
        """In the order of the text."""
        ...

    def count(self, document: int) -> int: ...


class ItemWatcher(Protocol):
    """Is told what changes among the items of a scope, within the commit; what it keeps of that in
    memory it changes once the commit has succeeded. The text of an item is an entry with source
    minus its number and seq its version."""

    def stated(self, transaction: Any, scope_number: int, item: int, version: int) -> None:
        """An item has a text, or a new one."""
        ...

    def marked(self, transaction: Any, scope_number: int, item: int) -> None:
        """What is known of an item beside its text has changed."""
        ...

    def forgotten(self, transaction: Any, scope_number: int, item: int, versions: int) -> None:
        """An item is gone, with all its texts, of versions 1 to `versions`."""
        ...


class ItemKeeper(Protocol):
    """What scopes ask of the memories and documents in them."""

    def count(self, tables: Any, scope_number: int) -> int: ...
    def matching(self, scope_number: int, selector: Selector) -> list[int]:
        """The items of a scope that a selector chooses, by their numbers."""
        ...

    def forget(self, scope: str, items: Sequence[int]) -> None:
        """Take them away, with everything that is known of them."""
        ...

    def check(self, scope_number: int) -> tuple[int, int, list[str]]:
        """Verify every text: (items, bytes, what is damaged)."""
        ...
