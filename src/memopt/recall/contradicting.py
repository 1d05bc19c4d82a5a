"""Which older memories a new one seems to contradict: the same words, and another number, another
date, or a denial.

It only ever proposes. What is said to be one more ("a second dog", "also") takes nothing away, what
happened ("paid 20 euros") is not undone by something else that happened, and what is about another
name, or another number of a thing ("room 14 is booked"), is about something else.

Looks at the COMPARED_MAX newest memories of a scope, whose words are kept in RAM for a while. Not
here: what is about the same subject and attribute, which needs no guess (standing.py).
"""

import collections
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.errors import CorruptionError
from memopt.base.item_records import ItemRow, Reason
from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.recall_records import Kind
from memopt.base.records import to_datetime
from memopt.codecs.item_text import open_text
from memopt.text.analysis import words_of
from memopt.text.times import find_times
from memopt.text.words import NEGATIONS

COMPARED_MAX: Final = 256
"""Memories that a new one is compared with."""
FOUND_MAX: Final = 8
"""Contradictions that are noted of one memory."""
SHARED_MIN: Final = 0.8
"""Of the words of both texts, numbers, dates and denials aside: at least this share is in both."""
WORDS_MIN: Final = 2
KEPT_MAX: Final = 2048
KEPT_BYTES: Final = 1024
"""What is kept of one text: a dozen words as numbers, in tuples and a table."""

_OWNER: Final = "wordings"
_ORDINAL: Final = re.compile(r"\d+(?:st|nd|rd|th)")
_ANY_MORE: Final = re.compile(r"\b(?:any more|no more)\b", re.IGNORECASE)
_CAPITALS: Final = re.compile(r"\b[^\W\d_a-z]\w+")
_HAPPENED: Final = frozenset(
    {Kind.EVENT, Kind.OBSERVATION, Kind.ERROR, Kind.REFLECTION, Kind.DECISION, Kind.DOCUMENT}
)
_MORE: Final = frozenset(
    re.findall(
        r"\w+",
        """also another additional additionally again else extra further more new next other too
        besides first second third fourth fifth sixth seventh eighth ninth tenth last auch noch
        weiterer weitere weiteres zweite zweiter zweites aussi encore autre deuxième también otro
        otra segundo segunda anche altro altra secondo seconda também outro outra""",
    )
)
"""Words that say that there is one more of something."""
_NUMBERS: Final = {
    word: number
    for words in (
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
        fifteen sixteen seventeen eighteen nineteen twenty""",
        # What is an article, too, is left out.
        "null - zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
        "zéro - deux trois quatre cinq - sept huit - dix onze douze",
        "cero - dos tres cuatro cinco seis siete ocho nueve diez once doce",
        "- - due tre quattro cinque sei sette otto nove dieci undici dodici",
    )
    for number, word in enumerate(words.split())
    if word != "-"
}
_DENIALS: Final = frozenset({"keinen", "keinem", "keiner", "keines", "niente", "ninguno"})
"""Beside those of text/words.py."""
_EMPTY: Final = frozenset({"anymore", "longer", "mehr", "plus", "más"})
"""Behind a denial they add nothing: "no longer", "not … anymore"."""
_OWNERS: Final = frozenset(re.findall(r"\w+", "a an the my our your his her its their"))
_FORMS: Final = frozenset(
    re.findall(
        r"[\w']+",
        """be am is are was were been being isn't aren't wasn't weren't has have had hasn't haven't
        hadn't having will would can could should must may might shall to get gets got""",
    )
)
"""A form of a verb behind one of these says how something is, not that it happened."""
_PAST: Final = frozenset(
    re.findall(
        r"\w+",
        """ate bought brought broke came caught drank drove fell flew found gave grew lost made met
        paid ran said saw sent slept sold spent taught told took went won wrote""",
    )
)
_NO_PAST: Final = frozenset(
    re.findall(
        r"\w+",
        """bleed breed exceed hundred indeed naked need proceed sacred speed succeed wicked""",
    )
)


class Wording(NamedTuple):
    """What is compared of a text."""

    words: frozenset[int]
    numbers: frozenset[str]
    times: frozenset[tuple[int, int]]
    names: frozenset[int]
    """Those of the words that are written with a capital: whom or what it is about."""
    is_denial: bool
    is_more: bool
    happened: bool
    """It tells what happened once: another time it may have been otherwise."""


def wording(text: str, at_us: int, analyser: Any) -> Wording:
    """Of a text that was stated at a time."""
    times = find_times(text, to_datetime(at_us))
    rest = text
    for time in times:
        rest = rest.replace(time.text, " ", 1)
    tokens = words_of(_ANY_MORE.sub(_as_denial, rest))
    words: list[str] = []
    numbers: set[str] = set()
    denials, is_more = 0, False
    for place, word in enumerate(tokens):
        if word in NEGATIONS or word in _DENIALS:
            denials += 1
        elif word in _EMPTY and denials:
            continue
        elif (word in _NUMBERS or any(map(str.isdecimal, word))) and not _names(tokens, place):
            is_more = is_more or bool(_ORDINAL.fullmatch(word))
            numbers.add(str(_NUMBERS.get(word, word.replace(",", ""))))
        else:
            is_more = is_more or word in _MORE
            words.append(word)
    capitals = " ".join(_CAPITALS.findall(rest))
    terms = frozenset(analyser.analyse(" ".join(words)).terms)
    return Wording(
        terms, frozenset(numbers), frozenset((time.start_us, time.stop_us) for time in times),
        terms & frozenset(analyser.analyse(capitals).terms), denials % 2 == 1, is_more,
        any(_is_past(tokens, place) for place in range(len(tokens))),
    )  # fmt: skip


def _as_denial(match: re.Match[str]) -> str:
    return "not" if match[0].casefold().startswith("no") else "anymore"


def _names(tokens: Sequence[str], place: int) -> bool:
    """Whether a number says which one is meant, as in "room 12 is booked": what a text begins with
    is what it is about."""
    before = tokens[:place]
    if not before or len(tokens) == place + 1:
        return False
    if len(before) == 2 and before[0] in _OWNERS:
        before = before[1:]
    return len(before) == 1 and before[0] not in _OWNERS and not before[0].endswith(("'s", "s'"))


def _is_past(tokens: Sequence[str], place: int) -> bool:
    word, before = tokens[place], tokens[place - 1] if place else ""
    if word in _PAST:
        return before not in _FORMS
    if not word.endswith("ed") or len(word) <= 4 or word in _NO_PAST:
        return False
    return bool(before) and before not in _FORMS and before not in _OWNERS


def contradiction(new: Wording, old: Wording) -> Reason | None:
    """Why the two cannot both be so, if that is how it seems."""
    both = len(new.words & old.words)
    if both < WORDS_MIN or both < SHARED_MIN * len(new.words | old.words) or new.is_more:
        return None
    if not (new.names <= old.words and old.names <= new.words):
        # About somebody else.
        return None
    differ = [
        (Reason.NEGATION, new.is_denial != old.is_denial),
        (Reason.NUMBER, new.numbers != old.numbers),
        (Reason.DATE, new.times != old.times),
    ]
    reasons = [reason for reason, is_so in differ if is_so]
    if len(reasons) != 1:
        # Nothing differs, or so much that they are about two occasions.
        return None
    (reason,) = reasons
    if reason is Reason.NEGATION:
        return reason
    if new.happened and old.happened:
        return None
    if reason is Reason.NUMBER:
        return reason if new.numbers and old.numbers else None
    return reason if new.times and old.times else None


class Suspect(NamedTuple):
    """An older memory that a new one seems to contradict."""

    item: int
    version: int
    reason: Reason


class _Kept(NamedTuple):
    """What is compared of a version of an item. None of it ever changes."""

    wording: Wording
    kind: str
    topic: int
    subject: str | None
    valid_to_us: int

    def is_comparable(self, subject: str | None, topic: int, at_us: int) -> bool:
        """With what is stated now about a subject and a topic."""
        if self.kind in _HAPPENED or self.valid_to_us <= at_us:
            return False
        if self.topic and topic:
            # About the same it is decided, about another one there is nothing to decide.
            return False
        return self.subject is None or subject is None or _same(self.subject, subject)


class Contradicting:
    """Thread-safe."""

    def __init__(
        self, home: Reader, compressor: Compressor, budget: Budget, analyser: Callable[[], Any]
    ) -> None:
        """`analyser` is asked when it is first needed: whoever opens a store and states nothing
        has no use for one."""
        self._home = home
        self._compressor = compressor
        self._budget = budget
        self._analyser = analyser
        self._kept: collections.OrderedDict[tuple[int, int], _Kept] = collections.OrderedDict()
        self._lock = threading.Lock()

    def find(
        self, scope: str, text: str, *, kind: Kind | str, subject: str | None, topic: int,
        at_us: int, besides: int = 0,
    ) -> list[Suspect]:  # fmt: skip
        """Older memories of a scope that the text seems to contradict, the newest first; not the
        item `besides`."""
        if kind in _HAPPENED:
            return []
        new = wording(text, at_us, self._analyser())
        if len(new.words) < WORDS_MIN or new.is_more:
            return []
        found: list[Suspect] = []
        with self._home.snapshot() as tables:
            number = tables.scopes.number(scope)
            places = tables.item_topics.newest(number, COMPARED_MAX) if number is not None else []
            for place in places:
                old = self._kept.get(place) or self._look(tables, *place)
                if old is None or new.words.isdisjoint(old.wording.words):
                    # Most of them: no other call.
                    continue
                reason = contradiction(new, old.wording)
                if reason is None or place[0] == besides:
                    continue
                if old.is_comparable(subject, topic, at_us):
                    found.append(Suspect(*place, reason))
                    if len(found) == FOUND_MAX:
                        break
        return found

    def place_of(self, item: int) -> tuple[ItemRow, str] | None:
        """An item and its scope."""
        with self._home.snapshot() as tables:
            row = tables.items.get(item)
            scope = tables.scopes.path(row.scope_number) if row is not None else None
        return (row, scope) if row is not None and scope is not None else None

    def _look(self, tables: Tables, item: int, version: int) -> "_Kept | None":
        """None where it is damaged: that is for whoever reads it to hear."""
        try:
            row, record = tables.items.get(item), tables.item_texts.get(item, version)
            if row is None or record is None:
                return None
            text = open_text(self._compressor, item, version, record)
        except CorruptionError:
            return None
        words = wording(text.text, text.at_us, self._analyser())
        made = _Kept(words, row.kind, row.topic, row.subject, row.valid_to_us)
        with self._lock:
            while len(self._kept) >= KEPT_MAX:
                self._kept.popitem(last=False)
                self._budget.release(_OWNER, KEPT_BYTES)
            key = (item, version)
            if key not in self._kept and self._budget.try_reserve(_OWNER, KEPT_BYTES):
                self._kept[key] = made
        return made

    def shrink(self) -> None:
        """Let go of all words: they are read again when they are needed."""
        with self._lock:
            self._budget.release(_OWNER, KEPT_BYTES * len(self._kept))
            self._kept.clear()


def _same(one: str, other: str) -> bool:
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())
