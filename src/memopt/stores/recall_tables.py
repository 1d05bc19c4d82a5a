"""The tables of recall: index segments, what has no entries yet, and what must not be found.

Rows of segments carry a checksum over their columns and the body; the others are keys alone, which
the database's own checksums cover. Not here: what a segment holds (recall/entries.py), or when
segments are written (recall/indexing.py).
"""

import zlib
from typing import Final

from memopt.base.errors import CorruptionError
from memopt.base.recall_records import ScopeLine, SegmentRow, UnindexedRow
from memopt.base.records import SEQ_BITS, SEQ_MASK
from memopt.stores.table import Table, crc_of

SEGMENT_TABLES: Final = """
    CREATE TABLE segments (segment INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL,
        space TEXT NOT NULL, entries INTEGER NOT NULL, first_lsn INTEGER NOT NULL,
        bytes INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE INDEX segments_by_scope ON segments (scope, segment);
    CREATE TABLE unindexed (scope INTEGER NOT NULL, source INTEGER NOT NULL,
        start INTEGER NOT NULL, stop INTEGER NOT NULL, PRIMARY KEY (scope, source, start))
        WITHOUT ROWID, STRICT;
    CREATE TABLE masked (scope INTEGER NOT NULL, source INTEGER NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (scope, source, seq)) WITHOUT ROWID, STRICT;
    """
ALL_UNINDEXED: Final = "INSERT INTO unindexed SELECT 0, line, start, stop FROM page_map;"
"""For a store whose messages were sealed before there were segments."""
_TAILS: Final = (
    f"FROM sessions s JOIN tail t ON t.key >= s.line << {SEQ_BITS} "
    f"AND t.key <= (s.line << {SEQ_BITS} | {SEQ_MASK}) WHERE s.scope = ?"
)
_HEAD: Final = "segment, scope, space, entries, first_lsn, bytes"


class SqliteSegments(Table):
    def put(self, row: SegmentRow) -> int:
        row = row._replace(segment=self._next_number("segments"), size_bytes=len(row.body))
        self._execute(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row[:6], _crc_of(row), row.body),
        )
        return row.segment

    def get(self, segment: int) -> SegmentRow | None:
        row = self._execute(
            f"SELECT {_HEAD}, body, crc FROM segments WHERE segment = ?", (segment,)
        ).fetchone()
        return None if row is None else _verified(*row)

    def of_scope(self, scope_number: int) -> list[SegmentRow]:
        rows = self._execute(
            f"SELECT {_HEAD}, body, crc FROM segments WHERE scope = ? ORDER BY segment",
            (scope_number,),
        ).fetchall()
        # All of them first: a query that is left unfinished holds its snapshot.
        return [_verified(*row) for row in rows]

    def heads(self, after: tuple[int, int], limit: int) -> list[SegmentRow]:
        rows = self._execute(
            f"SELECT {_HEAD} FROM segments WHERE (scope, segment) > (?, ?) "
            "ORDER BY scope, segment LIMIT ?",
            (*after, limit),
        ).fetchall()
        return [SegmentRow(*(*row, b"")) for row in rows]

    def delete(self, segment: int) -> None:
        self._execute("DELETE FROM segments WHERE segment = ?", (segment,))


def _crc_of(row: SegmentRow) -> int:
    return zlib.crc32(row.body, crc_of(*row[:6]))


def _verified(
    segment: int, scope: int, space: str, entries: int, first_lsn: int, size_bytes: int,
    body: bytes, crc: int,
) -> SegmentRow:  # fmt: skip
    row = SegmentRow(segment, scope, space, entries, first_lsn, size_bytes, body)
    if _crc_of(row) != crc:
        raise CorruptionError("checksum mismatch in a row of segments")
    return row


class SqliteUnindexed(Table):
    def put(self, row: UnindexedRow) -> None:
        self._execute("INSERT OR REPLACE INTO unindexed VALUES (?, ?, ?, ?)", row)

    def of_scope(self, scope_number: int) -> list[UnindexedRow]:
        rows = self._execute(
            "SELECT * FROM unindexed WHERE scope IN (0, ?) ORDER BY source, start", (scope_number,)
        )
        return [UnindexedRow(*row) for row in rows]

    def first(self, limit: int, *, stated: bool = False) -> list[UnindexedRow]:
        which = "WHERE source < 0" if stated else ""
        rows = self._execute(f"SELECT * FROM unindexed {which} LIMIT ?", (limit,))
        return [UnindexedRow(*row) for row in rows]

    def delete(self, row: UnindexedRow) -> None:
        self._execute("DELETE FROM unindexed WHERE scope = ? AND source = ? AND start = ?", row[:3])


class SqliteMasked(Table):
    def put(self, scope_number: int, source: int, seq: int) -> None:
        self._execute("INSERT OR IGNORE INTO masked VALUES (?, ?, ?)", (scope_number, source, seq))

    def of_scope(self, scope_number: int) -> list[tuple[int, int]]:
        rows: list[tuple[int, int]] = self._execute(
            "SELECT source, seq FROM masked WHERE scope = ?", (scope_number,)
        ).fetchall()
        return rows

    def scopes(self) -> list[int]:
        return [scope for (scope,) in self._execute("SELECT DISTINCT scope FROM masked")]

    def delete(self, scope_number: int, source: int, seq: int) -> None:
        self._execute(
            "DELETE FROM masked WHERE scope = ? AND source = ? AND seq = ?",
            (scope_number, source, seq),
        )


class SqliteScopeLines(Table):
    # Rows of sessions and lines are verified where messages are read; here a damaged one could
    # only name a place that is then not found.
    def current(self, scope_number: int) -> list[ScopeLine]:
        rows = self._execute(
            "SELECT s.session, s.id, l.line, l.parent, l.base FROM sessions s "
            "JOIN lines l ON l.line = s.line WHERE s.scope = ?",
            (scope_number,),
        ).fetchall()
        return [ScopeLine(*row) for row in rows]

    def tails(
        self, scope_number: int, after: tuple[int, int], limit: int
    ) -> list[tuple[int, int, int]]:
        rows = self._execute(
            f"SELECT t.key, length(t.record) {_TAILS} AND t.key > ? ORDER BY t.key LIMIT ?",
            (scope_number, after[0] << SEQ_BITS | after[1], limit),
        ).fetchall()
        return [(key >> SEQ_BITS, key & SEQ_MASK, size) for key, size in rows]
