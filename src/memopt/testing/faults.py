"""When a simulated disk fails, and with which SQLite error.

Owns: the count of disk calls, the plan to fail the n-th, and the errors. Invariant: every call is
counted once, failed or not. Not here: what a failed call does to the contents (the disk's matter).
"""

import enum
import functools
import sys
from typing import Final

import apsw

from memopt.base.errors import UsageError


class Call(enum.StrEnum):
    """What SQLite asks of a disk and what may fail."""

    OPEN = "open"
    READ = "read"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    DELETE = "delete"
    SIZE = "size"


class Fault(enum.StrEnum):
    """What the n-th matching call runs into."""

    EIO = "eio"
    """Any call fails and has no effect."""
    ENOSPC = "enospc"
    """A write finds no room and has no effect."""
    EIO_SYNC = "eio_sync"
    """A sync fails; what it should have made durable stays pending, so a later one may succeed."""
    EIO_SYNC_FORGET = "eio_sync_forget"
    """A sync fails as on Linux: the pages are marked clean, are read back from the cache, and no
    later sync ever writes them."""


_CALLS_OF_FAULT: Final = {
    Fault.EIO: frozenset(Call),
    Fault.ENOSPC: frozenset({Call.WRITE}),
    Fault.EIO_SYNC: frozenset({Call.SYNC}),
    Fault.EIO_SYNC_FORGET: frozenset({Call.SYNC}),
}
_CODE_OF_CALL: Final = {
    Call.OPEN: apsw.SQLITE_CANTOPEN,
    Call.READ: apsw.SQLITE_IOERR_READ,
    Call.WRITE: apsw.SQLITE_IOERR_WRITE,
    Call.TRUNCATE: apsw.SQLITE_IOERR_TRUNCATE,
    Call.SYNC: apsw.SQLITE_IOERR_FSYNC,
    Call.DELETE: apsw.SQLITE_IOERR_DELETE,
    Call.SIZE: apsw.SQLITE_IOERR_FSTAT,
}


class FaultPlan:
    """Counts disk calls and raises at the one that was asked for."""

    def __init__(self) -> None:
        self.calls = dict.fromkeys(Call, 0)
        self.raised = 0
        """Calls that this plan made fail."""
        self.fault: Fault | None = None
        self._calls_left = 0
        self._repeat = False

    def fail(self, *, at: int, error: Fault | str, repeat: bool) -> None:
        if at < 1:
            raise UsageError(f"calls are counted from 1, got {at}", field="at")
        self.fault = Fault(error)
        self._calls_left = at
        self._repeat = repeat

    def heal(self) -> None:
        self.fault = None

    def count(self, call: Call) -> None:
        """Count a call, and raise the fault it meets."""
        self.calls[call] += 1
        fault = self.fault
        if fault is None or call not in _CALLS_OF_FAULT[fault]:
            return
        self._calls_left -= 1
        if self._calls_left == 0 or (self._calls_left < 0 and self._repeat):
            self.raised += 1
            code = apsw.SQLITE_FULL if fault is Fault.ENOSPC else _CODE_OF_CALL[call]
            number = sum(self.calls.values())
            raise simulated_error(code, f"{fault} at disk call {number} ({call})")


def simulated_error(code: int, message: str) -> Exception:
    """What to raise so that SQLite gets `code` and the caller the apsw error that belongs to it."""
    error = apsw.exception_for(code)
    error.args = (message,)
    error.__dict__["simulated"] = True
    return error


@functools.cache
def hush_simulated_errors() -> None:
    """Keep simulated errors that have no one to be raised to off the terminal: a statement that is
    cleaned up after one fault may meet another. Other unraisable errors are shown as before."""
    shown = sys.unraisablehook

    def unraisable(raised: "sys.UnraisableHookArgs") -> None:
        if not getattr(raised.exc_value, "simulated", False):
            shown(raised)

    sys.unraisablehook = unraisable
