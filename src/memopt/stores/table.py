"""What every table of a SQLite connection does: run statements, number rows, verify checksums."""

import zlib
from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec

from memopt.base.errors import CorruptionError

_encode: Final = msgspec.msgpack.Encoder().encode


def crc_of(*values: Any) -> int:
    return zlib.crc32(_encode(values))


class Table:
    def __init__(self, connection: apsw.Connection) -> None:
        self._execute: Any = connection.execute
        self._connection = connection

    def _next_number(self, table: str) -> int:
        """The number of a table's next row. Numbers are never used twice: a cache may still hold
        what an old one stood for."""
        row = self._execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return 1 if row is None else int(row[0]) + 1

    def _verify(self, what: str, row: Sequence[Any]) -> Sequence[Any]:
        """The row without its checksum, which comes last."""
        values = row[:-1]
        if zlib.crc32(_encode(tuple(values))) != row[-1]:
            raise CorruptionError(f"checksum mismatch in a row of {what}")
        return values
