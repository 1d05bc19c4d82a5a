"""Connections to the owner of a store: a few for calls, and one for each subscription and turn.

Invariant: a call is sent once. When the owner goes away before it answered, the caller gets a
StoreClosedError, and whether a write was made is not known: an idempotency key makes it safe to
repeat. Not here: what the verbs mean.
"""

import collections
import contextlib
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from memopt.base.config import Config
from memopt.base.errors import BackpressureError, StoreClosedError, StoreVersionError
from memopt.base.records import JournalRecord
from memopt.codecs.wire import FRAME_EXTRA_BYTES, PROTOCOL, Channel, decode, decode_error, frame
from memopt.journal.subscription import Subscription
from memopt.owner.door import IDLE_SECONDS, SOCKET, Target, short_path
from memopt.owner.reads import POLL_SECONDS_MAX

CONNECTIONS_MAX: Final = 4
"""Calls of one RemoteMemory that run at a time; further ones wait. So many connections are kept for
the next calls. A subscription and a turn have one of their own besides."""
WAIT_SECONDS_MAX: Final = 60.0
"""The longest a call waits for a connection before it raises BackpressureError."""
_CONNECT_SECONDS: Final = 10.0
_STALE_SECONDS: Final = IDLE_SECONDS / 2
"""An unused connection of this age is not used again: the owner is about to drop it."""


class _Connection:
    """One connection to the owner, for one call at a time."""

    def __init__(self, directory: Path) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel = Channel(connection, FRAME_EXTRA_BYTES)
        self._ending = threading.Lock()
        self._hung_up = False
        try:
            connection.settimeout(_CONNECT_SECONDS)
            with short_path(directory / SOCKET) as address:
                connection.connect(address)
            kind, welcome = self._channel.receive()
        except (FileNotFoundError, ConnectionRefusedError):
            self._channel.close()
            raise StoreClosedError(
                f"no process has {directory} open: open it with memopt.open()"
            ) from None
        except (EOFError, OSError) as error:
            self._channel.close()
            raise StoreClosedError(f"the owner of {directory} does not answer: {error}") from error
        except BaseException:
            self._channel.close()
            raise
        if kind == "error":
            self._channel.close()
            raise decode_error(welcome)
        if welcome["protocol"] != PROTOCOL:
            self._channel.close()
            raise StoreVersionError(
                f"the owner speaks protocol {welcome['protocol']}, this memopt {PROTOCOL}"
            )
        known = {field.name for field in dataclasses.fields(Config)}
        self.config = Config(**{k: v for k, v in welcome["config"].items() if k in known})
        longest = max(self.config.message_bytes_max, self.config.state_bytes_max)
        self._channel.frame_bytes_max = longest + FRAME_EXTRA_BYTES
        connection.settimeout(None)
        self.is_between_calls = True
        """Else a part of an answer may still be on its way, and it is not for another call."""
        self._is_asked = False
        self._used_at = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether the owner still listens, as far as can be seen from here."""
        if not self.is_between_calls or time.monotonic() - self._used_at > _STALE_SECONDS:
            return False
        try:
            # Between calls there is nothing to read but the end.
            self._channel.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def ask(
        self, target: Target, verb: str, arguments: dict[str, Any],
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:  # fmt: skip
        """Send a call and wait for its answer. Raises what the owner answered, StoreClosedError
        when it went away."""
        self.send(target, verb, arguments, progress=progress is not None)
        return self.answer(progress)

    def send(
        self, target: Target, verb: str, arguments: dict[str, Any], *, progress: bool = False
    ) -> None:
        # Before anything is sent: what cannot travel is no fault of the connection.
        request = frame([list(target), verb, arguments, progress], self._channel.frame_bytes_max)
        if not self.is_between_calls:
            raise self._lost()
        self.is_between_calls = False
        try:
            self._channel.connection.sendall(request)
        except OSError as error:
            raise self._lost() from error
        self._is_asked = True

    def answer(self, progress: Callable[[int, int], None] | None = None) -> Any:
        if not self._is_asked:
            raise self._lost()
        kind, answer = self._receive()
        while kind == "progress":
            if progress is not None:
                progress(*answer)
            kind, answer = self._receive()
        self._used_at = time.monotonic()
        self._is_asked = False
        self.is_between_calls = True
        if kind == "error":
            raise decode_error(answer)
        return answer

    def _receive(self) -> Any:
        try:
            return self._channel.receive()
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def _lost(self) -> StoreClosedError:
        if self._hung_up:
            return StoreClosedError("this connection to the store is closed")
        return StoreClosedError("the owner went away before it answered: what it did is not known")

    def hang_up(self) -> None:
        """On any thread: whoever waits for an answer gets none. Close it besides."""
        with self._ending, contextlib.suppress(OSError):
            self._hung_up = True
            self._channel.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.is_between_calls = False
        # Not while another thread hangs up: the descriptor may be somebody else's then.
        with self._ending:
            self._channel.close()


class Pool:
    """Up to CONNECTIONS_MAX connections for calls, as many for reads that go on, and those of what
    lasts; made when needed. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._idle: list[_Connection] = []
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._pid = os.getpid()
        self._closed = False
        self._subscriptions: set[RemoteSubscription] = set()
        self._carrying: set[_Connection] = set()
        self._parked: list[_Connection] = []
        """Those of long reads, each until the next batch of its own is asked for."""
        first = _Connection(directory)
        self.config = first.config
        self._idle.append(first)

    def call(
        self, target: Target, verb: str, arguments: dict[str, Any],
        progress: Callable[[int, int], None] | None = None, reading: "Reading | None" = None,
    ) -> Any:  # fmt: skip
        self._check_open()
        if not self._slots.acquire(timeout=WAIT_SECONDS_MAX):
            raise BackpressureError(
                f"{CONNECTIONS_MAX} calls are running", limit="client.CONNECTIONS_MAX"
            )
        try:
            connection = self._take(reading)
            try:
                return connection.ask(target, verb, arguments, progress)
            finally:
                self._give_back(connection, reading)
        finally:
            self._slots.release()

    def subscribe(self, arguments: dict[str, Any]) -> "RemoteSubscription":
        self._check_open()
        connection = _Connection(self.directory)
        try:
            connection.ask(Target("Memory"), "subscribe", arguments)
        except BaseException:
            connection.close()
            raise
        subscription = RemoteSubscription(connection, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def carry(self, target: Target, verb: str, arguments: dict[str, Any]) -> "CarriedCall":
        """Ask for something that lasts, on a connection that is its own until it ends. Whether it
        was begun says `begun`."""
        self._check_open()
        connection = self._carry()
        try:
            connection.send(target, verb, arguments)
        except BaseException:
            self._carried(connection)
            raise
        return CarriedCall(connection, target, self._carried)

    def close(self) -> None:
        self._closed = True
        for subscription in list(self._subscriptions):
            subscription.close()
        for connection in list(self._carrying):
            connection.hang_up()
        self._keep(self._parked, 0)
        self._keep(self._idle, 0)

    def _take(self, reading: "Reading | None" = None) -> _Connection:
        connection = None if reading is None else self._unparked(reading)
        while connection is None or not connection.is_fresh():
            if connection is not None:
                connection.close()
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
        return connection

    def _connect(self) -> _Connection:
        try:
            return _Connection(self.directory)
        except BackpressureError:
            # A read that goes on costs the owner more without its connection, and that is all.
            with contextlib.suppress(IndexError):
                while not (connection := self._parked.pop(0)).is_fresh():
                    connection.close()
                return connection
            raise

    def _unparked(self, reading: "Reading") -> _Connection | None:
        """The connection that a read came by; None where others have taken it since."""
        connection, reading.connection = reading.connection, None
        if connection is not None:
            try:
                self._parked.remove(connection)
            except ValueError:
                return None
        return connection

    def leave(self, reading: "Reading", *, is_whole: bool) -> None:
        """It is read no more."""
        connection = self._unparked(reading)
        if connection is not None:
            if not is_whole:
                # With it goes what the owner keeps.
                connection.close()
            self._give_back(connection)

    def _carry(self) -> _Connection:
        connection = self._take()
        self._carrying.add(connection)
        if self._closed:
            connection.hang_up()
        return connection

    def _carried(self, connection: _Connection) -> None:
        self._carrying.discard(connection)
        self._give_back(connection)

    def _give_back(self, connection: _Connection, reading: "Reading | None" = None) -> None:
        if not connection.is_between_calls:
            connection.close()
            return
        if reading is not None and len(self._parked) < CONNECTIONS_MAX:
            reading.connection = connection
            self._parked.append(connection)
        else:
            self._idle.append(connection)
        # What is carried has a connection besides those of calls: they are not kept for it.
        self._keep(self._idle, CONNECTIONS_MAX)
        if self._closed:
            self.close()

    def _keep(self, connections: list[_Connection], count: int) -> None:
        """Close those that were used longest ago, but for so many."""
        while len(connections) > count:
            with contextlib.suppress(IndexError):
                connections.pop(0).close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("this connection to the store is closed")
        if self._pid != os.getpid():
            raise StoreClosedError("this connection to the store belongs to the parent process")


class Reading:
    """A long read: the owner keeps its place with the connection that its last batch came by."""

    def __init__(self) -> None:
        self.connection: _Connection | None = None


class CarriedCall:
    """What a connection carries until it ends: closing the connection ends it too."""

    def __init__(
        self, connection: _Connection, target: Target, leave: Callable[[_Connection], None]
    ) -> None:
        self._connection = connection
        self._target = target
        self._leave = leave
        self._lock = threading.Lock()
        self._is_begun = False
        self._has_ended = False

    def begun(self) -> None:
        """Wait until the owner says that it has begun. Raises what it says instead, and
        StoreClosedError when it was dropped meanwhile."""
        try:
            self._connection.answer()
            self._is_begun = True
        finally:
            if not self._is_begun:
                self._abandon()

    def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        with self._lock:
            return self._connection.ask(self._target, verb, arguments)

    def end(self, verb: str) -> None:
        """Where the owner is gone, it has ended."""
        if not self._is_begun:
            self.drop()
            return
        self._has_ended = True
        try:
            with contextlib.suppress(StoreClosedError):
                self.call(verb, {})
        finally:
            self._leave(self._connection)

    def drop(self) -> None:
        """On any thread, and without waiting: it ends, whether it has begun or not."""
        self._connection.hang_up()

    def __del__(self) -> None:
        if not self._has_ended:
            self._abandon()

    def _abandon(self) -> None:
        # Another thread may drop it this very moment, so the connection is not for others.
        self._has_ended = True
        self._connection.close()
        self._leave(self._connection)


class RemoteSubscription(Subscription):
    """The same on a connection of its own: what waits, waits at the owner, but for one batch. It
    shares what Subscription makes of get() and close(), and none of its state."""

    def __init__(
        self, connection: _Connection, forget: Callable[["RemoteSubscription"], None]
    ) -> None:
        self._connection = connection
        self._forget_this = forget
        self._batch: collections.deque[bytes] = collections.deque()
        self._asking = threading.Lock()
        self._over = False

    def get(self, timeout: float | None = None) -> JournalRecord | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._asking:
            while not self._batch and not self._over:
                left = POLL_SECONDS_MAX if deadline is None else deadline - time.monotonic()
                self._ask(max(0.0, min(left, POLL_SECONDS_MAX)))
                if deadline is not None and time.monotonic() >= deadline:
                    break
            record = decode(self._batch.popleft()) if self._batch and not self._over else None
        assert record is None or isinstance(record, JournalRecord)
        return record

    def _ask(self, timeout: float) -> None:
        try:
            # After a Ctrl-C, the answer to the last one is still to come.
            if self._connection.is_between_calls:
                self._connection.send(Target("Memory"), "next", {"timeout": timeout})
            self._batch.extend(self._connection.answer())
        except StoreClosedError:
            if self._connection.is_between_calls:
                raise
            # The owner closed the store, or this subscription was closed while it waited.
            self._over = True

    def close(self) -> None:
        self._over = True
        self._forget_this(self)
        # A thread that waits in get() wakes up; the descriptor is closed when it is done with it.
        self._connection.hang_up()
        with self._asking:
            self._connection.close()
