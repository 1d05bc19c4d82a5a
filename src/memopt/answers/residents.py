"""Which scopes' questions are in RAM: a cache over the home, which has all of them already.

Room is reserved before a scope is brought in; the one that was asked longest ago goes first, whole,
and nothing is written when it does. What is stored or taken away is told after its commit.

Invariant: a lookup that begins after a commit was acknowledged sees that commit. A scope is known
to be coming before the snapshot is taken that it is built from, so what the snapshot has not is
told. What the budget holds for "answers" is what the scopes here occupy. Not here: the arrays
(nearest.py).
"""

import collections
import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from memopt.answers.categories import Kinds
from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, CorruptionError
from memopt.base.forks import LostLock
from memopt.base.interrupts import mended_by
from memopt.base.protocols import Reader

if TYPE_CHECKING:
    from memopt.answers.entry import Entry
    from memopt.answers.nearest import ScopeQuestions
    from memopt.embedding.lsh import Hyperplanes

OWNER: Final = "answers"
_ROWS_AT_ONCE: Final = 2048
_SHARE: Final = 1 / 2
"""Of the budget, at most."""
_SCOPE_BYTES: Final = 1024

Change = tuple[int, "Entry | None"]
"""An answer that was stored, or taken away."""


class Resident:
    """A scope that is in RAM."""

    __slots__ = ("charged_bytes", "foreign", "kinds", "questions", "space", "version")

    def __init__(self, questions: "ScopeQuestions", charged_bytes: int, space: int) -> None:
        self.questions = questions
        self.charged_bytes = charged_bytes
        self.space = space
        """Of its vectors."""
        self.foreign = 0
        """Entries of another space, which are not here."""
        self.kinds: Kinds | None = None
        """None: they have changed since somebody looked."""
        self.version = 0
        """Counts those changes."""

    def forget_kinds(self) -> None:
        self.kinds = None
        self.version += 1


_whole = mended_by(lambda scopes: scopes.clear())
"""A Ctrl-C may come between two changes that belong together. Everything here can be brought in
again, so then everything is let go."""


class ResidentQuestions:
    """Thread-safe."""

    def __init__(self, home: Reader, budget: Budget) -> None:
        self._home = home
        self._budget = budget
        self._lock: AbstractContextManager[Any] = threading.Lock()
        self._scopes: collections.OrderedDict[int, Resident] = collections.OrderedDict()
        self._coming: dict[int, list[Change]] = {}
        """Scopes that are being brought in, and what changed in them since."""
        self._loading: AbstractContextManager[Any] = threading.Lock()
        self._share = 1.0
        self.freed_bytes = 0

    # -- looking ----------------------------------------------------------------------------------

    def get(self, scope_number: int, space: int) -> Resident | None:
        """A scope that is here, with vectors of that space."""
        with self._lock:
            scope = self._scopes.get(scope_number)
            if scope is None or scope.space != space:
                return None
            self._scopes.move_to_end(scope_number)
            return scope

    def find(
        self, scope_number: int, count: int, space: int, make_planes: "Callable[[], Hyperplanes]"
    ) -> Resident:
        """The questions of a scope, brought in if they are not here. `count`: how many there are,
        about. Raises BudgetError where there is no room for them, StoreVersionError."""
        scope = self.get(scope_number, space)
        if scope is not None:
            return scope
        self.drop(scope_number)
        # One at a time: two of one scope would be paid for twice.
        with self._loading:
            with self._lock:
                scope = self._scopes.get(scope_number)
                if scope is not None:
                    return scope
                self._coming[scope_number] = []
            try:
                return self._bring_in(scope_number, count, space, make_planes())
            finally:
                with self._lock:
                    self._coming.pop(scope_number, None)

    @_whole
    def _bring_in(
        self, scope_number: int, count: int, space: int, planes: "Hyperplanes"
    ) -> Resident:
        from memopt.answers.nearest import ScopeQuestions, room_bytes, room_for

        room = room_for(count)
        charge = _SCOPE_BYTES + room_bytes(room, planes)
        if charge > self._limit_bytes():
            raise _no_room(charge)
        self._make_room(charge)
        self._budget.reserve(OWNER, charge)
        questions = ScopeQuestions(planes, room)
        scope = Resident(questions, charge, space)
        try:
            last = self._read(scope, scope_number)
            with self._lock:
                for answer, entry in self._coming[scope_number]:
                    if entry is None:
                        questions.take_out(answer)
                    elif answer > last and not self._add(scope, [(answer, entry)]):
                        raise _no_room(charge)
                self._scopes[scope_number] = scope
        except BaseException:
            self._budget.release(OWNER, scope.charged_bytes)
            raise
        return scope

    def _read(self, scope: Resident, scope_number: int) -> int:
        """Add what the home has, in parts; the number of the last one."""
        from memopt.answers.entry import open_entry

        after = 0
        while True:
            with self._home.snapshot() as tables:
                rows = tables.answer_entries.range(scope_number, after, _ROWS_AT_ONCE)
            if not rows:
                return after
            entries = []
            for answer, record in rows:
                # One that is damaged is not compared; check() says so.
                with contextlib.suppress(CorruptionError):
                    entries.append((answer, open_entry(scope_number, answer, record)))
            if not self._add(scope, entries):
                raise _no_room(scope.charged_bytes)
            after = rows[-1][0]

    def _add(self, scope: Resident, entries: "list[tuple[int, Entry]]") -> bool:
        """Add those that can be compared. False where there is no room for all of them. Asks
        nobody for any: it may be called under a lock."""
        mine = [(n, e) for n, e in entries if e.space == scope.space and not e.is_exact]
        scope.foreign += sum(e.space not in (0, scope.space) for _, e in entries)
        questions = scope.questions
        while mine:
            if questions.is_full:
                before, after = questions.size_bytes, questions.grown_bytes()
                others = self._held() - scope.charged_bytes
                if others + after > self._limit_bytes():
                    return False
                # Both are there while one is copied into the other.
                if not self._budget.try_reserve(OWNER, after):
                    return False
                questions.grow()
                self._budget.release(OWNER, before)
                scope.charged_bytes = _SCOPE_BYTES + questions.size_bytes
            some = mine[: questions.free]
            questions.add([n for n, _ in some], [e for _, e in some])
            mine = mine[len(some) :]
        return True

    # -- being told -------------------------------------------------------------------------------

    @_whole
    def changed(self, scope_number: int, answer: int, entry: "Entry | None") -> None:
        """After a commit: an answer was stored, or (None) taken away."""
        with self._lock:
            coming = self._coming.get(scope_number)
            if coming is not None:
                coming.append((answer, entry))
            scope = self._scopes.get(scope_number)
            if scope is None:
                return
            scope.forget_kinds()
            if entry is None:
                scope.questions.take_out(answer)
                if scope.questions.is_sparse:
                    self._let_go(scope_number)
                return
            if not self._add(scope, [(answer, entry)]):
                self._let_go(scope_number)

    def drop(self, scope_number: int) -> None:
        """Let a scope go: more of it has changed than is worth telling."""
        with self._lock:
            if scope_number in self._scopes:
                self._let_go(scope_number)

    def forget_kinds(self, scope_number: int) -> None:
        """What is known of a scope's categories has changed."""
        with self._lock:
            scope = self._scopes.get(scope_number)
            if scope is not None:
                scope.forget_kinds()

    def foreign(self, limit: int) -> list[int]:
        """Up to `limit` scopes that are here and have entries of another space."""
        with self._lock:
            found = [number for number, scope in self._scopes.items() if scope.foreign]
        return found[:limit]

    # -- room -------------------------------------------------------------------------------------

    def _limit_bytes(self) -> int:
        return int(self._budget.limit_bytes * _SHARE * self._share)

    def _make_room(self, size_bytes: int) -> None:
        with self._lock:
            while self._scopes and self._held() + size_bytes > self._limit_bytes():
                self._let_go(next(iter(self._scopes)))

    def make_free(self, size_bytes: int) -> None:
        """Let scopes go until so much is free, or none is left."""
        with self._lock:
            while self._scopes and self._budget.free_bytes() < size_bytes:
                self._let_go(next(iter(self._scopes)))

    def limit(self, share: float) -> None:
        """From now on hold at most `share` of what may be held."""
        self._share = share
        self._make_room(0)

    def _held(self) -> int:
        return sum(scope.charged_bytes for scope in self._scopes.values())

    def _let_go(self, scope_number: int) -> None:
        scope = self._scopes.pop(scope_number)
        self._budget.release(OWNER, scope.charged_bytes)
        self.freed_bytes += scope.charged_bytes

    def clear(self) -> None:
        with self._lock:
            self._scopes.clear()
            self._budget.release_all(OWNER)

    def abandon(self) -> None:
        """In a forked child."""
        self._lock = self._loading = LostLock()

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            assert self._budget.held_bytes(OWNER) == self._held()
            for scope in self._scopes.values():
                assert scope.charged_bytes == _SCOPE_BYTES + scope.questions.size_bytes


def _no_room(size_bytes: int) -> BudgetError:
    return BudgetError(
        f"the questions of a scope take {size_bytes} bytes and more, which there is no room for",
        limit="budget", wanted_bytes=size_bytes,
    )  # fmt: skip
