"""A session that is being imported, as far as it came.

What it holds is compared with what the source says, message by message, and only the rest is
written, with the head that was read. Owns: how far one session is, and what waits to be written.
Invariant: nothing is taken off a session but what an import put there, and that only to write it
anew with what the source has more of. Not here: which session it is.
"""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec

from memopt.base.errors import BackpressureError, ConflictError, UsageError
from memopt.base.records import Entry, Message
from memopt.base.units import MIB
from memopt.past.comparing import LEFT_OUT, grew, ids_of, is_gone, is_said, weight
from memopt.past.copies import Copies, Twin
from memopt.past.records import ORIGIN, About, Brought, Say
from memopt.sessions.session import Session

_TOGETHER_MAX: Final = 256
"""Messages that are written by one call."""
_TOGETHER_BYTES_MAX: Final = MIB
_ATTEMPTS_MAX: Final = 20
_WAIT_SECONDS_MAX: Final = 5.0


class Growing:
    """One session whose name the source says."""

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
        self._there: Iterator[Entry] | None = None
        """What follows behind `_ahead`."""
        self._ahead: Entry | None = None
        """The message at `position`, where it was looked at."""
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
        self._look_away()
        self.position = position
        self._is_at_end = not self.head

    def say(self, step: Say) -> None:
        if self.is_closed or self._is_said_elsewhere(step):
            return
        there = None if self._is_at_end else self._next()
        if there is None:
            self._add(step)
        elif is_said(there.message, step.message):
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
            self._part(step)
            return False
        self._twins = alike
        self.position += 1
        self._report.messages_there += 1
        return True

    def _part(self, step: Say | None) -> None:
        """No other session goes on with that."""
        self._join()

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
        if self._ahead is None:
            if self._there is None:
                assert self.session is not None
                self._there = self.session.entries(self.position)
            self._ahead = next(self._there, None)
            self._is_at_end = self._ahead is None
        return self._ahead

    def _pass(self) -> None:
        self._ahead = None
        self.position += 1
        self._report.messages_there += 1

    def _look_away(self) -> None:
        """What is there is another one than was read of it."""
        self._there = self._ahead = None

    def _differs(self, there: Entry, step: Say) -> None:
        """It is something else than the source has now."""
        old, new = ids_of(there.message), ids_of(step.message)
        if old is None or new is None or not (old <= new or new <= old):
            self.close(
                f"session {self._name!r} holds something else as message {there.seq}", step.where
            )
        elif new < old or grew(step.message, there.message):
            # An older copy of the source.
            self._pass()
        elif old < new or grew(there.message, step.message):
            self._rewrite(there, step)
        else:
            self._report.messages_changed += 1
            self._pass()

    def _rewrite(self, there: Entry, step: Say) -> None:
        assert self.session is not None
        for entry in self.session.entries(there.seq):
            if ids_of(entry.message) is None and not is_gone(entry.message):
                self.close(
                    f"message {there.seq} of session {self._name!r} has grown, and somebody else"
                    " wrote behind it", step.where,
                )  # fmt: skip
                return
        if not self._dry_run:
            self.head = self.session.truncate(there.seq, if_head=self.head).head
        self._look_away()
        self._is_at_end = True
        self._report.messages_rewritten += 1
        self._add(step)

    # -- what is new ------------------------------------------------------------------------------

    def _add(self, step: Say) -> None:
        self.position += 1
        self._report.messages += 1
        if self._dry_run:
            return
        size = weight(step.message)
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


def _left_out(message: Message, error: UsageError) -> Message:
    """What stands in the place of a message that the store refuses."""
    size = len(msgspec.json.encode(message))
    origin = message.get(ORIGIN)
    kept: Message = {"role": message.get("role"), "content": f"[{size} bytes were left out]"}
    if "tool_call_id" in message:
        kept["tool_call_id"] = message["tool_call_id"]
    return kept | {ORIGIN: {**(origin if isinstance(origin, dict) else {}), LEFT_OUT: error.reason}}
