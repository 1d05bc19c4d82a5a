"""The arena's cleaner: copies what still lives out of the emptiest extents, and closes them.

Works in slices whose work is bounded, and goes on where it stopped. It moves into an extent of its
own, the survivors' one, so values that outlived their neighbours lie together (as the cleaner of a
log-structured file system has it: Rosenblum and Ousterhout, 1992) and a put between two slices
cannot take the room that the cleaner counts on. Where the budget gives no extent for it, the spare
is taken: one victim's values fit into one extent, and closing the victim makes the next spare.

Not here: locks, events, and when to run.
"""

from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.errors import CapacityError
from memopt.paging.arena_extent import (
    SLOT_BITS,
    SLOT_BYTES,
    TABLE_BITS,
    TABLE_MASK,
    Extent,
)
from memopt.paging.arena_space import OWNER, Pool, Space, fits

DENSE_SHARE: Final = 7 / 8
"""An extent with less than an eighth of it dead is left alone: it would cost more than it gives."""
_MOVE_BYTES: Final = 1024
_LOOK_BYTES: Final = 128
"""What moving a value and passing a dead one count beside bytes moved: all three by the time they
take, a microsecond and an eighth of it, measured with `bench arena`."""
_SLOTS_AT_A_TIME: Final = 256
_EXTENTS_AT_A_TIME: Final = 1024
"""Looked at for a victim in one slice: a third of a millisecond."""


class Cleaned(NamedTuple):
    moved_bytes: int
    extents: int
    """Extents that were closed."""
    more: bool


class Cleaner:
    """One victim at a time. Not thread-safe: the arena's lock is around every call."""

    def __init__(self, space: Space, budget: Budget) -> None:
        self._space = space
        self._budget = budget
        self.victim: Extent | None = None
        self._index = 0
        """The first slot of the victim that was not looked at."""
        self._at = 0
        """The extent from which on the next victim is looked for."""

    def clean(self, work_bytes: int) -> Cleaned:
        """Do about `work_bytes` of work, and a little in any case."""
        moved = 0
        extents = self._space.trim()
        more = True
        while work_bytes > 0:
            if self.victim is None:
                self.victim, more = self._choose()
                self._index = 0
                if self.victim is None:
                    break
            victim = self.victim
            done_bytes, cost_bytes = self._move(victim, work_bytes)
            moved += done_bytes
            work_bytes -= cost_bytes
            if not victim.live_bytes:
                self.victim = None
                self._space.close_extent(victim)
                extents += 1
            elif not cost_bytes:
                more = False
                break
        return Cleaned(moved, extents, more)

    def is_cleaning(self, pool: Pool) -> bool:
        return self.victim is not None and self.victim.lifetime is pool.lifetime

    def _choose(self) -> tuple[Extent | None, bool]:
        """The emptiest of the next extents, and whether a later look may find another."""
        space = self._space
        count = len(space.extents)
        first = self._at if self._at < count else 0
        last = min(count, first + _EXTENTS_AT_A_TIME)
        dead_bytes_min = (1 - DENSE_SHARE) * space.extent_bytes
        found, live_bytes_min = None, space.extent_bytes
        opened = {
            id(extent) for pool in space.pools.values() for extent in (pool.extent, pool.survivors)
        }
        for extent in space.extents[first:last]:
            if (
                extent is not None
                and extent.live_bytes < live_bytes_min
                and extent.dead_bytes >= dead_bytes_min
                and id(extent) not in opened
            ):
                found, live_bytes_min = extent, extent.live_bytes
        if found is None:
            self._at = last if last < count else 0
        return found, found is not None or self._at != 0

    def _move(self, victim: Extent, work_bytes: int) -> tuple[int, int]:
        """Look at the next slots of the victim and move what lives: bytes moved, and the work that
        was; no work where there is no room to move to."""
        space, pool = self._space, self._space.pools[victim.lifetime]
        tables = space.tables
        survivors = pool.survivors
        moved = cost = 0
        index = self._index
        stop = min(victim.slots, index + _SLOTS_AT_A_TIME)
        top = len(victim.words) - 1
        words = victim.words[top - 2 * stop : top - 2 * index + 1].tolist()
        entry = victim.number << SLOT_BITS | index
        for at in range(len(words) - 1, 0, -2):
            handle = words[at - 1]
            table = tables[handle >> TABLE_BITS]
            if table.words[handle & TABLE_MASK] == entry:
                start, end = words[at], words[at - 2]
                size = end - start
                if survivors is None or not fits(survivors, size):
                    survivors = self._survivors(pool)
                    if survivors is None:
                        break
                first, slot = survivors.end, survivors.slot
                survivors.map[first : first + size] = victim.map[start:end]
                words_there = survivors.words
                words_there[slot - 1] = handle
                words_there[slot - 2] = first + size
                # No call from here on, for a Ctrl-C comes after calls: the value is in one place.
                survivors.end = first + size
                survivors.slot = slot - 2
                survivors.live_bytes += size + SLOT_BYTES
                victim.live_bytes -= size + SLOT_BYTES
                table.words[handle & TABLE_MASK] = survivors.entry
                survivors.entry += 1
                moved += size
                cost += size + _MOVE_BYTES
            else:
                cost += _LOOK_BYTES
            entry += 1
            index += 1
            if cost >= work_bytes or not victim.live_bytes:
                break
        self._index = index
        return moved, cost

    def _survivors(self, pool: Pool) -> Extent | None:
        """A new extent to move to: from the budget, else the spare; None where both are gone."""
        space = self._space
        reserved = self._budget.try_reserve(OWNER, space.extent_charge_bytes)
        if not reserved:
            if not space.has_spare:
                return None
            space.has_spare = False
        try:
            pool.survivors = space.open_extent(pool)
        except CapacityError:
            if reserved:
                self._budget.release(OWNER, space.extent_charge_bytes)
            else:
                space.has_spare = True
            return None
        return pool.survivors
