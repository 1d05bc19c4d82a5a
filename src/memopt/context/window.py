"""What of a session is in its window: groups of messages from one point on, what was kept from
before it, and a summary of the rest.

Messages are added one after the other. Where they no longer fit, many are left out at once, so that
few are left, and the summary takes them over: that is a compaction. Between two of them nothing
changes but what is added at the end.

Owns: who is left out. Invariant: groups are left out whole; the newest user message and the newest
group stay; the newest finished exchange stays wherever it fits, and so does the newest finished
turn. Not here: in which order it is sent (assembly.py), and where a window is kept (windows.py).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from memopt.context.calls import calls_in
from memopt.context.groups import INTERRUPTED_TOKENS, Group, Grouper, Held, Pair
from memopt.context.summary import Summary, extended

_LOW_SHARE: Final = 0.3
"""Of a window, so much is left after a compaction."""
_HIGH_SHARE: Final = 0.9
"""… and at most so much, with what is recalled."""
_SUMMARY_SHARE: Final = 0.08


class Costs(NamedTuple):
    """What else is in the window beside history."""

    limit: int
    """Tokens of everything."""
    fixed: int
    """System messages, pinned memories, tools."""


class Window:
    """One session's, for one model and one size."""

    def __init__(
        self, costs: Costs, count: Callable[[str], int], *, start: int, head: list[Group],
        summary: Summary | None, written: str | None, pins: frozenset[int], pinned: list[Group],
        on_answer: Callable[[Pair], None],
    ) -> None:  # fmt: skip
        self._costs = costs
        self._count = count
        self.pins = pins
        """Numbers of messages that are never left out."""
        self.pinned = pinned
        """Pinned groups that are no longer among the others."""
        self.start = start
        """The first message that was not left out, but for the head."""
        self.head = head
        """User messages from before it that are still shown."""
        self.summary = summary
        self._written = written
        """What a model wrote about everything that the summary is of: for the next compaction."""
        self.summary_tokens = self._cost_of(summary)
        self.grouper = Grouper(on_answer)
        self.left_out: list[Group] = []
        """By compactions of this window, since it was read."""
        self.compactions = 0
        self._tokens_max = self.tokens()
        """At least what everything costs, so that it is not added up for each message."""

    @property
    def groups(self) -> list[Group]:
        return self.grouper.groups

    @property
    def summary_tokens_max(self) -> int:
        return int(self._costs.limit * _SUMMARY_SHARE)

    @property
    def newest_user(self) -> Group | None:
        return self._newest_user([*self.head, *self.groups])

    @property
    def seqs(self) -> set[int]:
        """Messages from before `start` that are shown."""
        return {held.seq for group in (*self.pinned, *self.head) for held in group.held}

    def add(self, held: Held) -> None:
        self.grouper.add(held)
        self._tokens_max += held.tokens + INTERRUPTED_TOKENS * len(calls_in(held.raw))

    @property
    def is_settled(self) -> bool:
        """No call of the last group waits for its result."""
        return not self.groups or not self.groups[-1].interrupted

    def tokens(self, extra: int = 0) -> int:
        return (
            self._costs.fixed + self.summary_tokens + extra
            + sum(group.tokens for group in (*self.pinned, *self.head, *self.groups))
        )  # fmt: skip

    def is_full(self, extra: int = 0) -> bool:
        if self._tokens_max + extra <= self._costs.limit:
            return False
        self._tokens_max = self.tokens()
        return self._tokens_max + extra > self._costs.limit

    def compact(self, extra: int = 0) -> None:
        """Leave out so much that `extra` tokens fit besides, and some time passes until the next
        compaction."""
        cut = self._cut(extra)
        if not cut and not self.head:
            return
        groups = self.grouper.drop(cut, self.pins)
        user = self._newest_user([*self.head, *groups])
        remains = any(group.is_user for group in self.groups)
        kept = [] if remains or user is None else [user]
        gone = [group for group in (*self.head, *groups) if group not in kept]
        self.head = kept
        if self.groups:
            self.start = self.groups[0].first
        self.pinned += [group for group in gone if self._is_pinned(group)]
        gone = [group for group in gone if not self._is_pinned(group)]
        before = self.summary
        if before is not None and self._written:
            before, self._written = Summary(before.first, before.last, (), self._written), None
        self.summary = extended(before, gone, self._count, self.summary_tokens_max)
        self.summary_tokens = self._cost_of(self.summary)
        self.left_out += gone
        self.compactions += 1
        self._tokens_max = self.tokens()

    def drop_summary(self) -> None:
        """It has no room."""
        self.summary = None
        self.summary_tokens = 0

    # -- choosing ---------------------------------------------------------------------------------

    def _cut(self, extra: int) -> int:
        """How many groups to leave out."""
        groups = self.groups
        if not groups:
            return 0
        after = [0] * (len(groups) + 1)
        for at in range(len(groups) - 1, -1, -1):
            after[at] = after[at + 1] + groups[at].tokens
        last = len(groups) - 1
        low = min(int(self._costs.limit * _LOW_SHARE) + extra, int(self._costs.limit * _HIGH_SHARE))
        cut = next((at for at in range(last) if self._after(at, after, extra) <= low), last)
        # What is recalled never costs the newest exchange.
        for start, besides in ((self._turn_start(), extra), (self._exchange_start(), 0)):
            if start < cut and self._after(start, after, besides) <= self._costs.limit:
                return start
        return cut

    def _after(self, cut: int, after: list[int], extra: int) -> int:
        """What everything costs once groups before `cut` are left out."""
        summary = self.summary_tokens_max
        pinned = sum(g.tokens for g in self.groups[:cut] if self._is_pinned(g))
        pinned += sum(group.tokens for group in self.pinned)
        kept = 0
        if not any(group.is_user for group in self.groups[cut:]):
            user = self._newest_user([*self.head, *self.groups[:cut]])
            kept = user.tokens if user is not None else 0
        return self._costs.fixed + summary + extra + pinned + kept + after[cut]

    def _turn_start(self) -> int:
        """Where the newest finished turn begins: a user's message that was answered before the
        newest one, or at the end."""
        groups = self.groups
        end = len(groups)
        if end and (groups[-1].pairs or not groups[-1].is_finished):
            end = max((at for at, group in enumerate(groups) if group.is_user), default=0)
        starts = [at for at in range(end) if groups[at].is_user]
        return starts[-1] if starts else len(groups)

    def _exchange_start(self) -> int:
        """Where the newest finished exchange begins: a call and its results, or a question and its
        answer."""
        groups = self.groups
        for at in range(len(groups) - 1, -1, -1):
            if groups[at].is_finished:
                return at - 1 if at and groups[at - 1].is_user else at
        return len(groups)

    def _newest_user(self, groups: list[Group]) -> Group | None:
        return next((group for group in reversed(groups) if group.is_user), None)

    def _is_pinned(self, group: Group) -> bool:
        return bool(self.pins) and any(held.seq in self.pins for held in group.held)

    def _cost_of(self, summary: Summary | None) -> int:
        return self._count(summary.text) + 4 if summary is not None else 0
