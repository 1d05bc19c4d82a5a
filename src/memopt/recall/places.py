"""Reads messages by their places: a line and a number on it.

Where messages are is looked up in one snapshot, which is closed before the first page is opened. A
message that is damaged or gone is left out: what cannot be read cannot be found. Not here: which
places are visible (visibility.py), and what a message says (message_text.py).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.errors import CorruptionError, UsageError
from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.records import SEQ_MASK, Message, PageRow
from memopt.base.units import KIB
from memopt.codecs.message import decode_json
from memopt.codecs.record import TailRecord, open_record
from memopt.codecs.texts import text_decoder
from memopt.paging.fetching import READING, Fetcher, PageGoneError
from memopt.paging.pager import OpenPage

Opener = Callable[[PageRow, int], OpenPage]
"""Opens a page for a scope. Raises PageGoneError, CorruptionError."""
_REPLANS_MAX: Final = 16
_RECORDS_BYTES: Final = 128 * KIB
"""Of tails, that are read together: so much, or one record."""


class Place(NamedTuple):
    line: int
    seq: int


class Places(NamedTuple):
    """Messages [start, stop) of a line."""

    line: int
    start: int
    stop: int


class Read(NamedTuple):
    place: Place
    record: TailRecord
    message: Message


class ColdPages:
    """An Opener that reads past the tiers, for work in the background: it takes no page's place."""

    def __init__(self, home: Reader, compressor: Compressor, budget: Budget) -> None:
        self._budget = budget
        self._fetcher = Fetcher(home, compressor, budget, lambda refs: {})

    def __call__(self, row: PageRow, scope_number: int) -> OpenPage:
        need = row.raw_bytes + row.stored_bytes
        self._budget.reserve(READING, need)
        try:
            fetched = self._fetcher.fetch(
                row, None, (), lambda size: self._budget.reserve(READING, size)
            )
        finally:
            self._budget.release(READING, need)
        texts = {digest: fetched.values[text] for digest, text in fetched.texts}
        return OpenPage(row, fetched.page, text_decoder(texts))


class PlaceReader:
    """Holds nothing between calls."""

    def __init__(self, home: Reader, open_page: Opener) -> None:
        self._home = home
        self._open_page = open_page
        self.damaged = 0
        """Pages and records that could not be read so far."""

    def read(
        self, scope_number: int, places: Iterable[Place],
        pay: Callable[[int], None] = lambda size_bytes: None,
    ) -> Iterator[Read]:  # fmt: skip
        """Those of `places` that are there. `pay` is told the size of tail records before they are
        decoded, a few at a time; pages are paid for by whoever opens them."""
        wanted = sorted(set(places))
        replans = 0
        while wanted and replans < _REPLANS_MAX:
            with self._home.snapshot() as tables:
                pages, tail, planned = self._plan(tables, wanted)
            pay(sum(len(record) for _, record in tail))
            for place, record in tail:
                yield from self.opened(place, record)
            gone: list[Place] = []
            for row, inside in pages:
                try:
                    yield from self._of_page(scope_number, row, inside)
                except PageGoneError:
                    # Rewritten since: the same messages are elsewhere now.
                    gone += inside
            wanted = sorted([*gone, *wanted[planned:]])
            replans += bool(gone)

    def _plan(
        self, tables: Tables, wanted: Sequence[Place]
    ) -> tuple[list[tuple[PageRow, list[Place]]], list[tuple[Place, bytes]], int]:
        """(pages, tail records, how many of `wanted` that is)."""
        pages: list[tuple[PageRow, list[Place]]] = []
        tail: list[tuple[Place, bytes]] = []
        size = 0
        last_line = sealed = 0
        for number, place in enumerate(wanted):
            if size >= _RECORDS_BYTES:
                return pages, tail, number
            line, seq = place
            if pages and pages[-1][0].line == line and seq < pages[-1][0].stop:
                pages[-1][1].append(place)
                continue
            if line != last_line:
                newest = tables.pages.map(line, 0, SEQ_MASK + 1, last=1)
                last_line, sealed = line, newest[0].stop if newest else 0
            found = tables.pages.map(line, seq, seq + 1) if seq < sealed else []
            if found:
                pages.append((found[0], [place]))
                continue
            for _, record in tables.tail.range(line, seq, seq + 1):
                tail.append((place, record))
                size += len(record)
        return pages, tail, len(wanted)

    def _of_page(self, scope_number: int, row: PageRow, inside: list[Place]) -> Iterator[Read]:
        try:
            page = self._open_page(row, scope_number)
            # A few of them, or most: whatever is less work.
            all_of_them = page.page.records() if 2 * len(inside) > page.page.count else None
            for place in inside:
                at = place.seq - row.start
                record = page.page.record(at) if all_of_them is None else all_of_them[at]
                yield Read(place, record, page.decode(record.body))
        except CorruptionError:
            self.damaged += 1

    def opened(self, place: Place, record: bytes) -> list[Read]:
        """The message of a tail record; none where that is damaged."""
        with contextlib.suppress(CorruptionError):
            opened = open_record(*place, record)
            return [Read(place, opened, decode_json(opened.body))]
        self.damaged += 1
        return []


# -- item ids -------------------------------------------------------------------------------------

_PREFIX: Final = "m"


def id_of(scope_number: int, place: Place) -> str:
    """What a message is called as an item: the same for as long as it is there."""
    return f"{_PREFIX}{scope_number}.{place.line}.{place.seq}"


def place_in(item_id: str) -> tuple[int, Place] | None:
    """The scope and the place that an item id names; None for the id of something else. Raises
    UsageError for what no id looks like."""
    if not isinstance(item_id, str) or not item_id:
        raise UsageError(f"expected an item id, got {item_id!r}", field="item_id")
    if not item_id.startswith(_PREFIX):
        return None
    parts = item_id[len(_PREFIX) :].split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(f"expected an item id, got {item_id[:80]!r}", field="item_id")
    scope, line, seq = map(int, parts)
    if not 0 < line < 2**39 or seq > SEQ_MASK:
        raise UsageError(f"expected an item id, got {item_id[:80]!r}", field="item_id")
    return scope, Place(line, seq)
