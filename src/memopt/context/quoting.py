"""Texts from elsewhere, put into a context as data: between marks that they cannot close.

Owns: the marks. Invariant: between the first mark of a block and its last there is no other that
ends it, whatever is quoted. Not here: what is quoted.
"""

import re
from collections.abc import Iterable
from typing import Final

_MARKS: Final = re.compile(r"<(/?)(summary|recalled|pinned_memories)>", re.IGNORECASE)


def block(name: str, head: str, lines: Iterable[str]) -> str:
    """What a user's message says that has such a block alone."""
    body = _MARKS.sub(r"<\1 \2>", "\n".join((head, *lines)))
    return f"<{name}>\n{body}\n</{name}>"
