"""RemoteMemory and its handles: made from Memory and its handles, with the same names, signatures
and docstrings. A verb checks its arguments as a call would, sends them, and returns or raises what
the owner answered. Nothing is kept here.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from memopt.answering import Answers
from memopt.base.answer_records import Answer, Cached, Made
from memopt.base.config import Config
from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.document_records import Ingested
from memopt.base.errors import CapacityError, NotFoundError, UsageError
from memopt.base.records import JournalRecord
from memopt.client.connection import Pool, Reading
from memopt.client.turns import RemoteTurn, collections_are_elsewhere
from memopt.codecs.message import encode_json, encode_message
from memopt.codecs.wire import Json, decode
from memopt.directory import DATABASE
from memopt.journal.subscription import Subscription
from memopt.memory import Memory, MemoryView
from memopt.owner import READS, SOCKET, VERBS, Target
from memopt.recall.document_text import raw_of
from memopt.recall.stating import check_tags
from memopt.sessions.names import SessionKey, check_name, check_scope
from memopt.sessions.session import Session, SessionView
from memopt.sessions.turns import Turn, check_turn
from memopt.sessions.writer import MessageWriter

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


def connect(path_or_url: str | os.PathLike[str], *, key: str | None = None) -> "RemoteMemory":
    """The verbs of Memory on the running owner of a store: a directory, or unix://DIRECTORY.

    Raises NotFoundError where there is no store, StoreClosedError when nobody has it open,
    BackpressureError when too many clients are connected. Close it, or use it in a `with` block;
    closing it leaves the store open, and ends the turns that were begun through it.
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
            f"this memopt speaks to owners on this machine only, got {place}: name the directory "
            "of a store (a server comes with `memopt serve`)",
            field="path_or_url",
        )
    if url.scheme != "unix" or url.netloc or not url.path:
        raise UsageError(
            f"expected a directory or unix:///DIRECTORY, got {place}", field="path_or_url"
        )
    path = Path(unquote(url.path))
    return path.parent if path.name == SOCKET else path


# -- verbs from verbs -----------------------------------------------------------------------------

if TYPE_CHECKING:
    # What a RemoteMemory can do is what a Memory can do; for a type checker it is one.
    _MemoryVerbs = Memory
    _AnswersVerbs = Answers
    _MemoryViewVerbs = MemoryView
    _SessionVerbs = Session
    _SessionViewVerbs = SessionView
else:
    _MemoryVerbs = _AnswersVerbs = _MemoryViewVerbs = _SessionVerbs = _SessionViewVerbs = object


def _as(verb: Any) -> Callable[[F], F]:
    """Name, docstring and signature of the local verb."""

    def dress(function: F) -> F:
        functools.update_wrapper(function, verb, ("__name__", "__doc__"), ())
        return function

    return dress


def _verbs_of(local: type) -> Callable[[C], C]:
    """Give a remote class the verbs of the local one."""

    def add(remote: C) -> C:
        for name in VERBS[local] - vars(remote).keys():
            setattr(remote, name, _asking(getattr(local, name)))
        for name in READS[local] - vars(remote).keys():
            setattr(remote, name, _reading(getattr(local, name)))
        return remote

    return add


def _asking(verb: Any) -> Any:
    @_as(verb)
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = _bind(verb, self, args, kwargs)
        progress = arguments.pop("progress", None)
        sent = _sendable(arguments, self._pool.config)
        return self._pool.call(self._target, verb.__name__, sent, progress)

    return ask


def _reading(verb: Any) -> Any:
    @_as(verb)
    def read(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        arguments = _bind(verb, self, args, kwargs)
        return _batches(self._pool.call, self._target, verb.__name__, arguments)

    return read


def _batches(
    call: Callable[..., Any], target: Target, verb: str, arguments: dict[str, Any] | None
) -> Iterator[Any]:
    while arguments is not None:
        items, arguments = call(target, verb, arguments)
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
        elif name in ("uses", "tags", "allow"):
            if isinstance(value, Iterable) and not isinstance(value, str):
                arguments[name] = tuple(value)
        elif name == "path":
            # The owner may be in another folder.
            arguments[name] = str(Path(value).absolute())
    return arguments


# -- memory and its handles -----------------------------------------------------------------------


@_verbs_of(Memory)
class RemoteMemory(_MemoryVerbs):
    """A store that another process has open. The verbs are Memory's. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._pool = Pool(directory)
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

    @_as(Memory.session)
    def session(self, id: str, *, scope: str = "default", agent: str | None = None) -> Session:
        key = SessionKey(check_scope(scope), check_name(id, field="id"))
        name = None if agent is None else check_name(agent, field="agent")
        return RemoteSession(self._pool, key, name)

    @_as(Memory.mapping)
    def mapping(self, name: str, *, scope: str = "default") -> StoredMapping:
        raise collections_are_elsewhere("memory.mapping")

    @_as(Memory.sequence)
    def sequence(self, name: str, *, scope: str = "default") -> StoredSequence:
        raise collections_are_elsewhere("memory.sequence")

    @_as(Memory.ingest)
    def ingest(
        self, document: str | bytes | os.PathLike[str], *, scope: str, source: str | None = None,
        tags: Iterable[str] = (), name: str | None = None,
    ) -> Ingested:  # fmt: skip
        # The owner may be in another folder.
        raw = raw_of(document, name, self.config.document_bytes_max, lambda size_bytes: None)
        arguments = {
            "document": raw.data,
            "scope": scope,
            "source": source,
            "tags": check_tags(tags),
            "name": raw.name,
        }
        ingested: Ingested = self._pool.call(self._target, "ingest", arguments)
        return ingested

    @property
    def answers(self) -> Answers:
        return RemoteAnswers(self._pool)

    @_as(Memory.at)
    def at(self, moment: int | datetime) -> MemoryView:
        self._pool.call(self._target, "at", {"moment": moment})
        return RemoteMemoryView(self._pool, moment)

    @_as(Memory.journal)
    def journal(self, since: int | None = None) -> Iterator[JournalRecord]:
        reading, is_whole = Reading(), False
        call = functools.partial(self._pool.call, reading=reading)
        try:
            yield from _batches(call, self._target, "journal", {"since": since})
            is_whole = True
        finally:
            self._pool.leave(reading, is_whole=is_whole)

    @_as(Memory.subscribe)
    def subscribe(
        self, *, since: int | None = None, pending_max: int | None = None
    ) -> Subscription:
        return self._pool.subscribe({"since": since, "pending_max": pending_max})

    def close(self) -> None:
        """Hang up. The store stays open where it is open; turns that were begun through this end,
        and those that wait get a StoreClosedError. May be called twice."""
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


@_verbs_of(Answers)
class RemoteAnswers(_AnswersVerbs):
    """The answer cache of a store that another process has open."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._target = Target("Answers")

    @_as(Answers.through)
    def through(self, request: Any, make: Callable[[], Any], **how: Any) -> Answer | Made:
        """The answer, or what `make()` returns, which is stored. Equal calls of several processes
        do not wait for each other."""
        storing = {name: value for name, value in how.items() if name != "wait_seconds"}
        asking = {name: storing[name] for name in ("scope", "allow") if name in storing}
        found = self.lookup(request, **asking)
        if isinstance(found, Answer):
            return found
        response = make()
        try:
            stored = self.store(request, response, **storing)
        except CapacityError:
            return Made(response=response, miss=found, is_shared=False, is_stored=False)
        return Made(
            response=response, miss=found, is_shared=False, is_stored=isinstance(stored, Cached)
        )


@_verbs_of(MemoryView)
class RemoteMemoryView(_MemoryViewVerbs):
    """A store as it was."""

    def __init__(self, pool: Pool, moment: int | datetime) -> None:
        self._pool = pool
        self._target = Target("MemoryView", moment=moment)

    @_as(MemoryView.session)
    def session(self, id: str, *, scope: str = "default") -> SessionView:
        key = SessionKey(check_scope(scope), check_name(id, field="id"))
        return RemoteSessionView(self._pool, key, self._target.moment)


@_verbs_of(Session)
class RemoteSession(_SessionVerbs):
    """A conversation in a store that another process has open. The verbs are Session's."""

    def __init__(self, pool: Pool, key: SessionKey, agent: str | None) -> None:
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

    @_as(Session.writer)
    def writer(self, message: Any, *, key: str | None = None) -> MessageWriter:
        def append(messages: Any, if_head: int | None, later: str | None) -> Any:
            return self.extend(messages, if_head=if_head, key=key if later is None else later)

        # It is collected on this side, and travels when it is whole.
        return MessageWriter(
            dict(message), append,
            bytes_max=self._pool.config.message_bytes_max,
            spool_bytes=self._pool.config.spool_bytes,
        )  # fmt: skip

    @_as(Session.mapping)
    def mapping(self, name: str) -> StoredMapping:
        raise collections_are_elsewhere("session.mapping")

    @_as(Session.sequence)
    def sequence(self, name: str) -> StoredSequence:
        raise collections_are_elsewhere("session.sequence")

    @_as(Session.turn)
    def turn(self, *, expected_bytes: int | None = None, wait_seconds: float | None = None) -> Turn:
        expected_bytes, wait_seconds = check_turn(expected_bytes, wait_seconds)
        arguments = {"expected_bytes": expected_bytes, "wait_seconds": wait_seconds}
        return RemoteTurn(self._pool, self._target, self, arguments)

    @_as(Session.fork)
    def fork(self, id: str, *, at: int | None = None) -> Session:
        key = SessionKey(self.scope, check_name(id, field="id"))
        self._pool.call(self._target, "fork", {"id": id, "at": at})
        return RemoteSession(self._pool, key, self._agent)


@_verbs_of(SessionView)
class RemoteSessionView(_SessionViewVerbs):
    """A session as it was."""

    def __init__(self, pool: Pool, key: SessionKey, moment: int | datetime) -> None:
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
