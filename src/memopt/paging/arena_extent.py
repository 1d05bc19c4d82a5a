"""What an arena is made of: extents that hold values, tables that say where a handle's value is.

Owns: the layout of both. An extent is one anonymous mapping. Values fill it from the front; its
slots, two 32-bit words a value, fill it from the back:

    | value 0 | value 1 | value 2 |   free   | handle, end of 2 | handle, end of 1 | …of 0 | 0 |

The value of the slot at word `p` starts where word `p` says, belongs to the handle in word `p - 1`,
and ends where word `p - 2` says, which is where the next one starts. A handle table is a mapping of
32-bit entries: extent number and slot index of a handle in use, or the next free one of the table.

Invariant: a mapping never shrinks, moves or is seen outside; once it is closed, its memory is back
with the system. Not here: locks, the budget, and what goes where (arena, arena_cleaner).
"""

import contextlib
import mmap
import sys
from array import array
from typing import Final

from memopt.base.errors import CapacityError
from memopt.base.records import Lifetime

SLOT_BYTES: Final = 8
SLOT_BITS: Final = 17
"""An extent of 1 MiB has room for 2^17 slots and nothing else, so no slot has a higher index."""
SLOT_MASK: Final = (1 << SLOT_BITS) - 1
EXTENT_BYTES_MAX: Final = SLOT_BYTES << SLOT_BITS
EXTENTS_MAX: Final = (1 << 32 - SLOT_BITS) - 2
"""32 GiB in extents of 1 MiB. The number above them marks a handle that is free."""
FREE: Final = (1 << 32 - SLOT_BITS) - 1
FREE_ENTRY: Final = FREE << SLOT_BITS

TABLE_BITS: Final = 14
TABLE_HANDLES: Final = 1 << TABLE_BITS
TABLE_MASK: Final = TABLE_HANDLES - 1
TABLE_BYTES: Final = 4 * TABLE_HANDLES
TABLES_MAX: Final = 1 << 24
"""So a handle fits into the 32-bit word of a slot with room to spare."""
NO_HANDLE: Final = SLOT_MASK
"""The end of a table's list of free handles."""

OBJECT_BYTES: Final = 1024
"""The Python objects of one mapping: an mmap, its view, the Extent or HandleTable, and the places
in lists, sets and heaps that lead to it; measured in the tests."""

_WORD_BYTES: Final = 4
_NOHUGEPAGE: Final[int | None] = getattr(mmap, "MADV_NOHUGEPAGE", None)

assert array("I").itemsize == _WORD_BYTES


class Extent:
    """One mapping with values of one lifetime."""

    __slots__ = ("end", "entry", "lifetime", "live_bytes", "map", "number", "slot", "words")

    def __init__(self, number: int, lifetime: Lifetime, size_bytes: int) -> None:
        self.number = number
        self.lifetime = lifetime
        self.map = _mapping(size_bytes)
        self.words = memoryview(self.map).cast("I")
        self.live_bytes = 0
        """Of the values that were not deleted, with their slots."""
        self.reset()

    def reset(self) -> None:
        """Empty it, for its values are all deleted. What it touched stays resident."""
        assert self.live_bytes == 0
        self.slot = len(self.words) - 1
        """The word with the start of the next value."""
        self.end = 0
        """Where the next value starts."""
        self.entry = self.number << SLOT_BITS
        """The table entry of the next value."""

    @property
    def slots(self) -> int:
        """How many values were put into it, deleted ones included."""
        return self.entry & SLOT_MASK

    @property
    def filled_bytes(self) -> int:
        return self.end + SLOT_BYTES * self.slots

    @property
    def dead_bytes(self) -> int:
        """What evacuating it would give back, beside what was never filled."""
        return self.filled_bytes - self.live_bytes

    def close(self) -> None:
        """Give its memory back to the system, now."""
        self.words.release()
        self.map.close()


class HandleTable:
    """Entries of TABLE_HANDLES handles in a row, which all belong to one pool."""

    __slots__ = ("first", "free", "is_listed", "lifetime", "live", "map", "words")

    def __init__(self, number: int, lifetime: Lifetime) -> None:
        self.lifetime = lifetime
        self.first = number << TABLE_BITS
        """Its lowest handle."""
        self.live = 0
        """Handles in use."""
        self.is_listed = False
        """Its pool knows that it has free handles."""
        self.map = _mapping(TABLE_BYTES)
        self.words = memoryview(self.map).cast("I")
        self.words[:] = _FRESH
        self.free = 0
        """The first of its free handles, or NO_HANDLE."""

    @property
    def number(self) -> int:
        return self.first >> TABLE_BITS

    @classmethod
    def gone(cls) -> "HandleTable":
        """What stands in the place of a table that was closed: every handle of it is free."""
        table = cls.__new__(cls)
        table.words = _FRESH
        return table

    def close(self) -> None:
        self.words.release()
        self.map.close()


def _mapping(size_bytes: int) -> mmap.mmap:
    """Private, so that a forked child which writes gets pages of its own. Raises CapacityError."""
    try:
        made = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError) as error:
        raise CapacityError(
            f"the system has no {size_bytes} bytes to map: {error}", limit="memory",
            wanted_bytes=size_bytes,
        ) from error  # fmt: skip
    if _NOHUGEPAGE is not None and sys.platform == "linux":
        # A huge page spans two extents: the first value of one would make the other resident, and
        # closing one would give nothing back.
        with contextlib.suppress(OSError):  # a kernel without huge pages
            made.madvise(_NOHUGEPAGE)
    return made


_FRESH: Final = memoryview(
    array("I", [*range(FREE_ENTRY + 1, FREE_ENTRY + TABLE_HANDLES), FREE_ENTRY | NO_HANDLE])
).toreadonly()
