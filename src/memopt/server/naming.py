"""What a request names that the upstream has, where several scopes share one key for it.

A response, a conversation and an item may only be named in the scope that has them. The upstream
would find them all, so what it gets is written anew of what was checked: names that come twice may
be read in two ways.

Owns: that. Called on the store's threads. Not here: where responses are (noted.py).
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from memopt import Memory
from memopt.base.errors import UsageError
from memopt.server.asked import Asked
from memopt.server.noted import Notes, not_found

_NAMING: Final = ("input", "conversation", "previous_response_id")
_WHOLE: Final = frozenset(
    {"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
)
"""Types of items of which nothing is looked up, whatever id they have."""
_REFERENCE: Final = "item_reference"
_ITEMS_MAX: Final = 16_384
"""Of a scope, that are looked through for those that a request refers to: the newest ones."""

_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def one_meaning(body: bytes) -> bytes:
    """The body with each name once. Raises UsageError."""
    try:
        fields: dict[str, Any] = dict(_fields_of(body))
        for name in fields:
            if name not in _NAMING and name.lower() in _NAMING:
                raise UsageError(f"expected {name.lower()}", field=name)
        fields |= {name: _decode(fields[name]) for name in _NAMING if name in fields}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"no JSON: {error}", field="body") from None
    conversation = fields.get("conversation")
    if isinstance(conversation, dict):
        fields["conversation"] = {"id": conversation["id"]} if conversation.get("id") else None
    return _encode(fields)


def check_named(memory: Memory, notes: Notes, scope: str, asked: Asked) -> None:
    """Raises ServerError for what may be another scope's."""
    if asked.previous is not None and notes.find(scope, asked.previous) is None:
        raise not_found("Response", asked.previous, param="previous_response_id")
    said = asked.conversation
    if said and (not isinstance(said, str) or notes.find(scope, said) is None):
        raise not_found("Conversation", str(said))
    raws = [*asked.raws, *(raw for _, raw in asked.prompts)]
    left = {str(item.get("id")) for raw in raws if _is_looked_up(item := _decode(raw))}
    for known in _ids(memory, notes, scope, asked) if left else ():
        left.discard(known)
        if not left:
            return
    if left:
        raise not_found("Item", min(left))


def _is_looked_up(item: dict[str, Any]) -> bool:
    """Whether the upstream may take it for one that it has."""
    kind = item.get("type")
    if kind == _REFERENCE or item.get("id") is None:
        return kind == _REFERENCE
    if kind in (None, "message"):
        return item.get("role") is None or not item.get("content")
    # A model's thoughts are whole where they are there, in whatever form.
    is_whole = isinstance(kind, str) and kind in _WHOLE
    return not is_whole and not item.get("encrypted_content")


def _ids(memory: Memory, notes: Notes, scope: str, asked: Asked) -> Iterator[str]:
    """Of the items that the scope has, those of the named session first."""
    left = _ITEMS_MAX
    named = [asked.session] if asked.session is not None else []
    for id in dict.fromkeys([*named, *notes.sessions(scope)]):
        session = memory.session(id, scope=scope)
        length = len(session)
        for message in session.messages(max(0, length - left), length) if session.head else ():
            found = message.get("id")
            if isinstance(found, str):
                yield found
        left -= length
        if left <= 0:
            return
