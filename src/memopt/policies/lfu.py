"""Least frequently used, with dynamic aging so that yesterday's favourites leave.

Owns nothing beyond the heap it is built on. Not here: sizes and costs, which do not enter this
order (gdsf.py has them).
"""

from memopt.policies.heap import RisingPriorities


class Lfu(RisingPriorities):
    """Evicts the lowest `age + count`, where the age is the priority of the last one evicted; of
    equals, who was admitted first. A touch takes constant time, a victim amortised O(log n).

    Source: M. Arlitt, L. Cherkasova, J. Dilley, R. Friedrich, T. Jin, "Evaluating content
    management techniques for web proxy caches", Performance Evaluation Review 27(4), 2000 (LFU-DA).
    """

    __slots__ = ()

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        self.put(key, self._age + 1, 1, 1.0)

    def touched(self, key: int) -> None:
        assert key in self.members, f"{key} is touched and no member"
        _, admission, uses, weight = self.members[key]
        self.members[key] = (self._age + uses + 1, admission, uses + 1, weight)
