"""The values of recall: what a home stores of an index, and what callers get from `recall`.

As in records.py: rows are NamedTuples, what a caller receives is a frozen msgspec Struct that also
travels over the owner's socket.
"""

import enum
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

import msgspec


class Kind(enum.StrEnum):
    """What a recallable text is. Episodes and documents come by themselves; the others are stated:
    remembered by a user, a tool or a model."""

    EPISODE = "episode"
    """A message of a session."""
    DOCUMENT = "document"
    """A piece of a document."""
    FACT = "fact"
    PREFERENCE = "preference"
    EVENT = "event"
    RELATIONSHIP = "relationship"
    INSTRUCTION = "instruction"
    GOAL = "goal"
    PLAN = "plan"
    DECISION = "decision"
    PROCEDURE = "procedure"
    OBSERVATION = "observation"
    ERROR = "error"
    REFLECTION = "reflection"
    CONTEXT = "context"


class Indexing(enum.StrEnum):
    """Whether messages are indexed as they are sealed."""

    ON = "on"
    OFF = "off"


GONE: Final = (1 << 24) - 1
"""Instead of a number within a source: some of it is gone, or all. No message has this number."""


# -- rows: what a home stores ---------------------------------------------------------------------


class SegmentRow(NamedTuple):
    """A run of index entries of one scope."""

    segment: int
    scope_number: int
    space: str
    """Of its vectors; "" where it has none."""
    entries: int
    first_lsn: int
    """Of the oldest record its entries stand for."""
    size_bytes: int
    """Of the body."""
    body: bytes


class UnindexedRow(NamedTuple):
    """What has no index entries yet: messages [start, stop) of a line, which are sealed; or, with
    a negative source, versions of what was stated."""

    scope_number: int
    """0 where it is not known: of what was sealed before there were segments."""
    source: int
    start: int
    stop: int


class ScopeLine(NamedTuple):
    """The current line of a session of a scope."""

    session: int
    id: str
    line: int
    parent: int
    base: int


# -- values: what a caller gets -------------------------------------------------------------------


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Messages [start, stop) of a session."""

    session: str
    start: int
    stop: int


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """When something is so: from `start`, before `stop`. None: not known, or without end."""

    start: datetime | None = None
    stop: datetime | None = None


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was found, and why."""

    item_id: str
    """Stable; of a message, it names its place."""
    text: str
    tokens: int
    """Of the text, as `max_tokens` counts them."""
    score: float
    why: str
    """What made the score, the largest part first."""
    kind: Kind
    role: str | None
    """Of a message: whose turn it was."""
    scope: str
    spans: tuple[Span, ...]
    """Where in sessions it is; empty for what was stated."""
    at: datetime
    """When it was said."""
    valid: Interval | None = None
    tags: tuple[str, ...] = ()
    pinned: bool = False
    source: str | None = None
    features: dict[str, float] = {}
    """What each feature added to the score, by its name."""

    @property
    def because(self) -> str:
        """Why it is remembered, as a sentence; `why` says why it was found."""
        on = f"on {self.at:%Y-%m-%d}"
        if self.kind is Kind.EPISODE:
            who = {None: "somebody", "user": "the user", "tool": "a tool"}.get(self.role)
            where = ", ".join(f"in session {span.session}" for span in self.spans[:1])
            return f"I remember this because {who or f'the {self.role}'} said it {on}, {where}."
        if self.kind is Kind.DOCUMENT:
            return f"I remember this because it stands in {self.source}, ingested {on}."
        parts = [f"it was stated as {with_article(self.kind)} {on}"]
        if self.source is not None:
            parts.append(f"taken from {self.source}")
        if self.pinned:
            parts.append("pinned")
        if self.valid is not None and self.valid.stop is not None:
            parts.append(f"so until {self.valid.stop:%Y-%m-%d}")
        return f"I remember this because {', '.join(parts)}."


def with_article(kind: Kind) -> str:
    """Such as "an event"."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


class Recall(msgspec.Struct, frozen=True, kw_only=True):
    """The hits of one query, best first: iterate over it."""

    hits: tuple[Hit, ...]
    query: str
    candidates: int
    """Entries that were ranked."""
    entries: int
    """Entries of the scopes that were looked at."""
    tokens: int
    """Of all hits."""
    notes: tuple[str, ...] = ()
    """Why there are none, or what was left out, in words."""

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]

    # A recall without hits is still an answer.
    def __bool__(self) -> bool:
        return True
