"""Forgetting: a plan that can be read first, then one that is carried out.

A plan names the sessions and positions it found; carrying it out looks again, so what was written
in between is not missed. Whole sessions are deleted; single messages are redacted on every branch;
of a state, every version up to the last one that holds the string goes; memories go with all their
versions. Hidden at once; erased from dictionaries, free pages and the log by compact().
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from memopt.base.answer_protocols import AnswerKeeper
from memopt.base.errors import NotFoundError, UsageError
from memopt.base.item_protocols import ItemKeeper
from memopt.base.item_records import item_number
from memopt.base.moments import check_time
from memopt.base.protocols import CollectionKeeper, Compressor, Reader, Tables
from memopt.base.records import (
    EventRow,
    ForgetPlan,
    ForgetReceipt,
    ForgetTarget,
    Reach,
    RecordKind,
    Selector,
    SessionRow,
    to_us,
)
from memopt.codecs.message import contains, decode_json
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.sessions.branches import (
    Branches,
    Place,
    drop_scope_if_empty,
    is_redacted,
    place_of,
)
from memopt.sessions.listing import scope_numbers
from memopt.sessions.names import SessionKey, check_name, check_scope
from memopt.sessions.reading import LineReader, segments_of
from memopt.sessions.states import States, chain_of, decode_chain, trim_states
from memopt.sessions.transcripts import publish_event

BACKUPS: Final = "backup:"
"""Meta entries: where copies of this store were made, and at which LSN."""
_LIST_PAGE: Final = 256


class _Found(NamedTuple):
    target: ForgetTarget
    places: frozenset[Place]
    """Of the messages to redact; empty where the whole session goes."""
    values: dict[int, list[int] | None]
    """By collection, what to delete of it; empty where everything goes."""
    items: Sequence[int] = ()
    """Of a scope, by their numbers."""
    answers: Sequence[int] = ()


class Forgetting:
    """Thread-safe."""

    def __init__(
        self,
        home: Reader,
        committer: GroupCommitter,
        branches: Branches,
        reader: LineReader,
        states: States,
        compressor: Compressor,
        keeper: CollectionKeeper,
        items: ItemKeeper,
        answers: AnswerKeeper,
        forget_contexts: Callable[[CommitTransaction, Sequence[int]], None],
        keyframe: int,
    ) -> None:
        self._home = home
        self._committer = committer
        self._branches = branches
        self._reader = reader
        self._states = states
        self._compressor = compressor
        self._keeper = keeper
        self._items = items
        self._answers = answers
        self._forget_contexts = forget_contexts
        self._keyframe = keyframe

    def plan(self, selector: Selector) -> ForgetPlan:
        """What forgetting would take away. Reads everything that is selected where a string is
        looked for. Raises NotFoundError for a named session or item that is not there."""
        selector = _checked(selector)
        targets = tuple(found.target for found in self._find(selector))
        return ForgetPlan(selector=selector, targets=targets, backups=self._backups())

    def forget(self, selector: Selector) -> ForgetReceipt:
        """Take away what `plan` finds now."""
        found = self._find(_checked(selector))
        scopes = self._scopes(selector)
        # Whatever was found: what a model wrote may hold it where no message does any more.
        self._committer.commit(lambda t: self._forget_contexts(t, scopes))
        for one in found:
            self._forget(one, selector)
        targets = [one.target for one in found]
        return ForgetReceipt(
            lsn=self._committer.lsn,
            sessions=sum(target.session is not None for target in targets),
            entries=sum(target.entries for target in targets),
            states=sum(target.states for target in targets),
            values=sum(target.values for target in targets),
            items=sum(target.items for target in targets),
            answers=sum(target.answers for target in targets),
            backups=self._backups(),
        )

    def _forget(self, found: _Found, selector: Selector) -> None:
        target = found.target
        if found.values:
            self._keeper.forget(target.scope, target.session, found.values)
        if target.session is None:
            if found.items:
                self._items.forget(target.scope, found.items)
            if target.seqs is None:
                self._committer.commit(lambda t: self._delete_owned(t, target.scope))
            elif found.answers:
                self._answers.forget(target.scope, found.answers, selector.containing)
            if target.seqs is not None and (found.items or found.answers):
                self._committer.commit(lambda t: _drop_if_empty(t.tables, target.scope))
            return
        key = SessionKey(target.scope, target.session)
        if target.seqs is None:
            number = self._branches.delete(key)
            self._states.forget(number)
            return
        if found.places:
            self._branches.redact_places(key, found.places)
        if target.states:
            self._forget_states(key, selector.containing or "")

    def _delete_owned(self, transaction: CommitTransaction, scope: str) -> None:
        """In a commit: the collections of a scope, and the scope where nothing else is in it."""
        tables = transaction.tables
        number = tables.scopes.number(scope)
        if number is None:
            return
        answers = self._answers.drop_all(transaction, number)
        if not tables.collections.owned(number, 0):
            if answers:
                lsn, kind = transaction.next_lsn(), RecordKind.ANSWERS_DELETED
                tables.events.put(EventRow(lsn, transaction.at_us, kind, 0, 0, -1, None))
                publish_event(transaction, lsn, kind, None)
            drop_scope_if_empty(tables, number, scope)
            return
        self._keeper.delete(transaction, scope, None, number, 0)
        lsn, kind = transaction.next_lsn(), RecordKind.COLLECTION_DELETED
        tables.events.put(EventRow(lsn, transaction.at_us, kind, 0, 0, -1, None))
        publish_event(transaction, lsn, kind, None)
        drop_scope_if_empty(tables, number, scope)

    # -- finding ----------------------------------------------------------------------------------

    def _find(self, selector: Selector) -> list[_Found]:
        found = []
        if not _is_of_items(selector):
            for row in self._selected(selector):
                one = self._look_at(row, selector)
                if one is not None:
                    found.append(one)
        if selector.session is None:
            found += self._owned(selector)
        if selector.items:
            self._find_named(selector)
        is_whole = selector.containing is None and not _has_time(selector)
        if selector.session is not None and not found and is_whole:
            raise NotFoundError(
                f"there is no session {selector.session!r} in scope {selector.scope!r}"
            )
        return found

    def _owned(self, selector: Selector) -> Iterator[_Found]:
        """The collections, memories and answers that the scopes themselves own."""
        is_partial = not selector.whole_scope or selector.containing is not None
        is_partial = is_partial or _is_of_items(selector) or _has_time(selector)
        for number in self._scopes(selector):
            values: dict[int, list[int] | None] = {}
            count = 0
            if not is_partial:
                with self._home.snapshot() as tables:
                    count = self._keeper.count(tables, number, 0)
                    is_empty = not tables.collections.owned(number, 0)
                    is_empty = is_empty and not tables.answer_categories.of_scope(number)
            elif selector.containing is not None and not _is_of_items(selector):
                if not _has_time(selector):
                    values = self._keeper.matching(number, 0, selector.containing)
                with self._home.snapshot() as tables:
                    count = _count(tables, values)
            items = self._items.matching(number, selector)
            answers = self._answers.matching(number, selector)
            with self._home.snapshot() as tables:
                scope = tables.scopes.path(number)
            found = items or values or answers
            if scope is None or not (found or not (is_partial or is_empty)):
                continue
            target = ForgetTarget(
                scope=scope, session=None, seqs=() if is_partial else None, entries=0, states=0,
                values=count, items=len(items), answers=len(answers),
            )  # fmt: skip
            yield _Found(target, frozenset(), values, items, answers)

    def _find_named(self, selector: Selector) -> None:
        """Raises NotFoundError for an item that is not in the scopes that are looked at."""
        named = Selector(scope=selector.scope, items=selector.items)
        found = {
            item
            for number in self._scopes(selector)
            for item in self._items.matching(number, named)
        }
        for item_id in selector.items:
            if item_number(item_id) not in found:
                raise NotFoundError(f"there is no item {item_id} in scope {selector.scope!r}")

    def _scopes(self, selector: Selector) -> list[int]:
        with self._home.snapshot() as tables:
            return scope_numbers(tables, selector.scope, selector.reach)

    def _selected(self, selector: Selector) -> Iterator[SessionRow]:
        for number in self._scopes(selector):
            after = 0
            while True:
                with self._home.snapshot() as tables:
                    rows = tables.sessions.page(number, after, _LIST_PAGE)
                yield from (
                    row for row in rows if selector.session is None or row.id == selector.session
                )
                if len(rows) < _LIST_PAGE:
                    break
                after = rows[-1].session

    def _look_at(self, row: SessionRow, selector: Selector) -> _Found | None:
        text = selector.containing
        if text is None and not _has_time(selector):
            return self._whole(row)
        if _has_time(selector):
            # A state and a value are of no one time: they were changed again and again.
            text = None
        if text is not None and (text in row.id or text in (row.agent or "")):
            return self._whole(row)
        places = frozenset(self._matching(row, selector))
        states, count = 0, 0
        matching: dict[int, list[int] | None] = {}
        if text is not None:
            states = sum(1 for _ in self._matching_states(row, text))
            matching = self._keeper.matching(row.scope_number, row.session, text)
            with self._home.snapshot() as tables:
                count = _count(tables, matching)
        if not places and not states and not matching:
            return None
        seqs = tuple(sorted({place.seq for place in places}))
        target = ForgetTarget(
            scope=row.scope, session=row.id, seqs=seqs, entries=len(places), states=states,
            values=count,
        )  # fmt: skip
        return _Found(target, places, matching)

    def _whole(self, row: SessionRow) -> _Found:
        with self._home.snapshot() as tables:
            states = len(tables.states.versions(row.session, None))
            values = self._keeper.count(tables, row.scope_number, row.session)
        _, length = self._reader.length(row.scope, row.id)
        whole = ForgetTarget(
            scope=row.scope, session=row.id, seqs=None, entries=length, states=states,
            values=values,
        )  # fmt: skip
        return _Found(whole, frozenset(), {})

    def _matching(self, row: SessionRow, selector: Selector) -> Iterator[Place]:
        """Matching messages on any branch."""
        text = selector.containing
        since = None if selector.since is None else to_us(selector.since)
        until = None if selector.until is None else to_us(selector.until)
        with self._home.snapshot() as tables:
            lines = [
                (line, segments_of(tables, line)) for line in tables.lines.of_session(row.session)
            ]
        for line, segments in lines:
            for read in self._reader.reads_of(row, line):
                record = read.record
                said = record.committed_us if record.said_us is None else record.said_us
                if (since is not None and said < since) or (until is not None and said >= until):
                    continue
                if text is None and is_redacted(read.message):
                    continue
                if text is None or contains(read.message, text) or text in (record.actor or ""):
                    yield place_of(segments, read.seq)

    def _matching_states(self, row: SessionRow, text: str) -> Iterator[tuple[str, int]]:
        with self._home.snapshot() as tables:
            versions = tables.states.versions(row.session, None)
        for version in versions:
            with self._home.snapshot() as tables:
                chain = chain_of(tables, row.session, version.name, version.version)
            value = decode_json(decode_chain(self._compressor, chain))
            if contains(value, text) or text in version.name:
                yield version.name, version.version

    def _forget_states(self, key: SessionKey, text: str) -> None:
        with self._home.snapshot() as tables:
            row = tables.sessions.find(*key)
        if row is None:
            return
        last: dict[str, int] = {}
        for name, version in self._matching_states(row, text):
            last[name] = version

        def member(transaction: CommitTransaction) -> None:
            tables = transaction.tables
            for name, version in last.items():
                trim_states(
                    tables, self._compressor, row.session, name, version + 1, self._keyframe
                )
            if any(text in name for name in last):
                _unname_events(tables, row.session, text)
            # With a record of its own: a log that loses this commit is noticed by its LSN.
            lsn, kind = transaction.next_lsn(), RecordKind.REDACTED
            tables.events.put(EventRow(lsn, transaction.at_us, kind, row.session, 0, -1, None))
            publish_event(transaction, lsn, kind, key)

        self._committer.commit(member)
        self._states.forget(row.session)

    def _backups(self) -> tuple[str, ...]:
        with self._home.snapshot() as tables:
            return tuple(name[len(BACKUPS) :] for name in tables.meta.names(BACKUPS))


def _count(tables: Tables, found: dict[int, list[int] | None]) -> int:
    """Values that `matching` found; of a collection that goes as a whole, all."""
    return sum(
        len(lsns) if lsns is not None else tables.entry_index.count(collection)
        for collection, lsns in found.items()
    )


def _unname_events(tables: Tables, session: int, text: str) -> None:
    """In a commit: the names of states are all that events hold of what a user wrote."""
    rows = tables.events.of_session(session)
    tables.events.purge(session)
    for row in rows:
        hidden = row.note is not None and text in row.note
        tables.events.put(row._replace(note=None) if hidden else row)


def _drop_if_empty(tables: Tables, scope: str) -> None:
    number = tables.scopes.number(scope)
    if number is not None:
        drop_scope_if_empty(tables, number, scope)


def _is_of_items(selector: Selector) -> bool:
    """Whether it looks at memories and documents alone."""
    return bool(selector.items or selector.source is not None or selector.tags)


def _has_time(selector: Selector) -> bool:
    return selector.since is not None or selector.until is not None


def _checked(selector: Selector) -> Selector:
    check_scope(selector.scope)
    if selector.reach is Reach.ANCESTORS:
        raise UsageError("a scope's ancestors are not its own to forget", field="selector.reach")
    if selector.session is not None:
        check_name(selector.session, field="selector.session")
    containing: object = selector.containing
    if containing is not None and not (isinstance(containing, str) and containing):
        raise UsageError("expected a string to look for", field="selector.containing")
    _check_items(selector)
    if selector.since is not None:
        check_time(selector.since, field="selector.since")
    if selector.until is not None:
        check_time(selector.until, field="selector.until")
        if selector.since is not None and selector.until <= selector.since:
            raise UsageError("ends before it begins", field="selector.until")
    says_how_much = selector.session is not None or selector.containing is not None
    says_how_much = says_how_much or _is_of_items(selector) or _has_time(selector)
    if not says_how_much and not selector.whole_scope:
        raise UsageError(
            "say how much: items=…, session=…, source=…, tags=…, since=…, until=…, containing=… "
            "or whole_scope=True",
            field="selector",
        )
    return selector


def _check_items(selector: Selector) -> None:
    for field in ("items", "tags"):
        names = getattr(selector, field)
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise UsageError(f"expected strings, got {names!r}", field=f"selector.{field}")
    for index, item_id in enumerate(selector.items):
        if item_number(item_id) is None:
            raise UsageError(
                f"expected the id of an item, such as i17, got {item_id!r}",
                field=f"selector.items[{index}]",
            )
    for index, tag in enumerate(selector.tags):
        check_name(tag, field=f"selector.tags[{index}]")
    if selector.source is not None:
        check_name(selector.source, field="selector.source")
    if _is_of_items(selector) and selector.session is not None:
        raise UsageError("a session has no memories: leave one of them out", field="selector")
