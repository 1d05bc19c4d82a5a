"""CLOCK: a first-in, first-out queue in which a touch earns a second round.

Owns the ring and one bit a member. Invariant: the ring's first entry is the one under the hand.
Not here: sizes, which do not enter this order.
"""

from collections import OrderedDict

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes


class Clock:
    """An approximation of LRU in which a touch only sets a bit. Amortised constant time a call.

    Source: F. J. Corbató, "A paging experiment with the Multics system", MIT Project MAC, 1968.
    Turning the hand is moving the ring's first entry to its end, which is the same order.
    """

    __slots__ = ("_named", "_ring")

    def __init__(self) -> None:
        self._ring: OrderedDict[int, bool] = OrderedDict()
        """Key to "touched since the hand passed"."""
        self._named: int | None = None

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert key not in self._ring, f"{key} is admitted twice"
        self._ring[key] = False

    def touched(self, key: int) -> None:
        assert key in self._ring, f"{key} is touched and no member"
        self._ring[key] = True

    def removed(self, key: int) -> None:
        assert key in self._ring, f"{key} is removed and no member"
        del self._ring[key]
        if not len(self._ring) & COMPACTION_MASK:
            self._ring = compacted(self._ring)
        if key == self._named:
            self._named = None

    def victim(self) -> int | None:
        ring = self._ring
        if self._named is not None:
            # It was named before and is still here: somebody holds it, so the hand goes on.
            ring.move_to_end(self._named)
        while ring:
            key = next(iter(ring))
            if not ring[key]:
                self._named = key
                return key
            ring[key] = False
            ring.move_to_end(key)
        return None

    def charged_bytes(self) -> int:
        return table_bytes(self._ring) + INT_BYTES * len(self._ring)
