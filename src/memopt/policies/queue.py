"""What a policy's tables occupy, and how they give room back.

Every policy here keeps its members in dicts of integers. `OrderedDict` is the queue: it is linked,
so its oldest entry is found in constant time, where a plain dict would walk over every entry that
was deleted before it. Tables of integers also stay out of the interpreter's own collector.
"""

import sys
from collections.abc import Sized
from typing import Any, Final, TypeVar

INT_BYTES: Final = 48
"""An int object below 2^60, at most: one that came out of an addition has a digit to spare. Keys
may be shared with whoever holds the page, and are charged here too: this is an upper estimate."""

_SLACK_BYTES: Final = 2048
_SPARSE_ENTRY_BYTES: Final = 512
"""A table that has just grown costs up to 200 bytes an entry; more than twice that is waste."""

COMPACTION_MASK: Final = 63
"""Asking whether a table is sparse takes as long as a removal; a table that shrinks passes a length
with these bits clear soon enough, and one that stays as long as it is has no need."""

Table = TypeVar("Table", bound=dict[int, Any])


def table_bytes(*tables: Sized) -> int:
    """Bytes of the tables themselves, without the objects in them. Constant time: CPython knows."""
    return sum(map(sys.getsizeof, tables))


def compacted(table: Table) -> Table:
    """The table, or a tight copy of it once most of its room is empty.

    A dict never shrinks by deleting. A copy is at least halfway to its next one, so the copying is
    paid for by the removals before it.
    """
    if sys.getsizeof(table) <= _SLACK_BYTES + _SPARSE_ENTRY_BYTES * len(table):
        return table
    # Not copy(): that keeps the room of a table from which little was deleted.
    return type(table)(table.items())
