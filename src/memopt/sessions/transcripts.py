"""Appending to sessions, and sealing what was appended.

An append is one row of the tail, committed; nothing else happens on that path until the tail has
reached the page target, when the same call turns it into a page (docs/design/0003: why not on
another thread). Sequence numbers, `if_head` and idempotency keys are decided inside the commit.

Not here: reading (reading.py), branches (branches.py), states (states.py).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import BudgetError, CapacityError, ConflictError, CorruptionError
from memopt.base.events import Appended, Events, Sealed
from memopt.base.protocols import Clock, Reader, Tables
from memopt.base.recall_protocols import Indexer
from memopt.base.records import (
    SEQ_BITS,
    SEQ_MASK,
    EventRow,
    JournalRecord,
    KeyRow,
    LineRow,
    Receipt,
    RecordKind,
    Seal,
    SessionRow,
    to_datetime,
)
from memopt.base.units import MIB
from memopt.codecs.message import DECODED_FACTOR, decode_json
from memopt.codecs.record import TailRecord, open_record, pack_record
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.paging.dictionaries import Dictionaries
from memopt.paging.page_writer import NewPage, Owner, PageWriter
from memopt.sessions.names import SessionKey, tenant_of
from memopt.sessions.residents import Resident, Residents, load_resident

_PAGE_MESSAGES_MAX: Final = 4096
_IDLE_MAX: Final = 256
_SWEPT_MAX: Final = 128
_RECORD_BYTES: Final = 1024
_LARGE_BYTES: Final = MIB
"""Messages from here on, of one call, are written one call at a time."""
_OWNER: Final = "appends"
_TOUCHES_A_COMMIT: Final = 256
_TOUCH_SECONDS: Final = 60.0
QUARANTINE: Final = "quarantine:"
"""Meta entries: sessions that a check found damaged, and why. They take no more writes."""


class Said(NamedTuple):
    """One append: encoded messages and what came with them."""

    bodies: Sequence[bytes]
    said_us: Sequence[int | None]
    """Of each."""
    actor: str | None
    if_head: int | None
    key: str | None


class Transcripts:
    """The writing side of sessions. Thread-safe."""

    def __init__(
        self,
        home: Reader,
        committer: GroupCommitter,
        residents: Residents,
        pages: PageWriter,
        dictionaries: Dictionaries,
        *,
        config: Config,
        clock: Clock,
        events: Events,
        admit: Callable[[int], None],
        budget: Budget,
        indexer: Indexer,
    ) -> None:
        self._home = home
        self._indexer = indexer
        self._budget = budget
        self._large = threading.RLock()
        """Held while a large message is written. A signal handler that appends one meanwhile gets
        the committer's error and does not wait for itself."""
        self._committer = committer
        self._residents = residents
        self._pages = pages
        self._dictionaries = dictionaries
        self._clock = clock
        self._events = events
        self._admit = admit
        self._swept = 0
        """The line up to which tails were looked at in this round."""
        self._touches_written = clock.monotonic()
        self._page_target_bytes = 1 if config.seal is Seal.ALWAYS else config.page_target_bytes

    def has_repeated(self, key: SessionKey, idempotency_key: str) -> bool:
        """Whether a call with that key was carried out."""
        with self._home.snapshot() as tables:
            row = tables.sessions.find(*key)
            return row is not None and tables.keys.find(row.session, idempotency_key) is not None

    def scope_number_of(self, scope: str) -> int | None:
        with self._home.snapshot() as tables:
            return tables.scopes.number(scope)

    def append(self, key: SessionKey, agent: str | None, said: Said) -> Receipt:
        """Commit messages to the end of a session, which is made if it is not there."""
        started = time.perf_counter()
        size = sum(map(len, said.bodies))
        self._admit(size)
        if size >= _LARGE_BYTES and not self._committer.failed:
            receipt, resident = self._commit_large(key, agent, said, size)
        else:
            receipt, resident = self._commit(key, agent, said)
        if resident.tail_bytes >= self._page_target_bytes:
            # The messages are committed: that there is no room for a page now is not their
            # caller's affair, and the next append tries again.
            with contextlib.suppress(CapacityError):
                self.seal(key, all_of_it=False)
        self._events.emit(Appended(len(said.bodies), size, time.perf_counter() - started))
        return receipt

    def _commit(self, key: SessionKey, agent: str | None, said: Said) -> tuple[Receipt, Resident]:
        alone = len(said.bodies) == 1 and said.key is None
        commit = self._committer.commit_one if alone else self._committer.commit
        return commit(lambda transaction: self._append(transaction, key, agent, said))

    def _commit_large(
        self, key: SessionKey, agent: str | None, said: Said, size_bytes: int
    ) -> tuple[Receipt, Resident]:
        """One at a time, for their records and what SQLite makes of them in one commit are several
        times as large: eight threads with 8 MiB each took 260 MiB. One that is alone goes on even
        where the budget has no room: it is at most a quarter of it, and none would ever fit."""
        with self._large:
            try:
                with contextlib.suppress(BudgetError):
                    self._budget.reserve(_OWNER, size_bytes)
                return self._commit(key, agent, said)
            finally:
                # Also what one that a Ctrl-C met has left.
                self._budget.release_all(_OWNER)

    def _append(
        self, transaction: CommitTransaction, key: SessionKey, agent: str | None, said: Said
    ) -> tuple[Receipt, Resident]:
        tables = transaction.tables
        resident = self.resident(transaction, key)
        if resident is not None and said.key is not None:
            # Before the head is looked at: the call being repeated is what has moved it.
            known = tables.keys.find(resident.session, said.key)
            if known is not None:
                return Receipt(lsn=known.lsn, seq=known.seq, head=known.head), resident
        if resident is None:
            if said.if_head:
                raise ConflictError("the session is not there", expected=said.if_head, actual=None)
            transaction.begin()
            resident = self.create(transaction, key, agent)
        elif said.if_head is not None and said.if_head != resident.head:
            raise ConflictError("the head has moved", expected=said.if_head, actual=resident.head)
        if resident.next_seq + len(said.bodies) > SEQ_MASK:
            raise CapacityError("the session is full", limit="messages of a session")
        transaction.on_rollback(self._residents.drop, key)
        lsn, seq, line = transaction.lsn, resident.next_seq, resident.line
        for body, said_us in zip(said.bodies, said.said_us, strict=True):
            lsn = transaction.next_lsn()
            record = pack_record(
                line, seq, lsn=lsn, committed_us=transaction.at_us, said_us=said_us,
                actor=said.actor, body=body,
            )  # fmt: skip
            tables.tail.put(line, seq, record)
            resident.tail_bytes += len(record)
            transaction.unsealed_delta += len(record)
            if transaction.watched:
                size = _RECORD_BYTES + DECODED_FACTOR * len(body)
                transaction.publish(_record_of(transaction, key, seq, lsn, said, body), size)
            seq += 1
        self._indexer.appended(transaction, resident.scope_number, line, resident.next_seq, seq)
        resident.next_seq = seq
        resident.touched = self._clock.monotonic()
        receipt = Receipt(lsn=lsn, seq=seq - 1, head=line << SEQ_BITS | seq)
        if said.key is not None:
            tables.keys.put(
                KeyRow(resident.session, said.key, lsn, seq - 1, receipt.head, transaction.at_us)
            )
        return receipt, resident

    # -- rows of sessions, inside a commit --------------------------------------------------------

    def resident(self, transaction: CommitTransaction, key: SessionKey) -> Resident | None:
        """What is known of a session; None when it is not there."""
        resident = self._residents.get(key)
        if resident is None:
            row = transaction.tables.sessions.find(*key)
            if row is None:
                return None
            reason = transaction.tables.meta.get(f"{QUARANTINE}{row.session}")
            if reason is not None:
                raise CorruptionError(
                    f"quarantined ({reason.decode()})", scope=key.scope, session=key.id
                )
            resident = load_resident(transaction.tables, row)
            resident.touched = self._clock.monotonic()
            self._residents.add(key, resident)
        return resident

    def create(
        self, transaction: CommitTransaction, key: SessionKey, agent: str | None
    ) -> Resident:
        """A new, empty session. Its number is the LSN of its creation, so it is never used
        again."""
        tables = transaction.tables
        lsn = transaction.next_lsn()
        row = self.session_row(transaction, key, agent, lsn)
        line = LineRow(lsn, lsn, 0, 0, lsn, transaction.at_us)
        tables.sessions.put(row)
        tables.lines.put(line)
        kind = RecordKind.SESSION_CREATED
        tables.events.put(EventRow(lsn, transaction.at_us, kind, lsn, lsn, -1, None))
        publish_event(transaction, lsn, kind, key)
        tenant = tables.scopes.number(tenant_of(key.scope))
        assert tenant is not None
        resident = Resident(row, tenant, line)
        resident.touched = self._clock.monotonic()
        transaction.on_rollback(self._residents.drop, key)
        self._residents.add(key, resident)
        return resident

    def session_row(
        self, transaction: CommitTransaction, key: SessionKey, agent: str | None, lsn: int
    ) -> SessionRow:
        """The row of a new session, with the scopes it needs."""
        number = scope_number(transaction.tables, key.scope)
        at_us = transaction.at_us
        return SessionRow(lsn, number, key.scope, key.id, agent, lsn, lsn, at_us, at_us)

    # -- sealing ----------------------------------------------------------------------------------

    def seal(self, key: SessionKey, *, all_of_it: bool) -> bool:
        """Turn the tail into pages: whole pages only, or all of it. True when nothing that was
        asked for is left. Gives way to whoever changes the tail meanwhile."""
        resident = self._residents.peek(key)
        if resident is None:
            resident = self._committer.commit(lambda t: self.resident(t, key))
        if resident is None or not resident.tail_bytes:
            return True
        if resident.sealing:
            return False
        resident.sealing = True
        try:
            return self._seal(key, resident, all_of_it)
        finally:
            resident.sealing = False

    def seal_idle(self, idle_seconds: float) -> None:
        """Seal the tails of sessions that nobody wrote to for a while, and forget their rows."""
        moment = self._clock.monotonic() - idle_seconds
        for key, resident in self._residents.idle_since(moment, _IDLE_MAX):
            if resident.tail_bytes:
                self.seal(key, all_of_it=True)
            self._residents.drop(key)
        for key in self._idle_elsewhere(idle_seconds):
            # What is damaged is for check() to report.
            with contextlib.suppress(CorruptionError):
                self.seal(key, all_of_it=True)
            self._residents.drop(key)

    def _idle_elsewhere(self, idle_seconds: float) -> list[SessionKey]:
        """Sessions that have a tail, idle for so long, and no row: theirs was let go, or the tail
        is of an earlier run. Looks a little further along all tails at each call."""
        since_us = self._clock.now_us() - round(idle_seconds * 1e6)
        found: list[SessionKey] = []
        try:
            with self._home.snapshot() as tables:
                for _ in range(_SWEPT_MAX):
                    first = tables.tail.scan((self._swept, SEQ_MASK), 1)
                    self._swept = line = first[0][0] if first else 0
                    if not first:
                        break
                    last = tables.tail.last(line)
                    ((seq, record),) = tables.tail.range(line, last or 0, SEQ_MASK + 1)
                    with contextlib.suppress(CorruptionError):
                        if open_record(line, seq, record).committed_us < since_us:
                            found += self._without_row(tables, line)
        except CorruptionError:
            # A page of the tails themselves: go on behind it, at some later session.
            with self._home.snapshot() as tables:
                behind = tables.sessions.page(None, self._swept, 1)
            self._swept = behind[0].session if behind else 0
        return found

    def _without_row(self, tables: Tables, line: int) -> list[SessionKey]:
        """The session whose current line it is, unless it is being written."""
        row = tables.lines.get(line)
        session = tables.sessions.get(row.session) if row is not None else None
        if session is None or session.line != line:
            return []
        key = SessionKey(session.scope, session.id)
        return [key] if self._residents.peek(key) is None else []

    def write_touches(self) -> None:
        """Write when sessions were last written to: late, and many in one commit."""
        since, now = self._touches_written, self._clock.monotonic()
        if now - since < _TOUCH_SECONDS:
            return
        self._touches_written = now
        touched = [key for key, row in self._residents.rows() if row.touched >= since]
        for start in range(0, len(touched), _TOUCHES_A_COMMIT):
            keys = touched[start : start + _TOUCHES_A_COMMIT]
            self._committer.commit(lambda t, keys=keys: _touch(t, keys))  # type: ignore[misc]

    def _seal(self, key: SessionKey, resident: Resident, all_of_it: bool) -> bool:
        started = time.perf_counter()
        generation = resident.generation
        line, start = resident.line, resident.tail_start
        owner = Owner(resident.tenant_number, resident.scope_number)
        with self._home.snapshot() as tables:
            tail = tables.tail.range(line, start, SEQ_MASK + 1)
        new: list[NewPage] = []
        taken: list[TailRecord] = []
        taken_bytes = 0
        for chunk, size in self._chunks(line, tail, all_of_it):
            # What has to be sealed is, even without room; an append's next one tries again.
            new.append(
                self._pages.make(owner, line, start, chunk, sealed=False, without_room=all_of_it)
            )
            start += len(chunk)
            taken += chunk
            taken_bytes += size
        if not new:
            return True
        indexed = self._indexer.prepare(owner.scope, line, new[0].row.start, taken)

        def member(transaction: CommitTransaction) -> bool:
            if self._residents.peek(key) is not resident or resident.generation != generation:
                return False
            if resident.tail_start != new[0].row.start:
                return False
            tables = transaction.tables
            for page in new:
                self._pages.write(tables, owner, page, ())
            self._indexer.write(transaction, indexed)
            tables.tail.delete(line, new[0].row.start, start)
            transaction.on_rollback(self._residents.drop, key)
            transaction.unsealed_delta -= taken_bytes
            resident.tail_start = start
            resident.tail_bytes -= taken_bytes
            return True

        if not self._committer.commit(member):
            return False
        for page in new:
            self._dictionaries.note(owner, page.row)
        raw = sum(page.row.raw_bytes for page in new)
        stored = sum(page.row.stored_bytes for page in new)
        messages = start - new[0].row.start
        self._events.emit(Sealed(messages, raw, stored, time.perf_counter() - started))
        return True

    def seal_line(
        self, transaction: CommitTransaction, key: SessionKey, line: LineRow, owner: Owner
    ) -> None:
        """In a commit: seal the tail of any branch of a session."""
        tables = transaction.tables
        tail = tables.tail.range(line.line, 0, SEQ_MASK + 1)
        for chunk, size in self._chunks(line.line, tail, all_of_it=True):
            new = self._pages.make(owner, line.line, tail[0][0], chunk, sealed=False)
            self._pages.write(tables, owner, new, ())
            indexed = self._indexer.prepare(owner.scope, line.line, new.row.start, chunk)
            self._indexer.write(transaction, indexed)
            tables.tail.delete(line.line, new.row.start, new.row.stop)
            transaction.unsealed_delta -= size
            tail = tail[len(chunk) :]
        resident = self._residents.peek(key)
        if resident is not None:
            # Whoever is sealing the same tail outside a commit has to give way.
            resident.generation += 1
            self._residents.drop(key)
        transaction.on_rollback(self._residents.drop, key)

    def drop_abandoned(self, transaction: CommitTransaction, row: SessionRow, up_to: int) -> None:
        """In a commit: delete the branches of a session that were left before an LSN and that no
        line starts from; what they share with others is not theirs."""
        tables = transaction.tables
        lines = tables.lines.of_session(row.session)
        for line, after in zip(reversed(lines[:-1]), reversed(lines[1:]), strict=True):
            if after.made_lsn > up_to or tables.lines.children(line.line):
                continue
            for page in tables.pages.map(line.line, 0, SEQ_MASK + 1):
                self._pages.delete(tables, page)
            for _, record in tables.tail.range(line.line, 0, SEQ_MASK + 1):
                transaction.unsealed_delta -= len(record)
            tables.tail.delete(line.line, 0, SEQ_MASK + 1)
            tables.lines.delete(line.line)
            self._indexer.taken(transaction, row.scope_number, line.line, None)

    def _chunks(
        self, line: int, tail: list[tuple[int, bytes]], all_of_it: bool
    ) -> list[tuple[list[TailRecord], int]]:
        chunks: list[tuple[list[TailRecord], int]] = []
        chunk: list[TailRecord] = []
        size = 0
        for seq, record in tail:
            chunk.append(open_record(line, seq, record))
            size += len(record)
            if size >= self._page_target_bytes or len(chunk) == _PAGE_MESSAGES_MAX:
                chunks.append((chunk, size))
                chunk, size = [], 0
        if chunk and all_of_it:
            chunks.append((chunk, size))
        return chunks


def scope_number(tables: Tables, scope: str) -> int:
    """In a commit: the number of a scope, made if it is not there, with its tenant."""
    number = tables.scopes.number(scope)
    if number is None:
        tenant = tenant_of(scope)
        if tenant != scope and tables.scopes.number(tenant) is None:
            tables.scopes.create(tenant)
        number = tables.scopes.create(scope)
    return number


def _touch(transaction: CommitTransaction, keys: Sequence[SessionKey]) -> None:
    for key in keys:
        row = transaction.tables.sessions.find(*key)
        if row is not None and row.touched_us < transaction.at_us:
            transaction.tables.sessions.put(row._replace(touched_us=transaction.at_us))


def publish_event(
    transaction: CommitTransaction, lsn: int, kind: RecordKind, key: SessionKey | None,
    *, seq: int | None = None, state: str | None = None,
) -> None:  # fmt: skip
    """Tell subscribers; nothing is made when there are none."""
    if transaction.watched:
        transaction.publish(
            JournalRecord(
                lsn=lsn, at=to_datetime(transaction.at_us), kind=kind,
                scope=key.scope if key else None, session=key.id if key else None,
                seq=seq, state=state,
            ),
            _RECORD_BYTES,
        )  # fmt: skip


def _record_of(
    transaction: CommitTransaction, key: SessionKey, seq: int, lsn: int, said: Said, body: bytes
) -> JournalRecord:
    return JournalRecord(
        lsn=lsn, at=to_datetime(transaction.at_us), kind=RecordKind.MESSAGE, scope=key.scope,
        session=key.id, seq=seq, actor=said.actor, message=decode_json(body),
    )  # fmt: skip
