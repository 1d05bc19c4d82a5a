"""Question: what does the proxy add to a call, how much memory do streams take, and how many
requests go through it?

Method: the upstream, the proxy and the clients are processes of their own on one machine. Four
measurements.
1. Latency: 32 clients with sessions of 40 to 60 messages of real conversations, an upstream that
   takes 500 ms, one worker, `sync`. The clients begin spread over 500 ms, and each has a key and
   so a scope of its own. Each asks the upstream directly and through the proxy in turn, so both
   see the same machine; what is added is the difference of the quantiles. A request that begins a
   session brings 40 messages and more at once, and is counted for itself. Once transparent, once
   with recall and a window of 8,000 tokens.
2. The same with streams: until the first byte of the body.
3. 1,000 streams at once, of 1,000 chunks of 1 KB, through a budget of 256 MiB: RSS of the proxy
   above what it had after one stream, and every text read back from the store.
4. Requests a second of 32 clients with an upstream that takes no time, transparent, beside
   LiteLLM's proxy before the same upstream where it is installed (`MEMOPT_LITELLM` names its
   command).
Baseline: the upstream itself, by the same clients; LiteLLM. Not measured: a network, TLS, and
several workers, of which a store has one.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

import memopt
from memopt.base.errors import MemoptError
from memopt.base.records import Durability, Message
from memopt.base.units import MIB
from memopt.bench import data
from memopt.bench.command import BenchOptions, main, say, scratch
from memopt.bench.measure import machine
from memopt.bench.proxy_load import Connection, Talk, Target, milliseconds, talk
from memopt.bench.proxy_parts import (
    LITELLM_KEY,
    litellm_command,
    litellm_proxy,
    piece_of,
    proxy,
    upstream,
)

_CLIENTS: Final = 32
_DELAY_SECONDS: Final = 0.5
_BUDGET_BYTES: Final = 256 * MIB
_CHUNK_CHARS: Final = 1024
_WINDOW: Final = (("x-memopt-window", "8000"), ("x-memopt-recall", "on"))
_SAMPLE_SECONDS: Final = 0.02


def run(options: BenchOptions) -> dict[str, Any]:
    """All of them."""
    conversations = data.load(options.files or (data.trajectories(),))
    rounds = 2 if options.quick else 30
    result: dict[str, Any] = {}
    for name, headers in (("transparent", ()), ("window", _WINDOW)):
        say(f"latency, {name}")
        result[name] = _latency(options, conversations, rounds, headers, is_stream=False)
    say("first chunk")
    result["first_chunk"] = _latency(options, conversations, rounds, (), is_stream=True)
    say("streams")
    result["streams"] = _streams(options, *((20, 50) if options.quick else (1_000, 1_000)))
    say("throughput")
    result["throughput"] = _throughput(options, conversations, 5 if options.quick else 60)
    with scratch(options) as home:
        result["machine"] = machine(home)
    return result


def _latency(
    options: BenchOptions, conversations: Sequence[Sequence[Message]], rounds: int,
    headers: Sequence[tuple[str, str]], *, is_stream: bool,
) -> dict[str, Any]:  # fmt: skip
    delay = 0.05 if options.quick else _DELAY_SECONDS
    plan = Talk(_CLIENTS, rounds, is_stream, 40, 60, spread_seconds=delay)
    with (
        scratch(options) as home,
        upstream(delay_seconds=delay) as model,
        proxy(home / "store", model.url, budget_bytes=_BUDGET_BYTES) as ours,
    ):
        targets = [Target(model.url), Target(ours.url, tuple(headers))]
        # One round makes connections and imports what is imported late.
        _run(talk(targets, conversations, plan._replace(rounds=1, name="warm")))
        direct, through = _run(talk(targets, conversations, plan))
    direct_ns, through_ns = (
        (each.first if is_stream else each.whole) for each in (direct, through)
    )
    added = [milliseconds(through_ns, q) - milliseconds(direct_ns, q) for q in (0.5, 0.99)]
    return {
        "requests": len(through_ns),
        "direct_ms": _quantiles(direct_ns),
        "through_ms": _quantiles(through_ns),
        "added_ms_p50": round(added[0], 2),
        "added_ms_p99": round(added[1], 2),
        "opening_added_ms_p50": round(
            milliseconds(through.opening, 0.5) - milliseconds(direct.opening, 0.5), 2
        ),
    }


def _quantiles(times: Sequence[int]) -> dict[str, float]:
    return {
        f"p{round(share * 100)}": round(milliseconds(times, share), 2) for share in (0.5, 0.9, 0.99)
    }


def _streams(options: BenchOptions, streams: int, chunks: int) -> dict[str, Any]:
    with scratch(options) as home:
        with (
            upstream(delay_seconds=0.1, gap_seconds=0.002) as model,
            proxy(home / "store", model.url, budget_bytes=_BUDGET_BYTES) as ours,
        ):
            _run(_stream_all(ours.url, range(streams, streams + 1), chunks))
            with _peak_rss(ours.pid) as peak:
                before = psutil.Process(ours.pid).memory_info().rss
                seconds = _run(_stream_all(ours.url, range(streams), chunks))
        # The proxy was killed: what it acknowledged has to be there.
        equal = _texts_equal(home / "store", streams, chunks)
    return {
        "streams": streams,
        "chunks": chunks,
        "seconds": round(seconds, 1),
        "rss_before_mib": round(before / MIB, 1),
        "rss_growth_mib": round((max(peak) - before) / MIB, 1),
        "texts_equal": equal,
    }


async def _stream_all(url: str, numbers: range, chunks: int) -> float:
    async def one(number: int) -> None:
        connection = Connection(Target(url))
        said = {"role": "user", "content": f"stream {number} {chunks} {_CHUNK_CHARS}"}
        request = {"model": "scripted", "messages": [said], "stream": True}
        await connection.ask(msgspec.json.encode(request), ("x-memopt-session", f"stream-{number}"))
        connection.close()

    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(one(number) for number in numbers))
    return loop.time() - began


def _texts_equal(store: Path, streams: int, chunks: int) -> int:
    """How many of the texts are what the upstream said."""
    equal = 0
    with memopt.open(store, durability=Durability.OS) as memory:
        for number in range(streams):
            messages = list(memory.session(f"stream-{number}").messages())
            text = "".join(piece_of(number, place, _CHUNK_CHARS) for place in range(chunks))
            equal += len(messages) == 2 and messages[1]["content"] == text
    return equal


def _throughput(
    options: BenchOptions, conversations: Sequence[Sequence[Message]], rounds: int
) -> dict[str, Any]:
    plan = Talk(_CLIENTS, rounds, False, 9, 19)
    found: dict[str, Any] = {}
    command = litellm_command()
    with scratch(options) as home, contextlib.ExitStack() as stack:
        model = stack.enter_context(upstream(delay_seconds=0.0))
        ours = stack.enter_context(proxy(home / "store", model.url, budget_bytes=_BUDGET_BYTES))
        targets = {"direct": Target(model.url), "memopt": Target(ours.url)}
        if command is None:
            say("LiteLLM is not installed: no ratio")
        else:
            try:
                url = stack.enter_context(litellm_proxy(command, model.url, home))
                targets["litellm"] = Target(url, (("authorization", f"Bearer {LITELLM_KEY}"),))
            except MemoptError as error:
                say(f"{error}: no ratio")
        for turn in range(1 if options.quick else 3):
            for name, target in targets.items():
                named = plan._replace(name=f"bench-{turn}")
                (times,) = _run(talk([target], conversations, named))
                rate = (len(times.whole) + len(times.opening)) / times.seconds
                found.setdefault(name, []).append(round(rate, 1))
    result: dict[str, Any] = {
        f"{name}_requests_per_second": sorted(rates)[len(rates) // 2]
        for name, rates in found.items()
    }
    if "litellm" in found:
        ours, theirs = (result[f"{name}_requests_per_second"] for name in ("memopt", "litellm"))
        result["ratio"] = round(ours / theirs, 2)
    return result


# -- memory ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _peak_rss(pid: int) -> Iterator[list[int]]:
    """Samples of a process's RSS."""
    process, samples, over = psutil.Process(pid), [0], threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            samples[0] = max(samples[0], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield samples
    finally:
        over.set()
        watching.join()


def _run(work: Any) -> Any:
    return asyncio.run(work)


if __name__ == "__main__":
    sys.exit(main("proxy", __doc__))
