"""A reply that comes in pieces: passed on as it comes, and kept before its end is passed on.

Owns: that order, in both forms, and the text on its way to the session's writer. Invariant: what
was passed on of a reply that its client left is kept once. Not here: what an event says (chat.py,
responses.py).
"""

import abc
import asyncio
import enum
from typing import Any, Final

from memopt.base.errors import MemoptError
from memopt.server.calling import Call
from memopt.server.canonical import TextDigest
from memopt.server.errors import ServerError, server_error
from memopt.server.events import EventCutter, data_of
from memopt.server.exchange import Outgoing
from memopt.server.services import Services
from memopt.server.threads import StoreThreads
from memopt.server.upstream import Reply
from memopt.sessions.writer import MessageWriter

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
        """Characters so far."""
        self.digest = TextDigest()

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        self.total += len(text)
        self.digest.add(text)
        if self._copy is not None:
            self._copy.append(text)
            self._copy_left -= len(text)
            if self._copy_left < 0:
                self._copy = None

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
    """It is passed on once what came is kept."""


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
        self._is_over = False

    def _spool(self) -> SpooledText:
        writer = self._services.keeper.session(self._call.place).writer(self._opening)
        return SpooledText(writer, self._services.threads, copied_max=self._copied_max)

    @abc.abstractmethod
    def _take(self, data: bytes) -> Taken:
        """Take up what an event says."""

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
            await self._keep_partial()
            raise
        except MemoptError as error:
            await out.fail(server_error(error))
        finally:
            self._text.writer.abandon()

    async def _pass(self, reply: Reply, out: Outgoing) -> None:
        size = 0
        async for piece in reply.pieces():
            size += len(piece)
            if size > self._services.settings.reply_bytes_max:
                raise ServerError(502, "the reply is too long", code="reply_bytes_max")
            ready: list[bytes] = []
            for event in self._cutter.feed(piece):
                taken = self._take(data_of(event))
                if taken is Taken.END:
                    if ready:
                        await out.send(b"".join(ready))
                        ready = []
                    await self._end()
                if taken is not Taken.OUT:
                    ready.append(event)
            if ready:
                await out.send(b"".join(ready))
            if self._text.is_due:
                await self._text.flush()
        rest = self._cutter.rest()
        if not self._is_over:
            # Some end without a mark, and some break off.
            if self._take(data_of(rest)) is not Taken.END and not self._is_finished:
                raise ServerError(502, "the upstream broke off", code="upstream_failed")
            await self._end()
        await out.end(rest)

    async def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            await self._keep()
