"""Chat Completions through the proxy, by the official client."""

import gzip
import json
from typing import Any

import httpx
import openai
import pytest
from proxying import Proxy

from memopt.server.keeping import CHOICES, PARTIAL, PROMPT
from memopt.testing.upstream import Answer

HI: list[Any] = [{"role": "user", "content": "Hi"}]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"where": "Oslo", "how": ["far", 2]}'},
}


NAMED = {"X-Memopt-Session": "s"}


def ask(client: openai.OpenAI, messages: list[Any], session: str | None = None, **more: Any) -> Any:
    headers = {"X-Memopt-Session": session} if session else {}
    return client.chat.completions.create(
        model="m", messages=messages, extra_headers=headers, **more
    )


def said(message: dict[str, Any]) -> Any:
    return message["content"]


# -- bytes in, bytes out --------------------------------------------------------------------------


def test_bytes_go_in_and_come_out_as_they_are(proxy: Proxy, http: httpx.Client) -> None:
    request = (
        b'{"model" :"m",  "messages":[{"content":[{"type":"text","text":"Hi",'
        b'"cache_control":{"type":"ephemeral"}}],"role":"user","x_new":1e2}],'
        b'"prompt_cache_key":"k","logprobs":true , "x_unknown":{"b":1,"a":[null]}}'
    )
    reply = (
        b'{"choices":[{"index":0,"x":1.50,"logprobs":{"content":[]},"message":{"reasoning_content":'
        b'"Hm.","role":"assistant","content":"Yo","extra":{"signature":"s=="}},'
        b'"finish_reason":"stop"}] ,"usage":{"total_tokens":3},"x_provider":"p"}'
    )
    proxy.script(Answer(body=reply, headers=[("x-request-id", "req_1")]))
    got = http.post("/chat/completions?a=b%20c", content=request, headers={"x-custom": "1"})
    (asked,) = proxy.asked
    assert asked.body == request
    assert got.content == reply
    assert got.headers["x-request-id"] == "req_1"
    assert asked.path.endswith("/chat/completions?a=b%20c")
    assert asked.header("x-custom") == "1"
    assert asked.header("authorization") == http.headers["authorization"]


def test_a_streams_bytes_come_out_as_they_are(proxy: Proxy, http: httpx.Client) -> None:
    chunks = [
        b": comment\r\n\r\n",
        b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: {"choi',
        b'ces":[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}]}\r\n\r\n',
        b"event: x\ndata: [DONE]\n\n",
    ]
    proxy.script(Answer(raw_stream=chunks))
    got = http.post("/chat/completions", json={"messages": HI, "stream": True})
    assert got.content == b"".join(chunks)
    assert got.headers["content-type"] == "text/event-stream"


def test_no_header_of_ours_goes_upstream(proxy: Proxy, client: openai.OpenAI) -> None:
    ask(client, HI, "s")
    (asked,) = proxy.asked
    assert not [name for name, _ in asked.headers if name.lower().startswith("x-memopt")]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_what_the_upstream_refuses_is_passed_on_and_adds_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str, status: int
) -> None:
    body = b'{"error":{"message":"no","type":"t","param":null,"code":"c"}}'
    proxy.script(Answer(status=status, body=body))
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client, HI, "s")
    assert raised.value.status_code == status
    assert raised.value.response.content == body
    assert proxy.sessions(key) == []


# -- what is kept ---------------------------------------------------------------------------------


def test_a_conversation_is_kept_once(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    proxy.script([Answer(text="one"), Answer(text="two"), Answer(text="three")])
    messages = list(HI)
    for word in ("b", "c", "d"):
        reply = ask(client, messages, "s").choices[0].message
        messages += [reply.model_dump(exclude_none=True), {"role": "user", "content": word}]
    kept = proxy.messages("s", key)
    assert [said(message) for message in kept] == ["Hi", "one", "b", "two", "c", "three"]
    assert kept[1]["refusal"] is None


def test_a_streamed_conversation_is_kept_the_same(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script([Answer(text="one of many"), Answer(tool_calls=[CALL], text=None)])
    for message in (HI[0], {"role": "user", "content": "b"}):
        stored = proxy.messages("s", key)
        with client.chat.completions.stream(
            model="m",
            messages=[*stored, message],  # type: ignore[list-item]
            extra_headers={"X-Memopt-Session": "s"},
        ) as stream:
            for _ in stream:
                pass
            whole = stream.get_final_completion().choices[0].message
    kept = proxy.messages("s", key)
    assert [said(message) for message in kept] == ["Hi", "one of many", "b", None]
    assert kept[3]["tool_calls"] == [CALL]
    assert whole.tool_calls is not None
    assert whole.tool_calls[0].function.arguments == CALL["function"]["arguments"]  # type: ignore[index]


def test_prompts_and_tools_are_kept_beside_the_messages_in_versions(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    history = list(HI)
    for clock in ("9:00", "9:00", "9:05"):
        prompt = {"role": "system", "content": f"It is {clock}."}
        reply = ask(client, [prompt, *history], "s", tools=tools).choices[0].message
        history += [reply.model_dump(exclude_none=True), {"role": "user", "content": "Hi"}]
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    assert [message["role"] for message in session.messages()] == ["user", "assistant"] * 3
    first, second = (session.load_state(name=PROMPT, version=version) for version in (1, 2))
    assert first is not None
    assert second is not None
    assert first.value["tools"] == tools
    assert first.value["prompts"] == [[0, {"role": "system", "content": "It is 9:00."}]]
    assert second.value["prompts"][0][1]["content"] == "It is 9:05."
    assert len(session.states(PROMPT)) == 2


def test_a_regeneration_is_a_sibling(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    proxy.script([Answer(text="first"), Answer(text="second"), Answer(text="third")])
    ask(client, HI, "s")
    ask(client, HI, "s")
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    assert [said(message) for message in session.messages()] == ["Hi", "second"]
    before = proxy.memory.at(proxy.memory.lsn - 2).session("s", scope=proxy.scope_of(key))
    assert "first" in [said(message) for message in before.messages()]


def test_of_several_answers_none_joins_until_one_is_chosen(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script(Answer(text="answer"))
    replies = ask(client, HI, "s", n=3).choices
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    assert [said(message) for message in session.messages()] == ["Hi"]
    (waiting,) = session.sequence(CHOICES)
    assert [said(message) for message in waiting["messages"]] == [
        "answer", "answer (1)", "answer (2)",
    ]  # fmt: skip
    chosen = replies[1].message.model_dump(exclude_none=True)
    ask(client, [*HI, chosen, {"role": "user", "content": "b"}], "s")
    assert [said(message) for message in session.messages()] == ["Hi", "answer (1)", "b", "answer"]


def test_what_only_looks_different_is_the_same(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script(Answer(message={"role": "assistant", "content": None, "tool_calls": [CALL]}))
    ask(client, [{"role": "user", "content": "Hi there"}], "s")
    other = CALL | {"function": {"name": "look", "arguments": '{"how":["far",2],"where":"Oslo"}'}}
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there", "cache_control": 1}]
    ask(
        client,
        [
            {"role": "user", "content": parts, "name": None},
            {"role": "assistant", "content": "", "tool_calls": [other]},
            {"role": "tool", "tool_call_id": "call_1", "content": "cold"},
        ],
        "s",
    )
    kept = proxy.messages("s", key)
    assert [message["role"] for message in kept] == ["user", "assistant", "tool", "assistant"]
    assert said(kept[0]) == "Hi there"


# -- whose session --------------------------------------------------------------------------------


def test_a_request_without_a_name_is_found_by_its_messages(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    messages = list(HI)
    for word in ("b", "c"):
        reply = ask(client, messages).choices[0].message
        messages += [reply.model_dump(exclude_none=True), {"role": "user", "content": word}]
    (session,) = proxy.sessions(key)
    assert len(proxy.messages(session, key)) == 4


def test_what_diverges_forks(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    proxy.script([Answer(text="a"), Answer(text="x"), Answer(text="y")])
    one = [*HI, {"role": "assistant", "content": "a"}]
    ask(client, HI)
    ask(client, [*one, {"role": "user", "content": "left"}])
    ask(client, [*one, {"role": "user", "content": "right"}])
    kept = [[said(m) for m in proxy.messages(each, key)] for each in proxy.sessions(key)]
    assert sorted(kept) == [["Hi", "a", "left", "x"], ["Hi", "a", "right", "y"]]


def test_two_who_say_the_same_are_two(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    proxy.script([Answer(text="a"), Answer(text="b"), Answer(text="c")])
    ask(client, HI)
    ask(client, HI)
    follow = [*HI, {"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}]
    ask(client, follow)
    kept = [[said(m) for m in proxy.messages(each, key)] for each in proxy.sessions(key)]
    assert sorted(kept) == [["Hi", "a", "and?", "c"], ["Hi", "b"]]


def test_two_keys_never_see_each_other(proxy: Proxy, key: str) -> None:
    messages = [*HI, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "more"}]
    for name in ("one", "two"):
        with openai.OpenAI(base_url=proxy.url, api_key=key + name, max_retries=0) as client:
            ask(client, HI)
            ask(client, messages)
            ask(client, HI, "named")
    sessions = [set(proxy.sessions(key + name)) for name in ("one", "two")]
    assert [len(each) for each in sessions] == [2, 2]
    assert sessions[0] & sessions[1] == {"named"}
    assert proxy.scope_of(key + "one") != proxy.scope_of(key + "two")


def test_a_sessions_name_is_the_same_in_a_header_and_in_a_body(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    header = {"x-memopt-session": "né 会話".encode()}
    first = http.post("/chat/completions", json={"messages": HI}, headers=header)
    metadata = {"session_id": "né 会話"}
    http.post("/chat/completions", json={"messages": HI, "metadata": metadata})
    assert proxy.sessions(key) == ["né 会話"]
    assert (b"x-memopt-session", "né 会話".encode()) in first.headers.raw


@pytest.mark.parametrize(
    "named",
    [
        {"metadata": {"session_id": "mine"}},
        {"extra_body": {"conversation": "mine"}},
        {"extra_body": {"conversation": {"id": "mine"}}},
    ],
)
def test_a_session_may_be_named_in_the_body(
    proxy: Proxy, client: openai.OpenAI, key: str, named: Any
) -> None:
    ask(client, HI, **named)
    assert proxy.sessions(key) == ["mine"]
    assert json.loads(proxy.asked[0].body).keys() >= {"messages", "model"}


def test_a_delta_is_sent_with_the_history_it_left_out(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script([Answer(text="one"), Answer(text="two")])
    ask(client, [{"role": "system", "content": "Be kind."}, *HI], "s", seed=7)
    client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "more"}],
        extra_headers={"X-Memopt-Session": "s", "X-Memopt-History": "delta"},
        extra_body={"x_unknown": [1]},
    )
    sent = proxy.asked[1].json()
    assert [said(message) for message in sent["messages"]] == ["Be kind.", "Hi", "one", "more"]
    assert sent["x_unknown"] == [1]
    assert [said(m) for m in proxy.messages("s", key)] == ["Hi", "one", "more", "two"]


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "messages"),
        (b'{"messages": 3}', "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [3]}', "messages[0]"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', None),
        (b'{"messages": [{"role": "user", "x": 99999999999999999999999}]}', "messages[0]"),
        (b'{"messages": [{"x": ' + b"[" * 90 + b"]" * 90 + b"}]}", "messages[0]"),
    ],
)
def test_a_malformed_body_is_refused_before_anybody_pays(
    proxy: Proxy, http: httpx.Client, key: str, body: bytes, param: str | None
) -> None:
    got = http.post("/chat/completions", content=body)
    assert got.status_code == 400
    error = got.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param
    assert proxy.asked == []
    assert proxy.sessions(key) == []


def test_a_stream_that_breaks_off_adds_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script(Answer(text="one two three four", breaks_off=True))
    with pytest.raises(openai.APIError, match="upstream"):
        for _ in ask(client, HI, "s", stream=True):
            pass
    assert proxy.sessions(key) == []


def test_a_reply_that_breaks_off_adds_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script(Answer(text="one two three four", breaks_off=True))
    with pytest.raises(openai.InternalServerError):
        ask(client, HI, "s")
    assert proxy.sessions(key) == []


@pytest.mark.parametrize(
    "stream",
    [
        b'\xef\xbb\xbfdata: {"choices":[{"delta":{"content":"x\\ud83d"},"logprobs":-Infinity}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\ndata: [DONE]\n\n',
        b'data: {"choices":[{"delta":{"content":"x\\ud83d\\ude00"}}]}\n\ndata: [DONE]',
    ],
)
def test_what_a_client_gets_of_an_odd_stream_is_kept(
    proxy: Proxy, http: httpx.Client, key: str, stream: bytes
) -> None:
    proxy.script(Answer(raw_stream=[stream]))
    got = http.post("/chat/completions", json={"messages": HI, "stream": True}, headers=NAMED)
    assert got.content == stream
    assert proxy.messages("s", key)[-1]["content"] == "x\U0001f600"


def test_what_a_client_gets_of_an_odd_reply_is_kept(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    message = b'{"role":"assistant","content":"x","n":1180591620717411303424}'
    body = b'{"choices":[{"logprobs":[-Infinity],"message":%b}]}' % message
    proxy.script(Answer(body=body))
    got = http.post("/chat/completions", json={"messages": HI}, headers=NAMED)
    assert (got.status_code, got.content) == (200, body)
    assert proxy.messages("s", key)[-1] == {"role": "assistant", "content": "x", "n": 2.0**70}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("encoding", "is_kept"), [("gzip", True), ("br", False)])
def test_what_comes_packed_is_unpacked_or_passed_on(
    proxy: Proxy, http: httpx.Client, key: str, stream: bool, encoding: str, is_kept: bool
) -> None:
    body = b'{"choices":[{"message":{"role":"assistant","content":"x"}}]}'
    if stream:
        body = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n'
    packed = gzip.compress(body)
    headers = [("content-encoding", encoding)]
    if stream:
        proxy.script(Answer(raw_stream=[packed[:20], packed[20:]], headers=headers))
    else:
        proxy.script(Answer(body=packed, headers=headers))
    request = {"messages": HI, "stream": stream}
    with http.stream("POST", "/chat/completions", json=request, headers=NAMED) as got:
        raw = b"".join(got.iter_raw())
    assert raw == (body if is_kept else packed)
    assert got.headers.get("content-encoding") == (None if is_kept else encoding)
    assert ("s" in proxy.sessions(key)) == is_kept


def test_what_nobody_can_read_is_not_acknowledged(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    proxy.script([
        Answer(body=b'{"choices":['),
        Answer(raw_stream=[b'data: {"choices":[\n\n', b"data: [DONE]\n\n"]),
    ])  # fmt: skip
    whole = http.post("/chat/completions", json={"messages": HI}, headers=NAMED)
    assert whole.status_code == 502
    streamed = http.post("/chat/completions", json={"messages": HI, "stream": True}, headers=NAMED)
    assert b"upstream_unreadable" in streamed.content
    assert "s" not in proxy.sessions(key)


def test_the_mark_of_what_is_partial_is_a_field() -> None:
    assert PARTIAL == "partial"
