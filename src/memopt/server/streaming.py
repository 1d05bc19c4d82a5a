"""A reply that comes in pieces: passed on as it comes, and kept before its end is passed on.

Owns: that order, in both forms, and the text on its way to the session's writer. Invariant: what
was passed on of a reply that its client left is kept once. Not here: what an event says (chat.py,
responses.py).
"""

import abc
import asyncio
import enum
from collections.abc import Callable
from typing import Any, Final

from memopt.base.errors import MemoptError
from memopt.server.calling import Call
from memopt.server.canonical import TextDigest
from memopt.server.errors import ServerError, server_error
from memopt.server.events import EventCutter, data_of
from memopt.server.exchange import Outgoing
from memopt.server.keeping import Reply as Said
from memopt.server.room import WIDEST, taken_bytes
from memopt.server.services import Services
from memopt.server.threads import StoreThreads, finished
from memopt.server.upstream import Reply
from memopt.sessions.writer import MessageWriter

_LARGE_CHARS: Final = 128 * 1024
"""Longer texts are committed a few at a time."""
_STEP_BYTES: Final = 64 * 1024
_FLUSHED_BYTES: Final = 8 * 1024
"""Text of a stream that waits for a thread to write it away."""


class SpooledText:
    """The text of a streamed message, on its way to the session's writer: a few KiB of it here, the
    rest where the writer has it."""

    def __init__(
        self, writer: MessageWriter, threads: StoreThreads, *, copied_max: int = 0
    ) -> None:
        """Of a text up to `copied_max` characters a copy stays at hand."""
        self.writer = writer
        self._threads = threads
        self._copy: list[str] | None = [] if copied_max else None
        self._copy_left = copied_max
        self._pieces: list[str] = []
        self._size = 0
        self.total = 0
        """Characters so far..."""
        self.size_bytes = 0
        """... and bytes."""
        self.digest = TextDigest()

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        self.total += len(text)
        self.size_bytes += self.digest.add(text)
        if self._copy is not None:
            self._copy.append(text)
            self._copy_left -= len(text)
            if self._copy_left < 0:
                self._copy = None

    @property
    def held_bytes(self) -> int:
        """Of the copy."""
        return 0 if self._copy is None else self.size_bytes

    def copied(self) -> str | None:
        """The text, where there is a copy."""
        return None if self._copy is None else "".join(self._copy)

    @property
    def is_due(self) -> bool:
        return self._size >= _FLUSHED_BYTES

    async def flush(self) -> None:
        """Hand over what has come. Raises UsageError above the limit of a message."""
        if self._pieces:
            pieces, self._pieces, self._size = self._pieces, [], 0
            await self._threads.finish(self.writer.write, "".join(pieces))


class Taken(enum.Enum):
    """What becomes of an event."""

    ON = enum.auto()
    """It is passed on."""
    OUT = enum.auto()
    """It is not for the client."""
    END = enum.auto()
    """It is passed on once what came is kept..."""
    FAILED = enum.auto()
    """... or once nothing is left of the call."""


class Stream(abc.ABC):
    """One reply, as its form reads it."""

    def __init__(
        self, services: Services, call: Call, opening: dict[str, Any], *, copied_max: int = 0
    ) -> None:
        """`opening`: the fields of a message whose text is not here yet."""
        self._services = services
        self._call = call
        self._opening = opening
        self._copied_max = copied_max
        self._cutter = EventCutter(services.settings.event_bytes_max)
        self._text = self._spool()
        self._held = services.room.begin()
        self._alike = b""
        """Like what came so far, as to how wide its characters are."""
        self._is_over = False
        self._is_kept = False
        """Or will be, and nothing of it a second time."""

    def _spool(self) -> SpooledText:
        writer = self._services.keeper.session(self._call.place).writer(self._opening)
        return SpooledText(writer, self._services.threads, copied_max=self._copied_max)

    @abc.abstractmethod
    def _take(self, data: bytes) -> Taken:
        """Take up what an event says."""

    @property
    @abc.abstractmethod
    def _taken_bytes(self) -> int:
        """How much of what came is here."""

    @property
    @abc.abstractmethod
    def _is_finished(self) -> bool:
        """Whether what came is all of it, where no event says so."""

    @abc.abstractmethod
    async def _keep(self) -> None:
        """Commit what came, where that is a reply."""

    @abc.abstractmethod
    async def _keep_partial(self) -> None:
        """Commit what a client got that did not wait for the rest."""

    async def run(self, reply: Reply, out: Outgoing) -> None:
        """Pass it on, and keep it before its end is passed on."""
        headers = [*reply.headers(keep_length=False), *self._call.headers()]
        try:
            await out.start(200, headers, is_stream=True)
            await self._pass(reply, out)
        except asyncio.CancelledError:
            if not self._is_kept:
                # The server may stop meanwhile: then it is cancelled again.
                await finished(asyncio.ensure_future(self._keep_partial()))
            raise
        except MemoptError as error:
            # Before the client knows: it may look.
            await self._call.undo(self._services)
            await out.fail(server_error(error))
        finally:
            self._text.writer.abandon()
            self._held.close()

    async def _pass(self, reply: Reply, out: Outgoing) -> None:
        size = 0
        async for piece in reply.pieces():
            size += len(piece)
            if size > self._services.settings.reply_bytes_max:
                raise ServerError(502, "the reply is too long", code="reply_bytes_max")
            ready: list[bytes] = []
            for event in self._cutter.feed(piece):
                taken = self._take(data_of(event))
                if taken in (Taken.END, Taken.FAILED):
                    if ready:
                        await out.send(b"".join(ready))
                        ready = []
                    await (self._end() if taken is Taken.END else self._call.undo(self._services))
                if taken is not Taken.OUT:
                    ready.append(event)
            if ready:
                await out.send(b"".join(ready))
            if self._text.is_due:
                await self._text.flush()
            await self._make_room(piece, reply.held_bytes)
        rest = self._cutter.rest()
        if not self._is_over:
            # Some end without a mark, and some break off.
            if self._take(data_of(rest)) is not Taken.END and not self._is_finished:
                raise ServerError(502, "the upstream broke off", code="upstream_failed")
            await self._end()
        await out.end(rest)

    def _note(self, model: Any, usage: Any) -> None:
        """What it cost, in the books."""
        call = self._call
        self._services.books.note(call.exchange.caller, model or call.asked.model, usage)

    async def _make_room(self, piece: bytes, more_bytes: int) -> None:
        """For what is held before the next piece. Raises what `Held.grow` raises."""
        held = self._held
        if not self._alike and (b"\\u" in piece or not piece.isascii()):
            self._alike = WIDEST
        here = self._cutter.held_bytes + self._taken_bytes + self._text.held_bytes + more_bytes
        size = taken_bytes(here, self._alike)
        if not held.covers(size):
            await held.grow(size + max(_STEP_BYTES, size // 4))
        elif held.reserved_bytes:
            held.give_back(size)

    async def _commit(self, said: Callable[[], Said]) -> None:
        """Commit what came, once: `said` puts it together."""
        await self._text.flush()
        if self._text.total < _LARGE_CHARS:
            self._is_kept = True
            await self._call.keep(self._services, said())
            return
        # Whoever leaves while this waits has kept nothing yet.
        async with self._services.large:
            size = taken_bytes(self._taken_bytes + self._text.size_bytes, self._alike)
            await self._held.grow(size)
            self._is_kept = True
            await self._call.keep(self._services, said())

    async def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            await self._keep()
            # Where that was nothing, nothing stays.
            await self._call.undo(self._services)
