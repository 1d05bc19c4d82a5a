"""What readers of foreign histories say, and the account of what became of it.

A reader turns a source into steps: a session begins, a message is said in it, something is known
about it. Steps come in an order in which they can be carried out, whatever was carried out before:
a fork begins after the messages that it shares. Not here: any format, and any store.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base.records import Message

ORIGIN: Final = "origin"
"""The field of an imported message that says where it is from: `ids` are the source's own names of
what it was made of. Also the state of a session that says the same of that."""

ORIGIN_FILES: Final = "origin_files"
"""State of a session whose source does not name it: `files` that said all of it."""

NOTED_MAX: Final = 1000
"""Damages and conflicts that are named; more are counted."""
REASONS_MAX: Final = 200
REASON_CHARS_MAX: Final = 80


class Begin(NamedTuple):
    session: str
    parent: str | None = None
    """The session that it shares messages [0, position) with."""
    position: int = 0
    names: tuple[str, ...] = ()
    """Where the source says no name, and `session` is a word of the reader's: what the file would
    have it called, and what earlier versions called it. Which session it is, what it says tells."""
    file: str = ""
    """… and where that file is: it tells where something was redacted or left out."""


class Say(NamedTuple):
    session: str
    message: Message
    at: datetime | None
    where: str
    """File and line, for whoever has to be told."""


class About(NamedTuple):
    session: str
    about: dict[str, Any]
    """Title, folder and the like; None leaves a field out."""


Step = Begin | Say | About


class Damage(msgspec.Struct, frozen=True):
    where: str
    reason: str


class Brought(msgspec.Struct, kw_only=True):
    """What came in, and what did not."""

    files: int = 0
    bytes: int = 0
    """Read from them."""
    sessions: int = 0
    """Seen; they may have been there already."""
    messages: int = 0
    messages_there: int = 0
    """Messages that the store held already."""
    messages_rewritten: int = 0
    """Of `messages`: in place of what the source has more of by now, such as half of a reply."""
    messages_changed: int = 0
    """Otherwise in the source than in the store by now, and left as they are."""
    messages_left_out: int = 0
    """Larger than a message of this store may be: a note is in their place."""
    skipped: dict[str, int] = {}
    """What is no part of a conversation, and how often it was met, by reason."""
    unfinished: list[Damage] = []
    """Last lines that are half-written, as of a conversation that goes on: import it again."""
    damaged: list[Damage] = []
    conflicts: list[Damage] = []
    """Sessions that hold something else than the source: the rest of those is left out."""
    more_noted: int = 0
    """Damages and conflicts beyond those that are listed."""

    def skip(self, reason: str, count: int = 1) -> None:
        reason = reason[:REASON_CHARS_MAX]
        if reason not in self.skipped and len(self.skipped) >= REASONS_MAX:
            reason = "others"
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def damage(self, where: str, reason: str) -> None:
        self._note(self.damaged, where, reason)

    def half_written(self, where: str) -> None:
        self._note(self.unfinished, where, "the last line is half-written")

    def conflict(self, where: str, reason: str) -> None:
        self._note(self.conflicts, where, reason)

    def _note(self, notes: list[Damage], where: str, reason: str) -> None:
        if len(notes) < NOTED_MAX:
            notes.append(Damage(where, reason))
        else:
            self.more_noted += 1
