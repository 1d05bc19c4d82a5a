"""The processes of the proxy's benchmark: the upstream, our proxy, and LiteLLM's.

Each is a process of its own, says where it listens, and serves until it is killed. Not here: what
is sent to them (proxy_load.py) and what is measured (proxy.py).
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import urlopen

import msgspec

import memopt
from memopt.base.errors import MemoptError
from memopt.bench.proxy_load import REPLY

_START_SECONDS: Final = 120.0
_URL: Final = re.compile(rb"http://[\w.]+:\d+/v1")
LITELLM_KEY: Final = "sk-of-this-benchmark-alone"
"""Without a key of its own, it does not start."""
LITELLM: Final = "MEMOPT_LITELLM"
"""The variable that names the `litellm` command, where it is not on the path."""


class Running(NamedTuple):
    """A process that serves."""

    url: str
    pid: int


@contextlib.contextmanager
def upstream(*, delay_seconds: float, gap_seconds: float = 0.0) -> Iterator[Running]:
    """A scripted upstream that answers after a while."""
    task = {"delay_seconds": delay_seconds, "gap_seconds": gap_seconds, "text": REPLY}
    module = "memopt.testing.upstream_process"
    with _serving([sys.executable, "-m", module, msgspec.json.encode(task).decode()]) as running:
        yield running


@contextlib.contextmanager
def proxy(store: Path, to: str, *, budget_bytes: int) -> Iterator[Running]:
    """Our proxy over a new store, as the command starts it. It is killed in the end."""
    command = "from memopt.cli import main; main()"
    environ = {"MEMOPT_BUDGET_BYTES": str(budget_bytes), "MEMOPT_DURABILITY": "sync"}
    arguments = ["serve", str(store), "--upstream", to, "--port", "0"]
    with _serving([sys.executable, "-c", command, *arguments], environ) as running:
        yield running


@contextlib.contextmanager
def _serving(command: Sequence[str], environ: dict[str, str] | None = None) -> Iterator[Running]:
    source = str(Path(memopt.__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([source, inherited] if inherited else [source])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environ or {})},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        # Its first line says where it is.
        found = _URL.search(process.stdout.readline())
        if found is None:
            raise MemoptError(f"{command[1:4]} ended with code {process.wait()}")
        yield Running(found[0].decode(), process.pid)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def piece_of(number: int, place: int, size: int) -> str:
    """What the upstream says in piece `place` of stream `number`."""
    return f"{number}.{place} ".ljust(size, "abcdefghij"[(number + place) % 10])


def litellm_command() -> list[str] | None:
    """How LiteLLM's proxy is started here; None where it is not installed."""
    named = os.environ.get(LITELLM) or shutil.which("litellm")
    if named and Path(named).exists():
        return [named]
    if find_spec("litellm") is not None:
        return [sys.executable, "-m", "litellm"]
    return None


@contextlib.contextmanager
def litellm_proxy(command: list[str], upstream: str, directory: Path) -> Iterator[str]:
    """LiteLLM's proxy before the same upstream, without extras, with one worker."""
    config = directory / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: scripted\n    litellm_params:\n"
        f"      model: openai/scripted\n      api_base: {upstream}\n      api_key: k\n"
        "litellm_settings:\n  telemetry: false\n  num_retries: 0\n"
    )
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port),
         "--num_workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": LITELLM_KEY,
              "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    try:
        _wait_for(process, f"http://127.0.0.1:{port}/health/liveliness")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_for(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MemoptError(f"LiteLLM ended with code {process.returncode}")
        with contextlib.suppress(OSError), urlopen(url, timeout=1) as found:
            if found.status == 200:
                return
        time.sleep(0.2)
    raise MemoptError("LiteLLM did not start in time")
