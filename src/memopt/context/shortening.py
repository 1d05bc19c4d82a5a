"""Shortens the output of a tool: its head and its tail, and what lies between by its structure.

Owns: what of a text is kept. Invariant: what comes out is made of whole lines of the text where it
has lines, in their order, is no longer than was asked, and says how much is missing and by which
handle the whole can be opened. Not here: which texts are shortened (outputs.py).
"""

from typing import Final

_MARK_CHARS: Final = 96
"""What a mark takes at most."""
_HEAD_SHARE: Final = 0.6
_LINE_SLACK: Final = 0.25
"""A cut goes back to the end of a line if that costs at most so much of its part."""


def shorten(text: str, chars_max: int, handle: str) -> str | None:
    """At most `chars_max` characters of a text; None where there is no room for a mark."""
    room = chars_max - _MARK_CHARS
    if room <= 0:
        return None
    head = _head(text, int(room * _HEAD_SHARE))
    tail = _tail(text[len(head) :], room - len(head))
    missing = text[len(head) : len(text) - len(tail)]
    return f"{head}{_mark(missing, handle, len(head))}{tail}"


def _mark(missing: str, handle: str, start: int) -> str:
    lines = missing.count("\n")
    much = f"{lines} lines" if lines > 1 else f"{len(missing)} characters"
    return f"\n[… {much} left out: {handle} from character {start} …]\n"


def _head(text: str, chars: int) -> str:
    cut = text.rfind("\n", int(chars * (1 - _LINE_SLACK)), chars)
    return text[: cut + 1 if cut >= 0 else chars]


def _tail(text: str, chars: int) -> str:
    start = max(0, len(text) - chars)
    cut = text.find("\n", start, start + int(chars * _LINE_SLACK))
    return text[cut + 1 if cut >= 0 else start :]
