"""Moving heads: truncate, pop, fork, restore; and taking away: redact, delete.

A session is a tree of immutable messages. Whenever a head moves other than by an append, a new
line is made that starts from where the head went; so the line that was current at any LSN is the
newest one made by then, and nothing is overwritten. A parent's tail is sealed up to the point
first, so that only the last line of a session ever has one.

Deleting and redacting do overwrite: what nobody owns any more leaves tails, pages and texts in the
same commit, and what may still hold a copy (dictionaries, free pages, the log) is marked for
compact() to renew.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from memopt.base.errors import (
    ConflictError,
    CorruptionError,
    NotFoundError,
    UsageError,
)
from memopt.base.protocols import CollectionKeeper, Tables
from memopt.base.recall_protocols import Indexer
from memopt.base.records import (
    SEQ_BITS,
    SEQ_MASK,
    EventRow,
    LineRow,
    Message,
    PageRow,
    Receipt,
    RecordKind,
    SessionRow,
)
from memopt.codecs.message import encode_json
from memopt.codecs.record import open_record, pack_record
from memopt.codecs.texts import decode_shared
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.journal.deleting import deleting
from memopt.paging.page_writer import Owner, PageWriter
from memopt.paging.pager import Pager
from memopt.sessions.names import SessionKey, tenant_of
from memopt.sessions.reading import SEQ_STOP, Segment, length_of, line_at, segments_of
from memopt.sessions.residents import Residents
from memopt.sessions.transcripts import Transcripts, publish_event

T = TypeVar("T")

_MARK: Final = {"content": "[redacted]", "redacted": True}
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
SUSPECT: Final = "suspect:"
"""Meta entries: scopes whose dictionaries may hold what was taken away since an LSN."""


class Place(NamedTuple):
    """Where a message is, whichever branches share it."""

    line: int
    seq: int


def place_of(segments: Sequence[Segment], seq: int) -> Place:
    """Of message `seq` of a branch."""
    return Place(next(s.line for s in segments if s.start <= seq < s.stop), seq)


class _TailInTheWay(Exception):
    """The point a line is to start from is not sealed yet."""

    def __init__(self, line: LineRow, owner: Owner) -> None:
        self.line = line
        self.owner = owner


class Branches:
    """Thread-safe."""

    def __init__(
        self,
        committer: GroupCommitter,
        transcripts: Transcripts,
        residents: Residents,
        pages: PageWriter,
        pager: Pager,
        make_room: Callable[[], bool],
        indexer: Indexer,
    ) -> None:
        self._indexer = indexer
        self.keeper: CollectionKeeper | None = None
        """Of the sessions' collections: they need sessions themselves, so it comes later."""
        self._make_room = make_room
        self._committer = committer
        self._transcripts = transcripts
        self._residents = residents
        self._pages = pages
        self._pager = pager

    # -- moving a head ----------------------------------------------------------------------------

    def truncate(self, key: SessionKey, at: int, if_head: int | None) -> Receipt:
        """Keep messages [0, at)."""

        def member(transaction: CommitTransaction) -> Receipt:
            row, line = _find(transaction.tables, key)
            length = _checked_head(transaction.tables, line, if_head)
            if not 0 <= at <= length:
                raise UsageError(f"the session has {length} messages, got {at}", field="at")
            if at == length:
                return Receipt(lsn=transaction.lsn, seq=at - 1, head=line.line << SEQ_BITS | at)
            return self._move(transaction, key, row, line, at)

        return self._with_sealed_tail(key, member)

    def restore(self, key: SessionKey, line: LineRow | None, stop: int) -> Receipt:
        """Make the head what it was: message `stop` - 1 of `line`; None empties the session."""

        def member(transaction: CommitTransaction) -> Receipt:
            row, _ = _find(transaction.tables, key)
            origin = line or LineRow(0, row.session, 0, 0, 0, 0)
            return self._move(transaction, key, row, origin, stop)

        return self._with_sealed_tail(key, member)

    def return_to(self, key: SessionKey, head: int, if_head: int) -> Receipt:
        """Make the head one that the session had before. Raises ConflictError where others went on,
        and NotFoundError where there is no such line of it."""

        def member(transaction: CommitTransaction) -> Receipt:
            tables = transaction.tables
            row, line = _find(tables, key)
            _checked_head(tables, line, if_head)
            earlier = line_at(tables, row, head)
            return self._move(transaction, key, row, earlier, head & SEQ_MASK)

        return self._with_sealed_tail(key, member)

    def fork(self, key: SessionKey, new: SessionKey, at: int | None) -> None:
        """A new session that shares messages [0, at) with this one."""

        def member(transaction: CommitTransaction) -> None:
            tables = transaction.tables
            row, line = _find(tables, key)
            length = length_of(tables, line)
            stop = length if at is None else at
            if not 0 <= stop <= length:
                raise UsageError(f"the session has {length} messages, got {stop}", field="at")
            if tables.sessions.find(*new) is not None:
                raise ConflictError("the session is there already", expected=0, actual=new.id)
            parent = _line_of(tables, row, line, stop)
            lsn = transaction.next_lsn()
            tables.sessions.put(self._transcripts.session_row(transaction, new, row.agent, lsn))
            tables.lines.put(LineRow(lsn, lsn, parent, stop, lsn, transaction.at_us))
            self._indexer.changed(transaction, row.scope_number)
            kind = RecordKind.FORKED
            tables.events.put(EventRow(lsn, transaction.at_us, kind, lsn, lsn, stop, None))
            publish_event(transaction, lsn, kind, new, seq=stop)

        self._with_sealed_tail(key, member)

    def _move(
        self, transaction: CommitTransaction, key: SessionKey, row: SessionRow, line: LineRow,
        at: int,
    ) -> Receipt:  # fmt: skip
        tables = transaction.tables
        parent = _line_of(tables, row, line, at)
        lsn = transaction.next_lsn()
        tables.lines.put(LineRow(lsn, row.session, parent, at, lsn, transaction.at_us))
        tables.sessions.put(row._replace(line=lsn))
        self._indexer.changed(transaction, row.scope_number)
        kind = RecordKind.HEAD_MOVED
        tables.events.put(EventRow(lsn, transaction.at_us, kind, row.session, lsn, at, None))
        publish_event(transaction, lsn, kind, key, seq=at)
        self._residents.drop(key)
        transaction.on_rollback(self._residents.drop, key)
        return Receipt(lsn=lsn, seq=at - 1, head=lsn << SEQ_BITS | at)

    def _with_sealed_tail(self, key: SessionKey, member: Callable[[CommitTransaction], T]) -> T:
        """Commit `member`, which asks before it writes, sealing what it says is in the way."""
        try:
            return self._committer.commit(member)
        except _TailInTheWay:
            # Outside the commit, where it holds up nobody; but it gives way to other writers.
            self._transcripts.seal(key, all_of_it=True)

        def sealing(transaction: CommitTransaction) -> T:
            try:
                return member(transaction)
            except _TailInTheWay as tail:
                self._transcripts.seal_line(transaction, key, tail.line, tail.owner)
                return member(transaction)

        return self._committer.commit(sealing)

    # -- taking away ------------------------------------------------------------------------------

    def redact(self, key: SessionKey, seq: int) -> Receipt:
        """Replace a message of the current line by a mark that it was there, for everybody who
        shares it."""

        def member(transaction: CommitTransaction) -> Receipt:
            tables = transaction.tables
            row, line = _find(tables, key)
            length = length_of(tables, line)
            if not 0 <= seq < length:
                raise NotFoundError(f"the session has {length} messages, got {seq}")
            place = place_of(segments_of(tables, line), seq)
            lsn = self._redact_all(transaction, key, row, [place])
            return Receipt(lsn=lsn, seq=length - 1, head=line.line << SEQ_BITS | length)

        return self._committer.commit(member)

    def redact_places(self, key: SessionKey, places: Collection[Place]) -> None:
        """The same for messages on any of a session's branches, in one commit."""

        def member(transaction: CommitTransaction) -> None:
            row, _ = _find(transaction.tables, key)
            self._redact_all(transaction, key, row, places)

        self._committer.commit(member)

    def _redact_all(
        self, transaction: CommitTransaction, key: SessionKey, row: SessionRow,
        places: Collection[Place],
    ) -> int:  # fmt: skip
        lsn = transaction.lsn
        for line, seq in sorted(places):
            if self._redact(transaction, row, line, seq):
                self._indexer.taken(transaction, row.scope_number, line, seq)
                lsn = transaction.next_lsn()
                self._note(transaction, RecordKind.REDACTED, key, row.session, seq, lsn)
        _suspect(transaction.tables, row, transaction.lsn)
        resident = self._residents.peek(key)
        if resident is not None:
            resident.generation += 1
        self._residents.drop(key)
        return lsn

    def _redact(self, transaction: CommitTransaction, row: SessionRow, line: int, seq: int) -> bool:
        tables = transaction.tables
        for _, record in tables.tail.range(line, seq, seq + 1):
            old = open_record(line, seq, record)
            new = pack_record(
                line, seq, lsn=old.lsn, committed_us=old.committed_us, said_us=old.said_us,
                actor=None, body=_redacted(old.body),
            )  # fmt: skip
            tables.tail.put(line, seq, new)
            transaction.unsealed_delta += len(new) - len(record)
            # Whoever writes to this line has to look again.
            for key, resident in self._residents.rows():
                if resident.line == line:
                    resident.generation += 1
                    self._residents.drop(key)
            return True
        for page in tables.pages.map(line, seq, seq + 1):
            records = self._pages.read(tables, page)
            old = records[seq - page.start]
            records[seq - page.start] = old._replace(actor=None, body=_redacted(old.body))
            owner = _owner(tables, row)
            self._replace(transaction, page, owner, page.start, records)
            return True
        return False

    def delete(self, key: SessionKey) -> int:
        """Take a session away; its number. Messages that a fork still reads stay, for it alone."""

        def member(transaction: CommitTransaction) -> int:
            row, _ = _find(transaction.tables, key)
            return self._delete(transaction, key, row)

        return deleting(lambda: self._committer.commit(member), self._make_room)

    def _delete(self, transaction: CommitTransaction, key: SessionKey, row: SessionRow) -> int:
        tables = transaction.tables
        # Without its session, a line lives only as long as forks of it do; children are newer
        # than their parents, so the newest is looked at first.
        lines = {line.line: line for line in tables.lines.of_session(row.session)}
        for line in list(lines.values()):
            tables.lines.put(line._replace(session=0))
            while (above := tables.lines.get(line.parent)) is not None and not above.session:
                lines[above.line] = line = above
        for number in sorted(lines, reverse=True):
            self._trim(transaction, row, lines[number])
        assert self.keeper is not None
        self.keeper.delete(transaction, row.scope, row.id, row.scope_number, row.session)
        tables.sessions.delete(row.session)
        tables.states.delete(row.session, None, None)
        tables.keys.delete(row.session)
        tables.events.purge(row.session)
        self._indexer.changed(transaction, row.scope_number)
        lsn = transaction.next_lsn()
        self._note(transaction, RecordKind.SESSION_DELETED, None, row.session, -1, lsn)
        _suspect(tables, row, lsn)
        drop_scope_if_empty(tables, row.scope_number, row.scope)
        resident = self._residents.peek(key)
        if resident is not None:
            resident.generation += 1
        self._residents.drop(key)
        return row.session

    def _trim(self, transaction: CommitTransaction, row: SessionRow, line: LineRow) -> None:
        """Cut a line that has no session down to what its forks read."""
        tables = transaction.tables
        self._indexer.taken(transaction, row.scope_number, line.line, None)
        needed = max((child.base for child in tables.lines.children(line.line)), default=line.base)
        for page in tables.pages.map(line.line, needed, SEQ_STOP):
            if page.start >= needed:
                self._pages.delete(tables, page)
                transaction.after_commit(lambda page=page: self._pager.drop([page.page]))  # type: ignore[misc]
            else:
                records = self._pages.read(tables, page)[: needed - page.start]
                self._replace(transaction, page, _owner(tables, row), page.start, records)
        for _, record in tables.tail.range(line.line, needed, SEQ_STOP):
            transaction.unsealed_delta -= len(record)
        tables.tail.delete(line.line, needed, SEQ_STOP)
        if needed <= line.base:
            tables.lines.delete(line.line)

    def _replace(
        self, transaction: CommitTransaction, page: PageRow, owner: Owner, start: int,
        records: list[Any],
    ) -> None:  # fmt: skip
        new = self._pages.make(owner, page.line, start, records, sealed=True)
        self._pages.write(transaction.tables, owner, new, [page])
        transaction.after_commit(lambda: self._pager.drop([page.page]))

    def _note(
        self, transaction: CommitTransaction, kind: RecordKind, key: SessionKey | None,
        session: int, seq: int, lsn: int,
    ) -> None:  # fmt: skip
        row = EventRow(lsn, transaction.at_us, kind, session, 0, seq, None)
        transaction.tables.events.put(row)
        publish_event(transaction, lsn, kind, key, seq=seq if seq >= 0 else None)


def drop_scope_if_empty(tables: Tables, number: int, scope: str) -> None:
    """In a commit: a scope without sessions, collections, items and answers leaves nothing behind,
    not even its name, unless it is the tenant of others; its dictionaries are for compact() to
    delete."""
    if _is_used(tables, number):
        return
    tenant = tenant_of(scope)
    if scope != tenant:
        tables.scopes.delete(number)
    above = tables.scopes.number(tenant)
    alone = above is not None and tables.scopes.subtree(tenant) == [(above, tenant)]
    if above is not None and alone and not _is_used(tables, above):
        tables.scopes.delete(above)


def _is_used(tables: Tables, scope_number: int) -> bool:
    return bool(
        tables.sessions.page(scope_number, 0, 1)
        or tables.collections.owned(scope_number, 0)
        or tables.items.page(scope_number, 0, 1)
        or tables.answer_categories.of_scope(scope_number)
    )


def _find(tables: Tables, key: SessionKey) -> tuple[SessionRow, LineRow]:
    row = tables.sessions.find(*key)
    if row is None:
        raise NotFoundError(f"there is no session {key.id!r} in scope {key.scope!r}")
    line = tables.lines.get(row.line)
    if line is None:
        raise CorruptionError("its line is missing", scope=key.scope, session=key.id)
    return row, line


def _checked_head(tables: Tables, line: LineRow, if_head: int | None) -> int:
    length = length_of(tables, line)
    head = line.line << SEQ_BITS | length
    if if_head is not None and if_head != head:
        raise ConflictError("the head has moved", expected=if_head, actual=head)
    return length


def _line_of(tables: Tables, row: SessionRow, line: LineRow, stop: int) -> int:
    """The line that holds message `stop` - 1, sealed; 0 when there is none."""
    if not stop:
        return 0
    found = line
    while stop <= found.base:
        parent = tables.lines.get(found.parent)
        if parent is None:
            raise CorruptionError(f"line {found.parent} is missing")
        found = parent
    pages = tables.pages.map(found.line, stop - 1, stop)
    if not pages:
        raise _TailInTheWay(found, _owner(tables, row))
    return found.line


def _owner(tables: Tables, row: SessionRow) -> Owner:
    tenant = tables.scopes.number(tenant_of(row.scope))
    assert tenant is not None
    return Owner(tenant, row.scope_number)


def _suspect(tables: Tables, row: SessionRow, lsn: int) -> None:
    owner = _owner(tables, row)
    for scope in {owner.tenant, owner.scope}:
        tables.meta.put(f"{SUSPECT}{scope}", str(lsn).encode())


def is_redacted(message: Message) -> bool:
    """Whether it is what stays of one that was taken away."""
    return message.items() >= _MARK.items() and message.keys() <= {*_MARK, "role"}


def _redacted(body: bytes) -> bytes:
    """What stays of a message: that there was one, and whose turn it was."""
    role = decode_shared(body).get("role")
    mark: dict[str, Any] = {"role": role} if type(role) is str and role in _ROLES else {}
    mark |= _MARK
    return encode_json(mark, bytes_max=256, depth_max=1, field="message")
