"""Bodies that are not sent as they came: with the history that a client left out.

What is not a message stays the bytes it was, in its order. Not here: cutting a history down to a
window (window.py).
"""

from typing import Any, Final

import msgspec

from memopt.context.calls import results_in
from memopt.context.groups import Grouper, Held
from memopt.server.asked import Asked, Form
from memopt.server.errors import ServerError
from memopt.server.keeping import PARTIAL, Keeper, Place

_REFERENCE: Final = "item_reference"
_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def with_history(keeper: Keeper, asked: Asked, place: Place) -> bytes:
    """The body with the session's messages before its own, and with its prompts and tools where the
    request has none. Raises ServerError for a session of the other form."""
    prompt = keeper.prompt_of(place)
    stored = list(keeper.session(place).messages())
    if any(_form_of(message) not in (None, asked.form) for message in stored):
        raise ServerError(
            501, "the session is of the other API, and is not translated", code="translation",
            may_retry=False,
        )  # fmt: skip
    known: list[Any] = [message for each in stored if (message := resent(each)) is not None]
    known, raws = _grouped(known, asked.raws)
    if asked.prompts:
        known[:0] = [raw for _, raw in asked.prompts]
    else:
        for at, message in reversed(prompt.get("prompts", [])):
            before = min(at, len(known))
            while before < len(known) and results_in(known[before]):
                before += 1
            known.insert(before, message)
    more = {name: value for name, value in prompt.items() if name != "prompts"}
    name = "messages" if asked.form is Form.CHAT else "input"
    return encode_body(asked.body, name, [*known, *raws], more)


def _grouped(known: list[Any], raws: list[msgspec.Raw]) -> tuple[list[Any], list[Any]]:
    """What is known and what is new, with one result behind each call and none without a call. What
    is new and needs no change stays the bytes it was."""
    new = [_decode(raw) for raw in raws]
    if any(message.get("type") == _REFERENCE for message in (*known, *new)):
        # What it stands for is the upstream's to know, and may be a call.
        return known, list(raws)
    grouper = Grouper()
    for at, message in enumerate([*known, *new]):
        grouper.add(Held(at, message, message, 0))
    bytes_of = {id(message): raw for message, raw in zip(new, raws, strict=True)}
    sent = [message for group in grouper.groups for message in group.messages()]
    first = next((at for at, one in enumerate(sent) if id(one) in bytes_of), len(sent))
    return sent[:first], [bytes_of.get(id(message), message) for message in sent[first:]]


def encode_body(
    body: bytes, name: str, messages: list[Any], more: dict[str, Any] | None = None
) -> bytes:
    """The body with other messages in its field `name`, and with `more` where it has none."""
    fields = _fields_of(body)
    fields[name] = msgspec.Raw(_encode(messages))
    for other, value in (more or {}).items():
        if other not in fields:
            fields[other] = msgspec.Raw(_encode(value))
    return _encode(fields)


def _form_of(message: dict[str, Any]) -> Form | None:
    """The API that a message can only be of; None where both say it so."""
    if message.get("role") is None:
        return Form.RESPONSES
    if message.get("role") in ("tool", "function") or message.get("tool_calls"):
        return Form.CHAT
    return None


def resent(message: dict[str, Any]) -> dict[str, Any] | None:
    """A stored message as a model may see it again: calls that never became whole are left out, and
    so is the mark of what ended early."""
    if not message.get(PARTIAL):
        return message
    whole = {name: value for name, value in message.items() if name != PARTIAL}
    if message.get("role") is None:
        # An item is kept once it came to its end: only text is ever cut.
        return whole
    calls = whole.pop("tool_calls", None)
    if isinstance(calls, list):
        # An interrupted message has no results: a call of it would be one without an answer.
        whole.pop("function_call", None)
    return whole if whole.get("content") else None
