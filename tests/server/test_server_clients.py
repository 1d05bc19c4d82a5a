"""What the official client does of its own: streams, cancels, waits, retries, sync and async."""

import asyncio
import json
import threading
from typing import Any

import httpx
import openai
import pytest
from proxying import Proxy

from memopt.server.errors import ServerError
from memopt.server.exchange import Exchange, Options, Outgoing
from memopt.server.joining import Joining
from memopt.server.keeping import PARTIAL
from memopt.server.settings import Caller
from memopt.testing.upstream import Answer, Asked
from waiting import until

HI: list[Any] = [{"role": "user", "content": "Hi"}]
NAMED = {"X-Memopt-Session": "s"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"where": "Oslo"}'},
}


def said(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages]


def test_the_asynchronous_client_gets_the_same(proxy: Proxy, key: str) -> None:
    proxy.script(Answer(text="one two"))

    async def talk() -> list[str]:
        async with openai.AsyncOpenAI(base_url=proxy.url, api_key=key) as client:
            whole = await client.chat.completions.create(
                model="m", messages=HI, extra_headers=NAMED
            )
            texts = [whole.choices[0].message.content or ""]
            stream = await client.chat.completions.create(
                model="m", messages=HI, stream=True, extra_headers={"X-Memopt-Session": "t"}
            )
            texts.append("".join([c.choices[0].delta.content or "" async for c in stream]))
            return texts

    assert asyncio.run(talk()) == ["one two", "one two"]
    assert said(proxy.messages("s", key)) == said(proxy.messages("t", key)) == ["Hi", "one two"]


def test_many_asynchronous_calls_at_once_are_all_kept(proxy: Proxy, key: str) -> None:
    proxy.script(lambda asked: Answer(text="re: " + asked.json()["messages"][0]["content"]))

    async def talk() -> None:
        async with openai.AsyncOpenAI(base_url=proxy.url, api_key=key) as client:
            await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="m",
                        messages=[{"role": "user", "content": str(number)}],
                        extra_headers={"X-Memopt-Session": f"s{number}"},
                    )
                    for number in range(40)
                )
            )

    asyncio.run(talk())
    for number in range(40):
        assert said(proxy.messages(f"s{number}", key)) == [str(number), f"re: {number}"]


@pytest.mark.parametrize("calls", [False, True])
def test_a_client_that_leaves_a_stream_ends_it_upstream_and_leaves_what_it_got(
    proxy: Proxy, client: openai.OpenAI, key: str, calls: bool
) -> None:
    more = threading.Event()
    tool_calls = [CALL] if calls else []
    answer = Answer(
        raw_stream=None, text="first second third", tool_calls=tool_calls, gap_seconds=0.02,
        wait_in_stream=None if calls else more,
    )  # fmt: skip
    if not calls:
        answer = Answer(raw_stream=_forever(), gap_seconds=0.001)
    proxy.script(answer)
    stream = client.chat.completions.create(
        model="m", messages=HI, stream=True, extra_headers=NAMED
    )
    for chunk in stream:
        delta = chunk.choices[0].delta
        if delta.tool_calls if calls else delta.content:
            break
    stream.close()
    until(lambda: bool(proxy.messages("s", key)) and proxy.asked[0].was_cancelled)
    kept = proxy.messages("s", key)
    assert said(kept)[0] == "Hi"
    assert kept[1][PARTIAL] is True
    assert kept[1]["content"].startswith("first second third" if calls else "tick ")
    if calls:
        assert kept[1]["tool_calls"][0]["id"] == "call_1"


def _forever() -> Any:
    class Endless:
        def __iter__(self) -> Any:
            while True:
                yield b'data: {"choices":[{"index":0,"delta":{"content":"tick "}}]}\n\n'

    return Endless()


def test_an_incomplete_call_is_never_sent_again(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    broken = CALL | {"function": {"name": "look", "arguments": '{"whe'}}
    session.extend(
        [
            HI[0],
            {"role": "assistant", "content": "Let me", "tool_calls": [broken], PARTIAL: True},
        ]
    )
    headers = NAMED | {"X-Memopt-History": "delta"}
    client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "go on"}], extra_headers=headers
    )
    sent = proxy.asked[0].json()["messages"]
    assert said(sent) == ["Hi", "Let me", "go on"]
    assert all("tool_calls" not in message and PARTIAL not in message for message in sent)


def test_a_client_that_leaves_before_the_reply_adds_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    answered = threading.Event()
    proxy.script(Answer(wait=answered))
    try:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).chat.completions.create(
                model="m", messages=HI, extra_headers=NAMED
            )
        until(lambda: bool(proxy.asked) and proxy.asked[0].was_cancelled)
    finally:
        answered.set()
    assert proxy.sessions(key) == []


def test_the_clients_retry_is_kept_once(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    proxy.script([Answer(status=500, body=b"{}"), Answer(text="at last")])
    client.with_options(max_retries=2).chat.completions.create(
        model="m", messages=HI, extra_headers=NAMED
    )
    assert said(proxy.messages("s", key)) == ["Hi", "at last"]


# -- our own retries ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_what_the_upstream_asks_to_repeat_is_repeated(
    proxy: Proxy, client: openai.OpenAI, status: int
) -> None:
    busy = Answer(status=status, body=b"{}", headers=[("retry-after", "0.01")])
    proxy.script([busy, busy, Answer(text="ok")])
    reply = client.chat.completions.create(model="m", messages=HI)
    assert reply.choices[0].message.content == "ok"
    assert len(proxy.asked) == 3
    assert len({asked.body for asked in proxy.asked}) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=429, body=b"{}"),
        Answer(status=503, body=b"{}", headers=[("retry-after", "3600")]),
        Answer(status=500, body=b"{}", headers=[("retry-after", "0.01")]),
        Answer(drops=True),
    ],
)
def test_what_the_upstream_may_have_accepted_is_not_repeated(
    proxy: Proxy, client: openai.OpenAI, key: str, answer: Answer
) -> None:
    proxy.script([answer, Answer()])
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model="m", messages=HI)
    assert len(proxy.asked) == 1
    assert proxy.sessions(key) == []


# -- joining --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_identical_requests_under_way_join(
    proxy: Proxy, http: httpx.Client, key: str, stream: bool
) -> None:
    answered = threading.Event()
    proxy.script(Answer(text="one two three", wait=answered))
    headers = NAMED | {"Idempotency-Key": "k"}
    got: list[bytes] = []

    def ask() -> None:
        request = {"messages": HI, "stream": stream}
        got.append(http.post("/chat/completions", json=request, headers=headers).content)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(proxy.asked) == 1 and proxy.open_requests() == 4)
    other = http.post(
        "/chat/completions", json={"messages": [*HI, *HI]}, headers={"Idempotency-Key": "k"}
    )
    answered.set()
    for thread in threads:
        thread.join()
    assert other.status_code == 409
    assert other.headers["x-should-retry"] == "false"
    assert len(set(got)) == 1
    assert b"three" in got[0]
    assert len(proxy.asked) == 1
    assert said(proxy.messages("s", key)) == ["Hi", "one two three"]


def test_a_joined_request_goes_on_when_the_first_client_leaves(
    proxy: Proxy, client: openai.OpenAI, http: httpx.Client, key: str
) -> None:
    answered = threading.Event()
    proxy.script(Answer(text="late", wait=answered))
    headers = NAMED | {"Idempotency-Key": "k"}
    body = b'{"messages":[{"role":"user","content":"Hi"}]}'
    got: list[httpx.Response] = []
    staying = threading.Thread(
        target=lambda: got.append(http.post("/chat/completions", content=body, headers=headers))
    )
    with httpx.Client(base_url=proxy.url, trust_env=False, timeout=0.5) as leaving:
        leaver = threading.Thread(target=_ignoring_timeouts, args=(leaving, body, headers, key))
        leaver.start()
        until(lambda: len(proxy.asked) == 1)
        staying.start()
        leaver.join()
    answered.set()
    staying.join()
    assert got[0].json()["choices"][0]["message"]["content"] == "late"
    assert not proxy.asked[0].was_cancelled
    assert len(proxy.asked) == 1


def test_who_retries_behind_one_that_left_never_gets_its_half(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    go_on = threading.Event()
    proxy.script([
        Answer(text="one two three", wait_in_stream=go_on), Answer(text="one two three"),
    ])  # fmt: skip
    headers = NAMED | {"Idempotency-Key": "k"}
    request = {"messages": HI, "stream": True}
    with http.stream("POST", "/chat/completions", json=request, headers=headers) as left:
        assert next(left.iter_bytes())
    got = http.post("/chat/completions", json=request, headers=headers)
    go_on.set()
    assert got.content.endswith(b"data: [DONE]\n\n")
    assert b"three" in got.content


def test_requests_that_name_other_sessions_do_not_join(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    answered = threading.Event()
    proxy.script(Answer(text="one", wait=answered))
    headers = {"Idempotency-Key": "k"}
    first = threading.Thread(
        target=lambda: http.post(
            "/chat/completions", json={"messages": HI}, headers=headers | NAMED
        )
    )
    first.start()
    until(lambda: len(proxy.asked) == 1)
    others = [
        http.post("/chat/completions", json={"messages": HI}, headers=headers | other)
        for other in ({"X-Memopt-Session": "t"}, NAMED | {"X-Memopt-Window": "900"})
    ]
    by_query = http.post("/chat/completions?v=2", json={"messages": HI}, headers=headers | NAMED)
    answered.set()
    first.join()
    assert [got.status_code for got in (*others, by_query)] == [409] * 3
    assert said(proxy.messages("s", key)) == ["Hi", "one"]


def test_a_flight_that_was_ended_is_not_whole_for_who_watches() -> None:
    begun = asyncio.Event()

    async def work(_: Exchange, out: Outgoing) -> None:
        await out.start(200, [])
        await out.send(b"half")
        begun.set()
        await asyncio.Event().wait()

    async def fly() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        joining = Joining(work, 1 << 20)
        options = Options(idempotency_key="k")
        exchange = Exchange("POST", "/x", b"", [], {}, b"", Caller("s", None), options)
        watching = asyncio.create_task(joining(exchange, Outgoing(send)))
        await begun.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task(), watching}:
            task.cancel()
        with pytest.raises(ServerError, match="was ended"):
            await watching
        return sent

    sent = asyncio.run(fly())
    assert not any(message.get("more_body") is False for message in sent)


def _ignoring_timeouts(client: httpx.Client, body: bytes, headers: Any, key: str) -> None:
    with pytest.raises(httpx.TimeoutException):
        client.post(
            "/chat/completions",
            content=body,
            headers=headers | {"authorization": f"Bearer {key}"},
        )


# -- answers --------------------------------------------------------------------------------------

ANSWERS = {"X-Memopt-Answers": "on"}


def test_an_answer_is_given_again_and_costs_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script(Answer(text="Paris."))
    ask = client.chat.completions.with_raw_response.create
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    first = ask(model="m", messages=question, extra_headers=ANSWERS)
    second = ask(model="m", messages=question, extra_headers=ANSWERS)
    assert first.headers["x-memopt-cache"] == "miss"
    assert second.headers["x-memopt-cache"] == "hit"
    whole = second.parse()
    assert whole.choices[0].message.content == "Paris."
    assert whole.usage is not None
    assert whole.usage.total_tokens == 0
    assert len(proxy.asked) == 1
    stream = client.chat.completions.create(
        model="m",
        messages=question,
        extra_headers=ANSWERS,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Paris."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 0
    assert len(proxy.asked) == 1
    kept = [said(proxy.messages(each, key)) for each in proxy.sessions(key)]
    assert kept == [["What is the capital of France?", "Paris."]] * 3


def test_a_streamed_answer_is_stored_and_its_usage_is_for_us_alone(
    proxy: Proxy, http: httpx.Client, client: openai.OpenAI
) -> None:
    proxy.script(Answer(text="It is Oslo."))
    question = [{"role": "user", "content": "What is the capital of Norway?"}]
    request = {"model": "m", "messages": question, "stream": True}
    got = http.post("/chat/completions", json=request, headers=ANSWERS)
    assert proxy.asked[0].json()["stream_options"] == {"include_usage": True}
    assert b'"usage":{' not in got.content
    assert got.content.endswith(b"data: [DONE]\n\n")
    again = client.chat.completions.create(
        model="m",
        messages=question,  # type: ignore[arg-type]
        extra_headers=ANSWERS,
    )
    assert again.choices[0].message.content == "It is Oslo."
    assert len(proxy.asked) == 1


def test_nothing_is_cached_unless_asked_for_and_nothing_that_was_cut_off(
    proxy: Proxy, client: openai.OpenAI
) -> None:
    ask = client.chat.completions.create
    one: Any = [{"role": "user", "content": "How many moons has Mars?"}]
    two: Any = [{"role": "user", "content": "Name all the bones of the hand."}]
    proxy.script(Answer(text="Two.", finish_reason="stop"))
    ask(model="m", messages=one)
    ask(model="m", messages=one)
    assert len(proxy.asked) == 2
    proxy.script(Answer(text="The scaphoid, the", finish_reason="length"))
    ask(model="m", messages=two, extra_headers=ANSWERS)
    ask(model="m", messages=two, extra_headers=ANSWERS)
    assert len(proxy.asked) == 2


def test_a_request_with_a_number_beyond_all_is_answered_and_not_cached(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    body = b'{"messages":[{"role":"user","content":"Hi"}],"seed":1e400}'
    message = {"role": "assistant", "content": "x"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    proxy.script(Answer(body=json.dumps({"choices": [choice]}).encode()))
    for _ in range(2):
        assert http.post("/chat/completions", content=body, headers=ANSWERS).status_code == 200
    assert len(proxy.asked) == 2


def test_a_cached_answer_is_of_its_key_alone(proxy: Proxy, key: str) -> None:
    proxy.script(Answer(text="Rome."))
    question: Any = [{"role": "user", "content": "What is the capital of Italy?"}]
    for name in ("one", "two"):
        with openai.OpenAI(base_url=proxy.url, api_key=key + name) as client:
            client.chat.completions.create(model="m", messages=question, extra_headers=ANSWERS)
    assert len(proxy.asked) == 2


# -- responses ------------------------------------------------------------------------------------


def test_items_of_responses_are_kept_as_they_are(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script([Answer(text="one", response_id="r1"), Answer(text="two", response_id="r2")])
    first = client.responses.create(model="m", input="Hi", instructions="Be kind.")
    client.responses.create(model="m", input="more", previous_response_id=first.id)
    (session,) = proxy.sessions(key)
    kept = proxy.messages(session, key)
    assert [item.get("role") for item in kept] == ["user", "assistant", "user", "assistant"]
    assert kept[1]["id"] == "msg_1"
    assert kept[1]["content"][0]["text"] == "one"
    assert proxy.asked[1].json()["input"] == "more"


def test_what_goes_on_behind_an_earlier_response_is_a_fork(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script([Answer(text=f"t{n}", response_id=f"r{n}") for n in range(3)])
    client.responses.create(model="m", input="Hi")
    client.responses.create(model="m", input="left", previous_response_id="r0")
    client.responses.create(model="m", input="right", previous_response_id="r0")
    lengths = sorted(len(proxy.messages(each, key)) for each in proxy.sessions(key))
    assert lengths == [4, 4]


def test_streamed_responses_are_kept_before_their_last_event(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script(Answer(text="one two three"))
    lengths = []
    with client.responses.create(model="m", input="Hi", stream=True, extra_headers=NAMED) as stream:
        for event in stream:
            if event.type == "response.completed":
                lengths.append(len(proxy.messages("s", key)))
    assert lengths == [2]


def test_an_odd_response_is_kept(proxy: Proxy, http: httpx.Client, key: str) -> None:
    body = (
        b'{"id":"r","status":"completed","temperature":-Infinity,"output":[{"type":"message",'
        b'"role":"assistant","content":[{"type":"output_text","text":"\\ud83d\\ude00\\ud83d"}]}]}'
    )
    proxy.script(Answer(body=body))
    got = http.post("/responses", json={"input": "Hi"}, headers=NAMED)
    assert got.content == body
    content = proxy.messages("s", key)[-1]["content"]
    assert content[0]["text"] == "\U0001f600\ufffd"


def test_encrypted_reasoning_comes_back_as_it_was(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA=="}
    proxy.script(Answer(message=item))
    client.responses.create(model="m", input="Hi", store=False, extra_headers=NAMED)
    assert proxy.messages("s", key)[1] == item
    echoed: Any = [{"role": "user", "content": "Hi"}, item, {"role": "user", "content": "more"}]
    client.responses.create(model="m", input=echoed, store=False, extra_headers=NAMED)
    assert len(proxy.messages("s", key)) == 4


def test_the_two_apis_are_not_translated(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    proxy.script(Answer(message={"type": "reasoning", "id": "rs_1", "summary": []}))
    client.responses.create(model="m", input="Hi", extra_headers=NAMED)
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(
            model="m", messages=HI, extra_headers=NAMED | {"X-Memopt-History": "delta"}
        )
    assert raised.value.status_code == 501
    assert len(proxy.asked) == 1


def test_models_and_embeddings_are_passed_on(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    def script(asked: Asked) -> Answer:
        if asked.path.endswith("/embeddings"):
            return Answer(body=b'{"data":[{"index":0,"embedding":[1.0],"object":"embedding"}]}')
        return Answer(body=b'{"object":"list","data":[{"id":"m","object":"model"}]}')

    proxy.script(script)
    assert [model.id for model in client.models.list()] == ["m"]
    made = client.embeddings.create(model="e", input="x", encoding_format="float")
    assert made.data[0].embedding == [1.0]
    assert [asked.path for asked in proxy.asked] == ["/v1/models", "/v1/embeddings"]
    assert proxy.sessions(key) == []
