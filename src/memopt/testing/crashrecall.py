"""Whether a scope recalls what it holds: part of verifying a store after a kill or a power cut.

Not here: the operations before it, and the rest of the comparison (crashwork.py).
"""

from typing import Any, Final

from memopt.memory import Memory
from memopt.recall.message_text import said_in
from memopt.testing.crashentries import WrongError

RECALLED_MAX: Final = 1000
_QUERY: Final = "anything that was said there"


def verify_recall(memory: Memory, scope: str, *, ignored: dict[str, Any]) -> None:
    """A message is recalled exactly when it can be read, but for those that are `ignored`. Raises
    WrongError."""
    chars_max = memory.config.tool_text_chars_max
    readable = {
        said.text
        for info in memory.sessions(scope, limit=10_000)
        for message in memory.session(info.id, scope=scope).messages()
        if message != ignored
        and (said := said_in(message, None, tool_chars_max=chars_max)) is not None
    }
    recalled = {hit.text for hit in memory.recall(_QUERY, scope=scope, limit=RECALLED_MAX)}
    if len(recalled) < RECALLED_MAX and recalled != readable:
        missing, wrong = len(readable - recalled), len(recalled - readable)
        raise WrongError(f"scope {scope}: {missing} are not recalled, {wrong} cannot be read")
    if not recalled <= readable:
        raise WrongError(f"scope {scope}: what is recalled cannot be read")
