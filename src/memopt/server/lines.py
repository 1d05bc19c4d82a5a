"""What the server knows of sessions without asking the store: digests of their messages.

Invariant: what is here is a copy. A line that is not here is read from the store, and whoever
writes by one says which head it had, so a line that is out of date is noticed. Thread-safe.
"""

import threading
from collections import OrderedDict
from typing import Final, NamedTuple

from memopt import Memory, Session
from memopt.base.errors import ConflictError
from memopt.server.canonical import START, chained, digest_of

_READS_MAX: Final = 16
_DIGESTS_MAX: Final = 262_144
"""Of all lines together: some 20 MB."""


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

    def __init__(self, memory: Memory, *, lines_max: int, matches_max: int) -> None:
        self._memory = memory
        self._lines_max = lines_max
        self._matches_max = matches_max
        self._lines: OrderedDict[SessionKey, Line] = OrderedDict()
        self._prompts: OrderedDict[SessionKey, bytes] = OrderedDict()
        self._ends: OrderedDict[tuple[str, bytes], str] = OrderedDict()
        self._digests = 0
        self._lock = threading.Lock()

    def get(self, key: SessionKey, session: Session) -> Line:
        """A session's line, read from the store where it is not known."""
        with self._lock:
            line = self._lines.get(key)
            if line is not None:
                self._lines.move_to_end(key)
                return line
        line = read_line(session)
        self.put(key, line)
        return line

    def peek(self, key: SessionKey) -> Line | None:
        """A session's line, if it is known."""
        return self._lines.get(key)

    def put(self, key: SessionKey, line: Line) -> None:
        with self._lock:
            self._take(key)
            self._lines[key] = line
            self._digests += len(line.chain)
            while len(self._lines) > self._lines_max or self._digests > _DIGESTS_MAX:
                oldest = next(iter(self._lines))
                self._take(oldest)

    def drop(self, key: SessionKey) -> None:
        with self._lock:
            self._take(key)

    def _take(self, key: SessionKey) -> None:
        line = self._lines.pop(key, None)
        if line is not None:
            self._digests -= len(line.chain)

    def knows(self, key: SessionKey) -> bool:
        """Whether the session is there for sure."""
        line = self._lines.get(key)
        return line is not None and line.head > 0

    # -- prompts ----------------------------------------------------------------------------------

    def has_prompt(self, key: SessionKey, digest: bytes) -> bool:
        """Whether these are the prompts and tools that were kept last."""
        return self._prompts.get(key) == digest

    def note_prompt(self, key: SessionKey, digest: bytes) -> None:
        with self._lock:
            self._prompts[key] = digest
            self._prompts.move_to_end(key)
            if len(self._prompts) > self._lines_max:
                self._prompts.popitem(last=False)

    # -- ends -------------------------------------------------------------------------------------

    def note_end(self, key: SessionKey, digest: bytes) -> None:
        """A history that a client may come back with is in that session."""
        with self._lock:
            self._ends[key.scope, digest] = key.id
            self._ends.move_to_end((key.scope, digest))
            if len(self._ends) > self._matches_max:
                self._ends.popitem(last=False)

    def ending(self, scope: str, chain: list[bytes]) -> str | None:
        """The session of the longest prefix that is known."""
        with self._lock:
            for digest in reversed(chain):
                found = self._ends.get((scope, digest))
                if found is not None:
                    return found
        return None


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
