"""Reads what is at places of the index: messages of lines, and versions of what was stated.

What is damaged or gone is left out. Not here: what an entry is made of (entries.py).
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from memopt.base.errors import CorruptionError
from memopt.base.protocols import Compressor, Reader
from memopt.base.recall_records import Kind
from memopt.codecs.item_text import open_text
from memopt.recall.entries import Draft
from memopt.recall.indexing import EntryMaker
from memopt.recall.message_text import TEXT_CHARS_MAX
from memopt.recall.places import Place, PlaceReader
from memopt.recall.stating import entry_text

_ITEMS_AT_ONCE: Final = 256
_NUMBERS: Final = {kind: number for number, kind in enumerate(Kind)}


class Drafted(NamedTuple):
    draft: Draft
    lsn: int


class DraftReader:
    """Thread-safe. Holds nothing between calls."""

    def __init__(
        self, home: Reader, maker: EntryMaker, reader: PlaceReader, compressor: Compressor
    ) -> None:
        self._home = home
        self._maker = maker
        self._reader = reader
        self._compressor = compressor

    def of(
        self, scope_number: int, places: Iterable[Place],
        pay: Callable[[int], None] = lambda size_bytes: None,
    ) -> Iterator[Drafted]:  # fmt: skip
        """Of those of a scope's places that say something; `pay` as PlaceReader.read has it."""
        wanted = sorted(set(places))
        items = itertools.takewhile(lambda place: place.line < 0, wanted)
        stated = list(items)
        for at in range(0, len(stated), _ITEMS_AT_ONCE):
            yield from self._of_items(stated[at : at + _ITEMS_AT_ONCE])
        for read in self._reader.read(scope_number, wanted[len(stated) :], pay):
            draft = self._maker.draft(*read.place, read.record, read.message)
            if draft is not None:
                yield Drafted(draft, read.record.lsn)

    def of_tail(self, line: int, seq: int, record: bytes) -> list[Draft]:
        """Of a tail record: one, or none where it says nothing."""
        reads = self._reader.opened(Place(line, seq), record)
        drafts = (self._maker.draft(line, seq, read.record, read.message) for read in reads)
        return [draft for draft in drafts if draft is not None]

    def _of_items(self, places: Iterable[Place]) -> list[Drafted]:
        found: list[Drafted] = []
        with self._home.snapshot() as tables:
            for source, version in places:
                with contextlib.suppress(CorruptionError):
                    row = tables.items.get(-source)
                    record = tables.item_texts.get(-source, version)
                    if row is None or record is None:
                        continue
                    text = open_text(self._compressor, -source, version, record)
                    draft = Draft(
                        source=source, seq=version, at_us=text.at_us,
                        text=entry_text(row, text.text)[:TEXT_CHARS_MAX],
                        kind=_NUMBERS[Kind(row.kind)],
                    )  # fmt: skip
                    found.append(Drafted(draft, text.lsn))
        return found
