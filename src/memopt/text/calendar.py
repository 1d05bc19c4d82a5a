"""Runs of whole days: a day, a week, a month, a season, and what lies a few of them away.

Owns the arithmetic of the calendar. Invariant: a run has at least one day. A date outside the years
1 to 9999 raises OverflowError or ValueError, as the standard library has it. Not here: words
(timewords), sentences (times), or time zones.
"""

import enum
from datetime import date, timedelta
from typing import Final, NamedTuple

DAY: Final = timedelta(days=1)
WEEK_DAYS: Final = 7


class TimeKind(enum.StrEnum):
    """What a time expression names."""

    HOUR = "hour"
    """Less than a day: "an hour ago", "in the last 20 minutes"."""
    DAY = "day"
    WEEK = "week"
    WEEKEND = "weekend"
    MONTH = "month"
    QUARTER = "quarter"
    SEASON = "season"
    YEAR = "year"
    DECADE = "decade"
    SPAN = "span"
    """From one time to another: "8 to 12 May", "in the last three weeks", "early 2023"."""
    SINCE = "since"
    """Open at its end: "since March", "after 8 May"."""
    UNTIL = "until"
    """Open at its start: "before June 2022"."""


class Days(NamedTuple):
    start: date
    """An aware datetime where the kind is HOUR, and so is `stop`."""
    stop: date
    """The day after the last."""
    kind: TimeKind


def day(at: date) -> Days:
    return Days(at, at + DAY, TimeKind.DAY)


def span(start: date, stop: date) -> Days:
    return Days(start, stop, TimeKind.SPAN)


def week(at: date) -> Days:
    """The week from Monday that `at` lies in."""
    monday = at - timedelta(days=at.weekday())
    return Days(monday, monday + timedelta(days=WEEK_DAYS), TimeKind.WEEK)


def weekend(at: date) -> Days:
    """Saturday and Sunday of the week that `at` lies in."""
    monday = week(at).start
    return Days(monday + timedelta(days=5), monday + timedelta(days=WEEK_DAYS), TimeKind.WEEKEND)


def month(at: date) -> Days:
    start = at.replace(day=1)
    return Days(start, months_after(start, 1), TimeKind.MONTH)


def quarter(at: date) -> Days:
    start = date(at.year, (at.month - 1) // 3 * 3 + 1, 1)
    return Days(start, months_after(start, 3), TimeKind.QUARTER)


def season(at: date) -> Days:
    """The three months that `at` lies in: winter is December to February, and so on."""
    start = months_after(at.replace(day=1), -(at.month % 3))
    return Days(start, months_after(start, 3), TimeKind.SEASON)


def year(at: date) -> Days:
    return Days(date(at.year, 1, 1), date(at.year + 1, 1, 1), TimeKind.YEAR)


def decade(at: date) -> Days:
    start = at.year // 10 * 10
    return Days(date(start, 1, 1), date(start + 10, 1, 1), TimeKind.DECADE)


def half_year(of: int, half: int) -> Days:
    start = date(of, 6 * half - 5, 1)
    return span(start, months_after(start, 6))


AROUND: Final = {
    TimeKind.DAY: day,
    TimeKind.WEEK: week,
    TimeKind.WEEKEND: weekend,
    TimeKind.MONTH: month,
    TimeKind.QUARTER: quarter,
    TimeKind.SEASON: season,
    TimeKind.YEAR: year,
    TimeKind.DECADE: decade,
}
"""The unit of the calendar that a day lies in."""

_MONTHS: Final = {
    TimeKind.MONTH: 1,
    TimeKind.QUARTER: 3,
    TimeKind.SEASON: 12,
    TimeKind.YEAR: 12,
    TimeKind.DECADE: 120,
}
_DAYS: Final = {TimeKind.DAY: 1, TimeKind.WEEK: WEEK_DAYS, TimeKind.WEEKEND: WEEK_DAYS}


def later(at: date, count: int, unit: TimeKind) -> date:
    """The day `count` units after `at`, before it where `count` is negative. A day that the month
    does not have is its last: a month after 31 January is 28 or 29 February."""
    if unit in _DAYS:
        return at + timedelta(days=count * _DAYS[unit])
    return months_after(at, count * _MONTHS[unit])


def months_after(at: date, count: int) -> date:
    index = at.year * 12 + at.month - 1 + count
    first = date(index // 12, index % 12 + 1, 1)
    return first + timedelta(days=min(at.day, month_days(first)) - 1)


def month_days(at: date) -> int:
    """How many days the month of `at` has."""
    if at.month == 12:
        return 31
    return (at.replace(month=at.month + 1, day=1) - at.replace(day=1)).days


def third(of: Days, index: int) -> Days:
    """The first (0), middle (1) or last (2) third of a run, in whole months where it has some:
    of May 1-10, 11-20, 21-31; of a year January to April, and so on."""
    months = (of.stop.year - of.start.year) * 12 + of.stop.month - of.start.month
    if of.start.day == of.stop.day == 1 and months >= 3:
        marks = [months_after(of.start, months * part // 3) for part in range(4)]
    else:
        days = (of.stop - of.start).days
        marks = [of.start + timedelta(days=days * part // 3) for part in range(3)] + [of.stop]
    return span(marks[index], max(marks[index + 1], marks[index] + DAY))


def part_of(of: Days, unit: TimeKind, number: int) -> Days | None:
    """The `number`-th unit of a run, counted from its first day, from its end where negative: the
    first week of May is its days 1 to 7. None where it does not have as many."""
    if unit is TimeKind.WEEKEND:
        return _weekend_of(of, number)
    if number < 0:
        stop = of.stop if number == -1 else later(of.stop, number + 1, unit)
        start = later(of.stop, number, unit)
    else:
        start, stop = later(of.start, number - 1, unit), later(of.start, number, unit)
    if start < of.start or start >= of.stop:
        return None
    return Days(start, min(stop, of.stop), unit)


def _weekend_of(of: Days, number: int) -> Days | None:
    """The weekends of a run are those whose Saturday lies in it."""
    if number < 0:
        found = later(weekend(of.stop - DAY).start, number + 1, TimeKind.WEEK)
        found = found if found < of.stop else later(found, -1, TimeKind.WEEK)
    else:
        first = weekend(of.start).start
        first = first if first >= of.start else later(first, 1, TimeKind.WEEK)
        found = later(first, number - 1, TimeKind.WEEK)
    return weekend(found) if of.start <= found < of.stop else None


def easter(of: int) -> date:
    """Easter Sunday of a year, by the Gregorian rule (Butcher's algorithm)."""
    a, (b, c) = of % 19, divmod(of, 100)
    d, e = divmod(b, 4)
    f = (b + 8) // 25
    h = (19 * a + b - d - (b - f + 1) // 3 + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = h + m - 7 * ((a + 11 * h + 22 * m) // 451) + 114
    return date(of, n // 31, n % 31 + 1)


def nth_weekday(of: date, weekday: int, number: int) -> date:
    """The `number`-th such weekday of the month of `of`; Monday is 0."""
    first = of.replace(day=1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))
