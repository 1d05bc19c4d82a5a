"""ARC: two lists, of what was used once and more often, and ghosts that move the line between them.

Owns the lists and their ghosts. Invariant: the four byte counts are those of the four lists; ghosts
of the first list and the list itself are together at most the capacity, all four at most twice it,
and the ghosts of either list at most `ghosts_max`. Not here: the capacity, which is the pager's
affair and is learnt (see the class).
"""

from collections import OrderedDict

from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes


class Arc:
    """Adapts between recency and frequency by what it should have kept. Constant time a call.

    Source: N. Megiddo, D. S. Modha, "ARC: a self-tuning, low overhead replacement cache", FAST
    2003, figure 4. T1 and T2 are `_once` and `_often`, B1 and B2 their ghosts.

    Three things differ. Lengths are bytes. The capacity `c` is what was resident when a victim was
    first asked for after an admission, which is when the cache was full. And a returning page is
    known only once it is admitted, after room was made for it: so the line moves after the eviction
    and not before it, and the paper's tie-break by the page that returns has no place.

    About 250 bytes a member, and as much a ghost; ghosts are of at most as many bytes as members.
    """

    __slots__ = (
        "_asked",
        "_capacity_bytes",
        "_named",
        "_often",
        "_often_bytes",
        "_often_ghost_bytes",
        "_often_ghosts",
        "_once",
        "_once_bytes",
        "_once_ghost_bytes",
        "_once_ghosts",
        "_passed_over",
        "_target_bytes",
        "ghosts_max",
    )

    def __init__(self, *, ghosts_max: int = 65_536) -> None:
        self.ghosts_max = ghosts_max
        self._once: OrderedDict[int, int] = OrderedDict()
        """Key to size_bytes, the least recently used first; so are the other three."""
        self._often: OrderedDict[int, int] = OrderedDict()
        self._once_ghosts: OrderedDict[int, int] = OrderedDict()
        self._often_ghosts: OrderedDict[int, int] = OrderedDict()
        self._once_bytes = self._often_bytes = 0
        self._once_ghost_bytes = self._often_ghost_bytes = 0
        self._target_bytes = 0.0
        """The paper's p: what the first list may have."""
        self._capacity_bytes = 0
        self._asked = False
        """A victim was asked for since the last admission."""
        self._named: int | None = None
        self._passed_over = 0
        """Members named since the last removal, and held."""

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert key not in self._once, f"{key} is admitted twice"
        assert key not in self._often, f"{key} is admitted twice"
        assert size_bytes >= 0, f"{key} has {size_bytes} bytes"
        self._asked = False
        if key in self._once_ghosts:
            ratio = self._often_ghost_bytes / max(1, self._once_ghost_bytes)
            self._target_bytes += max(1.0, ratio) * size_bytes
            self._target_bytes = min(self._target_bytes, self._capacity_bytes)
            self._once_ghost_bytes -= self._once_ghosts.pop(key)
        elif key in self._often_ghosts:
            ratio = self._once_ghost_bytes / max(1, self._often_ghost_bytes)
            self._target_bytes = max(0.0, self._target_bytes - max(1.0, ratio) * size_bytes)
            self._often_ghost_bytes -= self._often_ghosts.pop(key)
        else:
            self._once[key] = size_bytes
            self._once_bytes += size_bytes
            self._trim_ghosts()
            return
        self._often[key] = size_bytes
        self._often_bytes += size_bytes

    def touched(self, key: int) -> None:
        if key in self._often:
            self._often.move_to_end(key)
            return
        assert key in self._once, f"{key} is touched and no member"
        size_bytes = self._once.pop(key)
        self._once_bytes -= size_bytes
        self._often[key] = size_bytes
        self._often_bytes += size_bytes

    def removed(self, key: int) -> None:
        named = key == self._named
        if key in self._once:
            size_bytes = self._once.pop(key)
            self._once_bytes -= size_bytes
            if named:
                self._once_ghosts[key] = size_bytes
                self._once_ghost_bytes += size_bytes
        else:
            assert key in self._often, f"{key} is removed and no member"
            size_bytes = self._often.pop(key)
            self._often_bytes -= size_bytes
            if named:
                self._often_ghosts[key] = size_bytes
                self._often_ghost_bytes += size_bytes
        if named:
            self._named = None
        else:
            # A deletion: what is left may never fill the cache again.
            self._capacity_bytes = min(
                self._capacity_bytes, 2 * (self._once_bytes + self._often_bytes)
            )
        self._passed_over = 0
        if not self._once and not self._often:
            self._capacity_bytes = 0
        # An eviction changes none of the sums that ghosts are held to, but their number.
        ghosts = len(self._once_ghosts) + len(self._often_ghosts)
        if not named or ghosts > self.ghosts_max or not self._capacity_bytes:
            self._trim_ghosts()
        # By the sum: a queue may also be emptied by touches, which do not look.
        if not (len(self._once) + len(self._often)) & COMPACTION_MASK:
            self._once = compacted(self._once)
            self._often = compacted(self._often)
            self._once_ghosts = compacted(self._once_ghosts)
            self._often_ghosts = compacted(self._often_ghosts)

    def victim(self) -> int | None:
        if not self._asked:
            self._asked = True
            self._capacity_bytes = self._once_bytes + self._often_bytes
        if self._named is not None:
            # It was named before and is still here: somebody holds it, so it is in use.
            members = len(self._once) + len(self._often)
            self._passed_over = (self._passed_over + 1) % members
            (self._once if self._named in self._once else self._often).move_to_end(self._named)
        queue = self._once if self._once_gives() else self._often
        self._named = next(iter(queue), None)
        return self._named

    def charged_bytes(self) -> int:
        tables = (self._once, self._often, self._once_ghosts, self._often_ghosts)
        return table_bytes(*tables) + sum(map(len, tables)) * 2 * INT_BYTES

    def check(self) -> None:
        """Assert the invariant."""
        tables = (self._once, self._often, self._once_ghosts, self._often_ghosts)
        assert len(set().union(*tables)) == sum(map(len, tables))
        assert [sum(table.values()) for table in tables] == [
            self._once_bytes,
            self._often_bytes,
            self._once_ghost_bytes,
            self._often_ghost_bytes,
        ]
        assert max(len(self._once_ghosts), len(self._often_ghosts)) <= self.ghosts_max
        assert self._target_bytes >= 0

    def _once_gives(self) -> bool:
        if not self._once or not self._often:
            return bool(self._once)
        once = self._once_bytes > self._target_bytes
        # When all of one list was named and held, the other one is asked, and then the first again.
        if not self._passed_over:
            return once
        return once != (self._passed_over >= len(self._once if once else self._often))

    def _trim_ghosts(self) -> None:
        # What is resident may have grown past what was learnt: then that is the capacity.
        resident_bytes = self._once_bytes + self._often_bytes
        capacity_bytes = max(self._capacity_bytes, resident_bytes)
        self._target_bytes = min(self._target_bytes, capacity_bytes)
        ghosts = self._once_ghosts
        while ghosts and (
            self._once_bytes + self._once_ghost_bytes > capacity_bytes
            or len(ghosts) > self.ghosts_max
        ):
            self._once_ghost_bytes -= ghosts.popitem(last=False)[1]
        ghosts = self._often_ghosts
        room_bytes = 2 * capacity_bytes - resident_bytes - self._once_ghost_bytes
        while ghosts and (self._often_ghost_bytes > room_bytes or len(ghosts) > self.ghosts_max):
            self._often_ghost_bytes -= ghosts.popitem(last=False)[1]
