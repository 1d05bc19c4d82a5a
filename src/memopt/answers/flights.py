"""Single flight: of equal calls at the same time, one asks the model, and the others wait for it.

Owns: who is asking what, and who waits. Invariant: at most `waiters_max` calls wait, none longer
than it was told to; and what somebody waits for is made by a call that runs, or is over. An error
of the one that asks is its own: the next of those that wait asks instead. Not here: what is asked.
"""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from memopt.base.errors import BackpressureError, StoreClosedError

T = TypeVar("T")


class _Nothing:
    """What a flight has brought so far."""


_NOTHING: Final = _Nothing()


class _Flight:
    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Any = _NOTHING


class Landed(NamedTuple, Generic[T]):
    result: T
    is_shared: bool
    """Another call made it."""


class Flights:
    """Thread-safe."""

    def __init__(self, waiters_max: int) -> None:
        self._waiters_max = waiters_max
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}
        self._waiting = 0
        self._closed = False

    def join(self, key: Hashable, make: Callable[[], T], *, wait_seconds: float) -> Landed[T]:
        """What `make` returns, or what an equal call's did. After `wait_seconds` it is made here
        in any case. Raises BackpressureError where too many wait, and whatever `make` raises."""
        deadline: float | None = None
        while True:
            with self._lock:
                if self._closed:
                    raise StoreClosedError("the store is closed")
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = _Flight()
                    break
                if self._waiting >= self._waiters_max:
                    raise BackpressureError(
                        f"{self._waiting} calls wait for others' answers already",
                        limit="answer_waiters_max",
                    )
                self._waiting += 1
            try:
                deadline = deadline if deadline is not None else time.monotonic() + wait_seconds
                flight.done.wait(max(0.0, deadline - time.monotonic()))
            finally:
                with self._lock:
                    self._waiting -= 1
            if flight.result is not _NOTHING:
                return Landed(flight.result, True)
            if not flight.done.is_set():
                return Landed(make(), False)
        return self._make(key, flight, make)

    def _make(self, key: Hashable, flight: _Flight, make: Callable[[], T]) -> Landed[T]:
        try:
            result = make()
            flight.result = result
            return Landed(result, False)
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.done.set()

    def close(self) -> None:
        """Let everybody who waits go on."""
        with self._lock:
            self._closed = True
            flights = list(self._flights.values())
            self._flights.clear()
        for flight in flights:
            flight.done.set()

    @property
    def waiting(self) -> int:
        return self._waiting
