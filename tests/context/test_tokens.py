"""Who counts, what a message costs, and that it is counted once."""

import base64
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memopt
from memopt.base.budget import Budget
from memopt.context.payload import is_signed, media_tokens, payload_of
from memopt.context.tokens import Counts, Tokenizers


class Words:
    """A tokenizer that remembers what it was asked for."""

    name = "words"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, text: str) -> Sequence[int]:
        self.asked.append(text)
        return [len(word) for word in text.split()]


def test_over_a_conversation_each_message_is_encoded_once(tmp_path: Path) -> None:
    words = Words()
    with memopt.open(tmp_path / "s", budget="16MiB", tokenizer=words, durability="os") as memory:
        session = memory.session("s")
        for n in range(30):
            session.append({"role": "user", "content": f"question {n} of many"})
            session.append({"role": "assistant", "content": f"answer {n} to that"})
            report = session.context(max_tokens=5000, query=" ").report
            assert (report.counter, report.is_estimate) == ("words", False)
        assert len(words.asked) == 60
        ids = session.context(max_tokens=5000, query=" ", token_ids=True).token_ids
        assert ids is not None
        assert ids[0] == (8, 1, 2, 4)
        before = len(words.asked)
        session.append({"role": "user", "content": "one more"})
        session.context(max_tokens=5000, query=" ", token_ids=True)
        assert len(words.asked) == before + 2


def test_a_tokenizer_is_chosen_by_the_beginning_of_a_models_name() -> None:
    one, other = Words(), Words()
    tokenizers = Tokenizers({"gpt": one, "gpt-9": other, "claude": "estimate"})
    tokenizers.of("gpt-9-mini").tokenizer.encode("a")
    tokenizers.of("gpt-4").tokenizer.encode("b")
    assert (one.asked, other.asked) == (["b"], ["a"])
    assert tokenizers.of("claude-x").is_estimate
    assert tokenizers.of("unknown").is_estimate
    assert tokenizers.of(None).is_estimate


@pytest.mark.parametrize("given", [7, "/no/such/file.json", {"gpt": 7}, {1: "estimate"}])
def test_what_is_no_tokenizer_is_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(memopt.UsageError) as refused:
        memopt.open(tmp_path / "s", tokenizer=given)
    assert refused.value.field == "tokenizer"


def test_counts_are_charged_and_go_when_room_is_short() -> None:
    budget = Budget(1 << 20)
    counts, choice = Counts(budget), Tokenizers(None).of(None)
    for n in range(500):
        counts.of((1, n), {"role": "user", "content": f"text {n}"}, choice)
        counts.check()
    assert 0 < budget.held_bytes("contexts") <= budget.limit_bytes // 32
    counts.make_free(budget.limit_bytes)
    counts.check()
    assert not budget.held_bytes("contexts")


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0
    )
    return "data:image/png;base64," + base64.b64encode(head + zlib.compress(b"0" * 99)).decode()


@pytest.mark.parametrize(
    ("provider", "width", "height", "tokens"),
    [
        ("openai", 1024, 1024, 85 + 4 * 170),
        ("openai", 2048, 4096, 85 + 6 * 170),
        ("anthropic", 1000, 750, 1000),
        ("google", 300, 200, 258),
        ("google", 1536, 768, 516),
    ],
)
def test_an_image_is_counted_by_its_providers_rule(
    provider: str, width: int, height: int, tokens: int
) -> None:
    part = {"type": "image_url", "image_url": {"url": png(width, height)}}
    assert media_tokens(part, provider) == tokens
    message = {"role": "user", "content": [part]}
    assert payload_of(message, provider).extra == tokens + 4


def test_tools_that_are_no_json_are_named(tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    deep["a"] = deep
    odd: list[Any] = ["\ud800", {"\udfff": 1}, {1j}, ["x", object()], deep]
    with memopt.open(tmp_path / "s", budget="16MiB", durability="os") as memory:
        session = memory.session("a")
        session.append({"role": "user", "content": "hello"})
        for value in odd:
            with pytest.raises(memopt.UsageError) as caught:
                session.context(max_tokens=400, tools=[{"name": "good"}, {"a": value}])
            assert caught.value.field == "tools[1]"


def test_an_image_of_low_detail_is_cheap_and_its_bytes_are_no_text() -> None:
    part = {"type": "image_url", "image_url": {"url": png(1024, 1024), "detail": "low"}}
    assert media_tokens(part, "openai") == 85
    assert payload_of({"role": "user", "content": [part]}, "openai").text == ""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "image_url", "content", "tool_calls", "data", "signature", "x"]),
        inner | st.sampled_from(["image_url", "tool_use", "tool_result", "reasoning"]),
        max_size=4,
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["role", "content", "type", "tool_calls", "x"]), _JSON))
def test_a_message_of_any_shape_has_a_payload(message: dict[str, Any]) -> None:
    for provider in ("openai", "anthropic", "google"):
        assert payload_of(message, provider).extra >= 4
    is_signed(message)
