"""The journal as it is stored: merged from the tail, the pages and the event table, in LSN order.

A message is its own journal row: its LSN stands in its tail record, and in a column of its page
once it is sealed. So a pass takes one snapshot, finds the lowest LSNs above where the reader is,
and reads those; it is bounded in records and in bytes, whatever the length of the journal. The
snapshot is closed before the first record is handed out.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from memopt.base.errors import CorruptionError, NotFoundError
from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.records import (
    EventRow,
    JournalRecord,
    Message,
    PageRow,
    RecordKind,
    SessionRow,
    to_datetime,
)
from memopt.codecs.keys import page_key, text_key
from memopt.codecs.message import decode_json
from memopt.codecs.page import Page
from memopt.codecs.record import TailRecord, open_record
from memopt.codecs.texts import text_decoder

JOURNAL_START: Final = "journal_start"
"""Meta entry: records up to this LSN may be gone."""
JOURNAL_START_US: Final = "journal_start_us"
"""Meta entry: the time of the last event among them."""
_PASS_RECORDS: Final = 4096
_PASS_BYTES: Final = 4 << 20
_SCAN_ROWS: Final = 512
_TAIL_ROWS: Final = 64


class _Found(NamedTuple):
    """Where a record is. The order is that of LSNs, which are unique."""

    lsn: int
    event: EventRow | None
    line: int
    seq: int
    page: PageRow | None
    """None while it is in the tail."""


class History:
    """Reads the journal from the home, past the tiers. Thread-safe."""

    def __init__(self, home: Reader, compressor: Compressor) -> None:
        self._home = home
        self._compressor = compressor

    def read(self, since: int | None, up_to: Callable[[], int]) -> Iterator[JournalRecord]:
        """Records above `since` (None: from the first that is kept) up to what was committed when
        it began. Raises NotFoundError when `since` is before what retention kept."""
        with self._home.snapshot() as tables:
            start = journal_start(tables)
        if since is not None and since < start:
            raise NotFoundError(
                f"the journal is kept from LSN {start}, records behind {since} are gone"
            )
        lsn = start if since is None else since
        end = up_to()
        while lsn < end:
            with self._home.snapshot() as tables:
                records = self._pass(tables, lsn, end)
            if not records:
                return
            yield from records
            lsn = records[-1].lsn

    def _pass(self, tables: Tables, after: int, end: int) -> list[JournalRecord]:
        found = self._lowest(tables, after, end)
        pages: dict[int, tuple[list[TailRecord], Callable[[bytes], Message]]] = {}
        names: dict[int, SessionRow | None] = {}
        records: list[JournalRecord] = []
        size = 0
        for item in found:
            if item.event is not None:
                records.append(_event(item.event, self._session(tables, item.event.session, names)))
                continue
            decode: Callable[[bytes], Message]
            if item.page is None:
                ((_, packed),) = tables.tail.range(item.line, item.seq, item.seq + 1)
                record, decode = open_record(item.line, item.seq, packed), decode_json
            else:
                if item.page.page not in pages:
                    pages[item.page.page] = self._open(tables, item.page)
                    size += item.page.raw_bytes
                page, decode = pages[item.page.page]
                record = page[item.seq - item.page.start]
            session = self._session_of_line(tables, item.line, names)
            records.append(
                JournalRecord(
                    lsn=item.lsn, at=to_datetime(record.committed_us), kind=RecordKind.MESSAGE,
                    scope=session.scope if session else None,
                    session=session.id if session else None,
                    seq=item.seq, actor=record.actor, message=decode(record.body),
                )
            )  # fmt: skip
            size += len(record.body)
            if size > _PASS_BYTES:
                break
        return records

    def _lowest(self, tables: Tables, after: int, end: int) -> list[_Found]:
        """The places of the lowest LSNs in (after, end], in order."""
        heap: list[tuple[int, _Found]] = []

        def offer(item: _Found) -> None:
            if len(heap) < _PASS_RECORDS:
                heapq.heappush(heap, (-item.lsn, item))
            elif -heap[0][0] > item.lsn:
                heapq.heapreplace(heap, (-item.lsn, item))

        for event in tables.events.since(after, _PASS_RECORDS):
            if event.lsn <= end:
                offer(_Found(event.lsn, event, 0, 0, None))
        at = (0, 0)
        while rows := tables.tail.scan(at, _TAIL_ROWS):
            for line, seq, packed in rows:
                record = open_record(line, seq, packed)
                if after < record.lsn <= end:
                    # Its place alone: the records of a pass may be large.
                    offer(_Found(record.lsn, None, line, seq, None))
            at = (rows[-1][0], rows[-1][1])
        at = (0, 0)
        while pages := tables.pages.scan(at, _SCAN_ROWS, last_lsn_above=after):
            for page in pages:
                if len(heap) == _PASS_RECORDS and page.first_lsn > -heap[0][0]:
                    continue
                for index, lsn in enumerate(self._raw(tables, page).lsns()):
                    if after < lsn <= end:
                        offer(_Found(lsn, None, page.line, page.start + index, page))
            at = (pages[-1].line, pages[-1].start)
        return [item for _, item in sorted(heap, key=lambda entry: entry[1].lsn)]

    def _raw(self, tables: Tables, row: PageRow) -> Page:
        body = tables.pages.body(row.page)
        if body is None:
            raise CorruptionError(f"page {row.page} is missing")
        return Page(self._compressor.decode(body, key=page_key(row)))

    def _open(
        self, tables: Tables, row: PageRow
    ) -> tuple[list[TailRecord], Callable[[bytes], Message]]:
        page = self._raw(tables, row)
        texts = {}
        for text, digest, _ in tables.texts.of_page(row.page) if page.has_texts else ():
            body = tables.texts.get(text)
            if body is None:
                raise CorruptionError(f"a text of page {row.page} is missing")
            texts[digest] = self._compressor.decode(body, key=text_key(digest)).decode()
        return page.records(), text_decoder(texts)

    def _session_of_line(
        self, tables: Tables, line: int, names: dict[int, SessionRow | None]
    ) -> SessionRow | None:
        row = tables.lines.get(line)
        return self._session(tables, row.session, names) if row is not None else None

    def _session(
        self, tables: Tables, session: int, names: dict[int, SessionRow | None]
    ) -> SessionRow | None:
        if session not in names:
            names[session] = tables.sessions.get(session)
        return names[session]


def journal_start(tables: Tables) -> int:
    value = tables.meta.get(JOURNAL_START)
    return int(value) if value is not None else 0


def journal_start_us(tables: Tables) -> int:
    """The time of the last change of a head that may be gone; 0 when none is."""
    value = tables.meta.get(JOURNAL_START_US)
    return int(value) if value is not None else 0


def _event(row: EventRow, session: SessionRow | None) -> JournalRecord:
    return JournalRecord(
        lsn=row.lsn, at=to_datetime(row.at_us), kind=RecordKind(row.kind),
        scope=session.scope if session else None, session=session.id if session else None,
        seq=row.seq if row.seq >= 0 else None, state=row.note,
    )  # fmt: skip
