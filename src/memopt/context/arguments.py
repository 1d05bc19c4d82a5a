"""The arguments of calls within messages: where they are, whole or with shorter texts in them.

A model that writes a file says all of it in a call. Once the call has its result, a long text in
its arguments keeps its head and its tail, and between them stands the handle of the whole.

Owns: which texts of a call may be shortened. Invariant: arguments that were JSON of at most 4 MiB
stay JSON, with all their keys; a message that is signed or encrypted anywhere is left alone, and so
are calls that are not named. Not here: which calls have a result (groups.py), and outputs
(outputs.py).
"""

import json
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from memopt.base.records import Message
from memopt.context.calls import Form, calls_in, results_in
from memopt.context.handles import Handle
from memopt.context.outputs import Cut, replaced
from memopt.context.payload import is_signed
from memopt.context.shortening import dumped, loaded, shorten

_FIELDS: Final = ("arguments", "input", "action", "operation")
_JSON_CHARS_MAX: Final = 4 << 20
"""Longer ones are cut as text: reading them takes many times as much."""
_DEPTH_MAX: Final = 32
_TEXT_CHARS_MIN: Final = 48
_STEP: Final = 0.7
"""Texts become shorter by so much, until all fit."""
_HEAD_SHARE: Final = 0.6


class Argument(NamedTuple):
    """What one call is called with."""

    path: tuple[Any, ...]
    """Keys and places from the message to it."""
    value: Any
    """Text, as a rule JSON; or a JSON value."""

    @property
    def text(self) -> str:
        return self.value if type(self.value) is str else dumped(self.value)


def arguments_in(message: Message) -> list[Argument]:
    """Of every call in a message, in order."""
    found: list[Argument] = []
    for call in calls_in(message):
        holder: Any = message
        path: tuple[Any, ...] = ()
        if call.form is Form.CHAT:
            holder, path = message["tool_calls"][call.at], ("tool_calls", call.at)
        elif call.form is Form.PART:
            holder, path = message["content"][call.at], ("content", call.at)
        inner = "function_call" if call.form is Form.FUNCTION else "function"
        if type(holder.get(inner)) is dict:
            holder, path = holder[inner], (*path, inner)
        field = next((name for name in _FIELDS if holder.get(name) is not None), None)
        value = holder[field] if field is not None else ""
        found.append(Argument((*path, field or _FIELDS[0]), value))
    return found


def with_short_arguments(
    message: Message, seq: int, ats: Collection[int], chars_max: int
) -> tuple[Message, list[Cut]]:
    """A message whose calls at these places have arguments of about `chars_max` characters at most,
    each; itself where they have already. Places are those of `arguments_in`."""
    found = arguments_in(message)
    long = [(at, found[at]) for at in ats if at < len(found) and _is_long(found[at], chars_max)]
    if not long or results_in(message) or is_signed(message):
        return message, []
    cuts: list[Cut] = []
    for at, one in long:
        handle = Handle(seq, at)
        short = _shorter(one.value, chars_max, str(handle))
        if short is None:
            continue
        kept = len(Argument(one.path, short).text)
        if kept < len(one.text):
            message = replaced(message, one.path, short)
            # Where escapes were all that was too long, nothing is missing.
            if type(short) is not str or str(handle) in short:
                cuts.append(Cut(handle, len(one.text), kept))
    return message, cuts


def _is_long(one: Argument, chars_max: int) -> bool:
    return type(one.value) in (str, dict, list) and len(one.text) > chars_max


def _shorter(value: Any, chars_max: int, handle: str) -> Any:
    """The same with shorter texts in it; None where that does not make it short enough."""
    if type(value) is not str:
        return _fitted(value, chars_max, handle)
    if len(value) > _JSON_CHARS_MAX:
        return shorten(value, chars_max, handle)
    try:
        fitted = _fitted(loaded(value), chars_max, handle)
        return None if fitted is None else dumped(fitted)
    except json.JSONDecodeError:
        return shorten(value, chars_max, handle)
    except (ValueError, RecursionError):
        # JSON with a number or a depth that cannot be held: it stays as it is.
        return None


def _fitted(value: Any, chars_max: int, handle: str) -> Any:
    chars = float(chars_max)
    while chars >= _TEXT_CHARS_MIN:
        short = _clipped(value, int(chars), handle, _DEPTH_MAX)
        if len(dumped(short)) <= chars_max:
            return short
        chars *= _STEP
    return None


def _clipped(value: Any, chars: int, handle: str, depth: int) -> Any:
    if type(value) is str:
        if len(value) <= chars:
            return value
        mark = f" [… {len(value) - chars} characters left out: {handle} …] "
        head = int(chars * _HEAD_SHARE)
        short = value[:head] + mark + value[len(value) - (chars - head) :]
        return short if len(short) < len(value) else value
    if depth and type(value) is list:
        return [_clipped(item, chars, handle, depth - 1) for item in value]
    if depth and type(value) is dict:
        return {key: _clipped(item, chars, handle, depth - 1) for key, item in value.items()}
    return value
