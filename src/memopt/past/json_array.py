"""The objects of a JSON array that is too large to be held, one after the other.

Only brackets and strings are looked at, so an object costs its own bytes and no tree. Also takes
an object with one array of objects in it, `{"conversations": [...]}`, and an object by itself.
Invariant: no more than an object's limit and a chunk is held; a larger one is left out and named.
"""

import re
from collections.abc import Callable, Iterator
from typing import IO, Final

from memopt.base.units import MIB

_CHUNK_BYTES: Final = MIB
_TOKEN: Final = re.compile(
    rb'("[^"\\]*(?:\\.[^"\\]*)*")|([\[{])|([\]}])|("[^"\\]*(?:\\.[^"\\]*)*\\?\Z)', re.DOTALL
)
"""A string, a bracket that opens or closes, or a string whose end is not there yet."""
_REST_OF_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)', re.DOTALL)
_STRING, _OPENS, _CLOSES = 1, 2, 3
_LISTED_AS: Final = b'"conversations"'


def objects(
    stream: IO[bytes], *, bytes_max: int, too_large: Callable[[int], None],
    cut_off: Callable[[int], None],
) -> Iterator[tuple[int, bytes]]:  # fmt: skip
    """Objects with their numbers from 1 on. `too_large` is told of the number of one that is left
    out, `cut_off` of one whose end is missing."""
    scanner = _Scanner(bytes_max, too_large)
    while chunk := stream.read(_CHUNK_BYTES):
        yield from scanner.feed(chunk)
    if scanner.depth:
        cut_off(scanner.number)


class _Scanner:
    def __init__(self, bytes_max: int, too_large: Callable[[int], None]) -> None:
        self._bytes_max = bytes_max
        self._too_large = too_large
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
                    yield self.number, held[self._begins : token.end()]
                    self._begins = None
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
        if begins is not None and len(self._held) - begins > self._bytes_max:
            self._too_large(self.number)
            begins = self._begins = None
        keep = self._at if begins is None else begins
        if begins is None and len(self._held) - self._at > self._bytes_max:
            self._in_string, self._held = True, self._held[self._at + 1 :]
            self._leave_string()
            return
        self._held = self._held[keep:]
        self._at -= keep
        self._begins = None if begins is None else 0

    def _leave_string(self) -> bool:
        """Go to the end of a string that is not held; whether it is there."""
        found = _REST_OF_STRING.match(self._held)
        assert found is not None, "it matches everything"
        if found[1] == b'"':
            self._in_string, self._at = False, found.end()
            return True
        self._held, self._at = found[1], 0
        return False
