"""Responses by their ids: whose they are, where they are noted, and those that are made later."""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxying import Proxy, running

import memopt
from memopt.server.keeping import PARTIAL
from memopt.server.lines import SessionKey
from memopt.server.noted import RESPONSES, Noted, Notes
from memopt.testing.upstream import Answer, Asked, ScriptedUpstream
from waiting import until

NAMED = {"X-Memopt-Session": "s"}
DONE: dict[str, Any] = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "done"}],
}


def response(id: str, status: str, *items: Any) -> bytes:
    return json.dumps({"id": id, "object": "response", "status": status, "output": items}).encode()


def said(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages]


# -- whose they are -------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """One upstream key for the keys of three scopes, of which one has a key of its own."""
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream")
    monkeypatch.setenv("OWN_KEY", "sk-own")
    keys = [
        {"name": name, "scope": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in ("ann", "bob", "eve")
    ]
    keys[2]["upstream_key_env"] = "OWN_KEY"
    with (
        ScriptedUpstream(Answer(text="secret", response_id="r1")) as upstream,
        running(tmp_path, upstream, keys=keys, upstream_key_env="UPSTREAM_KEY") as proxy,
    ):
        yield proxy


def ask(proxy: Proxy, key: str, method: str, path: str, body: Any = None) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=30) as http:
        headers = {"authorization": f"Bearer {key}"}
        return http.request(method, proxy.url + path, json=body, headers=headers)


BY_ID = [
    ("GET", "/responses/r1"),
    ("GET", "/responses/r%31"),
    ("DELETE", "/responses/r1"),
    ("POST", "/responses/r1/cancel"),
    ("GET", "/responses/r1/input_items"),
]


def test_a_response_of_another_scope_is_not_there(shared: Proxy) -> None:
    assert ask(shared, "ann", "POST", "/responses", {"input": "Hi"}).status_code == 200
    shared.asked.clear()
    for method, path in BY_ID:
        got = ask(shared, "bob", method, path)
        assert got.status_code == 404
        assert got.json()["error"] == {
            "message": "Response with id 'r1' not found.", "type": "invalid_request_error",
            "param": None, "code": None,
        }  # fmt: skip
    behind = {"input": "more", "previous_response_id": "r1"}
    got = ask(shared, "bob", "POST", "/responses", behind)
    assert got.status_code == 404
    assert got.json()["error"]["code"] == "previous_response_not_found"
    assert got.json()["error"]["param"] == "previous_response_id"
    for named in ("c1", {"id": "c1"}):
        body = {"input": "more", "conversation": named}
        assert ask(shared, "bob", "POST", "/responses", body).status_code == 404
    assert shared.asked == []
    for method, path in BY_ID:
        if method != "DELETE":
            assert ask(shared, "ann", method, path).status_code == 200
    assert ask(shared, "ann", "POST", "/responses", behind).status_code == 200


def test_a_key_of_ones_own_reaches_what_the_upstream_lets_it_reach(shared: Proxy) -> None:
    for method, path in BY_ID:
        assert ask(shared, "eve", method, path).status_code == 200
    assert {asked.header("authorization") for asked in shared.asked} == {"Bearer sk-own"}


def test_without_named_keys_a_key_of_the_server_is_shared_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream")
    with (
        ScriptedUpstream(Answer(response_id="r1")) as upstream,
        running(tmp_path, upstream, upstream_key_env="UPSTREAM_KEY") as proxy,
    ):
        ask(proxy, "ann", "POST", "/responses", {"input": "Hi"})
        assert ask(proxy, "ann", "GET", "/responses/r1").status_code == 200
        assert ask(proxy, "bob", "GET", "/responses/r1").status_code == 404


def test_a_conversation_that_the_upstream_told_of_may_be_named(shared: Proxy) -> None:
    body = {"id": "r1", "status": "completed", "output": [DONE], "conversation": {"id": "c1"}}
    shared.script(Answer(body=json.dumps(body).encode()))
    more = {"input": "more", "conversation": "c1"}
    assert ask(shared, "ann", "POST", "/responses", more).status_code == 404
    ask(shared, "ann", "POST", "/responses", {"input": "Hi"})
    assert ask(shared, "ann", "POST", "/responses", more).status_code == 200
    assert ask(shared, "bob", "POST", "/responses", more).status_code == 404


def test_a_response_that_was_deleted_is_not_noted_any_more(shared: Proxy) -> None:
    ask(shared, "ann", "POST", "/responses", {"input": "Hi"})
    shared.script(Answer(status=500, body=b"{}"))
    ask(shared, "ann", "DELETE", "/responses/r1")
    assert list(shared.memory.mapping(RESPONSES, scope="ann")) == ["r1"]
    shared.script(Answer(body=b'{"id":"r1","deleted":true}'))
    assert ask(shared, "ann", "DELETE", "/responses/r1").status_code == 200
    assert list(shared.memory.mapping(RESPONSES, scope="ann")) == []


def test_a_stream_that_was_left_may_be_asked_for(shared: Proxy) -> None:
    shared.script(Answer(raw_stream=_begun("r7")))
    with (
        httpx.Client(trust_env=False, timeout=30) as http,
        http.stream(
            "POST", shared.url + "/responses", json={"input": "Hi", "stream": True},
            headers={"authorization": "Bearer ann"},
        ) as left,
    ):  # fmt: skip
        assert next(left.iter_bytes())
    until(lambda: bool(shared.memory.mapping(RESPONSES, scope="ann")))
    assert ask(shared, "ann", "GET", "/responses/r7").status_code == 200
    (session,) = shared.sessions("ann")
    assert shared.messages(session, "ann")[-1][PARTIAL] is True


def _begun(id: str) -> Any:
    begun = {"type": "response.created", "response": json.loads(response(id, "in_progress"))}
    yield _event(begun) + _event({"type": "response.output_text.delta", "delta": "so "})
    while True:
        yield _event({"type": "response.output_text.delta", "delta": "on "})


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


# -- where they are noted -------------------------------------------------------------------------


def test_what_is_of_a_deleted_session_is_forgotten(tmp_path: Path) -> None:
    with memopt.open(tmp_path, durability="os") as memory:
        notes = Notes(memory)
        for name in ("a", "b"):
            memory.session(name).append({"role": "user", "content": "Hi"})
            notes.note(SessionKey("default", name), f"r-{name}")
        assert notes.find("default", "r-a") == Noted("a", 1)
        memory.session("a").delete()
        assert notes.find("default", "r-a") is None
        assert list(memory.mapping(RESPONSES)) == ["r-b"]
        memory.session("b").delete()
        memory.session("c").append({"role": "user", "content": "Hi"})
        for number in range(256):
            notes.note(SessionKey("default", "c"), f"r-{number}")
        assert "r-b" not in memory.mapping(RESPONSES)
        assert len(memory.mapping(RESPONSES)) == 256
        memory.session("c").delete()
        memory.session("d").append({"role": "user", "content": "Hi"})
        # Another server, behind sessions that went while there was none.
        Notes(memory).note(SessionKey("default", "d"), "r-d")
        assert list(memory.mapping(RESPONSES)) == ["r-d"]


def test_the_oldest_go_above_the_limit(tmp_path: Path) -> None:
    with memopt.open(tmp_path, durability="os") as memory:
        notes = Notes(memory, entries_max=3)
        memory.session("s").append({"role": "user", "content": "Hi"})
        for number in range(5):
            notes.note(SessionKey("default", "s"), f"r{number}")
        assert list(memory.mapping(RESPONSES)) == ["r2", "r3", "r4"]


@pytest.mark.parametrize("id", [None, "", 7, "x" * 100_000])
def test_an_odd_id_is_not_noted(tmp_path: Path, id: Any) -> None:
    with memopt.open(tmp_path, durability="os") as memory:
        memory.session("s").append({"role": "user", "content": "Hi"})
        Notes(memory).note(SessionKey("default", "s"), id)
        assert not memory.mapping(RESPONSES)


# -- in the background ----------------------------------------------------------------------------

QUEUED = {"input": "a long job", "background": True}


def test_what_is_made_in_the_background_is_kept_when_it_is_fetched_once(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    proxy.script([
        Answer(body=response("bg", "queued")), Answer(body=response("bg", "in_progress")),
        Answer(body=response("bg", "completed", DONE)),
    ])  # fmt: skip
    http.post("/responses", json=QUEUED, headers=NAMED)
    assert said(proxy.messages("s", key)) == ["a long job"]
    assert http.get("/responses/bg").json()["status"] == "in_progress"
    assert said(proxy.messages("s", key)) == ["a long job"]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda _: http.get("/responses/bg"), range(6)))
    assert {each.content for each in got} == {response("bg", "completed", DONE)}
    assert proxy.messages("s", key)[1:] == [DONE]
    behind = {"input": "more", "previous_response_id": "bg"}
    proxy.script(Answer(body=response("r2", "completed", DONE)))
    assert http.post("/responses", json=behind).headers["x-memopt-session"] == "s"
    assert len(proxy.messages("s", key)) == 4


def test_what_is_fetched_late_is_behind_its_request(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    proxy.script(Answer(body=response("bg", "queued")))
    http.post("/responses", json=QUEUED, headers=NAMED)
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    session.append({"role": "user", "content": "meanwhile"})
    proxy.script(Answer(body=response("bg", "completed", DONE)))
    for _ in range(2):
        http.get("/responses/bg")
    assert said(proxy.messages("s", key)) == ["a long job", "meanwhile"]
    (fork,) = set(proxy.sessions(key)) - {"s"}
    assert proxy.messages(fork, key)[1:] == [DONE]
    assert said(proxy.messages(fork, key))[0] == "a long job"


def test_what_failed_in_the_background_adds_nothing_more(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    proxy.script([Answer(body=response("bg", "queued")), Answer(body=response("bg", "failed"))])
    http.post("/responses", json=QUEUED, headers=NAMED)
    for _ in range(2):
        assert http.get("/responses/bg").json()["status"] == "failed"
    assert said(proxy.messages("s", key)) == ["a long job"]


def test_a_stream_in_the_background_that_was_left_is_fetched_as_a_stream(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    def script(asked: Asked) -> Answer:
        if asked.method == "GET":
            whole = json.loads(response("bg", "completed", DONE))
            events = [_event({"type": "response.completed", "response": whole})]
            headers = [("content-type", "text/event-stream")]
            return Answer(body=b"".join(events), headers=headers)
        return Answer(raw_stream=_begun("bg"))

    proxy.script(script)
    request = {**QUEUED, "stream": True}
    with http.stream("POST", "/responses", json=request, headers=NAMED) as left:
        assert next(left.iter_bytes())
    until(lambda: bool(proxy.memory.mapping(RESPONSES, scope=proxy.scope_of(key))))
    assert said(proxy.messages("s", key)) == ["a long job"]
    for _ in range(2):
        got = http.get("/responses/bg?stream=true")
        assert b"response.completed" in got.content
        assert proxy.messages("s", key)[1:] == [DONE]
