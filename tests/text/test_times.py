"""Time expressions: what each names, and that no text can make trouble."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.base.records import to_datetime, to_us
from memopt.text import calendar
from memopt.text.calendar import TimeKind
from memopt.text.times import (
    BEGINNING_US,
    END_US,
    TIMES_MAX,
    TimeScope,
    asked_time,
    describe_time,
    find_times,
    has_time,
)
from memopt.text.timewords import TEXT_CHARS_MAX, Tokens

BERLIN = timezone(timedelta(hours=2), "CEST")
NOW = datetime(2023, 5, 31, 15, 30, tzinfo=BERLIN)
"""A Wednesday."""

EXAMPLES = [
    # Days.
    ("yesterday morning", "30 May 2023"),
    ("the day before yesterday", "29 May 2023"),
    ("What did I say last night?", "30 May 2023"),
    ("this evening", "31 May 2023"),
    ("two days ago", "29 May 2023"),
    ("a couple of days ago", "28 to 29 May 2023"),
    ("twenty-one days ago", "10 May 2023"),
    ("on 8 May", "8 May 2023"),
    ("on 8 June", "8 June 2022"),
    ("May 8th, 2023", "8 May 2023"),
    ("Sept. 28th, 2021", "28 September 2021"),
    ("the 8th of May last year", "8 May 2022"),
    ("1:56 pm on 8 May, 2023", "8 May 2023"),
    ("on the 8th", "8 May 2023"),
    ("29 February", "29 February 2020"),
    ("2023-05-08", "8 May 2023"),
    ("2023-05-08T13:56:00Z", "8 May 2023"),
    ("20230508", "8 May 2023"),
    ("2023/05/30 (Tue) 21:04", "30 May 2023"),
    ("5/8/2023", "8 May 2023"),
    ("13/5/23", "13 May 2023"),
    ("8.5.2023", "8 May 2023"),
    ("as of 27 March, 2022", "27 March 2022"),
    # Weekdays.
    ("last Friday", "26 May 2023"),
    ("last Wednesday", "24 May 2023"),
    ("on Wednesday", "31 May 2023"),
    ("next Friday", "2 June 2023"),
    ("this Monday", "29 May 2023"),
    ("Friday last week", "26 May 2023"),
    ("Fri, 12 May 2023", "12 May 2023"),
    ("the Friday before May 12", "5 May 2023"),
    # Weeks and weekends.
    ("last week", "22 to 28 May 2023"),
    ("the past week", "24 to 31 May 2023"),
    ("the week before last", "15 to 21 May 2023"),
    ("two weeks ago", "15 to 21 May 2023"),
    ("a fortnight ago", "15 to 21 May 2023"),
    ("the week of 8 May", "8 to 14 May 2023"),
    ("the week before August 3, 2023", "27 July to 2 August 2023"),
    ("two weeks before August 11, 2023", "24 to 30 July 2023"),
    ("last weekend", "27 to 28 May 2023"),
    ("this past weekend", "27 to 28 May 2023"),
    ("next weekend", "10 to 11 June 2023"),
    ("last weekend before April 10, 2023", "8 to 9 April 2023"),
    ("the weekend before 9 April 2023", "1 to 2 April 2023"),
    ("the second week of November", "8 to 14 November 2022"),
    ("the last weekend of May", "27 to 28 May 2023"),
    # Months, quarters, seasons, years.
    ("in May 2023", "May 2023"),
    ("in may", "May 2023"),
    ("the month of June", "June 2022"),
    ("last May", "May 2022"),
    ("next May", "May 2024"),
    ("this month", "May 2023"),
    ("last month", "April 2023"),
    ("three months ago", "February 2023"),
    ("2023-05", "May 2023"),
    ("in May of last year", "May 2022"),
    ("Q2 2023", "April to June 2023"),
    ("in the second quarter of 2022", "April to June 2022"),
    ("the first half of 2022", "January to June 2022"),
    ("last quarter", "January to March 2023"),
    ("last summer", "June to August 2022"),
    ("this summer", "June to August 2023"),
    ("winter 2022", "December 2021 to February 2022"),
    ("last winter", "December 2022 to February 2023"),
    ("last year", "2022"),
    ("a year ago", "2022"),
    ("back in 2019", "2019"),
    ("plans for 2022.", "2022"),
    ("the past months", "31 December 2022 to 31 May 2023"),
    ("the 1990s", "1990 to 1999"),
    ("the late 90s", "September 1996 to December 1999"),
    ("mid-August 2023", "11 to 20 August 2023"),
    ("towards the end of summer 2023", "August 2023"),
    ("early next year", "January to April 2024"),
    # Holidays.
    ("last Christmas", "25 December 2022"),
    ("Thanksgiving 2022", "24 November 2022"),
    ("Easter 2023", "9 April 2023"),
    ("New Year's Eve", "31 December 2022"),
    # From one time to another.
    ("in the last 3 months", "28 February to 31 May 2023"),
    ("over the past few weeks", "26 April to 31 May 2023"),
    ("the last month", "30 April to 31 May 2023"),
    ("8-12 May 2023", "8 to 12 May 2023"),
    ("May 8-12, 2023", "8 to 12 May 2023"),
    ("between 8 and 12 May", "8 to 12 May 2023"),
    ("from the 8th to the 12th of May", "8 to 12 May 2023"),
    ("between March and June 2022", "March to June 2022"),
    ("from November to February 2023", "November 2022 to February 2023"),
    ("from May 2022 to July", "May to July 2022"),
    ("from Monday to Wednesday", "29 to 31 May 2023"),
    ("2019-2021", "2019 to 2021"),
    ("past 24 hours", "15:30:00 on 30 May 2023 to 15:30:00 on 31 May 2023"),
    ("an hour ago", "14:00:00 on 31 May 2023 to 15:00:00 on 31 May 2023"),
    # Open.
    ("since March", "since 1 March 2023"),
    ("from May 2022 on", "since 1 May 2022"),
    ("after 8 May", "since 9 May 2023"),
    ("before June 2022", "before 1 June 2022"),
    ("until last Tuesday", "before 31 May 2023"),
    ("by 7 November, 2022", "before 8 November 2022"),
    # Other languages.
    ("am 8. Mai 2022", "8 May 2022"),
    ("vor zwei Tagen", "29 May 2023"),
    ("letzte Woche", "22 to 28 May 2023"),
    ("seit März", "since 1 March 2023"),
    ("le 8 mai 2022", "8 May 2022"),
    ("il y a trois jours", "28 May 2023"),
    ("la semaine dernière", "22 to 28 May 2023"),
    ("el 8 de mayo de 2022", "8 May 2022"),
    ("hace dos semanas", "15 to 21 May 2023"),
    ("2023年5月8日", "8 May 2023"),
    ("我们上周去了", "22 to 28 May 2023"),
    ("三天前", "28 May 2023"),
    ("3日前", "28 May 2023"),
    ("去年", "2022"),
]

NO_TIMES = [
    "",
    "in the morning",
    "at 5 pm",
    "may I ask june about march madness and the fall of Rome",
    "This may be so",
    "version 1.2.3, 10.12.2020.1, 192.168.1.1, 8:30, 12.5 %",
    "I paid $2023 for 2022 people and over 2000 stamps, 555-2020, v2023, 2023kg",
    "the 8th floor",
    "every Friday",
    "the first one of the last two",
    "How much did he lift in 3 months?",
    "2023-13-45, 31.31.2023",
    "Guten Morgen",
    "5000 years ago",
    "long ago, recently, the next time",
]


@pytest.mark.parametrize(("text", "wanted"), EXAMPLES)
def test_an_expression_names_its_interval(text: str, wanted: str) -> None:
    [found] = find_times(text, NOW)
    assert describe_time(found, BERLIN) == wanted
    assert found.text in text
    assert has_time(text)


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_names_no_time_finds_none(text: str) -> None:
    assert find_times(text, NOW) == []
    assert not has_time(text)


def test_a_day_that_no_month_has_leaves_the_month() -> None:
    assert [found.text for found in find_times("99 June, then in June", NOW)] == ["June"]


def test_several_times_come_in_their_order() -> None:
    found = find_times("Not last week, but in May 2022 or since Monday.", NOW)
    assert [(scope.text, scope.kind) for scope in found] == [
        ("last week", TimeKind.WEEK),
        ("May 2022", TimeKind.MONTH),
        ("since Monday", TimeKind.SINCE),
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("what happened?", None),
        ("in May 2022", "May 2022"),
        (
            "Which issue did Tim have last week, as mentioned on November 6, 2022?",
            "6 November 2022",
        ),
        ("in 2022, before June 2022", "January to May 2022"),
        ("in March or May 2022", "March to May 2022"),
        ("in March 2021 or May 2022", "March 2021 to May 2022"),
        ("this month, since Monday", "29 to 31 May 2023"),
        ("on Monday and on Tuesday", "29 to 30 May 2023"),
    ],
)
def test_a_question_is_about_one_time(text: str, wanted: str | None) -> None:
    found = asked_time(text, NOW)
    assert (describe_time(found, BERLIN) if found else None) == wanted


def test_what_has_a_year_is_settled() -> None:
    for text, _ in EXAMPLES:
        [found] = find_times(text, NOW)
        [later] = find_times(text, NOW + timedelta(days=900))
        if found.settled:
            assert (found.start_us, found.stop_us) == (later.start_us, later.stop_us)
        else:
            assert found.start_us != later.start_us or found.stop_us != later.stop_us


def test_days_begin_at_midnight_of_the_zone_of_now() -> None:
    [found] = find_times("on 8 May 2023", NOW)
    assert to_datetime(found.start_us) == datetime(2023, 5, 7, 22, tzinfo=UTC)
    assert found.stop_us - found.start_us == 86_400_000_000


class _Samoa(tzinfo):
    """At the end of 2011 the date line moved, and 30 December did not exist."""

    _MOVED: ClassVar = datetime(2011, 12, 30, 12)

    def utcoffset(self, at: datetime | None) -> timedelta:
        assert at is not None
        return timedelta(hours=-10 if at.replace(tzinfo=None) < self._MOVED else 14)

    def dst(self, at: datetime | None) -> timedelta:
        return timedelta(0)


def test_a_day_that_did_not_exist_is_no_interval() -> None:
    now = datetime(2012, 2, 1, tzinfo=_Samoa())
    assert find_times("on 30 December 2011", now) == []
    assert len(find_times("on 29 December 2011", now)) == 1


def test_now_needs_a_time_zone() -> None:
    with pytest.raises(UsageError, match="now"):
        find_times("yesterday", datetime(2023, 5, 8))


def test_the_number_of_times_is_bounded() -> None:
    assert len(find_times("yesterday " * 1000, NOW)) == TIMES_MAX


WORDS = sorted(
    {word for text, _ in EXAMPLES for word in text.replace("-", " - ").split()}
    | {"31", "0", "9999", "二", "前", "월", "٣", "²", "\x00", "\ud800", ",", ".", "'", "s", "th"}
)
MOMENTS = st.datetimes(timezones=st.sampled_from([UTC, BERLIN, timezone(timedelta(hours=-11))]))


@given(st.lists(st.sampled_from(WORDS), max_size=24).map(" ".join) | st.text(max_size=60), MOMENTS)
def test_any_text_at_any_time_is_read(text: str, now: datetime) -> None:
    found = find_times(text, now)
    assert len(found) <= TIMES_MAX
    assert bool(find_times(text, datetime(2024, 7, 3, 12, tzinfo=UTC))) == has_time(text)
    at = 0
    for scope in found:
        assert BEGINNING_US <= scope.start_us < scope.stop_us <= END_US
        assert scope.text
        at = text.index(scope.text, at)
        assert describe_time(scope, now.tzinfo or UTC)


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)))
def test_a_written_date_contains_itself_and_no_other_day(day: date) -> None:
    noon = to_us(datetime(day.year, day.month, day.day, 12, tzinfo=BERLIN))
    for text in (
        f"{day:%Y-%m-%d}",
        f"{day.day}.{day.month}.{day.year}",
        f"on {day.month}/{day.day}/{day.year}",
        f"on {day.day} {day:%B} {day.year}",
        f"{day:%B} {day.day}, {day.year}",
        f"{day.year}年{day.month}月{day.day}日",
    ):
        [found] = find_times(text, NOW)
        assert found.start_us < noon < found.stop_us
        assert found.stop_us - found.start_us == 86_400_000_000


RELATIVE = ["yesterday", "two days ago", "last week", "this weekend", "last Friday", "on Tuesday"]


@given(
    st.sampled_from(RELATIVE),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.integers(-500, 500),
)
def test_a_week_later_means_a_week_later(text: str, now: datetime, weeks: int) -> None:
    away = timedelta(weeks=weeks)
    [before], [after] = find_times(text, now), find_times(text, now + away)
    shift = away // timedelta(microseconds=1)
    assert (after.start_us, after.stop_us) == (before.start_us + shift, before.stop_us + shift)


@given(st.sampled_from(list(calendar.AROUND)), st.dates(date(2, 1, 1), date(9900, 1, 1)))
def test_a_unit_contains_its_day_unless_it_is_a_weekend(unit: TimeKind, at: date) -> None:
    days = calendar.AROUND[unit](at)
    assert days.start < days.stop
    if unit is TimeKind.WEEKEND:
        assert calendar.week(days.start).start <= at <= days.stop
    else:
        assert days.start <= at < days.stop
    if unit is not TimeKind.WEEKEND:
        assert calendar.AROUND[unit](days.stop).start == days.stop
    thirds = [calendar.third(days, index) for index in range(3)]
    if (days.stop - days.start).days >= 3:
        assert thirds[0].start == days.start
        assert thirds[2].stop == days.stop
        assert [part.stop for part in thirds[:2]] == [part.start for part in thirds[1:]]


HOSTILE = [
    "a", "1", " ", "8-", "1.2.", "between ", "two days before ", "last ", "the last week of ",
    "may 8-", "from May to ", "第三天", "early mid ", "fri,,", "second quarter of ", "'", "\x00",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_costs_steps_in_proportion(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    at = Tokens.at

    def counted(tokens: Tokens, index: int) -> object:
        nonlocal steps
        steps += 1
        return at(tokens, index)

    monkeypatch.setattr(Tokens, "at", counted)
    monkeypatch.setattr("memopt.text.times.TIMES_MAX", 1 << 30)
    costs = []
    for length in (4000, 8000):
        steps = 0
        find_times((text * length)[:length], NOW)
        costs.append(steps)
    assert costs[1] <= 2.2 * costs[0] + 100
    assert costs[1] <= 100 * 8000


def test_a_megabyte_is_read_up_to_the_limit() -> None:
    text = "x" * (1 << 20)
    assert find_times(text + " yesterday", NOW) == []
    assert not has_time(" " * TEXT_CHARS_MAX + "yesterday")
    assert has_time(" " * (TEXT_CHARS_MAX - 1) + "yesterday")


def test_an_open_interval_says_so() -> None:
    assert describe_time(TimeScope(BEGINNING_US, 0, "", TimeKind.UNTIL)) == "before 1 January 1970"
    assert describe_time(TimeScope(0, END_US, "", TimeKind.SINCE)) == "since 1 January 1970"
