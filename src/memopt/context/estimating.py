"""How many tokens a text has, about, where nobody knows the model's tokenizer.

A sum over kinds of characters, with weights fitted to what three tokenizers make of conversations
of agents, dialogues, books, code and other scripts. Owns: the estimate. Invariant: it depends on
the text alone, is 0 for an empty text and at least 1 for any other. Not here: choosing what counts
(tokens.py).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from memopt.base.errors import UsageError

_CHUNK_CHARS: Final = 1 << 20
"""Longer texts are looked at in parts: the arrays are several times as large as the text."""
_LOWER, _UPPER, _DIGIT, _SPACE, _NEWLINE, _MARK, _LEAD2, _LEAD3, _LEAD4, _REST = range(10)


def _classes() -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    table = np.full(256, _MARK, np.uint8)
    table[ord("a") : ord("z") + 1] = _LOWER
    table[ord("A") : ord("Z") + 1] = _UPPER
    table[ord("0") : ord("9") + 1] = _DIGIT
    table[[ord(" "), ord("\t"), ord("\r")]] = _SPACE
    table[ord("\n")] = _NEWLINE
    table[0x80:0xC0] = _REST
    table[0xC0:0xE0] = _LEAD2
    table[0xE0:0xF0] = _LEAD3
    table[0xF0:] = _LEAD4
    return table


_CLASS: Final = _classes()
_WEIGHTS: Final = {
    "words": 0.871,
    "letters": 0.041,
    "capitals": 0.655,
    "digits": 0.795,
    "marks": 0.229,
    "mark_runs": 0.506,
    "newlines": 0.777,
    "indents": 0.881,
    "two": 0.729,
    "three": 0.708,
    "four": 3.656,
}
"""By tools/fit_token_estimate.py, to the mean of three tokenizers."""


class Estimate:
    """A Tokenizer that only counts."""

    name: Final = "estimate"

    def count(self, text: str) -> int:
        total = 0.0
        for start in range(0, len(text), _CHUNK_CHARS):
            total += _estimated(text[start : start + _CHUNK_CHARS])
        return max(1, round(total)) if text else 0

    def encode(self, text: str) -> Sequence[int]:
        raise UsageError(
            "an estimate has no token ids: name a model whose tokenizer is known, or open the "
            "store with tokenizer=…",
            field="token_ids",
        )


def features_of(text: str) -> dict[str, int]:
    """What the weights are multiplied by."""
    kinds = _CLASS[np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)]
    counts = np.bincount(kinds, minlength=10)
    before = np.concatenate(([np.uint8(_NEWLINE)], kinds[:-1]))
    letter, was_letter = kinds <= _UPPER, before <= _UPPER
    space, was_space = kinds == _SPACE, before == _SPACE
    return {
        "words": int((letter & ~was_letter).sum()),
        "letters": int(counts[_LOWER] + counts[_UPPER]),
        "capitals": int(((kinds == _UPPER) & (before == _LOWER)).sum()),
        "digits": int(counts[_DIGIT]),
        "marks": int(counts[_MARK]),
        "mark_runs": int(((kinds == _MARK) & (before != _MARK)).sum()),
        "newlines": int(counts[_NEWLINE]),
        "indents": int((space & was_space & ~np.concatenate(([False], was_space[:-1]))).sum()),
        "two": int(counts[_LEAD2]),
        "three": int(counts[_LEAD3]),
        "four": int(counts[_LEAD4]),
    }


def _estimated(text: str) -> float:
    return sum(_WEIGHTS[name] * value for name, value in features_of(text).items())
