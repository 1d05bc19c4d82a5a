"""Members by a priority that only rises, the lowest first: what LFU, GDSF and the mix share.

Owns the priorities, the counts of uses and a heap. Invariant: every member has exactly one entry,
in the heap or aside, with a priority that is its own or an earlier, lower one. Not here: what a
member is worth, which the policies say.
"""

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes

_MEMBER_BYTES: Final = 88 + 24 + 24 + INT_BYTES
"""A tuple of four with the collector's header, two floats and a count."""
_ENTRY_BYTES: Final = 64 + 16 + 24 + INT_BYTES
"""A tuple of three, a float, and the admission."""
_DEAD_ENTRIES_MAX: Final = 64
"""Entries of departed members that may lie in the heap, beyond as many as there are members."""


Member = tuple[float, int, int, float]
"""(priority, admission, uses, what the policy remembers of the admission). No NamedTuple: one is
made at every touch, and takes five times as long."""


class RisingPriorities:
    """Evicts the lowest priority; of equals, who was admitted first. A touch takes constant time, a
    victim amortised O(log n). About 400 bytes a member.

    A touch leaves the heap alone: priorities only rise, so an entry that reaches the top with an
    old one is put back with the new one. Buckets of equal counts would make a victim O(1) too, and
    lost because each bucket is a table of its own, and a touch moves between two of them.
    """

    __slots__ = ("_admissions", "_age", "_aside", "_heap", "members")

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self._heap: list[tuple[float, int, int]] = []
        """(priority when it was pushed, admission, key)."""
        self._aside: list[tuple[float, int, int]] = []
        """Entries of the members named since the last one went, the latest at the end."""
        self._age: float = 0
        """The highest priority that was evicted."""
        self._admissions = 0

    def removed(self, key: int) -> None:
        self.take(key)

    def victim(self) -> int | None:
        if not self.members:
            return None
        while True:
            if not self._heap:
                self._bring_back()
            entry = self._heap[0]
            if not self._is_alive(entry):
                heappop(self._heap)
                continue
            pushed, admission, key = entry
            priority = self.members[key][0]
            if priority > pushed:
                heapreplace(self._heap, (priority, admission, key))
            else:
                # Aside, so that asking again names another one: this one may be held.
                self._aside.append(heappop(self._heap))
                return key

    def charged_bytes(self) -> int:
        entries = len(self._heap) + len(self._aside)
        return (
            table_bytes(self.members, self._heap, self._aside)
            + len(self.members) * (_MEMBER_BYTES + INT_BYTES)
            + entries * _ENTRY_BYTES
        )

    def check(self) -> None:
        """Assert the invariant."""
        entries = [entry for entry in self._heap + self._aside if self._is_alive(entry)]
        assert sorted(key for _, _, key in entries) == sorted(self.members)
        assert all(pushed <= self.members[key][0] for pushed, _, key in entries)

    def put(self, key: int, priority: float, uses: int, weight: float) -> None:
        assert key not in self.members, f"{key} is admitted twice"
        self._admissions += 1
        self.members[key] = (priority, self._admissions, uses, weight)
        heappush(self._heap, (priority, self._admissions, key))

    def take(self, key: int) -> Member:
        assert key in self.members, f"{key} is removed and no member"
        member = self.members.pop(key)
        if not len(self.members) & COMPACTION_MASK:
            self.members = compacted(self.members)
        if self._aside and self._aside[-1][1] == member[1]:
            self._aside.pop()
            self._age = max(self._age, member[0])
            self._bring_back()
        if len(self._heap) + len(self._aside) > 2 * len(self.members) + _DEAD_ENTRIES_MAX:
            self._drop_dead()
        return member

    def _bring_back(self) -> None:
        for entry in self._aside:
            heappush(self._heap, entry)
        self._aside = []

    def _drop_dead(self) -> None:
        self._aside = [entry for entry in self._aside if self._is_alive(entry)]
        aside = {key for _, _, key in self._aside}
        self._heap = [
            (priority, admission, key)
            for key, (priority, admission, _, _) in self.members.items()
            if key not in aside
        ]
        heapify(self._heap)

    def _is_alive(self, entry: tuple[float, int, int]) -> bool:
        """A key that left and came back is another admission."""
        member = self.members.get(entry[2])
        return member is not None and member[1] == entry[1]
