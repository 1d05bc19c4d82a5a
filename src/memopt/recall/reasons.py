"""Why a hit was found, in words: features by what they look at.

Owns: the family of each feature. Not here: what a feature added to a score (ranking).
"""

from collections.abc import Mapping
from typing import Final

_FAMILIES: Final = {
    "its words": """words words_raw words_root covered has_all soft soft_count score score_near""",
    "its meaning": """meaning met met_hard met_rare met_best length_meaning""",
    "what stands around it": """
        words_before words_after words_before2 words_after2 meaning_before meaning_after
        meaning_before2 meaning_after2 pair_covered pair_met window_covered window_meaning
        window_meaning_best window_met window_met_best met_before soft_before soft_pair soft_window
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
        page_first page_words page_meaning page_length page_window_covered title_whole
        title_covered""",
    "what leads to it": "like_best shares_best shares_mean linked linked_whole linking",
    "its importance": "importance",
    "feedback": "feedback",
}
FAMILY_OF: Final = {
    name: family for family, names in _FAMILIES.items() for name in names.split()
}  # fmt: skip
REASONS_MAX: Final = 3
_LEAST: Final = 0.005


def why(words: list[str], shares: Mapping[str, float]) -> str:
    """In one line, the largest part first: "has adopt, dog; its meaning +1.21, its words +0.52".
    At least one part is named, at most REASONS_MAX, and none that took away unless all did."""
    sums: dict[str, float] = {}
    for name, share in shares.items():
        family = FAMILY_OF[name]
        sums[family] = sums.get(family, 0.0) + share
    ordered = sorted(sums.items(), key=lambda one: (-one[1], one[0]))
    parts = [f"{family} {share:+.2f}" for family, share in ordered if share >= _LEAST]
    parts = parts[:REASONS_MAX] or [f"{family} {share:+.2f}" for family, share in ordered[:1]]
    return "; ".join(filter(None, (f"has {', '.join(words)}" if words else "", ", ".join(parts))))
