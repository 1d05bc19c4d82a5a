"""Clients that go on at once behind the same messages: each has its own history, and all of it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from proxying import Proxy

from memopt.testing.upstream import Answer, Asked
from waiting import until

WINDOW = {"X-Memopt-Window": "4000"}
CLIENTS = 6


def echo(asked: Asked) -> Answer:
    body = asked.json()
    items = body["messages"] if "messages" in body else body["input"]
    text = "echo " + items[-1]["content"]
    return Answer(text=text, response_id=f"r-{text.split()[-1]}")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(proxy: Proxy, session: str, key: str) -> list[str]:
    texts = []
    for message in proxy.messages(session, key):
        content = message["content"]
        texts.append(content if isinstance(content, str) else content[0]["text"])
    return texts


class Gate:
    """Lets a number of requests through once all of them are there."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._open = threading.Event()
        proxy.script(lambda asked: self._held(echo(asked)))

    def _held(self, answer: Answer) -> Answer:
        answer.wait = self._open
        return answer

    def __call__(self, count: int) -> None:
        until(lambda: len(self._proxy.asked) == count)
        self._open.set()


@pytest.mark.parametrize("window", [{}, WINDOW])
@pytest.mark.parametrize("stream", [False, True])
def test_of_those_who_go_on_at_once_nobody_loses_anything(
    proxy: Proxy, http: httpx.Client, key: str, window: dict[str, str], stream: bool
) -> None:
    proxy.script(echo)
    path = "/chat/completions"
    base = [user("hi")]
    http.post(path, json={"messages": base}, headers=window)
    base.append({"role": "assistant", "content": "echo hi"})

    def ask(history: list[Any]) -> httpx.Response:
        return http.post(path, json={"messages": history, "stream": stream}, headers=window)

    histories = [[*base, user(f"zebra{n}")] for n in range(CLIENTS)]
    for _ in range(2):
        gate = Gate(proxy)
        with ThreadPoolExecutor(CLIENTS) as threads:
            replies = threads.map(ask, histories)
            gate(CLIENTS)
            sessions = [reply.headers["x-memopt-session"] for reply in replies]
        assert len(set(sessions)) == CLIENTS
        for history, session in zip(histories, sessions, strict=True):
            history.append({"role": "assistant", "content": "echo " + history[-1]["content"]})
            assert said(proxy, session, key) == [message["content"] for message in history]
            history.append(user(f"{history[-2]['content']} again"))
        assert len(proxy.sessions(key)) == CLIENTS
    for n in range(CLIENTS):
        hits = proxy.memory.recall(f"zebra{n}", scope=proxy.scope_of(key)).hits
        assert any(f"zebra{n}" in hit.text for hit in hits)


@pytest.mark.parametrize("stream", [False, True])
def test_of_those_who_go_on_behind_one_response_at_once_each_has_its_own(
    proxy: Proxy, http: httpx.Client, key: str, stream: bool
) -> None:
    proxy.script(echo)
    http.post("/responses", json={"input": [user("hi")]})
    gate = Gate(proxy)

    def ask(n: int) -> httpx.Response:
        body = {"input": [user(f"z{n}")], "previous_response_id": "r-hi", "stream": stream}
        return http.post("/responses", json=body)

    with ThreadPoolExecutor(CLIENTS) as threads:
        replies = threads.map(ask, range(CLIENTS))
        gate(CLIENTS)
        sessions = [reply.headers["x-memopt-session"] for reply in replies]
    for n, session in enumerate(sessions):
        assert said(proxy, session, key) == ["hi", "echo hi", f"z{n}", f"echo z{n}"]


@pytest.mark.parametrize("window", [{}, WINDOW])
@pytest.mark.parametrize("stream", [False, True])
def test_what_others_wrote_meanwhile_is_left_to_them(
    proxy: Proxy, http: httpx.Client, key: str, window: dict[str, str], stream: bool
) -> None:
    """To a session that was found by its messages somebody else may write by its name."""
    proxy.script(echo)
    body: dict[str, Any] = {"messages": [user("hi")], "stream": stream}
    http.post("/chat/completions", json=body, headers=window)
    (base,) = proxy.sessions(key)
    body["messages"] += [{"role": "assistant", "content": "echo hi"}, user("mine")]
    gate = Gate(proxy)
    with ThreadPoolExecutor(1) as threads:
        reply = threads.submit(http.post, "/chat/completions", json=body, headers=window)
        until(lambda: len(proxy.asked) == 1)
        proxy.memory.session(base, scope=proxy.scope_of(key)).append(user("theirs"))
        gate(1)
        assert reply.result().status_code == 200
    begun = ["mine"] if window else []
    assert said(proxy, base, key) == ["hi", "echo hi", *begun, "theirs"]
    (fork,) = set(proxy.sessions(key)) - {base}
    assert said(proxy, fork, key) == ["hi", "echo hi", "mine", "echo mine"]
    if not stream:
        assert reply.result().headers["x-memopt-session"] == fork


def test_a_call_that_fails_is_in_nobodys_way(proxy: Proxy, http: httpx.Client, key: str) -> None:
    """The place it had is free again, and what went on behind the same messages stays."""
    proxy.script(echo)
    http.post("/chat/completions", json={"messages": [user("hi")]})
    (base,) = proxy.sessions(key)
    more = [user("hi"), {"role": "assistant", "content": "echo hi"}, user("more")]
    held = threading.Event()
    failing = Answer(status=500, body=json.dumps({}).encode(), wait=held)
    proxy.script([failing, Answer(text="one"), Answer(text="two")])
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(
            http.post, "/chat/completions", json={"messages": more}, headers=WINDOW
        )
        until(lambda: len(proxy.asked) == 1)
        other = http.post("/chat/completions", json={"messages": more}, headers=WINDOW)
        held.set()
        assert first.result().status_code == 500
    assert said(proxy, base, key) == ["hi", "echo hi"]
    fork = other.headers["x-memopt-session"]
    assert said(proxy, fork, key) == ["hi", "echo hi", "more", "one"]
    again = [*more[:2], user("again")]
    reply = http.post("/chat/completions", json={"messages": again}, headers=WINDOW)
    assert reply.headers["x-memopt-session"] == base
    assert said(proxy, base, key) == ["hi", "echo hi", "again", "two"]
