"""What happens by itself: one thread a store, a little at a time.

It seals idle tails, lets idle pages and entries go, copies the log home, learns dictionaries and
writes touch times. Nothing waits for it, nothing is lost without it; with a period of 0 there is no
thread.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from memopt.base.errors import MemoptError, StoreClosedError, StoreFailedError

_log: Final = logging.getLogger("memopt")


class Maintenance:
    """Runs `steps` in turn every `period_seconds`, on a thread of its own."""

    def __init__(self, period_seconds: float, steps: Sequence[Callable[[], None]]) -> None:
        self._period_seconds = period_seconds
        self._steps = steps
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._period_seconds and self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="memopt-maintenance", daemon=True
            )
            self._thread.start()

    def once(self) -> None:
        """Run every step now, on this thread."""
        with self._lock:
            for step in self._steps:
                if self._stop.is_set():
                    return
                step()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_seconds):
            for step in self._steps:
                if self._stop.is_set() or not self._try(step):
                    return

    def _try(self, step: Callable[[], None]) -> bool:
        """One step, which is in no other's way; False once the store is closed."""
        try:
            with self._lock:
                step()
        except (StoreClosedError, StoreFailedError):
            return False
        except MemoptError as error:
            # Full disks and budgets pass; the next round tries again.
            _log.warning("maintenance was put off: %s", error)
        except Exception:  # noqa: BLE001 - logged, with its traceback
            # A door: a defect here must be seen, and must not stop what serves users.
            _log.exception("maintenance failed")
        return True
