"""A streamed Chat Completion, put together as it passes.

The text of an only choice goes to a sink piece by piece and is never held here; everything else a
delta can say is merged the way clients do it: names and ids once, texts one behind the other,
lists by their index.

Owns: what a stream has said so far. Invariant: `fields` of a finished choice, with the text that
went to the sink, are the message that the same reply would have been without a stream.
Not here: where an event ends (events.py), and what becomes of the message.
"""

from collections.abc import Callable
from typing import Any, Final

from memopt.base.errors import UsageError
from memopt.server.reading import is_cut, read_reply, storable, whole_text

Message = dict[str, Any]

_ONCE: Final = frozenset({"id", "type", "role", "name", "index", "object", "format"})
_INDEX_MAX: Final = 1024
"""Choices of a reply, and calls of a message."""


class Choice:
    """One answer of a reply."""

    def __init__(self) -> None:
        self.fields: Message = {}
        """Without the texts of the deltas, which are in `_texts` until the end."""
        self.finish_reason: str | None = None
        self.has_text = False
        self._texts: dict[str, Fragments] = {}
        self._calls: dict[int, _Call] = {}
        self._cut = ""
        """The first half of a character, until the other has come."""

    def add(self, delta: Message, write: Callable[[str], None] | None, size_bytes: int) -> int:
        """Take up a delta of an event of `size_bytes`; how many bytes more are held for it."""
        held = 0
        for name, value in delta.items():
            if value is None:
                self.fields.setdefault(name, None)
                continue
            if name == "content" and isinstance(value, str):
                if isinstance(self.fields.get(name), list):
                    value = [{"type": "text", "text": value}]
                elif write is not None:
                    self.has_text = True
                    self._write(value, write)
                    continue
            elif name == "content" and isinstance(value, list):
                held += self._begin_parts()
            if name == "tool_calls" and isinstance(value, list):
                held += sum(self._add_call(call) for call in value)
            elif isinstance(value, str) and name not in _ONCE:
                held += self._texts.setdefault(name, Fragments()).add(value)
            else:
                held += size_bytes if isinstance(value, list | dict) else 0
                self.fields[name] = merged(self.fields.get(name), value, name)
        return held

    def _write(self, text: str, write: Callable[[str], None]) -> None:
        text, self._cut = self._cut + text, ""
        if text.isascii():
            write(text)
            return
        if is_cut(text):
            text, self._cut = text[:-1], text[-1]
        write(whole_text(text))

    def end(self, write: Callable[[str], None] | None) -> None:
        """No delta follows."""
        if self._cut and write is not None:
            text, self._cut = self._cut, ""
            write(whole_text(text))

    def _begin_parts(self) -> int:
        """The content is a list from now on: text that came before is its first part."""
        if self.has_text:
            raise UsageError("parts behind a text", field="content")
        texts = self._texts.pop("content", None)
        if texts is not None:
            self.fields["content"] = [{"type": "text", "text": texts.whole()}]
        return _PIECE_BYTES

    def _place_of(self, delta: Message) -> Any:
        """Which call a fragment is of. Some servers do not say: then it goes on with the last one,
        unless it begins another."""
        index = delta.get("index")
        if index is not None:
            return index
        last = max(self._calls, default=-1)
        begins = last < 0 or self._calls[last].is_other(delta)
        return last + 1 if begins else last

    def _add_call(self, delta: Any) -> int:
        if not isinstance(delta, dict):
            return 0
        index = self._place_of(delta)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < _INDEX_MAX:
            raise UsageError(f"expected the place of a call, got {index!r}", field="tool_calls")
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = _Call()
        return call.add(delta)

    def message(self) -> Message:
        """What was said, without a text that went to the sink."""
        message: Message = {"role": "assistant"} | self.fields
        message |= {name: texts.whole() for name, texts in self._texts.items()}
        if self._calls:
            message["tool_calls"] = [self._calls[index].whole() for index in sorted(self._calls)]
        joined: Message = storable(message)
        return joined

    @property
    def is_empty(self) -> bool:
        has_parts = bool(self.fields.get("content"))
        return not (self.has_text or self._texts or self._calls or has_parts)


class _Call:
    """A tool call whose arguments come in fragments."""

    def __init__(self) -> None:
        self._fields: Message = {}
        self._function: Message = {}
        self._arguments: Fragments | None = None

    def add(self, delta: Message) -> int:
        held = 0
        for name, value in delta.items():
            if name == "index" or value is None:
                continue
            if name == "function" and isinstance(value, dict):
                for part, text in value.items():
                    if part == "arguments" and isinstance(text, str):
                        self._arguments = self._arguments or Fragments()
                        held += self._arguments.add(text)
                    elif text is not None:
                        self._function[part] = merged(self._function.get(part), text, part)
                        held += _held_bytes(text)
            else:
                self._fields[name] = merged(self._fields.get(name), value, name)
                held += _held_bytes(value)
        return held

    def is_other(self, delta: Message) -> bool:
        """Whether a fragment without a place begins another call."""
        id, function = delta.get("id"), delta.get("function")
        if id is not None:
            return bool(id != self._fields.get("id"))
        return isinstance(function, dict) and bool(function.get("name")) and bool(self._function)

    def whole(self) -> Message:
        call = dict(self._fields)
        if self._function or self._arguments is not None:
            arguments = self._arguments.whole() if self._arguments is not None else ""
            call["function"] = self._function | {"arguments": arguments}
        return call


class Fragments:
    """A text that comes in pieces. Small ones are put together now and then: each takes more than
    what it says."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._whole: list[str] = []

    def add(self, text: str) -> int:
        """Take up a piece; how many bytes more are held."""
        self._pieces.append(text)
        held = len(text) + _PIECE_BYTES
        if len(self._pieces) == _PIECES_MAX:
            self._whole.append("".join(self._pieces))
            self._pieces = []
            held -= (_PIECES_MAX - 1) * _PIECE_BYTES
        return held

    def whole(self) -> str:
        return "".join((*self._whole, *self._pieces))


class ChatAssembler:
    """Takes up the chunks of a stream. Not thread-safe."""

    def __init__(self, held_bytes_max: int, write: Callable[[str], None] | None) -> None:
        """`write` takes the text of choice 0; None where there may be others."""
        self._held_bytes_max = held_bytes_max
        self._write = write
        self.choices: dict[int, Choice] = {}
        self.head: Message = {}
        """Of the first chunk: id, model and what else is not in a choice."""
        self.usage: Any = None
        self.error: Any = None
        self.held_bytes = 0

    def add(self, data: bytes) -> Message | None:
        """Take up what an event says; the chunk, where it is one: whatever else is no JSON object
        says nothing. Raises UsageError beyond a limit, ServerError for what nobody can read: what
        it said would be missing."""
        chunk = read_reply(data)
        if type(chunk) is not dict:
            return None
        if not self.head:
            self.head = {
                name: value for name, value in chunk.items() if name not in ("choices", "usage")
            }
            self.held_bytes += len(data) if self.head else 0
        self.usage = chunk.get("usage") or self.usage
        self.error = chunk.get("error") or self.error
        choices = chunk.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                if type(choice) is dict:
                    self._add(choice, len(data))
        return chunk

    def _add(self, delta: Message, size_bytes: int) -> None:
        index = delta.get("index")
        index = 0 if index is None else index
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < _INDEX_MAX:
            raise UsageError(f"expected the place of a choice, got {index!r}", field="choices")
        choice = self.choices.get(index)
        if choice is None:
            choice = self.choices[index] = Choice()
        said = delta.get("delta")
        if type(said) is dict:
            self.held_bytes += choice.add(said, self._write if index == 0 else None, size_bytes)
            if self.held_bytes > self._held_bytes_max:
                raise UsageError(f"more than {self._held_bytes_max} bytes", field="choices")
        reason = delta.get("finish_reason")
        if isinstance(reason, str):
            choice.finish_reason = reason

    def end(self) -> None:
        """No chunk follows."""
        if 0 in self.choices:
            self.choices[0].end(self._write)

    @property
    def is_finished(self) -> bool:
        """Whether every answer came to its end."""
        return bool(self.choices) and all(
            choice.finish_reason is not None for choice in self.choices.values()
        )


_PIECE_BYTES: Final = 64
"""What a fragment takes besides its text."""
_PIECES_MAX: Final = 256


def _held_bytes(value: Any) -> int:
    return _PIECE_BYTES + (len(value) if isinstance(value, str) else 0)


def merged(before: Any, value: Any, name: str) -> Any:
    """Two deltas of one field."""
    if before is None or value is None:
        return value if before is None else before
    if isinstance(before, str) and isinstance(value, str):
        return (before or value) if name in _ONCE else before + value
    if isinstance(before, dict) and isinstance(value, dict):
        whole = dict(before)
        for part, piece in value.items():
            whole[part] = merged(whole.get(part), piece, part)
        return whole
    if isinstance(before, list) and isinstance(value, list):
        return _merged_lists(before, value)
    return value


def _merged_lists(before: list[Any], value: list[Any]) -> list[Any]:
    whole = list(before)
    places = {
        item["index"]: place
        for place, item in enumerate(whole)
        if isinstance(item, dict) and isinstance(item.get("index"), int)
    }
    for item in value:
        index = item.get("index") if isinstance(item, dict) else None
        place = places.get(index) if isinstance(index, int) else None
        if place is None:
            whole.append(item)
        else:
            whole[place] = merged(whole[place], item, "")
    return whole
