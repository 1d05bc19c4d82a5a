"""The objects of a JSON array that is too large to be held, one after the other.

Only brackets and strings are looked at, so an object costs its own bytes and no tree. Also takes
an object with one array of objects in it, `{"conversations": [...]}`, and an object by itself.
Invariant: no more than an object's limit and a chunk is held; a larger one is left out and named.
"""

import re
from collections.abc import Callable, Iterator
from typing import IO, Final

from memopt.base.units import KIB, MIB
from memopt.past.room import Part, Room, decoding_bytes, reading_bytes

_CHUNK_BYTES: Final = MIB
_FREE_BYTES: Final = 256 * KIB
"""Smaller objects are not worth asking for."""
_TOKEN: Final = re.compile(
    rb'("[^"\\]*(?:\\.[^"\\]*)*")|([\[{])|([\]}])|("[^"\\]*(?:\\.[^"\\]*)*\\?\Z)', re.DOTALL
)
"""A string, a bracket that opens or closes, or a string whose end is not there yet."""
_REST_OF_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)', re.DOTALL)
_STRING, _OPENS, _CLOSES = 1, 2, 3
_LISTED_AS: Final = b'"conversations"'


def objects(
    stream: IO[bytes], room: Room, *, bytes_max: int, left_out: Callable[[int, str], None],
    cut_off: Callable[[int], None],
) -> Iterator[tuple[int, bytes]]:  # fmt: skip
    """Objects with their numbers from 1 on. `left_out` is told of the number of one that is too
    large, and why; `cut_off` of one whose end is missing."""
    scanner = _Scanner(bytes_max, left_out, room.part())
    while chunk := stream.read(_CHUNK_BYTES):
        yield from scanner.feed(chunk)
    if scanner.depth:
        cut_off(scanner.number)


class _Scanner:
    def __init__(
        self, bytes_max: int, left_out: Callable[[int, str], None], part: Part
    ) -> None:  # fmt: skip
        self._bytes_max = bytes_max
        self._left_out = left_out
        self._part = part
        self._held = b""
        self._at = 0
        """In what is held: what lies before was looked at."""
        self._begins: int | None = None
        """In what is held: where the object begins that is being read, and wanted."""
        self._level = 0
        """How deep objects lie that are wanted."""
        self._in_string = False
        """Within one that is too long to be held."""
        self._last_string = b""
        self.depth = 0
        self.number = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        held = self._held = self._held + chunk
        if self._in_string and not self._leave_string():
            return
        for token in _TOKEN.finditer(held, self._at):
            kind = token.lastindex
            if kind == _STRING:
                if self.depth == 1:
                    self._last_string = held[token.start() : min(token.end(), token.start() + 32)]
            elif kind == _OPENS:
                self._enter(held, token.start())
            elif kind == _CLOSES:
                self.depth -= 1
                if self._begins is not None and self.depth == self._level:
                    begins, self._begins = self._begins, None
                    yield from self._whole(held, begins, token.end())
                if self.depth <= 0:
                    self.depth = self._level = 0
            else:
                self._at = token.start()
                break
            self._at = token.end()
        else:
            # Between tokens there is nothing that could be half of one.
            self._at = len(held)
        self._let_go()

    def _whole(self, held: bytes, begins: int, ends: int) -> Iterator[tuple[int, bytes]]:
        body = held[begins:ends]
        needed = decoding_bytes(body) if len(body) > _FREE_BYTES else 0
        if self._part.fit(needed):
            yield self.number, body
        else:
            self._left_out(self.number, f"it takes {needed} bytes to read: {self._part.refusal}")

    def _enter(self, held: bytes, at: int) -> None:
        is_object = held[at] == 0x7B
        if self.depth == 0:
            self._level = 0 if is_object else 1
        elif self.depth == 1 and not is_object and self._last_string == _LISTED_AS:
            # Not an object by itself, but one with a list of them.
            self._level, self._begins, self.number = 2, None, 0
        if is_object and self.depth == self._level:
            self._begins = at
            self.number += 1
        self.depth += 1

    def _let_go(self) -> None:
        """Keep what is needed of what was read."""
        begins = self._begins
        refusal = None if begins is None else self._refusal(len(self._held) - begins)
        if refusal is not None:
            self._left_out(self.number, refusal)
            begins = self._begins = None
        if begins is None:
            self._part.fit(0)
        keep = self._at if begins is None else begins
        if begins is None and len(self._held) - self._at > self._bytes_max:
            self._in_string, self._held = True, self._held[self._at + 1 :]
            self._leave_string()
            return
        self._held = self._held[keep:]
        self._at -= keep
        self._begins = None if begins is None else 0

    def _refusal(self, size: int) -> str | None:
        """Why no more of an object is held; None where it may be."""
        if size > self._bytes_max:
            return f"it has more than {self._bytes_max} bytes"
        if size > _CHUNK_BYTES and not self._part.fit(reading_bytes(size + _CHUNK_BYTES)):
            return f"it has more than {size} bytes: {self._part.refusal}"
        return None

    def _leave_string(self) -> bool:
        """Go to the end of a string that is not held; whether it is there."""
        found = _REST_OF_STRING.match(self._held)
        assert found is not None, "it matches everything"
        if found[1] == b'"':
            self._in_string, self._at = False, found.end()
            return True
        self._held, self._at = found[1], 0
        return False
