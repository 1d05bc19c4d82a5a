"""Whose session a request belongs to, when it does not say.

The longest known prefix of its messages, inside one scope, names the session whose storage it
shares. Ends of conversations are remembered while the server runs; behind that, a session that was
found by its messages bears their digest in its name, `auto-<digest>-<chance>`, so it is found after
a restart too, without an index that would have to be kept and forgotten. What goes on at the end of
a line goes on in that session; what goes on before it is a fork.

Matching shares storage and nothing else: two users who say "hi" are not one user.
Not here: what is written (keeping.py).
"""

from typing import Any, Final

import msgspec

from memopt import Memory
from memopt.server.asked import Asked, History
from memopt.server.canonical import common_length
from memopt.server.keeping import Place
from memopt.server.lines import DIGEST_LETTERS, PREFIX, Line, Lines, SessionKey, auto_id

_SIBLINGS_MAX: Final = 32
"""Sessions that began with the same messages, of which so many are compared after a restart."""
_PREFIXES_MAX: Final = 128
"""Ends that are looked for after a restart, from the last one back."""


class _Role(msgspec.Struct):
    role: Any = None
    type: Any = None


_role_of: Final = msgspec.json.Decoder(_Role).decode


class Matcher:
    """Thread-safe."""

    def __init__(self, memory: Memory, lines: Lines) -> None:
        self._memory = memory
        self._lines = lines

    def named(self, asked: Asked, scope: str, agent: str | None) -> Place:
        """The session that the request names."""
        assert asked.session is not None
        return Place(SessionKey(scope, asked.session), None, agent)

    def known(self, asked: Asked, scope: str, agent: str | None) -> Place | None:
        """The session whose end is remembered, or a new one where there can be none; None where the
        store has to be asked."""
        found = self._lines.ending(scope, asked.chain)
        if found is not None:
            key = SessionKey(scope, found)
            line = self._lines.peek(key)
            return None if line is None else self._place(asked, key, line, agent)
        return None if self._replies(asked) else self.new(asked, scope, agent)

    def look(self, asked: Asked, scope: str, agent: str | None) -> Place:
        """The same, by the store: on one of its threads."""
        best: tuple[int, SessionKey, Line] | None = None
        remembered = self._lines.ending(scope, asked.chain)
        ids = [remembered] if remembered is not None else []
        for place in self._replies(asked) if remembered is None else []:
            ids = self._siblings(scope, asked.chain[place - 1])
            if ids:
                break
        for id in ids:
            key = SessionKey(scope, id)
            line = self._lines.get(key, self._memory.session(id, scope=scope))
            shared = common_length(asked.chain, line.chain)
            if shared and (best is None or shared > best[0]):
                best = (shared, key, line)
        if best is None:
            return self.new(asked, scope, agent)
        return self._place(asked, best[1], best[2], agent)

    def new(self, asked: Asked, scope: str, agent: str | None, of: str | None = None) -> Place:
        """A session of its own, which begins with what it shares with `of`."""
        return Place(SessionKey(scope, auto_id(asked.previous, asked.chain)), of, agent)

    def is_behind(self, asked: Asked, place: Place) -> bool:
        """Whether it goes on at the end of the session, as far as that is known."""
        line = self._lines.peek(place.key) if asked.history is History.FULL else None
        return line is None or common_length(asked.chain, line.chain) == len(line.chain)

    def _place(self, asked: Asked, key: SessionKey, line: Line, agent: str | None) -> Place:
        shared = common_length(asked.chain, line.chain)
        if shared == len(line.chain) and shared:
            return Place(key, None, agent)
        return self.new(asked, key.scope, agent, key.id if shared else None)

    def _replies(self, asked: Asked) -> list[int]:
        """Places of what a model said, the last one first: a session's name is the digest of what
        was said before its first one."""
        if len(asked.raws) < 2:
            return []
        found = [place for place in range(len(asked.raws) - 1, 0, -1) if _is_reply(asked, place)]
        return found[:_PREFIXES_MAX]

    def _siblings(self, scope: str, digest: bytes) -> list[str]:
        start = f"{PREFIX}{digest.hex()[:DIGEST_LETTERS]}-"
        infos = self._memory.sessions(scope, after=(scope, start), limit=_SIBLINGS_MAX)
        return [info.id for info in infos if info.id.startswith(start)]


def _is_reply(asked: Asked, place: int) -> bool:
    read = _role_of(asked.raws[place])
    return read.role == "assistant" or (read.role is None and read.type is not None)
