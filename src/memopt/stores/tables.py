"""The tables of one SQLite connection, behind the narrow contracts of base/protocols.py.

Every row carries a checksum over its key and its values, made when it is written and verified
whenever it is read; pages, tail records, texts and states check themselves in their frames. Not
here: transactions, connections and files (sqlite.py), or what a frame holds (codecs/).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import apsw

from memopt.base.protocols import Tables
from memopt.base.records import (
    SEQ_BITS,
    SEQ_MASK,
    DictionaryRow,
    EventRow,
    KeyRow,
    LineRow,
    PageRow,
    SessionRow,
    StateRow,
)
from memopt.stores.answer_tables import (
    SqliteAnswerCategories,
    SqliteAnswerEntries,
    SqliteAnswerOrder,
    SqliteAnswers,
    SqliteAnswerUses,
)
from memopt.stores.context_tables import SqliteContexts, SqliteMessagePins
from memopt.stores.document_tables import SqliteDocuments, SqlitePieces
from memopt.stores.entry_tables import SqliteCollections, SqliteEntries, SqliteEntryIndex
from memopt.stores.item_tables import (
    SqliteItems,
    SqliteItemTexts,
    SqliteItemTopics,
    SqliteMarks,
)
from memopt.stores.recall_tables import (
    SqliteMasked,
    SqliteScopeLines,
    SqliteSegments,
    SqliteUnindexed,
)
from memopt.stores.table import Table, crc_of


def bind_tables(connection: apsw.Connection) -> Tables:
    """The tables as `connection` sees them."""
    return Tables(
        scopes=SqliteScopes(connection),
        sessions=SqliteSessions(connection),
        lines=SqliteLines(connection),
        tail=SqliteTail(connection),
        pages=SqlitePages(connection),
        texts=SqliteTexts(connection),
        states=SqliteStates(connection),
        events=SqliteEvents(connection),
        keys=SqliteKeys(connection),
        dictionaries=SqliteDictionaries(connection),
        meta=SqliteMeta(connection),
        collections=SqliteCollections(connection),
        entries=SqliteEntries(connection),
        entry_index=SqliteEntryIndex(connection),
        segments=SqliteSegments(connection),
        unindexed=SqliteUnindexed(connection),
        masked=SqliteMasked(connection),
        scope_lines=SqliteScopeLines(connection),
        items=SqliteItems(connection),
        item_topics=SqliteItemTopics(connection),
        item_texts=SqliteItemTexts(connection),
        item_marks=SqliteMarks(connection),
        answers=SqliteAnswers(connection),
        answer_order=SqliteAnswerOrder(connection),
        answer_entries=SqliteAnswerEntries(connection),
        answer_uses=SqliteAnswerUses(connection),
        answer_categories=SqliteAnswerCategories(connection),
        documents=SqliteDocuments(connection),
        pieces=SqlitePieces(connection),
        contexts=SqliteContexts(connection),
        message_pins=SqliteMessagePins(connection),
    )


class SqliteScopes(Table):
    def number(self, path: str) -> int | None:
        row = self._execute(
            "SELECT scope, path, crc FROM scopes WHERE path = ?", (path,)
        ).fetchone()
        return None if row is None else self._verify("scopes", row)[0]

    def path(self, number: int) -> str | None:
        row = self._execute(
            "SELECT scope, path, crc FROM scopes WHERE scope = ?", (number,)
        ).fetchone()
        return None if row is None else self._verify("scopes", row)[1]

    def create(self, path: str) -> int:
        number = self._next_number("scopes")
        self._execute("INSERT INTO scopes VALUES (?, ?, ?)", (number, path, crc_of(number, path)))
        return number

    def subtree(self, path: str) -> list[tuple[int, str]]:
        # '0' follows '/' in ASCII, so this range is exactly the paths that begin with `path/`.
        rows = self._execute(
            "SELECT scope, path, crc FROM scopes WHERE path = ?1 "
            "OR (path > ?1 || '/' AND path < ?1 || '0') ORDER BY path",
            (path,),
        ).fetchall()
        return [(v[0], v[1]) for v in (self._verify("scopes", row) for row in rows)]

    def page(self, start: str, limit: int) -> list[tuple[int, str]]:
        rows = self._execute(
            "SELECT scope, path, crc FROM scopes WHERE path >= ? ORDER BY path LIMIT ?",
            (start, limit),
        ).fetchall()
        return [(v[0], v[1]) for v in (self._verify("scopes", row) for row in rows)]

    def delete(self, number: int) -> None:
        self._execute("DELETE FROM scopes WHERE scope = ?", (number,))


_SESSION_COLUMNS: Final = (
    "s.session, s.scope, s.id, s.agent, s.line, s.made_lsn, s.made_us, s.touched_us, s.crc"
)


class SqliteSessions(Table):
    def find(self, scope: str, id: str) -> SessionRow | None:
        row = self._execute(
            f"SELECT c.path, {_SESSION_COLUMNS} FROM scopes c JOIN sessions s ON s.scope = c.scope "
            "WHERE c.path = ? AND s.id = ?",
            (scope, id),
        ).fetchone()
        return None if row is None else self._row(row)

    def get(self, session: int) -> SessionRow | None:
        row = self._execute(
            f"SELECT c.path, {_SESSION_COLUMNS} FROM sessions s JOIN scopes c ON s.scope = c.scope "
            "WHERE s.session = ?",
            (session,),
        ).fetchone()
        return None if row is None else self._row(row)

    def put(self, row: SessionRow) -> None:
        values = (row[0], row[1], *row[3:])
        self._execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, crc_of(*values)),
        )

    def delete(self, session: int) -> None:
        self._execute("DELETE FROM sessions WHERE session = ?", (session,))

    def page(self, scope_number: int | None, after: int, limit: int) -> list[SessionRow]:
        where = "" if scope_number is None else "AND s.scope = ?3 "
        bindings: tuple[Any, ...] = (after, limit)
        if scope_number is not None:
            bindings = (after, limit, scope_number)
        rows = self._execute(
            f"SELECT c.path, {_SESSION_COLUMNS} FROM sessions s JOIN scopes c ON s.scope = c.scope "
            f"WHERE s.session > ?1 {where}ORDER BY s.session LIMIT ?2",
            bindings,
        ).fetchall()
        return [self._row(row) for row in rows]

    def by_id(self, scope_number: int, after: str, limit: int) -> list[SessionRow]:
        rows = self._execute(
            f"SELECT c.path, {_SESSION_COLUMNS} FROM sessions s JOIN scopes c ON s.scope = c.scope "
            "WHERE s.scope = ? AND s.id > ? ORDER BY s.id LIMIT ?",
            (scope_number, after, limit),
        ).fetchall()
        return [self._row(row) for row in rows]

    def _row(self, row: Sequence[Any]) -> SessionRow:
        v = self._verify("sessions", row[1:])
        return SessionRow(v[0], v[1], row[0], *v[2:])


class SqliteLines(Table):
    def get(self, line: int) -> LineRow | None:
        row = self._execute("SELECT * FROM lines WHERE line = ?", (line,)).fetchone()
        return None if row is None else LineRow(*self._verify("lines", row))

    def put(self, row: LineRow) -> None:
        self._execute(
            "INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, crc_of(*row))
        )

    def delete(self, line: int) -> None:
        self._execute("DELETE FROM lines WHERE line = ?", (line,))

    def of_session(self, session: int) -> list[LineRow]:
        rows = self._execute("SELECT * FROM lines WHERE session = ? ORDER BY line", (session,))
        return [LineRow(*self._verify("lines", row)) for row in rows.fetchall()]

    def children(self, line: int) -> list[LineRow]:
        rows = self._execute(
            "SELECT * FROM lines WHERE parent = ? AND parent <> 0 ORDER BY line", (line,)
        )
        return [LineRow(*self._verify("lines", row)) for row in rows.fetchall()]


class SqliteTail(Table):
    def put(self, line: int, seq: int, record: bytes) -> None:
        self._execute("INSERT OR REPLACE INTO tail VALUES (?, ?)", (line << SEQ_BITS | seq, record))

    def last(self, line: int) -> int | None:
        first = line << SEQ_BITS
        row = self._execute(
            "SELECT max(key) FROM tail WHERE key >= ? AND key <= ?", (first, first | SEQ_MASK)
        ).fetchone()
        return None if row[0] is None else row[0] & SEQ_MASK

    def range(self, line: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        first = line << SEQ_BITS
        rows = self._execute(
            "SELECT key, record FROM tail WHERE key >= ? AND key < ? ORDER BY key",
            (first | start, first + stop),
        ).fetchall()
        return [(key & SEQ_MASK, record) for key, record in rows]

    def delete(self, line: int, start: int, stop: int) -> None:
        first = line << SEQ_BITS
        self._execute("DELETE FROM tail WHERE key >= ? AND key < ?", (first | start, first + stop))

    def scan(self, after: tuple[int, int], limit: int) -> list[tuple[int, int, bytes]]:
        rows = self._execute(
            "SELECT key, record FROM tail WHERE key > ? ORDER BY key LIMIT ?",
            ((after[0] << SEQ_BITS) + after[1], limit),
        ).fetchall()
        return [(key >> SEQ_BITS, key & SEQ_MASK, record) for key, record in rows]


class SqlitePages(Table):
    def map(self, line: int, start: int, stop: int, *, last: int | None = None) -> list[PageRow]:
        if last is None:
            rows = self._execute(
                "SELECT * FROM page_map WHERE line = ? AND start < ? AND stop > ? ORDER BY start",
                (line, stop, start),
            ).fetchall()
        else:
            rows = self._execute(
                "SELECT * FROM page_map WHERE line = ? AND start < ? AND stop > ? "
                "ORDER BY start DESC LIMIT ?",
                (line, stop, start, last),
            ).fetchall()[::-1]
        return [PageRow(*self._verify("page_map", row)) for row in rows]

    def body(self, page: int) -> bytes | None:
        row = self._execute("SELECT body FROM pages WHERE page = ?", (page,)).fetchone()
        return None if row is None else row[0]

    def put(self, row: PageRow, body: bytes) -> None:
        self._execute(
            "INSERT INTO pages VALUES (?, ?, ?, ?)", (row.page, row.line, row.start, body)
        )
        self._execute(
            "INSERT INTO page_map VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, crc_of(*row))
        )

    def delete(self, row: PageRow) -> None:
        self._execute("DELETE FROM page_map WHERE line = ? AND start = ?", (row.line, row.start))
        self._execute("DELETE FROM pages WHERE page = ?", (row.page,))

    def scan(self, after: tuple[int, int], limit: int, *, last_lsn_above: int = 0) -> list[PageRow]:
        rows = self._execute(
            "SELECT * FROM page_map WHERE (line, start) > (?, ?) AND last_lsn > ? "
            "ORDER BY line, start LIMIT ?",
            (*after, last_lsn_above, limit),
        ).fetchall()
        return [PageRow(*self._verify("page_map", row)) for row in rows]


class SqliteTexts(Table):
    def intern(
        self, scope_number: int, digest: bytes, raw_bytes: int, make: Callable[[], bytes]
    ) -> int:
        row = self._execute(
            "SELECT text FROM texts WHERE scope = ? AND digest = ?", (scope_number, digest)
        ).fetchone()
        if row is not None:
            return int(row[0])
        self._execute(
            "INSERT INTO texts (scope, digest, raw_bytes, body) VALUES (?, ?, ?, ?)",
            (scope_number, digest, raw_bytes, make()),
        )
        return self._connection.last_insert_rowid()

    def get(self, text: int) -> bytes | None:
        row = self._execute("SELECT body FROM texts WHERE text = ?", (text,)).fetchone()
        return None if row is None else row[0]

    def of_page(self, page: int) -> list[tuple[int, bytes, int]]:
        rows: list[tuple[int, bytes, int]] = self._execute(
            "SELECT r.text, t.digest, t.raw_bytes FROM text_refs r JOIN texts t ON t.text = r.text "
            "WHERE r.page = ?",
            (page,),
        ).fetchall()
        return rows

    def refer(self, page: int, texts: Iterable[int]) -> None:
        for text in texts:
            self._execute("INSERT OR IGNORE INTO text_refs VALUES (?, ?)", (page, text))

    def release(self, page: int) -> int:
        texts = self._execute("SELECT text FROM text_refs WHERE page = ?", (page,)).fetchall()
        if not texts:
            return 0
        self._execute("DELETE FROM text_refs WHERE page = ?", (page,))
        dropped = 0
        for (text,) in texts:
            self._execute(
                "DELETE FROM texts WHERE text = ?1 "
                "AND NOT EXISTS (SELECT 1 FROM text_refs WHERE text = ?1)",
                (text,),
            )
            dropped += self._connection.changes()
        return dropped


_STATE_COLUMNS: Final = "session, name, version, lsn, at_us, base, raw_bytes"


class SqliteStates(Table):
    def latest(self, session: int, name: str) -> StateRow | None:
        return self._one(
            f"SELECT {_STATE_COLUMNS}, crc, body FROM states WHERE session = ? AND name = ? "
            "ORDER BY version DESC LIMIT 1",
            (session, name),
        )

    def get(self, session: int, name: str, version: int) -> StateRow | None:
        return self._one(
            f"SELECT {_STATE_COLUMNS}, crc, body FROM states "
            "WHERE session = ? AND name = ? AND version = ?",
            (session, name, version),
        )

    def put(self, row: StateRow) -> None:
        self._execute(
            f"INSERT INTO states ({_STATE_COLUMNS}, crc, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row[:7], crc_of(*row[:7]), row.body),
        )

    def versions(self, session: int, name: str | None) -> list[StateRow]:
        rows = self._execute(
            f"SELECT {_STATE_COLUMNS}, crc FROM states WHERE session = ?1 "
            "AND (?2 IS NULL OR name = ?2) ORDER BY name, version",
            (session, name),
        ).fetchall()
        return [StateRow(*(*self._verify("states", row), b"")) for row in rows]

    def delete(self, session: int, name: str | None, below: int | None) -> int:
        self._execute(
            "DELETE FROM states WHERE session = ?1 AND (?2 IS NULL OR name = ?2) "
            "AND (?3 IS NULL OR version < ?3)",
            (session, name, below),
        )
        return self._connection.changes()

    def _one(self, sql: str, bindings: tuple[Any, ...]) -> StateRow | None:
        row = self._execute(sql, bindings).fetchone()
        if row is None:
            return None
        return StateRow(*(*self._verify("states", row[:-1]), row[-1]))


class SqliteEvents(Table):
    def put(self, row: EventRow) -> None:
        self._execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, crc_of(*row)))

    def since(self, after_lsn: int, limit: int) -> list[EventRow]:
        rows = self._execute(
            "SELECT * FROM events WHERE lsn > ? ORDER BY lsn LIMIT ?", (after_lsn, limit)
        ).fetchall()
        return [EventRow(*self._verify("events", row)) for row in rows]

    def of_session(self, session: int) -> list[EventRow]:
        rows = self._execute(
            "SELECT * FROM events WHERE session = ? ORDER BY lsn", (session,)
        ).fetchall()
        return [EventRow(*self._verify("events", row)) for row in rows]

    def delete(self, up_to_lsn: int, limit: int) -> int:
        self._execute(
            "DELETE FROM events WHERE lsn IN "
            "(SELECT lsn FROM events WHERE lsn <= ? ORDER BY lsn LIMIT ?)",
            (up_to_lsn, limit),
        )
        return self._connection.changes()

    def purge(self, session: int, kind: str | None = None) -> None:
        self._execute(
            "DELETE FROM events WHERE session = ?1 AND (?2 IS NULL OR kind = ?2)", (session, kind)
        )


class SqliteKeys(Table):
    def find(self, session: int, key: str) -> KeyRow | None:
        row = self._execute(
            "SELECT * FROM keys WHERE session = ? AND key = ?", (session, key)
        ).fetchone()
        return None if row is None else KeyRow(*self._verify("keys", row))

    def put(self, row: KeyRow) -> None:
        self._execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, crc_of(*row)))

    def delete(self, session: int, head: int | None = None) -> None:
        self._execute(
            "DELETE FROM keys WHERE session = ?1 AND (?2 IS NULL OR head = ?2)", (session, head)
        )

    def trim(self, made_before_us: int, limit: int) -> int:
        self._execute(
            "DELETE FROM keys WHERE (session, key) IN "
            "(SELECT session, key FROM keys WHERE made_us < ? ORDER BY made_us LIMIT ?)",
            (made_before_us, limit),
        )
        return self._connection.changes()


class SqliteDictionaries(Table):
    def get(self, dictionary: int) -> DictionaryRow | None:
        row = self._execute(
            "SELECT dictionary, scope, version, made_lsn, retired, body, crc FROM dictionaries "
            "WHERE dictionary = ?",
            (dictionary,),
        ).fetchone()
        return None if row is None else DictionaryRow(*self._verify("dictionaries", row))

    def current(self, scope_number: int) -> DictionaryRow | None:
        row = self._execute(
            "SELECT dictionary, scope, version, made_lsn, retired, body, crc FROM dictionaries "
            "WHERE scope = ? AND retired = 0 ORDER BY version DESC LIMIT 1",
            (scope_number,),
        ).fetchone()
        return None if row is None else DictionaryRow(*self._verify("dictionaries", row))

    def put(self, row: DictionaryRow) -> int:
        """A dictionary number of 0 asks for the next one, which is returned."""
        number = row.dictionary
        if not number:
            number = self._next_number("dictionaries")
        row = row._replace(dictionary=number)
        self._execute(
            "INSERT OR REPLACE INTO dictionaries VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row[:5], crc_of(*row), row.body),
        )
        return number

    def list(self) -> list[DictionaryRow]:
        rows = self._execute(
            "SELECT dictionary, scope, version, made_lsn, retired FROM dictionaries ORDER BY 1"
        ).fetchall()
        return [DictionaryRow(*(*row, b"")) for row in rows]

    def delete(self, dictionary: int) -> None:
        self._execute("DELETE FROM dictionaries WHERE dictionary = ?", (dictionary,))


class SqliteMeta(Table):
    def get(self, name: str) -> bytes | None:
        row = self._execute("SELECT name, value, crc FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else self._verify("meta", row)[1]

    def put(self, name: str, value: bytes) -> None:
        self._execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, crc_of(name, value))
        )

    def delete(self, name: str) -> None:
        self._execute("DELETE FROM meta WHERE name = ?", (name,))

    def names(self, prefix: str) -> Sequence[str]:
        rows = self._execute(
            "SELECT name FROM meta WHERE name >= ?1 AND name < ?1 || char(1114111) ORDER BY name",
            (prefix,),
        ).fetchall()
        return [name for (name,) in rows]
