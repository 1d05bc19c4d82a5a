"""Which scopes' indexes are in RAM: a cache over the home, which has all of them already.

Room is reserved before an index is built, a policy chooses who goes, and nothing is written when
one does. What is appended to a scope that is here is noted after its commit and read, analysed and
added by the next recall; whatever else changes what is visible lets the scope go.

Invariant: a recall that begins after a commit was acknowledged sees that commit. A scope is
registered before the snapshot is taken that it is built from, so what the snapshot has not is
noted. What the budget holds for "recall" is what the scopes here are charged.

Not here: building an index (loading.py), and searching it (recaller.py).
"""

import collections
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError
from memopt.base.events import Events, ScopeFaulted, ScopesEvicted
from memopt.base.forks import LostLock
from memopt.base.interrupts import mended_by
from memopt.base.protocols import Clock, Policy
from memopt.recall.indexing import Appended, Watch

if TYPE_CHECKING:
    from memopt.recall.loading import ScopeInRam, ScopeLoader

OWNER: Final = "recall"
LOADING: Final = "recall loading"
"""What is there while an index is built."""
_POLICY_OWNER: Final = "recall policies"
_OWN_SHARE: Final = 1 / 2
"""Of what others leave of the budget to indexes and pages; as in collections/cache.py."""
_PAGE_OWNERS: Final = ("pages", "texts")
_NOTES_MAX: Final = 64
"""Calls that appended and wait for a recall; with more of them, the scope is let go: to bring it
in anew takes no longer."""
_ROW_BYTES: Final = 2048 + _NOTES_MAX * 192
"""A row, its lock, its place in the table, and all the notes that it may have."""

_whole = mended_by(lambda scopes: scopes.clear())
"""A Ctrl-C may come between two changes that belong together. Everything here can be brought in
again, so then everything is let go."""


class _Row:
    """A scope that is here, or about to be."""

    __slots__ = ("charged_bytes", "lock", "notes", "scope", "scope_number", "used")

    def __init__(self, scope_number: int, now: float) -> None:
        self.scope_number = scope_number
        self.scope: ScopeInRam | None = None
        self.notes: collections.deque[Appended] = collections.deque()
        self.lock: AbstractContextManager[Any] = threading.Lock()
        """Held by whoever builds it. Taken before the table's lock, never after it."""
        self.charged_bytes = 0
        """0 until it is kept."""
        self.used = now


class ResidentScopes(Watch):
    """Thread-safe."""

    def __init__(
        self,
        make_loader: "Callable[[], ScopeLoader]",
        budget: Budget,
        *,
        make_policy: Callable[[], Policy],
        clock: Clock,
        events: Events,
    ) -> None:
        self._make_loader = make_loader
        self._made: ScopeLoader | None = None
        self._budget = budget
        self._make_policy = make_policy
        self._policy = make_policy()
        self._clock = clock
        self._events = events
        self._lock: AbstractContextManager[Any] = threading.RLock()
        self._rows: dict[int, _Row] = {}
        self._bytes_max = budget.limit_bytes
        self.size_bytes = 0
        self.freed_bytes = 0
        """Of everything that was let go of so far."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def excess_bytes(self) -> int:
        """What the indexes occupy beyond their own share."""
        pages_bytes = sum(map(self._budget.held_bytes, _PAGE_OWNERS))
        shared_bytes = self._budget.free_bytes() + pages_bytes + self.size_bytes
        return self.size_bytes - int(shared_bytes * _OWN_SHARE)

    @property
    def _loader(self) -> "ScopeLoader":
        if self._made is None:
            self._made = self._make_loader()
        return self._made

    # -- reading ----------------------------------------------------------------------------------

    def open(self, scope_number: int) -> "ScopeInRam":
        """The index of a scope with everything that was acknowledged. Raises BudgetError where it
        does not fit, CorruptionError where it is damaged."""
        now = self._clock.monotonic()
        with self._lock:
            row = self._rows.get(scope_number)
            if row is None:
                row = self._rows[scope_number] = _Row(scope_number, now)
            row.used = now
            if row.charged_bytes:
                self._policy.touched(scope_number)
        try:
            with row.lock:
                return self._up_to_date(row)
        finally:
            if not row.charged_bytes:
                # It was not kept: nobody is to note what is appended to it.
                self._forget(row)

    def _up_to_date(self, row: _Row) -> "ScopeInRam":
        scope, reserved = row.scope, 0

        def reserve(size_bytes: int) -> None:
            nonlocal reserved
            self.reserve(LOADING, size_bytes)
            reserved += size_bytes

        if scope is not None and not row.notes:
            return scope
        started = time.perf_counter()
        is_new = scope is None
        try:
            if scope is None:
                scope = self._loader.load(row.scope_number, reserve)
            if row.notes:
                # One by one, for others come meanwhile. What was noted before the snapshot was
                # taken is in that, and is not added twice.
                notes = [row.notes.popleft() for _ in range(len(row.notes))]
                scope = self._loader.add(row.scope_number, scope, notes, reserve)
        except BaseException:
            self._forget(row)
            raise
        finally:
            self._budget.release(LOADING, reserved)
        self._keep(row, scope)
        if is_new:
            seconds = time.perf_counter() - started
            self._events.emit(ScopeFaulted(len(scope.index), scope.charged_bytes, seconds))
        return scope

    def reserve(self, owner: str, size_bytes: int) -> None:
        """For building and ranking, up to the indexes' own share at the expense of others, and
        beyond it at their own."""
        if self._budget.try_reserve(owner, size_bytes):
            return
        if self.excess_bytes + size_bytes > 0:
            self.make_free(size_bytes)
        self._budget.reserve(owner, size_bytes)

    @_whole
    def _keep(self, row: _Row, scope: "ScopeInRam") -> None:
        """As far as there is room for it; whoever asked for it has it in any case."""
        wanted = scope.charged_bytes + _ROW_BYTES
        more = wanted - row.charged_bytes
        fits = self.size_bytes + more <= self._bytes_max
        try:
            if fits and more > 0:
                self._budget.reserve(OWNER, more)
        except BudgetError:
            fits = False
        with self._lock:
            is_here = self._rows.get(row.scope_number) is row
            if not fits or not is_here:
                if fits and more > 0:
                    self._budget.release(OWNER, more)
                if is_here:
                    self._remove(row)
                return
            if more < 0:
                self._budget.release(OWNER, -more)
            if row.charged_bytes:
                self._policy.removed(row.scope_number)
            self.size_bytes += more
            row.charged_bytes = wanted
            row.scope = scope
            self._policy.admitted(row.scope_number, wanted)
            self._charge_policy()

    # -- what happens to scopes -------------------------------------------------------------------

    def appended(self, places: Appended) -> None:
        row = self._rows.get(places.scope_number)
        if row is not None:
            row.notes.append(places)
            if len(row.notes) > _NOTES_MAX:
                self._forget(row)

    def changed(self, scope_number: int) -> None:
        row = self._rows.get(scope_number)
        if row is not None:
            self._forget(row)

    def _forget(self, row: _Row) -> None:
        with self._lock:
            if self._rows.get(row.scope_number) is row:
                self._remove(row)

    def _remove(self, row: _Row) -> int:
        del self._rows[row.scope_number]
        freed = row.charged_bytes
        row.scope = None
        if freed:
            row.charged_bytes = 0
            self.size_bytes -= freed
            self.freed_bytes += freed
            self._budget.release(OWNER, freed)
            self._policy.removed(row.scope_number)
        return freed

    # -- room -------------------------------------------------------------------------------------

    @_whole
    def make_free(self, size_bytes: int) -> None:
        """Let scopes go until so much came free."""
        self.evict(size_bytes)

    @_whole
    def evict(self, size_bytes: int) -> int:
        """Let scopes go until so much came free; how much did."""
        freed = count = 0
        with self._lock:
            while freed < size_bytes:
                scope_number = self._policy.victim()
                if scope_number is None:
                    break
                freed += self._remove(self._rows[scope_number])
                count += 1
            self._charge_policy()
        if count:
            self._events.emit(ScopesEvicted(count, freed))
        return freed

    def make_free_of_excess(self, size_bytes: int) -> bool:
        """Let go of so much for somebody else, as far as there is an excess; whether anything
        went."""
        excess_bytes = self.excess_bytes
        return excess_bytes > 0 and self.evict(min(size_bytes, excess_bytes)) > 0

    @_whole
    def let_idle_go(self, idle_seconds: float) -> None:
        """Scopes that nobody asked for so long."""
        moment = self._clock.monotonic() - idle_seconds
        with self._lock:
            idle = [row for row in self._rows.values() if row.charged_bytes and row.used < moment]
            freed = sum(map(self._remove, idle))
            self._charge_policy()
        if idle:
            self._events.emit(ScopesEvicted(len(idle), freed))

    def limit(self, share: float) -> None:
        """Hold at most `share` of what is here now, until the limit is 1 again."""
        self._bytes_max = self._budget.limit_bytes
        if share < 1:
            self._bytes_max = int(self.size_bytes * share)
            self.make_free(self.size_bytes - self._bytes_max)

    def clear(self) -> None:
        with self._lock:
            for row in self._rows.values():
                row.scope, row.charged_bytes = None, 0
            self._rows = {}
            self.freed_bytes += self.size_bytes
            self.size_bytes = 0
            self._budget.release_all(OWNER)
            self._policy = self._make_policy()
            self._charge_policy()

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            assert self.size_bytes == sum(row.charged_bytes for row in self._rows.values())
            assert self.size_bytes == self._budget.held_bytes(OWNER)
            for row in self._rows.values():
                assert (row.scope is not None) == (row.charged_bytes > 0)

    def _charge_policy(self) -> None:
        """Grows after the fact, by a few bytes a scope: what does not fit waits."""
        self._budget.try_settle(_POLICY_OWNER, self._policy.charged_bytes())

    def close(self) -> None:
        self.clear()
        self._budget.release_all(_POLICY_OWNER)

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self._lock = LostLock()
