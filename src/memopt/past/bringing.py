"""Carries out the steps of a reader in a store, beside what is there already.

A session that is there is compared, message by message, and only the rest is written, with the
head that was read; so an import may be repeated, ended at any moment, and follow a history that
grows. There is no mark of how far it came that could be wrong: the sessions are the mark.

Invariant: nothing is taken off a session but what an import put there, and that only to write it
anew with what the source has more of. Not here: what a source means.
"""

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from memopt.base.errors import ConflictError, UsageError
from memopt.memory import Memory
from memopt.past.beginnings import Beginnings
from memopt.past.copies import Copies
from memopt.past.growing import Growing
from memopt.past.nameless import Nameless
from memopt.past.records import About, Begin, Brought, Say, Step
from memopt.past.room import Room
from memopt.sessions.session import Session

_OPEN_MAX: Final = 32
"""Sessions of one source that are kept at hand."""


class Bringer:
    """Brings the sessions of one source after the other into a scope."""

    def __init__(
        self, memory: Memory | None, *, scope: str, agent: str | None, report: Brought,
        dry_run: bool = False,
    ) -> None:  # fmt: skip
        """`memory` is None where there is no store yet, in a dry run."""
        self.room = Room.of(memory)
        """For what is read to be brought in."""
        self._memory = memory
        self._scope = scope
        self._agent = agent
        self._report = report
        self._dry_run = dry_run
        known = Room.of(memory)
        weakref.finalize(self, known.clear)
        self._copies = None if memory is None else Copies(memory, scope, known.part())
        self._beginnings = (
            None if memory is None else Beginnings(memory, scope, agent, known.part())
        )  # fmt: skip
        self._open: OrderedDict[str, Growing] = OrderedDict()
        self._left: dict[str, tuple[int, bool]] = {}
        """Of those that are not at hand: how far they came, and whether nothing more goes in."""
        self._names: dict[str, str] = {}
        """What sessions are called that the source does not name, where that matters."""

    def bring(self, steps: Iterable[Step]) -> None:
        """All that one source says. What was said before an error is written."""
        try:
            for step in steps:
                self.take(step)
        finally:
            self.finish()

    def take(self, step: Step) -> None:
        """The next thing that a source says; `finish` writes what waits."""
        if isinstance(step, Say):
            self._session(step.session).say(step)
        elif isinstance(step, Begin):
            self._begin(step)
        else:
            self._describe(step)

    def finish(self) -> None:
        """A source has ended."""
        for session in self._open.values():
            session.flush()
        self._open.clear()
        self._left.clear()
        self._names.clear()

    def _begin(self, step: Begin) -> None:
        self._report.sessions += 1
        if step.names:
            self._begin_nameless(step)
            return
        parent = None if step.parent is None else self._parent(step.parent)
        opened = self._session(step.session)
        # It may be in a source twice.
        opened.rewind(step.position)
        if parent is None and not opened.head:
            opened.copies = self._copies
        if parent is None or opened.is_closed:
            return
        if opened.head == 0 and not self._dry_run:
            if parent.session is None or (parent.is_closed and parent.position < step.position):
                opened.close("what it is a fork of is not there", step.session)
                return
            with contextlib.suppress(ConflictError):
                parent.session.fork(self._name(step.session), at=step.position)
            opened.look()

    def _begin_nameless(self, step: Begin) -> None:
        # What was said before may be what this one begins with, too.
        for session in self._open.values():
            session.flush()
        self._open[step.session] = Nameless(
            self._beginnings, step.names, step.file, self._report, dry_run=self._dry_run
        )

    def _parent(self, name: str) -> Growing:
        parent = self._session(name)
        if isinstance(parent, Nameless):
            self._settle(name, parent)
        else:
            parent.flush()
        return parent

    def _settle(self, name: str, session: Nameless) -> None:
        session.settle()
        if session.session is not None:
            self._names[name] = session.session.id

    def _describe(self, step: About) -> None:
        session = self._session(step.session)
        if step.about.get("fork_of") in self._names:
            step.about["fork_of"] = self._names[step.about["fork_of"]]
        session.describe(step)
        if isinstance(session, Nameless):
            # It is known in the end.
            del self._open[step.session]

    def _session(self, name: str) -> Growing:
        session = self._open.get(name)
        if session is not None:
            self._open.move_to_end(name)
            return session
        while len(self._open) >= _OPEN_MAX:
            old, left = self._open.popitem(last=False)
            if isinstance(left, Nameless):
                self._settle(old, left)
            left.flush()
            self._left[old] = (left.position, left.is_closed)
        position, is_closed = self._left.pop(name, (0, False))
        called = self._name(name)
        session = self._open[name] = Growing(
            self._handle(called), self._report, called, dry_run=self._dry_run
        )
        session.position, session.is_closed = position, session.is_closed or is_closed
        return session

    def _name(self, name: str) -> str:
        """What a session is called: a fork after that which it is a fork of."""
        root, mark, rest = name.rpartition("~")
        known = self._names.get(name) or (self._names.get(root) if mark else None)
        if known is None:
            return name
        return known if name in self._names else f"{known}~{rest}"

    def _handle(self, name: str) -> Session | None:
        if self._memory is None:
            return None
        try:
            return self._memory.session(name, scope=self._scope, agent=self._agent)
        except UsageError as error:
            self._report.conflict(name, f"cannot be the name of a session: {error}")
            return None
