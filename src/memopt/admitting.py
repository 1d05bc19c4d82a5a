"""Who may write to a store, before anything is written. Not here: turns (pressure/admission.py)."""

from collections.abc import Callable

from memopt.base.config import Config
from memopt.base.errors import BackpressureError, DiskFullError, QuotaError, UsageError
from memopt.base.events import Events, Refused
from memopt.directory import Directory
from memopt.pressure.governor import Governor


def admission_of(
    directory: Directory, config: Config, events: Events, governor: Governor, *, read_only: bool
) -> Callable[[int], None]:
    """Who may write: nobody when read-only, when memory is critically short, or beyond the quota
    or a log out of bounds."""

    def admit(size_bytes: int) -> None:
        if read_only:
            raise UsageError("the store was opened read-only", field="read_only")
        if governor.refusing:
            events.emit(Refused("pressure", "critical"))
            raise BackpressureError(
                "memory is critically short", limit="pressure",
                retry_after_seconds=governor.retry_after_seconds(),
            )  # fmt: skip
        quota = config.disk_quota_bytes
        if quota is not None and directory.home.disk_bytes() + size_bytes > quota:
            events.emit(Refused("disk_quota_bytes", "quota"))
            raise QuotaError(
                "the disk quota is reached: delete something and compact", limit="disk_quota_bytes",
                wanted_bytes=size_bytes, limit_bytes=quota, retry_after_seconds=60.0,
            )  # fmt: skip
        if not directory.has_room(size_bytes):
            events.emit(Refused("disk", "full"))
            raise DiskFullError(
                "the disk is full: what is left is needed to bring the log home, so delete "
                "something and compact, or make room", limit="disk", wanted_bytes=size_bytes,
                retry_after_seconds=5.0,
            )  # fmt: skip
        if directory.wal_is_excessive():
            events.emit(Refused("wal_limit_bytes", "a reader holds the log"))
            raise BackpressureError(
                "a reader keeps the write-ahead log from being emptied", limit="wal_limit_bytes"
            )

    return admit
