"""Sessions that begin as another one does.

Programs that resume a conversation in a new file copy what was said into it, under the same names.
Such a copy becomes a fork of the session that is there, so that what was said once is recalled
once. Owns: which sessions of a scope begin with which record. Invariant: it is a help; what a
session holds in the end is the same without it. Not here: what is read of a source.
"""

from collections.abc import Iterator
from typing import Any, Final

from memopt.base.errors import MemoptError
from memopt.base.records import Entry, Message
from memopt.base.units import KIB, MIB
from memopt.memory import Memory
from memopt.past.comparing import grew, ids_of, is_left_out, may_stand_for, weight
from memopt.past.records import ORIGIN, ORIGIN_FILES, Say
from memopt.past.room import Part
from memopt.sessions.session import Session

SESSIONS_MAX: Final = 20_000
"""Of a scope, that are looked at."""
_LISTED_AT_ONCE: Final = 500
_SESSION_BYTES: Final = 1024
"""What is known of one takes, at most: its name, and what it begins with."""
_ALIKE_MAX: Final = 8
"""Sessions that begin with one record, that are followed."""
HELD_MAX: Final = 8
"""Messages that a conversation without a name is looked for by."""
HELD_BYTES_MAX: Final = 256 * KIB
_DOUBTED_BYTES_MAX: Final = MIB
"""Of what was said since a message that the file alone told; with more, it is believed."""


class Copies:
    """What the sessions of a scope begin with."""

    def __init__(self, memory: Memory, scope: str, part: Part) -> None:
        """In `part` is what is known of sessions."""
        self._part = part
        self._memory = memory
        self._scope = scope
        self._names: dict[str, list[str]] | None = None

    def like(self, name: str, first: Say) -> list["Twin"]:
        """Sessions that begin as this one does."""
        record = _first_record(first.message)
        if record is None:
            return []
        if self._names is None:
            self._names = self._listed()
        names = self._names.setdefault(record, [])
        alike = [Twin(self._memory, self._scope, other) for other in names if other != name]
        if len(names) < _ALIKE_MAX and name not in names and len(self._names) < SESSIONS_MAX:
            names.append(name)
        return alike

    def _listed(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in session_names(self._memory, self._scope, self._part):
            record = self._record_of(name)
            alike = names.setdefault(record, []) if record is not None else []
            if len(alike) < _ALIKE_MAX:
                alike.append(name)
        return names

    def _record_of(self, name: str) -> str | None:
        session = self._memory.session(name, scope=self._scope)
        try:
            return next((_first_record(one) for one in session.messages(0, 1)), None)
        except MemoptError:
            # What is damaged is for a check to tell.
            return None


class Twin:
    """A session that is read beside another one, as long as they are the same.

    A message that was redacted or left out does not tell which one it was. It is the other's where
    its time, the source's own name of it, or the file tells.
    """

    def __init__(self, memory: Memory, scope: str, name: str, file: str = "") -> None:
        """`file` is where the other one was read."""
        self.name = name
        self.session = memory.session(name, scope=scope)
        self._entries: Iterator[Entry] = self.session.entries()
        self._other: Entry | None = None
        """What it says instead of what was asked for last."""
        self.has_ended = False
        self.doubted: list[Say] = []
        """What was said last, from a message on that the file alone told, until enough was the
        same behind it: the file may hold another conversation by now."""
        self._doubted_bytes = 0
        self._agreed = self._agreed_bytes = 0
        """Of `doubted`: what was the same behind the last that the file told."""
        self._file = file
        self._files: list[str] | None = None

    def says(self, step: Say) -> bool:
        """Whether it goes on with that."""
        try:
            entry = next(self._entries, None)
        except MemoptError:
            return False
        if entry is None:
            self.has_ended = True
            return False
        is_same = self._is_same(entry, step)
        self._other = None if is_same else entry
        return is_same

    def _is_same(self, there: Entry, step: Say) -> bool:
        if step.at is not None and there.at != step.at:
            return False
        is_told = there.message == step.message or (
            may_stand_for(there.message, step.message)
            and (step.at is not None or _is_named_alike(there.message, step.message))
        )
        if not is_told and not (may_stand_for(there.message, step.message) and self.is_in_file()):
            return False
        if not is_told or self.doubted:
            self._doubt(step, is_told=is_told)
        return True

    def is_in_file(self) -> bool:
        """Whether it was read in that file before."""
        if self._files is None:
            self._files = files_of(self.session) if self._file else []
        return self._file in self._files

    def _doubt(self, step: Say, *, is_told: bool) -> None:
        size = weight(step.message)
        self.doubted.append(step)
        self._doubted_bytes += size
        self._agreed = self._agreed + 1 if is_told else 0
        self._agreed_bytes = self._agreed_bytes + size if is_told else 0
        is_certain = is_enough(self._agreed, self._agreed_bytes)
        if is_certain or self._doubted_bytes > _DOUBTED_BYTES_MAX:
            self.doubted, self._doubted_bytes = [], 0

    def may_be(self, step: Say, *, is_last: bool) -> bool:
        """Whether it may say that, or be made to, where it did not just now: it ends there, or with
        half of it; or it has more of what is said last."""
        if self._other is None:
            return self.has_ended
        there = self._other.message
        if ids_of(there) is None or ids_of(there) != ids_of(step.message):
            return False
        ends = self._other.seq == len(self.session) - 1
        return (is_last and grew(step.message, there)) or (ends and grew(there, step.message))


def is_enough(messages: int, size_bytes: int) -> bool:
    """Whether so much of a conversation tells which one it is."""
    return messages >= HELD_MAX or size_bytes >= HELD_BYTES_MAX


def files_of(session: Session) -> list[str]:
    """Where it was read, as far as that is noted."""
    state = session.load_state(name=ORIGIN_FILES)
    value: Any = state.value if state is not None else None
    files = value.get("files") if isinstance(value, dict) else None
    return [one for one in files if isinstance(one, str)] if isinstance(files, list) else []


def _is_named_alike(there: Message, message: Message) -> bool:
    """Whether a message that was left out bears the source's own names; numbers are none."""
    ids = ids_of(there)
    return (
        is_left_out(there)
        and bool(ids)
        and ids == ids_of(message)
        and all(isinstance(id, str) for id in ids or ())
    )


def session_names(memory: Memory, scope: str, part: Part) -> Iterator[str]:
    """The sessions of a scope, as many as are looked at and as there is room for."""
    after: tuple[str, str] | None = None
    for count in range(_LISTED_AT_ONCE, SESSIONS_MAX + 1, _LISTED_AT_ONCE):
        if not part.fit(_SESSION_BYTES * count):
            break
        infos = memory.sessions(scope, after=after, limit=_LISTED_AT_ONCE)
        yield from (info.id for info in infos)
        if len(infos) < _LISTED_AT_ONCE:
            break
        after = (infos[-1].scope, infos[-1].id)


def _first_record(message: Message) -> str | None:
    """The source's name of the first thing a message was made of, where names are of one thing."""
    origin: Any = message.get(ORIGIN)
    ids = origin.get("ids") if isinstance(origin, dict) else None
    first = ids[0] if isinstance(ids, list) and ids else None
    return first if isinstance(first, str) else None
