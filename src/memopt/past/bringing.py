"""Carries out the steps of a reader in a store, beside what is there already.

A session that is there is compared, message by message, and only the rest is written, with the
head that was read; so an import may be repeated, ended at any moment, and follow a history that
grows. There is no mark of how far it came that could be wrong: the sessions are the mark.

Invariant: nothing is taken off a session but what an import put there, and that only to write it
anew with what the source has more of. Not here: what a source means.
"""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from memopt.base.errors import BackpressureError, ConflictError, UsageError
from memopt.base.records import Entry, Message
from memopt.base.units import MIB
from memopt.memory import Memory
from memopt.past.copies import Copies, Twin, is_gone
from memopt.past.records import ORIGIN, About, Begin, Brought, Say, Step
from memopt.sessions.session import Session

_TOGETHER_MAX: Final = 256
"""Messages that are written by one call."""
_TOGETHER_BYTES_MAX: Final = MIB
_READ_AT_ONCE: Final = 64
_OPEN_MAX: Final = 32
"""Sessions of one source that are kept at hand."""
_ATTEMPTS_MAX: Final = 20
_WAIT_SECONDS_MAX: Final = 5.0
_LEFT_OUT: Final = "left_out"


class Bringer:
    """Brings the sessions of one source after the other into a scope."""

    def __init__(
        self, memory: Memory | None, *, scope: str, agent: str | None, report: Brought,
        dry_run: bool = False,
    ) -> None:  # fmt: skip
        """`memory` is None where there is no store yet, in a dry run."""
        self._memory = memory
        self._scope = scope
        self._agent = agent
        self._report = report
        self._dry_run = dry_run
        self._copies = None if memory is None else Copies(memory, scope)
        self._open: OrderedDict[str, _Session] = OrderedDict()
        self._left: dict[str, tuple[int, bool]] = {}
        """Of those that are not at hand: how far they came, and whether nothing more goes in."""

    def bring(self, steps: Iterable[Step]) -> None:
        """All that one source says. What was said before an error is written."""
        try:
            for step in steps:
                if isinstance(step, Say):
                    self._session(step.session).say(step)
                elif isinstance(step, Begin):
                    self._begin(step)
                else:
                    self._session(step.session).describe(step)
        finally:
            for session in self._open.values():
                session.flush()
            self._open.clear()
            self._left.clear()

    def _begin(self, step: Begin) -> None:
        self._report.sessions += 1
        opened = self._session(step.session)
        # It may be in a source twice.
        opened.rewind(step.position)
        if step.parent is None and not opened.head:
            opened.copies = self._copies
        if step.parent is None or opened.is_closed:
            return
        parent = self._session(step.parent)
        parent.flush()
        if opened.head == 0 and not self._dry_run:
            if parent.is_closed and parent.position < step.position:
                opened.close("what it is a fork of is not there", step.session)
                return
            assert parent.session is not None
            with contextlib.suppress(ConflictError):
                parent.session.fork(step.session, at=step.position)
            opened.look()

    def _session(self, name: str) -> "_Session":
        session = self._open.get(name)
        if session is not None:
            self._open.move_to_end(name)
            return session
        while len(self._open) >= _OPEN_MAX:
            old, left = self._open.popitem(last=False)
            left.flush()
            self._left[old] = (left.position, left.is_closed)
        position, is_closed = self._left.pop(name, (0, False))
        session = self._open[name] = _Session(
            self._handle(name), self._report, name, dry_run=self._dry_run
        )
        session.position, session.is_closed = position, session.is_closed or is_closed
        return session

    def _handle(self, name: str) -> Session | None:
        if self._memory is None:
            return None
        try:
            return self._memory.session(name, scope=self._scope, agent=self._agent)
        except UsageError as error:
            self._report.conflict(name, f"cannot be the name of a session: {error}")
            return None


class _Session:
    """One session, as far as it came."""

    def __init__(
        self, session: Session | None, report: Brought, name: str, *, dry_run: bool
    ) -> None:
        self.session = session
        self.position = 0
        """Of what is said next."""
        self.is_closed = session is None and not dry_run
        self._name = name
        self._report = report
        self._dry_run = dry_run
        self._there: list[Entry] = []
        """Read ahead, from `position` on."""
        self._waiting: list[Say] = []
        self._waiting_bytes = 0
        self.copies: Copies | None = None
        """Where to look for what it may be a copy of, before anything is said."""
        self._twins: list[Twin] = []
        """What it was a copy of so far."""
        self.look()

    def look(self) -> None:
        """Read the session's head."""
        self.head = self.session.head if self.session is not None else 0
        self._is_at_end = not self.head

    def rewind(self, position: int) -> None:
        """What is said next is about a message that may be there."""
        self.flush()
        self._there.clear()
        self.position = position
        self._is_at_end = not self.head

    def say(self, step: Say) -> None:
        if self.is_closed or self._is_said_elsewhere(step):
            return
        there = None if self._is_at_end else self._next()
        if there is None:
            self._add(step)
        elif there.message == step.message or is_gone(there.message):
            self._pass()
        else:
            self._differs(there, step)

    def describe(self, step: About) -> None:
        """Keep what is known of the session, where it is not the same already."""
        self.flush()
        if self._dry_run or self.session is None or not self.head:
            return
        about = {name: value for name, value in step.about.items() if value is not None}
        state = self.session.load_state(name=ORIGIN)
        if state is None or state.value != about:
            try:
                self.session.save_state(about, name=ORIGIN)
            except UsageError as error:
                self._report.conflict(self._name, f"what is known of it cannot be kept: {error}")

    def close(self, reason: str, where: str) -> None:
        """Nothing more goes into it."""
        self.is_closed = True
        self._report.conflict(where, reason)

    # -- what another one holds -------------------------------------------------------------------

    def _is_said_elsewhere(self, step: Say) -> bool:
        if self.copies is not None:
            self._twins, self.copies = self.copies.like(self._name, step), None
        if not self._twins:
            return False
        alike = [twin for twin in self._twins if twin.says(step)]
        if not alike:
            self._join()
            return False
        self._twins = alike
        self.position += 1
        self._report.messages_there += 1
        return True

    def _join(self) -> None:
        """Share with another session what was the same so far."""
        twins, self._twins = self._twins, []
        if not twins or not self.position or self._dry_run:
            return
        with contextlib.suppress(ConflictError):
            twins[0].session.fork(self._name, at=self.position)
        self.look()
        self._is_at_end = True

    # -- what is there ----------------------------------------------------------------------------

    def _next(self) -> Entry | None:
        if not self._there:
            assert self.session is not None
            stop = self.position + _READ_AT_ONCE
            self._there = list(self.session.entries(self.position, stop))[::-1]
            if not self._there:
                self._is_at_end = True
                return None
        return self._there[-1]

    def _pass(self) -> None:
        self._there.pop()
        self.position += 1
        self._report.messages_there += 1

    def _differs(self, there: Entry, step: Say) -> None:
        """It is something else than the source has now."""
        old, new = _ids(there.message), _ids(step.message)
        if _is_left_out(there.message) and old == new:
            self._pass()
        elif old is None or new is None or not (old <= new or new <= old):
            self.close(
                f"session {self._name!r} holds something else as message {there.seq}", step.where
            )
        elif new < old or _grew(step.message, there.message):
            # An older copy of the source.
            self._pass()
        elif old < new or _grew(there.message, step.message):
            self._rewrite(there, step)
        else:
            self._report.messages_changed += 1
            self._pass()

    def _rewrite(self, there: Entry, step: Say) -> None:
        assert self.session is not None
        for entry in self.session.entries(there.seq):
            if _ids(entry.message) is None and not is_gone(entry.message):
                self.close(
                    f"message {there.seq} of session {self._name!r} has grown, and somebody else"
                    " wrote behind it", step.where,
                )  # fmt: skip
                return
        if not self._dry_run:
            self.head = self.session.truncate(there.seq, if_head=self.head).head
        self._there.clear()
        self._is_at_end = True
        self._report.messages_rewritten += 1
        self._add(step)

    # -- what is new ------------------------------------------------------------------------------

    def _add(self, step: Say) -> None:
        self.position += 1
        self._report.messages += 1
        if self._dry_run:
            return
        size = _weight(step.message)
        if self._waiting_bytes + size > _TOGETHER_BYTES_MAX:
            self.flush()
        self._waiting.append(step)
        self._waiting_bytes += size
        if len(self._waiting) >= _TOGETHER_MAX or self._waiting_bytes >= _TOGETHER_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._join()
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return
        try:
            self._write([step.message for step in waiting], [step.at for step in waiting])
        except UsageError:
            # Nothing of them was written: one by one, to keep the good ones.
            for step in waiting:
                try:
                    self._write([step.message], [step.at])
                except UsageError as error:
                    self._write([_left_out(step.message, error)], [step.at])
                    self._report.messages_left_out += 1
                    self._report.damage(step.where, f"a message is left out: {error}")

    def _write(self, messages: list[Message], times: list[datetime | None]) -> None:
        assert self.session is not None
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                self.head = self.session.extend(messages, if_head=self.head, at=times).head
                return
            except BackpressureError as error:
                if attempt == _ATTEMPTS_MAX:
                    raise
                time.sleep(min(error.retry_after_seconds, _WAIT_SECONDS_MAX))


def _weight(value: Any) -> int:
    """Bytes of a message, about: characters of its texts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return 16 + sum(map(_weight, value.values()))
    return 16 + sum(map(_weight, value)) if isinstance(value, list) else 8


def _ids(message: Message) -> set[Any] | None:
    """The source's names of what a message was made of; None where nothing was imported."""
    origin = message.get(ORIGIN)
    ids = origin.get("ids") if isinstance(origin, dict) else None
    return {id for id in ids if isinstance(id, str | int)} if isinstance(ids, list) else None


def _grew(old: Message, new: Message) -> bool:
    """Whether a message says the same and more by now."""
    before, after = old.get("content"), new.get("content")
    return (
        old.get("role") == new.get("role")
        and isinstance(after, str)
        and (before is None or isinstance(before, str))
        and len(after) > len(before or "")
        and after.startswith(before or "")
    )


def _left_out(message: Message, error: UsageError) -> Message:
    """What stands in the place of a message that the store refuses."""
    size = len(msgspec.json.encode(message))
    origin = message.get(ORIGIN)
    kept: Message = {"role": message.get("role"), "content": f"[{size} bytes were left out]"}
    if "tool_call_id" in message:
        kept["tool_call_id"] = message["tool_call_id"]
    return kept | {
        ORIGIN: {**(origin if isinstance(origin, dict) else {}), _LEFT_OUT: error.reason}
    }


def _is_left_out(message: Message) -> bool:
    origin = message.get(ORIGIN)
    return isinstance(origin, dict) and _LEFT_OUT in origin
