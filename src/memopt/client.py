"""The same verbs on a store that another process has open, through its local socket.

The methods of RemoteMemory and its handles are made from those of Memory and its handles: same
names, signatures and docstrings. Each checks its arguments as a call would, sends them, and returns
or raises what the owner answered. Nothing is kept here but a few connections.

Invariant: a call is sent once. When the owner goes away before it answered, the caller gets a
StoreClosedError, and whether a write was made is not known: an idempotency key makes it safe to
repeat.
"""

import collections
import contextlib
import dataclasses
import functools
import inspect
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import unquote, urlsplit

from memopt.base.config import Config
from memopt.base.errors import (
    BackpressureError,
    NotFoundError,
    StoreClosedError,
    StoreVersionError,
    UsageError,
)
from memopt.base.records import JournalRecord
from memopt.codecs.message import encode_json, encode_message
from memopt.codecs.wire import (
    FRAME_EXTRA_BYTES,
    PROTOCOL,
    Channel,
    Json,
    decode,
    decode_error,
    frame,
)
from memopt.directory import DATABASE
from memopt.journal.subscription import Subscription
from memopt.memory import Memory, MemoryView
from memopt.owner import IDLE_SECONDS, POLL_SECONDS_MAX, READS, SOCKET, VERBS, Target, short_path
from memopt.sessions.names import SessionKey, check_name, check_scope
from memopt.sessions.session import Session, SessionView
from memopt.sessions.writer import MessageWriter

C = TypeVar("C", bound=type)

CONNECTIONS_MAX: Final = 4
"""Calls of one RemoteMemory that run at a time; further ones wait. A subscription has a connection
of its own besides."""
WAIT_SECONDS_MAX: Final = 60.0
"""The longest a call waits for a connection before it raises BackpressureError."""
_CONNECT_SECONDS: Final = 10.0
_STALE_SECONDS: Final = IDLE_SECONDS / 2
"""An unused connection of this age is not used again: the owner is about to drop it."""


def connect(path_or_url: str | os.PathLike[str], *, key: str | None = None) -> "RemoteMemory":
    """The verbs of Memory on the running owner of a store: a directory, or unix://DIRECTORY.

    Raises NotFoundError where there is no store, StoreClosedError when nobody has it open,
    BackpressureError when too many clients are connected. Close it, or use it in a `with` block;
    closing it leaves the store open.
    """
    directory = _directory(os.fspath(path_or_url))
    if key is not None:
        raise UsageError("the owner of a directory asks for no key", field="key")
    if not (directory / DATABASE).exists():
        raise NotFoundError(f"there is no memopt store in {directory}")
    return RemoteMemory(directory)


def _directory(place: str) -> Path:
    if "://" not in place:
        return Path(place).absolute()
    url = urlsplit(place)
    if url.scheme in ("http", "https"):
        raise UsageError(
            f"this memopt has no server to speak to yet (one comes with `memopt serve`), got {place}"
            ": name the directory of a store on this machine",
            field="path_or_url",
        )
    if url.scheme != "unix" or url.netloc or not url.path:
        raise UsageError(
            f"expected a directory or unix:///DIRECTORY, got {place}", field="path_or_url"
        )
    path = Path(unquote(url.path))
    return path.parent if path.name == SOCKET else path


# -- connections ----------------------------------------------------------------------------------


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


class _Pool:
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


# -- verbs from verbs -----------------------------------------------------------------------------

if TYPE_CHECKING:
    # What a RemoteMemory can do is what a Memory can do; for a type checker it is one.
    _MemoryVerbs = Memory
    _MemoryViewVerbs = MemoryView
    _SessionVerbs = Session
    _SessionViewVerbs = SessionView
    _SubscriptionVerbs = Subscription
else:
    _MemoryVerbs = _MemoryViewVerbs = _SessionVerbs = _SessionViewVerbs = object
    _SubscriptionVerbs = object


def _verbs_of(local: type) -> Callable[[C], C]:
    """Give a remote class the verbs of the local one."""

    def add(remote: C) -> C:
        for name in VERBS[local] - vars(remote).keys():
            setattr(remote, name, _asking(getattr(local, name)))
        for name in READS[local]:
            setattr(remote, name, _reading(getattr(local, name)))
        return remote

    return add


def _asking(verb: Any) -> Any:
    @functools.wraps(verb)
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = _bind(verb, self, args, kwargs)
        progress = arguments.pop("progress", None)
        sent = _sendable(arguments, self._pool.config)
        return self._pool.call(self._target, verb.__name__, sent, progress)

    return ask


def _reading(verb: Any) -> Any:
    @functools.wraps(verb)
    def read(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return _batches(self, verb.__name__, _bind(verb, self, args, kwargs))

    return read


def _batches(remote: Any, verb: str, arguments: dict[str, Any] | None) -> Iterator[Any]:
    while arguments is not None:
        items, arguments = remote._pool.call(remote._target, verb, arguments)
        # Decoded one by one, so that a batch is held once.
        for item in items:
            yield decode(item)


def _bind(verb: Any, self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name. Raises TypeError as the call itself would."""
    arguments = dict(_signature(verb).bind(self, *args, **kwargs).arguments)
    del arguments["self"]
    return arguments


_signature = functools.cache(inspect.signature)


def _sendable(arguments: dict[str, Any], config: Config) -> dict[str, Any]:
    """What users wrote is checked and encoded here, where a wrong type can still be seen."""
    depth = config.message_depth_max
    for name, value in arguments.items():
        if name == "message":
            limit = config.message_bytes_max
            arguments[name] = Json(
                encode_message(value, bytes_max=limit, depth_max=depth, field=name)
            )
        elif name == "messages":
            limit = config.message_bytes_max
            arguments[name] = [
                Json(encode_message(v, bytes_max=limit, depth_max=depth, field=f"messages[{i}]"))
                for i, v in enumerate(value)
            ]
        elif name == "value":
            limit = config.state_bytes_max
            arguments[name] = Json(encode_json(value, bytes_max=limit, depth_max=depth, field=name))
        elif name == "path":
            # The owner may be in another folder.
            arguments[name] = str(Path(value).absolute())
    return arguments


# -- memory and its handles -----------------------------------------------------------------------


@_verbs_of(Memory)
class RemoteMemory(_MemoryVerbs):
    """A store that another process has open. The verbs are Memory's. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._pool = _Pool(directory)
        self._target = Target("Memory")

    @property
    def path(self) -> Path:
        return self._pool.directory

    @property
    def config(self) -> Config:
        """The owner's settings."""
        return self._pool.config

    @property
    def lsn(self) -> int:
        return int(self._pool.call(self._target, "lsn", {}))

    def __repr__(self) -> str:
        return f"RemoteMemory({str(self.path)!r})"

    @functools.wraps(Memory.session)
    def session(self, id: str, *, scope: str = "default", agent: str | None = None) -> Session:
        key = SessionKey(check_scope(scope), check_name(id, field="id"))
        name = None if agent is None else check_name(agent, field="agent")
        return RemoteSession(self._pool, key, name)

    @functools.wraps(Memory.at)
    def at(self, moment: int | datetime) -> MemoryView:
        self._pool.call(self._target, "at", {"moment": moment})
        return RemoteMemoryView(self._pool, moment)

    @functools.wraps(Memory.subscribe)
    def subscribe(
        self, *, since: int | None = None, pending_max: int | None = None
    ) -> Subscription:
        return self._pool.subscribe({"since": since, "pending_max": pending_max})

    def close(self) -> None:
        """Hang up. The store stays open where it is open. May be called twice."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@_verbs_of(MemoryView)
class RemoteMemoryView(_MemoryViewVerbs):
    """A store as it was."""

    def __init__(self, pool: _Pool, moment: int | datetime) -> None:
        self._pool = pool
        self._target = Target("MemoryView", moment=moment)

    @functools.wraps(MemoryView.session)
    def session(self, id: str, *, scope: str = "default") -> SessionView:
        key = SessionKey(check_scope(scope), check_name(id, field="id"))
        return RemoteSessionView(self._pool, key, self._target.moment)


@_verbs_of(Session)
class RemoteSession(_SessionVerbs):
    """A conversation in a store that another process has open. The verbs are Session's."""

    def __init__(self, pool: _Pool, key: SessionKey, agent: str | None) -> None:
        self._pool = pool
        self._key = key
        self._agent = agent
        self._target = Target("Session", key.scope, key.id, agent)

    @property
    def scope(self) -> str:
        return self._key.scope

    @property
    def id(self) -> str:
        return self._key.id

    def __repr__(self) -> str:
        return f"RemoteSession({self.id!r}, scope={self.scope!r})"

    def __len__(self) -> int:
        return int(self._pool.call(self._target, "length", {}))

    def __bool__(self) -> bool:
        return True

    @property
    def head(self) -> int:
        return int(self._pool.call(self._target, "head", {}))

    @functools.wraps(Session.writer)
    def writer(self, message: Any, *, key: str | None = None) -> MessageWriter:
        # It is collected on this side, and travels when it is whole.
        return MessageWriter(
            dict(message), self._pool.config, lambda whole: self.append(whole, key=key)
        )

    @functools.wraps(Session.fork)
    def fork(self, id: str, *, at: int | None = None) -> Session:
        key = SessionKey(self.scope, check_name(id, field="id"))
        self._pool.call(self._target, "fork", {"id": id, "at": at})
        return RemoteSession(self._pool, key, self._agent)


@_verbs_of(SessionView)
class RemoteSessionView(_SessionViewVerbs):
    """A session as it was."""

    def __init__(self, pool: _Pool, key: SessionKey, moment: int | datetime) -> None:
        self._pool = pool
        self._key = key
        self._target = Target("SessionView", key.scope, key.id, None, moment)

    @property
    def scope(self) -> str:
        return self._key.scope

    @property
    def id(self) -> str:
        return self._key.id

    def __len__(self) -> int:
        return int(self._pool.call(self._target, "length", {}))

    def __bool__(self) -> bool:
        return True


class RemoteSubscription(_SubscriptionVerbs):
    """Records as the owner commits them, on a connection of its own. What waits, waits at the
    owner; here is at most one batch."""

    def __init__(
        self, connection: _Connection, forget: Callable[["RemoteSubscription"], None]
    ) -> None:
        self._connection = connection
        self._forget_this = forget
        self._batch: collections.deque[bytes] = collections.deque()
        self._asking = threading.Lock()
        self._over = False

    @functools.wraps(Subscription.get)
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

    def __iter__(self) -> Iterator[JournalRecord]:
        while (record := self.get()) is not None:
            yield record

    def close(self) -> None:
        self._over = True
        self._forget_this(self)
        # A thread that waits in get() wakes up; the descriptor is closed when it is done with it.
        with contextlib.suppress(OSError):
            self._connection.channel.connection.shutdown(socket.SHUT_RDWR)
        with self._asking:
            self._connection.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
