"""Where windows are kept: at home, so that a prefix is the same after a restart.

A window is kept by the line of the last message that it left out: a fork finds that of its parent
as far as they share messages, and one whose messages were cut off is not found any more.

Owns: the form of a row. Invariant: nothing is kept that was made of a message which was taken away
meanwhile; a row that is damaged counts as none, for it can be made again. Not here: what is in a
window (window.py).
"""

import contextlib
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from memopt.base.context_records import ContextRow
from memopt.base.errors import CorruptionError, DiskFullError, StoreVersionError
from memopt.base.protocols import Compressor, Tables
from memopt.context.keeper import ContextKeeper
from memopt.context.summary import Summary
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.sessions.reading import Segment

T = TypeVar("T")

WINDOW: Final = "w"
RECALLED: Final = "r"
WRITTEN: Final = "s"
_ROWS_OF_LINE_MAX: Final = 32
_VERSION: Final = 1


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """Of a window, what is kept."""

    start: int
    head: tuple[int, ...]
    """Numbers of the user messages from before it that are still shown."""
    summary: Summary | None
    version: int = _VERSION


class Block(msgspec.Struct, frozen=True, array_like=True):
    """What was recalled for a user's message."""

    seq: int
    """Of that message."""
    query: str
    """A digest of what was asked."""
    text: str
    items: tuple[str, ...]
    version: int = _VERSION


class Written(msgspec.Struct, frozen=True, array_like=True):
    """What a model wrote about everything before `start`."""

    start: int
    text: str
    version: int = _VERSION


_KINDS: Final = {WINDOW: Kept, RECALLED: Block, WRITTEN: Written}


def open_row(compressor: Compressor, row: ContextRow) -> Kept | Block | Written:
    """What a row holds. Raises CorruptionError, StoreVersionError."""
    kind = _KINDS.get(row.name[:1])
    if kind is None:
        raise CorruptionError(f"nothing of contexts has the name {row.name!r}")
    raw = compressor.decode(row.body, key=_key(row.line, row.name))
    try:
        value: Kept | Block | Written = msgspec.msgpack.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"{row.name} is no {kind.__name__.lower()}: {error}") from error
    if value.version != _VERSION:
        raise StoreVersionError(
            f"{row.name} has version {value.version}, this memopt knows {_VERSION}"
        )
    return value


class Windows:
    """Thread-safe. Holds nothing between calls."""

    def __init__(
        self, committer: GroupCommitter, compressor: Compressor, keeper: ContextKeeper
    ) -> None:
        self._committer = committer
        self._compressor = compressor
        self._keeper = keeper

    def find(self, tables: Tables, segments: Sequence[Segment], name: str) -> Kept | None:
        """The newest one on a branch."""
        for segment in reversed(segments):
            kept = self._read(tables, segment.line, WINDOW + name, Kept)
            if kept is not None and segment.start < kept.start <= segment.stop:
                return kept
        return None

    def find_written(self, tables: Tables, line: int, name: str) -> Written | None:
        return self._read(tables, line, WRITTEN + name, Written)

    def keep_written(
        self, scope_number: int, line: int, name: str, written: Written, seen: int
    ) -> None:
        self._write(scope_number, line, WRITTEN + name, written, seen)

    def find_block(self, tables: Tables, line: int, name: str) -> Block | None:
        return self._read(tables, line, RECALLED + name, Block)

    def keep(self, scope_number: int, line: int, name: str, kept: Kept, seen: int) -> None:
        """`seen`: how much was taken away when its messages were read."""
        self._write(scope_number, line, WINDOW + name, kept, seen)

    def keep_block(self, scope_number: int, line: int, name: str, block: Block, seen: int) -> None:
        self._write(scope_number, line, RECALLED + name, block, seen)

    def _read(self, tables: Tables, line: int, name: str, kind: type[T]) -> T | None:
        with contextlib.suppress(CorruptionError, StoreVersionError):
            row = tables.contexts.get(line, name)
            value = open_row(self._compressor, row) if row is not None else None
            return value if isinstance(value, kind) else None
        return None

    def _write(
        self, scope_number: int, line: int, name: str, value: Kept | Block | Written, seen: int
    ) -> None:
        if self._committer.refusing:
            return
        raw = msgspec.msgpack.encode(value)
        body = self._compressor.encode(raw, key=_key(line, name))

        def member(transaction: CommitTransaction) -> None:
            tables = transaction.tables
            if self._keeper.taken_count != seen or tables.lines.get(line) is None:
                return
            names = tables.contexts.names(line)
            if len(names) >= _ROWS_OF_LINE_MAX and name not in names:
                tables.contexts.delete(line, None)
            tables.contexts.put(ContextRow(line, name, scope_number, body))

        # It can be made again: a full disk must not keep a session from being read.
        with contextlib.suppress(DiskFullError):
            self._committer.commit(member)


def _key(line: int, name: str) -> bytes:
    return b"C%d:%s" % (line, name.encode("utf-8", "surrogatepass"))
