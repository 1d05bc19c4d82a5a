"""Terms and flags of a text: stems without stop-words, characters in pairs, identifiers in parts.

Owns: what two texts have to share to be found by each other. Words are stemmed in the language of
the text (Snowball's algorithms); Chinese, Japanese and Korean are cut into pairs of characters;
`camelCase`, `snake_case` and `dotted.paths` are kept whole and in parts. Invariant: the same text
gives the same terms whatever was analysed before, and a text costs time and memory in proportion
to the CHARS_MAX of it that are read. Not here: weights of terms (recall), times (times.py).
"""

import enum
import functools
import itertools
import operator
import re
import unicodedata
import zlib
from typing import Final, NamedTuple

import Stemmer

from memopt.base.errors import UsageError
from memopt.text.words import (
    EXCLAMATIONS,
    FIRST_PERSON,
    NEGATIONS,
    NUMBER_WORDS,
    SECOND_PERSON,
    STOP_WORDS,
    TIME_WORDS,
)

CHARS_MAX: Final = 32_768
"""Of one text; what lies behind is not found by its words, and the flag CUT says so."""
TERMS_MAX: Final = 2_048
WORD_CHARS_MAX: Final = 64
"""A longer run of letters and digits is no word: a key, a digest, something in base64."""
CACHED_WORDS_MAX: Final = 8_192
CACHED_WORD_BYTES: Final = 288
"""A word, its tuple, its numbers, its place in the table."""
LANGUAGES: Final = frozenset(Stemmer.algorithms())
DEFAULT_LANGUAGE: Final = "english"

_PARTS_MAX: Final = 16
_BINARY_SHARE: Final = 0.1
_FOREIGN_TOKENS_MIN: Final = 4
"""Shorter texts are taken to be of the default language, if their script is its."""
_FOREIGN_TOKENS_MAX: Final = 200
_FOREIGN_SHARE: Final = 0.3
"""Below this share of the default language's stop-words another language is thought of."""

# Signs that stand on letters, which \\w leaves out: without them no word of Hindi is whole.
_MARKS: Final = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u0900-\u0963"
    "\u0966-\u0dff\u0e31-\u0e4e\u0eb1-\u0ecd\u102b-\u103e\u1056-\u1059\u17b4-\u17d3"
)
_TOKEN: Final = re.compile(
    rf"[\w{_MARKS}]+(?:[.'\u2019:/\\@+-][\w{_MARKS}]+|,(?=\d{{3}}(?!\d))\d+)*"
)
_TOKEN_ASCII: Final = re.compile(r"\w+(?:[.':/\\@+-]\w+|,(?=\d{3}(?!\d))\d+)*", re.ASCII)
"""The same where there is nothing else, in four fifths of the time."""
_WORD: Final = re.compile(rf"(?:[^\W\d_]|[{_MARKS}])+")
_PART: Final = re.compile(rf"(?:[^\W_]|[{_MARKS}])+")
_HUMP: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]+")
_HAS_HUMP: Final = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd]")
_FIGURE: Final = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_CJK: Final = re.compile(
    "[\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"
)
"""Also Thai, Lao, Burmese and Khmer, which are written without spaces as well."""
_SCRIPTS: Final = (
    (re.compile("[\u0400-\u04ff]"), "russian"),
    (re.compile("[\u0370-\u03ff\u1f00-\u1fff]"), "greek"),
    (re.compile("[\u0600-\u06ff]"), "arabic"),
    (re.compile("[\u0900-\u097f]"), "hindi"),
    (re.compile("[\u0b80-\u0bff]"), "tamil"),
    (re.compile("[\u0530-\u058f]"), "armenian"),
    (re.compile("[\u0590-\u05ff]"), "yiddish"),
)


class Flag(enum.IntFlag):
    """What is said of a text in 16 bits."""

    QUESTION = 1
    FIRST_PERSON = 2
    SECOND_PERSON = 4
    NUMBER = 8
    NAME = 16
    """A capital that is not at the beginning, on no common word."""
    TIME = 32
    """A word of time: a month, a weekday, "ago"."""
    NEGATION = 64
    CODE = 128
    """An identifier or a path."""
    PAIRS = 256
    """Characters that are indexed in pairs."""
    BINARY = 512
    """Bytes that are no text: it has no terms."""
    CUT = 1024
    """Longer than is read of it."""


class Analysis(NamedTuple):
    terms: list[int]
    """Hashes of stems, 32 bits, in order."""
    flags: int
    language: str


# An operation of IntFlag costs as much as a word does; so within, the flags are plain integers.
_QUESTION, _NAME = int(Flag.QUESTION), int(Flag.NAME)
_BINARY, _CUT = int(Flag.BINARY), int(Flag.CUT)
_CAPITAL: Final = 1 << 16
_KEPT: Final = 0xFFFF
_Word = tuple[int, tuple[int, ...]]
_STOPPED_IN: Final[dict[str, tuple[str, ...]]] = {}
for _language, _words in STOP_WORDS.items():
    for _word in _words:
        _STOPPED_IN[_word] = (*_STOPPED_IN.get(_word, ()), _language)
_STOPPED_ELSEWHERE: Final = frozenset(_STOPPED_IN) - frozenset(STOP_WORDS[DEFAULT_LANGUAGE])
_BITS: Final = operator.itemgetter(0)
_TERMS: Final = operator.itemgetter(1)


class Analyser:
    """Analyses texts, remembering the words it met lately. Thread-safe."""

    def __init__(
        self, language: str | None = None, *, cached_words_max: int = CACHED_WORDS_MAX
    ) -> None:
        """`language` settles it for every text; None finds it for each: by its script, by its
        stop-words, else English. Raises UsageError for a language that Snowball does not have."""
        if language is not None and language not in LANGUAGES:
            known = ", ".join(sorted(LANGUAGES))
            raise UsageError(f"expected one of {known}, got {language!r}", field="language")
        self._settled = language
        self._cached_words_max = cached_words_max
        self._stemmers: dict[str, Stemmer.Stemmer] = {}
        self._cached: dict[str, dict[str, _Word]] = {}
        self._count = 0

    def analyse(self, text: str) -> Analysis:
        """Terms and flags of `text`."""
        flags = 0
        if len(text) > CHARS_MAX:
            text = text[:CHARS_MAX]
            flags = _CUT
        if _is_binary(text):
            return Analysis([], flags | _BINARY, self._settled or DEFAULT_LANGUAGE)
        tokens = _tokens(text)
        language = self._settled or _by_script(text)
        words = self._looked_up(tokens, language)
        if self._settled is None and _may_be_foreign(words, language):
            language = _by_words(tokens)
            if language != DEFAULT_LANGUAGE:
                words = self._looked_up(tokens, language)
        bits = functools.reduce(operator.or_, map(_BITS, words), 0)
        terms = list(itertools.chain.from_iterable(map(_TERMS, words)))
        if len(terms) > TERMS_MAX:
            del terms[TERMS_MAX:]
            flags |= _CUT
        if bits & _CAPITAL and any(word[0] & _CAPITAL for word in itertools.islice(words, 1, None)):
            flags |= _NAME
        if "?" in text or "\uff1f" in text or "\u061f" in text:
            flags |= _QUESTION
        return Analysis(terms, flags | bits & _KEPT, language)

    def stems(self, text: str) -> list[tuple[str, str]]:
        """Each term with the word it was made from, in order: (word, stem). For a query, whose
        terms are shown; the hash of a stem is `term_of` it."""
        text = text[:CHARS_MAX]
        if _is_binary(text):
            return []
        tokens = _tokens(text)
        language = self._settled or _by_script(text)
        if self._settled is None and _may_be_foreign(self._looked_up(tokens, language), language):
            language = _by_words(tokens)
        found: list[tuple[str, str]] = []
        for token in tokens:
            found += [(token, stem) for stem in self._made(token, language)[1]]
            if len(found) >= TERMS_MAX:
                break
        return found[:TERMS_MAX]

    def _looked_up(self, tokens: list[str], language: str) -> list[_Word]:
        cache = self._cached.get(language)
        if cache is None:
            cache = self._cached[language] = {}
        get, learn = cache.get, self._learnt
        return [get(token) or learn(token, language, cache) for token in tokens]

    def _learnt(self, token: str, language: str, cache: dict[str, _Word]) -> _Word:
        bits, stems = self._made(token, language)
        word = (bits, tuple(map(term_of, stems)))
        if len(token) <= WORD_CHARS_MAX and len(stems) <= _PARTS_MAX:
            if self._count >= self._cached_words_max:
                for held in list(self._cached.values()):
                    held.clear()
                self._count = 0
            cache[token] = word
            self._count += 1
        return word

    def _made(self, token: str, language: str) -> tuple[int, list[str]]:
        """Bits and stems of one token."""
        if not token.isascii() and _CJK.search(token):
            return self._paired(token, language)
        folded = fold(token)
        if folded in STOP_WORDS.get(language, ()):
            return _bits(folded), []
        bits = _bits(folded)
        if token[0].isupper() and folded not in EXCLAMATIONS:
            bits |= _CAPITAL
        if _WORD.fullmatch(token) and not _HAS_HUMP.search(token):
            if len(token) > WORD_CHARS_MAX:
                return 0, []
            return bits, [self._stemmed(folded, language)]
        return self._compound(token, folded, bits, language)

    def _compound(self, token: str, folded: str, bits: int, language: str) -> tuple[int, list[str]]:
        """Of a word with a mark, a digit or a hump in it: itself and its parts."""
        if "'" in folded:
            folded = folded.removesuffix("'s")
            if folded.isalpha():
                return bits | _bits(folded), [self._stemmed(folded, language)]
        if _FIGURE.fullmatch(folded):
            figure = folded.replace(",", "")
            return bits | int(Flag.NUMBER), [figure] if len(figure) <= WORD_CHARS_MAX else []
        parts = [fold(hump) for part in _PART.findall(token) for hump in _humps(part)]
        parts = [part for part in parts if len(part) <= WORD_CHARS_MAX][:_PARTS_MAX]
        is_dashed = "-" in folded and not any(part.isdigit() for part in parts)
        if len(parts) == 1:
            kept = [folded] if len(folded) <= WORD_CHARS_MAX else []
        else:
            kept = [] if is_dashed or len(folded) > WORD_CHARS_MAX else [folded]
            stop = STOP_WORDS.get(language, frozenset())
            kept += [
                self._stemmed(part, language)
                for part in parts
                if part not in stop and "'" not in folded and (len(part) > 1 or part.isdigit())
            ]
            if not is_dashed and not folded[0].isdigit() and "'" not in folded:
                bits |= int(Flag.CODE)
        if any(part.isdecimal() for part in parts):
            bits |= int(Flag.NUMBER)
        return bits, kept

    def _paired(self, token: str, language: str) -> tuple[int, list[str]]:
        bits, at = int(Flag.PAIRS), 0
        stems: list[str] = []
        token = unicodedata.normalize("NFKC", token)
        for run in _CJK.finditer(token):
            between = token[at : run.start()]
            at = run.end()
            for part in _PART.findall(between):
                more, some = self._made(part, language)
                bits, stems = bits | more, stems + some
            signs = run[0]
            stems += [signs[i : i + 2] for i in range(len(signs) - 1)] or [signs]
        for part in _PART.findall(token[at:]):
            more, some = self._made(part, language)
            bits, stems = bits | more, stems + some
        return bits & ~_CAPITAL, stems[:TERMS_MAX]

    def _stemmed(self, folded: str, language: str) -> str:
        if language == DEFAULT_LANGUAGE and not folded.isascii():
            folded = _without_accents(folded)
        stemmer = self._stemmers.get(language)
        if stemmer is None:
            # Its own cache is unbounded in bytes, and words are remembered here already.
            stemmer = self._stemmers[language] = Stemmer.Stemmer(language, 0)
        stem: str = stemmer.stemWord(folded)
        return stem or folded


def fold(word: str) -> str:
    """The word as it is compared: no case, no forms of compatibility, one apostrophe."""
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFKC", word).replace("\u2019", "'").casefold().replace("ß", "ss")


def _without_accents(word: str) -> str:
    letters = unicodedata.normalize("NFKD", word)
    return unicodedata.normalize("NFC", "".join(c for c in letters if not unicodedata.combining(c)))


def term_of(stem: str) -> int:
    """The number of a stem."""
    return zlib.crc32(stem.encode("utf-8", "surrogatepass"))


def name_of(speaker: str | None) -> int:
    """The number of a speaker: of the first word of the name, as questions use it. 0 for none."""
    words = _PART.findall(speaker or "")
    return term_of(fold(words[0])) or 1 if words else 0


def words_of(text: str) -> list[str]:
    """The words of a text as they stand, folded and not stemmed, stop-words among them."""
    return [fold(token) for token in _TOKEN.findall(text[:CHARS_MAX])]


def _humps(part: str) -> list[str]:
    return _HUMP.findall(part) if _HAS_HUMP.search(part) else [part]


def _bits(folded: str) -> int:
    bits = 0
    if folded in FIRST_PERSON:
        bits |= int(Flag.FIRST_PERSON)
    if folded in SECOND_PERSON:
        bits |= int(Flag.SECOND_PERSON)
    if folded in NEGATIONS:
        bits |= int(Flag.NEGATION)
    if folded in TIME_WORDS:
        bits |= int(Flag.TIME)
    if folded in NUMBER_WORDS or folded.isdecimal():
        bits |= int(Flag.NUMBER)
    return bits


def _tokens(text: str) -> list[str]:
    return (_TOKEN_ASCII if text.isascii() else _TOKEN).findall(text)


def _is_binary(text: str) -> bool:
    if _CONTROL.search(text) is None:
        return False
    return len(_CONTROL.findall(text)) > max(1, int(len(text) * _BINARY_SHARE))


def _by_script(text: str) -> str:
    if not text.isascii():
        for script, language in _SCRIPTS:
            if script.search(text):
                return language
    return DEFAULT_LANGUAGE


def _may_be_foreign(words: list[_Word], language: str) -> bool:
    """Whether the text, taken for the default language, has hardly a stop-word of it."""
    if language != DEFAULT_LANGUAGE or len(words) < _FOREIGN_TOKENS_MIN:
        return False
    return list(map(_TERMS, words)).count(()) <= _FOREIGN_SHARE * len(words)


def _by_words(tokens: list[str]) -> str:
    lowered = list(map(str.lower, tokens[:_FOREIGN_TOKENS_MAX]))
    if _STOPPED_ELSEWHERE.isdisjoint(lowered):
        return DEFAULT_LANGUAGE
    seen = dict.fromkeys(STOP_WORDS, 0)
    for token in lowered:
        for language in _STOPPED_IN.get(token, ()):
            seen[language] += 1
    best = max(sorted(seen), key=seen.__getitem__)
    return best if seen[best] >= max(2, seen[DEFAULT_LANGUAGE] + 1) else DEFAULT_LANGUAGE
