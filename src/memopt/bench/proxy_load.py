"""The clients of the proxy's benchmark: conversations over keep-alive connections.

A client here does as little as it can, for it shares the machine with what it measures: it writes a
request, finds the end of the reply, and notes when the first byte of the body and the last came.
Not here: what is asked and what is made of the times (proxy.py).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from memopt.base.errors import UsageError
from memopt.base.records import Message

_HEAD_BYTES_MAX: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
_encode: Final = msgspec.json.Encoder().encode


class Target(NamedTuple):
    """Where requests go, and with which headers."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()


class Timed(NamedTuple):
    """A reply, and when it came."""

    first_ns: int
    """Until the first byte of the body."""
    whole_ns: int
    size_bytes: int
    body: bytes
    """Empty for a stream."""


class Connection:
    """One client's connection."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path + "/chat/completions"
        self._headers = target.headers
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            self._host, self._port, limit=_HEAD_BYTES_MAX
        )

    async def ask(self, body: bytes, *headers: tuple[str, str]) -> Timed:
        """Ask, and read the whole reply. Raises UsageError for another status than 200."""
        if self._writer is None or self._reader is None or self._reader.at_eof():
            await self.open()
        assert self._writer is not None
        assert self._reader is not None
        lines = [
            f"POST {self._path} HTTP/1.1",
            f"host: {self._host}:{self._port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in (*self._headers, *headers)),
        ]
        begun = time.perf_counter_ns()
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = head[9:12]
        if b"transfer-encoding: chunked" in head:
            timed = await self._chunks(begun)
        else:
            start = head.index(b"content-length:") + 15
            length = int(head[start : head.index(b"\r", start)])
            whole = await self._reader.readexactly(length)
            ended = time.perf_counter_ns()
            timed = Timed(ended - begun, ended - begun, length, whole)
        if status != b"200":
            raise UsageError(f"{status.decode()}: {timed.body[:300]!r}", field=self._path)
        return timed

    async def _chunks(self, begun: int) -> Timed:
        assert self._reader is not None
        first, size, last = 0, 0, b""
        while True:
            line = await self._reader.readuntil(b"\r\n")
            length = int(line, 16)
            piece = await self._reader.readexactly(length + 2)
            if not first:
                first = time.perf_counter_ns() - begun
            if not length:
                break
            size += length
            last = (last + piece[:-2])[-64:]
        if b"[DONE]" not in last:
            raise UsageError(f"a stream ended with {last!r}", field="stream")
        return Timed(first, time.perf_counter_ns() - begun, size, b"")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Talk(NamedTuple):
    """What clients do: so many at once, each with conversations of its own."""

    clients: int
    rounds: int
    """Requests of each client to each target."""
    is_stream: bool
    start_messages: int
    """That a conversation begins with, and..."""
    stop_messages: int
    """... ends with: then the client begins another one."""
    name: str = "bench"
    """What session names begin with."""
    spread_seconds: float = 0.0
    """Over which the clients begin: people do not all ask in one millisecond."""


class Times(NamedTuple):
    """What one target took."""

    whole: list[int]
    first: list[int]
    """Nanoseconds, each of them: a bucket of a histogram is wider than what is looked for."""
    opening: list[int]
    """Of requests that begin a session, and bring all its messages at once: not in `whole`."""
    seconds: float


def milliseconds(times: Sequence[int], share: float) -> float:
    """A quantile."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e6


async def talk(
    targets: Sequence[Target], conversations: Sequence[Sequence[Message]], plan: Talk
) -> list[Times]:
    """Each client asks the targets in turn, so that all of them see the same machine."""
    times = [Times([], [], [], 0.0) for _ in targets]
    began = time.perf_counter()
    await asyncio.gather(
        *(_client(number, targets, conversations, plan, times) for number in range(plan.clients))
    )
    seconds = time.perf_counter() - began
    return [each._replace(seconds=seconds) for each in times]


async def _client(
    number: int, targets: Sequence[Target], conversations: Sequence[Sequence[Message]],
    plan: Talk, times: Sequence[Times],
) -> None:  # fmt: skip
    own = ("authorization", f"Bearer client-{number}")
    connections = [
        Connection(target if _has_key(target) else target._replace(headers=(*target.headers, own)))
        for target in targets
    ]
    for connection in connections:
        await connection.open()
    await asyncio.sleep(plan.spread_seconds * number / plan.clients)
    histories = [_Conversation(conversations, plan, number, place) for place in range(len(targets))]
    for round_number in range(plan.rounds):
        order = list(range(len(targets)))
        if (round_number + number) % 2:
            order.reverse()
        for place in order:
            history = histories[place]
            opens = history.is_new
            reply = await connections[place].ask(
                history.body(), ("x-memopt-session", history.session)
            )
            history.answered()
            if opens:
                times[place].opening.append(reply.whole_ns)
            else:
                times[place].whole.append(reply.whole_ns)
                times[place].first.append(reply.first_ns)
    for connection in connections:
        connection.close()


def _has_key(target: Target) -> bool:
    return any(name == "authorization" for name, _ in target.headers)


REPLY: Final = "I have looked into it, and here is what I found for you today."
"""What the scripted upstream answers, so that clients know it without reading it."""


class _Conversation:
    """A client's history, as it would send it."""

    def __init__(
        self, conversations: Sequence[Sequence[Message]], plan: Talk, number: int, place: int
    ) -> None:
        self._conversations = conversations
        self._plan = plan
        self._number = number
        self._place = place
        self._turn = 0
        # Each begins at another length, or all of them would begin the next one together.
        self._begin(2 * number % max(1, plan.stop_messages - plan.start_messages - 2))

    def _begin(self, more: int = 0) -> None:
        plan = self._plan
        self.is_new = True
        count = plan.start_messages + more
        self.session = f"{plan.name}-{self._place}-{self._number}-{self._turn}"
        source = self._conversations[(self._number * 7 + self._turn) % len(self._conversations)]
        usable = [message for message in source if message.get("role") in ("user", "assistant")]
        said = [
            {"role": ("user", "assistant")[at % 2], "content": str(each.get("content") or "Yes.")}
            for at, each in enumerate(usable or source)
        ]
        messages = (said * (count // len(said) + 1))[:count]
        # No two conversations are the same one.
        messages[0] = {"role": "user", "content": f"{self.session}: {messages[0]['content']}"}
        if messages[-1]["role"] != "user":
            messages.pop()
        self._raw = [_encode(message) for message in messages]

    def body(self) -> bytes:
        rest = b',"stream":true}' if self._plan.is_stream else b"}"
        return b'{"model":"scripted","messages":[' + b",".join(self._raw) + b"]" + rest

    def answered(self) -> None:
        reply: dict[str, Any] = {"role": "assistant", "content": REPLY}
        self._raw.append(_encode(reply))
        self._turn += 1
        self.is_new = False
        if len(self._raw) + 1 >= self._plan.stop_messages:
            self._begin()
        else:
            question = {"role": "user", "content": f"And what about {self._turn}?"}
            self._raw.append(_encode(question))
