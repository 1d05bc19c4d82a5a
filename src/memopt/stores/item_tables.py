"""The tables of stated memories: items, every version of their texts, and marks.

Rows of items and marks carry a checksum; a text's record checks itself, its item and its version
(codecs/item_text.py). Not here: what a row means (recall/).
"""

from collections.abc import Sequence
from typing import Any, Final

from memopt.base.item_records import ItemRow, MarkRow
from memopt.stores.table import Table, crc_of

VERSION_BITS: Final = 20
"""An item has at most 2^20 versions, and there are at most 2^43 items."""
VERSION_MASK: Final = (1 << VERSION_BITS) - 1

ITEM_TABLES: Final = """
    CREATE TABLE items (item INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL,
        document INTEGER NOT NULL, kind TEXT NOT NULL, topic INTEGER NOT NULL, subject TEXT,
        attribute TEXT, source TEXT, tags TEXT NOT NULL, importance REAL NOT NULL,
        valid_from INTEGER NOT NULL, valid_to INTEGER NOT NULL, version INTEGER NOT NULL,
        made_lsn INTEGER NOT NULL, made_us INTEGER NOT NULL, changed_lsn INTEGER NOT NULL,
        pinned_until INTEGER NOT NULL, reward REAL NOT NULL, rewards INTEGER NOT NULL,
        crc INTEGER NOT NULL) STRICT;
    CREATE INDEX items_by_scope ON items (scope, item);
    CREATE INDEX items_by_change ON items (scope, changed_lsn);
    CREATE INDEX items_by_topic ON items (scope, topic, item) WHERE topic <> 0;
    CREATE INDEX items_pinned ON items (scope, topic) WHERE topic <> 0 AND pinned_until > 0;
    CREATE INDEX items_by_document ON items (document, item) WHERE document <> 0;
    CREATE TABLE item_texts (text INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
    CREATE TABLE item_marks (item INTEGER NOT NULL, lsn INTEGER NOT NULL, at_us INTEGER NOT NULL,
        mark INTEGER NOT NULL, value INTEGER NOT NULL, other INTEGER NOT NULL,
        crc INTEGER NOT NULL, PRIMARY KEY (item, lsn, mark, other)) WITHOUT ROWID, STRICT;
    CREATE INDEX item_marks_by_other ON item_marks (other) WHERE other <> 0;
    """
_COLUMNS: Final = (
    "item, scope, document, kind, topic, subject, attribute, source, tags, importance, valid_from, "
    "valid_to, version, made_lsn, made_us, changed_lsn, pinned_until, reward, rewards, crc"
)
_TAGS: Final = ItemRow._fields.index("tags")
# Tags are names, which have no control characters.
_BETWEEN_TAGS: Final = "\n"
_PLACES: Final = ", ".join("?" * (len(ItemRow._fields) + 1))


class SqliteItems(Table):
    def get(self, item: int) -> ItemRow | None:
        row = self._execute(f"SELECT {_COLUMNS} FROM items WHERE item = ?", (item,)).fetchone()
        return None if row is None else self._row(row)

    def put(self, row: ItemRow) -> int:
        number = row.item or self._next_number("items")
        values: list[Any] = [number, *row[1:]]
        values[_TAGS] = _BETWEEN_TAGS.join(row.tags)
        self._execute(
            f"INSERT OR REPLACE INTO items VALUES ({_PLACES})", (*values, crc_of(*values))
        )
        return number

    def delete(self, item: int) -> None:
        self._execute("DELETE FROM items WHERE item = ?", (item,))

    def page(self, scope_number: int, after: int, limit: int) -> list[ItemRow]:
        return self._rows(
            "scope = ? AND item > ? ORDER BY item LIMIT ?", scope_number, after, limit
        )

    def changed(self, scope_number: int, after_lsn: int, limit: int) -> list[ItemRow]:
        return self._rows(
            "scope = ? AND changed_lsn > ? ORDER BY changed_lsn LIMIT ?",
            scope_number, after_lsn, limit,
        )  # fmt: skip

    def _rows(self, where: str, *bindings: Any) -> list[ItemRow]:
        rows = self._execute(f"SELECT {_COLUMNS} FROM items WHERE {where}", bindings).fetchall()
        return [self._row(row) for row in rows]

    def _row(self, row: Sequence[Any]) -> ItemRow:
        values = list(self._verify("items", row))
        tags = values[_TAGS]
        values[_TAGS] = tuple(tags.split(_BETWEEN_TAGS)) if tags else ()
        return ItemRow(*values)


class SqliteItemTopics(SqliteItems):
    def of_topic(self, scope_number: int, topic: int, after: int = 0) -> list[ItemRow]:
        return self._rows(
            "scope = ? AND topic = ? AND topic <> 0 AND item > ? ORDER BY item",
            scope_number, topic, after,
        )  # fmt: skip

    def pinned(self, scope_number: int, topic: int) -> list[ItemRow]:
        # Spelt like the index, or SQLite would not use it.
        return self._rows(
            "scope = ? AND topic = ? AND topic <> 0 AND pinned_until > 0", scope_number, topic
        )

    def newest(self, scope_number: int, limit: int) -> list[tuple[int, int]]:
        rows: list[tuple[int, int]] = self._execute(
            "SELECT item, version FROM items WHERE scope = ? AND document = 0 "
            "ORDER BY item DESC LIMIT ?",
            (scope_number, limit),
        ).fetchall()
        return rows

    def of_document(self, document: int) -> list[ItemRow]:
        return self._rows("document = ? AND document <> 0 ORDER BY item", document)

    def count(self, scope_number: int) -> int:
        row = self._execute("SELECT count(*) FROM items WHERE scope = ?", (scope_number,))
        return int(row.fetchone()[0])


class SqliteItemTexts(Table):
    def get(self, item: int, version: int) -> bytes | None:
        row = self._execute(
            "SELECT record FROM item_texts WHERE text = ?", (item << VERSION_BITS | version,)
        ).fetchone()
        return None if row is None else row[0]

    def put(self, item: int, version: int, record: bytes) -> None:
        self._execute(
            "INSERT INTO item_texts VALUES (?, ?)", (item << VERSION_BITS | version, record)
        )

    def of_item(self, item: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        first = item << VERSION_BITS
        rows = self._execute(
            "SELECT text, record FROM item_texts WHERE text > ? AND text <= ? ORDER BY text "
            "LIMIT ?",
            (first | after, first | VERSION_MASK, limit),
        ).fetchall()
        return [(text & VERSION_MASK, record) for text, record in rows]

    def delete(self, item: int) -> None:
        first = item << VERSION_BITS
        self._execute(
            "DELETE FROM item_texts WHERE text >= ? AND text <= ?", (first, first | VERSION_MASK)
        )


class SqliteMarks(Table):
    def put(self, row: MarkRow) -> None:
        self._execute(
            "INSERT OR REPLACE INTO item_marks VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, crc_of(*row))
        )

    def of_item(self, item: int) -> list[MarkRow]:
        return self._rows("item = ? ORDER BY lsn, mark, other", item)

    def of_other(self, other: int) -> list[MarkRow]:
        return self._rows("other = ? AND other <> 0 ORDER BY item, lsn", other)

    def of_topic(self, scope_number: int, topic: int | None, after: int = 0) -> list[MarkRow]:
        which = "" if topic is None else "AND i.topic = ?3 AND i.topic <> 0 "
        rows = self._execute(
            "SELECT m.item, m.lsn, m.at_us, m.mark, m.value, m.other, m.crc FROM items i "
            f"JOIN item_marks m ON m.item = i.item WHERE i.scope = ?1 AND i.item > ?2 {which}"
            "ORDER BY m.item, m.lsn",
            (scope_number, after) if topic is None else (scope_number, after, topic),
        ).fetchall()
        return [MarkRow(*self._verify("item_marks", row)) for row in rows]

    def delete(self, item: int) -> None:
        self._execute("DELETE FROM item_marks WHERE item = ?", (item,))
        self._execute("DELETE FROM item_marks WHERE other = ? AND other <> 0", (item,))

    def _rows(self, where: str, binding: int) -> list[MarkRow]:
        rows = self._execute(f"SELECT * FROM item_marks WHERE {where}", (binding,)).fetchall()
        return [MarkRow(*self._verify("item_marks", row)) for row in rows]
