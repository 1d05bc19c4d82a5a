"""What a message says: the text that can be found again.

Of a Chat message its content, of a Responses or Agents item its content, output or summary: a
string, or the texts among its parts. Outputs of tools by their head. Media, arguments of calls and
what was redacted say nothing. Not here: terms of a text (text/analysis.py).
"""

from typing import Any, Final, NamedTuple

from memopt.base.records import Message

TEXT_CHARS_MAX: Final = 32_768
"""Of one message; what lies behind is not found."""
_PARTS_MAX: Final = 1024
_TOOL_ROLES: Final = frozenset({"tool", "function"})
_TOOL_PARTS: Final = frozenset({"tool_result", "function_call_output"})
_FIELDS: Final = ("content", "output", "summary", "text")
"""The first of these that holds a text is what a message says."""
_DEPTH_MAX: Final = 5
_NAME_CHARS_MAX: Final = 128


class Said(NamedTuple):
    text: str
    role: str | None
    """As it stands in the message; "tool" for an item that is a tool's output."""
    speaker: str | None
    """Who said it, where messages bear names."""


def said_in(message: Message, actor: str | None, *, tool_chars_max: int) -> Said | None:
    """None where a message has no text. `actor` is who appended it, if that was said."""
    if message.get("redacted") is True and message.get("content") == "[redacted]":
        return None
    role = message.get("role")
    role = role if type(role) is str else None
    kind = message.get("type")
    is_tool = role in _TOOL_ROLES or (type(kind) is str and kind in _TOOL_PARTS)
    for field in _FIELDS:
        found = _Texts(tool_chars_max)
        found.add(message.get(field), is_tool=is_tool)
        text = found.text
        if text:
            if is_tool:
                return Said(text, role or "tool", None)
            name = message.get("name")
            name = name[:_NAME_CHARS_MAX] if type(name) is str else None
            return Said(text, role, name or actor)
    return None


class _Texts:
    """The texts among the parts of one content, up to a limit."""

    def __init__(self, tool_chars_max: int) -> None:
        self._tool_chars_max = tool_chars_max
        self._parts: list[str] = []
        self._left = TEXT_CHARS_MAX

    @property
    def text(self) -> str:
        return "\n".join(self._parts)

    def add(self, value: Any, *, is_tool: bool, depth: int = _DEPTH_MAX) -> None:
        if type(value) is str:
            self._take(value, is_tool)
        elif type(value) is list and depth:
            for part in value[:_PARTS_MAX]:
                if self._left <= 0:
                    break
                self.add(part, is_tool=is_tool, depth=depth - 1)
        elif type(value) is dict and depth and depth < _DEPTH_MAX:
            kind = value.get("type")
            is_output = type(kind) is str and kind in _TOOL_PARTS
            for field in ("text", "refusal", "content") if is_output else ("text", "refusal"):
                self.add(value.get(field), is_tool=is_tool or is_output, depth=depth - 1)

    def _take(self, text: str, is_tool: bool) -> None:
        limit = min(self._left, self._tool_chars_max) if is_tool else self._left
        # Cut before it is stripped: a text may be megabytes of it.
        taken = text[:limit].strip()
        if taken:
            self._parts.append(taken)
            self._left -= len(taken)
