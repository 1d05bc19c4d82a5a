"""The tables of mappings and sequences: the same in the home and in the scratch file.

An entry's row id is its collection's number and its place, so a scan by row id is the order of the
collection. Rows of collections carry a checksum; an entry's record checks itself, its key and its
place (codecs/entry.py).
"""

from typing import Any, Final

from memopt.base.errors import CapacityError
from memopt.base.protocols import Room
from memopt.base.records import (
    LARGE_RECORD_BYTES,
    PLACE_BITS,
    PLACE_MASK,
    CollectionRow,
    EntryHead,
    EntryRow,
)
from memopt.stores.table import Table, crc_of

FIRST_OF_SCRATCH: Final = 1 << 29
"""Collections from this number on are of the scratch file, so that one cache can serve both."""
NUMBERS_STOP: Final = (1 << (63 - PLACE_BITS)) - 1
"""No collection has this number: its entries would end behind the highest row id."""
_COLUMNS: Final = "collection, scope, session, kind, name, made_lsn, made_us, crc"
# The size stands for a large record: room has to be found before that is read.
_ENTRY: Final = (
    f"entry, key, lsn, CASE WHEN length(record) < {LARGE_RECORD_BYTES} THEN record "
    "ELSE length(record) END"
)
# Spelt like the index, or SQLite would not use it.
_OF: Final = f"entry >> {PLACE_BITS}"

# Two looks at the ends: asked for both at once, SQLite would read all between.
_BOUNDS: Final = (
    "SELECT (SELECT min(entry) FROM entries WHERE entry >= ?1 AND entry <= ?2), "
    "(SELECT max(entry) FROM entries WHERE entry >= ?1 AND entry <= ?2)"
)


class SqliteCollections(Table):
    def find(self, scope_number: int, session: int, kind: str, name: str) -> CollectionRow | None:
        return self._one("scope = ? AND session = ? AND kind = ? AND name = ?", scope_number,
                         session, kind, name)  # fmt: skip

    def get(self, collection: int) -> CollectionRow | None:
        return self._one("collection = ?", collection)

    def create(self, row: CollectionRow) -> int:
        row = row._replace(collection=self._new_number())
        self._execute(
            "INSERT INTO collections VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, crc_of(*row))
        )
        return row.collection

    def _new_number(self) -> int:
        number = self._next_number("collections")
        if number >= FIRST_OF_SCRATCH:
            raise used_up("the store has seen 2^29 collections")
        return number

    def delete(self, collection: int) -> None:
        self._execute("DELETE FROM collections WHERE collection = ?", (collection,))

    def owned(self, scope_number: int, session: int) -> list[CollectionRow]:
        rows = self._execute(
            f"SELECT {_COLUMNS} FROM collections WHERE scope = ? AND session = ? "
            "ORDER BY kind, name",
            (scope_number, session),
        ).fetchall()
        return [CollectionRow(*self._verify("collections", row)) for row in rows]

    def _one(self, where: str, *bindings: Any) -> CollectionRow | None:
        row = self._execute(
            f"SELECT {_COLUMNS} FROM collections WHERE {where}", bindings
        ).fetchone()
        return None if row is None else CollectionRow(*self._verify("collections", row))


class SqliteEntries(Table):
    def find(self, collection: int, key: bytes, room: Room) -> EntryRow | None:
        row = self._execute(
            f"SELECT {_ENTRY} FROM entries WHERE {_OF} = ? AND key = ?", (collection, key)
        ).fetchone()
        return None if row is None else self._whole(row, room)

    def range(
        self, collection: int, start: int, stop: int, room: Room, *, limit: int, bytes_max: int,
        descending: bool = False,
    ) -> list[EntryRow]:  # fmt: skip
        first = collection << PLACE_BITS
        found = self._execute(
            f"SELECT {_ENTRY} FROM entries WHERE entry >= ? AND entry < ? "
            f"ORDER BY entry {'DESC' if descending else 'ASC'} LIMIT ?",
            (first + start, first + stop, limit),
        )
        rows: list[EntryRow] = []
        size = 0
        try:
            for row in found:
                record = row[3]
                size += record if type(record) is int else len(record)
                if rows and size > bytes_max:
                    break
                rows.append(self._whole(row, room))
        finally:
            found.close(True)
        return rows

    def _whole(self, row: Any, room: Room) -> EntryRow:
        entry, key, lsn, record = row
        if type(record) is int:
            room(record)
            [record] = self._execute(
                "SELECT record FROM entries WHERE entry = ?", (entry,)
            ).fetchone()
        return EntryRow(entry >> PLACE_BITS, entry & PLACE_MASK, key, lsn, record)

    def put(self, row: EntryRow) -> None:
        # A place never changes its key, so the index of keys is left alone.
        self._execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT (entry) "
            "DO UPDATE SET lsn = excluded.lsn, record = excluded.record",
            (row[0] << PLACE_BITS | row[1], row[2], row[3], row[4]),
        )

    def delete(self, collection: int, start: int, stop: int) -> int:
        first = collection << PLACE_BITS
        self._execute(
            "DELETE FROM entries WHERE entry >= ? AND entry < ?", (first + start, first + stop)
        )
        return self._connection.changes()

    def bounds(self, collection: int) -> tuple[int, int] | None:
        first = collection << PLACE_BITS
        row = self._execute(_BOUNDS, (first, first | PLACE_MASK)).fetchone()
        return None if row[0] is None else (row[0] & PLACE_MASK, (row[1] & PLACE_MASK) + 1)


class SqliteEntryIndex(Table):
    def place(self, collection: int, key: bytes) -> int | None:
        row = self._execute(
            f"SELECT entry FROM entries WHERE {_OF} = ? AND key = ?", (collection, key)
        ).fetchone()
        return None if row is None else row[0] & PLACE_MASK

    def heads(
        self, collection: int, start: int, stop: int, *, limit: int, descending: bool = False
    ) -> list[EntryHead]:
        first = collection << PLACE_BITS
        rows = self._execute(
            "SELECT entry, key, lsn FROM entries WHERE entry >= ? AND entry < ? "
            f"ORDER BY entry {'DESC' if descending else 'ASC'} LIMIT ?",
            (first + start, first + stop, limit),
        ).fetchall()
        return [EntryHead(entry & PLACE_MASK, key, lsn) for entry, key, lsn in rows]

    def count(self, collection: int) -> int:
        row = self._execute(
            f"SELECT count(*) FROM entries WHERE {_OF} = ? AND key IS NOT NULL", (collection,)
        ).fetchone()
        # Without keys it is a sequence, which has no gaps.
        return int(row[0]) or self._length(collection)

    def _length(self, collection: int) -> int:
        first = collection << PLACE_BITS
        row = self._execute(_BOUNDS, (first, first | PLACE_MASK)).fetchone()
        return 0 if row[0] is None else int(row[1] - row[0] + 1)

    def since(self, after_lsn: int, limit: int) -> list[tuple[int, int, int]]:
        rows = self._execute(
            "SELECT lsn, entry FROM entries WHERE lsn > ? ORDER BY lsn LIMIT ?", (after_lsn, limit)
        ).fetchall()
        return [(lsn, entry >> PLACE_BITS, entry & PLACE_MASK) for lsn, entry in rows]

    def highest_lsn(self) -> int:
        row = self._execute("SELECT ifnull(max(lsn), 0) FROM entries").fetchone()
        return int(row[0])


def used_up(what: str) -> CapacityError:
    return CapacityError(f"{what}, and their numbers are used up", limit="numbers of collections")
