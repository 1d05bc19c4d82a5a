"""Time expressions: "last week", "in May 2023", "two days ago", as intervals.

Owns what they mean. Whatever has no year is read as the past: "in May" is the latest May that has
begun, "last May" the latest that is over, "next May" the first that has not begun. Weeks start on
Monday, seasons are the northern ones. "last week" is the calendar's, "the last week" and "the past
week" are the seven days before today and today. "Two weeks ago" is the week, "two days ago" the day
that lies as far back. Times of day are left alone: "8 May at 5 pm" is 8 May.

Invariant: any text is read in linear time, without an error, into at most TIMES_MAX intervals, none
of them empty. Not here: which memories an interval lets through.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.base.records import to_datetime, to_us
from memopt.text import calendar
from memopt.text import timewords as words
from memopt.text.calendar import Days, TimeKind
from memopt.text.spoken import STARTS, TimeReader
from memopt.text.timewords import Tokens

TIMES_MAX: Final = 16
BEGINNING_US: Final = to_us(datetime.min.replace(tzinfo=UTC))
END_US: Final = to_us(datetime.max.replace(tzinfo=UTC))
"""Where an interval that is open ends."""


class TimeScope(NamedTuple):
    """An interval that a text names."""

    start_us: int
    stop_us: int
    """The first microsecond after it."""
    text: str
    """The words that named it."""
    kind: TimeKind
    settled: bool = False
    """Whether it has a year, so that it is the same seen from any day."""


def find_times(text: str, now: datetime) -> list[TimeScope]:
    """What times `text` names, in its order, seen from `now` and in its time zone. Raises
    UsageError where `now` has no time zone."""
    if now.tzinfo is None or now.utcoffset() is None:
        raise UsageError("expected a time with a time zone", field="now")
    return list(_scopes(text, now)) if _may_have_time(text) else []


def asked_time(text: str, now: datetime) -> TimeScope | None:
    """The one interval that a question is about, if it names any. What has a year counts more than
    what is seen from now, which may be somebody else's now: "what broke last week, as you said on
    6 May 2023?". Of several, what they have in common, else from the first to the last."""
    found = find_times(text, now)
    found = [scope for scope in found if scope.settled] or found
    if len(found) <= 1:
        return found[0] if found else None
    start, stop = max(one.start_us for one in found), min(one.stop_us for one in found)
    if start >= stop:
        start, stop = min(one.start_us for one in found), max(one.stop_us for one in found)
    words_said = ", ".join(one.text for one in found)
    return TimeScope(start, stop, words_said, TimeKind.SPAN, found[0].settled)


def has_time(text: str) -> bool:
    """Whether `text` names a time."""
    return _may_have_time(text) and next(_scopes(text, _ANY_TIME), None) is not None


def _may_have_time(text: str) -> bool:
    """Quickly: most texts have nothing that could be one."""
    head = text[: words.READ_CHARS_MAX].lower()
    return not (
        words.MARK.search(head) is None and words.NAMES.isdisjoint(words.LETTERS.findall(head))
    )


def describe_time(scope: TimeScope, zone: tzinfo = UTC) -> str:
    """The interval in words: "8 May 2023", "8 to 12 May 2023", "since 1 March 2023"."""
    start, stop = _local(scope.start_us, zone), _local(scope.stop_us, zone)
    if scope.start_us <= BEGINNING_US:
        return f"before {_moment(stop)}"
    if scope.stop_us >= END_US:
        return f"since {_moment(start)}"
    if scope.kind is TimeKind.HOUR:
        return f"{_moment(start)} to {_moment(stop)}"
    first, last = start.date(), (stop - timedelta(microseconds=1)).date()
    if first == last:
        return _day(first)
    if first.day == 1 and (last + calendar.DAY).day == 1:
        return _months(first, last)
    if first.year != last.year:
        return f"{_day(first)} to {_day(last)}"
    if first.month != last.month:
        return f"{first.day} {_MONTHS[first.month]} to {_day(last)}"
    return f"{first.day} to {_day(last)}"


def _months(first: date, last: date) -> str:
    if (first.month, last.month) == (1, 12):
        return f"{first.year} to {last.year}" if first.year != last.year else f"{last.year}"
    if first.year != last.year:
        return f"{_MONTHS[first.month]} {first.year} to {_MONTHS[last.month]} {last.year}"
    if first.month != last.month:
        return f"{_MONTHS[first.month]} to {_MONTHS[last.month]} {last.year}"
    return f"{_MONTHS[last.month]} {last.year}"


def _local(at_us: int, zone: tzinfo) -> datetime:
    at = to_datetime(at_us)
    try:
        return at.astimezone(zone)
    except OverflowError:
        return at


def _day(at: date) -> str:
    return f"{at.day} {_MONTHS[at.month]} {at.year}"


def _moment(at: datetime) -> str:
    return _day(at) if at.time() == time() else f"{at:%H:%M:%S} on {_day(at)}"


_MONTHS: Final = (
    "", "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
"""Not strftime's, which follow the locale."""


_ANY_TIME: Final = datetime(2024, 7, 3, 12, tzinfo=UTC)


def _scopes(text: str, now: datetime) -> Iterator[TimeScope]:
    tokens = Tokens(text)
    reader = TimeReader(tokens, now)
    index, found = 0, 0
    while found < TIMES_MAX and (start := tokens.at(index)) is not tokens.end:
        read = reader.expression(index) if _may_start(start.word) else None
        if read is None:
            index += 1
            continue
        interval = _interval(read.days, now)
        index = read.stop
        if interval is not None:
            found += 1
            phrase = text[start.start : tokens.at(index - 1).stop]
            yield TimeScope(*interval, phrase, read.days.kind, read.settled)


def _may_start(word: str) -> bool:
    return word in STARTS or word.isdecimal()


def _interval(days: Days, now: datetime) -> tuple[int, int] | None:
    """In microseconds. None where the zone has no such time: Samoa had no 30 December 2011."""
    start_us, stop_us = _instant(days.start, now), _instant(days.stop, now)
    return (start_us, stop_us) if start_us < stop_us else None


def _instant(at: date, now: datetime) -> int:
    if at == date.min:
        return BEGINNING_US
    if at == date.max:
        return END_US
    if not isinstance(at, datetime):
        at = datetime.combine(at, time(), tzinfo=now.tzinfo)
    try:
        return to_us(at)
    except OverflowError:
        return BEGINNING_US if at.year < 5000 else END_US
