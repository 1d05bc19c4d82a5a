"""The tables of the SQLite home, and how an older one becomes this one.

`user_version` holds the schema version. A newer one is refused by name; an older one is migrated
forward, step by step, each in a transaction of its own. docs/formats.md describes every column.
"""

from typing import Final

import apsw

from memopt.base.errors import StoreVersionError
from memopt.stores.answer_tables import ANSWER_TABLES
from memopt.stores.context_tables import CONTEXT_TABLES
from memopt.stores.document_tables import DOCUMENT_TABLES
from memopt.stores.item_tables import ITEM_TABLES
from memopt.stores.recall_tables import ALL_UNINDEXED, SEGMENT_TABLES

SCHEMA_VERSION: Final = 7
APPLICATION_ID: Final = 0x6D656D6F  # "memo", so that file(1) and check() know whose it is

COLLECTION_TABLES: Final = """
    CREATE TABLE collections (collection INTEGER PRIMARY KEY AUTOINCREMENT,
        scope INTEGER NOT NULL, session INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
        made_lsn INTEGER NOT NULL, made_us INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT;
    CREATE UNIQUE INDEX collections_by_name ON collections (scope, session, kind, name);
    CREATE TABLE entries (entry INTEGER PRIMARY KEY, key BLOB, lsn INTEGER NOT NULL,
        record BLOB NOT NULL) STRICT;
    CREATE UNIQUE INDEX entries_by_key ON entries (entry >> 33, key) WHERE key IS NOT NULL;
    """
"""Of the home and of the scratch file, where collections of a turn are."""

_MIGRATIONS: Final = {
    1: """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL)
        WITHOUT ROWID, STRICT;
    CREATE TABLE scopes (scope INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE,
        crc INTEGER NOT NULL) STRICT;
    CREATE TABLE sessions (session INTEGER PRIMARY KEY, scope INTEGER NOT NULL, id TEXT NOT NULL,
        agent TEXT, line INTEGER NOT NULL, made_lsn INTEGER NOT NULL, made_us INTEGER NOT NULL,
        touched_us INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT;
    CREATE UNIQUE INDEX sessions_by_name ON sessions (scope, id);
    CREATE TABLE lines (line INTEGER PRIMARY KEY, session INTEGER NOT NULL,
        parent INTEGER NOT NULL, base INTEGER NOT NULL, made_lsn INTEGER NOT NULL,
        made_us INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT;
    CREATE INDEX lines_by_session ON lines (session);
    CREATE INDEX lines_by_parent ON lines (parent) WHERE parent <> 0;
    CREATE TABLE tail (key INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
    CREATE TABLE page_map (line INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
        page INTEGER NOT NULL, first_lsn INTEGER NOT NULL, last_lsn INTEGER NOT NULL,
        raw_bytes INTEGER NOT NULL, stored_bytes INTEGER NOT NULL, crc INTEGER NOT NULL,
        PRIMARY KEY (line, start)) WITHOUT ROWID, STRICT;
    CREATE TABLE pages (page INTEGER PRIMARY KEY, line INTEGER NOT NULL, start INTEGER NOT NULL,
        body BLOB NOT NULL) STRICT;
    CREATE TABLE texts (text INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL,
        digest BLOB NOT NULL, raw_bytes INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE UNIQUE INDEX texts_by_digest ON texts (scope, digest);
    CREATE TABLE text_refs (page INTEGER NOT NULL, text INTEGER NOT NULL,
        PRIMARY KEY (page, text)) WITHOUT ROWID, STRICT;
    CREATE INDEX text_refs_by_text ON text_refs (text);
    CREATE TABLE states (state INTEGER PRIMARY KEY, session INTEGER NOT NULL, name TEXT NOT NULL,
        version INTEGER NOT NULL, lsn INTEGER NOT NULL, at_us INTEGER NOT NULL,
        base INTEGER NOT NULL, raw_bytes INTEGER NOT NULL, crc INTEGER NOT NULL,
        body BLOB NOT NULL) STRICT;
    CREATE UNIQUE INDEX states_by_version ON states (session, name, version);
    CREATE TABLE events (lsn INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, kind TEXT NOT NULL,
        session INTEGER NOT NULL, line INTEGER NOT NULL, seq INTEGER NOT NULL, note TEXT,
        crc INTEGER NOT NULL) STRICT;
    CREATE INDEX events_by_session ON events (session);
    CREATE TABLE keys (session INTEGER NOT NULL, key TEXT NOT NULL, lsn INTEGER NOT NULL,
        seq INTEGER NOT NULL, head INTEGER NOT NULL, made_us INTEGER NOT NULL,
        crc INTEGER NOT NULL, PRIMARY KEY (session, key)) WITHOUT ROWID, STRICT;
    CREATE INDEX keys_by_age ON keys (made_us);
    CREATE TABLE dictionaries (dictionary INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL,
        version INTEGER NOT NULL, made_lsn INTEGER NOT NULL, retired INTEGER NOT NULL,
        crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    """,
    2: COLLECTION_TABLES,
    3: SEGMENT_TABLES + ALL_UNINDEXED,
    4: ITEM_TABLES,
    5: ANSWER_TABLES,
    6: DOCUMENT_TABLES,
    7: CONTEXT_TABLES,
}


def migrate(connection: apsw.Connection) -> None:
    """Bring the schema to SCHEMA_VERSION. Raises StoreVersionError for a newer one."""
    version = connection.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise StoreVersionError(
            f"the store has schema version {version}, this memopt knows up to {SCHEMA_VERSION}: "
            "open it with a newer memopt"
        )
    for step in range(version + 1, SCHEMA_VERSION + 1):
        with connection:
            connection.execute(_MIGRATIONS[step]).fetchall()
            connection.execute(f"PRAGMA user_version = {step}")
