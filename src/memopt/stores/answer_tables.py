"""The tables of the answer cache: answers, what is compared of their questions, what they hang on,
and their categories.

Rows carry a checksum over their columns; an answer's body checks itself in its frame, an entry in
its record, and uses are keys alone, which the database's own checksums cover. Entries lie by scope
beside each other, apart from the bodies: a scope that is brought into RAM reads nothing else.
"""

from typing import Any, Final

from memopt.base.answer_records import AnswerRow, CategoryRow, UseRow
from memopt.stores.table import Table, crc_of

ANSWER_TABLES: Final = """
    CREATE TABLE answers (answer INTEGER PRIMARY KEY, scope INTEGER NOT NULL,
        category INTEGER NOT NULL, context BLOB NOT NULL, question BLOB NOT NULL, model TEXT,
        history INTEGER NOT NULL, made_us INTEGER NOT NULL, expires_us INTEGER,
        bytes INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE UNIQUE INDEX answers_by_key ON answers (scope, context, question);
    CREATE INDEX answers_by_category ON answers (category, answer);
    CREATE INDEX answers_of_turns ON answers (scope, answer) WHERE history = 2;
    CREATE INDEX answers_by_expiry ON answers (expires_us) WHERE expires_us IS NOT NULL;
    CREATE TABLE answer_entries (scope INTEGER NOT NULL, answer INTEGER NOT NULL,
        record BLOB NOT NULL, PRIMARY KEY (scope, answer)) WITHOUT ROWID, STRICT;
    CREATE TABLE answer_uses (kind INTEGER NOT NULL, source INTEGER NOT NULL, seq INTEGER NOT NULL,
        answer INTEGER NOT NULL, PRIMARY KEY (kind, source, seq, answer)) WITHOUT ROWID, STRICT;
    CREATE INDEX answer_uses_by_answer ON answer_uses (answer);
    CREATE TABLE answer_categories (category INTEGER PRIMARY KEY AUTOINCREMENT,
        scope INTEGER NOT NULL, name TEXT NOT NULL, lsn INTEGER NOT NULL, answers INTEGER NOT NULL,
        bytes INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE UNIQUE INDEX answer_categories_by_name ON answer_categories (scope, name);
    """
_HEAD: Final = (
    "answer, scope, category, context, question, model, history, made_us, expires_us, bytes"
)
_CATEGORY: Final = "category, scope, name, lsn, answers, bytes, body, crc"


class SqliteAnswers(Table):
    def get(self, answer: int) -> AnswerRow | None:
        row = self._execute(
            f"SELECT {_HEAD}, crc, body FROM answers WHERE answer = ?", (answer,)
        ).fetchone()
        return None if row is None else self._row(row)

    def find(self, scope_number: int, context: bytes, question: bytes) -> AnswerRow | None:
        row = self._execute(
            f"SELECT {_HEAD}, crc, body FROM answers "
            "WHERE scope = ? AND context = ? AND question = ?",
            (scope_number, context, question),
        ).fetchone()
        return None if row is None else self._row(row)

    def put(self, row: AnswerRow) -> None:
        self._execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row[:-1], crc_of(*row[:-1]), row.body),
        )

    def delete(self, answer: int) -> None:
        self._execute("DELETE FROM answers WHERE answer = ?", (answer,))

    def page(self, scope_number: int, after: int, limit: int) -> list[AnswerRow]:
        # By way of the entries, which lie together; the answers' own rows are not in this order.
        rows = self._execute(
            f"SELECT {_HEAD}, crc, x'' FROM answers WHERE answer IN (SELECT answer FROM "
            "answer_entries WHERE scope = ? AND answer > ? ORDER BY answer LIMIT ?) ORDER BY 1",
            (scope_number, after, limit),
        ).fetchall()
        return [self._row(row) for row in rows]

    def _row(self, row: Any) -> AnswerRow:
        return AnswerRow(*(*self._verify("answers", row[:-1]), row[-1]))


class SqliteAnswerOrder(Table):
    def oldest(self, category: int, after: int, limit: int) -> list[int]:
        rows = self._execute(
            "SELECT answer FROM answers WHERE category = ? AND answer > ? ORDER BY answer LIMIT ?",
            (category, after, limit),
        ).fetchall()
        return [answer for (answer,) in rows]

    def expired(self, at_us: int, limit: int) -> list[int]:
        rows = self._execute(
            "SELECT answer FROM answers WHERE expires_us IS NOT NULL AND expires_us < ? "
            "ORDER BY expires_us LIMIT ?",
            (at_us, limit),
        ).fetchall()
        return [answer for (answer,) in rows]

    def whereabouts(self, answer: int) -> tuple[int, int, int] | None:
        row: tuple[int, int, int] | None = self._execute(
            "SELECT scope, category, bytes FROM answers WHERE answer = ?", (answer,)
        ).fetchone()
        return row

    def of_turns(self, scope_number: int, limit: int) -> list[int]:
        rows = self._execute(
            "SELECT answer FROM answers WHERE scope = ? AND history = 2 ORDER BY answer LIMIT ?",
            (scope_number, limit),
        ).fetchall()
        return [answer for (answer,) in rows]

    def highest_lsn(self) -> int:
        row = self._execute(
            "SELECT max(ifnull((SELECT max(answer) FROM answers), 0), "
            "ifnull((SELECT max(lsn) FROM answer_categories), 0))"
        ).fetchone()
        return int(row[0])


class SqliteAnswerEntries(Table):
    def get(self, scope_number: int, answer: int) -> bytes | None:
        row = self._execute(
            "SELECT record FROM answer_entries WHERE scope = ? AND answer = ?",
            (scope_number, answer),
        ).fetchone()
        return None if row is None else row[0]

    def put(self, scope_number: int, answer: int, record: bytes) -> None:
        self._execute(
            "INSERT OR REPLACE INTO answer_entries VALUES (?, ?, ?)", (scope_number, answer, record)
        )

    def delete(self, scope_number: int, answer: int) -> None:
        self._execute(
            "DELETE FROM answer_entries WHERE scope = ? AND answer = ?", (scope_number, answer)
        )

    def range(self, scope_number: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        rows: list[tuple[int, bytes]] = self._execute(
            "SELECT answer, record FROM answer_entries WHERE scope = ? AND answer > ? "
            "ORDER BY answer LIMIT ?",
            (scope_number, after, limit),
        ).fetchall()
        return rows


class SqliteAnswerUses(Table):
    def put(self, row: UseRow) -> None:
        self._execute("INSERT OR IGNORE INTO answer_uses VALUES (?, ?, ?, ?)", row)

    def of(self, kind: int, source: int, seq: int | None, limit: int) -> list[int]:
        rows = self._execute(
            "SELECT DISTINCT answer FROM answer_uses WHERE kind = ? AND source = ?"
            + ("" if seq is None else " AND seq = ?")
            + " LIMIT ?",
            (kind, source, limit) if seq is None else (kind, source, seq, limit),
        ).fetchall()
        return [answer for (answer,) in rows]

    def delete(self, answer: int) -> None:
        self._execute("DELETE FROM answer_uses WHERE answer = ?", (answer,))


class SqliteAnswerCategories(Table):
    def get(self, category: int) -> CategoryRow | None:
        row = self._execute(
            f"SELECT {_CATEGORY} FROM answer_categories WHERE category = ?", (category,)
        ).fetchone()
        return None if row is None else CategoryRow(*self._verify("answer_categories", row))

    def find(self, scope_number: int, name: str) -> CategoryRow | None:
        row = self._execute(
            f"SELECT {_CATEGORY} FROM answer_categories WHERE scope = ? AND name = ?",
            (scope_number, name),
        ).fetchone()
        return None if row is None else CategoryRow(*self._verify("answer_categories", row))

    def put(self, row: CategoryRow) -> int:
        number = row.category or self._next_number("answer_categories")
        row = row._replace(category=number)
        self._execute(
            "INSERT OR REPLACE INTO answer_categories VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row[:-1], crc_of(*row), row.body),
        )
        return number

    def of_scope(self, scope_number: int) -> list[CategoryRow]:
        rows = self._execute(
            f"SELECT {_CATEGORY} FROM answer_categories WHERE scope = ? ORDER BY name",
            (scope_number,),
        ).fetchall()
        return [CategoryRow(*self._verify("answer_categories", row)) for row in rows]

    def delete(self, category: int) -> None:
        self._execute("DELETE FROM answer_categories WHERE category = ?", (category,))
