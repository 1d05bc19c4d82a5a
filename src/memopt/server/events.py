"""Server-sent events: cut out of the bytes of a stream, wherever those are cut.

Owns: where an event ends. Invariant: the events that are given out, joined, are the bytes that were
fed; what is kept back is an event that has not ended. Not here: what an event says (assembling.py).
"""

import re
from typing import Final

from memopt.base.errors import UsageError

DONE: Final = b"[DONE]"

_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_END_BYTES_MAX: Final = 4
_PART_BYTES: Final = 48
"""What a piece takes besides its bytes."""
_BOM: Final = b"\xef\xbb\xbf"
"""A stream may begin with it."""


class EventCutter:
    """Cuts a stream into events. Not thread-safe."""

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._rest = b""
        self._parts: list[bytes] = []
        """Of an event that has not ended, behind `_rest`: joined when it ends, or a long one would
        be copied once for every piece of it."""
        self._size_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events that end in `data`, each with the empty line at its end. Raises UsageError
        above the limit of an event."""
        edge = self._rest[-_END_BYTES_MAX:] + data
        if not _END.search(edge):
            self._keep(data)
            return []
        whole = b"".join((*self._parts, data))
        self._parts, self._rest, self._size_bytes = [], b"", 0
        events: list[bytes] = []
        start = 0
        for end in _END.finditer(whole):
            events.append(whole[start : end.end()])
            start = end.end()
        if start < len(whole):
            self._keep(whole[start:])
        return events

    def _keep(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._size_bytes > self._event_bytes_max:
            raise UsageError(f"more than {self._event_bytes_max} bytes", field="event")
        self._parts.append(data)
        self._rest = (self._rest + data)[-_END_BYTES_MAX:]

    @property
    def held_bytes(self) -> int:
        """What is kept of an event that has not ended."""
        return self._size_bytes + _PART_BYTES * len(self._parts)

    def rest(self) -> bytes:
        """What has not ended when the stream has."""
        rest = b"".join(self._parts)
        self._parts, self._rest, self._size_bytes = [], b"", 0
        return rest


def data_of(event: bytes) -> bytes:
    """What an event says; b"" for a comment."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = []
    for line in _LINE.split(event.removeprefix(_BOM)):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)


def event_of(data: bytes) -> bytes:
    """The event that says `data`, which has no line breaks."""
    return b"data: " + data + b"\n\n"
