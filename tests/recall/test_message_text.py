"""What a message says: every shape that agents write, and what says nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.recall.message_text import TEXT_CHARS_MAX, Said, said_in

HEAD = 20


def said(message: dict[str, Any], actor: str | None = None) -> Said | None:
    return said_in(message, actor, tool_chars_max=HEAD)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": " hello "}, Said("hello", "user", None)),
        ({"role": "user", "content": "hello", "name": "Ann"}, Said("hello", "user", "Ann")),
        ({"content": "hello"}, Said("hello", None, None)),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "input_text", "text": "two"},
                    "three",
                ],
            },
            Said("one\ntwo\nthree", "user", None),
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            None,
        ),
        (
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a"}],
            },
            Said("a", "assistant", None),
        ),
        (
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "because"}]},
            Said("because", None, None),
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            Said("no", "assistant", None),
        ),
        (
            {"role": "tool", "name": "search", "content": "x" * 100},
            Said("x" * HEAD, "tool", None),
        ),
        (
            {"type": "function_call_output", "call_id": "1", "output": "y" * 100},
            Said("y" * HEAD, "tool", None),
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "content": [{"type": "text", "text": "z" * 100}]},
                    {"type": "text", "text": "and I said this, which is longer than the head"},
                ],
            },
            Said("z" * HEAD + "\nand I said this, which is longer than the head", "user", None),
        ),
        ({"role": "user", "content": "[redacted]", "redacted": True}, None),
        ({"role": "user", "content": "", "text": "else"}, Said("else", "user", None)),
        ({"role": "tool", "content": {"result": [1, "deep"]}}, None),
        ({"role": 3, "content": 4, "type": [], "output": {}, "summary": [[[[[[["x"]]]]]]]}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_what_a_message_says(message: dict[str, Any], expected: Said | None) -> None:
    assert said(message) == expected


def test_who_appended_it_said_it_where_it_bears_no_name() -> None:
    assert said({"role": "user", "content": "a"}, "bob") == Said("a", "user", "bob")
    assert said({"role": "user", "content": "a", "name": "ann"}, "bob") == Said("a", "user", "ann")
    assert said({"role": "tool", "content": "a"}, "bob") == Said("a", "tool", None)


def test_a_text_is_cut_however_many_parts_it_has() -> None:
    parts = [{"type": "text", "text": "a" * 20_000} for _ in range(50)]
    found = said({"role": "user", "content": parts})
    assert found is not None
    assert len(found.text) - found.text.count("\n") == TEXT_CHARS_MAX
    found = said({"role": "user", "content": "b" * 10_000_000})
    assert found is not None
    assert len(found.text) == TEXT_CHARS_MAX


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["type", "text", "content", "output", "refusal", "summary", "k"]), inner
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["role", "content", "type", "name", "output", "k"]), JSON))
def test_no_message_makes_it_stumble(message: dict[str, Any]) -> None:
    found = said(message)
    assert found is None or (found.text.strip() == found.text != "")
