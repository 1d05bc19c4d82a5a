"""The figures that stats() answers: frozen, like every value a caller gets (records.py)."""

import msgspec


class PressureStats(msgspec.Struct, frozen=True, kw_only=True):
    """How near the limits are, what is expected, and what was done about it."""

    level: str
    """calm, guarded, high or critical."""
    nearest: str
    """Which limit is nearest: budget, rss, memory (control group) or data (RLIMIT_DATA)."""
    used_share: float
    """Of the nearest limit, by what cannot be given back at once."""
    used_bytes: int
    """The same on the scale of the budget."""
    evictable_bytes: int
    outside_bytes: int
    """Taken from the budget because RSS came near its limit: memory memopt does not account."""
    forecast_bytes: int
    """`used_bytes` as expected in `forecast_seconds`."""
    forecast_upper_bytes: int
    forecast_seconds: float
    limit_seconds: float | None
    """Until the limit is reached, if it goes on as expected; None when it is not."""
    forecasts_exceeded_share: float
    """Of the upper forecasts whose moment has come."""
    steps: tuple[str, ...]
    """Taken and not undone, in order."""
    rss_bytes: int
    rss_limit_bytes: int
    memory_used_bytes: int | None
    memory_limit_bytes: int | None
    stall_some_percent: float | None
    stall_full_percent: float | None
    turns: int
    """Open now."""
    turns_waiting: int
    admitted_bytes: int
    """Predicted peaks of the open turns, or their use where that is more."""
    admission_bytes: int
    """What may be admitted at a time."""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a running store. Bytes unless a name says otherwise."""

    lsn: int
    budget_bytes: int
    reserved_bytes: int
    reserved_bytes_max: int
    owners: dict[str, int]
    rss_bytes: int
    resident_sessions: int
    tiers: dict[str, dict[str, int]]
    """By tier: bytes, objects, hits. Objects of L3 would have to be counted, and are left out."""
    scopes: dict[str, dict[str, int]]
    """Resident bytes and objects of the largest scopes."""
    faults: dict[str, int]
    """minor (from L2), major (from L3)."""
    thrashing: bool
    """Now: most major faults are on what was evicted for room not long ago."""
    refault_distance_p50: int
    """Evictions between a page's own and its return, rounded up to a power of two; 0: none did."""
    working_sets: dict[str, dict[str, int]]
    """By agent type ("" for none): bytes resident, touched in the last window, and predicted."""
    hit_ratio: float
    compression_ratio: float
    """Raw ÷ stored bytes of the pages encoded since the store was opened; 0 when none were."""
    delta_ratio: float
    wal_bytes: int
    unsealed_bytes: int
    oldest_reader_seconds: float
    sync_seconds_p99: float
    append_seconds_p50: float
    append_seconds_p99: float
    disk_bytes: int
    disk_free_bytes: int
    pressure: PressureStats
    lost_records: int
    quarantined_sessions: int
    counters: dict[str, int]
    notes: tuple[str, ...]
    """What this platform does less well, in words."""
