"""The events of a streamed reply, without the model's calls of `open_output`.

A fragment of a call is held until the call has a name; the client's calls are told with the places
that they have among each other. What is opened is known once the reply has ended: then either
another reply follows, or this one was all.

Owns: one reply's events. Invariant: what is passed on has no call of the tool, and is otherwise
what came. Not here: what follows (opening.py).
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from memopt.base.errors import UsageError
from memopt.context.handles import OPEN_OUTPUT
from memopt.server.assembling import ChatAssembler
from memopt.server.events import DONE, EventCutter, data_of, event_of
from memopt.server.reading import read_reply, storable

Message = dict[str, Any]

_HELD_BYTES_MAX: Final = 256 * 1024
"""Of what a model says before it opens something; who says more is not asked again."""
_TEXT_CHARS_MAX: Final = 64 * 1024
_CALLS_MAX: Final = 1024
_UNNAMED_MAX: Final = 16
"""Fragments of a call that has no name yet."""
_HEAD: Final = ("id", "object", "created", "model")

_encode: Final = msgspec.json.Encoder().encode


def is_ours(call: Any) -> bool:
    """A call, or a tool, by the name of its function."""
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and function.get("name") == OPEN_OUTPUT


class _Call:
    """One that the model makes."""

    def __init__(self, id: Any) -> None:
        self.id = id
        self.is_ours: bool | None = None
        """None: it has no name yet."""
        self.told = 0
        """Its place among the client's calls."""
        self.held: list[Message] = []
        """Its fragments, until it has a name."""


class StreamedRound:
    """Not thread-safe."""

    def __init__(
        self, may_go_on: Callable[[Message], bool], event_bytes_max: int, before: Any
    ) -> None:
        """`may_go_on` is asked of a message that opens something; `before` is the usage of the
        replies before."""
        self.message: Message | None = None
        """What was said, where something is opened and another reply follows."""
        self.usage: Any = None
        """What the reply says last of it."""
        self._may_go_on = may_go_on
        self._before = before
        self._cutter = EventCutter(event_bytes_max)
        self._assembler: ChatAssembler | None = ChatAssembler(_HELD_BYTES_MAX, self._hold)
        """None: nothing will be opened."""
        self._text: list[str] = []
        self._chars_left = _TEXT_CHARS_MAX
        self._calls: dict[int, _Call] = {}
        self._told = 0
        self._head: Message = {}
        self._is_over = False

    @property
    def held_bytes(self) -> int:
        held = 0 if self._assembler is None else self._assembler.held_bytes
        return held + self._cutter.held_bytes + _TEXT_CHARS_MAX - max(self._chars_left, 0)

    def feed(self, piece: bytes) -> bytes:
        """What is passed on of it."""
        return b"".join(map(self._shown, self._cutter.feed(piece)))

    def end(self) -> bytes:
        return self._shown(self._cutter.rest())

    def _hold(self, text: str) -> None:
        self._chars_left -= len(text)
        if self._chars_left >= 0:
            self._text.append(text)

    def _shown(self, event: bytes) -> bytes:
        data = data_of(event)
        if data.strip() == DONE:
            return self._at_end() + (b"" if self.message is not None else event)
        if not data:
            return event
        chunk = read_reply(data)
        if type(chunk) is not dict:
            return event
        if chunk.get("error") is not None:
            self._assembler, self.message, self._is_over = None, None, True
            return event
        self._assemble(data)
        self._head = {name: chunk[name] for name in _HEAD if name in chunk}
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        is_changed = self._take(choice) if type(choice) is dict else False
        is_changed |= self._take_usage(chunk)
        if is_changed and _is_empty(chunk, choice):
            return b""
        return event_of(_encode(storable(chunk))) if is_changed else event

    def _assemble(self, data: bytes) -> None:
        if self._assembler is None or self._is_over:
            return
        try:
            self._assembler.add(data)
        except UsageError:
            # Too much, or odd.
            self._assembler = None
        if self._told or self._chars_left < 0:
            self._assembler, self._text = None, []

    def _at_end(self) -> bytes:
        """Where the reply ends without saying how; and its usage, if only those before it had
        one."""
        self._decide()
        if self.message is None and self.usage is None and self._before is not None:
            self.usage = self._before
            return event_of(_encode(self._head | {"choices": [], "usage": self._before}))
        return b""

    # -- usage ------------------------------------------------------------------------------------

    def _take_usage(self, chunk: Message) -> bool:
        """Whether it was changed."""
        if chunk.get("usage") is None:
            return False
        self.usage = chunk["usage"]
        if self.message is not None:
            chunk["usage"] = None
            return True
        if self._before is None:
            return False
        chunk["usage"] = usage_sum(self._before, self.usage)
        return True

    # -- calls ------------------------------------------------------------------------------------

    def _take(self, choice: Message) -> bool:
        """Take the calls of the tool out; whether it was changed."""
        delta = choice.get("delta")
        fragments = delta.get("tool_calls") if isinstance(delta, dict) else None
        is_changed = False
        if isinstance(delta, dict) and isinstance(fragments, list):
            shown = [one for fragment in fragments for one in self._told_of(fragment)]
            is_changed = shown != fragments
            delta["tool_calls"] = shown
            if not shown:
                del delta["tool_calls"]
        if choice.get("finish_reason") is None:
            return is_changed
        unnamed = [one for call in self._calls.values() for one in self._released(call)]
        if unnamed:
            choice["delta"] = (delta or {}) | {"tool_calls": unnamed}
        self._decide()
        if self.message is not None:
            choice["finish_reason"] = None
        elif any(call.is_ours for call in self._calls.values()) and not self._told:
            choice["finish_reason"] = "stop"
        else:
            return is_changed or bool(unnamed)
        return True

    def _decide(self) -> None:
        """Whether another reply follows, once this one has ended."""
        if self._is_over:
            return
        self._is_over = True
        assembler = self._assembler
        if assembler is None or self._told or len(assembler.choices) != 1:
            return
        if not any(call.is_ours for call in self._calls.values()):
            return
        assembler.end()
        [choice] = assembler.choices.values()
        message = choice.message() | {"content": "".join(self._text) or None}
        if self._may_go_on(message):
            self.message = message

    def _told_of(self, fragment: Any) -> list[Any]:
        """What the client is told of a fragment of a call."""
        call = self._call_of(fragment) if isinstance(fragment, dict) else None
        if call is None:
            return [fragment]
        function = fragment.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if call.is_ours is None:
            call.held.append(fragment)
            if not name and len(call.held) < _UNNAMED_MAX:
                return []
            call.is_ours = name == OPEN_OUTPUT
            if call.is_ours:
                call.held = []
            return self._released(call)
        return [] if call.is_ours else [_placed(fragment, call.told)]

    def _released(self, call: _Call) -> list[Message]:
        """The fragments of a client's call that were held."""
        held, call.held = call.held, []
        if not held:
            return []
        call.is_ours = False
        call.told = self._told
        self._told += 1
        return [_placed(fragment, call.told) for fragment in held]

    def _call_of(self, fragment: Message) -> _Call | None:
        """Which call it is of, as an assembler tells them apart. None: nobody can say."""
        place = fragment.get("index")
        id = fragment.get("id")
        if place is None:
            place = max(self._calls, default=-1)
            last = self._calls.get(place)
            function = fragment.get("function")
            name = function.get("name") if isinstance(function, dict) else None
            is_other = last is not None and (
                id != last.id if id is not None else bool(name) and last.is_ours is not None
            )
            if last is None or is_other:
                place += 1
        if type(place) is not int:
            return None
        if len(self._calls) >= _CALLS_MAX and place not in self._calls:
            raise UsageError(f"more than {_CALLS_MAX} calls", field="tool_calls")
        return self._calls.setdefault(place, _Call(id))


def _placed(fragment: Message, place: int) -> Message:
    return fragment | {"index": place} if "index" in fragment else fragment


def _is_empty(chunk: Message, choice: Any) -> bool:
    """Whether it says nothing."""
    if chunk.get("usage") is not None:
        return False
    return not isinstance(choice, dict) or not (choice.get("delta") or choice.get("finish_reason"))


def usage_sum(one: Any, other: Any) -> Any:
    """Of numbers, by their names."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: usage_sum(one.get(name), other.get(name)) for name in {**one, **other}}
    if one is None or other is None:
        return one if other is None else other
    are_numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return one + other if are_numbers else other
