"""The order in which sessions come back, from traces of real use.

Owns: reading the traces. Invariant: sessions are numbered from 0 in the order they first appear,
and what is returned is in order of time. Not here: what a session holds, or reading it.

Mooncake's conversation trace names the blocks of every prompt; a request continues the conversation
whose last full block it holds, the first blocks left out, which many share. The coding-agent trace
has sessions with the seconds between their requests; copies of them are laid over each other so
that some hundreds go on at a time.
Where the traces are absent, a seeded draw with Zipf's skew stands in, and its name says so.
"""

import gzip
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from memopt.bench import data

_SHARED_BLOCKS: Final = 4
_OVERLAPPING: Final = 400
_COPIES: Final = 16


class Returns(NamedTuple):
    name: str
    order: tuple[int, ...]
    """Sessions, one for each request."""

    @property
    def sessions(self) -> int:
        return max(self.order) + 1


def mooncake(limit: int) -> Returns:
    """The conversations of the first `limit` requests."""
    path = data.find("kv_traces/mooncake_conversation_trace.jsonl.gz")
    if path is None:
        return drawn("zipf", limit)
    holder: dict[int, int] = {}
    order: list[int] = []
    sessions = 0
    for request in _lines(path):
        blocks = request["hash_ids"]
        own = blocks[_SHARED_BLOCKS:]
        session = next((holder[block] for block in reversed(own) if block in holder), None)
        if session is None:
            session, sessions = sessions, sessions + 1
        order.append(session)
        if len(own) > 1:
            # The last block of a prompt is not full, and is another one when it goes on.
            holder[own[-2]] = session
        if len(order) == limit:
            break
    return Returns("mooncake", tuple(order))


def coding_agents(limit: int) -> Returns:
    """Requests of overlapping coding sessions, by time."""
    path = data.find("kv_traces/coding_agent_sessions.jsonl.gz")
    if path is None:
        return drawn("zipf", limit)
    traces = [[request["t"] for request in trace["requests"]] for trace in _lines(path)]
    step = sum(times[-1] for times in traces) / len(traces) / _OVERLAPPING
    moments = sorted(
        (copy * len(traces) * step + at * step + moment, copy * len(traces) + at)
        for copy in range(_COPIES)
        for at, times in enumerate(traces)
        for moment in times
    )
    return Returns("coding agents", _renumbered(session for _, session in moments[:limit]))


def rota(limit: int, *, scopes: int, each: int, seed: int = 0) -> Returns:
    """Made up: an orchestrator in each scope reads its `each` sessions in an order of its own that
    stays the same, and scopes take turns at random. What `order` is for, at its best."""
    chance = random.Random(seed)
    rounds = [chance.sample(range(each), each) for _ in range(scopes)]
    at = [0] * scopes
    order = []
    for _ in range(limit):
        scope = chance.randrange(scopes)
        order.append(scope * each + rounds[scope][at[scope] % each])
        at[scope] += 1
    return Returns("rota", tuple(order))


def drawn(name: str, limit: int, *, sessions: int = 2000, seed: int = 0) -> Returns:
    draw = random.Random(seed).random
    return Returns(name, _renumbered(int((sessions + 1) ** draw()) - 1 for _ in range(limit)))


def _renumbered(sessions: Iterator[int]) -> tuple[int, ...]:
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(session, len(numbers)) for session in sessions)


def _lines(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    with gzip.open(path, "rb") as lines:
        for line in lines:
            yield msgspec.json.decode(line)
