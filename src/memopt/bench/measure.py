"""What a benchmark reads off: latencies, resident bytes, bytes on disk, and the machine itself.

Owns: the instruments. Invariant: an instrument has constant memory, allocated before it is used,
so that it does not show up in what it measures. Not here: child processes (child), the command
line (command), and any judgement of a figure.
"""

import ctypes
import gc
import math
import os
import platform
import sys
import time
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from memopt.base.clock import SystemClock

_BUCKET_RATIO: Final = 1.01
_BUCKETS_PER_E: Final = 1 / math.log(_BUCKET_RATIO)
_BUCKETS: Final = int(math.log(1e12) * _BUCKETS_PER_E) + 1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATM: Final = "/proc/self/statm"
_STATUS: Final = "/proc/self/status"
_PROBE_SYNCS: Final = 48
_PROBE_BYTES: Final = 4096


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds."""

    p50: float
    p99: float


class LatencyHistogram:
    """Durations in logarithmic buckets of 1 %, from 1 ns to 1,000 s, in 22 KB."""

    __slots__ = ("_counts", "count", "ns_max", "ns_sum")

    def __init__(self) -> None:
        self._counts = array("q", bytes(8 * _BUCKETS))
        self.count = 0
        self.ns_sum = 0
        self.ns_max = 0

    def add(self, ns: int) -> None:
        index = int(math.log(ns) * _BUCKETS_PER_E) if ns > 0 else 0
        self._counts[index if index < _BUCKETS else _BUCKETS - 1] += 1
        self.count += 1
        self.ns_sum += ns
        if ns > self.ns_max:
            self.ns_max = ns

    def merge(self, other: "LatencyHistogram") -> None:
        """Count what another one counted, too."""
        for index, count in enumerate(other._counts):
            self._counts[index] += count
        self.count += other.count
        self.ns_sum += other.ns_sum
        self.ns_max = max(self.ns_max, other.ns_max)

    def quantile_us(self, share: float) -> float:
        """The middle of the bucket that holds the quantile, so within 0.5 %; 0.0 when empty."""
        rank = share * self.count
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                middle: float = _BUCKET_RATIO ** (index + 0.5)
                return round(min(middle, self.ns_max) / 1000, 3)
        return 0.0

    def quantiles(self) -> Quantiles:
        return Quantiles(p50=self.quantile_us(0.5), p99=self.quantile_us(0.99))

    @property
    def seconds(self) -> float:
        return self.ns_sum / 1e9


class CpuClock(SystemClock):
    """A clock that runs while its thread does: pauses measured by it are the work in them, and not
    what a shared machine did meanwhile."""

    def monotonic(self) -> float:
        return time.thread_time()


class RssMeter:
    """The growth of this process's resident set since the meter was made.

    `settle` first gives back what loading left over, so that freed memory that is merely reused
    does not hide growth. Between samples the kernel's own high-water mark is kept, where it has
    one that can be reset (Linux).
    """

    def __init__(self) -> None:
        settle()
        self._has_peak = _reset_peak()
        self.start_bytes = rss_bytes()
        self._sampled_max = self.start_bytes

    def sample(self) -> int:
        """Resident bytes now."""
        now = rss_bytes()
        if now > self._sampled_max:
            self._sampled_max = now
        return now

    @property
    def growth_bytes(self) -> int:
        return self.sample() - self.start_bytes

    @property
    def growth_bytes_max(self) -> int:
        """The largest growth seen, by the samples and by the kernel."""
        peak = _peak_bytes() if self._has_peak else None
        self.sample()
        return max(self._sampled_max, peak or 0) - self.start_bytes


def rss_bytes() -> int:
    """The resident set of this process."""
    try:
        with open(_STATM, "rb", buffering=0) as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return int(psutil.Process().memory_info().rss)


def settle() -> None:
    """Collect once and hand freed memory back to the system, where its allocator can."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def disk_bytes(directory: str | os.PathLike[str]) -> int:
    """Bytes allocated for the files in a directory, whatever their lengths say."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                status = os.lstat(os.path.join(root, name))
            except FileNotFoundError:  # a log or a journal came and went
                continue
            total += status.st_blocks * 512
    return total


def evict_os_cache(directory: str | os.PathLike[str]) -> bool:
    """Ask the system to drop its cache of these files. False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in Path(directory).iterdir():
        if not path.is_file():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def disk_read_bytes() -> int | None:
    """Bytes this process made the disk deliver so far; None where the system does not say.

    It tells whether an eviction of the OS cache happened: a read that it answered adds nothing.
    """
    try:
        for line in Path("/proc/self/io").read_text("ascii").splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def sync_file(descriptor: int) -> None:
    """fdatasync, or the nearest thing the platform has."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def append_and_sync_us(directory: str | os.PathLike[str], count: int = _PROBE_SYNCS) -> Quantiles:
    """How long a 4 KB append with its sync takes here, on a file made for the purpose."""
    histogram = LatencyHistogram()
    path = Path(directory) / "sync.probe"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        block = b"m" * _PROBE_BYTES
        for _ in range(count):
            begun = time.perf_counter_ns()
            os.write(descriptor, block)
            sync_file(descriptor)
            histogram.add(time.perf_counter_ns() - begun)
    finally:
        os.close(descriptor)
        path.unlink()
    return histogram.quantiles()


def machine(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What a figure depends on: processor, memory, Python, file system, and how syncs behave."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "filesystem": _filesystem(directory),
        "append_and_sync_4kb_us": msgspec.to_builtins(append_and_sync_us(directory)),
    }


def median(values: Iterable[float]) -> float:
    """The lower middle value: one that was measured, not the mean of two."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return _peak_bytes() is not None


def _peak_bytes() -> int | None:
    try:
        for line in Path(_STATUS).read_text("ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _filesystem(directory: str | os.PathLike[str]) -> str:
    here = os.path.realpath(directory)
    mounts = [
        (part.mountpoint, part.fstype)
        for part in psutil.disk_partitions(all=True)
        if os.path.commonpath([part.mountpoint, here]) == part.mountpoint
    ]
    return max(mounts, key=lambda mount: len(mount[0]))[1] if mounts else "unknown"
