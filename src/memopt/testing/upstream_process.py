"""A scripted upstream as a process of its own: `python -m memopt.testing.upstream_process TASK`.

TASK is JSON: `text`, what it answers, `delay_seconds` before each reply and `gap_seconds` between
the pieces of a stream. A request whose first message is `stream N COUNT SIZE` is answered by COUNT
pieces of SIZE characters that only N has. The first line that it prints says where it listens; then
it serves until it is killed.
"""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from memopt.testing.upstream import Answer, Asked, ScriptedUpstream


class Task(msgspec.Struct, frozen=True, kw_only=True):
    text: str = "ok"
    delay_seconds: float = 0.0
    gap_seconds: float = 0.0


def main(argument: str) -> None:
    task = msgspec.json.decode(argument, type=Task)
    plain = Answer(text=task.text, delay_seconds=task.delay_seconds, gap_seconds=task.gap_seconds)

    def script(asked: Asked) -> Answer:
        if b'"stream ' not in asked.body:
            return plain
        _, number, count, size = str(asked.json()["messages"][0]["content"]).split()
        return Answer(
            raw_stream=Pieces(int(number), int(count), int(size)),
            delay_seconds=task.delay_seconds, gap_seconds=task.gap_seconds,
        )  # fmt: skip

    upstream = ScriptedUpstream(script)
    upstream.keeps_requests = False
    asyncio.run(upstream.serve(lambda: _say(upstream.url)))


def _say(url: str) -> None:
    sys.stdout.write(url + "\n")
    sys.stdout.flush()


class Pieces:
    """The chunks of a stream, made as they are sent."""

    def __init__(self, number: int, count: int, size: int) -> None:
        self._number = number
        self._count = count
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        for place in range(self._count):
            letter = "abcdefghij"[(self._number + place) % 10]
            text = f"{self._number}.{place} ".ljust(self._size, letter)
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            yield _event({"object": "chat.completion.chunk", "choices": [choice]})
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield b"data: [DONE]\n\n"


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


if __name__ == "__main__":
    main(sys.argv[1])
