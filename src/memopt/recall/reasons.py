"""Why a hit was found, in words: features by what they look at.

Owns: the family of each feature. Not here: what a feature added to a score (ranking).
"""

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

_FAMILIES: Final = {
    "its words": """words words_root has_all soft soft_count score score_near""",
    "its meaning": """meaning met met_best length_meaning""",
    "what stands around it": """
        words_before words_after words_before2 words_after2 meaning_before meaning_after
        meaning_before2 meaning_after2 pair_met window_meaning
        window_meaning_best window_met_best met_before soft_before soft_pair soft_window
        at_start at_start2 at_end""",
    "its conversation": "run_words run_words_best run_meaning_best",
    "who said it": """
        said said_subject said_words said_meaning said_length said_first_person other_words
        other_meaning my_user my_assistant my_first_person""",
    "when it was said": "near_time in_time in_narrow_time when_time time",
    "its form": """
        length length_2 question first_person first_person_words second_person number name negation
        when_number who_name where_name how_many_number""",
    "what it answers": "question_before question_after answer_words answer_meaning",
    "its page": """
        page_first page_words page_meaning page_length page_window title_whole
        title_covered""",
    "what leads to it": "like_best shares_best shares_mean linked linked_whole linking",
    "its importance": "importance",
    "feedback": "feedback",
}
_NAMES: Final = tuple(_FAMILIES)
NUMBER_OF: Final = {
    name: number for number, names in enumerate(_FAMILIES.values()) for name in names.split()
}
"""The family of each feature."""
REASONS_MAX: Final = 3
_LEAST: Final = 0.005


def why(words: Sequence[str], features: tuple[str, ...], shares: Array) -> str:
    """In one line, the largest part first: "has adopt, dog; its meaning +1.21, its words +0.52".
    At least one part is named, at most REASONS_MAX, and none that took away unless all did."""
    numbers = _numbers(features)
    values = np.bincount(numbers, shares).tolist()
    order = sorted(set(numbers.tolist()), key=lambda at: (-values[at], at))[:REASONS_MAX]
    best = [at for at in order if values[at] >= _LEAST] or order[:1]
    parts = ", ".join(f"{_NAMES[at]} {values[at]:+.2f}" for at in best)
    return f"has {', '.join(words)}; {parts}" if words else parts


@functools.lru_cache(maxsize=8)
def _numbers(features: tuple[str, ...]) -> Array:
    return np.array([NUMBER_OF[name] for name in features], np.int64)
