"""Requests that are cut down to a window, and what is recalled into it."""

import contextlib
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from proxying import Proxy

import memopt
from memopt.server.asked import read_chat
from memopt.server.exchange import Options, Outgoing
from memopt.server.keeping import Begun, Keeper, Place
from memopt.server.lines import SessionKey
from memopt.server.services import services_of
from memopt.server.settings import ServerSettings
from memopt.server.window import Windowed, begin_window, make_window
from memopt.testing.upstream import Answer

NAMED = {"X-Memopt-Session": "s"}
WINDOW = NAMED | {"X-Memopt-Window": "600"}
LONG: list[Any] = [
    {"role": ("user", "assistant")[n % 2], "content": f"Message {n}. " + "Word by word. " * 20}
    for n in range(40)
]
ASKED: list[Any] = [*LONG, {"role": "user", "content": "What now?"}]


def ask(client: openai.OpenAI, messages: list[Any], headers: dict[str, str], **more: Any) -> Any:
    return client.chat.completions.create(
        model="m", messages=messages, extra_headers=headers, **more
    )


def test_a_window_is_sent_and_the_whole_is_kept(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    prompt = {"role": "system", "content": "Be kind."}
    ask(client, [prompt, *ASKED], WINDOW, seed=3)
    sent = proxy.asked[0].json()
    assert len(proxy.asked[0].body) < 600 * 6
    assert sent["messages"][0] == prompt
    assert sent["messages"][-1] == ASKED[-1]
    assert sent["seed"] == 3
    kept = proxy.messages("s", key)
    assert kept[:-1] == ASKED
    assert kept[-1]["content"] == "ok"


@pytest.mark.parametrize("stream", [False, True])
def test_windows_go_on_and_nothing_is_kept_twice(
    proxy: Proxy, client: openai.OpenAI, key: str, stream: bool
) -> None:
    messages = list(ASKED)
    for number in range(3):
        reply = ask(client, messages, WINDOW, stream=stream)
        for _ in reply if stream else ():
            pass
        messages += [
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": f"And {number}?"},
        ]
    kept = proxy.messages("s", key)
    assert [message["content"] for message in kept] == [m["content"] for m in messages[:-1]]
    one, two = (asked.json()["messages"] for asked in proxy.asked[1:3])
    assert two[: len(one)] == one


def test_a_delta_is_cut_down_too(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    ask(client, ASKED, NAMED)
    delta = WINDOW | {"X-Memopt-History": "delta"}
    ask(client, [{"role": "user", "content": "More?"}], delta)
    assert proxy.asked[1].json()["messages"][-1]["content"] == "More?"
    assert len(proxy.asked[1].body) < 600 * 6
    assert [m["content"] for m in proxy.messages("s", key)[-4:]] == [
        "What now?",
        "ok",
        "More?",
        "ok",
    ]


@pytest.mark.parametrize("is_new", [False, True])
def test_a_windowed_call_that_fails_adds_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str, is_new: bool
) -> None:
    if not is_new:
        ask(client, ASKED, NAMED)
    before = proxy.messages("s", key)
    proxy.script(Answer(status=500, body=b"{}"))
    more = [*ASKED, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "More?"}]
    with pytest.raises(openai.InternalServerError):
        ask(client, more, WINDOW)
    assert proxy.messages("s", key) == before
    assert proxy.sessions(key) == ([] if is_new else ["s"])


def test_what_does_not_fit_is_refused_and_adds_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    huge: Any = [{"role": "user", "content": "No end. " * 5000}]
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, huge, WINDOW)
    assert raised.value.code == "context_length_exceeded"
    assert proxy.asked == []
    assert proxy.sessions(key) == []


def test_what_is_remembered_comes_into_a_named_session_alone(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    scope = proxy.scope_of(key)
    proxy.memory.remember("Ann prefers a window seat on trains.", scope=scope)
    question: Any = [{"role": "user", "content": "Which seat does Ann prefer on trains?"}]
    headers = {"X-Memopt-Window": "2000", "X-Memopt-Recall": "on"}
    ask(client, question, headers | NAMED)
    ask(client, question, headers)
    ask(client, question, {"X-Memopt-Window": "2000", "X-Memopt-Session": "t"})
    bodies = [b"prefers a window seat" in asked.body for asked in proxy.asked]
    assert bodies == [True, False, False]
    for message in proxy.asked[0].json()["messages"]:
        assert message["role"] == "user"
    assert [m["content"] for m in proxy.messages("s", key)] == [question[0]["content"], "ok"]


def test_an_answer_made_of_what_is_remembered_goes_when_that_does(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    scope = proxy.scope_of(key)
    item = proxy.memory.remember("The depot is in Oslo.", scope=scope)
    question: Any = [{"role": "user", "content": "Where is the depot?"}]
    headers = {
        "X-Memopt-Window": "2000", "X-Memopt-Recall": "on", "X-Memopt-Answers": "on",
    }  # fmt: skip
    ask(client, question, headers | NAMED)
    assert b"is in Oslo" in proxy.asked[0].body
    assert proxy.memory.answers.invalidate(scope=scope, uses=[item.item_id]) == 1


def test_a_windowed_call_that_fails_gives_back_what_it_replaced(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    ask(client, ASKED, NAMED)
    before = proxy.messages("s", key)
    edited = [*ASKED[:3], {"role": "user", "content": "Something else."}]
    proxy.script(Answer(status=500, body=b"{}"))
    with pytest.raises(openai.InternalServerError):
        ask(client, edited, WINDOW)
    assert proxy.messages("s", key) == before
    proxy.script(None)
    ask(client, edited, WINDOW)
    assert said(proxy.messages("s", key)) == [*said(edited), "ok"]


def test_a_fork_is_gone_when_its_first_windowed_call_fails(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    ask(client, ASKED, {})
    (base,) = proxy.sessions(key)
    other = [*ASKED, {"role": "assistant", "content": "No."}, {"role": "user", "content": "So?"}]
    proxy.script(Answer(status=500, body=b"{}"))
    with pytest.raises(openai.InternalServerError):
        ask(client, other, {"X-Memopt-Window": "600"})
    assert proxy.sessions(key) == [base]


def said(messages: list[Any]) -> list[Any]:
    return [message["content"] for message in messages]


def test_only_a_delta_gets_the_prompts_and_tools_that_are_known(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    prompt = {"role": "system", "content": "Be kind."}
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    ask(client, [prompt, *ASKED], NAMED, tools=tools)
    ask(client, [{"role": "user", "content": "More?"}], WINDOW | {"X-Memopt-History": "delta"})
    sent = proxy.asked[-1].json()
    assert (sent["messages"][0], sent["tools"]) == (prompt, tools)
    ask(client, [*ASKED, {"role": "user", "content": "And?"}], WINDOW)
    sent = proxy.asked[-1].json()
    assert prompt not in sent["messages"]
    assert "tools" not in sent


def test_prompts_are_counted(proxy: Proxy, client: openai.OpenAI, key: str) -> None:
    tokens = []
    for content in ("Be kind.", "Be kind. " + "0123456789abcdef" * 60):
        prompt: Any = {"role": "system", "content": content}
        reply = client.chat.completions.with_raw_response.create(
            model="m", messages=[prompt, *ASKED[-3:]], extra_headers=NAMED | {
                "X-Memopt-Window": "2000"
            },
        )  # fmt: skip
        tokens.append(int(reply.headers["x-memopt-tokens"]))
    assert tokens[1] - tokens[0] > 960 // 3


@pytest.mark.parametrize("way", ["delete", "redact", "forget"])
def test_an_answer_goes_with_the_reply_it_came_from(
    proxy: Proxy, client: openai.OpenAI, key: str, way: str
) -> None:
    question: Any = [{"role": "user", "content": f"What is a {way}?"}]
    answered = NAMED | {"X-Memopt-Answers": "on"}
    ask(client, question, answered)
    ask(client, question, answered | {"X-Memopt-Session": "t"})
    assert len(proxy.asked) == 1
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    if way == "delete":
        session.delete()
    elif way == "redact":
        session.redact(1)
    else:
        proxy.memory.forget(memopt.Selector(scope=session.scope, session="s"))
    ask(client, question, answered | {"X-Memopt-Session": "u"})
    assert len(proxy.asked) == 2


def test_choices_wait_no_longer_once_one_has_joined(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    question: Any = [{"role": "user", "content": "Which?"}]
    reply = ask(client, question, NAMED, n=2)
    chosen = {"role": "assistant", "content": reply.choices[1].message.content}
    waiting = proxy.memory.session("s", scope=proxy.scope_of(key)).sequence("choices")
    assert len(waiting) == 1
    ask(client, [*question, chosen, {"role": "user", "content": "Why?"}], NAMED)
    assert len(waiting) == 0


@pytest.mark.parametrize("history", ["full", "delta"])
def test_a_window_is_of_its_own_request(tmp_path: Path, history: str) -> None:
    settings = ServerSettings.load(None, upstream="http://127.0.0.1:1/v1")
    headers = {"x-memopt-session": "s", "x-memopt-history": history}
    with memopt.open(tmp_path / "store", durability="os", budget="64MiB") as memory:
        services = services_of(memory, settings)
        place = Place(SessionKey("default", "s"))
        begun = []
        for text in ("What is mine?", "What is yours?"):
            body = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
            asked, windowed = read_chat(body, headers, services.digests), Windowed()
            begin_window(services.keeper, asked, place, windowed)
            begun.append((asked, windowed))
        for asked, windowed in begun:
            make_window(services.keeper, asked, place, Options(window_tokens=600), windowed)
        sent = [
            [message["content"] for message in msgspec.json.decode(windowed.body)["messages"]]
            for _, windowed in begun
        ]
        services.close()
    before = ["What is mine?"] if history == "delta" else []
    assert sent == [["What is mine?"], [*before, "What is yours?"]]


def sse(*values: Any) -> list[bytes]:
    return [b"data: " + msgspec.json.encode(value) + b"\n\n" for value in values]


_SAYS = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
_ERROR = {"error": {"message": "the end"}}
_DELTA = {"type": "response.output_text.delta", "delta": "x"}
_FAILED = {"type": "response.failed", "response": {"id": "r", "note": "the end"}}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("chat/completions", Answer(raw_stream=[*sse(_SAYS, _ERROR), b"data: [DONE]\n\n"])),
        ("chat/completions", Answer(raw_stream=[b"".join(sse(_SAYS, _ERROR, {"usage": {}}))])),
        ("chat/completions", Answer(raw_stream=[b"data: [DONE]\n\n"])),
        ("chat/completions", Answer(body=b'{"choices":[],"note":"the end"}')),
        ("responses", Answer(raw_stream=sse(_DELTA, _FAILED))),
        ("responses", Answer(body=b'{"id":"r","status":"failed","output":[],"note":"the end"}')),
    ],
)
def test_what_is_not_kept_is_taken_back_before_the_client_knows(
    proxy: Proxy, http: httpx.Client, key: str, monkeypatch: pytest.MonkeyPatch,
    path: str, answer: Answer,
) -> None:  # fmt: skip
    order: list[str] = []
    undo, send, end = Keeper.undo, Outgoing.send, Outgoing.end

    def undone(keeper: Keeper, place: Place, begun: Begun) -> None:
        undo(keeper, place, begun)
        order.append("undone")

    def note(data: bytes) -> None:
        if b"the end" in data or b"[DONE]" in data:
            order.append("told")

    async def sent(out: Outgoing, data: bytes) -> None:
        note(data)
        await send(out, data)

    async def ended(out: Outgoing, data: bytes = b"") -> None:
        note(data)
        await end(out, data)

    monkeypatch.setattr(Keeper, "undo", undone)
    monkeypatch.setattr(Outgoing, "send", sent)
    monkeypatch.setattr(Outgoing, "end", ended)
    proxy.script(answer)
    name = "input" if path == "responses" else "messages"
    body = {name: [{"role": "user", "content": "Hi"}], "stream": answer.body is None}
    with contextlib.suppress(httpx.HTTPError):
        http.post(path, json=body, headers=WINDOW)
    assert order[:2] == ["undone", "told"]
    assert order.count("undone") == 1
    assert proxy.sessions(key) == []
