"""The values of stated memories: what a home stores of them, and what callers get.

As in records.py: rows are NamedTuples, what a caller receives is a frozen msgspec Struct that also
travels over the owner's socket. Two times are kept apart: when something was so (`valid`), and when
that was what we knew (`known`).
"""

import enum
import re
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from memopt.base.recall_records import Interval, Kind, with_article

STATED: Final = tuple(kind for kind in Kind if kind not in (Kind.EPISODE, Kind.DOCUMENT))
"""The kinds that can be remembered; the others come by themselves."""
FOREVER: Final = 2**63 - 1
"""In rows: a time without end, in microseconds."""
UNKNOWN_US: Final = -(2**63)
"""In rows: a beginning that nobody knows."""

_ITEM_ID: Final = re.compile(r"i([1-9]\d{0,12})", re.ASCII)


def item_id_of(item: int) -> str:
    """The public name of an item by its number."""
    return f"i{item}"


def item_number(item_id: object) -> int | None:
    """The number of an item by its public name; None for what is the name of no item."""
    match = _ITEM_ID.fullmatch(item_id) if isinstance(item_id, str) else None
    return int(match[1]) if match else None


class Reason(enum.StrEnum):
    """Why two memories seem to contradict each other."""

    PINNED = "pinned"
    """The same subject and attribute, and the older one is pinned."""
    NUMBER = "number"
    """The same words with another number."""
    DATE = "date"
    """The same words with another date."""
    NEGATION = "negation"
    """The same words, and one of them denies it."""


REASONS: Final = tuple(Reason)
"""By the number that is kept for a contradiction."""


class Decision(enum.StrEnum):
    """What becomes of two memories that seem to contradict each other."""

    END = "end"
    """The older one was so until the newer one began."""
    KEEP = "keep"
    """Both are so."""


# -- rows: what a home stores ---------------------------------------------------------------------


class ItemRow(NamedTuple):
    """Something that was stated, or a piece of a document. Its number is never used again."""

    item: int
    scope_number: int
    document: int
    """0 for what was stated; pieces of one document have its number."""
    kind: str
    topic: int
    """A digest of subject and attribute, as far as they are compared; 0 unless both are known."""
    subject: str | None
    attribute: str | None
    source: str | None
    tags: tuple[str, ...]
    importance: float
    valid_from_us: int
    """When it was stated, unless it was said from when on it was so."""
    valid_to_us: int
    """FOREVER unless it was said until when."""
    version: int
    """Of its latest text, from 1."""
    made_lsn: int
    made_us: int
    changed_lsn: int
    """Of the last change of any of this, or of what a later one did to it."""
    pinned_until_us: int
    """0: it is not pinned."""
    reward: float
    """From -1 to 1: what feedback made of it."""
    rewards: int
    """How often there was feedback."""


class ItemText(NamedTuple):
    """One version of an item's text."""

    item: int
    version: int
    lsn: int
    at_us: int
    text: str


class Mark(enum.IntEnum):
    """What a mark on an item says."""

    PIN = 1
    """Pinned until `value`, in microseconds; 0: no longer."""
    END = 2
    """It was so until `value`, in microseconds; FOREVER takes that back."""
    CONTRADICTION = 3
    """It seems to contradict the older item `other`; `value` is the number of the reason."""
    DECIDED = 4
    """It was decided what becomes of the two."""


class MarkRow(NamedTuple):
    """Something that was noted about an item, and when."""

    item: int
    lsn: int
    at_us: int
    mark: int
    value: int
    other: int
    """Another item it is about; 0 for none."""


# -- values: what a caller gets -------------------------------------------------------------------


class Contradiction(msgspec.Struct, frozen=True, kw_only=True):
    """Two memories that seem to contradict each other, and nobody has decided yet."""

    item_id: str
    """The newer one."""
    other_id: str
    reason: Reason
    scope: str
    at: datetime
    """When it was noticed."""
    proposal: Decision | None
    """What we would do; None: we do not know."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A stated memory, as it was known from one moment to another."""

    item_id: str
    scope: str
    kind: Kind
    text: str
    version: int
    """Of the text, from 1."""
    subject: str | None = None
    attribute: str | None = None
    valid: Interval | None
    """When it was so; None: at no time, for a later one says otherwise for all of it."""
    known: Interval
    """From when to when this is what we knew; without end for what we know now."""
    stated_at: datetime
    """When its first version was stated."""
    lsn: int
    """Of the change that made it so."""
    importance: float
    source: str | None = None
    tags: tuple[str, ...] = ()
    pinned: bool = False
    pinned_until: datetime | None = None
    """None while it is pinned: until it is unpinned."""
    reward: float = 0.0
    """From -1 to 1: what feedback made of it."""
    contradictions: tuple[Contradiction, ...] = ()
    """With other memories, undecided."""

    @property
    def why(self) -> str:
        """Why it is remembered, as a sentence."""
        parts = [f"it was stated as {with_article(self.kind)} on {self.stated_at:%Y-%m-%d}"]
        if self.version > 1:
            parts.append(f"revised {_times(self.version - 1)}")
        if self.source is not None:
            parts.append(f"taken from {self.source}")
        if self.pinned:
            parts.append("pinned")
        if self.reward:
            parts.append("found useful" if self.reward > 0 else "found of little use")
        until = self.valid.stop if self.valid is not None else None
        if self.valid is None:
            parts.append("though a later memory says otherwise")
        elif until is not None:
            parts.append(f"so until {until:%Y-%m-%d}")
        return f"I remember this because {', '.join(parts)}."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
