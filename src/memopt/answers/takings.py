"""What was taken away lately, for an answer that was being made of it meanwhile.

An answer that is not stored yet cannot be taken away with what it was made of. So whatever takes
away says so here, within its commit, and whoever stores asks within its own what was taken since it
began. Only the last TAKINGS_MAX are known: what began before them counts as taken.

Owns: that list, in RAM. Invariant: what was taken by a commit that `begun` does not hold is said to
be taken. Not here: who takes away (keeper.py, engine.py).
"""

import collections
import threading
from collections.abc import Iterable
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.journal.commit import GroupCommitter

TAKINGS_MAX: Final = 256
_OWNER: Final = "answer takings"
_BYTES: Final = 224
"""Of each: a tuple of four numbers, and its place."""
_SCOPE: Final = -1
_TURNS: Final = -2


class _Taking(NamedTuple):
    lsn: int
    """The last that was committed before it."""
    kind: int
    source: int
    seq: int | None
    """None: all of a source."""


class Takings:
    """Thread-safe."""

    def __init__(self, committer: GroupCommitter, budget: Budget) -> None:
        self._committer = committer
        self._budget = budget
        self._lock = threading.Lock()
        self._latest: collections.deque[_Taking] = collections.deque()
        self._unknown_lsn = -1
        """Of the latest that is no longer in the list."""

    def took(self, kind: int, source: int, seq: int | None) -> None:
        """In a commit: an item or a message."""
        with self._lock:
            count = len(self._latest)
            if count == TAKINGS_MAX or not self._budget.try_settle(_OWNER, (count + 1) * _BYTES):
                # Without room it is known as one of those that are not in the list.
                self._unknown_lsn = self._latest.popleft().lsn if count else self._committer.lsn
                if not count:
                    return
            self._latest.append(_Taking(self._committer.lsn, kind, source, seq))

    def took_turn(self, scope_number: int) -> None:
        """In a commit: something that answers within conversations of a scope may be made of."""
        self.took(_TURNS, scope_number, None)

    def took_answers(self, scope: str) -> None:
        """In a commit: some answers of a scope, whichever."""
        self.took(_SCOPE, hash(scope), None)

    def begun(self) -> int:
        """What `taken_since` is asked with."""
        return self._committer.lsn

    def taken_since(
        self, begun: int, scope: str, scope_number: int | None,
        uses: Iterable[tuple[int, int, int]], *, has_turns: bool,
    ) -> bool:  # fmt: skip
        """In a commit: whether anything was taken that an answer could be made of."""
        wanted: set[tuple[int, int]] = {(_SCOPE, hash(scope))}
        if has_turns and scope_number is not None:
            wanted.add((_TURNS, scope_number))
        named = frozenset(uses)
        wanted.update((kind, source) for kind, source, _ in named)
        with self._lock:
            return begun <= self._unknown_lsn or any(
                (one.kind, one.source) in wanted
                and (one.seq is None or (one.kind, one.source, one.seq) in named)
                for one in self._latest
                if one.lsn >= begun
            )
