"""Writes down which pages are touched, so that the past can be simulated with other settings.

Owns the file and what waits for it. Invariant: at most ROWS_MAX touches wait, and one a thread, and
the file with the one before it, which is named `….1`, is at most `bytes_max`. What waits when the
process is killed is lost: this is an observation, and no part of the store's promises. So a disk
that is full ends the recording, and never a read; nothing waits after the end. Not here: the bytes
of a block (codecs/accesses.py).
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from memopt.base.budget import Budget
from memopt.base.errors import UsageError
from memopt.base.protocols import Clock
from memopt.base.records import PageRow
from memopt.codecs.accesses import HEADER, ROW, encode_block, whole_bytes

ROWS_MAX: Final = 4096
_OWNER: Final = "access log"
_CHARGED_BYTES: Final = ROWS_MAX * (ROW.size + 48 + 8) + HEADER.size + ROWS_MAX * ROW.size
"""A byte string and a list entry for each touch, and the block that they are joined to."""
_PAGE: Final = PageRow._fields.index("page")
_RAW: Final = PageRow._fields.index("raw_bytes")
_STORED: Final = PageRow._fields.index("stored_bytes")
_log: Final = logging.getLogger("memopt")


class AccessLog:
    """Thread-safe."""

    touched: Callable[[PageRow], None]
    """A page is read, from whichever tier. It costs a clock reading, a struct and a list entry: an
    append is atomic, so there is no lock, and what is bound once is not looked up again."""

    def __init__(
        self, path: str | os.PathLike[str], *, bytes_max: int, clock: Clock, budget: Budget
    ) -> None:
        """Goes on with a recording that is there already. `bytes_max` holds ROWS_MAX touches twice,
        or they exceed it. Raises UsageError when the file cannot be made or is something else,
        BudgetError when there is no room for what waits."""
        self._path = Path(path)
        self._half_bytes = bytes_max // 2
        self._budget = budget
        self._lock = threading.Lock()
        self._rows: list[bytes] = []
        self._file_bytes = _prepared(self._path)
        budget.reserve(_OWNER, _CHARGED_BYTES)
        self._is_open = True
        self.touched = self._recorder(clock.monotonic)

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Write what waits, and let go of the file and of the budget."""
        with self._lock:
            if self._is_open:
                self._write()
                self._end()

    def _recorder(self, now: Callable[[], float]) -> Callable[[PageRow], None]:
        rows, append, pack, flush = self._rows, self._rows.append, ROW.pack, self.flush

        def touched(row: PageRow) -> None:
            append(pack(row[_PAGE], row[_RAW], row[_STORED], now()))
            if len(rows) >= ROWS_MAX:
                flush()

        return touched

    def _write(self) -> None:
        # The list stays the one that readers append to; what comes meanwhile is behind the cut.
        rows = self._rows[:]
        del self._rows[: len(rows)]
        if not rows or not self._is_open:
            return
        block = encode_block(rows)
        try:
            if self._file_bytes and self._file_bytes + len(block) > self._half_bytes:
                self._path.replace(earlier(self._path))
                self._file_bytes = 0
            # Opened for each block of thousands of touches: then no descriptor is ever left over.
            with open(self._path, "ab", buffering=0) as file:
                written = file.write(block)
            if written != len(block):
                raise OSError(f"{written} of {len(block)} bytes were written")
        except OSError as error:
            # The reader leaves a cut block out, so nothing that was recorded before is lost.
            _log.warning("recording accesses to %s ended: %s", self._path, error)
            self._end()
            return
        self._file_bytes += len(block)

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self.touched = _ignored
            self._rows.clear()
            self._budget.release(_OWNER, _CHARGED_BYTES)


def _ignored(row: PageRow) -> None:
    """A touch after the end."""


def earlier(path: Path) -> Path:
    """Where the recording before the present file lies, if there is one."""
    return path.with_name(path.name + ".1")


def _prepared(path: Path) -> int:
    """The file, there and without a block that a kill cut off; its bytes."""
    try:
        with open(path, "ab+") as file:
            size = whole_bytes(file)
            if size is None:
                raise UsageError(f"{path} is a file, and no recording", field="access_log")
            if size != file.seek(0, os.SEEK_END):
                file.truncate(size)
            return size
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", field="access_log") from error
