"""Conversations that were written as Markdown, by people and by programs that export.

A message begins where a line says whose turn it is, and goes on until another one does: a heading
(`## User`, `### Assistant (2025-06-03 10:20)`), bold text (`**You:** …`, `_**Agent**_`), or what
`memopt export --format markdown` and aider write. What is within a fence says nothing. A file is a
session; aider's, one for each of its chats.

Not here: who else may speak than a person, a model, a system and a tool, and pages of memories.
"""

import io
import re
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any, Final, NamedTuple

from memopt.base.units import KIB, MIB
from memopt.past.files import NoRoom, Source, lines
from memopt.past.parsing import time_of
from memopt.past.records import ORIGIN, About, Begin, Brought, Say, Step
from memopt.past.room import Room, saying_bytes

TEXT_BYTES_MAX: Final = 16 * MIB
"""Of one message."""
_ROOM_STEP_BYTES: Final = 64 * KIB
_ROLES: Final = {
    **dict.fromkeys(("user", "you", "human", "me", "prompt", "question", "you said"), "user"),
    **dict.fromkeys(
        ("assistant", "ai", "agent", "model", "bot", "chatbot", "response", "answer", "chatgpt",
         "chatgpt said", "claude", "claude code", "codex", "gemini", "copilot", "cursor", "gpt",
         "llm", "assistant response"), "assistant",
    ),
    "system": "system",
    **dict.fromkeys(("tool", "tool result", "tool output", "function"), "tool"),
}  # fmt: skip
_HEADING: Final = re.compile(r"#{1,6}\s+(?P<said>.+?)\s*#*\s*$")
_BOLD: Final = re.compile(
    r"(?:[-*]\s+)?(?P<mark>_\*\*|\*\*_|\*\*\*|\*\*|__)(?P<said>[^*_\n]{1,120}?)(?P<colon>:?)"
    r"(?:\*\*_|_\*\*|\*\*\*|\*\*|__)(?P<after>:?)(?:\s+(?P<rest>.*))?$"
)
_EXPORTED: Final = re.compile(
    r"## \d+ · (?P<role>[\w.-]+)(?: (?P<name>[^·]+?))?(?: · (?P<actor>[^·]+?))?"
    r" · (?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC$"
)
_TIME: Final = re.compile(
    r"[(\[,·@—-]*\s*(\d{4}-\d\d-\d\d[T ,]+\d\d:\d\d(?::\d\d(?:\.\d+)?)?"
    r"\s*(?:Z|UTC|[+-]\d\d:?\d\d)?)\s*[)\]]?"
)
_PARENTHESIS: Final = re.compile(r"\s*[(\[][^)\]]*[)\]]\s*")
_NOT_LETTERS: Final = re.compile(r"^[^\w]+|[^\w]+$")
_LINE: Final = re.compile(r"[^\n]+")
_FENCE: Final = re.compile(r"\s{0,3}(`{3,}|~{3,})")
_AIDER: Final = re.compile(r"# aider chat started at (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
_AIDER_PROMPT: Final = "#### "


class _Turn(NamedTuple):
    """Somebody begins to speak."""

    role: str
    at: datetime | None
    said: str
    """On the same line."""
    name: str | None = None


def is_mine(head: bytes) -> bool:
    """Whether two turns at least begin in it."""
    text = head.decode("utf-8", "replace").removeprefix("\ufeff")
    if text.startswith("---\n") and re.search(r"^memopt:", text.split("\n---", 1)[0], re.MULTILINE):
        return False
    outside = _Outside()
    is_aider, count = False, 0
    for found in _LINE.finditer(text):
        # One at a time: many short ones would take much more than the text.
        line = found[0]
        if outside.is_fenced(line):
            continue
        is_aider = is_aider or _AIDER.match(line) is not None
        if _turn(line) is not None or (is_aider and line.startswith(_AIDER_PROMPT)):
            count += 1
            if count >= 2 or is_aider:
                return True
    return False


def read(
    source: Source, stream: IO[bytes], report: Brought, room: Room
) -> Iterator[Step]:  # fmt: skip
    """The sessions of one file."""
    yield from _Reader(source, report, room).steps(stream)


class _Outside:
    """Tells whether a line is within a fence; to be asked of all of them in order."""

    def __init__(self) -> None:
        self._fence: str | None = None

    def is_fenced(self, line: str) -> bool:
        found = _FENCE.match(line)
        if self._fence is None:
            self._fence = found[1] if found else None
            return found is not None
        if found and found[1].startswith(self._fence) and not line.strip().strip("`~"):
            self._fence = None
        return True


class _Reader:
    def __init__(self, source: Source, report: Brought, room: Room) -> None:
        self._room = room
        self._held = room.part()
        self._refused = ""
        """Why the rest of what is said is left out."""
        self._source = source
        self._report = report
        self._session = source.stem
        self._names = source.names
        self._file = source.file
        self._title: str | None = None
        self._is_aider = False
        self._count = 0
        self._turn: _Turn | None = None
        self._said = io.StringIO()
        self._size = 0
        self._where = ""

    def steps(self, stream: IO[bytes]) -> Iterator[Step]:
        outside = _Outside()
        for number, raw in lines(stream, self._source.name, self._report, self._room, is_text=True):
            if isinstance(raw, NoRoom):
                self._hear(raw.text)
                continue
            line = raw.decode("utf-8", "replace").rstrip("\r\n").removeprefix("\ufeff")
            where = f"{self._source.name}:{number}"
            if outside.is_fenced(line):
                self._hear(line)
                continue
            yield from self._line(line, where)
        yield from self._end_session()

    def _line(self, line: str, where: str) -> Iterator[Step]:
        chat = _AIDER.match(line)
        if chat is not None:
            yield from self._end_session()
            self._is_aider = True
            begun = chat[1].replace(" ", "T")
            self._names = tuple(f"{name}~{begun}" for name in self._source.names)
            self._file = f"{self._source.file}~{begun}"
            self._session = self._names[0]
            self._turn = None
        elif self._is_aider:
            yield from self._of_aider(line, where)
        else:
            turn = _turn(line)
            if turn is not None:
                yield from self._begin(turn, where)
            elif self._turn is None:
                heading = _HEADING.match(line)
                if heading and self._title is None:
                    self._title = heading["said"]
            elif line.strip() not in ("---", "***", "___"):
                self._hear(line)
            else:
                # A rule between turns; within one it is missed by nobody.
                self._hear("")

    def _of_aider(self, line: str, where: str) -> Iterator[Step]:
        """A prompt has `####` before each line, what the program says `>`, a reply nothing."""
        if line.startswith(_AIDER_PROMPT):
            role, said = "user", line.removeprefix(_AIDER_PROMPT)
        elif line.startswith(">"):
            role, said = "system", line[1:].removeprefix(" ")
        else:
            role, said = "assistant", line
        if self._turn is None or self._turn.role != role:
            yield from self._begin(_Turn(role, None, said), where)
        else:
            self._hear(said)

    def _hear(self, line: str) -> None:
        if self._turn is None or self._refused:
            return
        size = self._size + len(line) + 1
        if size > TEXT_BYTES_MAX:
            self._refused = f"the message has more than {TEXT_BYTES_MAX} bytes"
        elif not self._held.fit(saying_bytes(size // _ROOM_STEP_BYTES * _ROOM_STEP_BYTES)):
            self._refused = f"of the message, {self._size} bytes came in: {self._held.refusal}"
        else:
            self._size = size
            self._said.write(line)
            self._said.write("\n")

    def _begin(self, turn: _Turn, where: str) -> Iterator[Step]:
        yield from self._end_turn()
        self._turn, self._where = turn, where
        if turn.said:
            self._hear(turn.said)

    def _end_turn(self) -> Iterator[Step]:
        turn, self._turn = self._turn, None
        text = self._said.getvalue()
        self._said, self._size = io.StringIO(), 0
        text = text.strip()
        refused, self._refused = self._refused, ""
        if turn is None:
            return
        if refused:
            self._report.damage(self._where, refused)
        if not text:
            self._report.skip("turns without text")
            return
        if self._is_aider and turn.role == "system":
            self._report.skip("what the program said by itself")
            return
        message: dict[str, Any] = {"role": turn.role, "content": text}
        if turn.name:
            message["name"] = turn.name
        message[ORIGIN] = {"ids": [self._count]}
        if not self._count:
            yield Begin(self._session, names=self._names, file=self._file)
        self._count += 1
        yield Say(self._session, message, turn.at, self._where)
        self._held.fit(0)

    def _end_session(self) -> Iterator[Step]:
        yield from self._end_turn()
        if self._count:
            yield About(self._session, {"format": "markdown", "title": self._title})
        elif not self._is_aider:
            self._report.skip("Markdown without a conversation")
        self._count = 0


def _turn(line: str) -> _Turn | None:
    """Who begins to speak on a line; None where nobody does."""
    exported = _EXPORTED.match(line)
    if exported is not None:
        name = exported["name"]
        return _Turn(exported["role"], time_of(exported["at"]), "", name)
    heading = _HEADING.match(line)
    if heading is not None:
        return _speaker(heading["said"].strip("*_"), "")
    bold = _BOLD.match(line)
    if bold is None:
        return None
    rest = bold["rest"] or ""
    # Bold words at the head of a sentence are no turn; a role by itself on a line is one.
    if rest and not (bold["colon"] or bold["after"]):
        return None
    return _speaker(bold["said"], rest)


def _speaker(words: str, rest: str) -> _Turn | None:
    found = _TIME.search(words)
    at = (
        time_of(found[1].replace(", ", " ").replace(" UTC", "Z").replace(" Z", "Z"))
        if found
        else None
    )
    bare = _PARENTHESIS.sub(" ", _TIME.sub(" ", words))
    role = _ROLES.get(_NOT_LETTERS.sub("", bare).casefold())
    return None if role is None else _Turn(role, at, rest)
