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
    "its meaning": """meaning met met_best""",
    "what stands around it": """
        words_before words_after words_before2 meaning_before pair_met window_meaning_best
        window_met_best met_before soft_before soft_pair soft_window at_start at_start2 at_end""",
    "its conversation": "run_words run_words_best",
    "who said it": """
        said said_subject said_words said_meaning said_length said_first_person other_words
        other_meaning my_user my_assistant my_first_person""",
    "when it was said": "near_time in_time in_narrow_time when_time time",
    "its form": """
        length length_2 question first_person first_person_words second_person number name negation
        when_number who_name where_name how_many_number""",
    "what it answers": "question_before question_after answer_words answer_meaning",
    "its page": """
        page_first page_window page_covered page_meanings page_meaning page_length page_words
        page_score page_soft page_pair_met page_window_met_best title_whole title_covered""",
    "what leads to it": "like_best shares_best shares_mean linked linked_whole linking",
    "its importance": "importance",
    "feedback": "feedback",
}
FAMILY_OF: Final = {name: family for family, names in _FAMILIES.items() for name in names.split()}
REASONS_MAX: Final = 3
_LEAST: Final = 0.005


def parts_of(features: tuple[str, ...], shares: Array) -> list[str]:
    """Of each column of `shares` (features, places): what raised it, by families, the largest part
    first. At least one is named, at most REASONS_MAX, and none that took away unless all did."""
    families, rows = _rows(features)
    sums = (rows @ shares).T
    order = np.argsort(-sums, axis=1, kind="stable")[:, :REASONS_MAX].tolist()
    named = []
    for best, values in zip(order, sums.tolist(), strict=True):
        some = [at for at in best if values[at] >= _LEAST] or best[:1]
        named.append(", ".join(f"{families[at]} {values[at]:+.2f}" for at in some))
    return named


def why(words: Sequence[str], parts: str) -> str:
    """In one line: "has adopt, dog; its meaning +1.21, its words +0.52"."""
    return f"has {', '.join(words)}; {parts}" if words else parts


@functools.lru_cache(maxsize=8)
def _rows(features: tuple[str, ...]) -> tuple[tuple[str, ...], Array]:
    """The families that are among the features, and a matrix (families, features) of 0 and 1."""
    families = tuple(name for name in _FAMILIES if any(FAMILY_OF[f] == name for f in features))
    rows = np.array([[FAMILY_OF[f] == name for f in features] for name in families], np.float32)
    return families, rows
