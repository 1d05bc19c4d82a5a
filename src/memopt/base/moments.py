"""Moments of the past: how far a reader sees, by LSN and by time of commit."""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.base.records import to_us


class Bound(NamedTuple):
    """How far a reader sees: records up to an LSN, and up to a time of commit."""

    lsn: int
    at_us: int

    def sees(self, lsn: int, at_us: int) -> bool:
        return lsn <= self.lsn and at_us <= self.at_us


NOW: Final = Bound(2**63 - 1, 2**63 - 1)
_FIRST_US: Final = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_US: Final = to_us(datetime.max.replace(tzinfo=UTC))


def bound_of(moment: object, *, field: str) -> Bound:
    """An LSN or an aware datetime. Raises UsageError for anything else."""
    if isinstance(moment, datetime):
        return Bound(NOW.lsn, check_time(moment, field=field))
    if isinstance(moment, int) and not isinstance(moment, bool) and moment >= 0:
        return Bound(moment, NOW.at_us)
    raise UsageError(f"expected an LSN or a datetime, got {moment!r}", field=field)


def check_time(moment: object, *, field: str) -> int:
    """Microseconds since 1970 UTC of an aware datetime. Raises UsageError for anything else."""
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise UsageError(f"expected an aware datetime, got {moment!r}", field=field)
    at_us = to_us(moment)
    if not _FIRST_US <= at_us <= _LAST_US:
        raise UsageError(f"{moment!r} is in no year from 1 to 9999 UTC", field=field)
    return at_us


def zoned(text: str) -> str:
    """A time that was written without a zone, or without an hour, as it might be."""
    return f"{text}Z" if ":" in text else f"{text}T00:00Z"
