"""Requests that cannot have different answers are one; all others are not."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.answers.request import Asked, read_request
from memopt.base.answer_records import History, MissReason
from memopt.base.errors import UsageError

BASE: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "What is a page?"},
    ],
}


def read(request: Any) -> Asked:
    return read_request(request, bytes_max=1 << 20, depth_max=32)


def key(request: Any) -> tuple[bytes, bytes]:
    asked = read(request)
    return asked.context, asked.key


@pytest.mark.parametrize(
    "change",
    [
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "u-17", "safety_identifier": "x", "metadata": {"run": "9"}},
        {"store": True, "service_tier": "flex", "timeout": 3, "prompt_cache_key": "k"},
        {"n": 1, "logprobs": False, "temperature": None, "stop": None},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
    ],
)
def test_what_cannot_change_an_answer_changes_no_key(change: dict[str, Any]) -> None:
    assert key(BASE | change) == key(BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m2"},
        {"temperature": 0},
        {"seed": 1},
        {"max_tokens": 5},
        {"response_format": {"type": "json_object"}},
        {"stop": ["x"]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"something_new": 1},
    ],
)
def test_what_can_change_an_answer_changes_the_context(change: dict[str, Any]) -> None:
    one, other = read(BASE), read(BASE | change)
    assert one.context != other.context
    assert one.key == other.key


def test_ways_to_write_the_same_are_one() -> None:
    parts = copy.deepcopy(BASE)
    parts["messages"][1]["content"] = [
        {"type": "text", "text": "What is a page?", "cache_control": {"type": "ephemeral"}}
    ]
    assert key(parts) == key(BASE)
    whole = key(BASE | {"temperature": 0, "top_p": 1})
    assert whole == key(BASE | {"temperature": 0.0, "top_p": 1.0})
    assert key(dict(reversed(BASE.items()))) == key(BASE)
    assert key("Hello?") == key({"messages": [{"role": "user", "content": " Hello? "}]})


def test_forms_of_a_request_are_apart() -> None:
    """What answers one is no response to another."""
    said = [{"role": "user", "content": "Why?"}]
    keys = [key({"messages": said}), key({"input": said}), key({"prompt": "Why?"})]
    assert len(set(keys)) == 3
    assert key("Why?") == keys[0]


def test_the_question_is_the_last_message_of_a_user() -> None:
    asked = read(BASE)
    assert (asked.question, asked.history, asked.model) == ("What is a page?", History.SYSTEM, "m")
    other = copy.deepcopy(BASE)
    other["messages"][1]["content"] = "What is a frame?"
    assert read(other).context == asked.context
    assert read(other).key != asked.key
    other["messages"][0]["content"] = "be verbose"
    assert read(other).context != asked.context


@pytest.mark.parametrize(
    ("request_", "question", "history"),
    [
        ("Why?", "Why?", History.NONE),
        ({"input": "Why?"}, "Why?", History.NONE),
        ({"prompt": "Why?", "model": "m"}, "Why?", History.NONE),
        ({"input": "Why?", "instructions": "be kind"}, "Why?", History.SYSTEM),
        ({"system": "be kind", "messages": [{"role": "user", "content": "Why?"}]}, "Why?",
         History.SYSTEM),
        ({"input": [{"type": "message", "role": "user",
                     "content": [{"type": "input_text", "text": "Why?"}]}]}, "Why?", History.NONE),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"},
                       {"role": "user", "content": "Why?"}]}, "Why?", History.TURNS),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "H"}]},
         None, History.TURNS),
        ({"messages": []}, None, History.TURNS),
        ({"contents": ["of another kind"]}, None, History.TURNS),
        *(
            ({"messages": [{"role": "user", "content": "Why?"}], name: value}, "Why?", history)
            for name, value, history in (
                ("documents", ["a secret"], History.TURNS), ("context", "a", History.TURNS),
                ("suffix", "a", History.TURNS), ("response_format", {"a": "b"}, History.TURNS),
                ("previous_response_id", "r1", History.TURNS), ("model", {"a": 1}, History.TURNS),
                ("seed", ["a secret"], History.TURNS), ("stop", ["a"], History.SYSTEM),
                ("max_tokens", 5, History.NONE), ("user", "u", History.NONE),
            )
        ),
        ({"messages": [{"role": "user", "content": "Why?", "name": "Ann"}]}, "Why?", History.TURNS),
        ({"messages": [{"role": "system", "content": "a", "name": "b"},
                       {"role": "user", "content": "Why?"}]}, "Why?", History.TURNS),
        ({"messages": [{"role": "user", "content": "  "}]}, None, History.TURNS),
    ],
)  # fmt: skip
def test_what_was_said_before_the_question(
    request_: Any, question: str | None, history: History
) -> None:
    asked = read(request_)
    assert (asked.question, asked.history) == (question, history)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tools": [{"name": "f"}]}, MissReason.TOOLS),
        ({"functions": [{"name": "f"}]}, MissReason.TOOLS),
        ({"n": 2}, MissReason.MANY),
        ({"best_of": 3}, MissReason.MANY),
        ({"n": "2"}, MissReason.MANY),
        ({"temperature": "1.0"}, MissReason.TEMPERATURE),
        ({"temperature": [0]}, MissReason.TEMPERATURE),
        ({"logprobs": True}, MissReason.LOG_PROBABILITIES),
        ({"top_logprobs": 3}, MissReason.LOG_PROBABILITIES),
        ({"temperature": 0.7}, MissReason.TEMPERATURE),
        ({"modalities": ["text", "audio"]}, MissReason.IMAGES),
        ({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": "data:"}}]}]}, MissReason.IMAGES),
        ({"messages": [{"role": "user", "content": [
            {"type": "input_file", "file_id": "f"}]}]}, MissReason.IMAGES),
    ],
)  # fmt: skip
def test_what_is_not_cached_says_why(change: dict[str, Any], reason: MissReason) -> None:
    assert read(BASE | change).refusals == (reason,)


def test_a_stream_is_wanted_where_it_is_asked_for() -> None:
    assert read(BASE | {"stream": True}).wants_stream
    assert not read(BASE | {"stream": False}).wants_stream
    assert read(BASE).refusals == ()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (17, "request"),
        ([], "request"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "request.messages[0].role"),
        ({"messages": [{"content": {1: 2}}]}, "request.messages[0].content"),
        ({"temperature": float("nan")}, "request.temperature"),
        ({"text": "x" * (1 << 20)}, "request"),
    ],
)
def test_bad_requests_are_refused_by_field(request_: Any, field: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(request_)
    assert raised.value.field == field


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "input", "model", "n", "temperature", "x"]), json_values
    )
)  # fmt: skip
def test_any_json_object_has_a_key_and_the_same_one_again(request_: dict[str, Any]) -> None:
    before = copy.deepcopy(request_)
    assert key(request_) == key(copy.deepcopy(request_))
    assert request_ == before
