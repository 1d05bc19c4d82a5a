"""What was asked and said is in the books, and whose they are."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxying import Proxy, running

from memopt.server.books import LINES_MAX, Books, Line, Told, told_of
from memopt.server.settings import Caller
from memopt.testing.upstream import Answer, ScriptedUpstream

HI: list[Any] = [{"role": "user", "content": "Hi"}]
USAGE = {
    "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 5},
}  # fmt: skip
LINE = re.compile(r'memopt_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [-+.\de]+')


def reply(usage: Any) -> bytes:
    message = {"role": "assistant", "content": "ok"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"model": "gpt-x", "choices": [choice], "usage": usage}).encode()


def figures(proxy: Proxy, key: str) -> dict[str, float]:
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(trust_env=False) as http:
        got = http.get(proxy.url + "/metrics", headers=headers)
    assert got.status_code == 200
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = got.text.splitlines()
    assert all(LINE.fullmatch(line) for line in lines if not line.startswith("#"))
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.removeprefix("memopt_"): float(value) for name, value in pairs}


def tokens(found: dict[str, float], key: str) -> dict[str, float]:
    start = f'server_tokens_total{{key="{key}",model="gpt-x",kind='
    return {
        name.removeprefix(start).strip('"}'): value
        for name, value in found.items()
        if name.startswith(start)
    }


def test_calls_are_counted_by_key_and_model_as_the_upstream_says(
    proxy: Proxy, client: openai.OpenAI, http: httpx.Client, key: str
) -> None:
    scope = proxy.scope_of(key)
    proxy.script(Answer(body=reply(USAGE)))
    for _ in range(2):
        client.chat.completions.create(model="asked", messages=HI)
    chunk = {"model": "gpt-x", "choices": [{"index": 0, "delta": {"content": "x"}}]}
    last = {"model": "gpt-x", "choices": [], "usage": USAGE}
    events = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (chunk, last)]
    proxy.script(Answer(raw_stream=[*events, b"data: [DONE]\n\n"]))
    http.post("/chat/completions", json={"messages": HI, "stream": True})
    usage = {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 1}}
    body = {"id": "r", "model": "gpt-x", "status": "completed", "output": [], "usage": usage}
    proxy.script(Answer(body=json.dumps(body).encode()))
    http.post("/responses", json={"input": "Hi"})
    found = figures(proxy, key)
    assert found[f'server_answered_total{{key="{scope}",model="gpt-x"}}'] == 4
    assert tokens(found, scope) == {
        "prompt": 307, "cached": 193, "completion": 63, "reasoning": 15,
    }  # fmt: skip
    assert found["budget_bytes"] == proxy.memory.config.budget_bytes
    assert found['pressure_level{level="calm"}'] == 1
    assert found["messages_appended_total"] > 0


def test_what_is_made_in_the_background_is_counted_once(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    done = {"id": "bg", "model": "gpt-x", "status": "completed", "output": [], "usage": USAGE}
    queued = done | {"status": "queued", "usage": None}
    bodies = [json.dumps(each).encode() for each in (queued, queued, done)]
    proxy.script([Answer(body=body) for body in bodies])
    http.post("/responses", json={"input": "Hi", "background": True})
    for _ in range(3):
        http.get("/responses/bg")
    assert tokens(figures(proxy, key), proxy.scope_of(key))["prompt"] == 100


def test_a_hit_is_counted_as_one_and_costs_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    proxy.script(Answer(body=reply(USAGE)))
    question: Any = [{"role": "user", "content": "Which river runs through Rome?"}]
    for _ in range(3):
        client.chat.completions.create(
            model="gpt-x", messages=question, extra_headers={"X-Memopt-Answers": "on"}
        )
    found, labels = figures(proxy, key), f'{{key="{proxy.scope_of(key)}",model="gpt-x"}}'
    assert found[f"server_answered_total{labels}"] == 3
    assert found[f"server_answer_hits_total{labels}"] == 2
    assert tokens(found, proxy.scope_of(key))["prompt"] == 100


def test_a_key_sees_its_own_lines_and_one_with_figures_all(tmp_path: Path) -> None:
    keys = [
        {"name": name, "scope": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}
        for name, more in (("ann", {}), ("bob", {}), ("ops", {"figures": True}))
    ]
    with (
        ScriptedUpstream(Answer(body=reply(USAGE))) as upstream,
        running(tmp_path, upstream, keys=keys) as proxy,
    ):
        with httpx.Client(trust_env=False) as http:
            for name in ("ann", "bob"):
                headers = {"authorization": f"Bearer {name}"}
                url = proxy.url + "/chat/completions"
                assert http.post(url, json={"messages": HI}, headers=headers).status_code == 200
            for headers in ({}, {"authorization": "Bearer x"}):
                assert http.get(proxy.url + "/metrics", headers=headers).status_code == 401
        seen = {
            name: {other for other in ("ann", "bob") if tokens(figures(proxy, name), other)}
            for name in ("ann", "bob", "ops")
        }
    assert seen == {"ann": {"ann"}, "bob": {"bob"}, "ops": {"ann", "bob"}}


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(
        ["prompt_tokens", "input_tokens", "completion_tokens", "prompt_tokens_details"]
    ), inner, max_size=3),
)  # fmt: skip


@given(_ANY, _ANY)
def test_whatever_an_upstream_says_of_its_usage_is_counted_or_not(model: Any, usage: Any) -> None:
    books, caller = Books(), Caller("s", None)
    books.note(caller, model, usage)
    ((key, _, line),) = books.lines("s")
    assert (key, line.requests) == ("s", 1)
    assert line.prompt_tokens >= 0


@pytest.mark.parametrize(
    "odd",
    [
        {"prompt_tokens_details": []},
        {"prompt_tokens_details": "none", "input_tokens_details": {"cached_tokens": 0}},
        {"completion_tokens_details": 0, "completion_tokens": 20.0},
        {"prompt_tokens": 100.0, "completion_tokens": 20.5, "output_tokens": 20},
        {"total_tokens": math.nan, "queue_time": math.inf},
        {"prompt_tokens_details": {"cached_tokens": {}, "audio_tokens": math.nan}},
    ],
)
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
def test_an_odd_detail_costs_no_other_one(odd: Any, begin: bytes) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20} | odd
    told = told_of(begin + json.dumps({"model": "m", "usage": usage, "x": math.nan}).encode())
    books, caller = Books(), Caller("s", None)
    books.note(caller, told.model, told.usage)
    ((_, model, line),) = books.lines("s")
    assert (model, line) == ("m", Line(requests=1, prompt_tokens=100, completion_tokens=20))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"{", b"\xff"])
def test_what_says_nothing_tells_nothing(body: bytes) -> None:
    assert told_of(body) == Told()


def test_the_books_have_an_end() -> None:
    books = Books()
    for number in range(LINES_MAX + 10):
        books.note(Caller(f"s{number}", None), "m", None)
    assert len(books.lines(None)) == LINES_MAX + 1
    assert books.lines("")[0][2].requests == 10


@pytest.mark.parametrize("model", ['a"b', "a\\b", "a\nb"])
def test_a_model_of_any_name_is_one_label(
    proxy: Proxy, http: httpx.Client, key: str, model: str
) -> None:
    proxy.script(Answer(body=reply(None).replace(b'"gpt-x"', json.dumps(model).encode())))
    http.post("/chat/completions", json={"messages": HI})
    headers = {"authorization": http.headers["authorization"]}
    with httpx.Client(trust_env=False) as other:
        text = other.get(proxy.url + "/metrics", headers=headers).text
    escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert f'model="{escaped}"}} 1' in text
