"""A conversation whose source says no name: the session that says the same, or a new one.

It is read beside every session that begins as it does. Where all of it is said by one already,
nothing is written. Where it goes on behind the end of one that was imported, it is that session;
where it says something else, it is a fork, as an edited question is one. Invariant: nothing that
the source says is passed over for what another session says in its place, or does not say any
more. Not here: what sessions begin with.
"""

import re
from typing import Final

from memopt.base.errors import ConflictError, UsageError
from memopt.base.records import Entry
from memopt.past.beginnings import Beginnings
from memopt.past.comparing import grew, ids_of, weight
from memopt.past.copies import Twin, files_of, is_enough
from memopt.past.growing import Growing
from memopt.past.records import ORIGIN, ORIGIN_FILES, About, Brought, Say
from memopt.sessions.session import Session

_FILES_MAX: Final = 16
"""Of one session, that are noted; not those of further copies."""


class Nameless(Growing):
    """One conversation without a name of its own."""

    def __init__(
        self, beginnings: Beginnings | None, names: tuple[str, ...], file: str, report: Brought,
        *, dry_run: bool,
    ) -> None:  # fmt: skip
        """`names` are what its `file` would have it called: today, and by earlier versions.
        `beginnings` is None where there is no store yet, in a dry run."""
        super().__init__(None, report, names[0], dry_run=dry_run)
        self.is_closed = False
        self._names = names
        self._file = file
        self._is_noted = False
        self._beginnings = beginnings
        self._held: list[Say] = []
        """What was said first, until it is enough to be looked for."""
        self._held_bytes = 0
        self._began: list[Say] = []
        self._doubted: list[Say] = []
        """Of what is said already: what may have been something else."""
        self._half: Say | None = None
        """What was said last, of which the session has more."""
        self._is_looked_for = beginnings is not None
        self._is_settled = beginnings is None

    def say(self, step: Say) -> None:
        if self._half is not None:
            # It is no older copy, for it goes on.
            half, self._half = self._half, None
            self._report.messages_there -= 1
            self._branch(None)
            self._add(half)
        if not self._is_looked_for:
            super().say(step)
            return
        self._held.append(step)
        self._held_bytes += weight(step.message)
        if is_enough(len(self._held), self._held_bytes):
            self._look_for()

    def flush(self) -> None:
        if self._held:
            self._look_for()
        super().flush()
        if self._is_settled and self._is_at_end and not self._is_noted:
            self._note_file()

    def settle(self) -> None:
        """Be one session from now on."""
        self.flush()
        if not self._is_settled and self.position:
            self._part(None)

    def describe(self, step: About) -> None:
        self.flush()
        if not self._is_settled:
            # All of it is said elsewhere, where it is described, too, unless that was cut off.
            twin = next((twin for twin in self._twins if twin.name in self._names), None)
            if twin is None or twin.session.load_state(name=ORIGIN) is not None:
                self._note_file()
                return
            self._be(twin)
        super().describe(step)
        self._note_file()

    def _note_file(self) -> None:
        """Note in the session where it was read: where something of it is redacted later on, that
        tells which one it is."""
        session = self.session
        if not self._is_settled and not any(twin.is_in_file() for twin in self._twins):
            session = next((one.session for one in self._twins if self._is_imported(one)), None)
        if self._dry_run or not self._file or session is None or not session.head:
            return
        files, self._is_noted = files_of(session), self._is_settled
        if self._file not in files and len(files) < _FILES_MAX:
            session.save_state({"files": [*files, self._file]}, name=ORIGIN_FILES)

    # -- which session it is ----------------------------------------------------------------------

    def _look_for(self) -> None:
        assert self._beginnings is not None
        self._is_looked_for = False
        held, self._held = self._held, []
        self._began = held
        self._twins = self._beginnings.like(self._names, held, self._file)
        if not self._twins:
            self._part(None)
        for step in held:
            super().say(step)

    def _join(self) -> None:
        """Nothing is written as long as another session says all of it."""

    def _part(self, step: Say | None) -> None:
        """No other session goes on with that, or nothing more is said for now."""
        twins, self._twins = sorted(self._twins, key=lambda one: len(one.doubted)), []
        if self._is_settled:
            return
        assert self._beginnings is not None
        for twin in twins:
            if (step is None or twin.may_be(step, is_last=True)) and self._is_imported(twin):
                self._be(twin)
                break
        else:
            self._branch(twins[0] if twins else None)
        if self.session is not None:
            self._beginnings.began(self.session.id, self._began)
        self._began = []

    def _be(self, twin: Twin) -> None:
        assert self._beginnings is not None
        self._is_settled = True
        self._doubted = twin.doubted
        self.session = self._beginnings.session(twin.name)
        self.look()

    def _branch(self, twin: Twin | None) -> None:
        """Be a new session, which shares with another one what was the same so far, and nothing
        that may have been something else."""
        doubted = self._doubted if twin is None else twin.doubted
        self._doubted = []
        self.position -= len(doubted)
        self._report.messages_there -= len(doubted)
        self._fork(self.session if twin is None else twin.session)
        if not self.is_closed:
            for step in doubted:
                self._add(step)

    def _fork(self, shared: Session | None) -> None:
        self._is_settled, self._is_noted = True, False
        if self._dry_run or self._beginnings is None:
            self.session, self.head, self._is_at_end = None, 0, True
            return
        try:
            while True:
                name = self._beginnings.free(self._names[0])
                session = self._beginnings.session(name)
                if shared is None or not self.position:
                    break
                try:
                    shared.fork(name, at=self.position)
                    break
                except ConflictError:
                    # Somebody took the name meanwhile.
                    continue
        except UsageError as error:
            self.close(f"cannot be the name of a session: {error}", self._names[0])
            return
        self.session = session
        self._look_away()
        self.look()
        self._is_at_end = True

    def _is_imported(self, twin: Twin) -> bool:
        """Whether an import made it: only such a session is gone on with."""
        base = re.escape(self._names[0])
        if twin.name in self._names or re.fullmatch(rf"{base}~\d+", twin.name):
            return True
        return twin.session.load_state(name=ORIGIN) is not None

    # -- once it is one ---------------------------------------------------------------------------

    def _differs(self, there: Entry, step: Say) -> None:
        old, new = ids_of(there.message), ids_of(step.message)
        if old is not None and old == new and grew(step.message, there.message):
            # An older copy of the source, where nothing follows.
            self._half = step
            self._report.messages_there += 1
        elif (
            old is not None and old == new and grew(there.message, step.message)
            and self.session is not None and there.seq == len(self.session) - 1
        ):  # fmt: skip
            self._rewrite(there, step)
        else:
            self._branch(None)
            self._add(step)
