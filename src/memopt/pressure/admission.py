"""Who may begin a turn: admission by predicted peak, with a queue that is bounded and fair.

A turn is let in when the peak it is predicted to need fits beside those of the turns that are open,
not when its present size does: sessions that are admitted small and grow together are what runs a
process out of memory. What does not fit waits, in order within its scope, and scopes are served by
how much they were given already (start-time fair queueing, Goyal, Vin and Cheng 1996): each is
given bytes at the same rate, however many turns it asks for. Who comes next is never overtaken for
being large, only while its own quota is used up; so nobody starves.

What is admitted is mostly memory of the callers, which no account knows: it is counted here and not
in the budget. The budget is charged with the rows alone, under "turns".

Invariant: a turn is granted only while the admitted bytes, its own included, are within the
capacity, or when no other is open. A turn that outgrows its prediction is charged for it and never
stopped. Not here: what a turn reads and writes (sessions/turns.py).
"""

import collections
import heapq
import itertools
import threading
from typing import Final

from memopt.base.budget import Budget
from memopt.base.errors import BackpressureError, MemoptError
from memopt.base.events import Events, Refused, TurnEnded, TurnWaited
from memopt.base.interrupts import mended_by
from memopt.base.peaks import PEAK_MAX, Peaks, type_number
from memopt.base.protocols import Clock
from memopt.base.units import KIB
from memopt.pressure.governor import Governor
from memopt.pressure.promises import Key, Promises
from memopt.pressure.ticket import Left, Ticket

OWNER: Final = "turns"
TICKET_BYTES: Final = 2 * KIB
"""A ticket, its turn, its lock and its places in the tables; measured in the tests."""
TYPES_MAX: Final = 256
HISTORY: Final = 32
"""Agent types whose peaks are kept, and how many of each."""
_QUANTILE: Final = 0.9
_MARGIN: Final = 1.1
_CHARGE_BYTES_MIN: Final = 16 * KIB
_GROWTH_BYTES: Final = 64 * KIB
"""A charge grows by at least so much, so that few reads have to ask for the lock."""
_HELD_SECONDS: Final = 1.0
"""How long a turn is taken to last before the first one ended."""
_HELD_WEIGHT: Final = 0.1
_SERVED_MAX: Final = 4096


_whole = mended_by(lambda admission: admission._recount())
"""A Ctrl-C may come between two sums: then they are made anew from the tickets."""


class Admission:
    """Thread-safe."""

    def __init__(
        self, budget: Budget, governor: Governor, *, capacity_bytes: int, default_bytes: int,
        queue_max: int, wait_seconds: float, scope_share: float, session_share: float, clock: Clock,
        events: Events,
    ) -> None:  # fmt: skip
        self.capacity_bytes = capacity_bytes
        self.wait_seconds = wait_seconds
        self.open_turns: dict[Key, list[Ticket]] = {}
        """By session, oldest first. Looked at without the lock by every append and read."""
        self.admitted_bytes = 0
        self.learnt = 0
        """Counts the peaks that were learnt."""
        self.peaks = Peaks(types_max=TYPES_MAX, peaks_max=HISTORY, quantile=_QUANTILE)
        self._default_bytes = default_bytes
        self._budget = budget
        self._governor = governor
        self._queue_max = queue_max
        self._scope_share = scope_share
        self._session_share = session_share
        self._clock = clock
        self._events = events
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._asking: set[int] = set()
        """Tickets on their way in: a row's bytes may be reserved for each, and it has none yet."""
        self._open: dict[int, Ticket] = {}
        self._by_scope: dict[str, int] = {}
        self._queues: dict[str, collections.deque[Ticket]] = {}
        self._heap: list[tuple[float, int, str]] = []
        """(served bytes, arrival, scope) of each scope that waits; entries may be stale."""
        self._place: dict[str, tuple[float, int, str]] = {}
        """The one entry of a scope that is not."""
        self._served: dict[str, float] = {}
        """Bytes that scopes were given since somebody began to wait."""
        self._virtual = 0.0
        self._waiting_bytes = 0
        self._waiting = 0
        self._held_seconds = _HELD_SECONDS
        self._promises = Promises(budget, OWNER)
        self._left = Left()
        self._closed: MemoptError | None = None
        self.is_abandoned = False
        """Whether this is a forked child's copy."""
        self._fixed_bytes = self.peaks.charged_bytes()
        budget.reserve(OWNER, self._fixed_bytes)

    # -- coming and going -------------------------------------------------------------------------

    def enter(self, ticket: Ticket, wait_seconds: float | None) -> None:
        """Wait for room and take it. Raises BackpressureError when the queue is full, the wait was
        too long, or pressure is critical; StoreClosedError when the store closes meanwhile."""
        wait = self.wait_seconds if wait_seconds is None else wait_seconds
        try:
            if not self.ask(ticket, wait > 0):
                gate = ticket.gate
                assert gate is not None
                gate.acquire(timeout=min(wait, threading.TIMEOUT_MAX))
                self.give_up(ticket)
        except BaseException:
            self.withdraw(ticket)
            raise

    def ticket(self, key: Key, agent: str | None, expected_bytes: int | None) -> Ticket:
        """A turn that has not asked yet."""
        kind = type_number(agent)
        if expected_bytes is None:
            predicted = self.peaks.predicted(kind)
            expected_bytes = self._default_bytes if predicted is None else int(_MARGIN * predicted)
        return Ticket(key, kind, max(expected_bytes, _CHARGE_BYTES_MIN), next(self._numbers))

    @_whole
    def ask(self, ticket: Ticket, may_wait: bool) -> bool:
        """Whether it was granted; if not, it waits, and its gate opens or `wake` is called when it
        is granted or refused. Raises BackpressureError when it may not wait."""
        if self._closed is not None:
            raise self._closed
        self._left.take_back(self.withdraw)
        if self._governor.refusing:
            self._events.emit(Refused("pressure", "critical"))
            raise BackpressureError(
                "memory is critically short", limit="pressure",
                retry_after_seconds=self._governor.retry_after_seconds(),
            )  # fmt: skip
        ticket.arrived = self._clock.monotonic()
        told: list[Ticket] = []
        try:
            self._asking.add(ticket.number)
            # Without the lock: pages may have to go for it, and every other turn would wait.
            self._budget.reserve(OWNER, TICKET_BYTES)
            with self._lock:
                if self._may_begin(ticket, may_wait, told):
                    self._grant(ticket)
                    return True
                ticket.fall_asleep()
                self._enqueue(ticket)
                # Those who wait may all be held up by quotas that this one has not used up.
                told += self._dispatch()
        finally:
            self._asking.discard(ticket.number)
            self._wake(told)
        return ticket.granted

    def give_up(self, ticket: Ticket) -> None:
        """It has waited long enough, or was woken: raises unless it was granted."""
        with self._lock:
            if ticket.granted:
                return
            error = ticket.error or self._refusal(ticket, "turn_wait_seconds")
        raise error

    @_whole
    def leave(self, ticket: Ticket) -> None:
        """End a turn, and learn what it needed. May be called twice."""
        with self._lock:
            if self._open.pop(ticket.number, None) is None:
                return
            self._forget(ticket)
            self._learn(ticket)
            now = self._clock.monotonic()
            held = now - ticket.entered
            self._held_seconds += _HELD_WEIGHT * (held - self._held_seconds)
            woken = self._dispatch()
        self._wake(woken)
        self._events.emit(TurnEnded(ticket.peak_bytes, held))

    @_whole
    def withdraw(self, ticket: Ticket) -> None:
        """Take back one that waits, or was let in just now and will not begin."""
        with self._lock:
            if self._open.pop(ticket.number, None) is not None:
                self._forget(ticket)
            elif not self._unqueue(ticket):
                ticket.end()
                return
            else:
                self._budget.release(OWNER, TICKET_BYTES)
                ticket.end()
            woken = self._dispatch()
        self._wake(woken)

    def own(self, ticket: Ticket, owner: object) -> None:
        """When `owner` is dropped before its turn was ended, that is ended when the next one comes
        or goes."""
        self._left.watch(ticket, owner)

    def note(self, ticket: Ticket, size_bytes: int) -> None:
        """A turn holds so much more, or less. Beyond its charge, the charge grows."""
        used = ticket.used_bytes + size_bytes
        ticket.used_bytes = used if used > 0 else 0
        if used > ticket.peak_bytes:
            ticket.peak_bytes = used
            if used > ticket.charge_bytes:
                self._grow(ticket, used)

    def resize(self, capacity_bytes: int) -> None:
        """Another capacity, for those who come and those who wait."""
        self._left.take_back(self.withdraw)
        if capacity_bytes == self.capacity_bytes and not self._waiting:
            return
        with self._lock:
            self.capacity_bytes = capacity_bytes
            woken = self._dispatch()
        self._wake(woken)

    def used_bytes(self) -> int:
        """What the open turns hold now, as far as it was noted."""
        return sum(ticket.used_bytes for ticket in list(self._open.values()))

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def turns(self) -> int:
        return len(self._open)

    def _rows_bytes(self) -> int:
        rows = len(self._open) + self._waiting
        return self._fixed_bytes + TICKET_BYTES * rows + self._promises.charged_bytes()

    def close(self, error: MemoptError) -> None:
        """Refuse everything from now on, and send away whoever waits."""
        self._closed = error
        with self._lock:
            woken = [ticket for queue in self._queues.values() for ticket in queue]
            for ticket in woken:
                ticket.error = error
                self._budget.release(OWNER, TICKET_BYTES)
            self._queues.clear()
            self._place.clear()
            self._heap.clear()
            self._waiting = self._waiting_bytes = 0
        self._wake(woken)

    def abandon_all(self, error: MemoptError) -> None:
        """In a forked child: everything here is the parent's, the lock and the budget too. So turns
        that were open or waiting are forgotten, and end without touching them."""
        self.is_abandoned = True
        self._closed = error
        self._lock = threading.Lock()
        self._open, self._queues = {}, {}
        self.open_turns.clear()

    def release(self) -> None:
        """Give back what the budget holds for turns; those that are open end here."""
        with self._lock:
            for ticket in self._open.values():
                ticket.end()
            self._open.clear()
            self._by_scope.clear()
            self.open_turns.clear()
            self.admitted_bytes = 0
            self._budget.release_all(OWNER)

    # -- who fits ---------------------------------------------------------------------------------

    def _may_begin(self, ticket: Ticket, may_wait: bool, dropped: list[Ticket]) -> bool:
        """Whether there is room and nobody before it; if not, it may queue. Else it raises, and
        what was reserved for it is given back."""
        try:
            if self._closed is not None:
                raise self._closed
            ticket.charge_bytes = min(ticket.charge_bytes, self._most())
            if not self._waiting and self._fits(ticket) and not self._is_blocked(ticket):
                return True
            returns = self._promises.redeem(ticket.key, ticket.arrived)
            if (
                not may_wait
                # Those of a scope who were told to come back go before its others.
                or (not returns and self._promises.has(ticket.scope))
                or (self._waiting >= self._queue_max and not self._drop_longest(ticket, dropped))
            ):
                limit = "turn_queue_max" if may_wait else "turn_wait_seconds"
                raise self._refusal(ticket, limit)
        except Exception:
            # Nothing is left of it where the store was released meanwhile.
            self._budget.release(OWNER, min(TICKET_BYTES, self._budget.held_bytes(OWNER)))
            raise
        return False

    def _most(self) -> int:
        """What one turn may be charged with at most, so that it fits when it is alone."""
        share = min(self._scope_share, self._session_share)
        return max(_CHARGE_BYTES_MIN, int(self.capacity_bytes * share))

    def _fits(self, ticket: Ticket) -> bool:
        return not self._open or self.admitted_bytes + ticket.charge_bytes <= self.capacity_bytes

    def _is_blocked(self, ticket: Ticket) -> bool:
        """Whether its scope or its session has as much open as it may."""
        charge = ticket.charge_bytes
        held = self._by_scope.get(ticket.scope, 0)
        if held and held + charge > self._scope_share * self.capacity_bytes:
            return True
        mine = self.open_turns.get(ticket.key)
        if not mine:
            return False
        held = sum(other.charge_bytes for other in mine)
        return held + charge > self._session_share * self.capacity_bytes

    def _grant(self, ticket: Ticket) -> None:
        ticket.entered = self._clock.monotonic()
        self._open[ticket.number] = ticket
        self.admitted_bytes += ticket.charge_bytes
        scope = ticket.scope
        self._by_scope[scope] = self._by_scope.get(scope, 0) + ticket.charge_bytes
        self.open_turns.setdefault(ticket.key, []).append(ticket)
        ticket.granted = True

    def _forget(self, ticket: Ticket) -> None:
        ticket.end()
        self._budget.release(OWNER, TICKET_BYTES)
        self.admitted_bytes -= ticket.charge_bytes
        held = self._by_scope.get(ticket.scope, 0) - ticket.charge_bytes
        if held > 0:
            self._by_scope[ticket.scope] = held
        else:
            self._by_scope.pop(ticket.scope, None)
        mine = self.open_turns.get(ticket.key)
        if mine is not None and ticket in mine:
            mine.remove(ticket)
            if not mine:
                del self.open_turns[ticket.key]

    def _learn(self, ticket: Ticket) -> None:
        if self.peaks.predicted(ticket.agent) is None:
            # A few turns say little about the next: the default counts as one of them.
            self.peaks.note(ticket.agent, self._default_bytes)
        self.peaks.note(ticket.agent, min(ticket.peak_bytes, PEAK_MAX))
        self.learnt += 1

    @_whole
    def _grow(self, ticket: Ticket, used_bytes: int) -> None:
        with self._lock:
            if ticket.number not in self._open:
                return
            growth = max(_GROWTH_BYTES, used_bytes - ticket.charge_bytes)
            ticket.charge_bytes += growth
            self.admitted_bytes += growth
            self._by_scope[ticket.scope] = self._by_scope.get(ticket.scope, 0) + growth

    def _recount(self) -> None:
        if self.is_abandoned:
            return
        # A lock that this thread holds is let go on the way here, by its `with`.
        with self._lock:
            self.admitted_bytes = 0
            self._by_scope.clear()
            self.open_turns.clear()
            for ticket in list(self._open.values()):
                self.admitted_bytes += ticket.charge_bytes
                held = self._by_scope.get(ticket.scope, 0)
                self._by_scope[ticket.scope] = held + ticket.charge_bytes
                self.open_turns.setdefault(ticket.key, []).append(ticket)
            for scope in [scope for scope, queue in self._queues.items() if not queue]:
                del self._queues[scope]
            for queue in self._queues.values():
                for ticket in [each for each in queue if each.number in self._open]:
                    queue.remove(ticket)
            waiting = [ticket for queue in self._queues.values() for ticket in queue]
            self._waiting = len(waiting)
            self._waiting_bytes = sum(ticket.charge_bytes for ticket in waiting)
            self._place = {
                scope: (self._served.get(scope, self._virtual), queue[0].number, scope)
                for scope, queue in self._queues.items()
                if queue
            }
            self._heap = sorted(self._place.values())
            wanted = self._rows_bytes()
            held = self._budget.held_bytes(OWNER)
            reserved = wanted + TICKET_BYTES * len(self._asking)
            if held > reserved:
                self._budget.release(OWNER, held - reserved)
            elif held < wanted:
                self._budget.try_reserve(OWNER, wanted - held)
            self._promises.recount()
            # Whoever was granted and not told yet, and whoever was about to be.
            woken = [ticket for ticket in self._open.values() if ticket.is_asleep()]
            woken += self._dispatch()
        self._wake(woken)

    # -- the queue --------------------------------------------------------------------------------

    def _enqueue(self, ticket: Ticket) -> None:
        queue = self._queues.setdefault(ticket.scope, collections.deque())
        queue.append(ticket)
        self._waiting += 1
        self._waiting_bytes += ticket.charge_bytes
        if len(queue) == 1:
            self._line_up(ticket)

    def _line_up(self, ticket: Ticket) -> None:
        """The first of its scope: the scope's place is by what it was given so far."""
        served = max(self._served.get(ticket.scope, 0.0), self._virtual)
        place = self._place[ticket.scope] = (served, ticket.number, ticket.scope)
        heapq.heappush(self._heap, place)

    def _drop_longest(self, ticket: Ticket, dropped: list[Ticket]) -> bool:
        """Whether there is a place: the queue is full, and a scope that has most of it gives up its
        last for one of a scope that has less."""
        mine = len(self._queues.get(ticket.scope, ()))
        longest = max(self._queues.values(), key=len)
        if len(longest) <= mine + 1:
            return False
        last = longest[-1]
        self._unqueue(last)
        self._budget.release(OWNER, TICKET_BYTES)
        last.error = self._refusal(last, "turn_queue_max")
        dropped.append(last)
        return True

    def _unqueue(self, ticket: Ticket) -> bool:
        queue = self._queues.get(ticket.scope)
        if queue is None or ticket not in queue:
            return False
        was_first = queue[0] is ticket
        queue.remove(ticket)
        self._waiting -= 1
        self._waiting_bytes -= ticket.charge_bytes
        if was_first:
            self._next_of(ticket.scope)
        return True

    def _next_of(self, scope: str) -> None:
        """The first of a scope is gone from the queue: the next one, if any, lines up."""
        self._place.pop(scope, None)
        queue = self._queues[scope]
        if queue:
            self._line_up(queue[0])
        else:
            del self._queues[scope]

    def _dispatch(self) -> list[Ticket]:
        """Grant what fits, in order; those granted, to be woken outside the lock."""
        woken: list[Ticket] = []
        aside = []
        while self._heap:
            place = self._heap[0]
            scope = place[2]
            if self._place.get(scope) != place:
                heapq.heappop(self._heap)
                continue
            ticket = self._queues[scope][0]
            self._waiting_bytes -= ticket.charge_bytes
            ticket.charge_bytes = min(ticket.charge_bytes, self._most())
            self._waiting_bytes += ticket.charge_bytes
            if self._is_blocked(ticket):
                aside.append(heapq.heappop(self._heap))
                continue
            if not self._fits(ticket):
                # Whoever comes first waits for room, and nobody smaller goes before it.
                break
            heapq.heappop(self._heap)
            self._queues[scope].popleft()
            self._waiting -= 1
            self._waiting_bytes -= ticket.charge_bytes
            self._virtual = place[0]
            self._served[scope] = place[0] + ticket.charge_bytes
            self._grant(ticket)
            woken.append(ticket)
            self._next_of(scope)
        for place in aside:
            heapq.heappush(self._heap, place)
        if not self._waiting:
            self._served.clear()
            self._virtual = 0.0
        elif len(self._served) > _SERVED_MAX:
            self._served = {s: b for s, b in self._served.items() if b > self._virtual}
        return woken

    def _wake(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            if ticket.granted:
                self._events.emit(TurnWaited(ticket.entered - ticket.arrived))
            ticket.awaken()

    # -- when to come again -----------------------------------------------------------------------

    def _refusal(self, ticket: Ticket, limit: str) -> BackpressureError:
        seconds = self._retry_after_seconds(ticket)
        self._events.emit(Refused(limit, "turn"))
        return BackpressureError(
            f"{len(self._open)} turns are open and {self._waiting} wait", limit=limit,
            wanted_bytes=ticket.charge_bytes, limit_bytes=self.capacity_bytes,
            retry_after_seconds=round(seconds, 3),
        )  # fmt: skip

    def _retry_after_seconds(self, ticket: Ticket) -> float:
        """When room is to be expected, if turns go on ending as they did. Whoever is refused is
        told a time behind those who were told one before, and that is kept in mind: until they
        have come back, or did not, the queue is theirs before it is their scope's others'."""
        now = self._clock.monotonic()
        held = self._held_seconds
        if self._open:
            # Turns that all last longer than any before have not ended yet.
            held = max(held, now - next(iter(self._open.values())).entered)
        rate = max(self.admitted_bytes, 1) / max(held, 1e-3)
        free = self.capacity_bytes - self.admitted_bytes
        ahead = self._waiting_bytes + ticket.charge_bytes - free
        return self._promises.make(
            ticket.key, now, seconds=max(0, ahead) / rate, takes_seconds=ticket.charge_bytes / rate
        )

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            tickets = self._open.values()
            assert self.admitted_bytes == sum(ticket.charge_bytes for ticket in tickets)
            assert self.admitted_bytes == sum(self._by_scope.values())
            assert sum(map(len, self.open_turns.values())) == len(self._open)
            waiting = [ticket for queue in self._queues.values() for ticket in queue]
            assert self._waiting == len(waiting) <= self._queue_max
            assert self._waiting_bytes == sum(ticket.charge_bytes for ticket in waiting)
            assert self._place.keys() == self._queues.keys()
            held = self._budget.held_bytes(OWNER) - self._rows_bytes()
            assert 0 <= held <= TICKET_BYTES * len(self._asking)
            self._promises.check()
