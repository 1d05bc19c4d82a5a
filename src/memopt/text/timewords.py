"""The words of time expressions, and the text read word by word.

Owns the tables and the window over the text. Invariant: whatever the text, a word costs a constant
number of steps, and at most WINDOW words are held. Not here: what a sequence of words means (dates,
times).
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

from memopt.text.calendar import TimeKind

WINDOW: Final = 256
TEXT_CHARS_MAX: Final = 1 << 16
"""Words that begin after as many characters are not read."""
WORD_CHARS_MAX: Final = 20
"""No word of the tables is longer; what is longer is no word of time."""
READ_CHARS_MAX: Final = TEXT_CHARS_MAX + WORD_CHARS_MAX + 1

_CJK: Final = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN: Final = re.compile(rf"\d+|[{_CJK}]|[^\W\d_{_CJK}]+|[^\s\w]|_+")


_SIGNS: Final = {"\u2019": "'", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-"}
"""Apostrophes and dashes, as they are typed."""


class Token(NamedTuple):
    start: int
    stop: int
    word: str
    """In lower case; empty past the end of the text and for what is too long to be a word."""


class Tokens:
    """The words, numbers and signs of a text, by index, in a window that moves forward only."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._matches: Iterator[re.Match[str]] = _TOKEN.finditer(text, 0, READ_CHARS_MAX)
        self._held: list[Token] = []
        self._first = 0
        self.end = Token(len(text), len(text), "")
        """What is behind the last one."""

    def at(self, index: int) -> Token:
        """The token of that index, an empty one before the first and after the last. Only indexes
        of the last WINDOW / 2 are at hand."""
        place = index - self._first
        while place >= len(self._held):
            match = next(self._matches, None)
            if match is None or match.start() >= TEXT_CHARS_MAX:
                return self.end
            if len(self._held) == WINDOW:
                del self._held[: WINDOW // 2]
                self._first += WINDOW // 2
                place -= WINDOW // 2
            start, stop = match.span()
            word = match[0].lower() if stop - start <= WORD_CHARS_MAX else ""
            self._held.append(Token(start, stop, _SIGNS.get(word, word)))
        return self._held[place] if place >= 0 else self.end

    def word(self, index: int) -> str:
        return self.at(index).word

    def done(self, index: int) -> bool:
        return self.at(index) is self.end

    def touches(self, index: int) -> bool:
        """Whether nothing lies between a token and the one before it."""
        return index > 0 and self.at(index).start == self.at(index - 1).stop

    def number(self, index: int, digits_max: int = 4) -> int | None:
        """The number that stands there; None where none does or it is longer."""
        word = self.word(index)
        return int(word) if word.isdecimal() and len(word) <= digits_max else None


def _named(*rows: str) -> dict[str, int]:
    """{word: its row, from 1}."""
    return {word: number for number, row in enumerate(rows, 1) for word in row.split()}


_Meaning = TypeVar("_Meaning")


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _each(words: str, meaning: _Meaning) -> dict[str, _Meaning]:
    return dict.fromkeys(words.split(), meaning)


MONTHS: Final = _named(
    "january januar jänner janvier enero jan ene",
    "february februar février fevrier febrero feb",
    "march märz maerz mars marzo mar mär",
    "april avril abril apr abr",
    "may mai mayo",
    "june juni juin junio jun",
    "july juli juillet julio jul",
    "august août aout agosto aug",
    "september septembre septiembre sep sept",
    "october oktober octobre octubre oct okt",
    "november novembre noviembre nov",
    "december dezember décembre decembre diciembre dec dez dic",
)
STRONG_MONTHS: Final = _words(
    "january januar jänner janvier enero february februar février fevrier febrero märz maerz marzo "
    "avril july juli juin juillet julio août aout september septembre septiembre october oktober "
    "octobre octubre november novembre noviembre december dezember décembre decembre "
    "diciembre"
)
"""Months that are nothing else. The others, such as "may" and "june", need a day, a year or a
preposition beside them."""
WEEKDAYS: Final = _named(
    "monday montag lundi lunes mon",
    "tuesday dienstag mardi martes tue tues",
    "wednesday mittwoch mercredi miércoles miercoles wed",
    "thursday donnerstag jeudi jueves thu thur thurs",
    "friday freitag vendredi viernes fri",
    "saturday samstag sonnabend samedi sábado sabado sat",
    "sunday sonntag dimanche domingo sun",
)
WEAK_WEEKDAYS: Final = _words("mon tue tues wed thu thur thurs fri sat sun")
SEASONS: Final = {
    "spring": 4, "summer": 7, "autumn": 10, "fall": 10, "winter": 1, "summertime": 7,
    "springtime": 4, "wintertime": 1, "frühling": 4, "frühjahr": 4, "sommer": 7, "herbst": 10,
    "printemps": 4, "été": 7, "automne": 10, "hiver": 1,
    "primavera": 4, "verano": 7, "otoño": 10, "invierno": 1,
}  # fmt: skip
"""The month in the middle of each."""

HOUR, DAY, WEEK, MONTH = TimeKind.HOUR, TimeKind.DAY, TimeKind.WEEK, TimeKind.MONTH
QUARTER, YEAR, DECADE = TimeKind.QUARTER, TimeKind.YEAR, TimeKind.DECADE
WEEKEND: Final = TimeKind.WEEKEND

UNITS: Final = {
    **_each("day days tag tage tagen jour jours día días dia dias", DAY),
    **_each("week weeks woche wochen semaine semaines semana semanas", WEEK),
    **_each("weekend weekends wochenende", WEEKEND),
    **_each("month months monat monate monaten monats mois mes meses", MONTH),
    **_each("quarter quarters quartal trimestre", QUARTER),
    **_each("year years yr yrs jahr jahre jahren jahres an ans année années año años", YEAR),
    **_each("decade decades jahrzehnt jahrzehnten décennie década", DECADE),
}
PLURALS: Final = frozenset({"days", "weeks", "weekends", "months", "quarters", "years", "decades"})
"""Units that count a few when nothing counts them: "the past weeks"."""
FORTNIGHTS: Final = frozenset({"fortnight", "fortnights"})
SECONDS: Final = {
    **_each("hour hours hr hrs stunde stunden heure heures hora horas", 3600),
    **_each("minute minutes min mins minuten minuto minutos", 60),
    **_each("second seconds secs sekunde sekunden", 1),
}

NUMBERS: Final = {
    **_named(
        "one a an ein eine einem einer einen un une una",
        "two zwei deux dos", "three drei trois tres", "four vier quatre cuatro",
        "five fünf cinq cinco", "six sechs seis", "seven sieben sept siete",
        "eight acht huit ocho", "nine neun neuf nueve", "ten zehn dix diez", "eleven elf",
        "twelve zwölf", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
        "nineteen", "twenty",
    ),
    "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
VAGUE: Final = {
    "couple": (2, 3), "few": (2, 5), "several": (3, 7), "some": (2, 7),
    "einigen": (2, 5), "quelques": (2, 5), "unos": (2, 5), "unas": (2, 5),
}  # fmt: skip
"""How many at least and at most."""
ORDINALS: Final = {
    **_named("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
             "tenth"),
    "last": -1, "final": -1,
}  # fmt: skip
ORDINAL_ENDS: Final = frozenset({"st", "nd", "rd", "th", "er", "º"})

LAST: Final = _words(
    "last past previous letzte letzten letzter letztes letztem vergangene vergangenen "
    "vergangenes vorige vorigen voriges"
)
THIS: Final = _words("this current diese diesen dieser dieses diesem ce cette cet este")
NEXT: Final = _words(
    "next coming upcoming nächste nächsten nächster nächstes nächstem kommende kommenden"
)
THIRDS: Final = {"early": 0, "mid": 1, "late": 2, "anfang": 0, "mitte": 1, "ende": 2}
THIRDS_OF: Final = {"beginning": 0, "start": 0, "middle": 1, "end": 2}
DAYTIMES: Final = frozenset({"morning", "afternoon", "evening", "night", "noon", "midday"})

SINCE: Final = _words("since seit depuis desde")
AFTER: Final = _words("after nach après apres")
BEFORE: Final = _words("before vor avant pre")
UNTIL: Final = _words("until till by through bis jusque hasta")
BETWEEN: Final = {"between": ("and",), "zwischen": ("und",), "entre": ("et", "y")}
FROM: Final = frozenset({"from", "von", "vom", "du", "de", "desde", "del"})
TO: Final = _words("- to through thru until till bis zum au à al hasta a")
OF: Final = frozenset({"of", "de", "del", "in", "im"})
THE: Final = _words("the der die das den dem le la les l el los las")
EVIDENCE: Final = (
    SINCE | AFTER | BEFORE
    | _words("until till through bis in during throughout over around circa")
    | _words("im en pendant durante hasta")
)  # fmt: skip
"""What makes a month of the word after it: "in may", but not "may I"."""
YEAR_EVIDENCE: Final = EVIDENCE | _words(
    "of by from to between and year years the for early mid late um de del"
)
COUNTS: Final = _words("for of by to and around over circa um")
"""After these a number of four digits is a year only where no word follows that it may count."""

FIXED: Final[dict[tuple[str, ...], tuple[int, TimeKind]]] = {
    ("today",): (0, DAY), ("tonight",): (0, DAY), ("yesterday",): (-1, DAY),
    ("tomorrow",): (1, DAY), ("the", "day", "before", "yesterday"): (-2, DAY),
    ("day", "before", "yesterday"): (-2, DAY), ("day", "after", "tomorrow"): (2, DAY),
    ("the", "day", "after", "tomorrow"): (2, DAY),
    ("last", "night"): (-1, DAY), ("yesterday", "night"): (-1, DAY),
    **{("this", part): (0, DAY) for part in ("morning", "afternoon", "evening")},
    ("fortnight", "ago"): (-2, WEEK),
    ("heute",): (0, DAY), ("gestern",): (-1, DAY), ("vorgestern",): (-2, DAY),
    ("morgen",): (1, DAY), ("übermorgen",): (2, DAY),
    ("aujourd", "'", "hui"): (0, DAY), ("hier",): (-1, DAY),
    ("avant", "-", "hier"): (-2, DAY), ("demain",): (1, DAY), ("après", "-", "demain"): (2, DAY),
    ("semaine", "dernière"): (-1, WEEK), ("semaine", "passée"): (-1, WEEK),
    ("mois", "dernier"): (-1, MONTH), ("mois", "passé"): (-1, MONTH),
    ("année", "dernière"): (-1, YEAR), ("an", "dernier"): (-1, YEAR),
    ("semaine", "prochaine"): (1, WEEK), ("mois", "prochain"): (1, MONTH),
    ("année", "prochaine"): (1, YEAR),
    ("hoy",): (0, DAY), ("ayer",): (-1, DAY), ("anteayer",): (-2, DAY), ("antier",): (-2, DAY),
    ("pasado", "mañana"): (2, DAY),
    ("semana", "pasada"): (-1, WEEK), ("mes", "pasado"): (-1, MONTH),
    ("año", "pasado"): (-1, YEAR), ("esta", "semana"): (0, WEEK),
    ("próxima", "semana"): (1, WEEK), ("próximo", "mes"): (1, MONTH), ("próximo", "año"): (1, YEAR),
    **{
        tuple(phrase): found
        for phrases, found in (
            ("今天 今日", (0, DAY)), ("昨天 昨日", (-1, DAY)), ("明天 明日", (1, DAY)),
            ("前天 一昨日", (-2, DAY)), ("后天 後天 明後日", (2, DAY)),
            ("上周 上週 上星期 上个星期 上個星期 上礼拜 先週", (-1, WEEK)),
            ("这周 這週 本周 本週 这星期 这个星期 今週", (0, WEEK)),
            ("下周 下週 下星期 下个星期 来週", (1, WEEK)),
            ("上个月 上個月 上月 先月", (-1, MONTH)), ("这个月 這個月 本月 今月", (0, MONTH)),
            ("下个月 下個月 下月 来月", (1, MONTH)),
            ("去年 昨年", (-1, YEAR)), ("今年", (0, YEAR)), ("明年 来年", (1, YEAR)),
            ("前年 一昨年", (-2, YEAR)), ("先々週", (-2, WEEK)), ("先々月", (-2, MONTH)),
        )
        for phrase in phrases.split()
    },
}  # fmt: skip
"""Phrases that are always the same, as (how many units away, unit)."""
FIXED_WORDS_MAX: Final = max(map(len, FIXED))
FIXED_STARTS: Final = frozenset(phrase[0] for phrase in FIXED)

CJK_UNITS: Final = {
    "日": DAY, "天": DAY, "周": WEEK, "週": WEEK, "月": MONTH, "年": YEAR,
}  # fmt: skip
CJK_NUMBERS: Final = {
    character: number for number, character in enumerate("一二三四五六七八九十", 1)
}
CJK_NUMBERS["两"] = CJK_NUMBERS["兩"] = 2
HOLIDAYS: Final = {
    ("christmas",): (12, 25), ("christmas", "day"): (12, 25), ("christmas", "eve"): (12, 24),
    ("xmas",): (12, 25), ("boxing", "day"): (12, 26), ("halloween",): (10, 31),
    ("new", "year", "'", "s", "eve"): (12, 31),
    ("new", "year", "'", "s", "day"): (1, 1),
    ("new", "years", "eve"): (12, 31), ("new", "years", "day"): (1, 1),
    ("valentine", "'", "s", "day"): (2, 14),
    ("valentines", "day"): (2, 14), ("st", ".", "patrick", "'", "s", "day"): (3, 17),
    ("independence", "day"): (7, 4), ("weihnachten",): (12, 25), ("noël",): (12, 25),
    ("navidad",): (12, 25), ("silvester",): (12, 31),
    ("easter",): (0, 0), ("easter", "sunday"): (0, 0), ("good", "friday"): (0, -2),
    ("easter", "monday"): (0, 1), ("thanksgiving",): (11, 0), ("thanksgiving", "day"): (11, 0),
}  # fmt: skip
"""As (month, day); (0, n) is n days after Easter Sunday, (11, 0) November's fourth Thursday."""
HOLIDAY_WORDS_MAX: Final = max(map(len, HOLIDAYS))
HOLIDAY_STARTS: Final = frozenset(name[0] for name in HOLIDAYS)

NAMES: Final = frozenset().union(
    MONTHS, WEEKDAYS, SEASONS, UNITS, SECONDS, FORTNIGHTS, HOLIDAY_STARTS,
    FIXED_STARTS - LAST - THIS - NEXT - THE, DAYTIMES,
    _words("twenties thirties forties fifties sixties seventies eighties nineties"),
)  # fmt: skip
"""Every time expression has one of these, or a digit, or is East Asian."""
LETTERS: Final = re.compile(r"[^\W\d_]+")
MARK: Final = re.compile(rf"\d|[{_CJK}]")
