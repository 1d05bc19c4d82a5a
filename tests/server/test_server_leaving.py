"""Clients that leave at awkward moments: what they got is kept, and once."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxying import Proxy, running

from memopt.server import app, services, streaming
from memopt.server.keeping import PARTIAL
from memopt.testing.upstream import Answer, ScriptedUpstream
from waiting import until

HI: list[Any] = [{"role": "user", "content": "Hi"}]
NAMED = {"X-Memopt-Session": "s"}


class Full(asyncio.Semaphore):
    """One in which the first that comes waits until it leaves, and those behind it until the server
    is told to stop, where that is wanted."""

    def __init__(self, *, until_stopped: bool) -> None:
        super().__init__(2)
        self.waits = threading.Event()
        self.is_left = threading.Event()
        self._until_stopped = until_stopped

    async def acquire(self) -> Any:
        if not self.waits.is_set():
            self.waits.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.is_left.set()
        while self._until_stopped and not _is_stopping():
            await asyncio.sleep(0.001)
        return await super().acquire()


def _is_stopping() -> bool:
    """Whether the server has cancelled the tasks of requests: a second time, for one that left."""
    requests = [task for task in asyncio.all_tasks() if "run_asgi" in repr(task.get_coro())]
    return bool(requests) and all(task.cancelling() for task in requests)


@contextmanager
def full_proxy(
    path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch, *, until_stopped: bool = False
) -> Iterator[tuple[Proxy, Full]]:
    large = Full(until_stopped=until_stopped)

    def services_of(*arguments: Any) -> Any:
        return services.services_of(*arguments)._replace(large=large)

    monkeypatch.setattr(app, "services_of", services_of)
    monkeypatch.setattr(streaming, "_LARGE_CHARS", 1)
    with (
        ScriptedUpstream(answer) as upstream,
        running(path, upstream, drain_seconds=0.1) as proxy,
    ):
        yield proxy, large


def leave_while_it_waits(proxy: Proxy, large: Full, path: str, request: Any) -> None:
    url = proxy.url + path
    with httpx.stream("POST", url, json=request, headers=NAMED, trust_env=False) as left:
        # Held on to: a client whose iterator is gone has left.
        pieces = left.iter_bytes()
        assert next(pieces)
        assert large.waits.wait(30)
        assert not large.is_left.is_set()
    assert large.is_left.wait(30)


def test_who_leaves_while_a_whole_text_waits_to_be_committed_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_proxy(tmp_path, Answer(text="one two"), monkeypatch) as (proxy, large):
        leave_while_it_waits(proxy, large, "/chat/completions", {"messages": HI, "stream": True})
        until(lambda: not proxy.open_requests())
        kept = list(proxy.memory.session("s").messages())
        assert [message["content"] for message in kept] == ["Hi", "one two"]
        assert PARTIAL not in kept[1], "it had ended"


def test_what_waits_when_the_server_stops_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answer(text="one two")
    with full_proxy(tmp_path, answer, monkeypatch, until_stopped=True) as (proxy, large):
        leave_while_it_waits(proxy, large, "/chat/completions", {"messages": HI, "stream": True})
        assert proxy.open_requests() == 1
        assert not proxy.memory.session("s").head
        proxy.stop()
        kept = list(proxy.memory.session("s").messages())
        assert [message["content"] for message in kept] == ["Hi", "one two"]


# -- and come again -------------------------------------------------------------------------------

DELTA = NAMED | {"X-Memopt-History": "delta", "Idempotency-Key": "k"}


def first_of_a_stream(http: httpx.Client, headers: Any, request: Any) -> None:
    with http.stream("POST", "/chat/completions", json=request, headers=headers) as left:
        pieces = left.iter_bytes()
        assert next(pieces)


@pytest.mark.parametrize("window", [{}, {"X-Memopt-Window": "4000"}])
def test_a_retry_takes_the_place_of_what_was_cut_short(
    proxy: Proxy, http: httpx.Client, key: str, window: Any
) -> None:
    go_on = threading.Event()
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    session.append({"role": "user", "content": "before"})
    proxy.script([Answer(text="one two", wait_in_stream=go_on), Answer(text="whole")])
    request = {"messages": HI, "stream": True}
    first_of_a_stream(http, DELTA | window, request)
    until(lambda: not proxy.open_requests())
    assert list(session.messages())[-1][PARTIAL] is True
    go_on.set()
    got = http.post("/chat/completions", json=request, headers=DELTA | window)
    assert b"whole" in got.content
    assert [m["content"] for m in session.messages()] == ["before", "Hi", "whole"]
    sent = [message["content"] for message in proxy.asked[1].json()["messages"]]
    assert sent == ["before", "Hi"]
    again = http.post("/chat/completions", json=request, headers=DELTA | window)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "idempotency_key_used"


@pytest.mark.parametrize("window", [{}, {"X-Memopt-Window": "4000"}])
def test_a_retry_that_fails_leaves_what_was_cut_short(
    proxy: Proxy, http: httpx.Client, key: str, window: Any
) -> None:
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    cut = {"role": "assistant", "content": "one", PARTIAL: True}
    session.extend([HI[0], cut])
    proxy.script([Answer(status=500, body=b"{}"), Answer(text="whole")])
    for status, kept in ((500, ["Hi", "one"]), (200, ["Hi", "whole"])):
        got = http.post("/chat/completions", json={"messages": HI}, headers=DELTA | window)
        assert got.status_code == status
        assert [m["content"] for m in session.messages()] == kept


def test_something_else_with_a_key_goes_on_behind_what_was_cut_short(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    session = proxy.memory.session("s", scope=proxy.scope_of(key))
    session.extend([HI[0], {"role": "assistant", "content": "one", PARTIAL: True}])
    other = {"messages": [{"role": "user", "content": "go on"}]}
    http.post("/chat/completions", json=other, headers=DELTA)
    assert [m["content"] for m in session.messages()] == ["Hi", "one", "go on", "ok"]


def test_of_two_with_one_key_that_do_not_join_one_is_kept_and_the_other_told(
    proxy: Proxy, http: httpx.Client, key: str
) -> None:
    """They are of different paths, so they are no identical requests."""
    answered = threading.Event()
    proxy.script(Answer(text="one", wait=answered))
    got: list[httpx.Response] = []

    def ask(path: str, body: Any) -> None:
        got.append(http.post(path, json=body, headers=DELTA))

    first = threading.Thread(target=ask, args=("/chat/completions", {"messages": HI}))
    second = threading.Thread(target=ask, args=("/responses", {"input": "Hi"}))
    first.start()
    until(lambda: len(proxy.asked) == 1)
    second.start()
    until(lambda: proxy.open_requests() == 2)
    answered.set()
    first.join()
    second.join()
    assert sorted(each.status_code for each in got) == [200, 409]
    assert len(proxy.asked) == 1
    assert len(proxy.messages("s", key)) == 2
