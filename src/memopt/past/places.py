"""Which line of a conversation each record of a log went to, and where on it.

Owns: the lines of one source, what is said on them by kind, and the places of records by name.
Invariant: the places that are kept have a limit; of a log with more records the oldest half is let
go, and what names one of those as its parent goes on where others go on.
"""

from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from memopt.base.records import Message
from memopt.past.records import Begin, Say, Step
from memopt.past.replies import Reply
from memopt.past.room import Part

PLACES_MAX: Final = 100_000
LINES_MAX: Final = 2_000
"""Of one source: forks and subagents."""

_PLACE_BYTES: Final = 320
_FITTED_AT_ONCE: Final = 1024
_REPLIES_KNOWN: Final = 16

PROMPT: Final = ord("u")
"""A prompt of a person: what a fork begins with, mostly."""
OTHER: Final = ord("o")
REPLY: Final = ord("a")
RESULT: Final = ord("t")


class Line:
    """A session as it is read: messages that follow each other."""

    def __init__(
        self, session: str, parent: "Line | None" = None, position: int = 0,
        *, is_agent: bool = False, names: tuple[str, ...] = (), file: str = "",
    ) -> None:  # fmt: skip
        """`position` is how many messages it shares with its parent; `names` and `file` are for a
        Begin."""
        self.session = session
        self.parent = parent
        self.position = position
        self.is_agent = is_agent
        self._names = names
        self._file = file
        self.reply: Reply | None = None
        self.is_begun = False
        self._replied: deque[Any] = deque(maxlen=_REPLIES_KNOWN)
        self._kinds: bytearray = bytearray() if parent is None else parent._kinds[:position]

    def __len__(self) -> int:
        return len(self._kinds)

    # One on which nothing was said yet is a line all the same.
    def __bool__(self) -> bool:
        return True

    @property
    def last_prompt(self) -> int:
        """Where the last prompt is; -1 where there is none."""
        return self._kinds.rfind(PROMPT)

    def behind(self, position: int) -> int:
        """Where a message ends with the results of its calls."""
        behind = min(position + 1, len(self._kinds))
        while behind < len(self._kinds) and self._kinds[behind] == RESULT:
            behind += 1
        return behind

    def before_prompts(self, count: int) -> int:
        """Where the last `count` prompts and all behind them begin."""
        at = len(self._kinds)
        for _ in range(count):
            at = max(self._kinds.rfind(PROMPT, 0, at), 0)
        return at

    def has_replied(self, name: Any) -> bool:
        """Whether a part of that reply was said here lately."""
        return name is not None and name in self._replied

    def say(
        self, kind: int, message: Message, at: datetime | None, where: str
    ) -> Iterator[Step]:  # fmt: skip
        yield from self.close()
        yield from self._say(kind, Say(self.session, message, at, where))

    def close(self) -> Iterator[Step]:
        """Say what is held."""
        reply, self.reply = self.reply, None
        if reply is not None:
            self._replied.append(reply.name)
            for step in reply.steps(self.session):
                kind = RESULT if step.message.get("role") == "tool" else REPLY
                yield from self._say(kind, step)

    def _say(self, kind: int, step: Say) -> Iterator[Step]:
        if not self.is_begun:
            self.is_begun = True
            parent = self.parent.session if self.parent is not None and self.position else None
            position = self.position if parent else 0
            yield Begin(self.session, parent, position, self._names, self._file)
        self._kinds.append(kind)
        yield step


class Place(NamedTuple):
    line: Line
    position: int
    """Of the message that a record became, or follows; -1 where there is none."""


class Places:
    def __init__(self, part: Part) -> None:
        self._part = part
        self.lines: list[Line] = []
        self._places: dict[Any, Place] = {}

    def add(self, line: Line) -> Line:
        self.lines.append(line)
        return line

    def find(self, name: Any) -> Place | None:
        return self._places.get(name)

    def put(self, name: Any, line: Line, position: int) -> None:
        count = len(self._places)
        has_room = count % _FITTED_AT_ONCE or self._part.fit(_PLACE_BYTES * count)
        if count >= PLACES_MAX or not has_room:
            for old in list(self._places)[: count // 2]:
                del self._places[old]
        self._places[name] = Place(line, position)
