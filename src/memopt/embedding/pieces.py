"""Texts to word pieces, as BERT's uncased tokenizer cuts them.

Owns: a vocabulary, and the words that were cut lately. Invariant: the pieces of a text are those
that the `tokenizers` library finds (BertNormalizer, BertPreTokenizer, WordPiece), whatever was cut
before. Not here: vectors.

Most words are seen again and again: one regular expression finds a text's words, one dictionary
their pieces, and only a word that is new is looked at letter by letter. To hand every text to the
library lost: it takes several times as long, and 30 MB.
"""

import re
import threading
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from memopt.base.errors import UsageError

UNKNOWN: Final = "[UNK]"
VOCABULARY_MAX: Final = 1 << 16
"""Numbers of pieces are u16."""
TEXT_CHARACTERS_MAX: Final = 16_384
"""So much of a text is read: a longer one is known by its beginning."""
WORD_CHARACTERS_MAX: Final = 100
"""A longer word is one unknown piece, as in BERT."""
LEARNT_WORDS_MAX: Final = 12_288
"""Words of several pieces, or of unusual letters, that are remembered; then all are let go."""
_LEARNT_CHARACTERS_MAX: Final = 40
"""A longer run is not remembered: it is hardly a word."""

# What divides words for certain; other scripts do so within a run, which is then looked at closely.
_MARKS: Final = "!-/:-@\\[-`{-~\u2010-\u2027\u2030-\u2043\u2045-\u2051\u2053-\u205e"
_RUNS: Final = re.compile(f"[^ \t\n\r{_MARKS}]+|[{_MARKS}]")
_IDEOGRAPHS: Final = re.compile(
    "([\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f])"
)
_REMOVED: Final = frozenset({"Cc", "Cf", "Co", "Cs"})
_PIECE_BYTES: Final = 140
_LEARNT_BYTES: Final = 160
"""What one of the vocabulary occupies, and one remembered: text, pieces and place in the table."""

_UINT16: Final = np.dtype("<u2")


class WordPieces:
    """Cuts texts by a vocabulary. Thread-safe."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """`vocabulary`: the pieces by number, those within a word beginning with ##. Raises
        UsageError where they are too many, or none stands for what is unknown."""
        if len(vocabulary) > VOCABULARY_MAX or UNKNOWN not in vocabulary:
            raise UsageError(
                f"expected up to {VOCABULARY_MAX} pieces with {UNKNOWN} among them, "
                f"got {len(vocabulary)}",
                field="vocabulary",
            )
        self._words = _Words(tuple(vocabulary))

    def cut(self, texts: Sequence[str], *, limit: int | None = None) -> tuple[Any, Any]:
        """(pieces, starts): the numbers of all texts' pieces in order, u16, and where each text
        begins among them, i64 (len(texts) + 1). Of a text, the first `limit` pieces."""
        find, pieces_of = _RUNS.findall, self._words.__getitem__
        parts = []
        for text in texts:
            # Python has another lower case for a sigma that ends a word; nothing else depends on
            # its place.
            read = text[:TEXT_CHARACTERS_MAX].replace("\u03a3", "\u03c3").lower()
            parts.append(b"".join(map(pieces_of, find(read))))
            self._words.trim()
        if limit is not None:
            parts = [part[: 2 * limit] for part in parts]
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) >> 1 for part in parts], out=starts[1:])
        return np.frombuffer(b"".join(parts), _UINT16), starts

    @staticmethod
    def bytes_of(vocabulary_size: int) -> int:
        """What so many pieces and the remembered words occupy, at most."""
        return _PIECE_BYTES * vocabulary_size + _LEARNT_BYTES * LEARNT_WORDS_MAX


class _Words(dict[str, bytes]):
    """Runs of letters to the numbers of their pieces, little-endian: those of the vocabulary, those
    met lately, and what is asked for now. No run has a # beside a letter, so the pieces within
    words may stand among them."""

    def __init__(self, vocabulary: tuple[str, ...]) -> None:
        super().__init__(
            (piece, number.to_bytes(2, "little")) for number, piece in enumerate(vocabulary)
        )
        self._vocabulary = vocabulary
        self._unknown = self[UNKNOWN]
        self._piece_characters_max = max(map(len, vocabulary))
        self._learnt: list[str] = []
        self._lock = threading.Lock()

    def __missing__(self, run: str) -> bytes:
        pieces = b"".join(map(self._cut, _words_of(run)))
        if len(run) <= _LEARNT_CHARACTERS_MAX:
            self[run] = pieces
            self._learnt.append(run)
        return pieces

    def trim(self) -> None:
        """Let go of what was met, once it is too much."""
        if len(self._learnt) <= LEARNT_WORDS_MAX:
            return
        with self._lock:
            learnt, self._learnt = self._learnt, []
            for run in learnt:
                self.pop(run, None)

    def _cut(self, word: str) -> bytes:
        """The longest piece that the word begins with, then the longest of what is left."""
        if len(word) > WORD_CHARACTERS_MAX:
            return self._unknown
        found, start, prefix = [], 0, ""
        while start < len(word):
            longest = min(len(word), start + self._piece_characters_max)
            for stop in range(longest, start, -1):
                piece = self._piece(prefix + word[start:stop])
                if piece is not None:
                    break
            else:
                return self._unknown
            found.append(piece)
            start, prefix = stop, "##"
        return b"".join(found)

    def _piece(self, letters: str) -> bytes | None:
        """Of the vocabulary alone: what was met lately is no piece of other words."""
        number = self.get(letters)
        if number is None or len(number) != 2:
            return None
        return number if self._vocabulary[int.from_bytes(number, "little")] == letters else None


def _words_of(run: str) -> list[str]:
    """The words in a run of letters in lower case: control characters and accents removed, divided
    at white space, marks and Chinese characters."""
    if run.isascii() and run.isprintable():
        return [run]
    clean = "".join(" " if letter.isspace() else letter for letter in run if _is_kept(letter))
    apart = unicodedata.normalize("NFD", _IDEOGRAPHS.sub(r" \1 ", clean))
    bare = (letter for letter in apart if unicodedata.category(letter) != "Mn")
    lowered = "".join(letter.lower() for letter in bare)
    return "".join(f" {letter} " if _is_mark(letter) else letter for letter in lowered).split()


def _is_kept(letter: str) -> bool:
    """Not control characters, formats, surrogates and private letters; what is not assigned yet
    makes a word unknown, as in the library."""
    return letter != "\ufffd" and unicodedata.category(letter) not in _REMOVED


def _is_mark(letter: str) -> bool:
    if letter.isascii():
        return "!" <= letter <= "~" and not letter.isalnum()
    return unicodedata.category(letter)[0] == "P"
