"""SQLite's errors in our words: each says what its receiver can do about it."""

import contextlib
from collections.abc import Iterator
from typing import Final

import apsw

from memopt.base.errors import (
    CorruptionError,
    DiskFullError,
    MemoptError,
    StoreClosedError,
    StoreError,
    StoreFailedError,
)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except apsw.Error as error:
        raise translate(error) from error


def translate(error: apsw.Error) -> MemoptError:
    """The error of ours that tells the caller what to do about one of SQLite's."""
    extended = getattr(error, "extendedresult", 0)
    match error:
        case apsw.FullError():
            return DiskFullError("the disk is full", limit="disk", retry_after_seconds=5.0)
        case apsw.CorruptError() | apsw.NotADBError():
            return CorruptionError(f"the database is damaged: {error}")
        case apsw.IOError() if extended in _DAMAGED:
            return CorruptionError("a database page fails its checksum or is cut short")
        case apsw.IOError() | apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError():
            code = apsw.mapping_extended_result_codes.get(extended, extended)
            return StoreFailedError(f"the disk failed: {error} ({code})")
        case apsw.ConnectionClosedError():
            return StoreClosedError("the store is closed")
        case apsw.NoMemError():
            return StoreError("SQLite found no memory")
    return StoreError(f"SQLite: {error}")


_DAMAGED: Final = frozenset(
    {
        apsw.SQLITE_IOERR_DATA,
        apsw.SQLITE_IOERR_SHORT_READ,
        apsw.SQLITE_IOERR_CORRUPTFS,
    }
)
