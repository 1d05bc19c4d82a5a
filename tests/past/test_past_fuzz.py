"""Histories in which anything may stand anywhere: nothing of it is an error of ours."""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import test_past_chatgpt
import test_past_claude_code
import test_past_codex
import test_past_markdown
import test_past_open_webui
from hypothesis import given, settings
from hypothesis import strategies as st

from histories import SESSION, bring, held, lines_of, opened, sessions_of, steps_of
from memopt.past import Brought, Format, detected, sources

ODD = st.sampled_from(
    [
        None, True, 0, -1, 2**70, 1.5, "", "x", "\ud83d", "\u0000", [], {}, [[]], [None], {"": {}},
        ["x", 1], [{"type": "text"}], [{"type": "text", "text": 7}], {"type": "text", "text": "y"},
        [{"type": "tool_result", "tool_use_id": []}], [{"type": "tool_use", "id": "t1"}],
        "t1", "u1", "n1", "2026-02-24T10:10:10Z", "9999-12-31T23:59:59-23:00", 1e30, -1e300,
    ]
)  # fmt: skip
WHOLE: dict[Format, list[Any]] = {
    Format.CLAUDE_CODE: test_past_claude_code.TALK,
    Format.CODEX: test_past_codex.TALK,
    Format.CHATGPT: [test_past_chatgpt.TALK],
    Format.OPEN_WEBUI: [test_past_open_webui.STANDARD],
    Format.MESSAGES: [{"role": "user", "content": "x", "session": "s", "at": "2020-01-01"}] * 3,
}
NAMES = {
    Format.OPEN_WEBUI: "chat-export.json",
    Format.CLAUDE_CODE: f"{SESSION}.jsonl", Format.CODEX: "rollout.jsonl",
    Format.CHATGPT: "conversations.json", Format.MESSAGES: "messages.jsonl",
}  # fmt: skip


@st.composite
def spoilt(draw: Any) -> tuple[Format, bytes]:
    """A history with values exchanged, doubled, moved or taken away, and bytes cut out."""
    format = draw(st.sampled_from(list(WHOLE)))
    value = copy.deepcopy(WHOLE[format])
    for _ in range(draw(st.integers(0, 6))):
        places = list(_places(value))
        holder, key = draw(st.sampled_from(places))
        deed = draw(st.integers(0, 5))
        if deed == 0:
            del holder[key]
            if not value:
                break
        elif deed == 1:
            other, its = draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(other[its])
        elif deed == 2 and isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(draw(ODD))
    text = json.dumps(value) if NAMES[format].endswith(".json") else lines_of(value)
    raw = text.encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 40)) :]
    return format, raw


def _places(value: Any) -> Any:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


@settings(max_examples=300)
@given(spoilt())
def test_whatever_stands_where_is_read_or_counted(history: tuple[Format, bytes]) -> None:
    format, raw = history
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, NAMES[format])
        file.write_bytes(raw)
        for source in sources(file, Brought()):
            detected(source)
        sessions_of(steps_of(file, format))


@settings(max_examples=30)
@given(spoilt(), spoilt())
def test_whatever_was_read_is_there_and_comes_in_once(
    history: tuple[Format, bytes], other: tuple[Format, bytes]
) -> None:
    format, raw = history
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder, "store")) as memory:
        file = Path(folder, NAMES[format])
        file.write_bytes(raw)
        first = bring(memory, file, format)
        there = held(memory)
        again = bring(memory, file, format)
        assert (again.messages, again.messages_there) == (0, first.messages + first.messages_there)
        assert held(memory) == there
        if other[0] is format:
            # Another one under the same name adds, or is kept apart.
            file.write_bytes(other[1])
            bring(memory, file, format)


@given(st.lists(st.sampled_from([
    *test_past_markdown.HEADINGS.splitlines(), *test_past_markdown.BOLD.splitlines(),
    *test_past_markdown.AIDER.splitlines(), *test_past_markdown.SPECSTORY.splitlines(),
])), st.binary(max_size=20))  # fmt: skip
def test_any_page_is_read(lines: list[str], tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.md")
        file.write_bytes("\n".join(lines).encode() + tail)
        for source in sources(file, Brought()):
            detected(source)
        steps_of(file, Format.MARKDOWN)
