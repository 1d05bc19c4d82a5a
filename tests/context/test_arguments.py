"""What is kept of long arguments of calls."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.context.arguments import arguments_in, with_short_arguments

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30)
    | st.builds(lambda text, n: text * n, st.text(min_size=1, max_size=9), st.integers(1, 400)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)  # fmt: skip


def item(arguments: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": "c", "name": "n", "arguments": arguments}


def shape(value: Any) -> Any:
    """A JSON value, whatever its texts say."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return "" if isinstance(value, str) else value


TEXTS = st.text(min_size=1, max_size=9).map(lambda text: text * 400)


@given(
    st.dictionaries(st.text(max_size=9), VALUES) | TEXTS, st.integers(100, 2000), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_arguments_stay_json_of_the_same_shape(
    value: Any, chars: int, is_text: bool, blanks: int
) -> None:
    is_text = is_text or isinstance(value, str)
    message = item(" " * blanks + json.dumps(value) if is_text else value)
    short, cuts = with_short_arguments(message, 7, [0], chars)
    assert (short, cuts) == with_short_arguments(message, 7, [0], chars)
    given_, got = arguments_in(message)[0], arguments_in(short)[0]
    if not cuts:
        assert json.loads(got.text) == value
        return
    assert type(got.value) is type(given_.value)
    assert shape(json.loads(got.text)) == shape(value)
    assert len(got.text) <= chars < len(given_.text)
    assert "m7.0" in got.text
    assert (cuts[0].chars, cuts[0].kept) == (len(given_.text), len(got.text))
    got.text.encode()


def test_arguments_that_cannot_be_held_stay_as_they_are() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for odd in ("1e999", "-1e999", "9" * 5000, deep):
        message = item('{"a": %s, "text": "%s"}' % (odd, "words " * 900))  # noqa: UP031
        assert with_short_arguments(message, 7, [0], 1000) == (message, [])


@pytest.mark.parametrize(
    "text",
    ["*** Begin Patch\n" + "+ a line\n" * 900, "{not json " * 900, '"so" ' * 900,
     '{"a": NaN, "text": "' + "words " * 900 + '"}'],
)  # fmt: skip
def test_what_is_no_json_is_shortened_as_text(text: str) -> None:
    short, [cut] = with_short_arguments(item(text), 3, [0], 1000)
    assert len(short["arguments"]) == cut.kept <= 1000
    assert "m3.0" in short["arguments"]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, ["{}"]),
        ({"type": "custom_tool_call", "call_id": "c", "input": "a patch"}, ["a patch"]),
        ({"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
         ['{"command": ["ls"]}']),
        ({"role": "assistant", "tool_calls": [
            {"id": "a", "function": {"name": "f", "arguments": "1"}}, {"id": "b", "name": "g"},
            "odd", {"id": "c", "name": "h", "arguments": {"x": 2}}]}, ["1", "", '{"x": 2}']),
        ({"role": "assistant", "content": [
            {"type": "text", "text": "so"}, {"type": "tool_use", "id": "a", "input": {}}]}, ["{}"]),
        ({"role": "assistant", "content": "no call"}, []),
    ],
)  # fmt: skip
def test_arguments_are_found_in_every_form(message: dict[str, Any], arguments: list[str]) -> None:
    assert [one.text for one in arguments_in(message)] == arguments
    assert with_short_arguments(message, 1, range(9), 100) == (message, [])


def test_one_call_of_several_is_shortened_alone() -> None:
    long = json.dumps({"text": "words " * 900})
    calls = [{"id": n, "function": {"name": "f", "arguments": long}} for n in "ab"]
    message = {"role": "assistant", "tool_calls": calls}
    short, [cut] = with_short_arguments(message, 5, [1], 1000)
    assert str(cut.handle) == "m5.1"
    assert short["tool_calls"][0] == calls[0]
    assert json.loads(short["tool_calls"][1]["function"]["arguments"])["text"].endswith("words ")
    assert calls[1]["function"]["arguments"] == long
