"""The same verbs as coroutines.

    async with memopt.aio.open(path) as memory:
        session = memory.session("a")
        await session.append({"role": "user", "content": "hello"})
        async for message in session.messages():
            ...

`_coroutines` makes the classes below from the synchronous ones, with the same names, signatures
and docstrings. A call runs on one of THREADS_MAX threads of its store; up to WAITING_MAX further
calls wait for one, and the next gets a BackpressureError. What makes a handle and reads nothing
(`session`, `writer`) stays a plain call. Properties that read become coroutines, `await
session.head()`, and `len(session)` becomes `await session.length()`. Iterators become asynchronous
ones, which fetch in batches. Progress callbacks are called on the thread that does the work.

Invariant: cancelling never undoes a commit. A call that has begun runs to its end, and its result
is dropped; one that still waits for a thread is not begun.
"""

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, get_origin

from memopt.answering import Answers
from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.errors import BackpressureError, MemoptError, StoreClosedError
from memopt.base.records import JournalRecord
from memopt.base.units import MIB
from memopt.client import connect as connect_sync
from memopt.codecs.wire import encode
from memopt.journal.subscription import Subscription
from memopt.memory import Memory, MemoryView
from memopt.sessions.session import Session, SessionView
from memopt.sessions.turns import Turn
from memopt.sessions.writer import MessageWriter
from memopt.wiring import open_memory

if TYPE_CHECKING:
    import asyncio

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

THREADS_MAX: Final = 16
"""Calls of one store that run at a time. A subscription has a thread of its own besides, and so has
a turn that waits to be let in by the owner of a store."""
WAITING_MAX: Final = 1024
"""Calls of one store that may wait for a thread."""
SUBSCRIPTIONS_MAX: Final = 64

_BATCH_ITEMS_MAX: Final = 256
_BATCH_BYTES_MAX: Final = 1 * MIB
_READ: Final = frozenset({"head", "lsn"})
"""Properties that ask the store; others are known."""
_HANDLES: Final = frozenset({"session", "turn", "writer"})
"""Verbs that make a handle and read nothing."""
_INTERNAL: Final = {Memory: {"abandon"}, Subscription: {"put"}}
"""What nobody calls but the store itself, after a fork or a commit."""


class _Threads:
    """The threads of one store, and how many calls may want one."""

    def __init__(self) -> None:
        # Threads start when there is work for them, and end with the store.
        self._executor = ThreadPoolExecutor(THREADS_MAX, "memopt-aio")
        self._places = threading.BoundedSemaphore(THREADS_MAX + WAITING_MAX)
        self._ending = threading.Lock()
        self._end: Future[None] | None = None
        self.subscriptions: set[AsyncSubscription] = set()

    def submit(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> "Future[T]":
        if not self._places.acquire(blocking=False):
            raise BackpressureError(
                f"{THREADS_MAX} calls run and {WAITING_MAX} wait", limit="aio.WAITING_MAX"
            )
        try:
            future = self._executor.submit(call, *args, **kwargs)
        except RuntimeError:
            self._places.release()
            raise StoreClosedError("the store is closed") from None
        future.add_done_callback(lambda _: self._places.release())
        return future

    async def run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # Whoever awaits has imported asyncio; `import memopt` need not pay for it.
        import asyncio

        # Cancelled, it withdraws what has not begun, and leaves alone what has.
        return await asyncio.wrap_future(self.submit(call, *args, **kwargs))

    def end_with(self, call: Callable[[], None]) -> "Future[None]":
        """Run `call` behind all others, and nothing behind it. There is always room for it."""
        with self._ending:
            if self._end is None:
                self._end = self._executor.submit(call)
                self._executor.shutdown(wait=False)
            return self._end


class _Opening(Generic[T]):
    """What is awaited, or entered: `await open(…)`, or `async with open(…) as …`."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._begin = begin
        self._opened: Any = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._begin().__await__()

    async def __aenter__(self) -> T:
        opened = self._opened = await self._begin()
        return opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)


def _as(verb: Any) -> Callable[[F], F]:
    """Name, docstring and signature of the synchronous verb."""

    def dress(function: F) -> F:
        functools.update_wrapper(function, verb, ("__name__", "__doc__"), ())
        return function

    return dress


def _opener(verb: Callable[..., Any]) -> Callable[..., _Opening["AsyncMemory"]]:
    @_as(verb)
    def begin(*args: Any, **kwargs: Any) -> _Opening[AsyncMemory]:
        return _Opening(lambda: _open(functools.partial(verb, *args, **kwargs)))

    return begin


async def _open(make: Callable[[], Memory]) -> "AsyncMemory":
    threads = _Threads()
    try:
        memory = await _finished(threads.submit(make), Memory.close)
    except BaseException:
        threads.end_with(lambda: None)
        raise
    return AsyncMemory(memory, threads)


async def _finished(future: "Future[T]", close: Callable[[T], None]) -> T:
    """What a thread opens. When the caller is cancelled meanwhile, nobody else would close it."""
    import asyncio

    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:

        def close_it(done: "Future[T]") -> None:
            if done.exception() is None:
                close(done.result())

        future.add_done_callback(close_it)
        raise


# -- coroutines from verbs ------------------------------------------------------------------------


class _Handle:
    """An object of the synchronous API, and the threads to call it on."""

    def __init__(self, sync: Any, threads: _Threads) -> None:
        self._sync = sync
        self._threads = threads

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sync!r})"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def _coroutines(sync: type) -> Callable[[C], C]:
    """Give a handle the verbs of a synchronous class, as coroutines."""

    def add(handle: C) -> C:
        made: dict[str, Any] = {}
        for name, verb in _members(sync).items():
            if name in _INTERNAL.get(sync, ()):
                continue
            if name == "__len__":
                made["length"] = _calling(name, verb)
            elif name == "__enter__":
                made |= {"__aenter__": _entering, "__aexit__": _leaving}
            elif isinstance(verb, property):
                made[name] = _property(name, verb)
            elif not name.startswith("_"):
                made[name] = _verb(name, verb)
        for name in made.keys() - vars(handle).keys():
            setattr(handle, name, made[name])
        return handle

    return add


def _members(sync: type) -> dict[str, Any]:
    """What a class has of its own, and of the classes that it is put together from."""
    found: dict[str, Any] = {}
    for one in reversed(sync.__mro__[:-1]):
        found |= vars(one)
    return found


def _verb(name: str, verb: Any) -> Any:
    result = verb.__annotations__["return"]
    # A class names itself by a string.
    made = str(getattr(result, "__name__", result))
    if get_origin(result) is Iterator:
        return _iterating(name, verb)
    if name in _HANDLES:
        return _making(name, verb, made)
    return _calling(name, verb, made)


def _making(name: str, verb: Any, made: str) -> Any:
    @_as(verb)
    def make(self: _Handle, *args: Any, **kwargs: Any) -> Any:
        return _ASYNC[made](getattr(self._sync, name)(*args, **kwargs), self._threads)

    return make


def _calling(name: str, verb: Any, made: str = "") -> Any:
    @_as(verb)
    async def call(self: _Handle, *args: Any, **kwargs: Any) -> Any:
        result = await self._threads.run(getattr(self._sync, name), *args, **kwargs)
        return _ASYNC[made](result, self._threads) if made in _ASYNC else result

    return call


def _property(name: str, value: property) -> Any:
    if name not in _READ:
        return property(lambda self: getattr(self._sync, name), doc=value.__doc__)

    @_as(value.fget)
    async def read(self: _Handle) -> Any:
        return await self._threads.run(getattr, self._sync, name)

    return read


def _iterating(name: str, verb: Any) -> Any:
    @_as(verb)
    async def iterate(self: _Handle, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        values = await self._threads.run(getattr(self._sync, name), *args, **kwargs)
        while batch := await self._threads.run(_batch, values):
            for value in batch:
                yield value

    return iterate


def _batch(values: Iterator[T]) -> list[T]:
    """The next values: so many that the way to the thread is worth it, so few that they fit."""
    batch: list[T] = []
    size = 0
    for value in itertools.islice(values, _BATCH_ITEMS_MAX):
        batch.append(value)
        size += len(encode(value))
        if size >= _BATCH_BYTES_MAX:
            break
    return batch


async def _entering(self: Any) -> Any:
    return self


async def _leaving(
    self: _Handle,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    await self._threads.run(self._sync.__exit__, kind, error, trace)


# -- memory and its handles -----------------------------------------------------------------------


@_coroutines(Memory)
class AsyncMemory(_Handle):
    """A store, opened here or by another process. The verbs are Memory's."""

    @property
    def answers(self) -> "AsyncAnswers":
        """The answer cache."""
        return AsyncAnswers(self._sync.answers, self._threads)

    @_as(Memory.subscribe)
    def subscribe(self, **arguments: Any) -> "_Opening[AsyncSubscription]":
        return _Opening(lambda: self._subscribe(arguments))

    async def _subscribe(self, arguments: dict[str, Any]) -> "AsyncSubscription":
        if len(self._threads.subscriptions) >= SUBSCRIPTIONS_MAX:
            raise BackpressureError(
                f"{SUBSCRIPTIONS_MAX} subscriptions are open", limit="aio.SUBSCRIPTIONS_MAX"
            )
        subscribing = self._threads.submit(self._sync.subscribe, **arguments)
        sync = await _finished(subscribing, Subscription.close)
        return AsyncSubscription(sync, self._threads)

    @_as(Memory.close)
    async def close(self) -> None:
        import asyncio

        await asyncio.shield(asyncio.wrap_future(self._threads.end_with(self._close)))

    def _close(self) -> None:
        for subscription in list(self._threads.subscriptions):
            subscription.end()
        self._sync.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


@_coroutines(Answers)
class AsyncAnswers(_Handle):
    """The answer cache. The verbs are those of `memory.answers`; what `through` is given to call is
    called on a thread."""


@_coroutines(MemoryView)
class AsyncMemoryView(_Handle):
    """A store as it was. The verbs are MemoryView's."""


@_coroutines(Session)
class AsyncSession(_Handle):
    """One conversation. The verbs are Session's."""


@_coroutines(SessionView)
class AsyncSessionView(_Handle):
    """A session as it was. The verbs are SessionView's."""


@_coroutines(MessageWriter)
class AsyncMessageWriter(_Handle):
    """A message that arrives in pieces. The verbs are MessageWriter's."""


class AsyncTurn(_Handle):
    """One exchange: `async with session.turn() as turn:`. Whoever waits to be let in occupies none
    of the store's threads; cancelled while it waits, it leaves the queue."""

    def __init__(self, sync: Turn, threads: _Threads) -> None:
        super().__init__(sync, threads)
        self._turn = sync

    @property
    def session(self) -> "AsyncSession":
        return AsyncSession(self._turn.session, self._threads)

    @property
    def used_bytes(self) -> int:
        return self._turn.used_bytes

    @property
    def admitted_bytes(self) -> int:
        return self._turn.admitted_bytes

    def note(self, size_bytes: int) -> None:
        self._turn.note(size_bytes)

    @_as(Turn.mapping)
    async def mapping(self, name: str) -> StoredMapping:
        return await self._threads.run(self._turn.mapping, name)

    @_as(Turn.sequence)
    async def sequence(self, name: str) -> StoredSequence:
        return await self._threads.run(self._turn.sequence, name)

    async def __aenter__(self) -> Self:
        import asyncio

        turn, loop = self._turn, asyncio.get_running_loop()
        decided = asyncio.Event()
        asking = self._threads.submit(turn.ask, lambda: _wake(loop, decided))
        if not await _finished(asking, lambda _: turn.withdraw()):
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(decided.wait(), turn.wait_seconds)
                turn.settle()
            except BaseException:
                turn.withdraw()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import asyncio

        try:
            ending = self._threads.submit(self._turn.end)
        except MemoptError:
            # No thread is to be had, or the store is closed: it ends all the same.
            self._turn.end()
            return
        await asyncio.shield(asyncio.wrap_future(ending))


def _wake(loop: "asyncio.AbstractEventLoop", decided: "asyncio.Event") -> None:
    # The loop may be closed: nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(decided.set)


@_coroutines(Subscription)
class AsyncSubscription(_Handle):
    """An endless asynchronous iterator of JournalRecord. Close it, or use it in `async with`.

    A thread of its own waits for the next record, once somebody wants one. A record that arrives
    when whoever wanted it was cancelled is kept for who asks next.
    """

    def __init__(self, sync: Subscription, threads: _Threads) -> None:
        super().__init__(sync, threads)
        self._wanted = threading.Semaphore(0)
        self._coming: asyncio.Future[JournalRecord | None] | None = None
        self._over = False
        self._thread: threading.Thread | None = None
        threads.subscriptions.add(self)

    @_as(Subscription.get)
    async def get(self, timeout: float | None = None) -> JournalRecord | None:
        import asyncio

        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._over:
            if self._coming is None:
                self._coming = asyncio.get_running_loop().create_future()
                self._want()
            coming = self._coming
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            await asyncio.wait({coming}, timeout=left)
            if not coming.done():
                return None
            # Unless another task that waited for the same record was faster.
            if coming is self._coming:
                self._coming = None
                return coming.result()
        return None

    async def __aiter__(self) -> AsyncIterator[JournalRecord]:
        while (record := await self.get()) is not None:
            yield record

    @_as(Subscription.close)
    async def close(self) -> None:
        await self._threads.run(self.end)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def end(self) -> None:
        """On any thread: wake the one that waits, and let it go."""
        self._threads.subscriptions.discard(self)
        self._over = True
        self._sync.close()
        self._wanted.release()

    def _want(self) -> None:
        if self._thread is None:
            # A daemon, for a subscription that nobody closes must not keep the process alive.
            self._thread = threading.Thread(
                target=self._fetch, name="memopt-aio-subscription", daemon=True
            )
            self._thread.start()
        self._wanted.release()

    def _fetch(self) -> None:
        while self._wanted.acquire() and (coming := self._coming) is not None:
            record: JournalRecord | None = None
            failure: BaseException | None = None
            try:
                record = self._sync.get()
            except MemoptError as error:
                failure = error
            try:
                coming.get_loop().call_soon_threadsafe(_settle, coming, record, failure)
            except RuntimeError:
                return  # The loop is closed: nobody waits any more.
            if record is None:
                return


def _settle(
    coming: "asyncio.Future[JournalRecord | None]",
    record: JournalRecord | None,
    failure: BaseException | None,
) -> None:
    if failure is not None:
        coming.set_exception(failure)
    else:
        coming.set_result(record)


_ASYNC: Final[dict[str, type[_Handle]]] = {
    "Session": AsyncSession,
    "SessionView": AsyncSessionView,
    "MemoryView": AsyncMemoryView,
    "MessageWriter": AsyncMessageWriter,
    "Turn": AsyncTurn,
}

open = _opener(open_memory)
connect = _opener(connect_sync)
