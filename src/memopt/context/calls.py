"""Calls of tools and their results, in the three forms in which agents write them.

Chat: `tool_calls` (or `function_call`) of a message, answered by messages of role tool (function).
Responses: items `…_call` with a `call_id`, answered by items `…_call_output`. Parts: `tool_use`
among the parts of a message, answered by `tool_result` among those of the next user message.

Owns: what a call is, and what an answer to it looks like. Not here: which answer is to which call
(groups.py).
"""

import enum
from typing import Any, Final, NamedTuple

from memopt.base.records import Message

INTERRUPTED: Final = "[interrupted: this call has no result]"
_OUTPUT: Final = "_output"
_CALL: Final = "_call"
_CALL_KINDS: Final = frozenset(
    {"function_call", "custom_tool_call", "local_shell_call", "computer_call", "shell_call",
     "apply_patch_call"}
)  # fmt: skip
"""Items that wait for an output. Calls that a provider answers itself have it in them."""


class Form(enum.Enum):
    CHAT = "chat"
    FUNCTION = "function"
    """Chat as it was: one call a message, which has no id."""
    ITEM = "item"
    PART = "part"


class Call(NamedTuple):
    form: Form
    at: int
    """Which of its message's calls or parts; 0 for an item."""
    id: str | None
    name: str
    kind: str
    """The type of an item."""


class Result(NamedTuple):
    form: Form
    at: int
    """Which of its message's parts; -1 for all of it."""
    id: str | None
    name: str | None


def calls_in(message: Message) -> list[Call]:
    kind = message.get("type")
    if type(kind) is str and kind in _CALL_KINDS:
        call_id = _text(message.get("call_id")) or _text(message.get("id"))
        return [Call(Form.ITEM, 0, call_id, _text(message.get("name")) or kind, kind)]
    calls: list[Call] = []
    listed = message.get("tool_calls")
    if type(listed) is list:
        for at, call in enumerate(listed):
            if type(call) is dict:
                inner = call.get("function")
                name = inner.get("name") if type(inner) is dict else call.get("name")
                calls.append(Call(Form.CHAT, at, _text(call.get("id")), _text(name) or "", ""))
    legacy = message.get("function_call")
    if not calls and type(legacy) is dict:
        calls.append(Call(Form.FUNCTION, 0, None, _text(legacy.get("name")) or "", ""))
    content = message.get("content")
    if type(content) is list and message.get("role") != "user":
        for at, part in enumerate(content):
            if type(part) is dict and part.get("type") == "tool_use":
                name = _text(part.get("name")) or ""
                calls.append(Call(Form.PART, at, _text(part.get("id")), name, ""))
    return calls


def results_in(message: Message) -> list[Result]:
    kind = message.get("type")
    if type(kind) is str and kind.endswith(_CALL + _OUTPUT):
        call_id = _text(message.get("call_id")) or _text(message.get("id"))
        return [Result(Form.ITEM, -1, call_id, _text(message.get("name")))]
    role = message.get("role")
    if role == "tool":
        call_id = _text(message.get("tool_call_id"))
        return [Result(Form.CHAT, -1, call_id, _text(message.get("name")))]
    if role == "function":
        return [Result(Form.FUNCTION, -1, None, _text(message.get("name")))]
    content = message.get("content")
    if type(content) is not list:
        return []
    return [
        Result(Form.PART, at, _text(part.get("tool_use_id")), None)
        for at, part in enumerate(content)
        if type(part) is dict and part.get("type") == "tool_result"
    ]


def is_thought(message: Message) -> bool:
    """A reasoning item, which a provider takes back only together with what follows it."""
    return message.get("type") == "reasoning" and "role" not in message


def with_call_id(message: Message, call: Call, call_id: str) -> Message:
    """A copy whose call has that id."""
    if call.form is Form.CHAT:
        listed = list(message["tool_calls"])
        listed[call.at] = {**listed[call.at], "id": call_id}
        return {**message, "tool_calls": listed}
    if call.form is Form.PART:
        return _with_part(message, call.at, "id", call_id)
    return {**message, "call_id": call_id} if call.form is Form.ITEM else message


def with_result_id(message: Message, result: Result, call_id: str) -> Message:
    """A copy whose result is that of the call with that id."""
    if result.form is Form.CHAT:
        return {**message, "tool_call_id": call_id}
    if result.form is Form.PART:
        return _with_part(message, result.at, "tool_use_id", call_id)
    return {**message, "call_id": call_id} if result.form is Form.ITEM else message


def without_parts(message: Message, gone: set[int]) -> Message:
    """A copy without some of its parts."""
    content = [part for at, part in enumerate(message["content"]) if at not in gone]
    return {**message, "content": content}


def interrupted(call: Call, call_id: str) -> Message:
    """What is sent instead of a result that is not there."""
    if call.form is Form.ITEM:
        return {"type": call.kind + _OUTPUT, "call_id": call_id, "output": INTERRUPTED}
    if call.form is Form.FUNCTION:
        return {"role": "function", "name": call.name, "content": INTERRUPTED}
    if call.form is Form.CHAT:
        return {"role": "tool", "tool_call_id": call_id, "content": INTERRUPTED}
    part = {"type": "tool_result", "tool_use_id": call_id, "content": INTERRUPTED, "is_error": True}
    return {"role": "user", "content": [part]}


def _with_part(message: Message, at: int, key: str, value: str) -> Message:
    content = list(message["content"])
    content[at] = {**content[at], key: value}
    return {**message, "content": content}


def _text(value: Any) -> str | None:
    return value if type(value) is str and value else None
