"""Streams are stored as they were, and turned into whole responses and back where that is known."""

from typing import Any

import pytest

from memopt.answers.replay import joined, said, split

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m"}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return HEAD | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more


STREAM = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hello, "}),
    chunk({"content": "world"}),
    chunk({}, "stop"),
    HEAD | {"choices": [], "usage": {"total_tokens": 9}},
]
WHOLE = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"total_tokens": 9},
}


def test_a_stream_is_joined() -> None:
    assert joined(STREAM) == WHOLE


def test_a_whole_response_is_split_into_what_joins_to_it() -> None:
    chunks = split(WHOLE)
    assert chunks is not None
    assert all(one["object"] == "chat.completion.chunk" for one in chunks)
    assert joined(chunks) == WHOLE


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        ["text"],
        [{"type": "response.output_text.delta", "delta": "x"}],
        [chunk({"tool_calls": [{"id": "t"}]})],
        [HEAD | {"choices": [{"index": 1, "delta": {"content": "b"}}]}],
        [HEAD | {"choices": [{"delta": {}}, {"delta": {}}]}],
    ],
)
def test_what_cannot_be_joined_is_left_alone(chunks: list[Any]) -> None:
    assert joined(chunks) is None


@pytest.mark.parametrize(
    "response",
    [
        "text",
        {"object": "response", "output": []},
        WHOLE | {"choices": WHOLE["choices"] * 2},
        WHOLE | {"choices": [{"message": {"role": "assistant", "content": None}}]},
        WHOLE | {"choices": [{"message": {"content": "x", "tool_calls": [{"id": "t"}]}}]},
    ],
)
def test_what_cannot_be_split_is_left_alone(response: Any) -> None:
    assert split(response) is None


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (WHOLE, "Hello, world"),
        (STREAM, "Hello, world"),
        (WHOLE | {"id": "c2", "created": 8, "usage": {}}, "Hello, world"),
        ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]},
         "Hi"),
        ({"content": [{"type": "text", "text": "Hi"}], "id": "x"}, "Hi"),
        ([{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}], "Hi"),
        ([{"type": "response.output_text.delta", "delta": "H"},
          {"type": "response.output_text.delta", "delta": "i"},
          {"type": "response.output_text.done", "text": "Hi"}], "Hi"),
        ("plain", "plain"),
        ({"answer": 17}, {"answer": 17}),
        ([1, 2], [1, 2]),
    ],
)  # fmt: skip
def test_what_a_response_says(response: Any, text: Any) -> None:
    assert said(response) == text
