"""Reads how much memory there is: accounts, RSS, control groups, RLIMIT_DATA, stalls, disk room.

Linux says all of it in small files; elsewhere psutil and the accounts must do, and `notes` says
what is missing. Nothing is cached but where the files are. RSS costs about 3 µs, a whole reading
some dozens: it is meant for a few times a second.

The limit on RSS is what was asked for, or what memopt promises for its own part: RSS before opening
+ 1.05 budgets + 16 MiB. What other stores of this process hold comes to it.

Not here: what a reading means (governor.py).
"""

import contextlib
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.readings import Reading
from memopt.base.units import KIB, MIB, format_bytes

RSS_BUDGETS: Final = 1.05
RSS_MARGIN_BYTES: Final = 16 * MIB
_UNLIMITED_BYTES: Final = 1 << 60
"""Version 1 writes "no limit" as the largest number of pages, a little below 2^63."""
_FILE_BYTES_MAX: Final = 64 * KIB
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class _Group(NamedTuple):
    """The memory files of one control group."""

    used: str
    limit: str
    stat: str
    total: bool
    """Version 1: `total_…` of memory.stat covers what is nested within."""


class Start(NamedTuple):
    """What the process held before a store was opened: opening takes some, and that is its own."""

    rss_bytes: int
    data_bytes: int | None
    """VmData, where the kernel tells it."""
    others_bytes: int
    """In the budgets of the stores that were open already."""


def read_start(root: Path = Path("/")) -> Start:
    """Now, before anything is opened."""
    return Start(
        rss_bytes=_rss_bytes(_Opened(root / "proc/self/statm")),
        data_bytes=parse_vm_data(_Opened(root / "proc/self/status").read()),
        others_bytes=_used_bytes(),
    )


class SystemProbe:
    """A Probe of this process. `root` is "/", or a directory of a test that looks like it."""

    def __init__(
        self, budget: Budget, evictable_bytes: Callable[[], int], start: Start, *,
        rss_limit_bytes: int | None = None, disk: Path | None = None, root: Path = Path("/"),
        data_limit_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self._budget = budget
        self._evictable_bytes = evictable_bytes
        self._disk = disk
        self._root = root
        self._start = start
        self.notes: list[str] = []
        """What this platform does not tell."""
        self._statm = _Opened(root / "proc/self/statm")
        if self._statm.read() is None:
            self.notes.append("RSS is read through psutil here, which is slower")
        self._groups = control_groups(root)
        if not self._groups:
            self.notes.append("no memory control group is seen here: its limit is not known")
        self._stalls = _Opened(_stall_path(root, self._groups))
        if parse_stalls(self._stalls.read()) == (None, None):
            self.notes.append("memory stalls (PSI) are not told here")
        least = start.rss_bytes + RSS_MARGIN_BYTES
        if rss_limit_bytes is not None and rss_limit_bytes < least:
            # It cannot be kept by anything that a store can do, and would refuse all work for ever.
            self.notes.append(
                f"rss_limit_bytes is {format_bytes(rss_limit_bytes)}, and RSS was "
                f"{format_bytes(start.rss_bytes)} before the store was opened: "
                f"{format_bytes(least)} is taken instead"
            )
            rss_limit_bytes = least
        self._rss_limit_bytes = rss_limit_bytes
        self._data_limit_bytes = data_limit_bytes if data_limit_bytes else _data_limit_bytes()
        _budgets.add(budget)

    def read(self) -> Reading:
        """Everything, now. A figure that cannot be read is None."""
        limit = self._rss_limit_bytes
        used = memory_limit = None
        if limit is None:
            others = max(0, _used_bytes(self._budget) - self._start.others_bytes)
            promised = int(RSS_BUDGETS * self._budget.limit_bytes) + RSS_MARGIN_BYTES
            limit = self._start.rss_bytes + promised + others
        tightest = tightest_group(self._root, self._groups)
        if tightest is not None:
            used, memory_limit = tightest
        some, full = parse_stalls(self._stalls.read())
        return Reading(
            reserved_bytes=self._budget.used_bytes,
            budget_bytes=self._budget.limit_bytes,
            evictable_bytes=self._evictable_bytes(),
            rss_bytes=self.rss_bytes(),
            rss_start_bytes=self._start.rss_bytes,
            rss_limit_bytes=limit,
            rss_limit_is_hard=self._rss_limit_bytes is not None,
            memory_used_bytes=used,
            memory_limit_bytes=memory_limit,
            data_start_bytes=self._start.data_bytes,
            data_limit_bytes=self._data_limit_bytes,
            stall_some_percent=some,
            stall_full_percent=full,
            disk_free_bytes=self._disk_free_bytes(),
        )

    def rss_bytes(self) -> int:
        return _rss_bytes(self._statm)

    def close(self) -> None:
        _budgets.discard(self._budget)
        for opened in (self._statm, self._stalls):
            opened.close()

    def _disk_free_bytes(self) -> int | None:
        if self._disk is None:
            return None
        with contextlib.suppress(OSError):
            found = os.statvfs(self._disk)
            return found.f_bavail * found.f_frsize
        return None


class _Opened:
    """A small file of the kernel, which stays open and is read from its beginning each time."""

    def __init__(self, path: Path | None) -> None:
        self._descriptor = -1
        if path is not None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes | None:
        if self._descriptor < 0:
            return None
        try:
            return os.pread(self._descriptor, _FILE_BYTES_MAX, 0)
        except OSError:
            return None

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


# -- control groups -------------------------------------------------------------------------------


def control_groups(root: Path) -> list[_Group]:
    """The group of this process and those around it, as far as they are seen from here. Inside a
    container the path that /proc tells may not be mounted: then it is the mount's top."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            found = _nested(root / "sys/fs/cgroup/memory", path, _version_1)
        elif number == "0" and not controllers:
            found = _nested(root / "sys/fs/cgroup", path, _version_2)
        else:
            continue
        if found:
            return found
    return []


def tightest_group(root: Path, groups: Sequence[_Group]) -> tuple[int, int] | None:
    """(used, limit) of the group with the least room; None when no group has a limit. File cache
    is not counted as used: the kernel takes it back before it kills."""
    tightest: tuple[int, int] | None = None
    for group in groups:
        limit = _limit(_text(Path(group.limit)))
        used = _text(Path(group.used))
        if limit is None or used is None or not used.strip().isdigit():
            continue
        kept = max(0, int(used) - file_cache_bytes(_text(Path(group.stat)), total=group.total))
        if tightest is None or limit - kept < tightest[1] - tightest[0]:
            tightest = kept, limit
    return tightest


def file_cache_bytes(stat: str | None, *, total: bool) -> int:
    """Of memory.stat: pages of files, used lately or not."""
    prefix = "total_" if total else ""
    wanted = {prefix + "inactive_file", prefix + "active_file"}
    rows = (line.split() for line in (stat or "").splitlines())
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in wanted)


def _nested(mount: Path, path: str, files: Callable[[Path], _Group]) -> list[_Group]:
    found = []
    place = mount / path.strip("/")
    for directory in (place, *place.parents):
        group = files(directory)
        if Path(group.used).exists():
            found.append(group)
        if directory == mount:
            break
    return found


def _version_1(directory: Path) -> _Group:
    return _Group(
        str(directory / "memory.usage_in_bytes"), str(directory / "memory.limit_in_bytes"),
        str(directory / "memory.stat"), True,
    )  # fmt: skip


def _version_2(directory: Path) -> _Group:
    return _Group(
        str(directory / "memory.current"), str(directory / "memory.max"),
        str(directory / "memory.stat"), False,
    )  # fmt: skip


def _limit(text: str | None) -> int | None:
    """`max`, an empty file and version 1's largest number are no limit."""
    word = (text or "").strip()
    if not word.isdigit() or int(word) >= _UNLIMITED_BYTES:
        return None
    return int(word)


# -- other files ----------------------------------------------------------------------------------


def _rss_bytes(statm: _Opened) -> int:
    text = statm.read()
    if text is not None:
        return int(text.split()[1]) * _PAGE_BYTES
    # psutil takes as long to import as half of memopt.
    import psutil

    return int(psutil.Process().memory_info().rss)


def parse_stalls(text: bytes | None) -> tuple[float | None, float | None]:
    """(some, full) percent of the last 10 seconds, of a pressure file."""
    found: dict[bytes, float] = {}
    for line in (text or b"").splitlines():
        words = line.split()
        for word in words[1:]:
            if word.startswith(b"avg10="):
                with contextlib.suppress(ValueError):
                    found[words[0]] = float(word[6:])
    return found.get(b"some"), found.get(b"full")


def parse_vm_data(text: bytes | None) -> int | None:
    """VmData of /proc/self/status, which the kernel gives in KiB."""
    for line in (text or b"").splitlines():
        if line.startswith(b"VmData:"):
            return int(line.split()[1]) * KIB
    return None


def _stall_path(root: Path, groups: Sequence[_Group]) -> Path | None:
    """That of the own group where there is one, else the machine's."""
    own = Path(groups[0].used).with_name("memory.pressure") if groups else None
    for path in (own, root / "proc/pressure/memory"):
        if path is not None and path.exists():
            return path
    return None


def _data_limit_bytes() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if soft == resource.RLIM_INFINITY or soft >= _UNLIMITED_BYTES else soft


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX).decode("ascii", "replace")
    except OSError:
        return None


_budgets: "weakref.WeakSet[Budget]" = weakref.WeakSet()
"""Of the stores that are open in this process."""


def _used_bytes(without: Budget | None = None) -> int:
    return sum(budget.used_bytes for budget in list(_budgets) if budget is not without)
