"""Dates as they are written: numbers, months, weekdays, seasons, quarters, years, holidays.

Owns the grammar of what a calendar names. Invariant: a reading takes a constant number of steps and
returns what was read and the index after it, or None. Not here: what counts from now (times).
"""

import enum
from collections.abc import Callable
from datetime import date, timedelta
from typing import Final, NamedTuple

from memopt.text import calendar
from memopt.text import timewords as words
from memopt.text.calendar import Days, TimeKind
from memopt.text.timewords import Tokens

STEPS_MAX: Final = 9
"""29 February is at most eight years away, unless a century's leap year is left out."""
YEARS: Final = range(1000, 3000)
BARE_YEARS: Final = range(1900, 2100)
"""Years that may stand without a month."""


class Which(enum.Enum):
    """Which of the many Mays is meant, seen from a day."""

    LATEST = enum.auto()
    """The latest that has begun."""
    LAST = enum.auto()
    """The latest that is over."""
    THIS = enum.auto()
    """The one of the same year, week or month."""
    NEXT = enum.auto()
    """The first that has not begun."""
    FOLLOWING = enum.auto()
    """The first that begins on the day or after it."""


class Cycle(NamedTuple):
    """What comes again every week, month or year."""

    period: TimeKind
    make: Callable[[date], Days]
    """The occurrence in the period that begins on a day; ValueError where there is none."""

    def choose(self, at: date, which: Which) -> Days | None:
        first = calendar.AROUND[self.period](at).start
        forward = which in (Which.NEXT, Which.FOLLOWING)
        for step in range(STEPS_MAX):
            away = 0 if which is Which.THIS else step - 1 if forward else 1 - step
            try:
                found = self.make(calendar.later(first, away, self.period))
            except (ValueError, OverflowError):
                continue
            if (
                which is Which.THIS
                or (which is Which.LATEST and found.start <= at)
                or (which is Which.LAST and found.stop <= at)
                or (which is Which.NEXT and found.start > at)
                or (which is Which.FOLLOWING and found.start >= at)
            ):
                return found
        return None


class View(NamedTuple):
    """From where an expression without a year is read."""

    today: date
    """What "this year" means."""
    at: date
    which: Which = Which.LATEST


class Read(NamedTuple):
    days: Days
    stop: int
    """The index of the token after it."""
    fixed: bool = True
    """Whether the view made no difference: it had a year, or counts from today."""
    settled: bool = False
    """Whether it had a year, so that it is the same on any day."""


class _Year(NamedTuple):
    year: int
    stop: int
    settled: bool
    """It stands there as a number."""


class DateReader:
    """Reads at an index of the tokens what a calendar names there. What no calendar has, such as
    31 June 2023, raises ValueError or OverflowError."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def date_at(self, index: int, view: View, *, evident: bool) -> Read | None:
        """A date, month, season, quarter, year or decade. `evident`: the word before says that a
        time follows, so "may" is a month and 2023 a year."""
        read = self._numeric(index) or self._day_range(index, view)
        if read is not None:
            return read
        if (found := self._cycle(index)) is not None:
            cycle, stop, weak = found
            if (year := self._year_after(stop, view)) is not None:
                days = cycle.make(date(year.year, 1, 1))
                return Read(days, year.stop, settled=year.settled)
            if weak and not evident:
                return None
            chosen = cycle.choose(view.at, view.which)
            return Read(chosen, stop, fixed=False) if chosen is not None else None
        return self._weekday(index, view) or self._year(index, evident=evident)

    def cycle_at(self, index: int) -> tuple[Cycle, int] | None:
        """What "last" and "next" may stand before: a month, a weekday, a season, a holiday."""
        if (weekday := words.WEEKDAYS.get(self._tokens.word(index))) is not None:
            return _weekdays(weekday), index + 1
        found = self._cycle(index)
        return found[:2] if found is not None else None

    # Numbers alone.

    def _numeric(self, index: int) -> Read | None:
        """2023-05-08, 2023/05/08, 20230508, 8.5.2023, 5/8/2023, 2023-05, 2023年5月8日."""
        tokens = self._tokens
        if not tokens.word(index).isdecimal() or self._glued_before(index):
            return None
        packed = tokens.number(index, 8)
        if packed is not None and len(tokens.word(index)) == 8:
            year, rest = divmod(packed, 10_000)
            if year in BARE_YEARS and not self._glued_after(index + 1):
                return self._whole(year, rest // 100, rest % 100, index + 1)
            return None
        if tokens.word(index + 1) in ("年", "月"):
            return self._east_asian(index)
        sign = tokens.word(index + 1)
        first, second = tokens.number(index), tokens.number(index + 2, 2)
        if sign not in ("-", "/", ".") or first is None or second is None:
            return None
        if not (tokens.touches(index + 1) and tokens.touches(index + 2)):
            return None
        again = tokens.word(index + 3) == sign and tokens.touches(index + 3)
        third = tokens.number(index + 4) if again and tokens.touches(index + 4) else None
        if third is None:
            whole_year = len(tokens.word(index)) == 4 and len(tokens.word(index + 2)) == 2
            if sign == "-" and whole_year and first in YEARS and not self._glued_after(index + 3):
                return self._month_of(first, second, index + 3)
            return None
        if self._glued_after(index + 5) and tokens.word(index + 5) != "t":  # 2023-05-08T13:56
            return None
        if len(tokens.word(index)) == 4:
            return self._whole(first, second, third, index + 5)
        year = third + 2000 if sign == "/" and len(tokens.word(index + 4)) == 2 else third
        month_first = sign == "/" and first <= 12
        day, month = (second, first) if month_first else (first, second)
        return self._whole(year, month, day, index + 5)

    def _whole(self, year: int, month: int, day: int, stop: int) -> Read | None:
        if year not in YEARS:
            return None
        return Read(calendar.day(date(year, month, day)), stop, settled=True)

    def _month_of(self, year: int, month: int, stop: int) -> Read | None:
        if not 1 <= month <= 12:
            return None
        return Read(calendar.month(date(year, month, 1)), stop, settled=True)

    def _east_asian(self, index: int) -> Read | None:
        """2023年5月8日, 2023年5月, 2023年. A month without its year is left to the cycles."""
        tokens = self._tokens
        year = tokens.number(index)
        if tokens.word(index + 1) != "年" or year not in YEARS or year is None:
            return None
        month = tokens.number(index + 2, 2)
        if month is None or tokens.word(index + 3) != "月" or not 1 <= month <= 12:
            return Read(calendar.year(date(year, 1, 1)), index + 2, settled=True)
        day = tokens.number(index + 4, 2)
        if day is not None and tokens.word(index + 5) in ("日", "号", "號"):
            return self._whole(year, month, day, index + 6)
        return self._month_of(year, month, index + 4)

    def _glued_before(self, index: int) -> bool:
        """Whether a number goes on to its left: part of a word, a sum, a fraction or a version."""
        tokens = self._tokens
        if not tokens.touches(index):
            return False
        sign = tokens.word(index - 1)
        if sign in ".,/-:" and sign:
            return tokens.touches(index - 1) and tokens.word(index - 2)[:1].isalnum()
        return sign == "" or sign in "$€£¥#_" or (sign[0].isalnum() and sign[0] < "\u3000")

    def _glued_after(self, index: int) -> bool:
        """Whether a number goes on to its right: 12.5, 3%, 8:30, 12kg."""
        tokens = self._tokens
        if not tokens.touches(index) or tokens.done(index):
            return False
        sign = tokens.word(index)
        if sign in (".", ",", ":", "/", "-"):
            return tokens.touches(index + 1) and tokens.word(index + 1)[:1].isdecimal()
        return sign == "" or sign in "%°$€£¥_" or (sign[0].isalnum() and sign[0] < "\u3000")

    # Days of months.

    def day_number(self, index: int, *, joined: bool = False) -> tuple[int, int] | None:
        """The day of a month and the index after it: 8, 8th. `joined`: in a range, so what it
        touches before it is not looked at."""
        number = self._tokens.number(index, 2)
        if number is None or not 1 <= number <= 31:
            return None
        if not joined and self._glued_before(index):
            return None
        if self._tokens.word(index + 1) in words.ORDINAL_ENDS and self._tokens.touches(index + 1):
            return number, index + 2
        return number, index + 1

    def _month_name(self, index: int) -> tuple[int, int] | None:
        month = words.MONTHS.get(self._tokens.word(index))
        if month is None:
            return None
        short = len(self._tokens.word(index)) <= 4
        dotted = short and self._tokens.word(index + 1) == "." and self._tokens.touches(index + 1)
        return month, index + (2 if dotted and self._goes_on(index + 2) else 1)

    def _goes_on(self, index: int) -> bool:
        """Whether a dot before this was an abbreviation's and not a sentence's."""
        return self._tokens.word(index)[:1].isdecimal()

    def _day_month(self, index: int, *, joined: bool = False) -> tuple[int, int, int] | None:
        """8 May, 8th of May, the 8th of May, 8. Mai, 8 de mayo, 5月8日: (month, day, stop)."""
        tokens = self._tokens
        if tokens.word(index) in words.THE:
            index += 1
        if (number := self.day_number(index, joined=joined)) is None:
            return None
        day, stop = number
        if tokens.word(stop) == "月" and day <= 12:
            in_month = tokens.number(stop + 1, 2)
            if in_month is not None and tokens.word(stop + 2) in ("日", "号", "號"):
                return day, in_month, stop + 3
            return None
        if tokens.word(stop) in ("of", "de", ".") or (
            tokens.word(stop) == "day" and tokens.word(stop + 1) == "of"
        ):
            stop += 2 if tokens.word(stop) == "day" else 1
        if (month := self._month_name(stop)) is None:
            return None
        return month[0], day, month[1]

    def _month_day(self, index: int, *, joined: bool = False) -> tuple[int, int, int] | None:
        """May 8, May 8th, May the 8th: (month, day, stop)."""
        if (month := self._month_name(index)) is None:
            return None
        stop = month[1] + (self._tokens.word(month[1]) == "the")
        if (number := self.day_number(stop)) is None:
            return None
        if not joined and self._glued_after(number[1]):
            return None
        return month[0], number[0], number[1]

    def _day_range(self, index: int, view: View) -> Read | None:
        """8-12 May 2023, 8 and 12 May (after "between"), May 8-12, 2023."""
        tokens = self._tokens
        if tokens.word(index).isdecimal():
            first = self.day_number(index)
            if first is None or not self._joins(index, first[1]):
                return None
            found = self._day_month(first[1] + 1, joined=True)
            if found is None:
                return None
            month, last, stop = found
            day = first[0]
        else:
            if (begun := self._month_day(index, joined=True)) is None:
                return None
            month, day, stop = begun
            if not self._joins(index, stop):
                return None
            end = self.day_number(stop + 1, joined=True)
            if end is None or self._month_name(end[1]) or self._glued_after(end[1]):
                return None
            last, stop = end
        if last <= day:
            return None
        cycle = Cycle(
            TimeKind.YEAR,
            lambda at: calendar.span(
                date(at.year, month, day), date(at.year, month, last) + timedelta(days=1)
            ),
        )
        if (year := self._year_after(stop, view)) is not None:
            return Read(cycle.make(date(year.year, 1, 1)), year.stop, settled=year.settled)
        days = cycle.choose(view.at, view.which)
        return Read(days, stop, fixed=False) if days is not None else None

    def _joins(self, start: int, index: int) -> bool:
        tokens = self._tokens
        if tokens.word(index) in words.TO:
            return True
        head = tokens.word(start - 2 if tokens.word(start - 1) in words.THE else start - 1)
        return tokens.word(index) in words.BETWEEN.get(head, ())

    # What comes again.

    def _cycle(self, index: int) -> tuple[Cycle, int, bool] | None:
        """A day of a month, a month, a season, a quarter or a holiday, the index after it, and
        whether it needs evidence."""
        word = self._tokens.word(index)
        if (found := self._day_month(index) or self._month_day(index)) is not None:
            month, day, stop = found
            return _dates(month, day), stop, False
        if (named := self._month_name(index)) is not None:
            return _months(named[0]), named[1], word not in words.STRONG_MONTHS
        number = self._tokens.number(index, 2)
        if number is not None and 1 <= number <= 12 and self._tokens.word(index + 1) == "月":
            return _months(number), index + 2, self._glued_before(index)
        if word in words.SEASONS:
            return _seasons(words.SEASONS[word]), index + 1, True
        if word in words.HOLIDAY_STARTS:
            for length in range(words.HOLIDAY_WORDS_MAX, 0, -1):
                name = tuple(self._tokens.word(index + k) for k in range(length))
                if name in words.HOLIDAYS:
                    return _holidays(*words.HOLIDAYS[name]), index + length, False
        return self._quarter(index)

    def _quarter(self, index: int) -> tuple[Cycle, int, bool] | None:
        """Q2, H1, the second quarter, the first half (of a year)."""
        tokens = self._tokens
        number = tokens.number(index + 1, 1)
        if tokens.word(index) in ("q", "h") and number and tokens.touches(index + 1):
            quarters = tokens.word(index) == "q"
            if number > (4 if quarters else 2) or self._glued_after(index + 2):
                return None
            return (_quarters(number) if quarters else _halves(number)), index + 2, not quarters
        start = index + (tokens.word(index) == "the")
        if (ordinal := self.ordinal(start)) is None or ordinal[0] < 1:
            return None
        if tokens.word(ordinal[1]) == "quarter" and ordinal[0] <= 4:
            return _quarters(ordinal[0]), ordinal[1] + 1, True
        if tokens.word(ordinal[1]) == "half" and ordinal[0] <= 2:
            return _halves(ordinal[0]), ordinal[1] + 1, True
        return None

    def ordinal(self, index: int) -> tuple[int, int] | None:
        """first, 2nd, last (-1), and the index after it."""
        tokens = self._tokens
        if (number := words.ORDINALS.get(tokens.word(index))) is not None:
            return number, index + 1
        counted = tokens.number(index, 2)
        if counted and tokens.word(index + 1) in words.ORDINAL_ENDS and tokens.touches(index + 1):
            return counted, index + 2
        return None

    def _weekday(self, index: int, view: View) -> Read | None:
        """Friday; Friday, 8 May 2023; Friday last week."""
        tokens = self._tokens
        word = tokens.word(index)
        if (weekday := words.WEEKDAYS.get(word)) is None:
            return None
        stop = index + 1
        after = stop
        while after < stop + 3 and tokens.word(after) in (".", ",", *words.THE):
            after += 1
        if (dated := self._dated(after, view)) is not None:
            return dated
        if word in words.WEAK_WEEKDAYS or tokens.word(index - 1) in ("every", "each"):
            return None
        if (away := self._week_away(stop)) is not None:
            monday = calendar.later(calendar.week(view.today).start, away[0], TimeKind.WEEK)
            return Read(calendar.day(monday + timedelta(days=weekday - 1)), away[1])
        days = _weekdays(weekday).choose(view.at, view.which)
        return Read(days, stop, fixed=False) if days is not None else None

    def _dated(self, index: int, view: View) -> Read | None:
        """The day that follows the name of a weekday."""
        if self._day_month(index) is None and self._month_day(index) is None:
            return self._numeric(index)
        return self.date_at(index, view, evident=False)

    def _week_away(self, index: int) -> tuple[int, int] | None:
        """[of] last week, this week, next week: how many weeks away."""
        index += self._tokens.word(index) in words.OF
        if self._tokens.word(index + 1) != "week":
            return None
        away = self.away(index)
        return (away, index + 2) if away is not None else None

    def away(self, index: int) -> int | None:
        """-1 for "last", 0 for "this", 1 for "next"."""
        word = self._tokens.word(index)
        for away, named in ((-1, words.LAST), (0, words.THIS), (1, words.NEXT)):
            if word in named:
                return away
        return None

    # Years.

    def _year_after(self, index: int, view: View) -> _Year | None:
        """The year that belongs to what stands before: 2023; , 2023; of 2023; of last year."""
        tokens = self._tokens
        comma = tokens.word(index) == ","
        index += comma or tokens.word(index) in words.OF or tokens.word(index) == "/"
        year = tokens.number(index)
        if year is not None and len(tokens.word(index)) == 4:
            if year not in (BARE_YEARS if comma else YEARS) or self._glued_after(index + 1):
                return None
            return _Year(year, index + 1, True)
        index += not comma and tokens.word(index) == "the"
        if tokens.word(index + 1) == "year" and (away := self.away(index)) is not None:
            return _Year(view.today.year + away, index + 2, False)
        return None

    def _year(self, index: int, *, evident: bool) -> Read | None:
        """2023 where a word before it says so; the 1990s, the 90s, the nineties."""
        tokens = self._tokens
        word = tokens.word(index)
        if word in NINETIES:
            start = NINETIES[word] if tokens.word(index - 1) in ("the", "late", "early") else None
            return _decade(start, index + 1)
        number = tokens.number(index)
        if number is None or self._glued_before(index):
            return None
        quoted = tokens.word(index + 1) == "'"
        plural = index + 1 + quoted
        if tokens.word(plural) == "s" and tokens.touches(plural) and number % 10 == 0:
            if len(word) == 4 and number in BARE_YEARS:
                return _decade(number, plural + 1)
            if len(word) == 2 and tokens.word(index - 1) in ("the", "'", "late", "early"):
                return _decade(number + (1900 if number >= 20 else 2000), plural + 1)
            return None
        if len(word) != 4 or number not in BARE_YEARS or self._glued_after(index + 1):
            return None
        before = tokens.word(index - 1)
        if not evident and before not in words.YEAR_EVIDENCE:
            return None
        if before in words.COUNTS and tokens.word(index + 1)[:1].isalpha():  # of 2000 people
            return None
        return Read(calendar.year(date(number, 1, 1)), index + 1, settled=True)


NINETIES: Final = {
    "twenties": 1920, "thirties": 1930, "forties": 1940, "fifties": 1950, "sixties": 1960,
    "seventies": 1970, "eighties": 1980, "nineties": 1990,
}  # fmt: skip


def _decade(start: int | None, stop: int) -> Read | None:
    if start is None:
        return None
    return Read(calendar.decade(date(start, 1, 1)), stop, settled=True)


def _dates(month: int, day: int) -> Cycle:
    return Cycle(TimeKind.YEAR, lambda at: calendar.day(date(at.year, month, day)))


def _months(month: int) -> Cycle:
    return Cycle(TimeKind.YEAR, lambda at: calendar.month(date(at.year, month, 1)))


def _seasons(middle: int) -> Cycle:
    return Cycle(TimeKind.YEAR, lambda at: calendar.season(date(at.year, middle, 1)))


def _quarters(number: int) -> Cycle:
    return Cycle(TimeKind.YEAR, lambda at: calendar.quarter(date(at.year, 3 * number, 1)))


def _halves(number: int) -> Cycle:
    return Cycle(TimeKind.YEAR, lambda at: calendar.half_year(at.year, number))


def _weekdays(number: int) -> Cycle:
    return Cycle(TimeKind.WEEK, lambda at: calendar.day(at + timedelta(days=number - 1)))


def days_of_month(day: int) -> Cycle:
    return Cycle(TimeKind.MONTH, lambda at: calendar.day(at.replace(day=day)))


def _holidays(month: int, day: int) -> Cycle:
    def make(at: date) -> Days:
        if month == 0:
            return calendar.day(calendar.easter(at.year) + timedelta(days=day))
        if day == 0:
            return calendar.day(calendar.nth_weekday(date(at.year, month, 1), 3, 4))
        return calendar.day(date(at.year, month, day))

    return Cycle(TimeKind.YEAR, make)
