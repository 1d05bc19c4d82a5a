"""The arena: many small values in few large mappings, under the budget.

A value gets a handle, a small number, and lies in an extent of its lifetime's pool, behind the
values that came before it. Deleting frees the handle; an extent whose last value went is closed.
The holes that are left between others `collect` closes: it moves what lives out of the emptiest
extents. A value costs its bytes and twelve more, and no Python object stands for it.

Invariant: what the budget holds for "arena" is what is mapped, its objects, and one extent that the
cleaner may need. No view of a mapping leaves here: `get` copies. There is no checksum, as there is
none on other bytes in RAM; what comes from a home was checked when it was read.
Not here: when to collect (pressure), and what is worth keeping.
"""

import threading
from collections.abc import Callable
from typing import Final

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, NotFoundError, StoreClosedError, UsageError
from memopt.base.events import Collected, Events
from memopt.base.interrupts import mended_by
from memopt.base.protocols import Clock
from memopt.base.records import ArenaUsage, Lifetime
from memopt.base.units import KIB, MIB
from memopt.paging.arena_cleaner import Cleaner
from memopt.paging.arena_extent import (
    EXTENT_BYTES_MAX,
    FREE_ENTRY,
    NO_HANDLE,
    SLOT_BITS,
    SLOT_BYTES,
    SLOT_MASK,
    TABLE_BITS,
    TABLE_MASK,
    Extent,
    HandleTable,
)
from memopt.paging.arena_space import OWNER, TABLE_CHARGE_BYTES, Pool, Space, fits

_mended = mended_by(lambda arena: arena._mend())
"""A Ctrl-C may come between any two calls that open or close something. Every value is in order
then; what holds them is put in order here."""
EXTENT_BYTES: Final = MIB
_EXTENT_BYTES_MIN: Final = 16 * KIB
_VALUES_PER_EXTENT: Final = 4
"""The largest value takes this part of an extent, so no more is left over at the end of one."""
_EXTENTS_PER_BUDGET: Final = 256
ROOM: Final = "room"
"""The reason of a collection that a put had to wait for."""


def extent_bytes_for(budget_bytes: int) -> int:
    """How large extents should be: 1 MiB, or less where that is over a 256th of the budget, since
    each lifetime has open ones, and as much is evicted at a time as an extent holds."""
    fitting = max(_EXTENT_BYTES_MIN, budget_bytes // _EXTENTS_PER_BUDGET)
    return min(EXTENT_BYTES, 1 << fitting.bit_length() - 1)


class Arena:
    """Thread-safe. One arena a budget. `extent_bytes` is a power of two from 16 KiB to 1 MiB."""

    def __init__(
        self, budget: Budget, *, clock: Clock, events: Events, extent_bytes: int = EXTENT_BYTES
    ) -> None:
        if not _EXTENT_BYTES_MIN <= extent_bytes <= EXTENT_BYTES_MAX or (
            extent_bytes & (extent_bytes - 1)
        ):
            raise UsageError(
                f"expected a power of two from {_EXTENT_BYTES_MIN} to {EXTENT_BYTES_MAX}, got "
                f"{extent_bytes}", field="extent_bytes",
            )  # fmt: skip
        self.value_bytes_max = extent_bytes // _VALUES_PER_EXTENT
        """Larger values are refused: keep them as `bytes`."""
        self.extent_bytes = extent_bytes
        self.live_bytes = 0
        """Of all values, without what they cost beside."""
        self._budget = budget
        self._clock = clock
        self._events = events
        # A finaliser may delete in the middle of a put of the same thread, so it may enter twice.
        self._lock = threading.RLock()
        self._space = Space(budget, extent_bytes)
        self._cleaner = Cleaner(self._space, budget)
        self._pools = self._space.pools
        self._extents = self._space.extents
        self._tables = self._space.tables
        self._top = extent_bytes // 4 - 1
        self._is_closed = False
        self._dropped: Pool | None = None
        """The pool that is being dropped."""
        self._coming_bytes = 0
        """Being reserved, by whoever is about to map something."""

    # -- values -----------------------------------------------------------------------------------

    def put(self, lifetime: Lifetime, value: bytes) -> int:
        """Keep a copy of `value`; its handle, which is used again only after `delete`.

        Raises UsageError where it is larger than `value_bytes_max`, BudgetError where there is no
        room and neither collecting nor others who were asked could make some.
        """
        return self._put(lifetime, value, self._reserve)

    def try_put(self, lifetime: Lifetime, value: bytes) -> int | None:
        """The same without asking anybody for room: None where collecting makes none, or where
        the system maps no more."""
        try:
            return self._put(lifetime, value, self._reserve_alone)
        except (BudgetError, OSError):
            return None

    def _put(self, lifetime: Lifetime, value: bytes, reserve: Callable[[int], None]) -> int:
        size = len(value)
        if size > self.value_bytes_max:
            raise UsageError(
                f"at most {self.value_bytes_max} bytes fit into the arena, got {size}",
                field="value",
            )
        pool = self._pools[lifetime]
        while True:
            with self._lock:
                extent, table = pool.extent, pool.table
                if extent is not None and table is not None:
                    start, slot, local = extent.end, extent.slot, table.free
                    end = start + size
                    if end <= 4 * slot - SLOT_BYTES and local != NO_HANDLE:
                        handle = table.first | local
                        extent.map[start:end] = value
                        if extent.slot != slot or table.free != local:
                            continue  # that slice let the collector of garbage run a finaliser
                        words, entries = extent.words, table.words
                        words[slot - 1] = handle
                        words[slot - 2] = end
                        # No call from here on, for a Ctrl-C comes after calls: all or nothing.
                        table.free = entries[local] & SLOT_MASK
                        entries[local] = extent.entry
                        table.live += 1
                        extent.entry += 1
                        extent.end = end
                        extent.slot = slot - 2
                        extent.live_bytes += size + SLOT_BYTES
                        self.live_bytes += size
                        return handle
            self._make_room(pool, size, reserve)

    def get(self, handle: int) -> bytes:
        """A copy of a value. Raises NotFoundError where the handle is not in use."""
        try:
            with self._lock:
                entry = self._tables[handle >> TABLE_BITS].words[handle & TABLE_MASK]
                extent = self._extents[entry >> SLOT_BITS]
                slot = self._top - ((entry & SLOT_MASK) << 1)
                words = extent.words
                if handle >= 0:
                    return extent.map[words[slot] : words[slot - 2]]
        except IndexError:
            pass
        raise _not_found(handle)

    def overwrite(self, handle: int, value: bytes) -> bool:
        """Put a value in the place of one of the same size; False, and no change, where that has
        another. Raises NotFoundError."""
        try:
            with self._lock:
                entries, local = self._tables[handle >> TABLE_BITS].words, handle & TABLE_MASK
                while handle >= 0:
                    entry = entries[local]
                    extent = self._extents[entry >> SLOT_BITS]
                    slot = self._top - ((entry & SLOT_MASK) << 1)
                    where = slice(extent.words[slot], extent.words[slot - 2])
                    if where.stop - where.start != len(value):
                        return False
                    # To make that slice may have let a finaliser run, which may have moved it.
                    if entries[local] == entry:
                        extent.map[where] = value
                        return True
        except IndexError:
            pass
        raise _not_found(handle)

    def size(self, handle: int) -> int:
        """The length of a value in bytes. Raises NotFoundError."""
        try:
            with self._lock:
                entry = self._tables[handle >> TABLE_BITS].words[handle & TABLE_MASK]
                words = self._extents[entry >> SLOT_BITS].words
                slot = self._top - ((entry & SLOT_MASK) << 1)
                if handle >= 0:
                    return words[slot - 2] - words[slot]
        except IndexError:
            pass
        raise _not_found(handle)

    def delete(self, handle: int) -> None:
        """Free a handle and the room of its value. Raises NotFoundError."""
        with self._lock:
            try:
                table, local = self._tables[handle >> TABLE_BITS], handle & TABLE_MASK
                entries = table.words
                entry = entries[local]
                extent = self._extents[entry >> SLOT_BITS]
            except IndexError:
                raise _not_found(handle) from None
            if handle < 0:
                raise _not_found(handle)
            pool = self._pools[extent.lifetime]
            slot, words = self._top - ((entry & SLOT_MASK) << 1), extent.words
            size = words[slot - 2] - words[slot]
            # No call from here on, for a Ctrl-C comes after calls: all or nothing.
            entries[local] = FREE_ENTRY | table.free
            table.free = local
            table.live -= 1
            extent.live_bytes -= size + SLOT_BYTES
            self.live_bytes -= size
            if not extent.live_bytes or (
                table is not pool.table and not (table.is_listed and table.live)
            ):
                self._settle(pool, extent, table)

    @_mended
    def drop(self, lifetime: Lifetime) -> None:
        """Delete everything of a lifetime: its extents are closed without a look at the values."""
        with self._lock:
            pool = self._pools[lifetime]
            if self._cleaner.is_cleaning(pool):
                self._cleaner.victim = None
            slots = sum(self._tables[number].live for number in pool.tables)
            filled_bytes = sum(self._extents[number].live_bytes for number in pool.extents)
            # No call between these two, for a Ctrl-C comes after calls.
            self.live_bytes -= filled_bytes - SLOT_BYTES * slots
            self._dropped = pool
            self._space.drop(pool)
            self._dropped = None

    def clear(self) -> None:
        """Delete everything."""
        for lifetime in Lifetime:
            self.drop(lifetime)

    def close(self) -> None:
        """Delete everything; a later put raises StoreClosedError."""
        with self._lock:
            self._is_closed = True
            self.clear()

    def __len__(self) -> int:
        with self._lock:
            return sum(
                self._tables[number].live for pool in self._pools.values() for number in pool.tables
            )

    # -- room -------------------------------------------------------------------------------------

    @property
    def resident_bytes(self) -> int:
        """Everything that is mapped; what was never filled does not count in RSS yet."""
        return self._space.resident_bytes

    @property
    def charged_bytes(self) -> int:
        """What the budget holds for this arena."""
        return self._space.charged_bytes

    @property
    def growth_bytes(self) -> int:
        """What may have to be free before the next value fits: an extent and a table, and with the
        first one the spare."""
        extents = 1 if self._space.extent_count else 2
        return extents * self._space.extent_charge_bytes + TABLE_CHARGE_BYTES

    def usage(self) -> ArenaUsage:
        """What there is to collect. While others change it, about that."""
        # Summed outside the lock: with many extents that takes longer than anybody should wait.
        with self._lock:
            extents = list(self._extents)
            live_bytes, resident_bytes = self.live_bytes, self._space.resident_bytes
        # In the place of one that was closed there is None.
        dead_bytes = sum(extent.dead_bytes for extent in extents if extent is not None)
        return ArenaUsage(live_bytes, max(0, dead_bytes), resident_bytes)

    @_mended
    def collect(self, bytes_max: int, *, reason: str = "asked") -> Collected:
        """One slice of the cleaner, of about `bytes_max` bytes of work: bytes moved, and what
        looking at values costs in the same time. Emits what it returns where anything was done."""
        with self._lock:
            started = self._clock.monotonic()
            moved, extents, more = self._cleaner.clean(bytes_max)
            seconds = self._clock.monotonic() - started
        event = Collected(
            moved_bytes=moved, freed_bytes=extents * self._space.extent_bytes, extents=extents,
            seconds=seconds, reason=reason, more=more,
        )  # fmt: skip
        if moved or extents:
            self._events.emit(event)
        return event

    def make_free(self, size_bytes: int) -> None:
        """Collect until so much of the budget is free for somebody else, as far as enough is
        dead. Whoever deletes values to make room calls this after it."""
        while self._budget.free_bytes() < size_bytes and self._collect_an_extent():
            pass
        if self._budget.free_bytes() < size_bytes:
            # What is open and empty goes as well.
            self.collect(0, reason=ROOM)

    @_mended
    def _make_room(self, pool: Pool, size_bytes: int, reserve: Callable[[int], None]) -> None:
        """Give a pool an open extent and a table for one more value, as far as it has none."""
        with self._lock:
            charge_bytes = self._missing_bytes(pool, size_bytes)
            self._coming_bytes += charge_bytes
        if not charge_bytes:
            return
        try:
            # Outside the lock: whoever is asked for room may delete here.
            reserve(charge_bytes)
            with self._lock:
                taken_bytes = self._space.taken_bytes
                try:
                    # What somebody else has made meanwhile is not made again.
                    if self._missing_bytes(pool, size_bytes) == charge_bytes:
                        self._install(pool, size_bytes)
                finally:
                    left_bytes = charge_bytes - (self._space.taken_bytes - taken_bytes)
                    self._budget.release(OWNER, left_bytes)
        finally:
            with self._lock:
                self._coming_bytes -= charge_bytes

    def _missing_bytes(self, pool: Pool, size_bytes: int) -> int:
        """What has to be reserved before a value fits."""
        if self._is_closed:
            raise StoreClosedError("the arena is closed")
        space, missing_bytes = self._space, 0
        if not fits(pool.extent, size_bytes):
            if fits(pool.survivors, size_bytes) and not self._cleaner.is_cleaning(pool):
                pool.extent, pool.survivors = pool.survivors, None
            else:
                # The first one brings the spare with it.
                missing_bytes = (1 if space.extent_count else 2) * space.extent_charge_bytes
        return missing_bytes + (0 if space.find_table(pool) else TABLE_CHARGE_BYTES)

    def _install(self, pool: Pool, size_bytes: int) -> None:
        if not self._space.find_table(pool):
            pool.table = self._space.open_table(pool)
        if not fits(pool.extent, size_bytes):
            is_first = not self._space.extent_count
            pool.extent = self._space.open_extent(pool)
            if is_first:
                self._space.take_spare()

    def _reserve(self, size_bytes: int) -> None:
        """From the budget, after collecting what it takes; or from whoever the budget asks."""
        while not self._budget.try_reserve(OWNER, size_bytes):
            if self._collect_an_extent():
                continue
            try:
                self._budget.reserve(OWNER, size_bytes)
            except BudgetError:
                # Those who were asked may have deleted values, and left holes.
                if not self._collect_an_extent():
                    raise
            else:
                return

    def _reserve_alone(self, size_bytes: int) -> None:
        """From the budget as it stands, after collecting what it takes."""
        while not self._budget.try_reserve(OWNER, size_bytes):
            if not self._collect_an_extent():
                raise BudgetError(
                    "no extent is to be had", limit="budget", wanted_bytes=size_bytes,
                    limit_bytes=self._budget.limit_bytes,
                )  # fmt: skip

    def _collect_an_extent(self) -> bool:
        """Whether as much was dead, and one was closed."""
        while self.usage().dead_bytes >= self._space.extent_bytes:
            found = self.collect(self._space.extent_bytes, reason=ROOM)
            if found.extents:
                return True
            if not found.more:
                break
        return False

    @_mended
    def _settle(self, pool: Pool, extent: Extent, table: HandleTable) -> None:
        """Close what the last value went from. An open extent is filled again from its start."""
        if not extent.live_bytes:
            if extent is pool.extent or extent is pool.survivors:
                extent.reset()
            else:
                if self._cleaner.victim is extent:
                    self._cleaner.victim = None
                self._space.close_extent(extent)
        if table is not pool.table:
            if not table.live:
                self._space.close_table(pool, table)
            elif not table.is_listed:
                self._space.list_table(pool, table)

    def _mend(self) -> None:
        with self._lock:
            space = self._space
            space.mend()
            if self._dropped is not None:
                space.drop(self._dropped)
                self._dropped = None
            victim = self._cleaner.victim
            if victim is not None and victim.number not in space.pools[victim.lifetime].extents:
                self._cleaner.victim = victim = None
            if victim is None:
                space.has_spare = space.extent_count > 0
            surplus_bytes = self._budget.owners().get(OWNER, 0) - space.charged_bytes
            if surplus_bytes > self._coming_bytes:
                self._budget.release(OWNER, surplus_bytes - self._coming_bytes)

    def check(self) -> None:
        """Assert every invariant. Looks at every value."""
        with self._lock:
            space = self._space
            space.check()
            assert self._budget.owners().get(OWNER, 0) >= space.charged_bytes
            mapped = [extent.map for extent in space]
            mapped += [self._tables[n].map for pool in self._pools.values() for n in pool.tables]
            assert sum(map(len, mapped)) == space.resident_bytes
            assert space.has_spare or not space.extent_count or self._cleaner.victim is not None
            live_bytes = 0
            for pool in self._pools.values():
                values, live = self._check_tables(pool)
                live_bytes += live
                for number in pool.extents:
                    extent = self._extents[number]
                    assert extent.live_bytes == values.pop(number, 0)
                    assert extent.live_bytes or extent in (pool.extent, pool.survivors)
                    assert extent.slot == self._top - 2 * extent.slots
                    assert extent.end == extent.words[extent.slot] <= 4 * extent.slot
                assert not values, "a handle leads to an extent of another pool"
            assert live_bytes == self.live_bytes

    def _check_tables(self, pool: Pool) -> tuple[dict[int, int], int]:
        """Live bytes by extent as a pool's handles have them, and those of the values alone."""
        extents: dict[int, int] = {}
        live_bytes = 0
        for number in pool.tables:
            table = self._tables[number]
            free, local = 0, table.free
            while local != NO_HANDLE:
                entry = table.words[local]
                assert entry >> SLOT_BITS == FREE_ENTRY >> SLOT_BITS
                free, local = free + 1, entry & SLOT_MASK
            assert free + table.live == len(table.words)
            for local, entry in enumerate(table.words):
                if entry < FREE_ENTRY:
                    extent = self._extents[entry >> SLOT_BITS]
                    slot = self._top - 2 * (entry & SLOT_MASK)
                    assert extent.words[slot - 1] == table.first | local
                    assert extent.words[slot] <= extent.words[slot - 2] <= extent.end
                    size = extent.words[slot - 2] - extent.words[slot]
                    live_bytes += size
                    extents[extent.number] = extents.get(extent.number, 0) + size + SLOT_BYTES
        return extents, live_bytes


def _not_found(handle: int) -> NotFoundError:
    return NotFoundError(f"the arena holds no value {handle}")
