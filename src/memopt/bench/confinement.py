"""A hard memory limit around a child: a control group where one can be made, else RLIMIT_DATA.

Owns: the group's directory and its end. Invariant: a group that was made is removed when the
confinement is left. A child is started inside the group, so that everything it ever takes is
counted, and sets the limit itself once it knows what it took to start.

Not here: what runs in it, and what it measures.
"""

import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from memopt.base.errors import UsageError

_CGROUPS: Final = Path("/proc/self/cgroup")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_STATUS: Final = Path("/proc/self/status")
_REMOVAL_SECONDS: Final = 2.0


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a child is to be confined, and by what."""

    kind: str
    """cgroup v2, cgroup v1 or RLIMIT_DATA."""
    group: str | None = None
    """The group's directory; None for RLIMIT_DATA."""

    def limit(self, growth_bytes: int, *, start_rss_bytes: int) -> int:
        """In the child: from now on this process may have so much more than it has. What the limit
        is in bytes, as the kernel was told."""
        if self.group is None:
            total = _status_bytes("VmData") + growth_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (total, total))
            return total
        total = start_rss_bytes + growth_bytes
        for name, value in _limits(self.kind, total):
            with contextlib.suppress(FileNotFoundError):
                Path(self.group, name).write_text(str(value), "ascii")
        return total

    def oom_kills(self) -> int:
        """Processes of the group that the kernel killed."""
        if self.group is None:
            return 0
        name = "memory.events" if self.kind == "cgroup v2" else "memory.oom_control"
        for line in Path(self.group, name).read_text("ascii").splitlines():
            field, _, count = line.partition(" ")
            if field == "oom_kill":
                return int(count)
        return 0

    def prefix(self) -> list[str]:
        """What comes before a command that is to run in the group."""
        if self.group is None:
            return []
        return ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.group]


@contextlib.contextmanager
def confinement() -> Iterator[Confinement]:
    """The strictest confinement there is here. Raises UsageError where there is none."""
    for kind, parent in _parents():
        group = _made(kind, parent)
        if group is None:
            continue
        try:
            yield Confinement(kind=kind, group=str(group))
        finally:
            _remove(group)
        return
    if not _STATUS.exists():
        raise UsageError("there is neither a control group to use nor RLIMIT_DATA to measure")
    yield Confinement(kind="RLIMIT_DATA")


def _parents() -> Iterator[tuple[str, Path]]:
    """Groups of this process that may take a subgroup, the newer kind first."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text("utf-8").splitlines()]
        lines = _CGROUPS.read_text("utf-8").splitlines()
    except OSError:
        return
    own = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.lstrip("/")
    for fields in mounts:
        point, kind, options = Path(fields[4]), fields[fields.index("-") + 1], fields[-1]
        if kind == "cgroup2":
            yield "cgroup v2", point / own.get("", "")
            yield "cgroup v2", point
        elif kind == "cgroup" and "memory" in options.split(","):
            yield "cgroup v1", point / own.get("memory", "")
            yield "cgroup v1", point


def _made(kind: str, parent: Path) -> Path | None:
    """A new group with a limit that can be set; None where that is not allowed."""
    try:
        group = Path(tempfile.mkdtemp(prefix="memopt-", dir=parent))
    except OSError:
        return None
    name = "memory.max" if kind == "cgroup v2" else "memory.limit_in_bytes"
    if os.access(group / name, os.W_OK):
        return group
    _remove(group)
    return None


def _limits(kind: str, total: int) -> list[tuple[str, int]]:
    """Files and values, in the order in which they can be written: no swap, so that RAM is RAM."""
    if kind == "cgroup v2":
        return [("memory.swap.max", 0), ("memory.max", total)]
    both = "memory.memsw.limit_in_bytes"
    # RAM alone must never be above RAM and swap, whatever was set before.
    return [(both, -1), ("memory.limit_in_bytes", total), (both, total)]


def _remove(group: Path) -> None:
    # The kernel lets a group go a moment after its last process was waited for.
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while group.exists() and time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.01)


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text("ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise UsageError(f"the system does not say {field}")
