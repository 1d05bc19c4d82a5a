"""The books: what was asked and said, in the upstream's own count, by key and model.

A key sees its own lines. Of a hit of the answer cache nothing is counted but the hit: it cost
nothing. Kept while the server runs, up to a limit; what comes above it is counted as the model
"other" of no key.

Owns: those sums. Used on one event loop. Not here: how they are shown (shown.py).
"""

from typing import Any, Final

import msgspec

from memopt.server.errors import ServerError
from memopt.server.reading import read_loosely
from memopt.server.settings import Caller

LINES_MAX: Final = 1024
"""Of keys and models together."""
_OTHER: Final = ("", "other")
"""Of no key: none is called so."""
_NAME_CHARS_MAX: Final = 128


class Line(msgspec.Struct):
    """What one key had of one model."""

    requests: int = 0
    hits: int = 0
    """Of the requests, those that the answer cache answered."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, what the upstream had in its cache."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the completion."""


class _Usage(msgspec.Struct):
    prompt_tokens: Any = None
    input_tokens: Any = None
    completion_tokens: Any = None
    output_tokens: Any = None
    prompt_tokens_details: Any = None
    input_tokens_details: Any = None
    completion_tokens_details: Any = None
    output_tokens_details: Any = None


class Told(msgspec.Struct):
    """What a reply says for the books."""

    model: Any = None
    usage: Any = None


_read_told: Final = msgspec.json.Decoder(Told).decode


def key_of(caller: Caller) -> str:
    """Who a line is of: the name of the key, or the scope of one without a name."""
    return caller.settings.name if caller.settings is not None else caller.scope


class Books:
    """All lines."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], Line] = {}

    def note(self, caller: Caller, model: Any, usage: Any, *, is_hit: bool = False) -> None:
        """One call was answered; `usage` as the upstream says it, where it does."""
        line = self._line(key_of(caller), model if isinstance(model, str) else "")
        line.requests += 1
        line.hits += is_hit
        try:
            said = msgspec.convert(usage, _Usage)
        except msgspec.ValidationError:
            return
        asked = (said.prompt_tokens_details, said.input_tokens_details)
        answered = (said.completion_tokens_details, said.output_tokens_details)
        line.prompt_tokens += _count(said.prompt_tokens, said.input_tokens)
        line.cached_tokens += _count(*_said("cached_tokens", asked))
        line.completion_tokens += _count(said.completion_tokens, said.output_tokens)
        line.reasoning_tokens += _count(*_said("reasoning_tokens", answered))

    def _line(self, key: str, model: str) -> Line:
        name = (key, model[:_NAME_CHARS_MAX])
        if name not in self._lines and len(self._lines) >= LINES_MAX:
            name = _OTHER
        return self._lines.setdefault(name, Line())

    def lines(self, key: str | None) -> list[tuple[str, str, Line]]:
        """(key, model, line) of one key; None: of all."""
        return [
            (one, model, line)
            for (one, model), line in sorted(self._lines.items())
            if key in (None, one)
        ]


def told_of(body: bytes) -> Told:
    """Of a reply that is whole."""
    try:
        return _read_told(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.convert(read_loosely(body), Told)
    except (ServerError, msgspec.ValidationError):
        return Told()


def _said(name: str, details: tuple[Any, ...]) -> list[Any]:
    """What each of them says, where it says anything."""
    return [each.get(name) for each in details if isinstance(each, dict)]


def _count(*said: Any) -> int:
    """The first that is a number of tokens."""
    for value in said:
        if isinstance(value, float) and not value.is_integer():
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return int(min(value, 2**53))
    return 0
