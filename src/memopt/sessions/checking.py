"""Checking everything that is stored: every checksum, every length, every sequence.

A session at a time, each in snapshots of its own, so that a check can be slowed down, stopped and
resumed, and holds up nobody. A session that fails is quarantined: it is named, it can be read as
far as it is whole, and it takes no more writes until it is deleted or its damage is accepted.
"""

import struct
from collections.abc import Callable
from typing import Final

from memopt.base.answer_protocols import AnswerKeeper
from memopt.base.context_protocols import ContextChecker
from memopt.base.errors import CorruptionError, NotFoundError, StoreVersionError
from memopt.base.events import Events, Quarantined
from memopt.base.item_protocols import ItemKeeper
from memopt.base.protocols import Clock, CollectionKeeper, Compressor, Reader
from memopt.base.records import CheckReport, Damage, LineRow, SessionRow
from memopt.codecs.keys import text_key
from memopt.journal.commit import GroupCommitter
from memopt.paging.fetching import PageGoneError
from memopt.paging.page_writer import PageWriter
from memopt.sessions.reading import SEQ_STOP, LineReader, open_tail
from memopt.sessions.states import chain_of, decode_chain
from memopt.sessions.transcripts import QUARANTINE

_SCOPES_AT_ONCE: Final = 256
LOST: Final = "lost_records"
"""Meta entry: acknowledged records that were missing when the store was opened."""


class Checking:
    """Thread-safe."""

    def __init__(
        self,
        home: Reader,
        committer: GroupCommitter,
        reader: LineReader,
        pages: PageWriter,
        compressor: Compressor,
        keeper: CollectionKeeper,
        items: ItemKeeper,
        answers: AnswerKeeper,
        contexts: ContextChecker,
        *,
        clock: Clock,
        events: Events,
        wait: Callable[[float], object],
        bytes_per_second: int,
    ) -> None:
        self._home = home
        self._committer = committer
        self._reader = reader
        self._pages = pages
        self._compressor = compressor
        self._keeper = keeper
        self._items = items
        self._answers = answers
        self._contexts = contexts
        self._clock = clock
        self._events = events
        self._wait = wait
        self._bytes_per_second = bytes_per_second

    def check(
        self,
        after: int | None,
        limit: int | None,
        structure: Callable[[], list[str]],
        progress: Callable[[int, int], None] | None,
    ) -> CheckReport:
        """Check up to `limit` sessions with numbers above `after`; the store's structure is looked
        at first, when `after` is None."""
        damages = [Damage(what=what) for what in structure()] if after is None else []
        started = self._clock.monotonic()
        sessions = messages = pages = states = values = items = answers = size = 0
        cursor = after or 0
        highest = self._committer.lsn
        ended = False
        while limit is None or sessions < limit:
            try:
                with self._home.snapshot() as tables:
                    rows = tables.sessions.page(
                        None, cursor, min(64, (limit or 64) - sessions or 1)
                    )
            except CorruptionError as error:
                damages.append(Damage(what=f"the list of sessions behind {cursor}: {error.reason}"))
                ended = True
                break
            if not rows:
                ended = True
                break
            for row in rows:
                found, what = self._look_twice(row)
                if what is not None:
                    damages.append(Damage(what=what, scope=row.scope, session=row.id))
                    self._quarantine(row, what)
                # What is damaged there keeps nobody from going on with the session.
                count, read_bytes, whats = self._keeper.check(row.scope_number, row.session)
                damages += [Damage(what=w, scope=row.scope, session=row.id) for w in whats]
                values += count
                size += read_bytes
                sessions += 1
                messages += found.messages
                pages += found.pages
                states += found.states
                size += found.size
                cursor = row.session
                ahead = size / self._bytes_per_second - (self._clock.monotonic() - started)
                if ahead > 0.01:
                    self._wait(ahead)
                if progress is not None:
                    progress(min(cursor, highest), highest)
        if ended:
            count, items, answers, read_bytes = self._check_scopes(damages)
            values += count
            size += read_bytes
            read_bytes, derived = self._contexts.check()
            damages += derived
            size += read_bytes
        with self._home.snapshot() as tables:
            lost = tables.meta.get(LOST)
        return CheckReport(
            sessions=sessions, messages=messages, pages=pages, states=states, bytes_checked=size,
            damages=tuple(damages), lost_records=int(lost) if lost else 0,
            cursor=None if ended else cursor, values=values,
            items=items, answers=answers,
        )  # fmt: skip

    def _check_scopes(self, damages: list[Damage]) -> tuple[int, int, int, int]:
        """What scopes own: (values, items, answers, bytes)."""
        values = items = answers = size = 0
        start = ""
        while True:
            try:
                with self._home.snapshot() as tables:
                    scopes = tables.scopes.page(start, _SCOPES_AT_ONCE)
            except CorruptionError as error:
                damages.append(Damage(what=f"the list of scopes from {start!r}: {error.reason}"))
                return values, items, answers, size
            for number, path in scopes:
                count, read_bytes, whats = self._keeper.check(number, 0)
                damages += [Damage(what=what, scope=path) for what in whats]
                values += count
                size += read_bytes
                count, read_bytes, whats = self._items.check(number)
                damages += [Damage(what=what, scope=path) for what in whats]
                items += count
                size += read_bytes
                count, read_bytes, whats = self._answers.check(number)
                damages += [Damage(what=what, scope=path) for what in whats]
                answers += count
                size += read_bytes
            if len(scopes) < _SCOPES_AT_ONCE:
                return values, items, answers, size
            # Nothing lies between a path and itself with the lowest character behind it.
            start = scopes[-1][1] + "\x00"

    def _look_twice(self, row: SessionRow) -> tuple["_Found", str | None]:
        """What a session holds, and its damage. Looked at again before it is believed: the session
        may have been deleted, or its states trimmed, between two snapshots of the first look."""
        what = None
        for _ in range(2):
            found = _Found()
            with self._home.snapshot() as tables:
                current = tables.sessions.get(row.session)
            if current is None:
                return found, None
            try:
                self._check_session(current, found)
            except NotFoundError:
                continue
            except (CorruptionError, StoreVersionError, PageGoneError, struct.error) as error:
                what = getattr(error, "reason", str(error))
            else:
                return found, None
        return found, what

    def _check_session(self, row: SessionRow, found: "_Found") -> None:
        with self._home.snapshot() as tables:
            lines = tables.lines.of_session(row.session)
            versions = tables.states.versions(row.session, None)
        if row.line not in {line.line for line in lines}:
            raise CorruptionError(f"its line {row.line} is missing")
        for line in lines:
            self._check_line(row, line, found)
        for version in versions:
            with self._home.snapshot() as tables:
                chain = chain_of(tables, row.session, version.name, version.version)
            found.size += len(decode_chain(self._compressor, chain))
            found.states += 1

    def _check_line(self, row: SessionRow, line: LineRow, found: "_Found") -> None:
        with self._home.snapshot() as tables:
            if tables.lines.get(line.line) is None:
                return
            expected = line.base
            for page in tables.pages.map(line.line, 0, SEQ_STOP):
                if page.start != expected:
                    raise CorruptionError(f"messages {expected} to {page.start - 1} are missing")
                records = self._pages.read(tables, page)
                if len(records) != page.stop - page.start:
                    raise CorruptionError(f"page {page.page} holds {len(records)} messages")
                if (records[0].lsn, records[-1].lsn) != (page.first_lsn, page.last_lsn):
                    raise CorruptionError(f"page {page.page} holds other LSNs than its map says")
                for text, digest, raw_bytes in tables.texts.of_page(page.page):
                    body = tables.texts.get(text)
                    if body is None:
                        raise CorruptionError(f"text {text} of page {page.page} is missing")
                    if len(self._compressor.decode(body, key=text_key(digest))) != raw_bytes:
                        raise CorruptionError(f"text {text} does not decode to its length")
                expected = page.stop
                found.pages += 1
                found.messages += len(records)
                found.size += page.raw_bytes
            for seq, record in open_tail(tables, line.line, expected, SEQ_STOP):
                if seq != expected:
                    raise CorruptionError(f"messages {expected} to {seq - 1} are missing")
                expected += 1
                found.messages += 1
                found.size += len(record.body)
        # And once more the way a user reads it, through the tiers and with its texts put back.
        for _ in self._reader.reads_of(row, line):
            pass

    def _quarantine(self, row: SessionRow, reason: str) -> None:
        self._events.emit(Quarantined(row.scope, row.id, reason))
        if self._committer.refusing:
            return
        name = f"{QUARANTINE}{row.session}"
        self._committer.commit(lambda t: t.tables.meta.put(name, reason.encode()))


class _Found:
    """Running totals of one session."""

    def __init__(self) -> None:
        self.messages = 0
        self.pages = 0
        self.states = 0
        self.size = 0
