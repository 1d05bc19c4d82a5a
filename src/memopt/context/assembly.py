"""The order in which a context is sent, and the report of what it costs.

System, pins, summary, history, recalled block, newest user message, its loop: what changes least
comes first, so that a provider finds the prefix it has seen. Owns: that order. Invariant: recalled
and pinned memories are data in a user's message, never a system's. Not here: what is chosen.
"""

from typing import NamedTuple

from memopt.base.context_records import ContextReport, LeftOut, Part, Section
from memopt.base.records import Message
from memopt.context.groups import Group, Held
from memopt.context.recalled import Chosen
from memopt.context.tokens import Choice
from memopt.context.window import Window


class Inside(NamedTuple):
    """What is sent."""

    system: list[Held]
    pinned_block: str
    pinned_items: list[str]
    window: Window
    tools_tokens: int
    pinned_tokens: int
    """Of the block of pinned memories."""
    reply_tokens: int
    recalled: Chosen


class Assembled(NamedTuple):
    messages: list[Message]
    held: list[Held]
    """What of the session is in them."""
    sections: list[Section]
    inside: Inside

    def report(
        self, max_tokens: int, reserve_tokens: int, choice: Choice, left_out: tuple[LeftOut, ...],
        *, is_compacted: bool, encoded: int, notes: tuple[str, ...] = (),
    ) -> ContextReport:  # fmt: skip
        window = self.inside.window
        pinned = [f"m{h.seq}" for h in self.held if h.seq in window.pins]
        groups = (*window.pinned, *window.head, *window.groups)
        return ContextReport(
            tokens=sum(s.tokens for s in self.sections) + self.inside.reply_tokens,
            max_tokens=max_tokens, reserve_tokens=reserve_tokens, counter=choice.name,
            is_estimate=choice.is_estimate, sections=tuple(self.sections), left_out=left_out,
            pinned=(*pinned, *self.inside.pinned_items), recalled=self.inside.recalled.items,
            history_start=window.start, is_compacted=is_compacted, encoded_tokens=encoded,
            interrupted=sum(group.interrupted for group in groups), notes=notes,
        )  # fmt: skip


def assembled(inside: Inside) -> Assembled:
    window = inside.window
    groups = window.groups
    newest = max((at for at, group in enumerate(groups) if group.is_user), default=None)
    history = [*window.head, *groups]
    loop: list[Group] = []
    user: list[Group] = []
    if newest is not None:
        history, user, loop = (
            [*window.head, *groups[:newest]],
            [groups[newest]],
            groups[newest + 1 :],
        )
    elif window.head:
        history, user, loop = window.head[:-1], [window.head[-1]], groups
    made = _Sections()
    made.add(Part.TOOLS, [], inside.tools_tokens)
    made.add(Part.SYSTEM, [h.message for h in inside.system], sum(h.tokens for h in inside.system))
    made.groups(Part.PINS, window.pinned, inside.pinned_block, inside.pinned_tokens)
    if window.summary is not None:
        made.add(Part.SUMMARY, [window.summary.message()], window.summary_tokens)
    made.groups(Part.HISTORY, history)
    if inside.recalled.text:
        message = {"role": "user", "content": inside.recalled.text}
        made.add(Part.RECALLED, [message], inside.recalled.tokens)
    made.groups(Part.NEWEST, user)
    made.groups(Part.LOOP, loop)
    held = [*inside.system]
    for group in (*window.pinned, *history, *user, *loop):
        held += group.held
    return Assembled(made.messages, held, made.sections, inside)


class _Sections:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._used: set[str] = set()
        """Ids of calls: some providers refuse one that is there twice."""
        self.sections: list[Section] = []

    def groups(
        self, part: Part, groups: list[Group], block: str = "", block_tokens: int = 0
    ) -> None:
        messages = [{"role": "user", "content": block}] if block else []
        for group in groups:
            messages += group.messages(self._used)
        self.add(part, messages, block_tokens + sum(group.tokens for group in groups))

    def add(self, part: Part, messages: list[Message], tokens: int) -> None:
        if messages or tokens:
            self.messages += messages
            self.sections.append(Section(part=part, messages=len(messages), tokens=tokens))
