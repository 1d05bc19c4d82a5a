"""The outputs of tools within messages: where their texts are, whole or shortened.

Owns: which texts of a message may be shortened. Invariant: a message that is signed or encrypted
anywhere is left alone, and so is everything that no tool wrote. Not here: how a text is shortened
(shortening.py).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.base.names import check_count
from memopt.base.records import Message
from memopt.context.calls import results_in
from memopt.context.handles import Handle
from memopt.context.payload import is_signed
from memopt.context.shortening import shorten

STORED_CHARS_MIN: Final = 256
_FIELDS: Final = ("output", "content")
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})


class Output(NamedTuple):
    path: tuple[Any, ...]
    """Keys and places from the message to the text."""
    text: str


def outputs_in(message: Message) -> list[Output]:
    """Every text that a tool wrote, in order."""
    found: list[Output] = []
    for result in results_in(message):
        if result.at >= 0:
            part = message["content"][result.at]
            found += _texts(part.get("content"), ("content", result.at, "content"))
        else:
            field = next((name for name in _FIELDS if message.get(name)), "content")
            found += _texts(message.get(field), (field,))
    return found


def _texts(value: Any, path: tuple[Any, ...]) -> Iterator[Output]:
    if type(value) is str:
        yield Output(path, value)
    elif type(value) is list:
        for at, part in enumerate(value):
            if type(part) is str:
                yield Output((*path, at), part)
            elif type(part) is dict and part.get("type") in _TEXT_PARTS:
                text = part.get("text")
                if type(text) is str:
                    yield Output((*path, at, "text"), text)


class Cut(NamedTuple):
    handle: Handle
    chars: int
    """Of the whole."""
    kept: int
    """Characters that are sent."""


def shortened(
    message: Message, seq: int, chars_max: int, shorten: Callable[[str, int, str], str | None]
) -> tuple[Message, list[Cut]]:
    """A message whose outputs have about `chars_max` characters at most, each; itself where they
    have already."""
    long = [one for one in outputs_in(message) if len(one.text) > chars_max]
    if not long or is_signed(message):
        return message, []
    several = len(outputs_in(message)) > 1
    cuts: list[Cut] = []
    for at, one in enumerate(outputs_in(message)):
        if len(one.text) <= chars_max:
            continue
        handle = Handle(seq, at if several else None)
        short = shorten(one.text, chars_max, str(handle))
        if short is not None and len(short) < len(one.text):
            message = replaced(message, one.path, short)
            cuts.append(Cut(handle, len(one.text), len(short)))
    return message, cuts


def shorten_outputs(message: Mapping[str, Any], *, max_chars: int) -> Message:
    """A message whose outputs of tools have at most `max_chars` characters each, to be appended by
    whoever does not want to keep them whole: by their form, as a context shortens them, but what is
    left out is gone, and the text says so. A message that is signed stays as it is."""
    if not isinstance(message, Mapping):
        raise UsageError(f"expected a dict, got {type(message).__name__}", field="message")
    check_count(max_chars, field="max_chars", least=STORED_CHARS_MIN)
    short, _ = shortened(dict(message), 0, max_chars, lambda text, room, _: shorten(text, room, ""))
    return short


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with something else at a place in it."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy
