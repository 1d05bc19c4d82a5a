"""The values of contexts: what a home stores of them, and what callers get from `session.context`.

As in records.py: rows are NamedTuples, what a caller receives is a frozen msgspec Struct that also
travels over the owner's socket.
"""

import enum
from typing import Any, NamedTuple

import msgspec

from memopt.base.records import Message


class Part(enum.StrEnum):
    """The sections of a context, in the order in which they are sent."""

    TOOLS = "tools"
    """The schemas of the tools, which travel beside the messages."""
    SYSTEM = "system"
    """What a session begins with: its system and developer messages."""
    PINS = "pins"
    SUMMARY = "summary"
    """Of what was left out."""
    HISTORY = "history"
    RECALLED = "recalled"
    NEWEST = "newest"
    """The newest user message."""
    LOOP = "loop"
    """Calls, results and answers behind it."""


class Omission(enum.StrEnum):
    """Why something of a session is not sent as it is."""

    SUMMARISED = "summarised"
    """It did not fit: the summary stands for it."""
    SHORTENED = "shortened"
    """A long output of a tool, or long texts in the arguments of a call that has its result: head
    and tail are sent, with a handle of the whole."""
    ORPHANED = "orphaned"
    """A result without a call, or a second one of the same call."""


# -- rows: what a home stores ---------------------------------------------------------------------


class ContextRow(NamedTuple):
    """Something that was derived from messages up to a point of a line, for one kind of window."""

    line: int
    """That of the last message it was derived from."""
    name: str
    scope_number: int
    body: bytes


class PinRow(NamedTuple):
    """A message that is pinned, on whatever branch it is."""

    line: int
    seq: int
    lsn: int
    until_us: int


# -- values: what a caller gets -------------------------------------------------------------------


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """What one part of a context costs."""

    part: Part
    messages: int
    tokens: int


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Messages [start, stop) of the session, or something of message `start`, and why it is not
    sent."""

    reason: Omission
    start: int
    stop: int
    tokens: int | None = None
    """How many it would have cost; None where nobody counted."""
    handle: str | None = None
    """For `open_output`: the whole of it."""


class ContextReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a context costs, and what is not in it."""

    tokens: int
    """Of everything: messages, tools and what a model adds around them."""
    max_tokens: int
    reserve_tokens: int
    counter: str
    """What counted: a tokenizer by its name, or "estimate"."""
    is_estimate: bool
    """The counts are estimates: leave some room."""
    sections: tuple[Section, ...]
    left_out: tuple[LeftOut, ...] = ()
    pinned: tuple[str, ...] = ()
    """Pinned messages, as handles, and pinned memories, by their ids, that are in it."""
    recalled: tuple[str, ...] = ()
    """Ids of what was recalled: what an answer was made of."""
    history_start: int = 0
    """Messages before this one are summarised, but for the first ones, pins and the newest user
    message."""
    interrupted: int = 0
    """Calls without a result, which were given one that says so."""
    is_compacted: bool = False
    """This call moved `history_start`: the prefix is another one than before."""
    encoded_tokens: int = 0
    """That had to be counted anew; the others were known."""
    notes: tuple[str, ...] = ()

    def section(self, part: Part) -> Section:
        """What a part costs; one without messages costs nothing."""
        found = (section for section in self.sections if section.part is part)
        return next(found, Section(part=part, messages=0, tokens=0))


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What to send to a model."""

    messages: tuple[Message, ...]
    report: ContextReport
    token_ids: tuple[tuple[int, ...], ...] | None = None
    """Of each message's text, where they were asked for."""


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """Characters [start, stop) of a text that was left out of a window."""

    handle: str
    text: str
    start: int
    stop: int
    chars: int
    """Of the whole."""
    tool: str | None = None
    """Whose output it is."""

    @property
    def answer(self) -> str:
        """The result to give to a model that asked for it."""
        rest = f"; go on with start={self.stop}" if self.stop < self.chars else ""
        return (
            f"[{self.handle}: characters {self.start} to {self.stop} of {self.chars}{rest}]\n"
            + (self.text)
        )


Json = dict[str, Any]
"""A JSON object, such as the schema of a tool."""
