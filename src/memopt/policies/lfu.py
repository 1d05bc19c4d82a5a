"""Least frequently used, with dynamic aging so that yesterday's favourites leave.

Owns the counts and a heap of priorities. Invariant: every member has exactly one entry, in the heap
or aside, with a priority that is its own or an earlier, lower one. Not here: sizes, which do not
enter this order.
"""

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from memopt.policies.queue import INT_BYTES, compacted, table_bytes

_TUPLE_BYTES: Final = 64
"""Of three references, with the collector's header."""
_DEAD_ENTRIES_MAX: Final = 64
"""Entries of departed members that may lie in the heap, beyond as many as there are members."""


class Lfu:
    """Evicts the lowest `age + count`, where the age is the priority of the last one evicted; of
    equals, who was admitted first. A touch takes constant time, a victim amortised O(log n).

    Source: M. Arlitt, L. Cherkasova, J. Dilley, R. Friedrich, T. Jin, "Evaluating content
    management techniques for web proxy caches", Performance Evaluation Review 27(4), 2000 (LFU-DA).

    A touch leaves the heap alone: priorities only rise, so an entry that reaches the top with an
    old one is put back with the new one. Buckets of equal counts would make a victim O(1) too, and
    lost because each bucket is a table of its own, and a touch moves between two of them.
    """

    __slots__ = ("_admissions", "_age", "_aside", "_heap", "_members")

    def __init__(self) -> None:
        self._members: dict[int, tuple[int, int, int]] = {}
        """Key to (priority, count, admission)."""
        self._heap: list[tuple[int, int, int]] = []
        """(priority when it was pushed, admission, key)."""
        self._aside: list[tuple[int, int, int]] = []
        """Entries of the members named since the last one went, the latest at the end."""
        self._age = 0
        self._admissions = 0

    def admitted(self, key: int, size_bytes: int) -> None:
        assert key not in self._members, f"{key} is admitted twice"
        self._admissions += 1
        priority = self._age + 1
        self._members[key] = (priority, 1, self._admissions)
        heappush(self._heap, (priority, self._admissions, key))

    def touched(self, key: int) -> None:
        assert key in self._members, f"{key} is touched and no member"
        _, count, admission = self._members[key]
        self._members[key] = (self._age + count + 1, count + 1, admission)

    def removed(self, key: int) -> None:
        assert key in self._members, f"{key} is removed and no member"
        priority, _, admission = self._members.pop(key)
        self._members = compacted(self._members)
        if self._aside and self._aside[-1][1] == admission:
            self._aside.pop()
            self._age = max(self._age, priority)
            self._bring_back()
        if len(self._heap) + len(self._aside) > 2 * len(self._members) + _DEAD_ENTRIES_MAX:
            self._drop_dead()

    def victim(self) -> int | None:
        if not self._members:
            return None
        while True:
            if not self._heap:
                self._bring_back()
            entry = self._heap[0]
            if not self._is_alive(entry):
                heappop(self._heap)
                continue
            pushed, admission, key = entry
            priority = self._members[key][0]
            if priority > pushed:
                heapreplace(self._heap, (priority, admission, key))
            else:
                # Aside, so that asking again names another one: this one may be held.
                self._aside.append(heappop(self._heap))
                return key

    def charged_bytes(self) -> int:
        members = len(self._members)
        entries = len(self._heap) + len(self._aside)
        return (
            table_bytes(self._members, self._heap, self._aside)
            + members * (_TUPLE_BYTES + 2 * INT_BYTES)
            + entries * (_TUPLE_BYTES + 2 * INT_BYTES)
        )

    def check(self) -> None:
        """Assert the invariant."""
        entries = [entry for entry in self._heap + self._aside if self._is_alive(entry)]
        assert sorted(key for _, _, key in entries) == sorted(self._members)
        assert all(pushed <= self._members[key][0] for pushed, _, key in entries)

    def _bring_back(self) -> None:
        for entry in self._aside:
            heappush(self._heap, entry)
        self._aside = []

    def _drop_dead(self) -> None:
        self._aside = [entry for entry in self._aside if self._is_alive(entry)]
        aside = {key for _, _, key in self._aside}
        self._heap = [
            (priority, admission, key)
            for key, (priority, _, admission) in self._members.items()
            if key not in aside
        ]
        heapify(self._heap)

    def _is_alive(self, entry: tuple[int, int, int]) -> bool:
        """A key that left and came back is another admission."""
        member = self._members.get(entry[2])
        return member is not None and member[2] == entry[1]
