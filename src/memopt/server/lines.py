"""What the server knows of sessions without asking the store: digests of their messages.

Invariant: what is here is a copy. A line that is not here is read from the store, and whoever
writes by one says which head it had, so a line that is out of date is noticed. Thread-safe.
"""

import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from memopt import Session
from memopt.base.budget import Budget
from memopt.base.errors import ConflictError
from memopt.server.canonical import START, chained, digest_of
from memopt.server.remembered import Remembered

PREFIX: Final = "auto-"
"""Of the ids of sessions that nobody named."""
DIGEST_LETTERS: Final = 24
_SALT_BYTES: Final = 4
_READS_MAX: Final = 16
_ENTRY_BYTES: Final = 512
"""What is remembered takes so much beside its names, and beside its..."""
_DIGEST_BYTES: Final = 64
"""... digests, of so much each; measured in the tests."""


class SessionKey(NamedTuple):
    scope: str
    id: str


class Line(NamedTuple):
    """A session's current line."""

    head: int
    chain: tuple[bytes, ...]
    """The digest of the history up to each message."""


EMPTY: Final = Line(0, ())


class Lines:
    """The lines of the sessions used last, and which session ends how."""

    def __init__(self, budget: Budget, *, lines_max: int, matches_max: int) -> None:
        self._lines = Remembered[SessionKey, Line](budget, entries_max=lines_max)
        self._prompts = Remembered[SessionKey, bytes](budget, entries_max=lines_max)
        self._ends = Remembered[tuple[str, bytes], str](budget, entries_max=matches_max)
        self.parts = (self._prompts, self._ends, self._lines)
        """What is forgotten when the budget wants room, in order."""

    def get(self, key: SessionKey, session: Session) -> Line:
        """A session's line, read from the store where it is not known."""
        line = self._lines.get(key)
        if line is not None:
            self._lines.renew(key)
            return line
        line = read_line(session)
        self.put(key, line)
        return line

    def peek(self, key: SessionKey) -> Line | None:
        """A session's line, if it is known."""
        return self._lines.get(key)

    def put(self, key: SessionKey, line: Line) -> None:
        size = _ENTRY_BYTES + len(key.scope) + len(key.id) + _DIGEST_BYTES * len(line.chain)
        self._lines.put(key, line, size)

    def drop(self, key: SessionKey) -> None:
        self._lines.drop(key)

    def knows(self, key: SessionKey) -> bool:
        """Whether the session is there for sure."""
        line = self._lines.get(key)
        return line is not None and line.head > 0

    # -- prompts ----------------------------------------------------------------------------------

    def has_prompt(self, key: SessionKey, digest: bytes) -> bool:
        """Whether these are the prompts and tools that were kept last."""
        return self._prompts.get(key) == digest

    def note_prompt(self, key: SessionKey, digest: bytes) -> None:
        self._prompts.put(key, digest, _ENTRY_BYTES + len(key.scope) + len(key.id))

    # -- ends -------------------------------------------------------------------------------------

    def note_end(self, key: SessionKey, digest: bytes) -> None:
        """A history that a client may come back with is in that session."""
        size = _ENTRY_BYTES + len(key.scope) + len(key.id)
        self._ends.put((key.scope, digest), key.id, size)

    def ending(self, scope: str, chain: list[bytes]) -> str | None:
        """The session of the longest prefix that is known."""
        for digest in reversed(chain):
            found = self._ends.get((scope, digest))
            if found is not None:
                return found
        return None


def auto_id(previous: str | None, chain: Sequence[bytes]) -> str:
    """For a session of its own, behind that response or with that history."""
    letters = chain[-1].hex()[:DIGEST_LETTERS] if chain else ""
    return f"{PREFIX}{previous or letters}-{secrets.token_hex(_SALT_BYTES)}"


def read_line(session: Session) -> Line:
    """A session's line as the store has it. Raises ConflictError where others never stop writing
    to it."""
    for _ in range(_READS_MAX):
        head = session.head
        if not head:
            return EMPTY
        last, chain = START, []
        for message in session.messages():
            last = chained(last, digest_of(message))
            chain.append(last)
        if session.head == head:
            return Line(head, tuple(chain))
    raise ConflictError("others keep writing to the session", expected=head, actual=session.head)
