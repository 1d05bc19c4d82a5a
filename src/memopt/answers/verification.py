"""The second look: what two questions must agree in, however near they are to each other.

A vector hardly sees the difference between "with" and "without", 5 and 15, May and June. So what a
small difference turns into another question is read from the words of both and compared: numbers,
units, dates, names, negation, comparatives, and what is asked for.

Owns: what is read from a question, and the checks. Invariant: a question agrees with itself, and
the order of two questions makes no difference. Not here: how alike two questions are (matching).
"""

import itertools
import re
import unicodedata
from datetime import UTC, datetime
from typing import Final, NamedTuple

from memopt.answers.wording import (
    AMOUNTS,
    ASKS,
    LEADING,
    NUMBERS,
    OPPOSITES,
    PREFIXES,
    SUFFIXES,
    TURNING,
    UNITS,
)
from memopt.base.answer_records import Check
from memopt.text.analysis import fold
from memopt.text.times import find_times, has_time
from memopt.text.words import NEGATIONS, STOP_WORDS

CHECKS: Final = (
    "numbers", "units", "dates", "names", "negation", "comparatives", "question word",
)  # fmt: skip
CHARACTERS_MAX: Final = 4096
"""Longer questions are not compared."""
_SHOWN_MAX: Final = 80
_TURNED_MIN: Final = 4
"""Letters of a word that a prefix turns around: "unsafe", and not "into"."""
_REST_MIN: Final = 3
"""Letters after a prefix that another one may replace: methane."""

_WRITTEN_OUT_MIN: Final = 4
"""Letters of a unit that is nothing else."""

_TOKEN: Final = re.compile(
    r"[$€£¥₹]|\d+(?:[.,]\d+)*%?|[^\W_]+(?:['\u2019][^\W_]+)*(?:\+\+|[+#](?!\w))?|[.?!:\n]"
)
_SIGN: Final = re.compile(
    # Prime and factorial; intervals, indices and sets; options and paths; how far a line is in.
    r"((?<=\b[^\W\d_])(?<!['\u2018\u2019]\w)['\u2019\u2032]+(?!\w)"
    r"|(?:(?<=\b\w)|(?<=\b\d\d))!(?!=)|[\[\]{}]"
    r"|(?<!\S)-{1,2}(?=[^\W\d_])|(?<!\S)[/~](?=\w)|\n[ \t]+(?=\S))"
    r"|!=|(?:(?<=\b\w)|(?<!\w))[-\u2212](?=[\d.])|(?<=\d)[*/](?=\d)"
    r"|(?:(?<=\d\s)|(?<=\b\w\s))[-\u2212*/\\](?=\s)"
    r"|&&|[^\w\s\-\u2212*/\\]"
)
_DOTTED: Final = re.compile(r"\b(?:(?:[^\W\d_]\.[ ]?){2,}(?!\w)|[ap]\.[ ]?m\b)", re.IGNORECASE)
"""U.S., a.m."""
_CASED_UNIT: Final = re.compile(
    r"(?<=\d)\s?([kmg]b|[kmgt]bps|[tp]b|m[wvajg]?|mpa|[mg]hz|g)\b", re.IGNORECASE
)
"""Milli and mega, bits and bytes, metres and millions."""
_FIGURE: Final = re.compile(r"(\d+(?:[.,]\d+)*)(%|[^\W\d_]*)")
_WRITTEN: Final = frozenset({"!=", "-", "\u2212", "*", "/", "\\", "&&", "^"})
"""Signs that are marks elsewhere: they count where the pattern puts them."""
_SIGNS: Final = frozenset({"Sm", "So"})
_ENDS: Final = frozenset(".?!:\n")
_STOP: Final = STOP_WORDS["english"]


class Traits(NamedTuple):
    """What is compared of a question."""

    words: tuple[str, ...]
    """Folded, in order; with the signs that belong to a name, as in C++."""
    signs: tuple[str, ...]
    """Of reckoning and comparing, and pictures; in order."""
    numbers: frozenset[str]
    """Figures, number words as figures, words with a digit in them, and signs."""
    units: frozenset[tuple[str, str]]
    """(number, unit)."""
    times: frozenset[tuple[int, int]]
    """Intervals in microseconds."""
    names: frozenset[str]
    cased: frozenset[tuple[str, str]]
    """(folded, as written): units and short words that mean something else in capitals."""
    denials: int
    asks: str
    """What kind of thing is asked for, where a word says so."""


def traits_of(text: str, at: datetime) -> Traits:
    """What is compared of a question that is asked at a time: "yesterday" is a date."""
    text = _DOTTED.sub(_undotted, text[:CHARACTERS_MAX])
    tokens = _TOKEN.findall(text)
    words: list[str] = []
    names: list[str] = []
    shouted: list[str] = []
    capitals = small = 0
    begins = True
    for token in tokens:
        if token in _ENDS:
            begins = True
            continue
        word = fold(token).removesuffix("'s")
        words.append(word)
        if token.isupper() and word in _STOP and len(word) > 1:
            shouted.append(token)
        if not begins and word in _STOP and len(word) > 1:
            capitals += token[0].isupper() and not token.isupper()
            small += token[0].islower()
        elif not begins and token[0].isupper() and len(word) > 1 and not _measures(words):
            names.append(word)
        begins = False
    if capitals > small or (text.isupper() and len(words) > 2):
        # A heading, or shouting: capitals say nothing.
        names, shouted = [], []
    shouted += _CASED_UNIT.findall(text)
    cased = frozenset((fold(token), token) for token in shouted)
    signs = tuple(_plain_sign(sign) for sign in _SIGN.finditer(text) if _says(sign))
    numbers, units = _figures(words)
    numbers = numbers.union(signs)
    times = _times(text, at)
    denials = sum(word in NEGATIONS or word.endswith("n't") for word in words)
    return Traits(
        tuple(words), signs, numbers, units, times, frozenset(names), cased, denials,
        _asked(words),
    )  # fmt: skip


def _undotted(dotted: re.Match[str]) -> str:
    return dotted[0].replace(".", "").replace(" ", "")


def _measures(words: list[str]) -> bool:
    """Whether the last word is the unit of a figure before it."""
    return words[-1] in UNITS and len(words) > 1 and words[-2][-1].isdigit()


def _times(text: str, at: datetime) -> frozenset[tuple[int, int]]:
    if not has_time(text):
        return frozenset()
    return frozenset((time.start_us, time.stop_us) for time in find_times(text, at))


def same_times(text: str, one: datetime, other: datetime) -> bool:
    """Whether a question means the same days at two times."""
    text = text[:CHARACTERS_MAX]
    return not has_time(text) or _times(text, one) == _times(text, other)


def _figures(words: list[str]) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    numbers, units = set(), set()
    for index, word in enumerate(words):
        number = NUMBERS.get(word)
        unit = ""
        if number is None:
            if not any(map(str.isdigit, word)):
                continue
            figure = _FIGURE.fullmatch(word)
            number, unit = (_plain(figure[1]), figure[2]) if figure else (word, "")
            if unit and unit not in UNITS:
                number, unit = word, ""
        if not unit and index + 1 < len(words) and words[index + 1] in UNITS:
            unit = words[index + 1]
        if not unit and index and words[index - 1] in UNITS:
            unit = words[index - 1]
        numbers.add(number)
        if unit:
            units.add((number, UNITS[unit]))
    return frozenset(numbers), frozenset(units)


def _says(sign: re.Match[str]) -> bool:
    """A question mark says nothing; "<" and a smile do. Currencies are words."""
    return bool(sign[1]) or sign[0] in _WRITTEN or unicodedata.category(sign[0]) in _SIGNS


def _plain_sign(sign: re.Match[str]) -> str:
    return sign[0].replace("\u2019", "'").replace("\u2032", "'")


def _plain(figure: str) -> str:
    """1,000.50 as 1000.5, and 007 as 7."""
    whole, point, rest = figure.replace(",", "").partition(".")
    if "." in rest:
        # A version or an address, which is no number.
        return figure
    fraction = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if point and fraction else "")


def _asked(words: list[str]) -> str:
    for index, word in enumerate(words):
        if word == "how" and index + 1 < len(words) and words[index + 1] in AMOUNTS:
            return f"how {words[index + 1]}"
        if word in ASKS:
            return ASKS[word]
        if word in ("what", "which", "how"):
            return ""
    return ""


def compared(one: Traits, other: Traits) -> tuple[Check, ...]:
    """Every check, in the order of CHECKS."""
    return (
        _numbers(one, other),
        _same_units(one, other),
        Check(name="dates", passed=one.times == other.times),
        _names(one, other),
        Check(name="negation", passed=one.denials % 2 == other.denials % 2),
        _opposites(one, other),
        _question_word(one, other),
    )


def agree(one: Traits, other: Traits) -> bool:
    """Whether every check passes; `compared` says which."""
    return (
        one.numbers == other.numbers
        and one.times == other.times
        and one.denials % 2 == other.denials % 2
        and all(check.passed for check in compared(one, other))
    )


def same_words(one: Traits, other: Traits) -> bool:
    """The same words and signs in the same order: only case, marks and spaces differ."""
    return (
        one.words == other.words
        and one.signs == other.signs
        and one.times == other.times
        and one.cased == other.cased
    )


def _numbers(one: Traits, other: Traits) -> Check:
    if one.words == other.words and one.signs != other.signs:
        # Formulas and code: where a sign stands says something, too.
        return Check(name="numbers", passed=False, detail=_shown([*one.signs], [*other.signs]))
    return _same("numbers", one.numbers, other.numbers)


def _same(name: str, one: frozenset[str], other: frozenset[str]) -> Check:
    if one == other:
        return Check(name=name, passed=True)
    return Check(name=name, passed=False, detail=_shown(one - other, other - one))


def _same_units(one: Traits, other: Traits) -> Check:
    # A number without a unit has whichever the other has.
    mine, theirs = dict(one.units), dict(other.units)
    for number in mine.keys() & theirs.keys():
        if mine[number] != theirs[number]:
            detail = f"{number} {mine[number]}, {number} {theirs[number]}"
            return Check(name="units", passed=False, detail=detail[:_SHOWN_MAX])
    alone, others = _unit_words(one), _unit_words(other)
    if alone - others and others - alone:
        return Check(name="units", passed=False, detail=_shown(alone - others, others - alone))
    return Check(name="units", passed=True)


def _unit_words(traits: Traits) -> frozenset[str]:
    """Units that are written out, with a number or without; "m" may be anything."""
    long = (word for word in traits.words if len(word) >= _WRITTEN_OUT_MIN)
    return frozenset(UNITS[word] for word in long if word in UNITS)


def _names(one: Traits, other: Traits) -> Check:
    mine = one.names.difference(other.words)
    theirs = other.names.difference(one.words)
    if mine or theirs:
        return Check(name="names", passed=False, detail=_shown(mine, theirs))
    detail = _cases(one, other) or _cases(other, one)
    return Check(name="names", passed=not detail, detail=detail)


def _cases(one: Traits, other: Traits) -> str:
    """What is written in another case than the other's: US and us, MW and mW; "" where nothing."""
    theirs = dict(other.cased)
    for word, written in sorted(one.cased):
        there = theirs.get(word, word if word in other.words else written)
        if there != written:
            return _shown([written], [there])
    return ""


def _opposites(one: Traits, other: Traits) -> Check:
    mine, theirs = set(one.words), set(other.words)
    for word in sorted(mine ^ theirs):
        here, there = (mine, theirs) if word in mine else (theirs, mine)
        for opposite in OPPOSITES.get(word, frozenset()) | _turned(word):
            if opposite in there and opposite not in here:
                pair = (word, opposite) if word in mine else (opposite, word)
                detail = _shown([pair[0]], [pair[1]])
                return Check(name="comparatives", passed=False, detail=detail)
    detail = _swapped(one.words, other.words)
    return Check(name="comparatives", passed=not detail, detail=detail)


def _turned(word: str) -> set[str]:
    """What the word is with another beginning or ending that makes another one of it."""
    if len(word) < _TURNED_MIN:
        return set()
    turned = {f"{prefix}{word}" for prefix in TURNING}
    for mine, other in PREFIXES:
        if word.startswith(mine) and len(word) >= len(mine) + _REST_MIN:
            turned.add(other + word[len(mine) :])
    for mine, other in SUFFIXES:
        if word.endswith(mine) and len(word) >= len(mine) + _TURNED_MIN:
            turned.add(word[: -len(mine)] + other)
    return turned


def _swapped(one: tuple[str, ...], other: tuple[str, ...]) -> str:
    """What has the other's part: from A to B, and from B to A; "" where nothing has."""
    differ = [n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) == len(other) and len(differ) == 2:
        first, last = differ
        if last - first > 1 and (one[first], one[last]) == (other[last], other[first]):
            return _shown([one[first]], [one[last]])
    followers, theirs = _followers(one), _followers(other)
    for word, twin in itertools.combinations(sorted(followers.keys() & theirs.keys()), 2):
        # "To" stands in nearly every question: only what changes places with another counts.
        moved = (followers[word] - theirs[word]) & (theirs[twin] - followers[twin])
        back = (followers[twin] - theirs[twin]) & (theirs[word] - followers[word])
        if moved and back:
            return f"{word}: {_shown(moved, back)}"[:_SHOWN_MAX]
    return ""


def _followers(words: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """The first word that says something after each of LEADING."""
    found: dict[str, set[str]] = {}
    lead = ""
    for word in words:
        if word in LEADING:
            lead = word
        elif lead and word not in _STOP:
            found.setdefault(lead, set()).add(word)
            lead = ""
    return {word: frozenset(after) for word, after in found.items()}


def _question_word(one: Traits, other: Traits) -> Check:
    if one.asks and other.asks and one.asks != other.asks:
        return Check(name="question word", passed=False, detail=_shown([one.asks], [other.asks]))
    return Check(name="question word", passed=True)


def _shown(mine: "frozenset[str] | list[str]", theirs: "frozenset[str] | list[str]") -> str:
    sides = [", ".join(sorted(side)) or "nothing" for side in (mine, theirs)]
    return " / ".join(sides)[:_SHOWN_MAX]


UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
