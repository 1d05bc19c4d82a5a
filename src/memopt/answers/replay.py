"""Responses: whole or as the chunks of a stream, and the text that is in them.

A stream is stored as its chunks, and replayed as they were. Where a whole response is wanted of a
stored stream, or a stream of a whole one, Chat Completions are turned into each other; of other
forms we do not know how.

Owns: what a response says, and those two ways. Invariant: `joined(split(response))` says what
`response` says. Not here: when it is sent.
"""

from collections.abc import Sequence
from typing import Any, Final

_CHUNK: Final = "chat.completion.chunk"
_WHOLE: Final = "chat.completion"
_DEPTH_MAX: Final = 8


def said(response: Any) -> Any:
    """What a response says, without what differs from one call to the next, such as its id: two
    that say the same are one answer. The text where its form is known, else all of it."""
    if isinstance(response, list):
        texts = [text for chunk in response if (text := _delta_of(chunk)) is not None]
        return "".join(texts) if texts else response
    if isinstance(response, dict):
        for name in ("choices", "output", "content", "message", "output_text", "text"):
            texts = _texts(response[name]) if name in response else []
            if texts:
                return "".join(texts)
    return response


def joined(chunks: Sequence[Any]) -> dict[str, Any] | None:
    """The whole of a stream of Chat Completions; None where it is none, or has more than one
    choice or anything but text."""
    if not chunks or any(not _is(chunk, _CHUNK) for chunk in chunks):
        return None
    texts: list[str] = []
    finish, role, usage = None, "assistant", None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        choices = chunk.get("choices")
        if not isinstance(choices, list) or len(choices) > 1:
            return None
        for choice in choices:
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict) or choice.get("index", 0) != 0:
                return None
            if any(delta.get(name) for name in delta.keys() - {"role", "content"}):
                return None
            role = delta.get("role") or role
            texts.append(delta.get("content") or "")
            finish = choice.get("finish_reason") or finish
    message = {"role": role, "content": "".join(texts)}
    whole = {name: value for name, value in chunks[0].items() if name not in ("choices", "usage")}
    whole |= {
        "object": _WHOLE,
        "choices": [{"index": 0, "message": message, "finish_reason": finish or "stop"}],
    }
    return whole | ({"usage": usage} if usage else {})


def split(response: Any) -> list[dict[str, Any]] | None:
    """A Chat Completion as a stream; None where it is none, or has more than one choice or anything
    but text."""
    if not _is(response, _WHOLE):
        return None
    choices = response.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    message = choices[0].get("message")
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        return None
    if any(message.get(name) for name in message.keys() - {"role", "content", "annotations"}):
        return None
    head = {name: value for name, value in response.items() if name not in ("choices", "usage")}
    head |= {"object": _CHUNK}
    delta = {"role": message.get("role", "assistant"), "content": message["content"]}
    last: dict[str, Any] = {"index": 0, "delta": {}}
    last["finish_reason"] = choices[0].get("finish_reason") or "stop"
    ending = {"usage": response["usage"]} if response.get("usage") else {}
    return [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        head | {"choices": [last]} | ending,
    ]


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, dict) and value.get("object") == kind


def _delta_of(chunk: Any) -> str | None:
    """The text that a chunk of a stream adds, in the forms that are known."""
    if not isinstance(chunk, dict):
        return None
    delta = chunk.get("delta")
    if isinstance(delta, str):
        # Of Responses; `…done` events repeat what was said.
        return delta
    if isinstance(delta, dict):
        return delta["text"] if isinstance(delta.get("text"), str) else None
    texts = _texts(chunk.get("choices"))
    return "".join(texts) if texts else None


def _texts(value: Any, depth: int = _DEPTH_MAX) -> list[str]:
    """The texts in choices, outputs and parts."""
    if isinstance(value, str):
        return [value]
    if not depth:
        return []
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, depth - 1)]
    if isinstance(value, dict):
        for name in ("message", "delta", "content", "text"):
            found = _texts(value.get(name), depth - 1)
            if found:
                return found
    return []
