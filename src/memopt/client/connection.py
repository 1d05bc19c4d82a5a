"""Connections to the owner of a store: a few for calls, and one for each subscription.

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
from memopt.base.errors import BackpressureError, StoreClosedError, StoreVersionError, UsageError
from memopt.base.records import JournalRecord
from memopt.codecs.wire import FRAME_EXTRA_BYTES, PROTOCOL, Channel, decode, decode_error, frame
from memopt.journal.subscription import Subscription
from memopt.owner.door import IDLE_SECONDS, SOCKET, Target, short_path
from memopt.owner.reads import POLL_SECONDS_MAX

CONNECTIONS_MAX: Final = 4
"""Calls of one RemoteMemory that run at a time; further ones wait. A subscription has a connection
of its own besides."""
WAIT_SECONDS_MAX: Final = 60.0
"""The longest a call waits for a connection before it raises BackpressureError."""
_CONNECT_SECONDS: Final = 10.0
_STALE_SECONDS: Final = IDLE_SECONDS / 2
"""An unused connection of this age is not used again: the owner is about to drop it."""


class _Connection:
    """One connection to the owner, for one call at a time."""

    def __init__(self, directory: Path) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel = Channel(connection, FRAME_EXTRA_BYTES)
        try:
            connection.settimeout(_CONNECT_SECONDS)
            with short_path(directory / SOCKET) as address:
                connection.connect(address)
            kind, welcome = self.channel.receive()
        except (FileNotFoundError, ConnectionRefusedError):
            self.channel.close()
            raise StoreClosedError(
                f"no process has {directory} open: open it with memopt.open()"
            ) from None
        except (EOFError, OSError) as error:
            self.channel.close()
            raise StoreClosedError(f"the owner of {directory} does not answer: {error}") from error
        except BaseException:
            self.channel.close()
            raise
        if kind == "error":
            self.channel.close()
            raise decode_error(welcome)
        if welcome["protocol"] != PROTOCOL:
            self.channel.close()
            raise StoreVersionError(
                f"the owner speaks protocol {welcome['protocol']}, this memopt {PROTOCOL}"
            )
        known = {field.name for field in dataclasses.fields(Config)}
        self.config = Config(**{k: v for k, v in welcome["config"].items() if k in known})
        longest = max(self.config.message_bytes_max, self.config.state_bytes_max)
        self.channel.frame_bytes_max = longest + FRAME_EXTRA_BYTES
        connection.settimeout(None)
        self.used_at = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether the owner still listens, as far as can be seen from here."""
        if time.monotonic() - self.used_at > _STALE_SECONDS:
            return False
        try:
            # Between calls there is nothing to read but the end.
            self.channel.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def call(self, request: bytes, progress: Callable[[int, int], None] | None = None) -> Any:
        """Send a frame and wait for its answer. Raises _Answered when that is an error,
        StoreClosedError when the owner went away."""
        try:
            self.channel.connection.sendall(request)
            kind, answer = self.channel.receive()
            while kind == "progress":
                if progress is not None:
                    progress(*answer)
                kind, answer = self.channel.receive()
        except (EOFError, ConnectionError) as error:
            raise StoreClosedError(
                "the owner went away before it answered: what it did is not known"
            ) from error
        self.used_at = time.monotonic()
        if kind == "error":
            raise _Answered(decode_error(answer))
        return answer

    def frame(
        self, target: Target, verb: str, arguments: dict[str, Any], *, progress: bool = False
    ) -> bytes:
        return frame([list(target), verb, arguments, progress], self.channel.frame_bytes_max)


class _Answered(Exception):
    """The owner answered with an error: the connection is good for the next call."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Pool:
    """Up to CONNECTIONS_MAX connections, made when needed. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._idle: list[_Connection] = []
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._pid = os.getpid()
        self._closed = False
        self._subscriptions: set[RemoteSubscription] = set()
        first = _Connection(directory)
        self.config = first.config
        self._idle.append(first)

    def call(
        self, target: Target, verb: str, arguments: dict[str, Any],
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:  # fmt: skip
        self._check_open()
        if not self._slots.acquire(timeout=WAIT_SECONDS_MAX):
            raise BackpressureError(
                f"{CONNECTIONS_MAX} calls are running", limit="client.CONNECTIONS_MAX"
            )
        try:
            connection = self._take()
            # Before anything is sent: what cannot travel is no fault of the connection.
            try:
                request = connection.frame(target, verb, arguments, progress=progress is not None)
            except UsageError:
                self._give_back(connection)
                raise
            try:
                answer = connection.call(request, progress)
            except _Answered as answered:
                self._give_back(connection)
                raise answered.error from None
            except BaseException:
                # Something of an answer may still be on its way: this connection is done.
                connection.channel.close()
                raise
            self._give_back(connection)
            return answer
        finally:
            self._slots.release()

    def subscribe(self, arguments: dict[str, Any]) -> "RemoteSubscription":
        self._check_open()
        connection = _Connection(self.directory)
        try:
            connection.call(connection.frame(Target("Memory"), "subscribe", arguments))
        except _Answered as answered:
            connection.channel.close()
            raise answered.error from None
        except BaseException:
            connection.channel.close()
            raise
        subscription = RemoteSubscription(connection, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def carry(self, target: Target, verb: str, arguments: dict[str, Any]) -> "CarriedCall":
        """Begin something that lasts, on a connection that is its own until it ends."""
        self._check_open()
        connection = self._take()
        try:
            connection.call(connection.frame(target, verb, arguments))
        except _Answered as answered:
            self._give_back(connection)
            raise answered.error from None
        except BaseException:
            connection.channel.close()
            raise
        return CarriedCall(connection, target, self._give_back)

    def close(self) -> None:
        self._closed = True
        for subscription in list(self._subscriptions):
            subscription.close()
        while self._idle:
            self._idle.pop().channel.close()

    def _take(self) -> _Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return _Connection(self.directory)
            if connection.is_fresh():
                return connection
            connection.channel.close()

    def _give_back(self, connection: _Connection) -> None:
        self._idle.append(connection)
        if self._closed:
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("this connection to the store is closed")
        if self._pid != os.getpid():
            raise StoreClosedError("this connection to the store belongs to the parent process")


class CarriedCall:
    """What a connection carries until it ends: closing the connection ends it too."""

    def __init__(
        self, connection: _Connection, target: Target, give_back: Callable[[_Connection], None]
    ) -> None:
        self._connection = connection
        self._target = target
        self._give_back = give_back
        self._lock = threading.Lock()
        self._ended = False

    def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        with self._lock:
            try:
                request = self._connection.frame(self._target, verb, arguments)
                return self._connection.call(request)
            except _Answered as answered:
                raise answered.error from None
            except BaseException:
                # The answer may still be on its way: this connection is done.
                self._connection.channel.close()
                raise

    def end(self, verb: str) -> None:
        self._ended = True
        try:
            self.call(verb, {})
        except BaseException:
            self._connection.channel.close()
            raise
        self._give_back(self._connection)

    def __del__(self) -> None:
        # Nobody ended it: the connection is not for others.
        if not self._ended:
            self._connection.channel.close()


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
            request = self._connection.frame(Target("Memory"), "next", {"timeout": timeout})
            self._batch.extend(self._connection.call(request))
        except _Answered as answered:
            raise answered.error from None
        except (StoreClosedError, OSError):
            # The owner closed the store, or this subscription was closed while it waited.
            self._over = True

    def close(self) -> None:
        self._over = True
        self._forget_this(self)
        # A thread that waits in get() wakes up; the descriptor is closed when it is done with it.
        with contextlib.suppress(OSError):
            self._connection.channel.connection.shutdown(socket.SHUT_RDWR)
        with self._asking:
            self._connection.channel.close()
