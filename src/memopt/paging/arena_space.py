"""Where the extents and handle tables of an arena are, whose they are, and what they cost.

Owns: the numbering, a pool per lifetime, and the charge. Invariant: `charged_bytes` is what is
mapped, OBJECT_BYTES for each mapping, and while there is any extent one more, the spare: the
cleaner needs it to empty others when the budget has nothing left. Not here: locks and reservations,
which come before anything here is made (arena), and moving (arena_cleaner).
"""

import heapq
from collections.abc import Iterator
from typing import Final, cast

from memopt.base.budget import Budget
from memopt.base.errors import CapacityError
from memopt.base.records import Lifetime
from memopt.paging.arena_extent import (
    EXTENTS_MAX,
    NO_HANDLE,
    OBJECT_BYTES,
    SLOT_BYTES,
    TABLE_BYTES,
    TABLES_MAX,
    Extent,
    HandleTable,
)

OWNER: Final = "arena"
TABLE_CHARGE_BYTES: Final = TABLE_BYTES + OBJECT_BYTES
_HOLE: Final = cast("Extent", None)
"""In the place of an extent that was closed. No handle in use leads there."""
_GONE: Final = HandleTable.gone()


class Pool:
    """The extents and handles of one lifetime."""

    __slots__ = ("extent", "extents", "lifetime", "listed", "survivors", "table", "tables")

    def __init__(self, lifetime: Lifetime) -> None:
        self.lifetime = lifetime
        self.extent: Extent | None = None
        """The open one, into which values are put."""
        self.survivors: Extent | None = None
        """The one into which the cleaner moves; later the open one."""
        self.table: HandleTable | None = None
        """The one that handles are taken from."""
        self.extents: set[int] = set()
        self.tables: set[int] = set()
        self.listed: list[int] = []
        """A heap of tables with free handles. The lowest is filled first, so that high ones can
        empty."""


class Space:
    """Extents and tables by number. Not thread-safe: the arena's lock is around every call."""

    def __init__(self, budget: Budget, extent_bytes: int) -> None:
        self.extent_bytes = extent_bytes
        self.extent_charge_bytes = extent_bytes + OBJECT_BYTES
        self.pools = {lifetime: Pool(lifetime) for lifetime in Lifetime}
        self.extents: list[Extent] = []
        self.tables: list[HandleTable] = []
        self.extent_count = 0
        self.table_count = 0
        self.has_spare = False
        self.taken_bytes = 0
        """Of everything that was made so far: what became of reservations."""
        self._budget = budget
        self._extent_holes: list[int] = []
        self._table_holes: list[int] = []

    @property
    def resident_bytes(self) -> int:
        return self.extent_count * self.extent_bytes + self.table_count * TABLE_BYTES

    @property
    def charged_bytes(self) -> int:
        extents = self.extent_count + self.has_spare
        return extents * self.extent_charge_bytes + self.table_count * TABLE_CHARGE_BYTES

    def __iter__(self) -> Iterator[Extent]:
        return (extent for extent in self.extents if extent is not _HOLE)

    def open_extent(self, pool: Pool) -> Extent:
        """A new extent of a pool, whose charge is reserved. Raises CapacityError."""
        number = self._extent_holes[0] if self._extent_holes else len(self.extents)
        if number > EXTENTS_MAX:
            raise CapacityError(
                f"an arena has at most {EXTENTS_MAX + 1} extents", limit="arena extents",
                limit_bytes=(EXTENTS_MAX + 1) * self.extent_bytes,
            )  # fmt: skip
        extent = Extent(number, pool.lifetime, self.extent_bytes)
        # Counted before it has its place: an interrupt in between leaves charged what is not used,
        # and nothing mapped that is not charged.
        self.extent_count += 1
        self.taken_bytes += self.extent_charge_bytes
        if number == len(self.extents):
            self.extents.append(extent)
        else:
            heapq.heappop(self._extent_holes)
            self.extents[number] = extent
        pool.extents.add(number)
        return extent

    def take_spare(self) -> None:
        """Keep the charge of one more extent, which is reserved, for the cleaner."""
        self.has_spare = True
        self.taken_bytes += self.extent_charge_bytes

    def close_extent(self, extent: Extent) -> None:
        """Give an extent back to the system, and its charge to the spare or to the budget."""
        pool = self.pools[extent.lifetime]
        if pool.extent is extent:
            pool.extent = None
        if pool.survivors is extent:
            pool.survivors = None
        pool.extents.remove(extent.number)
        self.extents[extent.number] = _HOLE
        heapq.heappush(self._extent_holes, extent.number)
        extent.close()
        self.extent_count -= 1
        if not self.has_spare:
            self.has_spare = True
        else:
            self._budget.release(OWNER, self.extent_charge_bytes)
        if not self.extent_count:
            self.has_spare = False
            self._budget.release(OWNER, self.extent_charge_bytes)

    def open_table(self, pool: Pool) -> HandleTable:
        """A new table of a pool, whose charge is reserved. Raises CapacityError."""
        number = self._table_holes[0] if self._table_holes else len(self.tables)
        if number >= TABLES_MAX:
            raise CapacityError("an arena has no more handles", limit="arena handles")
        table = HandleTable(number, pool.lifetime)
        self.table_count += 1
        self.taken_bytes += TABLE_CHARGE_BYTES
        if number == len(self.tables):
            self.tables.append(table)
        else:
            heapq.heappop(self._table_holes)
            self.tables[number] = table
        pool.tables.add(number)
        return table

    def close_table(self, pool: Pool, table: HandleTable) -> None:
        """Give a table back of which no handle is in use."""
        if pool.table is table:
            pool.table = None
        pool.tables.remove(table.number)
        self.tables[table.number] = _GONE
        heapq.heappush(self._table_holes, table.number)
        table.close()
        self.table_count -= 1
        self._budget.release(OWNER, TABLE_CHARGE_BYTES)

    def list_table(self, pool: Pool, table: HandleTable) -> None:
        """Remember that a table has free handles again."""
        table.is_listed = True
        heapq.heappush(pool.listed, table.number)

    def find_table(self, pool: Pool) -> bool:
        """Let a pool take handles from its lowest table that has some; False where none has."""
        if pool.table is not None and pool.table.free != NO_HANDLE:
            return True
        while pool.listed:
            number = heapq.heappop(pool.listed)
            table = self.tables[number]
            if number in pool.tables and table.free != NO_HANDLE:
                table.is_listed = False
                pool.table = table
                return True
        return False

    def drop(self, pool: Pool) -> None:
        """Give back everything of a pool, without a look at any value."""
        for number in list(pool.extents):
            self.close_extent(self.extents[number])
        for number in list(pool.tables):
            self.close_table(pool, self.tables[number])
        pool.listed.clear()

    def trim(self) -> int:
        """Give back what is open and empty; how many extents."""
        closed = 0
        for pool in self.pools.values():
            for extent in (pool.extent, pool.survivors):
                if extent is not None and not extent.live_bytes:
                    self.close_extent(extent)
                    closed += 1
            if pool.table is not None and not pool.table.live:
                self.close_table(pool, pool.table)
        return closed

    def mend(self) -> None:
        """After an interrupt, which may have come between any two calls: what is mapped is put
        where it belongs again, and what is mapped for nothing is closed."""
        self._extent_holes = [
            number
            for number, extent in enumerate(self.extents)
            if extent is _HOLE or extent.map.closed
        ]
        self._table_holes = [
            number for number, table in enumerate(self.tables) if table is _GONE or table.map.closed
        ]
        for number in self._extent_holes:
            self.extents[number] = _HOLE
        for number in self._table_holes:
            self.tables[number] = _GONE
        self.extent_count = len(self.extents) - len(self._extent_holes)
        self.table_count = len(self.tables) - len(self._table_holes)
        for pool in self.pools.values():
            pool.extents = {each.number for each in self if each.lifetime is pool.lifetime}
            own = [each for each in self.tables if each is not _GONE]
            own = [each for each in own if each.lifetime is pool.lifetime]
            pool.tables = {table.number for table in own}
            pool.listed = []
            for table in own:
                table.is_listed = False
                if table is pool.table:
                    continue
                if not table.live:
                    self.close_table(pool, table)
                elif table.free != NO_HANDLE:
                    self.list_table(pool, table)
        for extent in list(self):
            pool = self.pools[extent.lifetime]
            if not extent.live_bytes and extent not in (pool.extent, pool.survivors):
                self.close_extent(extent)

    def check(self) -> None:
        """Assert that every number has one place and every pool its own."""
        pools = self.pools.values()
        assert self.extent_count == sum(extent is not _HOLE for extent in self.extents)
        assert self.table_count == sum(table is not _GONE for table in self.tables)
        assert sum(len(pool.extents) for pool in pools) == self.extent_count
        assert sum(len(pool.tables) for pool in pools) == self.table_count
        assert len(self._extent_holes) == len(self.extents) - self.extent_count
        assert len(self._table_holes) == len(self.tables) - self.table_count
        for pool in pools:
            for number in pool.extents:
                assert self.extents[number].number == number
                assert self.extents[number].lifetime is pool.lifetime
            for number in pool.tables:
                table = self.tables[number]
                assert table.number == number
                if table.free != NO_HANDLE:
                    assert table is pool.table or table.is_listed
                if table.is_listed:
                    assert number in pool.listed


def fits(extent: Extent | None, size_bytes: int) -> bool:
    """Whether a value and its slot fit between the values and the slots."""
    return extent is not None and extent.end + size_bytes <= 4 * extent.slot - SLOT_BYTES
