"""The plug points of contexts: what counts tokens, what writes summaries, their tables in a home,
and what sessions ask of them.

As in protocols.py, each is narrow: at most five methods.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from memopt.base.context_records import Context, ContextRow, Opened, PinRow
from memopt.base.records import Damage, Message, Receipt


class Tokenizer(Protocol):
    """Text to tokens. Thread-safe."""

    @property
    def name(self) -> str: ...
    def count(self, text: str) -> int: ...
    def encode(self, text: str) -> Sequence[int]:
        """Token ids. Raises UsageError where it only estimates."""
        ...


Summarizer = Callable[[str | None, Sequence[Message], int], str]
"""Writes a summary: (the summary so far, messages that are newly left out, tokens at most)."""


class ContextTable(Protocol):
    """What was derived from messages, by the line it was derived from."""

    def get(self, line: int, name: str) -> ContextRow | None: ...
    def put(self, row: ContextRow) -> None:
        """Store it, in the place of what was there."""
        ...

    def names(self, line: int) -> list[str]: ...
    def scan(self, after: tuple[int, str], limit: int) -> list[tuple[int, str]]:
        """Up to `limit` (line, name) above `after`, in that order, over all lines."""
        ...

    def delete(self, line: int, name: str | None) -> None:
        """Of a line; all of them where there is no name."""
        ...

    def delete_scope(self, scope_number: int, prefix: str) -> int:
        """Those of a scope whose names begin so; how many."""
        ...


class PinTable(Protocol):
    """Messages that are pinned."""

    def put(self, row: PinRow) -> None: ...
    def of_line(self, line: int, start: int, stop: int) -> list[PinRow]:
        """Those of messages [start, stop), in order."""
        ...

    def scan(self, after: tuple[int, int], limit: int) -> list[tuple[int, int]]:
        """Up to `limit` (line, seq) above `after`, in that order, over all lines."""
        ...

    def delete(self, line: int, seq: int) -> int: ...
    def delete_from(self, line: int, start: int) -> int:
        """Those of messages `start` and later; how many."""
        ...

    def items(self, scope_number: int, limit: int) -> list[int]:
        """Up to `limit` items of a scope that are pinned or were until lately, in order."""
        ...


class ContextChecker(Protocol):
    """What a store asks of what is kept of contexts."""

    def check(self) -> tuple[int, list[Damage]]:
        """Verify every row: (bytes, what is damaged)."""
        ...

    def mend(self) -> int:
        """Drop what is damaged; how many rows."""
        ...


class ContextMaker(Protocol):
    """What a session asks of the contexts of a store."""

    def context(
        self,
        scope: str,
        id: str,
        *,
        max_tokens: int,
        model: str | None,
        tools: Any,
        reserve_tokens: int,
        query: str | None,
        token_ids: bool,
        head: int | None = None,
    ) -> Context:
        """Of the session as it is, or as it was when it had a head."""
        ...

    def open_output(
        self,
        scope: str,
        id: str,
        handle: str,
        start: int,
        stop: int | None,
        head: int | None = None,
    ) -> Opened:
        """What was left out of a window."""
        ...

    def pin(self, scope: str, id: str, seq: int, until: Any) -> Receipt: ...
    def unpin(self, scope: str, id: str, seq: int) -> Receipt: ...
    def pins(self, scope: str, id: str) -> tuple[int, ...]:
        """The numbers of the session's pinned messages."""
        ...
