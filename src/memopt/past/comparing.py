"""How a message of a store and one of a source are to each other.

Not here: what is done where they differ.
"""

from typing import Any, Final

from memopt.base.records import Message
from memopt.past.records import ORIGIN

LEFT_OUT: Final = "left_out"
"""In `origin`: why another message is not there."""


def is_said(there: Message, message: Message) -> bool:
    """Whether a message that is there is that one, or stands for it, in a session that is known to
    be the one."""
    return (
        there == message
        or is_gone(there)
        or (is_left_out(there) and ids_of(there) == ids_of(message))
    )


def may_stand_for(there: Message, message: Message) -> bool:
    """Whether a message that is there says no more than that there was one, as there is here. That
    is no sign of what was said: something else has to tell that it is that one."""
    return (is_gone(there) or is_left_out(there)) and (
        "role" not in there or there["role"] == message.get("role")
    )


def is_gone(message: Message) -> bool:
    """Whether it was redacted here: it does not come back."""
    return message.get("redacted") is True and message.get("content") == "[redacted]"


def weight(value: Any) -> int:
    """Bytes of a message, about: characters of its texts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return 16 + sum(map(weight, value.values()))
    return 16 + sum(map(weight, value)) if isinstance(value, list) else 8


def ids_of(message: Message) -> set[Any] | None:
    """The source's names of what a message was made of; None where nothing was imported."""
    origin = message.get(ORIGIN)
    ids = origin.get("ids") if isinstance(origin, dict) else None
    return {id for id in ids if isinstance(id, str | int)} if isinstance(ids, list) else None


def grew(old: Message, new: Message) -> bool:
    """Whether a message says the same and more by now."""
    before, after = old.get("content"), new.get("content")
    return (
        old.get("role") == new.get("role")
        and isinstance(after, str)
        and (before is None or isinstance(before, str))
        and len(after) > len(before or "")
        and after.startswith(before or "")
    )


def is_left_out(message: Message) -> bool:
    origin = message.get(ORIGIN)
    return isinstance(origin, dict) and LEFT_OUT in origin
