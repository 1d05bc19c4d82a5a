"""A reply that is put together from several lines, with the results of its calls behind it.

Coding agents write a model's reply in parts, and the results of its calls between them. A Chat
message is the whole reply, and its results follow. So a reply is held until something else is
said. Invariant: what is held has a limit. Not here: whose lines they are.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from memopt.base.records import Message
from memopt.base.units import MIB
from memopt.past.records import ORIGIN, Say

_HELD_BYTES_MAX: Final = 8 * MIB
_RESULTS_MAX: Final = 1024


class Reply:
    """One assistant message and what its calls gave."""

    def __init__(self, name: Any, at: datetime | None, where: str) -> None:
        """`name` is what its parts have in common."""
        self.name = name
        self.at = at
        self.where = where
        self.model: str | None = None
        self.ids: list[Any] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._call_ids: dict[str, int] = {}
        self._results: list[tuple[Message, datetime | None, str]] = []
        self.held_bytes = 0
        self._may_grow: set[int] = set()
        """Which lists end in what a stream may write again with more of it."""

    @property
    def is_full(self) -> bool:
        return self.held_bytes > _HELD_BYTES_MAX or len(self._results) >= _RESULTS_MAX

    @property
    def is_empty(self) -> bool:
        return not (self._texts or self._thoughts or self._calls)

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    @property
    def has_text(self) -> bool:
        return bool(self._texts)

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def came_from(self, id: Any) -> None:
        if id not in self.ids[-8:]:
            self.ids.append(id)

    def say(self, text: str) -> None:
        self._add(self._texts, text)

    def think(self, text: str) -> None:
        self._add(self._thoughts, text)

    def call(self, id: str, name: str, arguments: str) -> None:
        """Ask for a tool; one that was asked for already is told anew."""
        told = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self.held_bytes += len(arguments)
        if id in self._call_ids:
            self._calls[self._call_ids[id]] = told
        else:
            self._call_ids[id] = len(self._calls)
            self._calls.append(told)
            self._may_grow.clear()

    def called(self, id: str) -> bool:
        return id in self._call_ids

    def result(self, message: Message, at: datetime | None, where: str, size: int) -> None:
        self.held_bytes += size
        self._results.append((message, at, where))
        self._may_grow.clear()

    def steps(self, session: str) -> list[Say]:
        """What was said, in the order of Chat messages."""
        said: list[Say] = []
        if not self.is_empty:
            message: Message = {"role": "assistant", "content": "\n\n".join(self._texts) or None}
            if self._thoughts:
                message["reasoning_content"] = "\n\n".join(self._thoughts)
            if self._calls:
                message["tool_calls"] = self._calls
            if self.model:
                message["model"] = self.model
            if isinstance(self.name, str):
                message["id"] = self.name
            message[ORIGIN] = {"ids": self.ids}
            said.append(Say(session, message, self.at, self.where))
        said += [Say(session, *result) for result in self._results]
        return said

    def _add(self, texts: list[str], text: str) -> None:
        if not text:
            return
        self.held_bytes += len(text)
        # A stream may be written several times, each time with more of it. What is said behind a
        # call is said anew, be it the same.
        if id(texts) in self._may_grow and text.startswith(texts[-1]):
            texts[-1] = text
        else:
            texts.append(text)
        self._may_grow.add(id(texts))


def arguments_of(value: Any) -> str:
    """Arguments of a call as Chat messages have them: a JSON object in a string."""
    if isinstance(value, msgspec.Raw):
        value = bytes(value).decode()
        return value if value[:1] == "{" else arguments_of(msgspec.json.decode(value or "null"))
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return msgspec.json.encode({} if value is None else {"input": value}).decode()


def arguments_as_told(value: Any) -> str:
    """The same of what may be JSON in a string already, or any other text."""
    if isinstance(value, str):
        try:
            if isinstance(msgspec.json.decode(value), dict):
                return value
        except (msgspec.DecodeError, RecursionError):
            pass
    return arguments_of(value)
