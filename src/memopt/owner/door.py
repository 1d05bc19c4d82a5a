"""The owner's door: a Unix socket in the store's directory, through which other processes of the
same user ask the one that has the store open.

One thread accepts, and one thread a client answers, up to `socket_clients_max`. The owner speaks
first, and says what protocol and settings it has; then it answers one call after the other. It
holds nothing for a client but a subscription, a turn, and where it is in a journal: long reads
travel in batches, and each answer says how to ask for the next one.

Invariant: only the verbs listed here can be asked for, and nothing a client sends or fails to send
harms the store or another client.
"""

import contextlib
import dataclasses
import logging
import os
import selectors
import socket
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from memopt.answering import Answers
from memopt.base.errors import (
    BackpressureError,
    BudgetError,
    MemoptError,
    StoreLockedError,
    UsageError,
)
from memopt.base.units import KIB
from memopt.codecs.wire import (
    FRAME_EXTRA_BYTES,
    PROTOCOL,
    Channel,
    decode,
    encode_error,
)
from memopt.journal.subscription import Subscription
from memopt.memory import Memory, MemoryView
from memopt.owner.bell import Bell
from memopt.owner.reads import (
    BATCH_BYTES_MAX,
    OWNER,
    JournalReader,
    next_records,
    read_session,
    read_view,
)
from memopt.sessions.session import Session, SessionView
from memopt.sessions.turns import Turn, check_change

SOCKET: Final = "owner.sock"

VERBS: Final[dict[type, frozenset[str]]] = {
    Memory: frozenset(
        {
            "accept_damage", "at", "backup", "check", "compact", "forget", "pages", "plan_forget",
            "restore", "sessions", "stats", "contradictions", "decide", "end", "feedback",
            "history", "ingest", "item", "items", "pin", "recall", "remember", "revise", "unpin",
        }
    ),
    Answers: frozenset(
        {"categories", "feedback", "invalidate", "lookup", "set_category", "store"}
    ),
    MemoryView: frozenset({"item", "items", "recall", "sessions"}),
    Session: frozenset(
        {
            "append", "context", "delete", "extend", "fork", "load_state", "open_output", "pin",
            "pins", "pop", "redact", "save_state", "states", "truncate", "unpin",
        }
    ),
    SessionView: frozenset({"load_state", "states"}),
}  # fmt: skip
"""What is called as it is."""
READS: Final[dict[type, frozenset[str]]] = {
    Memory: frozenset({"journal"}),
    Answers: frozenset(),
    MemoryView: frozenset(),
    Session: frozenset({"entries", "messages"}),
    SessionView: frozenset({"entries", "messages"}),
}
"""What is read in batches."""
VALUES: Final[dict[type, frozenset[str]]] = {
    Memory: frozenset({"lsn"}),
    Answers: frozenset(),
    MemoryView: frozenset(),
    Session: frozenset({"head", "length"}),
    SessionView: frozenset({"length"}),
}
"""What is asked for by name."""
_TURN_VERBS: Final = frozenset({"turn", "turn_end", "turn_note"})
"""What a client does with the turn that its connection carries."""

IDLE_SECONDS: Final = 300.0
"""A client that asks nothing for so long is let go; it connects anew when it has a question."""

_FRAME_SECONDS: Final = 30.0
"""How long a client may take over the next part of a frame, either way."""
_STOP_SECONDS: Final = 2.0
_PROGRESS_SECONDS: Final = 0.05
_PATH_BYTES_MAX: Final = 100
"""Of a socket's path: Linux takes 107 bytes, macOS 103."""
_CLIENT_BYTES: Final = 128 * KIB
"""A client's thread and buffers."""
_CREDENTIALS: Final = struct.Struct("3i")

_log: Final = logging.getLogger("memopt")


def serve_owner(memory: Memory) -> Callable[[], None]:
    """Open the door. Returns what closes it. A file system without sockets is no reason not to
    open a store: it is noted in stats()."""
    try:
        door = _Door(memory)
    except OSError as error:
        memory._parts.directory.notes.append(
            f"the owner's socket cannot be made ({error}): memopt.connect() does not work"
        )
        return lambda: None
    return door.close


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A path of the same socket that is short enough for an address: a long one is reached through
    a symbolic link to its directory, which is needed for the moment of bind or connect alone."""
    whole = str(path.absolute())
    if len(os.fsencode(whole)) <= _PATH_BYTES_MAX:
        yield whole
        return
    with tempfile.TemporaryDirectory(prefix="memopt-") as folder:
        link = Path(folder) / "d"
        link.symlink_to(path.parent.absolute())
        yield str(link / path.name)


class Target(NamedTuple):
    """Whom a verb is asked of: the memory, or a session by its key, now or at a moment."""

    kind: str
    scope: str = ""
    id: str = ""
    agent: str | None = None
    moment: Any = None

    def find(self, memory: Memory) -> Memory | Answers | MemoryView | Session | SessionView:
        if self.kind == "Memory":
            return memory
        if self.kind == "Answers":
            return memory.answers
        if self.kind == "Session":
            return memory.session(self.id, scope=self.scope, agent=self.agent)
        if self.kind == "MemoryView":
            return memory.at(self.moment)
        if self.kind == "SessionView":
            return memory.at(self.moment).session(self.id, scope=self.scope)
        raise UsageError(f"there is no {self.kind!r} to ask", field="target")


class Call(NamedTuple):
    """One question."""

    target: Target
    verb: str
    arguments: dict[str, Any]
    progress: bool = False

    @classmethod
    def parse(cls, frame: Any) -> "Call":
        match frame:
            case [
                [str(), str(), str(), str() | None, _] as target, str(verb), dict(arguments),
                bool(progress),
            ]:  # fmt: skip
                return cls(Target(*target), verb, arguments, progress)
        raise UsageError("not a call of this protocol", field="frame")


class _Door:
    """The listening socket, its thread, and who came in."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._path = memory.path / SOCKET
        self._clients: set[_Client] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener = _listen(self._path)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="memopt-owner", daemon=True)
        self._thread.start()
        _doors.add(self)

    def close(self) -> None:
        """Let nobody in any more, let calls that run end, and send everybody away."""
        self._closing.set()
        self._wake.send(b"\0")
        self._thread.join()
        self._path.unlink(missing_ok=True)
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.dismiss()
        deadline = time.monotonic() + _STOP_SECONDS
        for client in clients:
            client.join(max(0.0, deadline - time.monotonic()))
        self.abandon()

    def abandon(self) -> None:
        """Close what this process holds of it; in a forked child, that is all there is to do."""
        _doors.discard(self)
        for held in (self._listener, self._wake, self._woken):
            held.close()
        for client in list(self._clients):
            client.abandon()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing.is_set():
                selector.select()
                try:
                    connection, _ = self._listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    # Out of descriptors, mostly: others may give some back.
                    _log.warning("the owner's socket could not accept: %s", error)
                    self._closing.wait(1.0)
                    continue
                self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        connection.settimeout(_FRAME_SECONDS)
        budget, config = self._memory._parts.budget, self._memory.config
        longest = max(config.message_bytes_max, config.state_bytes_max)
        channel = Channel(connection, longest + FRAME_EXTRA_BYTES)
        with self._lock:
            count = len(self._clients)
        try:
            _check_peer(connection)
            if count >= config.socket_clients_max:
                raise BackpressureError(
                    f"{count} clients are connected already", limit="socket_clients_max"
                )
            budget.reserve(OWNER, _CLIENT_BYTES)
        except MemoptError as error:
            with contextlib.suppress(OSError):
                channel.send(["error", encode_error(error)])
            connection.close()
            return
        client = _Client(self._memory, channel, self._leave)
        with self._lock:
            self._clients.add(client)
        try:
            client.start()
        except RuntimeError as error:
            _log.warning("no thread could be started for a client: %s", error)
            connection.close()
            self._leave(client)

    def _leave(self, client: "_Client") -> None:
        with self._lock:
            self._clients.discard(client)
        self._memory._parts.budget.release(OWNER, _CLIENT_BYTES)


class _Client(threading.Thread):
    """Answers one client until it goes, says nothing for long, or breaks the protocol."""

    def __init__(
        self, memory: Memory, channel: Channel, leave: Callable[["_Client"], None]
    ) -> None:
        super().__init__(name="memopt-owner-client", daemon=True)
        self._memory = memory
        self._channel = channel
        self._leave = leave
        self._subscription: Subscription | None = None
        self._turn: Turn | None = None
        self._journal = JournalReader(memory)

    def run(self) -> None:
        try:
            self._welcome()
            while self._answer():
                pass
        except (EOFError, OSError):
            pass  # It went, or was sent away.
        except Exception:  # noqa: BLE001 - logged, with its traceback
            # A door: a defect in answering one client must be seen, and must not end the owner.
            _log.exception("answering a client failed")
        finally:
            if self._subscription is not None:
                self._subscription.close()
            if self._turn is not None:
                self._turn.end()
            self._journal.close()
            self._channel.close()
            self._leave(self)

    def dismiss(self) -> None:
        """Read no more calls; the answer that is being made may still go out."""
        with contextlib.suppress(OSError):
            self._channel.connection.shutdown(socket.SHUT_RD)
        if self._subscription is not None:
            self._subscription.close()

    def abandon(self) -> None:
        self._channel.close()

    def _welcome(self) -> None:
        config = dataclasses.asdict(self._memory.config)
        self._channel.send(["welcome", {"protocol": PROTOCOL, "config": config}])

    def _answer(self) -> bool:
        """One call. False when the client cannot be understood any more."""
        channel, budget = self._channel, self._memory._parts.budget
        carries = self._subscription is not None or self._turn is not None
        channel.connection.settimeout(None if carries else IDLE_SECONDS)
        try:
            length = channel.receive_length()
        except UsageError as error:
            channel.send(["error", encode_error(error)])
            return False
        channel.connection.settimeout(_FRAME_SECONDS)
        try:
            budget.reserve(OWNER, length)
        except BudgetError as error:
            channel.skip(length)
            channel.send(["error", encode_error(error)])
            return True
        try:
            answer = self._result(channel.receive_bytes(length))
        finally:
            budget.release(OWNER, length)
        try:
            channel.send(answer)
        except UsageError as error:
            channel.send(["error", encode_error(error)])
        return True

    def _result(self, frame: bytearray) -> list[Any]:
        try:
            return ["ok", self._carry_out(Call.parse(decode(frame)))]
        except (MemoptError, OSError, TypeError, ValueError) as error:
            return ["error", encode_error(error)]
        except Exception as error:  # noqa: BLE001 - logged, with its traceback
            # A door: the client is told that it failed, and the owner why.
            _log.exception("a call from a client failed")
            return ["error", encode_error(error)]

    def _carry_out(self, call: Call) -> Any:
        if call.verb != "journal":
            # Whoever asks for something else here has left it, or has lost its connection.
            self._journal.close()
        if call.target.kind == "Memory" and call.verb in ("subscribe", "next"):
            return self._carry_out_here(call)
        if call.verb in _TURN_VERBS:
            return self._carry_turn(call)
        target, arguments = call.target.find(self._memory), dict(call.arguments)
        if call.verb in VERBS[type(target)]:
            if call.progress:
                arguments["progress"] = _Progress(self._channel)
            result = getattr(target, call.verb)(**arguments)
            return None if isinstance(result, Session | MemoryView) else result
        if call.verb in READS[type(target)]:
            with self._reserved(BATCH_BYTES_MAX):
                if isinstance(target, Memory):
                    return self._journal.batch(**arguments)
                if isinstance(target, Session):
                    return read_session(self._memory, target, call.verb, **arguments)
                assert isinstance(target, SessionView)
                return read_view(target, call.verb, **arguments)
        if call.verb in VALUES[type(target)]:
            if isinstance(target, Session | SessionView) and call.verb == "length":
                return len(target)
            return getattr(target, call.verb)
        raise UsageError(f"{call.target.kind} has no verb {call.verb!r}", field="verb")

    def _carry_out_here(self, call: Call) -> Any:
        """What a client does with the subscription that its connection carries."""
        if call.verb == "subscribe":
            if self._subscription is not None:
                raise UsageError("one connection carries one subscription", field="verb")
            self._subscription = self._memory.subscribe(**call.arguments)
            return None
        if self._subscription is None:
            raise UsageError("nothing was subscribed to", field="verb")
        return next_records(self._subscription, **call.arguments)

    def _carry_turn(self, call: Call) -> Any:
        """A turn that the connection carries: it ends with it."""
        if call.verb == "turn":
            session = call.target.find(self._memory)
            if self._turn is not None or not isinstance(session, Session):
                raise UsageError("one connection carries one turn of a session", field="verb")
            turn = session.turn(**call.arguments)
            self._enter(turn)
            self._turn = turn
            return None
        if self._turn is None:
            raise UsageError("no turn was begun", field="verb")
        if call.verb == "turn_end":
            turn, self._turn = self._turn, None
            turn.end()
            return None
        self._turn.note(check_change(**call.arguments))
        return [self._turn.used_bytes, self._turn.admitted_bytes]

    def _enter(self, turn: Turn) -> None:
        """Wait until it is let in. The turn of a client that goes meanwhile leaves the queue."""
        with contextlib.closing(Bell()) as bell:
            if turn.ask(bell.ring):
                return
            try:
                if not bell.wait(turn.wait_seconds, self._channel.connection):
                    raise ConnectionAbortedError("the client went while its turn waited")
                turn.settle()
            except BaseException:
                turn.withdraw()
                raise

    @contextlib.contextmanager
    def _reserved(self, size_bytes: int) -> Iterator[None]:
        budget = self._memory._parts.budget
        budget.reserve(OWNER, size_bytes)
        try:
            yield
        finally:
            budget.release(OWNER, size_bytes)


class _Progress:
    """Tells a client how far its call is, a few times a second. One that does not listen must not
    hold up the work, so the first failure ends the telling."""

    def __init__(self, channel: Channel) -> None:
        self._channel: Channel | None = channel
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._channel is None or (now < self._next and done != total):
            return
        self._next = now + _PROGRESS_SECONDS
        try:
            self._channel.send(["progress", [done, total]])
        except OSError:
            self._channel = None


# -- the socket -----------------------------------------------------------------------------------


def _listen(path: Path) -> socket.socket:
    # Whoever made it is gone: the lock on the directory is ours.
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(path) as address:
            listener.bind(address)
        # Nobody can connect before listen().
        path.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _check_peer(connection: socket.socket) -> None:
    """Raises StoreLockedError for another user. Without SO_PEERCRED, the file's mode must do."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid != os.geteuid():
        raise StoreLockedError("the store is open in a process of another user")


_doors: "weakref.WeakSet[_Door]" = weakref.WeakSet()


def _abandon_all() -> None:
    # A forked child that kept the listening socket would leave clients of a dead owner waiting.
    for door in list(_doors):
        door.abandon()


os.register_at_fork(after_in_child=_abandon_all)
