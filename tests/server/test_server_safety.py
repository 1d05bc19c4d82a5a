"""Who may ask, how much, and what happens when it is too much, or all over."""

import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from proxying import Proxy, running

import memopt
from memopt.base.errors import UsageError
from memopt.server.keeping import PARTIAL
from memopt.server.settings import Callers, KeySettings, ServerSettings
from memopt.testing.upstream import Answer, ScriptedUpstream
from waiting import until

HI: list[Any] = [{"role": "user", "content": "Hi"}]
BODY = {"model": "m", "messages": HI}
MAIN = [sys.executable, "-c", "from memopt.cli import main; main()"]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        yield made


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as made:
        yield made


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"upstream": "ftp://x"}, "upstream"),
        ({"upstream": "http://user:secret@x/v1"}, "upstream"),
        ({"upstream": "http://x/v1?key=1"}, "upstream"),
        ({"upstream": "x"}, "upstream"),
        ({"host": "0.0.0.0"}, "host"),
        ({"port": 70_000}, "port"),
        ({"requests_max": 0}, "requests_max"),
        ({"body_bytes_max": "much"}, "body_bytes_max"),
        ({"no_such": 1}, "no_such"),
        ({"keys": [{"name": "n", "scope": "s"}]}, "keys.sha256"),
        ({"keys": [{"name": "n", "scope": "s", "sha256": "abc"}]}, "keys.sha256"),
        (
            {"keys": [{"name": "n", "scope": k, "sha256": digest(k)} for k in ("a", "b")]},
            "keys.name",
        ),
        ({"keys": [{"name": "n", "scope": "a//b", "sha256": digest("k")}]}, "keys.scope"),
        ({"keys": [{"name": "n", "scope": "s", "sha256": digest("k"), "x": 1}]}, "keys.x"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as raised:
        ServerSettings.load(None, **{"upstream": "http://x/v1", **settings})
    assert raised.value.field == field


def test_settings_come_from_a_file_and_arguments_before_it(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        f'upstream = "http://x/v1"\nport = 7\nbody_bytes_max = "1MiB"\nreply_seconds = "5m"\n'
        f'[[keys]]\nname = "n"\nsha256 = "{digest("k")}"\nscope = "a/b"\n'
    )
    settings = ServerSettings.load(file, port=8)
    assert (settings.port, settings.body_bytes_max, settings.reply_seconds) == (8, 1 << 20, 300.0)
    caller = Callers(settings).of("Bearer k")
    assert caller is not None
    assert caller.scope == "a/b"
    assert Callers(settings).of("Bearer other") is None
    assert Callers(settings).of(None) is None


def test_the_key_for_the_upstream_has_to_be_there(tmp_path: Path) -> None:
    with (
        ScriptedUpstream() as upstream,
        pytest.raises(UsageError, match="MEMOPT_NO_SUCH"),
        running(tmp_path, upstream, upstream_key_env="MEMOPT_NO_SUCH"),
    ):
        pass


# -- keys -----------------------------------------------------------------------------------------


def test_keys_map_to_scopes_and_their_own_upstream_keys(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    keys = [
        {"name": "one", "sha256": digest("sk-one"), "scope": "acme/one"},
        {"name": "two", "sha256": digest("sk-two"), "scope": "acme/two", "priority": "low"},
    ]
    caplog.set_level(logging.DEBUG)
    with running(tmp_path, upstream, keys=keys, upstream_key_env="UPSTREAM_KEY") as proxy:
        url = proxy.url + "/chat/completions"
        refused = [
            http.post(url, json=BODY, headers=headers)
            for headers in ({}, {"authorization": "Bearer sk-three"}, {"authorization": "sk-one"})
        ]
        assert [got.status_code for got in refused] == [401] * 3
        assert proxy.asked == []
        for key in ("sk-one", "sk-two"):
            headers = {"authorization": f"Bearer {key}", "x-memopt-session": "s"}
            assert http.post(url, json=BODY, headers=headers).status_code == 200
        sent = {asked.header("authorization") for asked in proxy.asked}
        assert sent == {"Bearer sk-upstream-secret"}
        assert [info.scope for info in proxy.memory.sessions()] == ["acme/one", "acme/two"]
    said = "\n".join(record.getMessage() for record in caplog.records)
    for secret in ("sk-upstream-secret", "sk-one", "sk-two", "Hi"):
        assert secret not in said.split()


def test_a_key_of_another_header_is_one(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "open", upstream) as proxy:
        for header in ("api-key", "x-api-key"):
            headers = {header: header, "x-memopt-session": "s"}
            http.post(proxy.url + "/chat/completions", json=BODY, headers=headers)
            assert proxy.sessions(header) == ["s"]
            assert proxy.asked[-1].header(header) == header
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    keys = [{"name": "one", "sha256": digest("sk-one"), "scope": "one"}]
    with running(tmp_path, upstream, keys=keys, upstream_key_env="UPSTREAM_KEY") as proxy:
        proxy.asked.clear()
        url = proxy.url + "/chat/completions"
        assert http.post(url, json=BODY, headers={"api-key": "sk-two"}).status_code == 401
        assert http.post(url, json=BODY, headers={"api-key": "sk-one"}).status_code == 200
        assert proxy.asked[0].header("api-key") is None
        assert proxy.asked[0].header("authorization") == "Bearer sk-upstream-secret"


def test_the_servers_key_goes_to_no_other_upstream(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    with ScriptedUpstream() as other:
        keys = [
            {"name": "one", "sha256": digest("sk-one"), "scope": "one", "upstream": other.url},
            {"name": "two", "sha256": digest("sk-two"), "scope": "two"},
        ]
        with running(tmp_path, upstream, keys=keys, upstream_key_env="UPSTREAM_KEY") as proxy:
            for key in ("sk-one", "sk-two"):
                headers = {"authorization": f"Bearer {key}"}
                got = http.post(proxy.url + "/chat/completions", json=BODY, headers=headers)
                assert got.status_code == 200
            assert [asked.header("authorization") for asked in other.requests] == ["Bearer sk-one"]
            sent = [asked.header("authorization") for asked in proxy.asked]
            assert sent == ["Bearer sk-upstream-secret"]


def test_a_redirect_is_not_followed(proxy: Proxy, client: openai.OpenAI) -> None:
    with ScriptedUpstream() as inside:
        proxy.script(
            Answer(status=302, body=b"", headers=[("location", inside.url + "/chat/completions")])
        )
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model="m", messages=HI)
        assert raised.value.status_code == 502
        assert inside.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("GET", "/v1/models/../files"),
        ("GET", "/v1/models/%2e%2e/files"),
        ("GET", "/v1/models/a%2F..%2F..%2Ffiles"),
        ("DELETE", "/v1/chat/completions"),
        ("GET", "/admin"),
    ],
)
def test_only_what_is_known_is_asked_upstream(proxy: Proxy, method: str, path: str) -> None:
    host, port = proxy.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(
            f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()
        )
        reply = b""
        while piece := raw.recv(65_536):
            reply += piece
    assert int(reply.split(b" ", 2)[1]) in (404, 405)
    assert proxy.asked == []


def test_pages_and_strange_names_are_refused(proxy: Proxy, http: httpx.Client) -> None:
    url = proxy.url + "/chat/completions"
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        assert http.post(url, json=BODY, headers=headers).status_code == 403
    assert http.post(url, json=BODY, headers={"host": "localhost:1"}).status_code == 200
    assert len(proxy.asked) == 1


# -- limits ---------------------------------------------------------------------------------------


def test_what_is_too_large_or_too_slow_is_refused(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client
) -> None:
    limits = {
        "body_bytes_max": 2000, "unsized_body_bytes_max": 1000, "headers_max": 20,
        "header_bytes_max": 4000, "body_seconds": 0.2, "reply_bytes_max": 3000,
    }  # fmt: skip
    with running(tmp_path, upstream, **limits) as proxy:
        url = proxy.url + "/chat/completions"
        large = http.post(url, content=b"x" * 2001)
        unsized = http.post(url, content=iter([b"x" * 600, b"x" * 600]))
        many = http.post(url, json=BODY, headers={f"x-{n}": "v" for n in range(30)})
        long = http.post(url, json=BODY, headers={"x-long": "v" * 5000})
        assert [got.status_code for got in (large, unsized, many, long)] == [413, 413, 431, 431]
        assert large.headers["x-should-retry"] == "false"
        host, port = url.removeprefix("http://").split("/")[0].split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            assert slow.recv(65_536).startswith(b"HTTP/1.1 408")
        assert proxy.asked == []
        proxy.script(Answer(text="x" * 4000))
        assert http.post(url, json=BODY).status_code == 502
        stream = http.post(url, json={**BODY, "stream": True})
        assert b"reply_bytes_max" in stream.content
        assert b"[DONE]" not in stream.content
        assert proxy.memory.sessions() == []


def test_a_head_that_does_not_come_ends_its_connection(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    with running(tmp_path, upstream, header_seconds=0.1) as proxy:
        host, port = proxy.url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as idle:
            idle.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")
            assert idle.recv(100) == b""
        endless = socket.create_connection((host, int(port)), timeout=30)
        with endless, pytest.raises(OSError):
            endless.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 50_000_000)


def test_one_request_too_many_is_told_when_to_come_again(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client
) -> None:
    answered = threading.Event()
    with running(tmp_path, upstream, requests_max=1) as proxy:
        proxy.script(Answer(wait=answered))
        url = proxy.url + "/chat/completions"
        first = threading.Thread(target=lambda: http.post(url, json=BODY))
        first.start()
        try:
            until(lambda: len(proxy.asked) == 1)
            got = http.post(url, json=BODY)
            assert got.status_code == 503
            assert int(got.headers["retry-after"]) >= 1
        finally:
            answered.set()
            first.join()


@pytest.mark.parametrize(
    ("level", "priority", "status"),
    [
        ("guarded", "low", 200), ("high", "low", 503), ("high", "normal", 200),
        ("critical", "normal", 503),
    ],
)  # fmt: skip
def test_pressure_sheds_low_priority_first_and_then_everything(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client, level: str, priority: str,
    status: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stats = memopt.Memory.stats

    def at_level(memory: memopt.Memory) -> Any:
        import msgspec

        found = stats(memory)
        pressure = msgspec.structs.replace(found.pressure, level=level)
        return msgspec.structs.replace(found, pressure=pressure)

    monkeypatch.setattr(memopt.Memory, "stats", at_level)
    with running(tmp_path, upstream) as proxy:
        health = proxy.url.removesuffix("/v1") + "/health"
        until(lambda: bool(http.get(health).json()["level"] == level))
        headers = {"x-memopt-priority": priority}
        got = http.post(proxy.url + "/chat/completions", json=BODY, headers=headers)
        assert got.status_code == status
        assert ("retry-after" in got.headers) == (status == 503)
        assert len(proxy.asked) == (status == 200)


def test_a_reply_that_cannot_be_kept_is_not_acknowledged(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise memopt.DiskFullError("the disk is full", limit="disk", retry_after_seconds=5.0)

    with running(tmp_path, upstream) as proxy:
        monkeypatch.setattr(memopt.Session, "extend", full)
        url = proxy.url + "/chat/completions"
        whole = http.post(url, json=BODY)
        stream = http.post(url, json={**BODY, "stream": True})
        monkeypatch.undo()
    assert whole.status_code == 503
    assert whole.headers["retry-after"] == "5"
    assert b"[DONE]" not in stream.content
    assert b"the disk is full" in stream.content


# -- the end --------------------------------------------------------------------------------------


def test_stopping_lets_what_is_open_end(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    answered = threading.Event()
    upstream.answer_with(Answer(text="at last", wait=answered))
    got: list[Any] = []
    with running(tmp_path, upstream) as proxy:
        client = openai.OpenAI(base_url=proxy.url, api_key="k", max_retries=0)
        headers = {"X-Memopt-Session": "s"}
        asking = threading.Thread(
            target=lambda: got.append(
                client.chat.completions.create(model="m", messages=HI, extra_headers=headers)
            )
        )
        asking.start()
        until(lambda: len(upstream.requests) == 1)
        threading.Timer(0.3, answered.set).start()
        proxy.stop()
        asking.join()
        client.close()
        assert got[0].choices[0].message.content == "at last"
        assert [m["content"] for m in proxy.messages("s", "k")] == ["Hi", "at last"]


def test_what_does_not_end_in_time_is_kept_as_partial(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    with running(tmp_path, upstream, drain_seconds=1) as proxy:
        upstream.answer_with(
            Answer(raw_stream=[_event("first "), *[_event("more ")] * 200], gap_seconds=0.05)
        )
        with openai.OpenAI(base_url=proxy.url, api_key="k", max_retries=0) as client:
            headers = {"X-Memopt-Session": "s"}
            stream = client.chat.completions.create(
                model="m", messages=HI, stream=True, extra_headers=headers
            )
            assert next(iter(stream)).choices[0].delta.content == "first "
            proxy.stop()
            stream.close()
        kept = proxy.messages("s", "k")
    assert kept[0] == HI[0]
    assert kept[1][PARTIAL] is True
    assert kept[1]["content"].startswith("first more")


def _event(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()


def test_a_killed_server_has_lost_nothing_that_it_acknowledged(
    tmp_path: Path, upstream: ScriptedUpstream, http: httpx.Client
) -> None:
    upstream.answer_with(lambda asked: Answer(text=f"reply {len(upstream.requests)}"))
    messages: list[Any] = []
    store = tmp_path / "store"
    for word in ("one", "two"):
        command = [*MAIN, "serve", str(store), "--upstream", upstream.url, "--port", "0"]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as server:
            assert server.stdout is not None
            try:
                url = server.stdout.readline().split()[1].decode()
                for more in (word, f"{word} again"):
                    messages.append({"role": "user", "content": more})
                    got = http.post(url + "/chat/completions", json={"messages": messages})
                    messages.append(got.json()["choices"][0]["message"])
            finally:
                server.send_signal(signal.SIGKILL)
    with memopt.open(store) as memory:
        assert memory.check().clean
        # Without a name, and without anything remembered, it was found again each time.
        (info,) = memory.sessions()
        kept = list(memory.session(info.id, scope=info.scope).messages())
    assert [m["content"] for m in kept] == [m["content"] for m in messages]


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    for arguments, said in (
        (["--upstream", "ftp://x"], b"upstream: expected http://"),
        (["--upstream", "http://x/v1", "--host", "0.0.0.0"], b"host: 0.0.0.0 can be reached"),
    ):
        done = subprocess.run(
            [*MAIN, "serve", str(tmp_path / "s"), *arguments], capture_output=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr.startswith(b"memopt: " + said)
        assert not (tmp_path / "s").exists()


def test_a_key_without_a_scope_of_its_own_is_no_setting() -> None:
    with pytest.raises(UsageError, match="priority"):
        KeySettings(name="n", sha256=digest("k"), scope="s", priority="urgent")
