"""The journal as it is stored: merged from the tail, the pages, the entries of collections and the
event table, in LSN order.

A message is its own journal row: its LSN stands in its tail record, and in a column of its page
once it is sealed. So a pass takes one snapshot, finds the lowest LSNs above where the reader is,
and reads those; it is bounded in records and in bytes, whatever the length of the journal. The
snapshot is closed before the first record is handed out.
"""

import bisect
import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from memopt.base.errors import CorruptionError, NotFoundError
from memopt.base.item_records import item_id_of
from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.records import (
    CollectionRow,
    EventRow,
    JournalRecord,
    Message,
    PageRow,
    RecordKind,
    SessionRow,
    to_datetime,
)
from memopt.codecs.entry import at_us_of, decode_key, verify_entry
from memopt.codecs.item_text import open_text
from memopt.codecs.keys import page_key, text_key
from memopt.codecs.message import DECODED_FACTOR, decode_json
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
_ENTRIES_AT_ONCE: Final = 1 << 16
"""Places of entries that a reader of the journal keeps: 12 MB at most."""
_PLACE_BYTES: Final = 184
_RECORD_BYTES: Final = 1024
"""Of a place, and of a record beside its message; measured in the tests."""


_WITH_TEXT: Final = frozenset({RecordKind.ITEM_STATED, RecordKind.ITEM_REVISED})
_OF_ITEMS: Final = frozenset(kind for kind in RecordKind if kind.startswith("item_"))


class Held:
    """What a reader of the journal holds until the next record: those of its pass, and places."""

    def __init__(self) -> None:
        self.size_bytes = 0


class _Found(NamedTuple):
    """Where a record is. The order is that of LSNs, which are unique."""

    lsn: int
    event: EventRow | None
    line: int
    seq: int
    page: PageRow | None
    """None while it is in the tail."""
    place: int = -1
    """Of an entry; `line` is its collection."""


class History:
    """Reads the journal from the home, past the tiers. Thread-safe."""

    def __init__(self, home: Reader, compressor: Compressor) -> None:
        self._home = home
        self._compressor = compressor

    def read(
        self, since: int | None, up_to: Callable[[], int], held: Held | None = None
    ) -> Iterator[JournalRecord]:
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
        entries, held = _Entries(), held or Held()
        while lsn < end:
            with self._home.snapshot() as tables:
                entries.look(tables, lsn, end)
                found = self._lowest(tables, lsn, entries.up_to, entries)
                held.size_bytes = entries.held_bytes()
                records, lsn = self._read(tables, found, entries.up_to, held)
            yield from records

    def _read(
        self, tables: Tables, found: list[_Found], end: int, held: Held
    ) -> tuple[list[JournalRecord], int]:
        """What stands in these places, and up to which LSN that is everything."""
        pages: dict[int, tuple[list[TailRecord], Callable[[bytes], Message]]] = {}
        names: dict[int, SessionRow | None] = {}
        records: list[JournalRecord] = []
        size = 0
        held.size_bytes += _RECORD_BYTES * len(found)
        for item in found:
            if item.event is not None:
                if item.event.session < 0:
                    records.append(_collection_event(tables, item.event))
                    continue
                if item.event.kind in _OF_ITEMS:
                    records.append(self._item_event(tables, item.event))
                    size += len(records[-1].text or "")
                    continue
                if item.event.kind == RecordKind.DOCUMENT_INGESTED:
                    records.append(_document_event(tables, item.event))
                    continue
                records.append(_event(item.event, self._session(tables, item.event.session, names)))
                continue
            if item.place >= 0:
                records += _entry(tables, item)
                continue
            decode: Callable[[bytes], Message]
            if item.page is None:
                ((_, packed),) = tables.tail.range(item.line, item.seq, item.seq + 1)
                record, decode = open_record(item.line, item.seq, packed), decode_json
            else:
                if item.page.page not in pages:
                    pages[item.page.page] = self._open(tables, item.page, held)
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
            held.size_bytes += DECODED_FACTOR * len(record.body)
            size += len(record.body)
            if size > _PASS_BYTES:
                return records, item.lsn
        return records, found[-1].lsn if len(found) == _PASS_RECORDS else end

    def _lowest(self, tables: Tables, after: int, end: int, entries: "_Entries") -> list[_Found]:
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
        for lsn, collection, place in entries.behind(after, end):
            offer(_Found(lsn, None, collection, 0, None, place))
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
        self, tables: Tables, row: PageRow, held: Held
    ) -> tuple[list[TailRecord], Callable[[bytes], Message]]:
        page = self._raw(tables, row)
        texts = {}
        for text, digest, _ in tables.texts.of_page(row.page) if page.has_texts else ():
            body = tables.texts.get(text)
            if body is None:
                raise CorruptionError(f"a text of page {row.page} is missing")
            raw = self._compressor.decode(body, key=text_key(digest))
            held.size_bytes += DECODED_FACTOR * len(raw)
            texts[digest] = raw.decode()
        return page.records(), text_decoder(texts)

    def _item_event(self, tables: Tables, event: EventRow) -> JournalRecord:
        """What happened to an item, and its text where it got one; only its number once it is
        forgotten."""
        row = tables.items.get(event.line)
        text = None
        if row is not None and event.kind in _WITH_TEXT:
            record = tables.item_texts.get(row.item, event.seq)
            if record is None:
                raise CorruptionError(f"version {event.seq} of item {row.item} is missing")
            text = open_text(self._compressor, row.item, event.seq, record).text
        return JournalRecord(
            lsn=event.lsn, at=to_datetime(event.at_us), kind=RecordKind(event.kind),
            scope=tables.scopes.path(row.scope_number) if row is not None else None,
            seq=event.seq, item=item_id_of(event.line), text=text,
        )  # fmt: skip

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


class _Entries:
    """Where the entries of collections are by LSN. They have no index by it, so each look goes
    through all of them, and finds the places for many passes."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int, int]] = []
        self.up_to = -1
        """What was found is everything up to this LSN."""

    def look(self, tables: Tables, after: int, end: int) -> None:
        """Find places in (after, end], unless they were found before."""
        if self.up_to <= after:
            self._found = tables.entry_index.since(after, _ENTRIES_AT_ONCE)
            is_all = len(self._found) < _ENTRIES_AT_ONCE
            self.up_to = end if is_all else min(end, self._found[-1][0])

    def held_bytes(self) -> int:
        return _PLACE_BYTES * len(self._found)

    def behind(self, after: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(LSN, collection, place) in (after, end], enough for a pass."""
        first = bisect.bisect_right(self._found, after, key=lambda entry: entry[0])
        found = itertools.islice(self._found, first, first + _PASS_RECORDS)
        return itertools.takewhile(lambda entry: entry[0] <= end, found)


def _entry(tables: Tables, item: _Found) -> list[JournalRecord]:
    """The record of an entry; none where it was overwritten or deleted since it was found."""
    collection = tables.collections.get(item.line)
    # Not reserved, as nothing of a pass is: one large record at a time.
    rows = tables.entries.range(
        item.line, item.place, item.place + 1, lambda size_bytes: None, limit=1, bytes_max=0
    )
    if collection is None or not rows or rows[0].lsn != item.lsn:
        return []
    verify_entry(rows[0])
    key, seq = rows[0].key, None
    if key is None:
        first, _ = tables.entries.bounds(item.line) or (0, 0)
        seq = item.place - first
    return [
        JournalRecord(
            lsn=item.lsn, at=to_datetime(at_us_of(rows[0].record)), kind=RecordKind.ENTRY_SET,
            key=None if key is None else decode_key(key), seq=seq,
            **_names(tables, collection),
        )
    ]  # fmt: skip


def _document_event(tables: Tables, row: EventRow) -> JournalRecord:
    """That a document was ingested; which one is not said any more once it is forgotten."""
    document = tables.documents.get(row.line)
    return JournalRecord(
        lsn=row.lsn, at=to_datetime(row.at_us), kind=RecordKind(row.kind), seq=row.seq,
        scope=tables.scopes.path(document.scope_number) if document is not None else None,
        document=document.source if document is not None else None,
    )  # fmt: skip


def _collection_event(tables: Tables, row: EventRow) -> JournalRecord:
    collection = tables.collections.get(-row.session)
    names = _names(tables, collection) if collection is not None else {}
    return JournalRecord(lsn=row.lsn, at=to_datetime(row.at_us), kind=RecordKind(row.kind), **names)


def _names(tables: Tables, row: CollectionRow) -> dict[str, Any]:
    session = tables.sessions.get(row.session) if row.session else None
    return {
        "scope": tables.scopes.path(row.scope_number),
        "session": session.id if session is not None else None,
        "collection": row.name,
    }


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
