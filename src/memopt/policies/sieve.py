"""SIEVE: a queue whose hand drops what was not touched, and leaves the rest where it stands.

Owns the queue in two halves and one bit a member. Invariant: everything in `_behind` (what the
hand has passed and spared) is older than everything in `_ahead`, and both are in order of age. Not
here: sizes, which do not enter this order.
"""

from collections import OrderedDict

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes


class Sieve:
    """Lazy promotion and quick demotion with one hand. Amortised constant time a call.

    Source: Y. Zhang, J. Yang, Y. Yue, Y. Vigfusson, K. V. Rashmi, "SIEVE is simpler than LRU: an
    efficient turn-key eviction algorithm for web caches", NSDI 2024.

    The paper has one linked list with a hand inside it. Cutting the list at the hand gives two
    queues: a spared entry goes from the front of one to the end of the other, a new one to the end
    of `_ahead`, and when that is empty, the hand has reached the newest and starts again.
    """

    __slots__ = ("_ahead", "_behind", "_named")

    def __init__(self) -> None:
        self._ahead: OrderedDict[int, bool] = OrderedDict()
        """Key to "touched since the hand passed", the entry under the hand first."""
        self._behind: OrderedDict[int, bool] = OrderedDict()
        self._named: int | None = None

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert key not in self._ahead, f"{key} is admitted twice"
        assert key not in self._behind, f"{key} is admitted twice"
        self._ahead[key] = False

    def touched(self, key: int) -> None:
        if key in self._ahead:
            self._ahead[key] = True
        else:
            assert key in self._behind, f"{key} is touched and no member"
            self._behind[key] = True

    def removed(self, key: int) -> None:
        if key in self._ahead:
            del self._ahead[key]
            if not self._ahead:
                # The newest went, so the hand starts again at the oldest, not at the next newcomer.
                self._ahead, self._behind = self._behind, self._ahead
        else:
            assert key in self._behind, f"{key} is removed and no member"
            del self._behind[key]
        # By the sum: the hand moves members from one to the other, and does not look.
        if not (len(self._ahead) + len(self._behind)) & COMPACTION_MASK:
            self._ahead = compacted(self._ahead)
            self._behind = compacted(self._behind)
        if key == self._named:
            self._named = None

    def victim(self) -> int | None:
        if self._named is not None:
            # It was named before and is still here: somebody holds it, so the hand goes on.
            self._spare(self._named, touched=self._ahead[self._named])
        while self._ahead or self._behind:
            if not self._ahead:
                self._ahead, self._behind = self._behind, self._ahead
            key = next(iter(self._ahead))
            if not self._ahead[key]:
                self._named = key
                return key
            self._spare(key, touched=False)
        return None

    def charged_bytes(self) -> int:
        members = len(self._ahead) + len(self._behind)
        return table_bytes(self._ahead, self._behind) + INT_BYTES * members

    def check(self) -> None:
        """Assert the invariant, but for the order of age, which is not recorded."""
        assert self._ahead.keys().isdisjoint(self._behind)
        assert self._named is None or self._named == next(iter(self._ahead))

    def _spare(self, key: int, *, touched: bool) -> None:
        del self._ahead[key]
        self._behind[key] = touched
