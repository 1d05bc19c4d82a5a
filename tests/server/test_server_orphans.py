"""Calls and results after a client that left, and requests that come twice: what is sent."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxying import Proxy

import memopt
from memopt.base.budget import Budget
from memopt.server.asked import HISTORY_HEADER, read_chat
from memopt.server.canonical import Digests
from memopt.server.keeping import Keeper, Place
from memopt.server.lines import Lines, SessionKey
from memopt.testing.upstream import Answer, ScriptedUpstream
from waiting import until

MAIN = [sys.executable, "-c", "from memopt.cli import main; main()"]
NAMED = {"X-Memopt-Session": "s"}
DELTA = NAMED | {"X-Memopt-History": "delta"}
WINDOW = {"X-Memopt-Window": "4000"}
HI = {"role": "user", "content": "Hi"}
CALL = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_0", "content": "result"}
ITEM = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "result"}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(delta: Any, reason: str | None = None) -> bytes:
    return event({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def leave(proxy: Proxy, http: httpx.Client, path: str, body: Any, said: bytes, key: str) -> None:
    """Go away once everything was heard that was said so far."""
    held = threading.Event()
    before = len(proxy.messages("s", key))
    proxy.script(Answer(raw_stream=iter([said, b": more\n\n"]), wait_in_stream=held))
    with http.stream("POST", path, json=body | {"stream": True}, headers=NAMED) as reply:
        heard = b""
        for piece in reply.iter_raw():
            heard += piece
            if said in heard:
                break
    until(lambda: len(proxy.messages("s", key)) > before)
    held.set()
    proxy.script(None)


def sent(proxy: Proxy, name: str) -> list[Any]:
    messages: list[Any] = proxy.asked[-1].json()[name]
    return messages


@pytest.mark.parametrize("window", [{}, WINDOW])
def test_an_item_that_ended_is_whole_though_its_client_left(
    proxy: Proxy, http: httpx.Client, key: str, window: dict[str, str]
) -> None:
    done = event({"type": "response.output_item.done", "output_index": 0, "item": ITEM})
    leave(proxy, http, "/responses", {"input": [HI]}, done, key)
    http.post("/responses", json={"input": [OUTPUT]}, headers=DELTA | window)
    assert sent(proxy, "input") == [HI, ITEM, OUTPUT]


@pytest.mark.parametrize("window", [{}, WINDOW])
def test_a_choice_that_ended_is_whole_though_its_client_left(
    proxy: Proxy, http: httpx.Client, key: str, window: dict[str, str]
) -> None:
    calls = [CALL | {"index": 0}]
    said = chunk({"role": "assistant", "tool_calls": calls}) + chunk({}, "tool_calls")
    leave(proxy, http, "/chat/completions", {"messages": [HI]}, said, key)
    http.post("/chat/completions", json={"messages": [RESULT]}, headers=DELTA | window)
    assert sent(proxy, "messages") == [HI, CALLING, RESULT]


@pytest.mark.parametrize("window", [{}, WINDOW])
def test_a_broken_call_costs_another_of_its_id_no_result(
    proxy: Proxy, http: httpx.Client, key: str, window: dict[str, str]
) -> None:
    history = [HI, CALLING, RESULT]
    said = chunk({"role": "assistant", "content": "Let me", "tool_calls": [CALL | {"index": 0}]})
    leave(proxy, http, "/chat/completions", {"messages": history}, said, key)
    http.post("/chat/completions", json={"messages": [HI]}, headers=DELTA | window)
    left = {"role": "assistant", "content": "Let me"}
    assert sent(proxy, "messages") == [*history, left, HI]


def test_a_call_that_nobody_answered_is_sent_with_a_result(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    proxy.script(Answer(tool_calls=[CALL]))
    http.post("/chat/completions", json={"messages": [HI]}, headers=NAMED)
    proxy.script(None)
    http.post("/chat/completions", json={"messages": [HI]}, headers=DELTA)
    messages = sent(proxy, "messages")
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    assert "interrupted" in messages[2]["content"]


@pytest.mark.parametrize("window", [{}, WINDOW])
@pytest.mark.parametrize("stream", [False, True])
def test_a_delta_that_comes_twice_is_answered_and_kept_once(
    proxy: Proxy, http: httpx.Client, key: str, window: dict[str, str], stream: bool
) -> None:
    proxy.script([Answer(text="A"), Answer(text="B")])
    headers = DELTA | window | {"Idempotency-Key": "k"}
    request = {"messages": [HI], "stream": stream}
    replies = [http.post("/chat/completions", json=request, headers=headers) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 409]
    assert replies[1].json()["error"]["code"] == "idempotency_key_used"
    assert len(proxy.asked) == 1
    assert [message["content"] for message in proxy.messages("s", key)] == ["Hi", "A"]


@pytest.mark.parametrize("window", [{}, WINDOW])
def test_a_delta_that_failed_may_come_again(
    proxy: Proxy, http: httpx.Client, key: str, window: dict[str, str]
) -> None:
    proxy.script([Answer(status=500, body=b"{}"), Answer(text="B")])
    headers = DELTA | window | {"Idempotency-Key": "k"}
    for _ in range(2):
        http.post("/chat/completions", json={"messages": [HI]}, headers=headers)
    assert [message["content"] for message in proxy.messages("s", key)] == ["Hi", "B"]


# -- and what a server did not live to answer -----------------------------------------------------


def begun(proxy: Proxy, key: str, messages: list[Any], named: str) -> None:
    """What a server leaves that is killed between a request and its reply."""
    budget = Budget(1 << 20)
    digests = Digests(budget, bytes_max=1 << 20, depth_max=8)
    body = json.dumps({"messages": messages}).encode()
    asked = read_chat(body, {HISTORY_HEADER: "delta"}, digests)
    asked.key = named
    place = Place(SessionKey(proxy.scope_of(key), "s"))
    Keeper(proxy.memory, Lines(budget, lines_max=1, matches_max=1)).begin(asked, place)


KEYED = DELTA | WINDOW | {"Idempotency-Key": "k"}
ONCE = [{"role": "user", "content": "only"}, {"role": "user", "content": "once"}]


def texts(messages: list[Any]) -> list[Any]:
    return [message["content"] for message in messages]


@pytest.mark.parametrize("before", [[], ["Hi", "A"]])
@pytest.mark.parametrize("behind", [[], ["more", "B"]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_delta_that_was_begun_is_gone_on_with(
    proxy: Proxy, http: httpx.Client, key: str, before: list[str], behind: list[str], stream: bool
) -> None:
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    for text in before:
        session.append({"role": "user", "content": text})
    begun(proxy, key, ONCE, "k")
    for text in behind:
        session.append({"role": "user", "content": text})
    proxy.script(Answer(text="done"))
    request = {"messages": ONCE, "stream": stream}
    for status in (200, 409):
        got = http.post("/chat/completions", json=request, headers=KEYED)
        assert got.status_code == status
        assert texts(list(session.messages())) == [*before, "only", "once", *behind, "done"]
    assert texts(sent(proxy, "messages")) == [*before, "only", "once"]


@pytest.mark.parametrize("before", [[], ["Hi", "A"]])
def test_a_delta_that_was_begun_and_fails_is_taken_back_and_may_come_again(
    proxy: Proxy, http: httpx.Client, key: str, before: list[str]
) -> None:
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    for text in before:
        session.append({"role": "user", "content": text})
    begun(proxy, key, ONCE, "k")
    failed = Answer(status=500, body=b"{}")
    proxy.script([failed, failed, failed, Answer(text="done")])
    for _ in range(3):
        got = http.post("/chat/completions", json={"messages": ONCE}, headers=KEYED)
        assert got.status_code == 500
        assert texts(list(session.messages()) if session.head else []) == before
    begun(proxy, key, ONCE, "k")
    http.post("/chat/completions", json={"messages": ONCE}, headers=KEYED)
    assert texts(list(session.messages())) == [*before, "only", "once", "done"]


@pytest.mark.parametrize("named", ["k", "other"])
def test_what_was_begun_otherwise_is_another_request(
    proxy: Proxy, http: httpx.Client, key: str, named: str
) -> None:
    first = ONCE if named == "other" else ONCE[:1]
    begun(proxy, key, first, named)
    http.post("/chat/completions", json={"messages": ONCE}, headers=KEYED)
    assert texts(proxy.messages("s", key)) == [*texts(first), "only", "once", "ok"]


def test_a_delta_that_a_killed_server_has_begun_is_in_the_session_once(tmp_path: Path) -> None:
    store, held, bodies = tmp_path / "store", threading.Event(), []
    request = {"messages": ONCE}
    with ScriptedUpstream([Answer(wait=held), Answer(text="done")]) as upstream:
        command = [*MAIN, "serve", str(store), "--upstream", upstream.url, "--port", "0"]
        for _ in range(2):
            environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as server:
                assert server.stdout is not None
                url = server.stdout.readline().split()[1].decode()
                with ThreadPoolExecutor(1) as threads, httpx.Client(trust_env=False) as client:
                    path = url + "/chat/completions"
                    got = threads.submit(client.post, path, json=request, headers=KEYED)
                    until(lambda: len(upstream.requests) > len(bodies))
                    if bodies:
                        assert got.result().status_code == 200
                    bodies.append(upstream.requests[-1].body)
                    server.send_signal(signal.SIGKILL)
        held.set()
    assert bodies[0] == bodies[1]
    with memopt.open(store) as memory:
        (info,) = memory.sessions()
        assert texts(list(memory.session(info.id, scope=info.scope).messages())) == [
            "only", "once", "done",
        ]  # fmt: skip
