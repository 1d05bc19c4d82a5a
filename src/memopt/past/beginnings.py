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
from memopt.base.units import KIB
from memopt.memory import Memory
from memopt.past.comparing import weight
from memopt.past.copies import SESSIONS_MAX, Twin, session_names
from memopt.past.records import ORIGIN, Say
from memopt.past.room import Part
from memopt.sessions.session import Session

HELD_MAX: Final = 8
"""Messages that a conversation is looked for by."""
HELD_BYTES_MAX: Final = 256 * KIB
_ALIKE_MAX: Final = 64
"""Sessions that begin alike, that are followed."""
_NUMBERED_MAX: Final = 16
"""Sessions of one file's name that are looked at before all are."""
_MARK_BYTES: Final = 8


def is_enough(messages: int, size_bytes: int) -> bool:
    """Whether so much of a conversation tells which one it is."""
    return messages >= HELD_MAX or size_bytes >= HELD_BYTES_MAX


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
        self._numbers: dict[str, int] = {}
        """By a file's name: the number that was taken last."""

    def like(self, names: tuple[str, ...], held: list[Say]) -> list[Twin]:
        """Sessions that begin as this conversation does, as far as they go; those that bear its
        names first."""
        numbered = (f"{names[0]}~{number}" for number in range(2, 2 + _NUMBERED_MAX))
        found = self._agreeing([*names, *numbered], held)
        if found:
            return found
        if self._alike is None:
            self._alike = {}
            for name in session_names(self._memory, self._scope, self._part):
                self._note(name, _first(self.session(name)))
        marks = _marks([step.message for step in held])
        others = dict.fromkeys(
            name for mark in reversed(marks) for name in self._alike.get(mark, ())
        )
        return self._agreeing(list(others)[:_ALIKE_MAX], held)

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

    def _agreeing(self, names: Iterable[str], held: list[Say]) -> list[Twin]:
        twins = []
        for name in names:
            with contextlib.suppress(UsageError):
                # What a file is called may be no name of a session.
                twin = Twin(self._memory, self._scope, name)
                if not twin.session.head:
                    continue
                other = next((step for step in held if not twin.says(step)), None)
                if other is None or twin.may_be(other, is_last=other is held[-1]):
                    twins.append(Twin(self._memory, self._scope, name))
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
