"""Where sentences begin.

Owns the rule: a sentence ends at a full stop, a question or exclamation mark and what closes after
it, if white space follows and then something other than a small letter; not behind an abbreviation,
an initial or a number in a list. The full-width signs of East Asian texts end one by themselves.
Invariant: linear time. Not here: paragraphs (blocks).
"""

import re
from typing import Final

_END: Final = re.compile(
    r"(?:(?<![.!?\u2026])[.!?\u2026]++[\"'\u2019\u201d\u00bb)\]]{0,4}+\s{1,64}+"
    r"|(?<![\u3002\uff01\uff1f])[\u3002\uff01\uff1f]++[\u300d\u300f\u201d\u2019\uff09)]{0,4}+\s{0,64}+)"
)
_WORD_BEFORE: Final = re.compile(r"[^\s(\[\"'\u2018\u201c]+\Z")
_WORD_CHARS_MAX: Final = 24


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


ABBREVIATIONS: Final = _words(
    "mr mrs ms dr prof sr jr st rev hon gen col capt lt sgt maj gov sen rep pres supt insp "
    "messrs mme mlle esq vs etc e.g i.e eg ie cf al approx ca c viz no nos vol vols fig figs "
    "eq eqs sec secs ch chap art pp p ed eds inc ltd co corp dept univ assn bros est min max "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat "
    "sun a.m p.m u.s u.k u.n d.c b.c a.d ph.d m.d "
    "z.b d.h u.a bzw usw evtl ggf vgl nr str hr fr abs bd mio mrd "
    "m mm av cap sra ud uds"
)
_ENDING_ABBREVIATIONS: Final = _words(
    "etc inc ltd co corp al a.m p.m u.s u.k d.c ph.d m.d jr sr usw"
)
"""These may also end a sentence: they do where a capital follows."""


def sentence_starts(text: str) -> list[int]:
    """Offsets in `text`, rising, at which a sentence begins; without the first, which is 0."""
    return [found.end() for found in _END.finditer(text) if _ends(text, found)]


def _ends(text: str, found: re.Match[str]) -> bool:
    at, following = found.end(), text[found.end() : found.end() + 1]
    if not following or text[found.start()] not in ".\u2026":
        return bool(following) and not following.islower()
    if following.islower():
        return False
    if text.startswith("..", found.start()) or text[found.start()] == "\u2026":
        return True
    word = _WORD_BEFORE.search(text, max(0, found.start() - _WORD_CHARS_MAX), found.start())
    if word is None:
        return True
    before = word[0].lower()
    if before in _ENDING_ABBREVIATIONS:
        return following.isupper()
    if before in ABBREVIATIONS or (len(before) == 1 and before.isalpha() and before != "i"):
        return False
    # "1. Wash it", at the beginning of a line.
    number = before.isdecimal() and len(before) <= 3
    line = text.rfind("\n", max(0, word.start() - 4), word.start()) + 1 or max(0, word.start() - 4)
    return not (number and text[line : word.start()].strip() == "" and at < len(text))
