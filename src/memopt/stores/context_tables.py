"""The tables of contexts: what was derived from messages, and which messages are pinned.

Rows carry a checksum over their columns; a body checks itself besides, in its frame.
"""

from typing import Any, Final

from memopt.base.context_records import ContextRow, PinRow
from memopt.stores.table import Table, crc_of

CONTEXT_TABLES: Final = """
    CREATE TABLE contexts (line INTEGER NOT NULL, name TEXT NOT NULL, scope INTEGER NOT NULL,
        body BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (line, name)) WITHOUT ROWID, STRICT;
    CREATE INDEX contexts_by_scope ON contexts (scope);
    CREATE TABLE message_pins (line INTEGER NOT NULL, seq INTEGER NOT NULL, lsn INTEGER NOT NULL,
        until_us INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (line, seq))
        WITHOUT ROWID, STRICT;
    CREATE INDEX items_pinned_by_scope ON items (scope) WHERE pinned_until > 0;
    """


class SqliteContexts(Table):
    def get(self, line: int, name: str) -> ContextRow | None:
        row = self._execute(
            "SELECT line, name, scope, body, crc FROM contexts WHERE line = ? AND name = ?",
            (line, name),
        ).fetchone()
        return None if row is None else ContextRow(*self._verify("contexts", row))

    def put(self, row: ContextRow) -> None:
        self._execute(
            "INSERT OR REPLACE INTO contexts VALUES (?, ?, ?, ?, ?)", (*row, crc_of(*row))
        )

    def names(self, line: int) -> list[str]:
        rows = self._execute("SELECT name FROM contexts WHERE line = ?", (line,)).fetchall()
        return [name for (name,) in rows]

    def scan(self, after: tuple[int, str], limit: int) -> list[tuple[int, str]]:
        rows: list[Any] = self._execute(
            "SELECT line, name FROM contexts WHERE (line, name) > (?, ?) "
            "ORDER BY line, name LIMIT ?",
            (*after, limit),
        ).fetchall()
        return rows

    def delete(self, line: int, name: str | None) -> None:
        self._execute(
            "DELETE FROM contexts WHERE line = ? AND (?2 IS NULL OR name = ?2)", (line, name)
        )

    def delete_scope(self, scope_number: int, prefix: str) -> int:
        self._execute(
            "DELETE FROM contexts WHERE scope = ? AND substr(name, 1, ?) = ?",
            (scope_number, len(prefix), prefix),
        )
        return int(self._connection.changes())


class SqliteMessagePins(Table):
    def put(self, row: PinRow) -> None:
        self._execute(
            "INSERT OR REPLACE INTO message_pins VALUES (?, ?, ?, ?, ?)", (*row, crc_of(*row))
        )

    def of_line(self, line: int, start: int, stop: int) -> list[PinRow]:
        rows: list[Any] = self._execute(
            "SELECT line, seq, lsn, until_us, crc FROM message_pins "
            "WHERE line = ? AND seq >= ? AND seq < ? ORDER BY seq",
            (line, start, stop),
        ).fetchall()
        return [PinRow(*self._verify("message_pins", row)) for row in rows]

    def scan(self, after: tuple[int, int], limit: int) -> list[tuple[int, int]]:
        rows: list[Any] = self._execute(
            "SELECT line, seq FROM message_pins WHERE (line, seq) > (?, ?) "
            "ORDER BY line, seq LIMIT ?",
            (*after, limit),
        ).fetchall()
        return rows

    def delete(self, line: int, seq: int) -> int:
        self._execute("DELETE FROM message_pins WHERE line = ? AND seq = ?", (line, seq))
        return int(self._connection.changes())

    def delete_from(self, line: int, start: int) -> int:
        self._execute("DELETE FROM message_pins WHERE line = ? AND seq >= ?", (line, start))
        return int(self._connection.changes())

    def items(self, scope_number: int, limit: int) -> list[int]:
        rows = self._execute(
            "SELECT item FROM items WHERE scope = ? AND pinned_until > 0 ORDER BY item LIMIT ?",
            (scope_number, limit),
        ).fetchall()
        return [item for (item,) in rows]
