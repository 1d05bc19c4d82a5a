"""Compaction: seal what is open, renew what is stale, erase what was forgotten, give room back.

The only place where a lot of work is done at once, and only when a user asks for it. Every step is
a commit of its own and bounded, so others go on meanwhile and a kill in the middle loses nothing;
what was not reached is done by the next compaction.

Retention happens here too: older events and abandoned branches go, never the only copy of a
message on a current line.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from memopt.base.config import Config
from memopt.base.events import DictionaryTrained, Events
from memopt.base.protocols import Clock, Compressor, Reader, Tables
from memopt.base.records import DictionaryRow, LineRow, PageRow, SessionRow
from memopt.base.units import KIB
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.journal.history import JOURNAL_START, JOURNAL_START_US, journal_start
from memopt.paging.dictionaries import Dictionaries, Trained
from memopt.paging.page_writer import Owner, PageWriter
from memopt.paging.pager import Pager
from memopt.sessions.branches import SUSPECT
from memopt.sessions.names import SessionKey, tenant_of
from memopt.sessions.reading import SEQ_STOP
from memopt.sessions.states import trim_states
from memopt.sessions.transcripts import Transcripts

_SCAN_ROWS: Final = 256
_SAMPLES_MAX: Final = 512
_LARGE_BYTES: Final = 256 * KIB


class Compacted(NamedTuple):
    sealed_sessions: int
    pages_encoded: int
    dictionaries_trained: int
    dictionaries_dropped: int
    texts_dropped: int


class Compaction:
    """One at a time; the caller sees to that."""

    def __init__(
        self,
        home: Reader,
        committer: GroupCommitter,
        transcripts: Transcripts,
        pages: PageWriter,
        pager: Pager,
        dictionaries: Dictionaries,
        compressor: Compressor,
        *,
        config: Config,
        clock: Clock,
        events: Events,
        drop_dictionary: Callable[[int], None],
        index: Callable[[], None],
        mend: Callable[[], object],
    ) -> None:
        """`index` finishes the index of recall, and takes out of it what was taken away; `mend`
        drops what is damaged and can be made again."""
        self._finish_index = index
        self._mend = mend
        self._home = home
        self._committer = committer
        self._transcripts = transcripts
        self._pages = pages
        self._pager = pager
        self._dictionaries = dictionaries
        self._compressor = compressor
        self._config = config
        self._clock = clock
        self._events = events
        self._drop_dictionary = drop_dictionary

    def run(self, progress: Callable[[int, int], None] | None) -> Compacted:
        """All of it, in the order in which a step helps the next."""
        with self._dictionaries.learning:
            return self._run(progress)

    def _run(self, progress: Callable[[int, int], None] | None) -> Compacted:
        report = progress or (lambda done, total: None)
        report(0, 100)
        self._expire()
        report(5, 100)
        sealed = self._seal_tails()
        report(35, 100)
        suspects = self._suspects()
        self._retire(suspects)
        trained = self._train(suspects)
        report(50, 100)
        encoded, texts = self._encode_again(report)
        self._finish_index()
        self._mend()
        dropped = self._drop_unused()
        self._clear(suspects)
        report(95, 100)
        return Compacted(sealed, encoded, trained, dropped, texts)

    # -- tails ------------------------------------------------------------------------------------

    def _seal_tails(self) -> int:
        """Seal every tail, also those of abandoned branches."""
        sealed, at = 0, (0, 0)
        while True:
            with self._home.snapshot() as tables:
                rows = tables.tail.scan(at, 1)
                line = tables.lines.get(rows[0][0]) if rows else None
                session = tables.sessions.get(line.session) if line is not None else None
            if not rows:
                return sealed
            at = (rows[0][0], SEQ_STOP - 1)
            if line is None or session is None:
                continue
            key, owner = SessionKey(session.scope, session.id), self._owner(session)
            if session.line == line.line:
                self._transcripts.seal(key, all_of_it=True)
            else:
                self._committer.commit(
                    lambda t, key=key, line=line, owner=owner: self._transcripts.seal_line(  # type: ignore[misc]
                        t, key, line, owner
                    )
                )
            sealed += 1

    def _owner(self, session: SessionRow) -> Owner:
        with self._home.snapshot() as tables:
            tenant = tables.scopes.number(tenant_of(session.scope))
        return Owner(tenant or 0, session.scope_number)

    # -- dictionaries -----------------------------------------------------------------------------

    def _suspects(self) -> dict[int, int]:
        """Scopes from which something was taken away, and at which LSN."""
        with self._home.snapshot() as tables:
            return {
                int(name[len(SUSPECT) :]): int(tables.meta.get(name) or b"0")
                for name in tables.meta.names(SUSPECT)
            }

    def _retire(self, suspects: dict[int, int]) -> None:
        """No page is written any more with a dictionary that may hold what was taken away."""

        def member(transaction: CommitTransaction) -> list[int]:
            table = transaction.tables.dictionaries
            stale = [
                row
                for row in table.list()
                if not row.retired and suspects.get(row.scope_number, -1) >= row.made_lsn
            ]
            for row in stale:
                whole = table.get(row.dictionary)
                assert whole is not None
                table.put(whole._replace(retired=1))
            return [row.scope_number for row in stale]

        if suspects:
            self._dictionaries.refresh(*self._committer.commit(member))

    def _train(self, suspects: dict[int, int]) -> int:
        """Dictionaries for tenants that have enough pages and none, and anew for suspects."""
        trained = 0
        for tenant, samples in self._samples().items():
            with self._home.snapshot() as tables:
                has_one = tables.dictionaries.current(tenant) is not None or any(
                    tables.dictionaries.current(scope) is not None for scope, _ in samples
                )
            enough = len(samples) >= min(32, self._config.dictionary_training_pages)
            if (has_one and tenant not in suspects) or not enough:
                continue
            trained += install_learnt(
                self._dictionaries, self._committer, self._events, tenant, samples
            )
        return trained

    def _samples(self) -> dict[int, list[tuple[int, PageRow]]]:
        """Pages of each tenant to learn from, spread over its scopes."""
        found: dict[int, list[tuple[int, PageRow]]] = {}
        seen: dict[int, int] = {}
        for row, owner in self._all_pages():
            if owner is None:
                continue
            samples = found.setdefault(owner.tenant, [])
            count = seen[owner.tenant] = seen.get(owner.tenant, 0) + 1
            if len(samples) < _SAMPLES_MAX:
                samples.append((owner.scope, row))
            elif (at := hash((row.page, count)) % count) < _SAMPLES_MAX:
                samples[at] = (owner.scope, row)
        return found

    # -- pages ------------------------------------------------------------------------------------

    def _encode_again(self, report: Callable[[int, int], None]) -> tuple[int, int]:
        """Pages whose dictionary is retired or is no longer the one they would get, and runs of
        small neighbours, are written again."""
        encoded = texts = 0
        total = max(1, self._committer.lsn)
        for line, owner in self._all_lines():
            if owner is None:
                continue
            at = 0
            while True:
                with self._home.snapshot() as tables:
                    rows = tables.pages.map(line.line, at, SEQ_STOP)[:_SCAN_ROWS]
                if not rows:
                    break
                for group in self._groups(rows, owner):
                    texts += self._write_again(owner, group)
                    encoded += len(group)
                at = rows[-1].stop
            report(50 + 40 * min(line.line, total) // total, 100)
        return encoded, texts

    def _groups(self, rows: list[PageRow], owner: Owner) -> Iterator[list[PageRow]]:
        """Neighbours to be written as one page; only those that need it."""
        target = self._config.page_target_bytes
        wanted = self._dictionaries.of(owner)
        group: list[PageRow] = []
        for row in rows:
            if group and sum(old.raw_bytes for old in group) + row.raw_bytes > 2 * target:
                yield from self._if_needed(group, wanted)
                group = []
            group.append(row)
            if sum(old.raw_bytes for old in group) >= target:
                yield from self._if_needed(group, wanted)
                group = []
        yield from self._if_needed(group, wanted)

    def _if_needed(self, group: list[PageRow], wanted: int) -> Iterator[list[PageRow]]:
        if len(group) > 1:
            yield group
        elif group:
            with self._home.snapshot() as tables:
                used = self._pages.dictionary_used(tables, group[0])
            # Large pages do without a dictionary: there is nothing to renew.
            if used is not None and used != wanted and (used or group[0].raw_bytes <= _LARGE_BYTES):
                yield group

    def _write_again(self, owner: Owner, group: list[PageRow]) -> int:
        def member(transaction: CommitTransaction) -> int:
            tables = transaction.tables
            first, last = group[0], group[-1]
            if tables.pages.map(first.line, first.start, last.stop) != group:
                return 0
            records = list(
                itertools.chain.from_iterable(self._pages.read(tables, row) for row in group)
            )
            new = self._pages.make(owner, first.line, first.start, records, sealed=True)
            texts = self._pages.write(tables, owner, new, group)
            transaction.after_commit(lambda: self._pager.drop([row.page for row in group]))
            return texts

        return self._committer.commit(member)

    def _drop_unused(self) -> int:
        """Delete dictionaries that no page names any more."""
        with self._home.snapshot() as tables:
            rows = tables.dictionaries.list()
            scopes = {row.dictionary: tables.scopes.path(row.scope_number) for row in rows}
        retired = {row.dictionary for row in rows if row.retired or scopes[row.dictionary] is None}
        if not retired:
            return 0
        for page, _ in self._all_pages():
            with self._home.snapshot() as tables:
                used = self._pages.dictionary_used(tables, page)
                retired.discard(used or 0)

        def member(transaction: CommitTransaction) -> None:
            for dictionary in retired:
                transaction.tables.dictionaries.delete(dictionary)

        if retired:
            self._committer.commit(member)
            for dictionary in retired:
                self._drop_dictionary(dictionary)
        return len(retired)

    def _clear(self, suspects: dict[int, int]) -> None:
        """What was suspect is settled, unless more was taken away meanwhile."""

        def member(transaction: CommitTransaction) -> None:
            meta = transaction.tables.meta
            for scope, lsn in suspects.items():
                name = f"{SUSPECT}{scope}"
                if meta.get(name) == str(lsn).encode():
                    meta.delete(name)

        if suspects:
            self._committer.commit(member)

    # -- retention --------------------------------------------------------------------------------

    def _expire(self) -> None:
        """Trim keys, state versions, events and abandoned branches as the settings say."""
        config = self._config
        before = self._clock.now_us() - int(config.key_retention_seconds * 1e6)
        while self._committer.commit(lambda t: t.tables.keys.trim(before, _SCAN_ROWS)):
            pass
        if config.state_versions_max is not None:
            self._trim_states(config.state_versions_max)
        start = self._retention_start()
        if start:
            # Older tails are sealed first, so that what goes is never a message's only copy.
            self._seal_tails()
            self._trim_journal(start)

    def _trim_states(self, keep: int) -> None:
        for row in self._all_sessions():
            with self._home.snapshot() as tables:
                versions = tables.states.versions(row.session, None)
            for name, group in itertools.groupby(versions, key=lambda version: version.name):
                newest = list(group)[-1].version
                oldest = max(1, newest - keep + 1)
                self._committer.commit(
                    lambda t, name=name, oldest=oldest, row=row: trim_states(  # type: ignore[misc]
                        t.tables, self._compressor, row.session, name, oldest,
                        self._config.state_keyframe_versions,
                    )
                )  # fmt: skip

    def _retention_start(self) -> int:
        """The LSN up to which the journal may be trimmed; 0 when it may not."""
        config, start = self._config, 0
        if config.journal_retention_records is not None:
            start = max(start, self._committer.lsn - config.journal_retention_records)
        if config.journal_retention_seconds is not None:
            moment = self._clock.now_us() - int(config.journal_retention_seconds * 1e6)
            start = max(start, self._lsn_at(moment))
        return start

    def _lsn_at(self, moment_us: int) -> int:
        """The highest LSN committed by then, as far as events and pages know it."""
        found = after = 0
        while True:
            with self._home.snapshot() as tables:
                rows = tables.events.since(after, _SCAN_ROWS)
            for row in rows:
                if row.at_us > moment_us:
                    return found
                found = row.lsn
            if not rows:
                return found
            after = rows[-1].lsn

    def _trim_journal(self, start: int) -> None:
        with self._home.snapshot() as tables:
            known = journal_start(tables)
        if start <= known:
            return
        start_us = self._last_event_us(known, start)

        def member(transaction: CommitTransaction) -> None:
            meta = transaction.tables.meta
            meta.put(JOURNAL_START, str(start).encode())
            if start_us:
                meta.put(JOURNAL_START_US, str(start_us).encode())

        self._committer.commit(member)
        while self._committer.commit(lambda t: t.tables.events.delete(start, _SCAN_ROWS)):
            pass
        for row in self._all_sessions():
            self._committer.commit(
                lambda t, row=row: self._transcripts.drop_abandoned(t, row, start)  # type: ignore[misc]
            )

    def _last_event_us(self, after: int, up_to: int) -> int:
        """When the last event in (after, up_to] was; 0 when there is none."""
        found = 0
        while True:
            with self._home.snapshot() as tables:
                rows = tables.events.since(after, _SCAN_ROWS)
            for row in rows:
                if row.lsn > up_to:
                    return found
                found = row.at_us
            if not rows:
                return found
            after = rows[-1].lsn

    # -- walks ------------------------------------------------------------------------------------

    def _all_sessions(self) -> Iterator[SessionRow]:
        after = 0
        while True:
            with self._home.snapshot() as tables:
                rows = tables.sessions.page(None, after, _SCAN_ROWS)
            yield from rows
            if len(rows) < _SCAN_ROWS:
                return
            after = rows[-1].session

    def _all_lines(self) -> Iterator[tuple[LineRow, Owner | None]]:
        """Every line that has pages, with whose it is; None once only forks read it."""
        known: tuple[LineRow, Owner | None] | None = None
        for page in self._page_rows():
            if known is None or known[0].line != page.line:
                with self._home.snapshot() as tables:
                    line = tables.lines.get(page.line)
                    session = tables.sessions.get(line.session) if line is not None else None
                    session = session or self._reader_of(tables, line)
                if line is None:
                    continue
                owner = self._owner(session) if session is not None else None
                known = (line, owner)
                yield known

    def _reader_of(self, tables: Tables, line: LineRow | None) -> SessionRow | None:
        """A session whose fork still reads a line that lost its own."""
        while line is not None:
            children = tables.lines.children(line.line)
            for child in children:
                session = tables.sessions.get(child.session)
                if session is not None:
                    return session
            line = children[0] if children else None
        return None

    def _all_pages(self) -> Iterator[tuple[PageRow, Owner | None]]:
        owners: tuple[int, Owner | None] = (0, None)
        for page in self._page_rows():
            if owners[0] != page.line:
                with self._home.snapshot() as tables:
                    line = tables.lines.get(page.line)
                    session = tables.sessions.get(line.session) if line is not None else None
                owners = (page.line, self._owner(session) if session is not None else None)
            yield page, owners[1]

    def _page_rows(self) -> Iterator[PageRow]:
        at = (0, 0)
        while True:
            with self._home.snapshot() as tables:
                rows = tables.pages.scan(at, _SCAN_ROWS)
            yield from rows
            if len(rows) < _SCAN_ROWS:
                return
            at = (rows[-1].line, rows[-1].start)


def install_learnt(
    dictionaries: Dictionaries, committer: GroupCommitter, events: Events, tenant: int,
    samples: list[tuple[int, PageRow]] | None,
) -> int:  # fmt: skip
    """Learn and install the dictionaries of a tenant; how many."""
    with dictionaries.learning:
        return _install_learnt(dictionaries, committer, events, tenant, samples)


def _install_learnt(
    dictionaries: Dictionaries, committer: GroupCommitter, events: Events, tenant: int,
    samples: list[tuple[int, PageRow]] | None,
) -> int:  # fmt: skip
    # What was forgotten later may be in a sample, so a dictionary is as old as its samples are.
    lsn = committer.lsn
    trained: list[Trained] = dictionaries.learn(tenant, samples)
    for item in trained:

        def member(transaction: CommitTransaction, item: Trained = item) -> DictionaryRow | None:
            tables = transaction.tables
            # The scope may be gone since, or something of it forgotten.
            if tables.scopes.path(item.scope) is None:
                return None
            if int(tables.meta.get(f"{SUSPECT}{item.scope}") or b"0") > lsn:
                return None
            return dictionaries.install(tables, item, lsn)

        row = committer.commit(member)
        dictionaries.refresh(item.scope)
        if row is not None:
            events.emit(DictionaryTrained(str(item.scope), len(item.body), item.samples, 0.0))
    return len(trained)
