"""Least recently used: who was not touched for longest goes first.

Owns the order of the members. Invariant: the first is the least recently touched. Not here: sizes,
which do not enter this order.
"""

from collections import OrderedDict

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes


class Lru:
    """The policy every other one is compared with. Constant time a call.

    Source: R. L. Mattson, J. Gecsei, D. R. Slutz, I. L. Traiger, "Evaluation techniques for storage
    hierarchies", IBM Systems Journal 9(2), 1970.
    """

    __slots__ = ("_named", "_order")

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()
        self._named: int | None = None

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert key not in self._order, f"{key} is admitted twice"
        self._order[key] = None

    def touched(self, key: int) -> None:
        assert key in self._order, f"{key} is touched and no member"
        self._order.move_to_end(key)

    def removed(self, key: int) -> None:
        assert key in self._order, f"{key} is removed and no member"
        del self._order[key]
        if not len(self._order) & COMPACTION_MASK:
            self._order = compacted(self._order)
        if key == self._named:
            self._named = None

    def victim(self) -> int | None:
        order = self._order
        if not order:
            return None
        key = next(iter(order))
        if key == self._named:
            # It was named before and is still here: somebody holds it, so it is in use.
            order.move_to_end(key)
            key = next(iter(order))
        self._named = key
        return key

    def charged_bytes(self) -> int:
        return table_bytes(self._order) + INT_BYTES * len(self._order)
