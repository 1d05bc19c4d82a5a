"""Every error memopt raises, in one tree, grouped by what the caller can do about it.

MemoptError
├── UsageError                fix the call: the argument named by `field` is wrong
│   └── ContextOverflowError  ... what has to be in a context does not fit into it
├── NotFoundError             ask for something else: it is not there, or no longer
├── CapacityError             retry later: a named limit is reached
│   ├── BudgetError           ... the byte budget
│   ├── DiskFullError         ... the disk
│   ├── QuotaError            ... the disk quota
│   └── BackpressureError     ... a queue or the admission line
├── ConflictError             read again, then retry: somebody else wrote first
└── StoreError                stop: the store cannot be used as asked
    ├── CorruptionError       ... stored bytes are damaged; the session concerned is named
    ├── StoreLockedError      ... another process owns the directory
    ├── StoreClosedError      ... this handle was closed, or crossed a fork
    ├── StoreFailedError      ... a sync failed; what was acknowledged is safe, reopen
    └── StoreVersionError     ... written by a newer memopt
"""

import math


class MemoptError(Exception):
    """The root of the tree: catching it catches everything memopt raises on purpose."""


class UsageError(MemoptError, ValueError):
    """The call is wrong. `field` is the path of the offending argument, such as
    `message.content[2].text`."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.reason = message


class ContextOverflowError(UsageError):
    """What has to be in a context does not fit: the system messages, the pins, the newest exchange.
    Give it more room, or unpin something."""

    def __init__(self, message: str, *, needed_tokens: int, max_tokens: int) -> None:
        super().__init__(message, field="max_tokens")
        self.needed_tokens = needed_tokens
        self.max_tokens = max_tokens


class NotFoundError(MemoptError, LookupError):
    """What was asked for does not exist, or no longer does."""


class CapacityError(MemoptError):
    """A named limit is reached. Nothing was written; the same call may succeed later, unless
    `retry_after_seconds` is infinite."""

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        wanted_bytes: int | None = None,
        limit_bytes: int | None = None,
        retry_after_seconds: float = 1.0,
    ) -> None:
        later = f"retry after {retry_after_seconds:g} s"
        if math.isinf(retry_after_seconds):
            later = "to retry does not help"
        super().__init__(f"{message} (limit: {limit}; {later})")
        self.reason = message
        self.limit = limit
        self.wanted_bytes = wanted_bytes
        self.limit_bytes = limit_bytes
        self.retry_after_seconds = retry_after_seconds


class BudgetError(CapacityError):
    """The bytes do not fit into the budget, even after everything evictable went."""


class DiskFullError(CapacityError):
    """The disk is full. Reads go on; deleting and compacting are still possible."""


class QuotaError(CapacityError):
    """The store's own disk quota is reached."""


class BackpressureError(CapacityError):
    """Too much work is waiting already."""


class ConflictError(MemoptError):
    """Somebody else wrote first: `expected` is what the call assumed, `actual` what is there."""

    def __init__(self, message: str, *, expected: int | str, actual: int | str | None) -> None:
        super().__init__(f"{message}: expected {expected}, found {actual}")
        self.reason = message
        self.expected = expected
        self.actual = actual


class StoreError(MemoptError):
    """The store cannot be used as asked."""


class CorruptionError(StoreError):
    """Stored bytes are damaged or missing. They are named, and never served."""

    mended = False
    """The damage was one flipped bit, which was flipped back: the same call may succeed now."""

    def __init__(
        self, message: str, *, scope: str | None = None, session: str | None = None
    ) -> None:
        where = f" in session {session!r} of scope {scope!r}" if session is not None else ""
        super().__init__(message + where)
        self.reason = message
        self.scope = scope
        self.session = session

    def named(self, scope: str, session: str) -> "CorruptionError":
        """The same, where it is known now whose bytes they are."""
        error = CorruptionError(self.reason, scope=scope, session=session)
        error.mended = self.mended
        return error


class StoreLockedError(StoreError):
    """Another process owns the directory; `owner` says which, as far as it is known."""

    def __init__(self, message: str, *, owner: str | None = None) -> None:
        super().__init__(message)
        self.owner = owner


class StoreClosedError(StoreError):
    """The handle was closed, or belongs to the process this one was forked from."""


class StoreFailedError(StoreError):
    """A sync or a write to the home failed; the store closed itself. Reopen to go on."""


class StoreVersionError(StoreError):
    """The store was written by a newer memopt than this one."""
