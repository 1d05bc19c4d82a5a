"""Which messages are the same, and whose a request is, whatever is remembered."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxying import Proxy, running

import memopt
from memopt.base.budget import Budget
from memopt.server.canonical import (
    Digests,
    TextDigest,
    chain_of,
    common_length,
    digest_of,
)
from memopt.testing.upstream import Answer, ScriptedUpstream

HI: list[Any] = [{"role": "user", "content": "Hi"}]
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


# -- digests --------------------------------------------------------------------------------------


def test_what_one_says_as_a_prompt_is_a_message_where_another_says_it_as_one() -> None:
    digests = Digests(Budget(1 << 20), bytes_max=1 << 20, depth_max=8)
    raw = b'{"role":"user","content":"yes please"}'
    digests.check(raw, "instructions")
    assert digests.of(raw, "messages[0]") == digest_of(json.loads(raw))
    digests.check(raw, "instructions")
    assert digests.of(raw, "messages[0]") == digest_of(json.loads(raw))


# -- the form -------------------------------------------------------------------------------------


@given(st.lists(_TEXT, min_size=1, max_size=4), st.sampled_from(["user", "assistant"]))
def test_text_is_the_same_in_one_and_in_parts(texts: list[str], role: str) -> None:
    parts = [
        {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in texts
    ]
    pieces = TextDigest()
    for text in texts:
        pieces.add(text)
    whole = digest_of({"role": role, "content": "".join(texts)})
    assert digest_of({"role": role, "content": parts, "name": None}) == whole
    assert digest_of({"role": role}, pieces.digest()) == whole


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_TEXT, _JSON, max_size=4), st.data())
def test_arguments_are_the_same_however_they_are_written(
    arguments: dict[str, Any], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(sorted(arguments)))
    written = json.dumps(
        {name: arguments[name] for name in order}, indent=data.draw(st.none() | st.just(2))
    )

    def call(text: str) -> dict[str, Any]:
        function = {"name": "f", "arguments": text}
        return {"role": "assistant", "tool_calls": [{"id": "c", "function": function}]}

    assert digest_of(call(written)) == digest_of(call(json.dumps(arguments, sort_keys=True)))


@pytest.mark.parametrize(
    "other",
    [
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Hi "},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]},
        {"role": "user", "content": None},
    ],
)
def test_what_means_something_else_is_another_message(other: dict[str, Any]) -> None:
    assert digest_of(other) != digest_of(HI[0])


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_histories_share_what_they_begin_with(one: list[int], other: list[int]) -> None:
    chains = [chain_of([bytes([value]) * 16 for value in values]) for values in (one, other)]
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    assert common_length(*chains) == shared


@given(st.binary(max_size=40))
def test_whatever_bytes_come_are_refused_or_have_a_digest(raw: bytes) -> None:
    digests = Digests(Budget(1 << 20), bytes_max=1000, depth_max=8)
    for _ in range(2):
        with contextlib.suppress(memopt.UsageError):
            assert isinstance(digests.of(raw, "messages[0]"), bytes)


# -- whose it is ----------------------------------------------------------------------------------


def ask(url: str, messages: list[Any], **more: Any) -> str:
    with httpx.Client(trust_env=False, timeout=30) as http:
        got = http.post(url + "/chat/completions", json={"messages": messages, **more})
    assert got.status_code == 200, got.text
    return str(got.headers["x-memopt-session"])


def test_conversations_are_found_after_a_restart(tmp_path: Path) -> None:
    """By their names: among several that began the same, and where one went on differently."""
    answers = iter("abcdefgh")
    with ScriptedUpstream(lambda _: Answer(text=next(answers))) as upstream:
        with running(tmp_path, upstream) as proxy:
            first = ask(proxy.url, HI)
            second = ask(proxy.url, HI)
            left = [*HI, {"role": "assistant", "content": "a"}, {"role": "user", "content": "left"}]
            assert ask(proxy.url, left) == first
        assert first != second
        with running(tmp_path, upstream) as proxy:
            after = {"role": "assistant", "content": "b"}
            more = {"role": "user", "content": "more"}
            assert ask(proxy.url, [*HI, after, more]) == second
        with running(tmp_path, upstream) as proxy:
            right = [*left[:2], {"role": "user", "content": "right"}]
            fork = ask(proxy.url, right)
            assert fork not in (first, second)
            said = [m["content"] for m in proxy.memory.session(fork).messages()]
            assert said == ["Hi", "a", "right", "e"]


def test_a_session_that_was_deleted_is_begun_anew(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, running(tmp_path, upstream) as proxy:
        first = ask(proxy.url, HI)
        proxy.memory.session(first).delete()
        again = [*HI, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "more"}]
        session = ask(proxy.url, again)
        assert [m["content"] for m in proxy.memory.session(session).messages()][-1] == "ok"
        assert len(proxy.memory.session(session)) == 4


def test_a_session_that_others_write_to_is_read_again(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    headers = {"X-Memopt-Session": "s"}
    client.chat.completions.create(model="m", messages=HI, extra_headers=headers)
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    session.append({"role": "user", "content": "from elsewhere"})
    known = list(session.messages())
    client.chat.completions.create(
        model="m",
        messages=[*known, {"role": "user", "content": "more"}],  # type: ignore[list-item]
        extra_headers=headers,
    )
    assert [m["content"] for m in session.messages()] == [
        "Hi", "ok", "from elsewhere", "more", "ok",
    ]  # fmt: skip


def test_an_image_is_stored_once_and_goes_on_as_it_came(
    tmp_path: Path,
) -> None:
    data = base64.b64encode(bytes(range(256)) * 400).decode()
    url = f"data:image/png;base64,{data}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    with ScriptedUpstream() as upstream, running(tmp_path, upstream) as proxy:
        for number in range(5):
            text = {"type": "text", "text": f"What is this, number {number}?"}
            ask(proxy.url, [{"role": "user", "content": [text, picture]}])
        for asked in proxy.asked:
            assert asked.json()["messages"][0]["content"][1] == picture
        for info in proxy.memory.sessions():
            (message, _) = proxy.memory.session(info.id).messages()
            assert message["content"][1] == picture
        proxy.memory.compact()
        assert proxy.memory.stats().disk_bytes < 4 * len(data)


def test_signatures_and_thoughts_are_kept_and_sent_as_they_are(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    reply = {
        "role": "assistant",
        "content": "Yes.",
        "reasoning_content": "Let me think.",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "gAAA==", "index": 0}],
        "extra_content": {"google": {"thought_signature": "c2ln"}},
    }
    proxy.script(Answer(message=reply))
    headers = {"X-Memopt-Session": "s"}
    for stream in (False, True):
        got: Any = client.chat.completions.create(
            model="m", messages=HI, extra_headers=headers, stream=stream
        )
        for _ in got if stream else ():
            pass
        kept = proxy.messages("s", key)
        assert kept[1] == reply
    delta = headers | {"X-Memopt-History": "delta"}
    client.chat.completions.create(model="m", messages=HI, extra_headers=delta)
    assert proxy.asked[-1].json()["messages"][1] == reply
