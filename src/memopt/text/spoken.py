"""Times as people say them: what counts from now, what is part of a time or lies beside one, and
from one time to another.

Owns the grammar above dates.py. Invariant: a reading takes a constant number of steps, for what a
rule reads within itself is one of dates.py's. Not here: what the expressions mean (times.py).
"""

from datetime import UTC, date, datetime, timedelta
from typing import Final

from memopt.text import calendar
from memopt.text import timewords as words
from memopt.text.calendar import Days, TimeKind
from memopt.text.dates import NINETIES, DateReader, Read, View, Which, days_of_month
from memopt.text.timewords import Tokens


class TimeReader(DateReader):
    """Reads at an index of the tokens a time as people say it."""

    def __init__(self, tokens: Tokens, now: datetime) -> None:
        super().__init__(tokens)
        self._now = now
        self._view = View(now.date(), now.date())

    def expression(self, index: int) -> Read | None:
        """The longest time that begins at the index, if any."""
        try:
            return self._between(index, self._view) or self._open(index) or self._listed(index)
        except (ValueError, OverflowError):  # 31 June, or a thousand years before the year 1
            return None

    def _listed(self, index: int) -> Read | None:
        """A time; without a year it takes that of the one it is listed with: March or May 2022."""
        evident = self._evident(index)
        read = self._point(index, self._view, evident=evident)
        if read is None or read.fixed or self._tokens.word(read.stop) not in _LISTS:
            return read
        other = self._point(read.stop + 1, self._view, evident=True)
        if other is None or not other.settled or other.days.kind is not read.days.kind:
            return read
        earlier = View(self._view.today, other.days.start)
        listed = self._point(index, earlier, evident=evident)
        return listed._replace(settled=True) if listed is not None else read

    def _evident(self, index: int) -> bool:
        tokens = self._tokens
        if tokens.word(index - 1) == "of":  # the month of May, the year of 2023
            return tokens.word(index - 2) in words.UNITS
        before = index - 1 - (tokens.word(index - 1) in words.THE)
        return tokens.word(before) in words.EVIDENCE

    # From one time to another.

    def _between(self, index: int, view: View) -> Read | None:
        """between X and Y, from X to Y, X to Y, 2021-2023. What has no year takes the other's."""
        head = self._tokens.word(index)
        evident = head in words.BETWEEN or head in words.FROM
        start = index + evident
        if (years := self._years(start)) is not None:
            return years
        first = self._point(start, view, evident=evident or self._evident(index))
        if first is None or first.days.kind is TimeKind.HOUR:
            return None
        if self._tokens.word(first.stop) not in words.BETWEEN.get(head, words.TO):
            if head in words.FROM and self._tokens.word(first.stop) in _ONWARDS:
                return Read(
                    Days(first.days.start, date.max, TimeKind.SINCE), first.stop + 1,
                    first.fixed, first.settled,
                )  # fmt: skip
            return None
        second = self._point(first.stop + 1, view, evident=True)
        if second is None or second.days.kind is TimeKind.HOUR:
            return None
        if not first.fixed:
            earlier = View(view.today, second.days.start)
            first = self._point(start, earlier, evident=True) or first
        elif not second.fixed:
            later = View(view.today, first.days.start, Which.FOLLOWING)
            second = self._point(first.stop + 1, later, evident=True) or second
        days = calendar.span(
            min(first.days.start, second.days.start), max(first.days.stop, second.days.stop)
        )
        return Read(days, second.stop, settled=first.settled or second.settled)

    def _years(self, index: int) -> Read | None:
        """2021-2023."""
        tokens = self._tokens
        first, second = tokens.number(index), tokens.number(index + 2)
        if first is None or second is None or tokens.word(index + 1) != "-":
            return None
        if not 1900 <= first < second < 2100 or tokens.touches(index):
            return None
        if tokens.touches(index + 3) and tokens.word(index + 3) in ("-", "/"):
            return None
        days = calendar.span(date(first, 1, 1), date(second + 1, 1, 1))
        return Read(days, index + 3, settled=True)

    def _open(self, index: int) -> Read | None:
        """since X, after X, before X, until X, by X."""
        word, following = self._tokens.word(index), self._tokens.word(index + 1)
        start = index + 1
        if (word, following) in _TWO_WORDS:
            word, start = _TWO_WORDS[word, following], index + 2
        if word not in _RELATIONS:
            return None
        read = self._point(start, self._view, evident=word != "by")
        if read is None:
            return None
        days = read.days
        if word in words.SINCE:
            days = Days(days.start, date.max, TimeKind.SINCE)
        elif word in words.AFTER:
            days = Days(days.stop, date.max, TimeKind.SINCE)
        elif word in words.BEFORE:
            days = Days(date.min, days.start, TimeKind.UNTIL)
        else:
            days = Days(date.min, days.stop, TimeKind.UNTIL)
        return read._replace(days=days)

    # One time.

    def _point(self, index: int, view: View, *, evident: bool) -> Read | None:
        if self._tokens.word(index) in words.THE:
            index += 1
        read = (
            self._counted(index, view)
            or self._part(index, view)
            or self._beside(index, view)
            or self._plain(index, view, evident=evident)
        )
        if read is not None and self._tokens.word(read.stop) in words.DAYTIMES:
            return read._replace(stop=read.stop + (read.days.kind is TimeKind.DAY))
        return read

    def _plain(self, index: int, view: View, *, evident: bool) -> Read | None:
        """What others are made of: nothing here reads a second time inside the first."""
        if self._tokens.word(index) in words.THE:
            index += 1
        return (
            self._phrase(index)
            or self._near(index, view)
            or self.date_at(index, view, evident=evident)
            or self._day_of_month(index, view)
        )

    def _phrase(self, index: int) -> Read | None:
        """today, the day before yesterday, la semaine dernière, 去年."""
        tokens = self._tokens
        if tokens.word(index) not in words.FIXED_STARTS:
            return None
        if tokens.word(index) == "morgen" and tokens.word(index - 1) in _NO_TOMORROW:
            return None
        for length in range(words.FIXED_WORDS_MAX, 0, -1):
            phrase = tuple(tokens.word(index + k) for k in range(length))
            if (found := words.FIXED.get(phrase)) is not None:
                return Read(self._away_from_today(*found), index + length)
        return None

    def _away_from_today(self, count: int, unit: TimeKind) -> Days:
        return calendar.AROUND[unit](calendar.later(self._view.today, count, unit))

    def _near(self, index: int, view: View) -> Read | None:
        """last week, this month, next Friday, the last three weeks, this past weekend; the week
        before last."""
        tokens = self._tokens
        if (unit := words.UNITS.get(tokens.word(index))) is not None:
            after = (tokens.word(index + 1), tokens.word(index + 2))
            if after in _TWICE:
                return Read(self._away_from_today(_TWICE[after], unit), index + 3)
            if unit is TimeKind.WEEKEND and tokens.word(index - 1) in words.THE:
                return Read(self._weekend(Which.LATEST), index + 1)
        if (away := self.away(index)) is None:
            return None
        if away == 0 and self.away(index + 1) is not None:  # this past, this coming
            index += 1
            away = self.away(index) or 0
        start = index + 1
        if (unit := words.UNITS.get(tokens.word(start))) is not None:
            return self._unit_away(index, away, unit)
        if away and (counted := self._rolling(start, away)) is not None:
            return counted
        if away == 0 and tokens.word(start) == "may":  # this may be so
            return None
        if (found := self.cycle_at(start)) is not None:
            which = (Which.LAST, Which.THIS, Which.NEXT)[away + 1]
            days = found[0].choose(view.today, which)
            return Read(days, found[1]) if days is not None else None
        return None

    def _unit_away(self, index: int, away: int, unit: TimeKind) -> Read | None:
        tokens = self._tokens
        if tokens.word(index + 1) in words.PLURALS:
            few = away * words.VAGUE["few"][1]
            return Read(self._run(few, unit), index + 2) if few else None
        if away == -1 and unit is TimeKind.WEEKEND:
            return Read(self._weekend(Which.LAST), index + 2)
        rolling = tokens.word(index) == "past" or (
            tokens.word(index - 1) in words.THE and tokens.word(index) == "last"
        )
        if away == -1 and rolling:
            return Read(self._run(-1, unit), index + 2)
        if unit is TimeKind.DAY:
            return None
        return Read(self._away_from_today(away, unit), index + 2)

    def _weekend(self, which: Which) -> Days:
        """The latest weekend that has begun, or that is over."""
        here = calendar.weekend(self._view.today)
        edge = here.start if which is Which.LATEST else here.stop
        return here if edge <= self._view.today else self._away_from_today(-1, TimeKind.WEEKEND)

    def _rolling(self, index: int, away: int) -> Read | None:
        """three weeks, 24 hours, few months (after "last" or "next")."""
        if (quantity := self._quantity(index)) is None:
            return None
        _, most, stop = quantity
        word = self._tokens.word(stop)
        if word in words.SECONDS:
            now = self._now.astimezone(UTC)
            other = now + away * timedelta(seconds=most * words.SECONDS[word])
            return Read(Days(min(now, other), max(now, other), TimeKind.HOUR), stop + 1)
        if (counted := self._unit(stop)) is None:
            return None
        return Read(self._run(away * most * counted[1], counted[0]), stop + 1)

    def _run(self, count: int, unit: TimeKind) -> Days:
        """The days from as many units ago until today, or from today until then."""
        today = self._view.today
        other = calendar.later(today, count, unit)
        return calendar.span(min(today, other), max(today, other) + calendar.DAY)

    def _quantity(self, index: int) -> tuple[int, int, int] | None:
        """At least, at most, and the index after it: 3, three, twenty-one, a, a couple of, few."""
        tokens = self._tokens
        word = tokens.word(index)
        if word == "a" and tokens.word(index + 1) in words.VAGUE:
            index += 1
            word = tokens.word(index)
        if (vague := words.VAGUE.get(word)) is not None:
            return *vague, index + 1 + (tokens.word(index + 1) == "of")
        if (number := tokens.number(index)) is not None:
            return number, number, index + 1
        if (number := words.NUMBERS.get(word)) is None:
            return None
        ones = index + 1 + (tokens.word(index + 1) == "-")
        more = words.NUMBERS.get(tokens.word(ones), 0)
        if number >= 20 and 0 < more < 10:
            return number + more, number + more, ones + 1
        return number, number, index + 1

    def _unit(self, index: int) -> tuple[TimeKind, int] | None:
        """The unit, and how many of it the word means."""
        word = self._tokens.word(index)
        if word in words.FORTNIGHTS:
            return TimeKind.WEEK, 2
        return (words.UNITS[word], 1) if word in words.UNITS else None

    def _counted(self, index: int, view: View) -> Read | None:
        """three days ago, two weeks from now, a week before 8 May, vor drei Tagen, 三天前."""
        tokens = self._tokens
        if (read := self._counted_east_asian(index)) is not None:
            return read
        for prefix in _AGO_PREFIXES.get(tokens.word(index), ()):
            start = index + len(prefix)
            if all(tokens.word(index + k) == word for k, word in enumerate(prefix)):
                return self._shifted(start, -1, suffix=False)
        if (quantity := self._quantity(index)) is None:
            return None
        after = quantity[2] + 1
        word, following = tokens.word(after), tokens.word(after + 1)
        if word in ("ago", "back"):
            return self._shifted(index, -1)
        if (word, following) in (("from", "now"), ("from", "today"), ("before", "now")):
            read = self._shifted(index, 1 if word == "from" else -1)
            return read._replace(stop=read.stop + 1) if read is not None else None
        if word in ("before", "after") and (unit := self._unit(quantity[2])) is not None:
            read = self._plain(after + 1, view, evident=False)
            if read is None or read.days.kind is TimeKind.HOUR or quantity[0] != quantity[1]:
                return None
            count = quantity[0] * unit[1]
            if word == "before":
                at = calendar.later(read.days.start, -count, unit[0])
            else:
                at = calendar.later(read.days.stop - calendar.DAY, count, unit[0])
            return read._replace(days=calendar.AROUND[unit[0]](at))
        return None

    def _counted_east_asian(self, index: int) -> Read | None:
        """三天前, 3日前, 两周前, 2か月前."""
        tokens = self._tokens
        number = tokens.number(index, 3) or words.CJK_NUMBERS.get(tokens.word(index))
        if number is None:
            return None
        after = index + 1
        while tokens.word(after) in ("个", "個", "か", "ヶ", "星") and after < index + 3:
            after += 1
        unit = words.CJK_UNITS.get(tokens.word(after))
        if tokens.word(after) in ("期", "間"):
            unit = TimeKind.WEEK
        after += 1 + (tokens.word(after + 1) == "間")
        if unit is None or tokens.word(after) != "前":
            return None
        return Read(self._away_from_today(-number, unit), after + 1)

    def _shifted(self, index: int, sign: int, *, suffix: bool = True) -> Read | None:
        """A quantity and a unit, away from today, and the word that says so after them."""
        if (quantity := self._quantity(index)) is None:
            return None
        least, most, stop = quantity
        word = self._tokens.word(stop)
        after = stop + 1 + suffix
        if (seconds := words.SECONDS.get(word)) is not None:
            now, half = self._now.astimezone(UTC), timedelta(seconds=seconds / 2)
            ends = [now + sign * timedelta(seconds=seconds * count) for count in (least, most)]
            return Read(Days(min(ends) - half, max(ends) + half, TimeKind.HOUR), after)
        if (counted := self._unit(stop)) is None:
            return None
        unit, times = counted
        ends_days = [self._away_from_today(sign * n * times, unit) for n in (least, most)]
        first, last = min(ends_days), max(ends_days)
        return Read(first if least == most else calendar.span(first.start, last.stop), after)

    # Parts of a time, and what lies beside it.

    def _part(self, index: int, view: View) -> Read | None:
        """early May, mid-August 2023, the end of last year, the second week of November, the week
        of 8 May."""
        tokens = self._tokens
        word = tokens.word(index)
        if word in words.THIRDS:
            start = index + 1 + (tokens.word(index + 1) in ("-", *words.OF))
            return self._third(start, words.THIRDS[word], view)
        if word in words.THIRDS_OF and tokens.word(index + 1) == "of":
            return self._third(index + 2, words.THIRDS_OF[word], view)
        if words.UNITS.get(word) in _WEEKS and tokens.word(index + 1) == "of":
            read = self._plain(index + 2, view, evident=True)
            if read is None or read.days.kind is not TimeKind.DAY:
                return None
            return read._replace(days=calendar.AROUND[words.UNITS[word]](read.days.start))
        if (ordinal := self.ordinal(index)) is None:
            return None
        unit = words.UNITS.get(tokens.word(ordinal[1]))
        if unit not in _PARTS or tokens.word(ordinal[1] + 1) not in words.OF:
            return None
        read = self._plain(ordinal[1] + 2, view, evident=True)
        if read is None or read.days.kind is TimeKind.HOUR:
            return None
        days = calendar.part_of(read.days, unit, ordinal[0])
        return read._replace(days=days) if days is not None else None

    def _third(self, index: int, part: int, view: View) -> Read | None:
        read = self._plain(index, view, evident=True)
        if read is None or read.days.kind in (TimeKind.HOUR, TimeKind.DAY):
            return None
        return read._replace(days=calendar.third(read.days, part))

    def _beside(self, index: int, view: View) -> Read | None:
        """the week before 3 August, the weekend after Easter, the Friday before 8 May."""
        tokens = self._tokens
        word, relation = tokens.word(index), tokens.word(index + 1)
        last = index if word in ("last", "next") else None
        if last is not None:  # last weekend before 10 April
            word, relation = relation, tokens.word(index + 2)
        if relation not in ("before", "after"):
            return None
        unit, weekday = words.UNITS.get(word), words.WEEKDAYS.get(word)
        if unit is None and (weekday is None or word in words.WEAK_WEEKDAYS):
            return None
        read = self._plain(index + 2 + (last is not None), view, evident=False)
        if read is None or read.days.kind is TimeKind.HOUR:
            return None
        before = relation == "before"
        edge = read.days.start if before else read.days.stop
        if unit is TimeKind.WEEKEND or weekday is not None:
            at = edge - calendar.DAY if before else edge
            while at.weekday() != (5 if weekday is None else weekday - 1):
                at += -calendar.DAY if before else calendar.DAY
            if unit is None:
                return read._replace(days=calendar.day(at))
            weekend = calendar.weekend(at)
            overlaps = before and weekend.stop > edge
            return read._replace(
                days=calendar.weekend(at - timedelta(days=7)) if overlaps else weekend
            )
        assert unit is not None
        other = calendar.later(edge, -1 if before else 1, unit)
        return read._replace(days=Days(min(edge, other), max(edge, other), unit))

    def _day_of_month(self, index: int, view: View) -> Read | None:
        """the 8th, where nothing follows that it could count."""
        tokens = self._tokens
        number = self.day_number(index)
        if number is None or number[1] != index + 2 or tokens.word(index - 1) != "the":
            return None
        if tokens.word(number[1])[:1].isalnum() and tokens.word(number[1]) not in _AFTER_A_DAY:
            return None
        days = days_of_month(number[0]).choose(view.at, view.which)
        return Read(days, number[1], fixed=False) if days is not None else None


_RELATIONS: Final = words.SINCE | words.AFTER | words.BEFORE | words.UNTIL
_TWO_WORDS: Final = {
    ("prior", "to"): "before", ("earlier", "than"): "before", ("later", "than"): "after",
    ("up", "to"): "until", ("antes", "de"): "before", ("después", "de"): "after",
}  # fmt: skip
_ONWARDS: Final = frozenset({"on", "onward", "onwards", "forward", "an"})
_LISTS: Final = frozenset({"and", "or", ",", "und", "oder", "et", "ou", "y", "o"})
_TWICE: Final = {("before", "last"): -2, ("after", "next"): 2}
_AGO_PREFIXES: Final = {"vor": (("vor",),), "hace": (("hace",),), "il": (("il", "y", "a"),)}
_NO_TOMORROW: Final = frozenset({"guten", "am", "heute", "gestern", "jeden", "diesen"})
_WEEKS: Final = (TimeKind.WEEK, TimeKind.WEEKEND)
_PARTS: Final = (TimeKind.DAY, TimeKind.WEEK, TimeKind.WEEKEND, TimeKind.MONTH)
_AFTER_A_DAY: Final = frozenset({"and", "to", "until", "i", "we", "he", "she", "they", "you"})
STARTS: Final = frozenset().union(
    _RELATIONS, words.BETWEEN, words.FROM, words.FIXED_STARTS, words.HOLIDAY_STARTS,
    words.MONTHS, words.WEEKDAYS, words.SEASONS, words.UNITS, words.NUMBERS, words.VAGUE,
    words.ORDINALS, words.LAST, words.THIS, words.NEXT, words.THIRDS, words.THIRDS_OF,
    words.CJK_NUMBERS, NINETIES, _AGO_PREFIXES,
    (first for first, _ in _TWO_WORDS), ("q", "h"),
)  # fmt: skip
"""The words that an expression may begin with, beside numbers."""
