"""A fixed number of queues, each in order of use: what forgetting and importance share.

Owns the queues and the level of each member. Invariant: a member is in the queue of its level, or
aside. Not here: which level gives first, and what moves a member to another one.
"""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable

from memopt.policies.locks import Lockable
from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes


class Levels(Lockable):
    """Members by level, and within a level by use. Constant time a call for a fixed number of
    levels; about 350 bytes a member."""

    __slots__ = ("_aside", "_level_of", "_queues")

    def __init__(self, levels: int, now: Callable[[], float] | None = None) -> None:
        super().__init__(now)
        self._queues = [OrderedDict[int, float]() for _ in range(levels)]
        """Key to the time of its last use, the earliest first."""
        self._level_of: dict[int, int] = {}
        self._aside: OrderedDict[int, float] = OrderedDict()
        """Members named since the last one went, as they were in their queues."""

    @abstractmethod
    def _first_level(self, importance: float) -> int:
        """Where a new member goes."""

    @abstractmethod
    def _level_after_use(self, level: int) -> int: ...

    @abstractmethod
    def _giving_level(self) -> int | None:
        """Whose first goes next; None where all queues are empty."""

    def _enter(self, key: int, importance: float) -> None:
        assert key not in self._level_of, f"{key} is admitted twice"
        self._put_back(key, self._first_level(importance))

    def _touch(self, key: int) -> None:
        assert key in self._level_of, f"{key} is touched and no member"
        level = self._level_of[key]
        if self._aside and key in self._aside:
            del self._aside[key]
        else:
            del self._queues[level][key]
        self._put_back(key, self._level_after_use(level))

    def _take(self, key: int) -> int:
        assert key in self._level_of, f"{key} is removed and no member"
        level = self._level_of.pop(key)
        if self._aside:
            if key in self._aside:
                del self._aside[key]
            else:
                del self._queues[level][key]
            self._bring_back()
        else:
            del self._queues[level][key]
        if not len(self._level_of) & COMPACTION_MASK:
            self._level_of = compacted(self._level_of)
            self._queues = [compacted(queue) for queue in self._queues]
            self._aside = compacted(self._aside)
        return level

    def _put_back(self, key: int, known: int) -> None:
        self._level_of[key] = known
        self._queues[known][key] = self.moment()

    def _used(self, known: int) -> int:
        return self._level_after_use(known)

    def _weakest(self) -> int | None:
        level = self._giving_level()
        if level is None:
            if not self._aside:
                return None
            self._bring_back()
            level = self._giving_level()
            assert level is not None
        # Aside, so that asking again names another one: this one may be held.
        key, moment = self._queues[level].popitem(last=False)
        self._aside[key] = moment
        return key

    def _is_in_order(self, key: int) -> bool:
        return key in self._level_of

    def _order_bytes(self) -> int:
        tables = table_bytes(self._queues, self._level_of, self._aside, *self._queues)
        # A key here and one there, which need not be one object, and the time of the last use.
        return tables + len(self._level_of) * 3 * INT_BYTES

    def check(self) -> None:
        """Assert the invariant."""
        super().check()
        assert sorted(self._level_of) == sorted(
            [*self._aside, *(k for q in self._queues for k in q)]
        )
        for level, queue in enumerate(self._queues):
            assert all(self._level_of[key] == level for key in queue)
            assert list(queue.values()) == sorted(queue.values())

    def _bring_back(self) -> None:
        """To where they were: each was the first of its queue, and those behind it came later."""
        while self._aside:
            key, moment = self._aside.popitem()
            queue = self._queues[self._level_of[key]]
            queue[key] = moment
            queue.move_to_end(key, last=False)
