"""A turn as admission sees it: what it is charged, what it uses, and how it is told."""

import collections
import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

from memopt.base.errors import MemoptError
from memopt.pressure.promises import Key


class Ticket:
    """One turn: waiting, open, or over."""

    __slots__ = (
        "agent", "arrived", "charge_bytes", "ended", "entered", "error", "gate", "granted", "key",
        "number", "owner", "peak_bytes", "scope", "seen_keys", "seen_start", "seen_stop",
        "used_bytes", "wake",
    )  # fmt: skip

    def __init__(self, key: Key, agent: int, charge_bytes: int, number: int) -> None:
        self.key = key
        self.scope = key[0]
        self.agent = agent
        self.charge_bytes = charge_bytes
        self.number = number
        self.used_bytes = 0
        self.peak_bytes = 0
        self.arrived = 0.0
        self.entered = 0.0
        self.granted = False
        self.ended = False
        self.seen_start = self.seen_stop = 0
        """The messages of its session that it has read."""
        self.seen_keys: bytearray | None = None
        """A bit for each key of a collection that it has read or set; by the key's hash."""
        self.owner: Owner | None = None
        self.error: MemoptError | None = None
        self.gate: threading.Lock | None = None
        self.wake: Callable[[], None] | None = None
        """Called once it is granted or refused, by whoever made that so; twice after a Ctrl-C."""

    def end(self) -> None:
        self.ended = True
        # It refers to this, and would keep it until the collector comes.
        self.owner = None

    def fall_asleep(self) -> None:
        """Before it waits: on a gate, where nobody is to be called."""
        if self.wake is None:
            self.gate = threading.Lock()
            self.gate.acquire()

    def awaken(self) -> None:
        if self.wake is not None:
            self.wake()
        elif self.gate is not None:
            self.gate.release()

    def is_asleep(self) -> bool:
        return self.wake is not None or (self.gate is not None and self.gate.locked())


class Owner(weakref.ref[Any]):
    """Whoever holds a ticket. That it was dropped is noted by a C function: a `__del__` runs where
    the collector pleases, and a Ctrl-C within it is swallowed, the note with it."""

    __slots__ = ("ticket",)
    ticket: Ticket


class Left:
    """Tickets of turns that were dropped and that nobody ended. Thread-safe."""

    def __init__(self) -> None:
        self._owners: collections.deque[Owner] = collections.deque()

    def watch(self, ticket: Ticket, owner: object) -> None:
        """`ticket` is left when `owner` is dropped."""
        ticket.owner = Owner(owner, self._owners.append)
        ticket.owner.ticket = ticket

    def take_back(self, withdraw: Callable[[Ticket], None]) -> None:
        while self._owners:
            # Taken off last: a Ctrl-C in between must not lose it.
            with contextlib.suppress(IndexError, ValueError):
                dropped = self._owners[0]
                withdraw(dropped.ticket)
                self._owners.remove(dropped)
