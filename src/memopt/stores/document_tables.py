"""The tables of documents: which there are, and where their pieces stand in them.

The pieces themselves are items (item_tables.py). Rows carry a checksum.
"""

from typing import Any, Final

from memopt.base.document_records import DocumentRow, PieceRow
from memopt.stores.table import Table, crc_of

DOCUMENT_TABLES: Final = """
    CREATE TABLE documents (document INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL,
        source TEXT NOT NULL, media TEXT NOT NULL, digest BLOB NOT NULL,
        chars INTEGER NOT NULL, changed_lsn INTEGER NOT NULL, changed_us INTEGER NOT NULL,
        crc INTEGER NOT NULL) STRICT;
    CREATE UNIQUE INDEX documents_by_source ON documents (scope, source);
    CREATE TABLE pieces (item INTEGER PRIMARY KEY, document INTEGER NOT NULL,
        start INTEGER NOT NULL, stop INTEGER NOT NULL, digest BLOB NOT NULL,
        crc INTEGER NOT NULL) STRICT;
    CREATE INDEX pieces_by_document ON pieces (document, start);
    """
_DOCUMENT: Final = "document, scope, source, media, digest, chars, changed_lsn, changed_us, crc"
_PIECE: Final = "item, document, start, stop, digest, crc"


class SqliteDocuments(Table):
    def get(self, document: int) -> DocumentRow | None:
        return self._one("document = ?", document)

    def find(self, scope_number: int, source: str) -> DocumentRow | None:
        return self._one("scope = ? AND source = ?", scope_number, source)

    def put(self, row: DocumentRow) -> int:
        number = row.document or self._next_number("documents")
        values = (number, *row[1:])
        self._execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, crc_of(*values)),
        )
        return number

    def delete(self, document: int) -> None:
        self._execute("DELETE FROM documents WHERE document = ?", (document,))

    def _one(self, where: str, *bindings: Any) -> DocumentRow | None:
        row = self._execute(f"SELECT {_DOCUMENT} FROM documents WHERE {where}", bindings).fetchone()
        return None if row is None else DocumentRow(*self._verify("documents", row))


class SqlitePieces(Table):
    def get(self, item: int) -> PieceRow | None:
        rows = self._rows("item = ?", item)
        return rows[0] if rows else None

    def put(self, row: PieceRow) -> None:
        self._execute(
            "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?, ?, ?)", (*row, crc_of(*row))
        )

    def delete(self, item: int) -> None:
        self._execute("DELETE FROM pieces WHERE item = ?", (item,))

    def of_document(self, document: int) -> list[PieceRow]:
        return self._rows("document = ? ORDER BY start", document)

    def count(self, document: int) -> int:
        row = self._execute("SELECT count(*) FROM pieces WHERE document = ?", (document,))
        return int(row.fetchone()[0])

    def _rows(self, where: str, binding: int) -> list[PieceRow]:
        rows = self._execute(f"SELECT {_PIECE} FROM pieces WHERE {where}", (binding,)).fetchall()
        return [PieceRow(*self._verify("pieces", row)) for row in rows]
