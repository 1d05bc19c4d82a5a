"""What the sessions of a scope begin with, for conversations that have no name of their own.

Markdown and lines of messages may say no id. Such a conversation is the session that begins as it
does, whatever that is called: it may come from a file that was moved, copied or named otherwise.
Owns: marks of the first messages of a scope's sessions, and which names are taken. Invariant: the
marks are in memory alone; nothing that is made from what was said gets into a name or the store, so
what is erased leaves no trace there. Not here: what is done where two conversations part.
"""

import contextlib
from collections.abc import Iterable
from hashlib import blake2b
from itertools import count
from typing import Final

import msgspec

from memopt.base.errors import MemoptError, UsageError
from memopt.base.records import Message
from memopt.memory import Memory
from memopt.past.comparing import is_gone, is_left_out, weight
from memopt.past.copies import (
    HELD_MAX,
    SESSIONS_MAX,
    Twin,
    files_of,
    is_enough,
    session_names,
)
from memopt.past.records import ORIGIN, Say
from memopt.past.room import Part
from memopt.sessions.session import Session

_ALIKE_MAX: Final = 64
"""Sessions that begin alike, that are followed."""
_NUMBERED_MAX: Final = 16
"""Sessions of one file's name that are looked at before all are."""
_MARK_BYTES: Final = 8


class Beginnings:
    """The sessions of a scope by what they begin with."""

    def __init__(self, memory: Memory, scope: str, agent: str | None, part: Part) -> None:
        """In `part` is what is known of sessions."""
        self._part = part
        self._memory = memory
        self._scope = scope
        self._agent = agent
        self._alike: dict[bytes, list[str]] | None = None
        """By the mark of their first 1, 2, 4 and 8 messages, and of all of a short one's."""
        self._in_files: dict[str, list[str]] = {}
        """By the file that they were in: those that lack some of what they began with."""
        self._numbers: dict[str, int] = {}
        """By a file's name: the number that was taken last."""

    def like(self, names: tuple[str, ...], held: list[Say], file: str) -> list[Twin]:
        """Sessions that begin as this conversation of a file does, as far as they go; those that
        bear its names first."""
        numbered = (f"{names[0]}~{number}" for number in range(2, 2 + _NUMBERED_MAX))
        found = self._agreeing([*names, *numbered], held, file)
        if found:
            return found
        if self._alike is None:
            self._alike = {}
            for name in session_names(self._memory, self._scope, self._part):
                session = self.session(name)
                first = _first(session)
                self._note(name, first)
                if any(is_gone(one) or is_left_out(one) for one in first):
                    self._note_files(session)
        marks = _marks([step.message for step in held])
        others = dict.fromkeys(self._in_files.get(file, ()))
        others |= dict.fromkeys(
            name for mark in reversed(marks) for name in self._alike.get(mark, ())
        )
        return self._agreeing(list(others)[:_ALIKE_MAX], held, file)

    def session(self, name: str) -> Session:
        return self._memory.session(name, scope=self._scope, agent=self._agent)

    def free(self, base: str) -> str:
        """A name that no session has. Raises UsageError where it cannot be one."""
        for number in count(self._numbers.get(base, 0) + 1):
            name = base if number == 1 else f"{base}~{number}"
            self._numbers[base] = number
            if not self.session(name).head:
                return name
        raise AssertionError("numbers do not end")

    def began(self, name: str, held: list[Say]) -> None:
        """A session begins with that, from now on."""
        if self._alike is not None:
            self._note(name, [step.message for step in held])

    def _note(self, name: str, first: list[Message]) -> None:
        assert self._alike is not None
        if len(self._alike) >= SESSIONS_MAX * 4:
            return
        for mark in _marks(first):
            names = self._alike.setdefault(mark, [])
            if len(names) < _ALIKE_MAX and name not in names:
                names.append(name)

    def _note_files(self, session: Session) -> None:
        if len(self._in_files) < SESSIONS_MAX:
            for file in files_of(session):
                alike = self._in_files.setdefault(file, [])
                if len(alike) < _ALIKE_MAX:
                    alike.append(session.id)

    def _agreeing(self, names: Iterable[str], held: list[Say], file: str) -> list[Twin]:
        twins = []
        for name in names:
            with contextlib.suppress(UsageError):
                # What a file is called may be no name of a session.
                twin = Twin(self._memory, self._scope, name, file)
                if not twin.session.head:
                    continue
                other = next((step for step in held if not twin.says(step)), None)
                if other is None or twin.may_be(other, is_last=other is held[-1]):
                    twins.append(Twin(self._memory, self._scope, name, file))
        return twins


def _marks(messages: list[Message]) -> list[bytes]:
    """Of the first 1, 2, 4 and 8 of them, and of all where there are fewer."""
    digest = blake2b(digest_size=_MARK_BYTES)
    marks: list[bytes] = []
    size = 0
    for number, message in enumerate(messages[:HELD_MAX], 1):
        bare = {name: value for name, value in message.items() if name != ORIGIN}
        digest.update(msgspec.json.encode(bare, order="sorted"))
        size += weight(message)
        is_last = number == len(messages) or is_enough(number, size)
        if is_last or number & (number - 1) == 0:
            marks.append(digest.digest())
        if is_last:
            break
    return marks


def _first(session: Session) -> list[Message]:
    try:
        return list(session.messages(0, HELD_MAX))
    except MemoptError:
        # What is damaged is for a check to tell.
        return []
