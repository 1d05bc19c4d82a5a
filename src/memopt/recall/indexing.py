"""Makes index entries of messages, in the commit that seals them.

Entries are made outside the commit and written in it, so a message is found exactly when it can be
read. Where entries cannot be made now, the messages are listed as unindexed in the same commit:
they are looked through until maintenance has indexed them. So indexing is never why a write fails.

Not here: what an entry is (entries.py), who keeps them in RAM (resident.py), and making few
segments of many (merging.py).
"""

import contextlib
import logging
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import BudgetError, MemoptError
from memopt.base.protocols import Transaction
from memopt.base.recall_protocols import Embedder, Indexer
from memopt.base.recall_records import GONE, Indexing, SegmentRow, UnindexedRow
from memopt.base.records import Message
from memopt.codecs.message import decode_json
from memopt.codecs.record import TailRecord
from memopt.recall.entries import Draft, Entries, Role
from memopt.recall.message_text import said_in
from memopt.recall.prompts import SIZE_BYTES_MAX as PROMPTS_BYTES_MAX
from memopt.recall.prompts import Prompts
from memopt.text.analysis import CACHED_WORD_BYTES, CACHED_WORDS_MAX, Analyser

OWNER: Final = "indexing"
"""What is there while entries are made."""
WORDS: Final = "stems"
"""The words whose stems are remembered, and the prompts."""
ENTRY_BYTES: Final = 4096
"""Of one entry on its way, but for its text: its vector as floats and as a code, its columns
twice."""
_TEXT_FACTOR: Final = 12
"""Of a text: its words as strings, their terms as integers."""
_RECORD_FACTOR: Final = 4
"""Of a record: its message as objects, of which one is there at a time."""
_WORDS_SHARE: Final = 1 / 64
"""Of the budget, for words whose stems are remembered, and a quarter of it for prompts."""
_FRESH_MAX: Final = 16_384
_TAKINGS: Final = 1024
"""Counters of what was taken away, which scopes share."""
_log: Final = logging.getLogger("memopt")


class Appended(NamedTuple):
    """Messages [start, stop) of a line were committed; or versions of an item, whose source is
    minus its number, none where something else about it has changed."""

    scope_number: int
    source: int
    start: int
    stop: int


class Watch:
    """What happens to scopes that are in RAM, told after the commit. Nobody, until there is one."""

    def appended(self, places: Appended) -> None: ...
    def changed(self, scope_number: int) -> None: ...


class Prepared(NamedTuple):
    """What is to be written for a run of sealed messages."""

    segment: SegmentRow | None
    unindexed: UnindexedRow | None


class EntryMaker:
    """Texts to entries, with one embedder and one analyser. Thread-safe."""

    def __init__(
        self, embedder: Callable[[], Embedder | None], budget: Budget, config: Config
    ) -> None:
        """`embedder` is asked when it is first needed; None: words alone."""
        self._embedder = embedder
        self._budget = budget
        self._lock = threading.Lock()
        self._analyser: Analyser | None = None
        self._prompts = Prompts(0)
        self._tool_chars_max = config.tool_text_chars_max
        self._vector_bits = config.vector_bits

    @property
    def space(self) -> str:
        embedder = self._embedder()
        return embedder.space if embedder is not None else ""

    @property
    def embedder(self) -> Embedder | None:
        return self._embedder()

    @property
    def analyser(self) -> Analyser:
        """Made and paid for when it is first needed. Raises BudgetError where there is no room."""
        analyser = self._analyser
        if analyser is not None:
            return analyser
        with self._lock:
            if self._analyser is None:
                share = int(self._budget.limit_bytes * _WORDS_SHARE)
                prompts_bytes = min(PROMPTS_BYTES_MAX, share // 4)
                words = min(CACHED_WORDS_MAX, (share - prompts_bytes) // CACHED_WORD_BYTES)
                self._budget.reserve(WORDS, words * CACHED_WORD_BYTES + prompts_bytes)
                self._prompts = Prompts(prompts_bytes)
                self._analyser = Analyser(cached_words_max=words)
            return self._analyser

    def draft(self, source: int, seq: int, record: TailRecord, message: Message) -> "Draft | None":
        """Of a message; None where it has no text. `source` is what its entry is to be under."""
        said = said_in(message, record.actor, tool_chars_max=self._tool_chars_max)
        if said is None:
            return None
        at_us = record.committed_us if record.said_us is None else record.said_us
        return Draft(
            source=source, seq=seq, at_us=at_us, text=said.text, role=Role.of(said.role),
            speaker=said.speaker,
        )  # fmt: skip

    @property
    def is_quick(self) -> bool:
        """Whether the embedder takes no longer than everything else about a seal: it is a table.
        A model or an endpoint is asked in the background; until then, texts are found by words."""
        return hasattr(self._embedder(), "piece_vectors")

    def entries(self, drafts: "Sequence[Draft]", *, at_once: bool = False) -> "Entries":
        """`at_once`: somebody waits for them, so with a slow embedder they have no vectors. One
        that fails is done without, too: its vectors are made later."""
        try:
            embedder: Any = self._embedder()
            if at_once and not self.is_quick:
                embedder = None
            analyser = self.analyser
            space = embedder.space if embedder is not None else ""
            return self._prompts.entries(
                drafts, lambda some: Entries.of(some, embedder=embedder, analyser=analyser), space
            )
        except (MemoptError, OSError) as error:
            _log.warning("texts are indexed by their words alone for now: %s", error)
            return Entries.of(drafts, embedder=None, analyser=self.analyser)

    def forget_words(self) -> None:
        """Let go of the words and prompts that are remembered, but for what is in use."""
        with self._lock:
            if self._analyser is not None:
                self._analyser = None
                self._prompts = Prompts(0)
                self._budget.release_all(WORDS)

    def row(self, scope_number: int, entries: "Entries", first_lsn: int) -> SegmentRow:
        body = entries.encode(vector_bits=self._vector_bits)
        return SegmentRow(0, scope_number, entries.space, len(entries), first_lsn, len(body), body)


def need_bytes(drafts: "Iterable[Draft]") -> int:
    """What making their entries takes."""
    return sum(ENTRY_BYTES + _TEXT_FACTOR * len(draft.text) for draft in drafts)


class MessageIndexer:
    """The Indexer and an ItemWatcher of a store. Thread-safe."""

    def __init__(self, maker: EntryMaker, budget: Budget, config: Config) -> None:
        self._maker = maker
        self._budget = budget
        self.is_on = config.indexing is Indexing.ON
        self.fresh: dict[int, int] = {}
        """Segments that scopes got lately, for whoever merges them."""
        self.watch = Watch()
        self._is_put_off = False
        self._alone = threading.RLock()
        """One run of messages at a time: the interpreter works at one anyhow, and sixty that are
        begun hold sixty times the memory. Re-entrant, for a signal handler that appends."""
        self._takings = array("Q", bytes(8 * _TAKINGS))

    @property
    def makes_now(self) -> bool:
        """Whether entries are made in the commit that brings what they are of; else later."""
        return self.is_on and not self._is_put_off

    def put_off(self) -> None:
        """Make no entries for what is sealed: it is listed as unindexed. What is remembered to make
        them with is let go."""
        self._is_put_off = True
        self._maker.forget_words()

    def go_on(self) -> None:
        self._is_put_off = False

    def prepare(
        self, scope_number: int, line: int, start: int, records: Sequence[TailRecord]
    ) -> Prepared:
        later = Prepared(None, UnindexedRow(scope_number, line, start, start + len(records)))
        if not self.makes_now:
            return later
        try:
            with self._alone:
                return self._prepared(scope_number, line, start, records)
        except BudgetError:
            return later
        except MemoptError as error:
            _log.warning("messages could not be indexed yet: %s", error)
            return later

    def _prepared(
        self, scope_number: int, line: int, start: int, records: Sequence[TailRecord]
    ) -> Prepared:
        with self._paid(_RECORD_FACTOR * max(len(record.body) for record in records)):
            drafts = [
                draft
                for seq, record in enumerate(records, start)
                if (draft := self._maker.draft(line, seq, record, decode_json(record.body)))
            ]
        if not drafts:
            return Prepared(None, None)
        with self._paid(need_bytes(drafts)):
            entries = self._maker.entries(drafts, at_once=True)
            return Prepared(self._maker.row(scope_number, entries, records[0].lsn), None)

    @contextlib.contextmanager
    def _paid(self, need: int) -> Iterator[None]:
        self._budget.reserve(OWNER, need)
        try:
            yield
        finally:
            self._budget.release(OWNER, need)

    def write(self, transaction: Transaction, prepared: Prepared) -> None:
        if prepared.segment is not None:
            transaction.tables.segments.put(prepared.segment)
            scope = prepared.segment.scope_number
            if len(self.fresh) < _FRESH_MAX or scope in self.fresh:
                self.fresh[scope] = self.fresh.get(scope, 0) + 1
        if prepared.unindexed is not None:
            transaction.tables.unindexed.put(prepared.unindexed)

    def appended(
        self, transaction: Transaction, scope_number: int, line: int, start: int, stop: int
    ) -> None:
        places = Appended(scope_number, line, start, stop)
        transaction.after_commit(lambda: self.watch.appended(places))

    # -- what was stated: the ItemWatcher ---------------------------------------------------------

    def stated(self, transaction: Transaction, scope_number: int, item: int, version: int) -> None:
        # Its entry is made later, and until then by whoever asks for the scope.
        transaction.tables.unindexed.put(UnindexedRow(scope_number, -item, version, version + 1))
        self.appended(transaction, scope_number, -item, version, version + 1)

    def marked(self, transaction: Transaction, scope_number: int, item: int) -> None:
        self.appended(transaction, scope_number, -item, 0, 0)

    def forgotten(
        self, transaction: Transaction, scope_number: int, item: int, versions: int
    ) -> None:
        for version in range(1, versions + 1):
            row = UnindexedRow(scope_number, -item, version, version + 1)
            transaction.tables.unindexed.delete(row)
        self.taken(transaction, scope_number, -item, None)

    # -- what changes -----------------------------------------------------------------------------

    def changed(self, transaction: Transaction, scope_number: int) -> None:
        transaction.after_commit(lambda: self.watch.changed(scope_number))

    def taken(
        self, transaction: Transaction, scope_number: int, line: int, seq: int | None
    ) -> None:
        self._takings[scope_number % _TAKINGS] += 1
        transaction.tables.masked.put(scope_number, line, GONE if seq is None else seq)
        self.changed(transaction, scope_number)

    def takings(self, scope_number: int) -> int:
        """Changes whenever something of a scope is taken away, within that commit; so whoever has
        read before it can see in a commit that what he has may be too much."""
        return self._takings[scope_number % _TAKINGS]


class TakenToo:
    """An Indexer: what is taken from the index of recall is told to somebody else, too."""

    def __init__(self, indexer: Indexer, taken: Callable[..., None]) -> None:
        """`taken`: with the arguments of `Indexer.taken`, in its commit and after it."""
        self._indexer = indexer
        self._told = taken
        self.prepare = indexer.prepare
        self.write = indexer.write
        self.appended = indexer.appended
        self.changed = indexer.changed

    def taken(
        self, transaction: Transaction, scope_number: int, line: int, seq: int | None
    ) -> None:
        self._indexer.taken(transaction, scope_number, line, seq)
        self._told(transaction, scope_number, line, seq)
