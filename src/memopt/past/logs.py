"""A log of records, one a line, that becomes lines of a conversation.

Claude Code and Codex both keep one. Owns: how the lines of a log are gone through, what becomes of
those that are damaged or half-written, and of what is held at the end. Not here: what is in them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import IO, Any, Final

import msgspec

from memopt.base.records import Message
from memopt.base.units import MIB
from memopt.past.comparing import LEFT_OUT
from memopt.past.files import NoRoom, Source, lines
from memopt.past.parsing import PARSE_ERRORS, reason_of
from memopt.past.places import OTHER, Line, Places
from memopt.past.records import ORIGIN, About, Brought, Step
from memopt.past.room import Room, reading_bytes

_HELD_BYTES_MAX: Final = 16 * MIB
"""Of all replies that are being put together."""
_LOOKED_AT_BYTES: Final = 4 * MIB


def note_unparsed(report: Brought, where: str, line: bytes, error: Exception) -> None:
    """A line that is no record: damaged, or the last one and not written to its end yet."""
    if line.endswith(b"\n") or isinstance(error, msgspec.ValidationError):
        report.damage(where, reason_of(error))
    else:
        report.half_written(where)


def note_of(line: NoRoom, number: int) -> Message:
    """What stands in the place of a line that there was no room for."""
    origin = {"ids": [], LEFT_OUT: "there was no room for the line", "line": number}
    return {"role": "system", "content": line.text, ORIGIN: origin}


class Log(ABC):
    """One file that is being read."""

    def __init__(self, source: Source, report: Brought, room: Room) -> None:
        self._source = source
        self._report = report
        self._room = room
        self._places = Places(room.part())
        self._last: Line | None = None
        """The line that was spoken on last, subagents aside."""
        self._held = room.part()
        self._since_bytes = 0
        """Read since it was looked at what is held."""

    def steps(self, stream: IO[bytes]) -> Iterator[Step]:
        for number, line in lines(stream, self._source.name, self._report, self._room):
            where = f"{self._source.name}:{number}"
            if isinstance(line, NoRoom):
                yield from self._leave_note(line, number, where)
                continue
            try:
                yield from self._take(line, number, where)
            except PARSE_ERRORS as error:
                note_unparsed(self._report, where, line, error)
            self._since_bytes += len(line)
            if self._since_bytes > _LOOKED_AT_BYTES:
                yield from self._say_what_is_much()
        for known in self._places.lines:
            yield from known.close()
        for known in self._places.lines:
            if known.is_begun:
                yield About(known.session, self._about(known))

    def _say_what_is_much(self) -> Iterator[Step]:
        """Replies that are put together in many lines at once do not pile up."""
        self._since_bytes = 0
        open_ = [line for line in self._places.lines if line.reply is not None]
        held_bytes = sum(line.reply.held_bytes for line in open_ if line.reply is not None)
        if held_bytes > _HELD_BYTES_MAX or not self._held.fit(reading_bytes(held_bytes)):
            for line in open_:
                yield from line.close()
            self._held.fit(0)

    def _leave_note(self, line: NoRoom, number: int, where: str) -> Iterator[Step]:
        """Without names of its own, it gives way to what it stands for once there is room."""
        if self._last is not None:
            yield from self._last.say(OTHER, note_of(line, number), None, where)

    @abstractmethod
    def _take(self, line: bytes, number: int, where: str) -> Iterator[Step]:
        """What one line says. Raises one of PARSE_ERRORS where it is no record."""

    @abstractmethod
    def _known(self, line: Line) -> dict[str, Any]:
        """What is known of a session beside where it is from."""

    def _about(self, line: Line) -> dict[str, Any]:
        about = self._known(line)
        if line.parent is not None:
            about |= {"fork_of": line.parent.session, "fork_at": line.position}
        return about
