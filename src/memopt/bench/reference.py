"""libcachesim beside our own simulator: the same trace, through somebody else's code.

Owns: how a trace gets there. It reads requests from a file of fixed records, whose next-access
times count requests from 1; its keys begin at 1 here, and its clock stands still, so that nothing
expires. Invariant: nothing of it is imported but in `replay`, which runs in a process that may be
killed: its BeladySize may never end, and native code may do worse.

Source: J. Yang et al., libCacheSim, https://github.com/1a1a11a/libCacheSim.
"""

import importlib.metadata
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from memopt.bench.belady import NEVER, Keys, Sizes, next_uses

KIND: Final = "libcachesim"
SIZE_BYTES_MAX: Final = 2**32 - 1
"""Of a key, in its records."""
CAPACITY_BYTES_MAX: Final = 2**62
_PACKAGE: Final = "libcachesim"
_CLOSEST: Final = {
    "lru": "LRU",
    "fifo": "FIFO",
    "clock": "Clock",
    "lfu": "LFUDA",
    "sieve": "Sieve",
    "s3fifo": "S3FIFO",
    "arc": "ARC",
    "wtinylfu": "WTinyLFU",
    "w-tinylfu": "WTinyLFU",
    "tinylfu": "WTinyLFU",
    "gdsf": "GDSF",
}
"""Ours, and the one of theirs that is most like it."""
_RECORD: Final = np.dtype([("time", "<u4"), ("key", "<u8"), ("size", "<u4"), ("next", "<i8")])
_HASH_POWER: Final = 20


class Replayed(NamedTuple):
    hit_ratio: float
    byte_hit_ratio: float
    seconds: float
    """CPU time."""


def installed_version() -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def names_for(policies: Iterable[str], *, is_uniform: bool) -> tuple[str, ...]:
    """Their policies beside ours, and their Belady for keys of one size or of many."""
    found = [_CLOSEST[name] for name in policies if name in _CLOSEST]
    return tuple(dict.fromkeys([*found, "Belady" if is_uniform else "BeladySize"]))


def replay(name: str, keys: Keys, sizes: Sizes, capacity_bytes: int, directory: Path) -> Replayed:
    """The ratios of their policy `name`. The trace is written to `directory`, once."""
    import libcachesim

    file = directory / f"{KIND}-{name}"
    if not file.exists():
        _write(file, keys, sizes)
    reader = libcachesim.TraceReader(
        str(file),
        libcachesim.TraceType.ORACLE_GENERAL_TRACE,
        libcachesim.ReaderInitParam(ignore_obj_size=False),
    )
    cache = getattr(libcachesim, name)(cache_size=capacity_bytes, hashpower=_HASH_POWER)
    begun = time.process_time()
    missed, missed_bytes = cache.process_trace(reader)
    return Replayed(1 - missed, 1 - missed_bytes, time.process_time() - begun)


def _write(file: Path, keys: Keys, sizes: Sizes) -> None:
    records = np.zeros(len(keys), dtype=_RECORD)
    records["key"] = keys.astype(np.uint64) + 1
    records["size"] = sizes[keys]
    following = next_uses(keys)
    records["next"] = np.where(following == NEVER, -1, following + 1)
    records.tofile(file)
