"""What a hit is called, and how an answer hangs on a tag.

Owns: both forms. Invariant: `read_id(id_of(...))` is what went in; an id that was mistyped is
refused. Not here: what a verdict changes (storing.py).
"""

import zlib
from typing import Any, Final

from memopt.answers.categories import bin_of
from memopt.answers.entry import number_of
from memopt.answers.request import digest_of
from memopt.base.answer_records import Match, Use
from memopt.base.errors import UsageError

_LETTERS: Final = dict(zip(Match, "ewqn", strict=True))
_MATCHES: Final = {letter: match for match, letter in _LETTERS.items()}


def id_of(answer: int, category: int, match: Match, score: float) -> str:
    """What a hit is called: which answer, and all that a verdict on it is about."""
    body = f"{answer:x}.{category:x}.{_LETTERS[match]}{bin_of(score):x}"
    return f"a{body}.{zlib.crc32(body.encode()) & 0xFFFF:x}"


def read_id(answer_id: Any) -> tuple[int, int, Match, int]:
    """(answer, category, match, bin of the score). Raises UsageError."""
    parts = answer_id[1:].split(".") if isinstance(answer_id, str) else []
    try:
        body = ".".join(parts[:3])
        answer, category, hit, check = parts
        if answer_id[0] != "a" or int(check, 16) != zlib.crc32(body.encode()) & 0xFFFF:
            raise ValueError
        return int(answer, 16), int(category, 16), _MATCHES[hit[0]], int(hit[1:], 16)
    except (ValueError, IndexError, KeyError):
        raise UsageError(
            f"expected the answer_id of a hit, got {answer_id!r}", field="answer_id"
        ) from None


def tag_row(scope_number: int, tag: str) -> tuple[int, int, int]:
    """How an answer hangs on a tag: (kind, source, seq)."""
    return Use.TAG, number_of(digest_of([scope_number, tag])) >> 1, 0
