"""When those who are refused may come again, and that it is kept.

Each is told a time behind those who were told one before, as fast as room comes free, so that they
do not all come at once. That alone would be a guess: whoever comes meanwhile for the first time
would take the room. So a promise is remembered, and while a scope has some, its own newcomers are
not queued before those who were promised. Promises that nobody came for expire. Bounded: beyond
PROMISES_MAX a time is told and not kept.

Not here: how much room comes free when (admission.py).
"""

import collections
from typing import Final

from memopt.base.budget import Budget

Key = tuple[str, str]
"""Scope and id of a session."""

PROMISES_MAX: Final = 4096
PROMISE_BYTES: Final = 192
_SECONDS_MIN: Final = 0.05
SECONDS_MAX: Final = 600.0
_GRACE_SECONDS: Final = 5.0
"""How long after its time a promise is kept."""


class Promises:
    """Not thread-safe."""

    def __init__(self, budget: Budget, owner: str) -> None:
        self._budget = budget
        self._owner = owner
        self._until = 0.0
        """Up to when what will be free is promised."""
        self._due: collections.OrderedDict[Key, float] = collections.OrderedDict()
        """Earliest first."""
        self._scopes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def make(self, key: Key, now: float, *, seconds: float, takes_seconds: float) -> float:
        """In how many seconds a session may come again: there is room in `seconds` at the
        earliest, and it will use up what comes free in `takes_seconds`."""
        soonest = now + seconds
        # At the rate of now: one turn that lasted for minutes made it slow for a while, and times
        # told then would put everybody off long after it has ended.
        self._until = min(self._until, soonest + len(self._due) * takes_seconds)
        start = max(soonest, self._until)
        told = min(max(start - now, _SECONDS_MIN), SECONDS_MAX)
        if told < SECONDS_MAX and self._remember(key, now + told):
            self._until = start + takes_seconds
        return told

    def redeem(self, key: Key, now: float) -> bool:
        """Whether a session comes when it was told to; then its promise is kept, and over."""
        due = self._due
        while due and next(iter(due.values())) + _GRACE_SECONDS < now:
            self._drop(next(iter(due)))
        promised = due.get(key)
        if promised is None or now < promised:
            return False
        self._drop(key)
        return True

    def has(self, scope: str) -> bool:
        return scope in self._scopes

    def charged_bytes(self) -> int:
        return PROMISE_BYTES * len(self._due)

    def recount(self) -> None:
        """After an interruption: make the sums anew."""
        self._scopes = dict(collections.Counter(scope for scope, _ in self._due))

    def check(self) -> None:
        assert sum(self._scopes.values()) == len(self._due) <= PROMISES_MAX

    def _remember(self, key: Key, due: float) -> bool:
        if key in self._due:
            del self._due[key]
        elif len(self._due) < PROMISES_MAX and self._budget.try_reserve(self._owner, PROMISE_BYTES):
            self._scopes[key[0]] = self._scopes.get(key[0], 0) + 1
        else:
            return False
        self._due[key] = due
        return True

    def _drop(self, key: Key) -> None:
        del self._due[key]
        self._budget.release(self._owner, PROMISE_BYTES)
        left = self._scopes[key[0]] - 1
        if left:
            self._scopes[key[0]] = left
        else:
            del self._scopes[key[0]]
