"""What the handlers of requests share. Not here: what they do with it."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from memopt import Memory
from memopt.server.books import Books
from memopt.server.canonical import Digests
from memopt.server.claims import Claims
from memopt.server.keeping import Keeper
from memopt.server.lines import Lines
from memopt.server.matching import Matcher
from memopt.server.noted import Notes
from memopt.server.room import Room
from memopt.server.settings import ServerSettings
from memopt.server.threads import StoreThreads
from memopt.server.upstream import Upstream

_LARGE_MAX: Final = 2
_WINDOWS_MAX: Final = 1
"""Contexts are computed, and two of them at a time only keep each other from it."""


class Services(NamedTuple):
    """One server's parts."""

    memory: Memory
    settings: ServerSettings
    threads: StoreThreads
    upstream: Upstream
    digests: Digests
    lines: Lines
    keeper: Keeper
    matcher: Matcher
    notes: Notes
    books: Books
    claims: Claims
    room: Room
    large: asyncio.Semaphore
    """For commits of long texts, each of which takes several times its text for a moment."""
    windows: asyncio.Semaphore
    """For making contexts."""

    def count_of(self, model: str | None) -> Callable[[str], int]:
        """What counts the tokens of a text for a model."""
        return self.memory._parts.contexts.counting(model)

    def close(self) -> None:
        """Behind the last request."""
        self.threads.close()
        for remembered in (*self.digests.parts, *self.lines.parts):
            remembered.clear()


def services_of(memory: Memory, settings: ServerSettings) -> Services:
    config, budget = memory.config, memory._parts.budget
    threads = StoreThreads(settings.store_threads, settings.store_queue_max)
    lines = Lines(budget, lines_max=settings.lines_max, matches_max=settings.matches_max)
    # A message that is larger could be written, and never read back.
    bytes_max = min(config.message_bytes_max, config.budget_bytes // 4)
    digests = Digests(budget, bytes_max=bytes_max, depth_max=config.message_depth_max)
    for remembered in (*digests.parts, *lines.parts):
        memory._parts.upkeep.ask_also(remembered.make_free)
    return Services(
        memory=memory,
        settings=settings,
        threads=threads,
        upstream=Upstream(settings),
        digests=digests,
        lines=lines,
        keeper=Keeper(memory, lines),
        matcher=Matcher(memory, lines),
        notes=Notes(memory),
        books=Books(),
        claims=Claims(),
        room=Room(
            budget, threads, free_bytes=settings.request_bytes,
            wait_seconds=settings.admission_wait_seconds,
        ),
        large=asyncio.Semaphore(_LARGE_MAX),
        windows=asyncio.Semaphore(_WINDOWS_MAX),
    )  # fmt: skip
