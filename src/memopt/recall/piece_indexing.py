"""Entries of many new items at once: made before the commit that states them, written in it.

So a document is in the index as soon as it is there, in few segments. Where there is no room to
make them, or indexing is off, items are noted one by one as others are (indexing.py), and indexed
later.
Not here: what the pieces of a document are (documents.py).
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from memopt.base.budget import Budget
from memopt.base.errors import MemoptError
from memopt.base.protocols import Transaction
from memopt.recall.entries import Draft, Entries
from memopt.recall.indexing import OWNER, EntryMaker, MessageIndexer, Prepared, need_bytes
from memopt.recall.message_text import TEXT_CHARS_MAX

AT_ONCE: Final = 256
ENTRY_BYTES: Final = 1536
"""Of an entry that waits for its commit."""
SEGMENT_ENTRIES: Final = 2048
"""About SEGMENT_BYTES_MAX of them."""
NOTED_MAX: Final = 64
"""More new items than so many: a scope in RAM is brought in anew, instead of adding them."""

_log = logging.getLogger(__name__)


class PieceIndexer:
    """Thread-safe. Holds nothing between calls."""

    def __init__(self, indexer: MessageIndexer, maker: EntryMaker, budget: Budget) -> None:
        self._indexer = indexer
        self._maker = maker
        self._budget = budget

    def works_for(self, watcher: object) -> bool:
        """Whether what is written here need not be told to it."""
        return watcher is self._indexer

    def prepare(
        self, kind: int, texts: Sequence[str], reserve: Callable[[int], None]
    ) -> Entries | None:
        """Entries of items that have no numbers yet; None where they are to be made later.
        `reserve` asks for what they occupy until they are written."""
        if not self._indexer.makes_now or not texts:
            return None
        parts = []
        try:
            for at in range(0, len(texts), AT_ONCE):
                drafts = [
                    Draft(source=0, seq=1, at_us=0, text=text[:TEXT_CHARS_MAX], kind=kind)
                    for text in texts[at : at + AT_ONCE]
                ]
                reserve(ENTRY_BYTES * len(drafts))
                need = need_bytes(drafts)
                self._budget.reserve(OWNER, need)
                try:
                    parts.append(self._maker.entries(drafts, at_once=True))
                finally:
                    self._budget.release(OWNER, need)
        except MemoptError as error:
            _log.warning("pieces could not be indexed yet: %s", error)
            return None
        if len({part.space for part in parts}) > 1:
            # An embedder that came or went meanwhile.
            return None
        return Entries.concat(parts)

    def write(
        self, transaction: Transaction, scope_number: int, entries: Entries,
        numbers: Mapping[int, int], first_lsn: int,
    ) -> None:  # fmt: skip
        """In the commit that states items: `numbers` says which of `entries` is whose first
        version, by item."""
        items = np.array(list(numbers), np.int64)
        numbered = dataclasses.replace(
            entries.take(np.array(list(numbers.values()), np.int64)), source=-items,
            at_us=np.full(len(items), transaction.at_us, np.int64),
        )  # fmt: skip
        for at in range(0, len(items), SEGMENT_ENTRIES):
            some = numbered.take(np.arange(at, min(at + SEGMENT_ENTRIES, len(items))))
            row = self._maker.row(scope_number, some, first_lsn)
            self._indexer.write(transaction, Prepared(row, None))
        if len(items) > NOTED_MAX:
            self._indexer.changed(transaction, scope_number)
        else:
            for item in numbers:
                self._indexer.appended(transaction, scope_number, -item, 1, 2)
