"""Reading a session's messages: through its branches, its pages and its tail, as of any moment.

The page list and the tail of a window are read in one snapshot, which is closed before the first
message is handed out. Every read decodes afresh. Sequence numbers are proven to be gapless on the
way: a message is read exactly once, or the read fails.
"""

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from memopt.base.errors import CorruptionError, NotFoundError
from memopt.base.moments import NOW as NOW
from memopt.base.moments import Bound as Bound
from memopt.base.protocols import Tables
from memopt.base.records import SEQ_BITS, SEQ_MASK, LineRow, Message, PageRow, SessionRow
from memopt.codecs.message import decode_array, decode_json
from memopt.codecs.record import TailRecord, open_record
from memopt.paging.fetching import PageGoneError
from memopt.paging.pager import OpenPage, Pager
from memopt.sessions.names import SessionKey, naming

SEQ_STOP: Final = SEQ_MASK + 1
_WINDOW_MESSAGES: Final = 8192
_REPLANS_MAX: Final = 16


class Segment(NamedTuple):
    """Messages [start, stop) of a session are on `line`."""

    line: int
    start: int
    stop: int


class Run(NamedTuple):
    """Consecutive messages from one page, or from a tail."""

    first: int
    length: int
    page: OpenPage | None
    tail: Sequence[TailRecord]

    def messages(self) -> list[Message]:
        if self.page is None:
            return decode_array([record.body for record in self.tail])
        start = self.first - self.page.row.start
        return self.page.page.messages(start, start + self.length, self.page.decode)

    def encoded_bytes(self) -> int:
        """Of its messages: its share of the page."""
        if self.page is None:
            return sum(len(record.body) for record in self.tail)
        row = self.page.row
        return row.raw_bytes * self.length // (row.stop - row.start)

    def records(self) -> Sequence[TailRecord]:
        if self.page is None:
            return self.tail
        start = self.first - self.page.row.start
        return self.page.page.records()[start : start + self.length]


Note = Callable[[Run], None]
"""Is told of each run before it is decoded."""


class Read(NamedTuple):
    """A message, decoded, with what is known about it."""

    seq: int
    record: TailRecord
    message: Message


class _Window(NamedTuple):
    scope: int
    pages: list[tuple[Segment, PageRow]]
    tail: list[tuple[int, TailRecord]]
    stop: int
    """The first seq behind what was found."""


class LineReader:
    """Reads sessions. Holds nothing between calls."""

    def __init__(
        self, snapshot: Callable[[], AbstractContextManager[Tables]], pager: Pager
    ) -> None:
        self._snapshot = snapshot
        self._pager = pager

    def messages(
        self, scope: str, id: str, start: int, stop: int, bound: Bound = NOW,
        note: Note | None = None,
    ) -> Iterator[Message]:  # fmt: skip
        with naming(SessionKey(scope, id)):
            for run in self.runs(scope, id, start, stop, bound):
                if note is not None:
                    note(run)
                yield from run.messages()

    def reads(
        self, scope: str, id: str, start: int, stop: int, bound: Bound = NOW,
        note: Note | None = None, line: LineRow | None = None,
    ) -> Iterator[Read]:  # fmt: skip
        with naming(SessionKey(scope, id)):
            for run in self.runs(scope, id, start, stop, bound, line):
                if note is not None:
                    note(run)
                yield from _reads(run)

    def reads_of(self, row: SessionRow, line: LineRow) -> Iterator[Read]:
        """Everything on one branch of a session, current or not."""
        for run in self.runs(row.scope, row.id, 0, SEQ_STOP, NOW, line):
            yield from _reads(run)

    def runs(
        self, scope: str, id: str, start: int, stop: int, bound: Bound, line: LineRow | None = None
    ) -> Iterator[Run]:
        """[start, stop) as far as `bound` sees, of `line` or of the line that was current then. A
        session that is not there has no messages."""
        seq, replans, session = start, 0, 0
        while seq < stop:
            with self._snapshot() as tables:
                row = tables.sessions.find(scope, id)
                if row is None and not session:
                    return
                if row is None or session not in (0, row.session):
                    raise NotFoundError(f"session {id!r} of scope {scope!r} was deleted")
                if line is None:
                    line = line_as_of(tables, row, bound)
                upto = min(stop, seq + _WINDOW_MESSAGES)
                window = _plan(tables, row, line, seq, upto)
                if not session:
                    # What is appended from here on is not part of this read.
                    session = row.session
                    stop = min(stop, window.stop if window.stop < upto else length_of(tables, line))
            if bound is not NOW:
                stop = min(stop, self.stop_as_of(row, line, bound))
                bound = NOW
            before = seq
            try:
                for run in self._read_window(window, row, seq, stop):
                    yield run
                    seq = run.first + run.length
                if seq == before < stop:
                    raise _missing(row, seq, stop)
                replans = 0
            except PageGoneError:
                replans = replans + 1 if seq == before else 0
                if replans > _REPLANS_MAX:
                    raise _missing(row, seq, seq + 1) from None
            except CorruptionError as error:
                replans += 1
                if not error.mended or replans > _REPLANS_MAX:
                    raise

    def length(self, scope: str, id: str, bound: Bound = NOW) -> tuple[LineRow | None, int]:
        """The current line and how many messages a session has; (None, 0) when it is not there."""
        with naming(SessionKey(scope, id)):
            try:
                return self._length(scope, id, bound)
            except CorruptionError as error:
                if not error.mended:
                    raise
            return self._length(scope, id, bound)

    def _length(self, scope: str, id: str, bound: Bound) -> tuple[LineRow | None, int]:
        with self._snapshot() as tables:
            row = tables.sessions.find(scope, id)
            if row is None:
                return None, 0
            line = line_as_of(tables, row, bound)
            if bound is NOW:
                return line, length_of(tables, line)
        return line, self.stop_as_of(row, line, bound)

    def stop_as_of(self, row: SessionRow, line: LineRow, bound: Bound) -> int:
        """The first seq of `line` that `bound` does not see."""
        for _ in range(_REPLANS_MAX):
            # A page may be rewritten between the map and its opening.
            with contextlib.suppress(PageGoneError):
                return self._stop_as_of(row, line, bound)
        raise _missing(row, line.base, line.base + 1)

    def _stop_as_of(self, row: SessionRow, line: LineRow, bound: Bound) -> int:
        with self._snapshot() as tables:
            pages = tables.pages.map(line.line, 0, SEQ_STOP)
            sealed = pages[-1].stop if pages else line.base
            tail = open_tail(tables, line.line, sealed, SEQ_STOP)
        if tail and bound.sees(tail[0][1].lsn, tail[0][1].committed_us):
            hidden = bisect.bisect_left(
                tail, True, key=lambda item: not bound.sees(item[1].lsn, item[1].committed_us)
            )
            return sealed + hidden
        # The first page whose first message is hidden; the cut is in the page before it, if any.
        index = bisect.bisect_left(
            pages, True, key=lambda page: not self._sees_first(page, row, bound)
        )
        if not index:
            return line.base
        last = pages[index - 1]
        (opened,) = self._pager.open([last], row.scope_number, row.agent)
        columns = list(zip(opened.page.lsns(), opened.page.committed_us(), strict=True))
        return last.start + bisect.bisect_left(
            columns, True, key=lambda column: not bound.sees(*column)
        )

    def _sees_first(self, page: PageRow, row: SessionRow, bound: Bound) -> bool:
        if page.first_lsn > bound.lsn or bound.at_us == NOW.at_us:
            return page.first_lsn <= bound.lsn
        (opened,) = self._pager.open([page], row.scope_number, row.agent)
        return bound.sees(page.first_lsn, opened.page.committed_us()[0])

    def _read_window(self, window: _Window, row: SessionRow, seq: int, stop: int) -> Iterator[Run]:
        try:
            pages = [page for _, page in window.pages]
            opened = self._pager.open(pages, window.scope, row.agent)
            for segment, page in window.pages:
                if seq >= stop:
                    return
                if not page.start <= seq < page.stop:
                    raise _missing(row, seq, page.start)
                count = min(page.stop, segment.stop, stop) - seq
                yield Run(seq, count, next(opened), ())
                seq += count
        except CorruptionError as error:
            raise error.named(row.scope, row.id) from error
        records = []
        first = seq
        for at, record in window.tail:
            if seq >= stop:
                break
            if at != seq:
                raise _missing(row, seq, at)
            records.append(record)
            seq += 1
        if records:
            yield Run(first, len(records), None, records)


def _reads(run: Run) -> Iterator[Read]:
    for index, record in enumerate(run.records()):
        decode = run.page.decode if run.page is not None else decode_json
        yield Read(run.first + index, record, decode(record.body))


def line_as_of(tables: Tables, row: SessionRow, bound: Bound) -> LineRow:
    """The line that was a session's current one. Raises NotFoundError when it was not there."""
    if bound is NOW:
        line = tables.lines.get(row.line)
        if line is None:
            raise CorruptionError(f"line {row.line} is missing", scope=row.scope, session=row.id)
        return line
    lines = [
        line
        for line in tables.lines.of_session(row.session)
        if bound.sees(line.made_lsn, line.made_us)
    ]
    if not lines or not bound.sees(row.made_lsn, row.made_us):
        raise NotFoundError(f"session {row.id!r} of scope {row.scope!r} was not there yet")
    return lines[-1]


def line_at(tables: Tables, row: SessionRow, head: int) -> LineRow:
    """The line of a head that a session has or had. Raises NotFoundError for another."""
    line = tables.lines.get(head >> SEQ_BITS)
    if line is None or line.session != row.session:
        raise NotFoundError(f"session {row.id!r} never had the head {head}")
    return line


def segments_of(tables: Tables, line: LineRow) -> list[Segment]:
    """Which lines hold a session's messages, first to last."""
    segments = [Segment(line.line, line.base, SEQ_STOP)]
    while line.parent:
        parent = tables.lines.get(line.parent)
        if parent is None:
            raise CorruptionError(f"line {line.parent} is missing")
        segments.append(Segment(parent.line, parent.base, line.base))
        line = parent
    segments.reverse()
    return segments


def length_of(tables: Tables, line: LineRow) -> int:
    """How many messages a session has whose current line is `line`, its ancestors' included."""
    last = tables.tail.last(line.line)
    if last is not None:
        return last + 1
    pages = tables.pages.map(line.line, 0, SEQ_STOP, last=1)
    return pages[0].stop if pages else line.base


def _plan(tables: Tables, row: SessionRow, line: LineRow, start: int, stop: int) -> _Window:
    """Where messages [start, stop) are, in one snapshot. Only the last line has a tail: one is
    sealed before another line starts from it."""
    own = Segment(line.line, line.base, SEQ_STOP)
    pages: list[tuple[Segment, PageRow]] = []
    seq = start
    for segment in segments_of(tables, line) if line.parent else (own,):
        upto = min(stop, segment.stop)
        if seq < upto:
            found = tables.pages.map(segment.line, seq, upto)
            pages += [(segment, page) for page in found]
            seq = min(upto, found[-1].stop) if found else seq
        if seq < upto and segment.line != line.line:
            raise _missing(row, seq, upto)
    tail = open_tail(tables, line.line, seq, stop)
    return _Window(row.scope_number, pages, tail, tail[-1][0] + 1 if tail else seq)


def open_tail(tables: Tables, line: int, start: int, stop: int) -> list[tuple[int, TailRecord]]:
    return [
        (seq, open_record(line, seq, record))
        for seq, record in tables.tail.range(line, start, stop)
    ]


def _missing(row: SessionRow, start: int, stop: int) -> CorruptionError:
    return CorruptionError(
        f"messages {start} to {stop - 1} are missing", scope=row.scope, session=row.id
    )
