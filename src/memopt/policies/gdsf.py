"""Greedy dual, size and frequency: keeps what saves most per byte.

Owns nothing beyond the heap it is built on. Not here: how many seconds a cost is; only ratios of
costs matter.
"""

from memopt.policies.heap import RisingPriorities


class Gdsf(RisingPriorities):
    """Evicts the lowest `H = L + uses * cost / size`, where `L` is the highest `H` that was
    evicted; of equals, who was admitted first. A touch takes constant time, a victim amortised
    O(log n); about 400 bytes a member, no ghosts.

    Source: L. Cherkasova, "Improving WWW proxies performance with greedy-dual-size-frequency
    caching policy", HP Laboratories HPL-98-69R1, 1998.
    """

    __slots__ = ()

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert size_bytes >= 0, f"{key} has {size_bytes} bytes"
        assert cost >= 0, f"{key} costs {cost}"
        # An empty page saves its cost for nothing; a byte stands for what the page table takes.
        worth = cost / max(1, size_bytes)
        self.put(key, self._age + worth, 1, worth)

    def touched(self, key: int) -> None:
        assert key in self.members, f"{key} is touched and no member"
        _, admission, uses, worth = self.members[key]
        uses += 1
        self.members[key] = (self._age + uses * worth, admission, uses, worth)
