"""Brings pages in before they are asked for: says which, and has them fetched on a thread of its
own.

Three predictors, each to be switched on by itself. `next`: while a session's pages are read, those
that follow. `order`: the session that came after this one within the same scope the last times
(first-order transitions; D. Joseph and D. Grunwald, "Prefetching using Markov predictors", ISCA
1997). `recency`: what was used lately and fell out, once there is free room again.

Invariant: at most QUEUE_MAX predictions wait, the oldest goes first; no page is fetched while a
snapshot is open or a lock is held; nothing is fetched once `stop` or `close` has returned, but what
is being fetched right then. A page that is rewritten or deleted meanwhile is not kept (pager.py).
Not here: room, and which pages were worth it (pager.py, and its events).
"""

import collections
import threading
import time
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from memopt.base.budget import Budget
from memopt.base.errors import MemoptError
from memopt.base.events import Events, Prefetched
from memopt.base.protocols import Clock, Reader
from memopt.base.records import SEQ_MASK, PageRow, Prefetch
from memopt.paging.pager import Pager

QUEUE_MAX: Final = 64
_QUEUED_BYTES: Final = 3000
"""A prediction with up to _AHEAD_PAGES rows that nobody else holds."""
_AHEAD_PAGES: Final = 4
_SESSION_PAGES: Final = 8
"""The last pages of a session that is expected: what a context is made of first."""
_PLACES: Final = 4096
_WAYS: Final = 4
_SURE: Final = 2
"""Times that one came after the other, less those that another did."""
_SCORE_MAX: Final = 7
_RECENT_MAX: Final = 512
_RECENT_BYTES: Final = 420
_RECENT_A_ROUND: Final = 32
_FREE_SHARE: Final = 1 / 8
"""Of the budget: with less than this free, `recency` does nothing."""
_OWNER: Final = "prefetch"
V = TypeVar("V")


class _Wanted(NamedTuple):
    by: Prefetch
    line: int
    scope: int
    agent: str | None
    rows: Sequence[PageRow] | None
    """None: the last pages of the line, which are looked up when its turn comes."""


class Successors:
    """What came after what, the last times: one successor each, with a score. Arrays of a fixed
    size; a set has four places, and the lowest score makes way."""

    def __init__(self) -> None:
        self._keys = array("q", (0,)) * _PLACES
        self._values = array("q", (0,)) * _PLACES
        self._scores = array("B", (0,)) * _PLACES

    def note(self, key: int, value: int) -> None:
        """`value` came after `key`. Keys are above 0."""
        first = key % (_PLACES // _WAYS) * _WAYS
        places = range(first, first + _WAYS)
        place = next((place for place in places if self._keys[place] == key), None)
        if place is None:
            place = min(places, key=self._scores.__getitem__)
            if self._scores[place] > 1:
                self._scores[place] -= 1
                return
            self._keys[place], self._values[place], self._scores[place] = key, value, 1
        elif self._values[place] == value:
            self._scores[place] = min(_SCORE_MAX, self._scores[place] + 1)
        elif self._scores[place] > 1:
            self._scores[place] -= 1
        else:
            self._values[place] = value

    def after(self, key: int) -> int | None:
        """What usually comes after `key`; None when that is not known well enough."""
        first = key % (_PLACES // _WAYS) * _WAYS
        for place in range(first, first + _WAYS):
            if self._keys[place] == key and self._scores[place] >= _SURE:
                return self._values[place]
        return None

    def charged_bytes(self) -> int:
        return _PLACES * 17 + 512


class Prefetcher:
    """Thread-safe. Switched off, it is told nothing and holds nothing."""

    def __init__(
        self, home: Reader, pager: Pager, budget: Budget, *, clock: Clock, events: Events,
        kind: Prefetch, recent_seconds: float,
    ) -> None:  # fmt: skip
        self._home = home
        self._pager = pager
        self._budget = budget
        self._clock = clock
        self._events = events
        self._kind = kind
        self._recent_seconds = recent_seconds
        """What was not used for so long is let cool, and not brought back."""
        self._queue: collections.deque[_Wanted] = collections.deque(maxlen=QUEUE_MAX)
        self._recent: collections.OrderedDict[int, tuple[int, str | None, float]]
        self._recent = collections.OrderedDict()
        self._last: collections.OrderedDict[int, int] = collections.OrderedDict()
        """By scope: the line that was read last."""
        self._successors = Successors() if self._does(Prefetch.ORDER) else None
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._is_closed = False
        self._charge = 0
        if kind is not Prefetch.OFF:
            self._charge = QUEUE_MAX * _QUEUED_BYTES + 2 * _RECENT_MAX * _RECENT_BYTES
            if self._successors is not None:
                self._charge += self._successors.charged_bytes()
            budget.reserve(_OWNER, self._charge)
            pager.on_open = self.opened

    def opened(self, rows: Sequence[PageRow], index: int, scope: int, agent: str | None) -> None:
        """`rows` are read, from `index` on: at the first one and wherever one was not in L1."""
        if self._is_stopped:
            return
        if self._does(Prefetch.NEXT) and index + 1 < len(rows):
            ahead = rows[index + 1 : index + 1 + _AHEAD_PAGES]
            self._want(_Wanted(Prefetch.NEXT, rows[index].line, scope, agent, ahead))
        if index == 0:
            self._learn(rows[-1].line, scope, agent)

    def refill(self) -> None:
        """On the maintenance thread: ask for what fell out of sessions used lately, the latest
        first, if there is free room."""
        budget = self._budget
        if self._is_stopped or not self._does(Prefetch.RECENCY):
            return
        if budget.free_bytes() < _FREE_SHARE * budget.limit_bytes:
            return
        since = self._clock.monotonic() - self._recent_seconds
        with self._lock:
            lines = [
                (line, scope, agent)
                for line, (scope, agent, touched) in reversed(self._recent.items())
                if touched >= since
            ][:_RECENT_A_ROUND]
        for line, scope, agent in lines:
            self._want(_Wanted(Prefetch.RECENCY, line, scope, agent, None))

    def stop(self) -> None:
        """Predict and fetch no more, until `start`."""
        self._is_stopped = True
        self._queue.clear()

    def start(self) -> None:
        self._is_stopped = self._is_closed

    def drain(self) -> int:
        """Fetch all that waits, on this thread; how many pages came in."""
        count = 0
        while not self._is_stopped:
            try:
                wanted = self._queue.popleft()
            except IndexError:
                break
            count += self._fetch(wanted)
        return count

    def close(self) -> None:
        """Stop for good, and wait for the thread."""
        self._is_closed = True
        self.stop()
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
        self._budget.release(_OWNER, self._charge)
        self._charge = 0

    def _does(self, kind: Prefetch) -> bool:
        return self._kind in (kind, Prefetch.ALL)

    def _learn(self, line: int, scope: int, agent: str | None) -> None:
        """A session is read from its start: what came before it in its scope, and what comes."""
        after = None
        with self._lock:
            if self._does(Prefetch.RECENCY):
                _put(self._recent, line, (scope, agent, self._clock.monotonic()))
            if self._successors is not None:
                before = self._last.get(scope)
                if before != line:
                    _put(self._last, scope, line)
                    if before is not None:
                        self._successors.note(before, line)
                    after = self._successors.after(line)
        if after is not None:
            self._want(_Wanted(Prefetch.ORDER, after, scope, agent, None))

    def _want(self, wanted: _Wanted) -> None:
        self._queue.append(wanted)
        if not self._awake.is_set():
            self._awake.set()
            if self._thread is None:
                self._begin()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(
                    target=self._run, name="memopt-prefetch", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while self._awake.wait() and not self._is_closed:
            self._awake.clear()
            self.drain()

    def _fetch(self, wanted: _Wanted) -> int:
        try:
            rows = self._rows(wanted)
        except MemoptError:
            # A store that is closing, or damage that its reader will hear of.
            return 0
        count = 0
        for row in rows:
            if self._is_stopped:
                break
            started = time.perf_counter()
            if self._pager.prefetch(row, wanted.scope, wanted.agent, wanted.by):
                count += 1
                seconds = time.perf_counter() - started
                self._events.emit(Prefetched(wanted.by, 1, row.raw_bytes, seconds))
        return count

    def _rows(self, wanted: _Wanted) -> Sequence[PageRow]:
        if wanted.rows is not None:
            return wanted.rows
        with self._home.snapshot() as tables:
            return tables.pages.map(wanted.line, 0, SEQ_MASK + 1, last=_SESSION_PAGES)


def _put(table: "collections.OrderedDict[int, V]", key: int, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _RECENT_MAX:
        table.popitem(last=False)
