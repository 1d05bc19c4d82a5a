"""Index segments that are damaged: they are taken out, and what they were made of is indexed again.

An index is made of what is kept elsewhere, so its damage costs work and nothing else. Which entries
a segment had is not known any more; so all of its scope is listed as unindexed, and what has its
entry still gets it twice, for as long as it takes to merge them.

Not here: messages and memories that are damaged themselves (sessions/checking.py, keeper.py).
"""

import logging
from collections.abc import Iterator
from typing import Final

from memopt.base.errors import CorruptionError
from memopt.base.protocols import Reader, Tables, Transaction
from memopt.base.recall_records import UnindexedRow
from memopt.base.records import SEQ_MASK
from memopt.journal.commit import GroupCommitter
from memopt.recall.indexing import MessageIndexer
from memopt.recall.visibility import ranges_of

_HEADS: Final = 256
_RUN: Final = 256
"""Messages that are listed together."""
_ITEMS: Final = 256

_log = logging.getLogger(__name__)


class Mending:
    """Thread-safe. Holds nothing between calls."""

    def __init__(self, home: Reader, committer: GroupCommitter, indexer: MessageIndexer) -> None:
        self._home = home
        self._committer = committer
        self._indexer = indexer

    def mend_all(self) -> int:
        """Every scope that has a damaged segment; how many segments were taken out."""
        try:
            scopes = dict.fromkeys(scope for scope, _, _ in damaged(self._home))
            return sum(map(self.mend, scopes))
        except CorruptionError as error:
            # The table itself is: what is whole of it serves on.
            _log.warning("the index could not be mended: %s", error)
            return 0

    def mend(self, scope_number: int) -> int:
        """One scope; how many of its segments were taken out."""
        segments = [segment for _, segment, _ in damaged(self._home, scope_number)]
        if not segments:
            return 0

        def member(transaction: Transaction) -> None:
            tables = transaction.tables
            for segment in segments:
                tables.segments.delete(segment)
            for row in _everything(tables, scope_number):
                tables.unindexed.put(row)
            self._indexer.changed(transaction, scope_number)

        self._committer.commit(member)
        _log.warning("%d segments of an index were damaged, and are made anew", len(segments))
        return len(segments)


def damaged(home: Reader, scope_number: int | None = None) -> Iterator[tuple[int, int, str]]:
    """(scope, segment, what is wrong) of a scope's segments, or of all, in order. Raises
    CorruptionError where their list is damaged."""
    at = (scope_number or 0, 0)
    while True:
        with home.snapshot() as tables:
            heads = tables.segments.heads(at, _HEADS)
        for head in heads:
            at = (head.scope_number, head.segment)
            if scope_number not in (None, head.scope_number):
                return
            try:
                with home.snapshot() as tables:
                    tables.segments.get(head.segment)
            except CorruptionError as error:
                yield *at, error.reason
        if len(heads) < _HEADS:
            return


def _everything(tables: Tables, scope_number: int) -> Iterator[UnindexedRow]:
    """What a scope has in pages, and what is stated there."""
    if tables.scopes.path(scope_number) is None:
        return
    for found in ranges_of(tables, scope_number):
        pages = tables.pages.map(found.line, 0, SEQ_MASK + 1, last=1)
        stop = min(found.stop, pages[0].stop) if pages else 0
        for start in range(found.start, stop, _RUN):
            yield UnindexedRow(scope_number, found.line, start, min(start + _RUN, stop))
    after = 0
    while True:
        rows = tables.items.page(scope_number, after, _ITEMS)
        for row in rows:
            for version in range(1, row.version + 1):
                yield UnindexedRow(scope_number, -row.item, version, version + 1)
        if len(rows) < _ITEMS:
            return
        after = rows[-1].item
