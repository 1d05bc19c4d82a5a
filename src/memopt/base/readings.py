"""What a probe reads of memory, and the levels that a governor makes of it."""

import enum
from typing import NamedTuple


class Level(enum.StrEnum):
    """How near memory is to its limit, as far as what is held cannot be given back at once."""

    CALM = "calm"
    GUARDED = "guarded"
    HIGH = "high"
    CRITICAL = "critical"
    """New work is refused."""


class Reading(NamedTuple):
    """What a probe found, at one moment. None: this platform has no such figure, or no limit."""

    reserved_bytes: int
    budget_bytes: int
    evictable_bytes: int
    """Of the reserved ones: what can be given back at once, because it is at home already."""
    rss_bytes: int
    rss_start_bytes: int
    """Before the store was opened."""
    rss_limit_bytes: int
    rss_limit_is_hard: bool
    """Somebody asked for it; else it is what memopt promises for its own part."""
    memory_used_bytes: int | None = None
    """Of the control group that is nearest its limit, without the file cache."""
    memory_limit_bytes: int | None = None
    data_start_bytes: int | None = None
    """Writable private address space before the store was opened: what RLIMIT_DATA limits."""
    data_limit_bytes: int | None = None
    stall_some_percent: float | None = None
    """Of the last 10 seconds, in which some task waited for memory; `full`: all tasks."""
    stall_full_percent: float | None = None
    disk_free_bytes: int | None = None
    """Beside the store."""
    outside_bytes: int = 0
    """Of the reserved ones: taken because RSS is near its limit, which RSS says by itself."""
