"""Bodies that are not sent as they came: with the history that a client left out.

What is not a message stays the bytes it was, in its order. Not here: cutting a history down to a
window (window.py).
"""

from typing import Any, Final

import msgspec

from memopt.server.asked import Asked, Form
from memopt.server.errors import ServerError
from memopt.server.keeping import PARTIAL, Keeper, Place

_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def with_history(keeper: Keeper, asked: Asked, place: Place) -> bytes:
    """The body with the session's messages before its own, and with its prompts and tools where the
    request has none. Raises ServerError for a session of the other form."""
    fields = _fields_of(asked.body)
    prompt = keeper.prompt_of(place)
    stored = list(keeper.session(place).messages())
    if asked.form is Form.CHAT and any("role" not in message for message in stored):
        raise ServerError(
            501, "the session's items are of the Responses API, and are not translated",
            code="translation", may_retry=False,
        )  # fmt: skip
    known: list[Any] = [message for each in stored if (message := resent(each)) is not None]
    prompts = asked.prompts or prompt.get("prompts", [])
    for place_in, message in sorted(prompts, key=lambda each: each[0], reverse=True):
        # The request's own come behind the history it leaves out, as it has them.
        known.insert(min(place_in, len(known)) if not asked.prompts else 0, message)
    fields["messages"] = msgspec.Raw(_encode([*known, *asked.raws]))
    for name, value in prompt.items():
        if name != "prompts" and name not in fields:
            fields[name] = msgspec.Raw(_encode(value))
    return _encode(fields)


def resent(message: dict[str, Any]) -> dict[str, Any] | None:
    """A stored message as a model may see it again: calls that never became whole are left out, and
    so is the mark of what ended early."""
    if not message.get(PARTIAL):
        return message
    whole = {name: value for name, value in message.items() if name != PARTIAL}
    calls = whole.pop("tool_calls", None)
    if isinstance(calls, list):
        # An interrupted message has no results: a call of it would be one without an answer.
        whole.pop("function_call", None)
    return whole if whole.get("content") else None
