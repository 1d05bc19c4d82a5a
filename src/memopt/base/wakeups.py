"""Waking who waits, for a bounded time.

Owns one lock of C that is held but for a moment. Not `SimpleQueue.get(timeout=…)`: woken in vain
when its time is just over, it reckons with less than no time left, which its lock takes for ever
(found by an hour of too much load, in CPython 3.11).
"""

import contextlib
import threading


class Wakeup:
    """Wakes one waiter a ring, at most; rings that nobody waited for are one."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        if self._lock.locked():
            # Or another ring was quicker.
            with contextlib.suppress(RuntimeError):
                self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Until it rings, or for so long; whether it rang."""
        return self._lock.acquire(timeout=max(0.0, seconds))
