"""Where responses are: the scope's mapping `responses`, from their ids to their sessions.

It says whose a response is, too: where several scopes share one key for the upstream, they could
name each other's. Conversations that the upstream told of are in it by their ids as well.

Owns: that mapping. Invariant: what is found is in a session that is there; the oldest entries go
above a limit. Called on the store's threads. Not here: what is kept of a response (responses.py).
"""

import contextlib
from typing import Any, Final, NamedTuple

from memopt import Memory
from memopt.base.errors import UsageError
from memopt.server.errors import ServerError
from memopt.server.lines import SessionKey

RESPONSES: Final = "responses"
"""The mapping of a scope from the ids of responses to their sessions."""
_ENTRIES_MAX: Final = 16_384
_SWEPT_EVERY: Final = 256
"""Entries that came, behind which those of sessions that are gone are looked for: it costs a look
at each session. Before, an entry is let go of when somebody asks for it."""
_SCOPES_MAX: Final = 4096


class Noted(NamedTuple):
    """Where one response is."""

    session: str
    length: int
    """Of the session, with it."""
    is_pending: bool = False
    """Its items come later: it is made in the background."""


class Notes:
    """Thread-safe."""

    def __init__(self, memory: Memory, *, entries_max: int = _ENTRIES_MAX) -> None:
        self._memory = memory
        self._entries_max = entries_max
        self._swept: set[str] = set()
        """Scopes that were looked through since the server began."""

    def find(self, scope: str, id: str) -> Noted | None:
        """None for what is not known, or not any more."""
        places = self._memory.mapping(RESPONSES, scope=scope)
        found = places.get(id)
        if found is None:
            return None
        noted = Noted(*found)
        if not self._memory.session(noted.session, scope=scope).head:
            places.pop(id, None)
            return None
        return noted

    def note(self, key: SessionKey, id: Any, *, is_pending: bool = False) -> None:
        """The newest message of a session is of that response."""
        if not isinstance(id, str) or not id:
            return
        places = self._memory.mapping(RESPONSES, scope=key.scope)
        length = len(self._memory.session(key.id, scope=key.scope))
        # One whose id is no name cannot be named.
        with contextlib.suppress(UsageError):
            places[id] = [key.id, length, is_pending]
        self._tidy(places, key.scope)

    def sessions(self, scope: str) -> list[str]:
        """Those that responses are in, the newest first."""
        places = self._memory.mapping(RESPONSES, scope=scope)
        return list(dict.fromkeys(session for session, *_ in reversed(list(places.values()))))

    def forget(self, scope: str, id: str) -> None:
        """It was deleted."""
        self._memory.mapping(RESPONSES, scope=scope).pop(id, None)

    def _tidy(self, places: Any, scope: str) -> None:
        # Others may change it meanwhile: then the next one tidies up.
        with contextlib.suppress(RuntimeError, StopIteration):
            count = len(places)
            for _ in range(count - self._entries_max):
                places.pop(next(iter(places)), None)
            if count % _SWEPT_EVERY == 0 or scope not in self._swept:
                self._sweep(places, scope)
                if len(self._swept) >= _SCOPES_MAX:
                    self._swept.clear()
                self._swept.add(scope)

    def _sweep(self, places: Any, scope: str) -> None:
        """Let go of what is of sessions that were deleted."""
        is_there: dict[str, bool] = {}
        gone: list[str] = []
        for id, (session, *_) in places.items():
            if session not in is_there:
                is_there[session] = self._memory.session(session, scope=scope).head > 0
            if not is_there[session]:
                gone.append(id)
        for id in gone:
            places.pop(id, None)


def not_found(what: str, id: str, *, param: str | None = None) -> ServerError:
    """As the API says it of what never was."""
    code = None if param is None else f"previous_{what.lower()}_not_found"
    kind = what if param is None else f"Previous {what.lower()}"
    return ServerError(404, f"{kind} with id '{id}' not found.", code=code, param=param)
