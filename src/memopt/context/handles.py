"""Handles: how a model names what was left out of its window, and the tool it opens them with.

A handle is the number of a message and, where several outputs are in one, which of them: "m17",
"m17.2". It costs no row, survives restarts and forks, and opens nothing of another session.
"""

import re
from typing import Any, Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.base.records import SEQ_MASK

OPEN_OUTPUT: Final = "open_output"
_HANDLE: Final = re.compile(r"m(\d{1,8})(?:\.(\d{1,4}))?", re.ASCII)
_DESCRIPTION: Final = (
    "Read a message or a tool output of this conversation that was shortened or left out. "
    "Handles such as m17 stand where something was left out."
)


class Handle(NamedTuple):
    seq: int
    part: int | None
    """Which of the outputs in its message; None where the message is one."""

    def __str__(self) -> str:
        return f"m{self.seq}" if self.part is None else f"m{self.seq}.{self.part}"


def handle_in(text: object) -> Handle:
    """Raises UsageError for what is no handle."""
    match = _HANDLE.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match[1]) > SEQ_MASK:
        raise UsageError(f"expected a handle such as m17, got {text!r}", field="handle")
    return Handle(int(match[1]), None if match[2] is None else int(match[2]))


def open_output_tool(form: str = "chat") -> dict[str, Any]:
    """The schema of the tool that opens handles, as Chat, Responses or Anthropic requests have
    tools. A call of it is answered by `session.open_output(**arguments).answer`."""
    parameters = {
        "type": "object",
        "properties": {
            "handle": {"type": "string", "description": "Such as m17 or m17.2"},
            "start": {"type": "integer", "description": "First character, 0 by default"},
            "stop": {"type": "integer", "description": "Character to stop before"},
        },
        "required": ["handle"],
    }
    named = {"name": OPEN_OUTPUT, "description": _DESCRIPTION}
    if form == "chat":
        return {"type": "function", "function": {**named, "parameters": parameters}}
    if form == "responses":
        return {"type": "function", **named, "parameters": parameters}
    if form == "anthropic":
        return {**named, "input_schema": parameters}
    raise UsageError(f"expected chat, responses or anthropic, got {form!r}", field="form")
