"""Finding room when a reservation does not fit: what is cheapest to make again goes first."""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final

from memopt.base.units import KIB, MIB
from memopt.codecs.zstd import Zstd
from memopt.paging.pager import Pager
from memopt.sessions.residents import Residents

_M_ARENA_MAX: Final = -8
"""Of mallopt(3), in <malloc.h>."""
_RESIDENTS_KEPT: Final = 0.75
_TRIM_FREED_BYTES: Final = 4 * MIB
_TRIM_SHARE: Final = 1 / 16
"""Of the budget, where that is less."""
_TRIM_FREED_BYTES_UNDER_PRESSURE: Final = 256 * KIB
_RESIDENTS_UNDER_PRESSURE: Final = 0.25
_CACHES_UNDER_PRESSURE: Final = 0.5


class Upkeep:
    """Asked by the budget, on the thread that needs the room."""

    def __init__(
        self, pager: Pager, residents: Residents, compressor: Zstd,
        close_idle_readers: Callable[[], None], budget_bytes: int,
    ) -> None:  # fmt: skip
        self._pager = pager
        self._close_idle_readers = close_idle_readers
        self._residents = residents
        self._compressor = compressor
        self._others: list[Callable[[int], None]] = []
        self._limits: list[Callable[[float], None]] = []
        self._freed: list[Callable[[], int]] = []
        self._freed_bytes = 0
        """Freed by all when the heap was trimmed last."""
        self._trim_bytes_calm = min(_TRIM_FREED_BYTES, int(budget_bytes * _TRIM_SHARE))
        self._trim_bytes = self._trim_bytes_calm
        self._is_shrunk = False

    def ask_also(self, make_free: Callable[[int], None]) -> None:
        """`make_free(size_bytes)` is asked when pages alone do not do."""
        self._others.append(make_free)

    def shrink_also(self, limit: Callable[[float], None], freed_bytes: Callable[[], int]) -> None:
        """`limit(share)` is told under pressure to hold that share of what it holds, and 1 when it
        is over; `freed_bytes()` is what it has let go of so far, which leaves holes, too."""
        self._limits.append(limit)
        self._freed.append(freed_bytes)

    def make_free(self, size_bytes: int) -> None:
        self._pager.make_free(size_bytes)
        for make_free in self._others:
            if self._pager.has_room(size_bytes):
                return
            make_free(size_bytes)
        if self._pager.has_room(size_bytes):
            return
        self._residents.shrink(_RESIDENTS_KEPT)
        self._compressor.trim()
        if not self._pager.has_room(size_bytes):
            self._close_idle_readers()

    def trim(self) -> None:
        """On the maintenance thread: give back the holes that pages which went have left in the
        heap. Half a millisecond a round; without it, a twentieth of a budget of 64 MiB, and a
        quarter of one of 16."""
        if self._is_shrunk:
            self._compressor.trim()
        if self._all_freed_bytes() - self._freed_bytes >= self._trim_bytes:
            self.trim_now()

    def trim_now(self) -> None:
        self._freed_bytes = self._all_freed_bytes()
        trim_heap()

    def _all_freed_bytes(self) -> int:
        return self._pager.freed_bytes + sum(freed() for freed in self._freed)

    # -- under pressure ---------------------------------------------------------------------------

    def shrink_caches(self) -> None:
        """Fewer rows of sessions, half of the values of collections, and no codec contexts in
        reserve for longer than a round of maintenance, until `restore_caches`."""
        self._is_shrunk = True
        self._residents.limit(_RESIDENTS_UNDER_PRESSURE)
        for limit in self._limits:
            limit(_CACHES_UNDER_PRESSURE)
        self._compressor.trim()

    def restore_caches(self) -> None:
        self._is_shrunk = False
        self._residents.limit(1.0)
        for limit in self._limits:
            limit(1.0)

    def collect(self) -> None:
        """Give back every hole in the heap, now and whenever little was freed, until
        `collect_later`."""
        self._trim_bytes = _TRIM_FREED_BYTES_UNDER_PRESSURE
        self.trim_now()

    def collect_later(self) -> None:
        self._trim_bytes = self._trim_bytes_calm


def limit_heap_arenas(count: int) -> None:
    """Let threads share `count` heaps of the C library (glibc) from now on; 0 leaves it alone, and
    so does an environment that has settled it.

    By default each thread gets one of its own, up to eight for each core. All that decoding took is
    free in them once a call is through, and held: with 64 threads, 15 MB more than in one heap,
    measured by `memopt bench soak`. Under the interpreter's lock, threads rarely meet in a heap.
    Each thread also keeps a few freed chunks of every size for itself, and their pages with them,
    until it ends: only the environment can forbid that (docs/operations.md).
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not count or "MALLOC_ARENA_MAX" in os.environ or "glibc.malloc.arena_max" in tunables:
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and sys.platform == "linux":
        set_option(_M_ARENA_MAX, count)


def trim_heap() -> None:
    """Give free heap back to the system where the C library can (glibc). After work that took a
    lot for a while, such as learning a dictionary: measured, 7 of 16 MB that would have stayed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
