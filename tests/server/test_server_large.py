"""Large replies, many at once, beside a small budget: a server in a process of its own, so that its
memory can be looked at."""

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import memopt
from memopt.base.units import KIB, MIB
from memopt.testing.upstream import Answer, Asked, ScriptedUpstream

BUDGET_BYTES = 64 * MIB
MAIN = [sys.executable, "-c", "from memopt.cli import main; main()"]
REPLY_BYTES = 5 * MIB
REPLIES = 16

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


class Served:
    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self._pid = pid

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text("utf-8")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * KIB

    def ask(self, name: str, stream: bool) -> tuple[int, str]:
        request = {"messages": [{"role": "user", "content": name}], "stream": stream}
        headers = {"x-memopt-session": name}
        with httpx.Client(trust_env=False, timeout=60) as http:
            got = http.post(self.url + "/chat/completions", json=request, headers=headers)
        return got.status_code, got.text

    def ask_all(self, stream: bool) -> list[tuple[int, str]]:
        with concurrent.futures.ThreadPoolExecutor(REPLIES) as pool:
            names = [f"s{number}" for number in range(REPLIES)]
            return list(pool.map(lambda name: self.ask(name, stream), names))


@contextmanager
def serving(store: Path, upstream: ScriptedUpstream) -> Iterator[Served]:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "MEMOPT_BUDGET_BYTES": str(BUDGET_BYTES)}
    command = [*MAIN, "serve", str(store), "--upstream", upstream.url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as server:
        assert server.stdout is not None
        try:
            yield Served(server.stdout.readline().split()[1].decode(), server.pid)
        finally:
            server.terminate()


def kept(store: Path) -> dict[str, dict[str, Any]]:
    """The replies, by their sessions."""
    with memopt.open(store, budget=BUDGET_BYTES) as memory:
        assert memory.check().clean
        return {
            info.id: list(memory.session(info.id, scope=info.scope).messages())[-1]
            for info in memory.sessions()
            if info.id != "warm"
        }


def test_large_replies_are_whole_or_refused_and_never_beyond_the_budget(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "x" * REPLY_BYTES}
    whole = msgspec.json.encode({"choices": [{"index": 0, "message": message}]})

    def script(asked: Asked) -> Answer:
        return Answer() if b'"warm"' in asked.body else Answer(body=whole)

    with (
        ScriptedUpstream(script) as upstream,
        serving(tmp_path / "store", upstream) as served,
    ):
        assert served.ask("warm", stream=False)[0] == 200
        before = served.peak_bytes()
        got = served.ask_all(stream=False)
        grown = served.peak_bytes() - before
    assert {status for status, _ in got} <= {200, 503}
    assert grown < 1.5 * BUDGET_BYTES
    stored = kept(tmp_path / "store")
    assert stored
    for number, (status, text) in enumerate(got):
        assert stored.get(f"s{number}") == (message if status == 200 else None)
        assert status == 503 or text == whole.decode()


def test_large_calls_of_streams_are_whole_or_refused_and_never_beyond_the_budget(
    tmp_path: Path,
) -> None:
    piece = "y" * (4 * KIB)
    count = REPLY_BYTES // len(piece)

    def chunks() -> Iterator[bytes]:
        call: dict[str, Any] = {"index": 0, "id": "c", "type": "function"}
        for number in range(count):
            begun = {"name": "f"} if not number else {}
            delta = {"tool_calls": [call | {"function": begun | {"arguments": piece}}]}
            yield _event({"choices": [{"index": 0, "delta": delta}]})
            call = {"index": 0}
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
        yield b"data: [DONE]\n\n"

    def script(asked: Asked) -> Answer:
        return Answer() if b'"warm"' in asked.body else Answer(raw_stream=chunks())

    with (
        ScriptedUpstream(script) as upstream,
        serving(tmp_path / "store", upstream) as served,
    ):
        assert served.ask("warm", stream=True)[0] == 200
        before = served.peak_bytes()
        got = served.ask_all(stream=True)
        grown = served.peak_bytes() - before
    assert grown < 1.5 * BUDGET_BYTES
    stored = kept(tmp_path / "store")
    assert stored
    for number, (_, text) in enumerate(got):
        is_whole = text.endswith("data: [DONE]\n\n")
        assert is_whole or '"code":"capacity"' in text[-500:]
        assert is_whole == (f"s{number}" in stored)
        if is_whole:
            (call,) = stored[f"s{number}"]["tool_calls"]
            assert call["function"]["arguments"] == piece * count


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
