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
