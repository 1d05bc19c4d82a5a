"""S3-FIFO: a small queue to see who comes back, a main one for those who did, and ghosts.

Owns the three queues and two bits a member. Invariant: `_small_bytes` and `_main_bytes` are the
bytes of the pages in those queues, and the ghosts' pages add up to at most the main queue's share
of the resident bytes and at most `ghosts_max` entries.
"""

from collections import OrderedDict
from typing import Final

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes

_SMALL_PERCENT: Final = 10
"""Of the resident bytes: above it the small queue gives, below it the main one."""
_COUNT_BITS: Final = 2
_COUNT_MAX: Final = (1 << _COUNT_BITS) - 1
_RETURNS_MIN: Final = 2
"""Touches in the small queue that earn a place in the main one."""


class S3Fifo:
    """Three queues, shares in bytes of pages. Amortised constant time a call.

    Source: J. Yang, Y. Zhang, Z. Qiu, Y. Yue, K. V. Rashmi, "FIFO queues are all you need for
    cache eviction", SOSP 2023, algorithm 1. There shares are counts of objects and of a capacity;
    here they are bytes, and of what is resident, since capacity is the pager's affair.
    """

    __slots__ = (
        "_ghost_bytes",
        "_ghosts",
        "_main",
        "_main_bytes",
        "_named",
        "_passed_over",
        "_small",
        "_small_bytes",
        "ghosts_max",
    )

    def __init__(self, *, ghosts_max: int = 65_536) -> None:
        self.ghosts_max = ghosts_max
        self._small: OrderedDict[int, int] = OrderedDict()
        """Key to `size_bytes << 2 | touches`: one int, where two tables would cost twice."""
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, int] = OrderedDict()
        """Key to size_bytes of pages that left the small queue because they were chosen."""
        self._small_bytes = 0
        self._main_bytes = 0
        self._ghost_bytes = 0
        self._named: int | None = None
        self._passed_over = 0
        """Members named since the last removal, and held."""

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert key not in self._small, f"{key} is admitted twice"
        assert key not in self._main, f"{key} is admitted twice"
        assert size_bytes >= 0, f"{key} has {size_bytes} bytes"
        ghost_bytes = self._ghosts.pop(key, None)
        if ghost_bytes is None:
            self._small[key] = size_bytes << _COUNT_BITS
            self._small_bytes += size_bytes
        else:
            self._ghost_bytes -= ghost_bytes
            self._main[key] = size_bytes << _COUNT_BITS
            self._main_bytes += size_bytes

    def touched(self, key: int) -> None:
        queue = self._small if key in self._small else self._main
        assert key in queue, f"{key} is touched and no member"
        entry = queue[key]
        if entry & _COUNT_MAX < _COUNT_MAX:
            queue[key] = entry + 1

    def removed(self, key: int) -> None:
        if key in self._small:
            size_bytes = self._small.pop(key) >> _COUNT_BITS
            self._small_bytes -= size_bytes
            if key == self._named:
                self._ghosts[key] = size_bytes
                self._ghost_bytes += size_bytes
        else:
            assert key in self._main, f"{key} is removed and no member"
            self._main_bytes -= self._main.pop(key) >> _COUNT_BITS
        self._trim_ghosts()
        # By the sum: pages move from one to the other, which does not look.
        if not (len(self._small) + len(self._main)) & COMPACTION_MASK:
            self._small = compacted(self._small)
            self._main = compacted(self._main)
            self._ghosts = compacted(self._ghosts)
        self._passed_over = 0
        if key == self._named:
            self._named = None

    def victim(self) -> int | None:
        if self._named is not None:
            self._pass_over(self._named)
        while self._small or self._main:
            if self._small_gives():
                key, entry = next(iter(self._small.items()))
                if entry & _COUNT_MAX < _RETURNS_MIN:
                    break
                self._graduate(key)
            else:
                key, entry = next(iter(self._main.items()))
                if not entry & _COUNT_MAX:
                    break
                self._main[key] = entry - 1
                self._main.move_to_end(key)
        else:
            return None
        self._named = key
        return key

    def charged_bytes(self) -> int:
        entries = len(self._small) + len(self._main) + len(self._ghosts)
        return table_bytes(self._small, self._main, self._ghosts) + entries * 2 * INT_BYTES

    def check(self) -> None:
        """Assert the invariant."""
        assert self._small.keys().isdisjoint(self._main)
        assert self._ghosts.keys().isdisjoint(self._small.keys() | self._main.keys())
        assert self._small_bytes == sum(entry >> _COUNT_BITS for entry in self._small.values())
        assert self._main_bytes == sum(entry >> _COUNT_BITS for entry in self._main.values())
        assert self._ghost_bytes == sum(self._ghosts.values())
        assert len(self._ghosts) <= self.ghosts_max

    def _small_gives(self) -> bool:
        if not self._small or not self._main:
            return bool(self._small)
        resident_bytes = self._small_bytes + self._main_bytes
        if self._small_bytes * 100 >= resident_bytes * _SMALL_PERCENT:
            return True
        # When the whole main queue was named and held, only the small one is left to ask.
        return self._passed_over >= len(self._main)

    def _graduate(self, key: int) -> None:
        """From the small queue into the main one, its touches forgotten."""
        size_bytes = self._small.pop(key) >> _COUNT_BITS
        self._small_bytes -= size_bytes
        self._main[key] = size_bytes << _COUNT_BITS
        self._main_bytes += size_bytes

    def _pass_over(self, key: int) -> None:
        """Take a member that was named and is still here for one that is in use."""
        self._passed_over += 1
        if key in self._small:
            self._graduate(key)
        else:
            self._main.move_to_end(key)

    def _trim_ghosts(self) -> None:
        resident_bytes = self._small_bytes + self._main_bytes
        limit_bytes = resident_bytes * (100 - _SMALL_PERCENT) // 100
        while self._ghosts and (
            self._ghost_bytes > limit_bytes or len(self._ghosts) > self.ghosts_max
        ):
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]
