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

from memopt.context.handles import open_output_tool
from memopt.server.asked import Asked, Form, History
from memopt.server.exchange import Options
from memopt.server.keeping import PARTIAL, Begun, Keeper, Place
from memopt.server.opening import OPENED_SHARE, can_open, with_tool
from memopt.server.rewriting import encode_body, resent
from memopt.sessions.session import context_at

_decode: Final = msgspec.json.Decoder().decode


class Windowed(msgspec.Struct):
    """What is being sent instead of a request's own messages; filled as it is made, so that what
    was begun can be taken back whatever happens."""

    begun: Begun | None = None
    body: bytes = b""
    opens: bool = False
    """Whether the model may open what was left out."""
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
    # A history that says no prompt has none; a delta leaves out what is known.
    stored = keeper.prompt_of(place) if asked.history is History.DELTA else {}
    more = {name: value for name, value in stored.items() if name != "prompts"}
    prompts: list[Any] = [raw for _, raw in asked.prompts]
    if not prompts:
        prompts = [message for _, message in stored.get("prompts", ())]
    said = more | {name: _decode(raw) for name, raw in asked.attributes.items()}
    tools = said.get("tools")
    windowed.opens = options.tools and can_open(asked, tools)
    assert windowed.begun is not None
    # Of what this request has made of it: others may have gone on meanwhile.
    context = context_at(
        keeper.session(place),
        windowed.begun.head or None,
        token_ids=False,
        max_tokens=options.window_tokens,
        model=asked.model,
        # Prompts are counted as tools are: what changes in them makes no other window.
        tools=[
            *(tools if isinstance(tools, list) else ()),
            *([open_output_tool()] if windowed.opens else ()),
            *({name: value} for name, value in said.items() if name != "tools"),
            *(_decode(msgspec.json.encode(prompt)) for prompt in prompts),
        ],
        reserve_tokens=int(options.window_tokens * OPENED_SHARE) if windowed.opens else 0,
        query=None if options.recall and asked.session is not None else "",
    )
    windowed.tokens = context.report.tokens
    windowed.uses = context.report.recalled
    name = "messages" if asked.form is Form.CHAT else "input"
    windowed.body = encode_body(asked.body, name, [*prompts, *_whole(context.messages)], more)
    if windowed.opens:
        windowed.body = with_tool(windowed.body)


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
