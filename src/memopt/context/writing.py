"""Summaries that a model writes, in the background, for the next compaction to use.

After a compaction, what it left out is handed over with the summary so far. What comes back is kept
beside the window and takes the place of the lines at the next compaction: so a context never waits
for a model, and a summary changes only where everything changes. Until it is there, and where it
fails, the extractive lines stand.

Owns: the queue and its thread. Invariant: at most JOBS_MAX summaries wait, their messages are
reserved, and nothing is kept of what was taken away meanwhile. Not here: what is left out
(window.py).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.context_protocols import Summarizer
from memopt.base.errors import MemoptError
from memopt.base.records import Message
from memopt.context.windows import Windows, Written

JOBS_MAX: Final = 64
_OWNER: Final = "summaries"
_SHARE: Final = 0.6
"""Of a summary, so much is written; lines are added behind it."""

_log: Final = logging.getLogger("memopt")


class Job(NamedTuple):
    """What a compaction left out."""

    scope_number: int
    line: int
    name: str
    start: int
    """Of the window: the summary is of everything before it."""
    before: str | None
    """The summary of what was left out earlier."""
    messages: list[Message]
    tokens_max: int
    count: Callable[[str], int]
    size_bytes: int
    seen: int
    """How much had been taken away."""


class SummaryWriter:
    """Thread-safe."""

    def __init__(self, summarizer: Summarizer | None, windows: Windows, budget: Budget) -> None:
        self._summarizer = summarizer
        self._windows = windows
        self._budget = budget
        self._jobs: deque[Job] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    @property
    def is_on(self) -> bool:
        return self._summarizer is not None

    def hand_over(self, job: Job) -> bool:
        """False where too many wait, or their messages have no room."""
        with self._wake:
            if self._is_ending or len(self._jobs) >= JOBS_MAX:
                return False
            if not self._budget.try_reserve(_OWNER, job.size_bytes):
                return False
            self._jobs.append(job)
            if self._thread is None:
                # A daemon: a model that never answers must not keep the process alive.
                self._thread = threading.Thread(
                    target=self._run, name="memopt-summaries", daemon=True
                )
                self._thread.start()
            self._wake.notify()
        return True

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._is_ending:
                    self._wake.wait()
                if self._is_ending:
                    return
                job = self._jobs.popleft()
            try:
                self._write(job)
            except Exception:  # noqa: BLE001 whatever a caller's function raises
                _log.exception("a summary was not written")
            finally:
                self._budget.release(_OWNER, job.size_bytes)

    def _write(self, job: Job) -> None:
        assert self._summarizer is not None
        tokens_max = int(job.tokens_max * _SHARE)
        text = self._summarizer(job.before, job.messages, tokens_max)
        if not isinstance(text, str) or not text.strip():
            _log.warning("a summarizer returned no text, but %s", type(text).__name__)
            return
        written = Written(job.start, clipped(text.strip(), job.count, tokens_max))
        try:
            self._windows.keep_written(job.scope_number, job.line, job.name, written, job.seen)
        except MemoptError as error:
            _log.warning("a summary was not kept: %s", error)

    def close(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        with self._wake:
            self._is_ending = True
            for job in self._jobs:
                self._budget.release(_OWNER, job.size_bytes)
            self._jobs.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def abandon(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._summarizer = None


def clipped(text: str, count: Callable[[str], int], tokens_max: int) -> str:
    """A text that has no more tokens, cut at the end of a line or a sentence where one is near."""
    while text and (tokens := count(text)) > tokens_max:
        chars = min(len(text) - 1, len(text) * tokens_max // tokens)
        cut = max(text.rfind("\n", 0, chars), text.rfind(". ", 0, chars) + 1)
        text = text[: cut if cut > chars // 2 else chars].rstrip()
    return text
