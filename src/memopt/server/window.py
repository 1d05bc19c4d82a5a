"""Requests that are cut down to a window, for those who asked for it.

What is new in the request is committed first, for a context is made of what a session holds; the
context takes the place of the messages, behind the request's own system prompts. A call that fails
takes back what it committed. Recall looks at a whole scope, so it is only for sessions that a
client named: one that was found by its messages may be another user's.

Owns: that. Invariant: what is not a message stays the bytes it was. Not here: what a context is
(context/).
"""

from typing import Any, Final

import msgspec

from memopt.server.asked import Asked, Form
from memopt.server.exchange import Options
from memopt.server.keeping import PARTIAL, Begun, Keeper, Place
from memopt.server.rewriting import encode_body, resent

_BYTES_A_TOKEN: Final = 3
"""Of a prompt, at least, so that what is reserved for it is enough."""
_RESERVED_STEP: Final = 256
"""A clock in a prompt must not make another window of it."""

_decode: Final = msgspec.json.Decoder().decode


class Windowed(msgspec.Struct):
    """What is being sent instead of a request's own messages; filled as it is made, so that what
    was begun can be taken back whatever happens."""

    begun: Begun | None = None
    body: bytes = b""
    tokens: int = 0
    uses: tuple[str, ...] = ()
    """Ids of what was recalled."""


def begin_window(keeper: Keeper, asked: Asked, place: Place, windowed: Windowed) -> None:
    """Commit what is new. On one of the store's threads. Raises what appending raises."""
    windowed.begun = keeper.begin(asked, place)


def make_window(
    keeper: Keeper, asked: Asked, place: Place, options: Options, windowed: Windowed
) -> None:
    """Make the body to send, behind `begin_window`. Raises what contexts raise."""
    assert options.window_tokens is not None
    prompt = keeper.prompt_of(place) if not asked.prompts else {}
    prompts: list[Any] = [raw for _, raw in asked.prompts]
    prompts += [message for _, message in prompt.get("prompts", ())]
    tools = asked.attributes.get("tools")
    context = keeper.session(place).context(
        max_tokens=options.window_tokens,
        model=asked.model,
        tools=_decode(tools) if tools is not None else (),
        reserve_tokens=_reserved(prompts),
        query=None if options.recall and asked.session is not None else "",
    )
    windowed.tokens = context.report.tokens
    windowed.uses = context.report.recalled
    name = "messages" if asked.form is Form.CHAT else "input"
    windowed.body = encode_body(asked.body, name, [*prompts, *_whole(context.messages)])


def _reserved(prompts: list[Any]) -> int:
    size = sum(len(msgspec.json.encode(prompt)) for prompt in prompts) // _BYTES_A_TOKEN
    return -(-size // _RESERVED_STEP) * _RESERVED_STEP


def _whole(messages: Any) -> list[dict[str, Any]]:
    """Messages without calls that never became whole, and without what answers them: that is right
    behind them, and the same id may be another call's elsewhere."""
    broken: set[Any] = set()
    kept: list[dict[str, Any]] = []
    for message in messages:
        if message.get("role") == "tool":
            if message.get("tool_call_id") in broken:
                continue
        elif message.get(PARTIAL):
            broken = {call.get("id") for call in message.get("tool_calls") or ()}
        else:
            broken = set()
        whole = resent(message)
        if whole is not None:
            kept.append(whole)
    return kept
