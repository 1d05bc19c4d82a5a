"""Which messages belong together: a call, everything called with it, and the results of all that.

Messages are added in the order in which they were said, and agents say them in every order: calls
in parallel, results late, twice, before their call, without an id, or never. A group is sent as
providers demand it: the calls, then exactly one result of each, in the order of the calls.

A result that came right before its call is sent behind it; where something else was said between
them it is none of that call, since a window may begin there.

Owns: which result answers which call. Invariant: every call that is sent has one result behind it,
every result that is sent has its call before it, and no two calls have one id. What fits neither is
an orphan: it is not sent, and it is not forgotten either. Not here: which groups are sent
(window.py).
"""

from collections.abc import Callable
from typing import Final

from memopt.base.records import Message
from memopt.context.calls import (
    Call,
    Form,
    Result,
    calls_in,
    interrupted,
    is_thought,
    results_in,
    with_call_id,
    with_result_id,
    without_parts,
)

INTERRUPTED_TOKENS: Final = 32
"""Of what is sent instead of a missing result, at most."""


class Held:
    """A message that may be sent."""

    __slots__ = ("message", "raw", "seq", "tokens")

    def __init__(self, seq: int, raw: Message, message: Message, tokens: int) -> None:
        self.seq = seq
        self.raw = raw
        """As it is stored."""
        self.message = message
        """As it is sent: its outputs may be shortened."""
        self.tokens = tokens


class Pair:
    """A call and its result."""

    __slots__ = ("call", "group", "held", "result", "result_held")

    def __init__(self, group: "Group", held: Held, call: Call) -> None:
        self.group = group
        self.held = held
        self.call = call
        self.result: Result | None = None
        self.result_held: Held | None = None


class Group:
    """Messages that are sent or left out together."""

    __slots__ = ("is_thoughts", "members", "pairs", "results")

    def __init__(self, held: Held) -> None:
        self.members = [held]
        """Thoughts, calls, or the one message that it is."""
        self.pairs: list[Pair] = []
        self.results: list[Held] = []
        self.is_thoughts = is_thought(held.raw)
        """Nothing but thoughts so far."""

    @property
    def held(self) -> list[Held]:
        return self.members + self.results

    @property
    def first(self) -> int:
        # A result may have come before its call.
        return min(held.seq for held in self.held)

    @property
    def tokens(self) -> int:
        if self.is_thoughts:
            return 0
        return sum(held.tokens for held in self.held) + INTERRUPTED_TOKENS * self.interrupted

    @property
    def is_user(self) -> bool:
        """A message of a user, and no result."""
        return not self.results and self.members[0].raw.get("role") == "user"

    @property
    def is_finished(self) -> bool:
        """All its calls have results; or it is an answer."""
        if self.pairs:
            return not self.interrupted
        return not self.is_user and not self.is_thoughts

    @property
    def interrupted(self) -> int:
        """Calls without a result."""
        return sum(pair.result_held is None for pair in self.pairs)

    def messages(self, used: set[str] | None = None) -> list[Message]:
        """As they are sent. `used`: ids of calls before them, which are not used again."""
        if self.is_thoughts:
            return []
        sent = {id(held): held.message for held in self.held}
        answers: dict[int, Message] = {}
        parts: list[Message] = []
        used = set() if used is None else used
        for pair in self.pairs:
            call, result, answer = pair.call, pair.result, pair.result_held
            call_id = _call_id(pair, used)
            if call_id != call.id and call.form is not Form.FUNCTION:
                sent[id(pair.held)] = with_call_id(sent[id(pair.held)], call, call_id)
            if answer is None or result is None:
                instead = interrupted(call, call_id)
                if call.form is Form.PART:
                    parts += instead["content"]
                else:
                    answers[id(pair)] = instead
                continue
            message = answers.get(id(answer), sent[id(answer)])
            if result.id != call_id and call.form is not Form.FUNCTION:
                message = with_result_id(message, result, call_id)
            answers[id(answer)] = message
        out = [sent[id(held)] for held in self.members]
        for message in answers.values():
            # Results among parts have to be in one message, and first in it.
            if parts and type(message.get("content")) is list:
                message, parts = {**message, "content": parts + message["content"]}, []
            out.append(message)
        if parts:
            out.insert(len(self.members), {"role": "user", "content": parts})
        return out


class Grouper:
    """Groups of messages, in the order in which they begin."""

    def __init__(self, on_answer: Callable[[Pair], None] = lambda pair: None) -> None:
        self._on_answer = on_answer
        """Told of a call that has a result now."""
        self.groups: list[Group] = []
        self.orphans: list[Held] = []
        """Results of nothing, and second ones."""
        self.strays: list[Held] = []
        """Messages that are sent without such results, which were among their parts."""
        self._early: list[Held] = []
        """Orphans that nothing came behind but results, thoughts and calls that belong together."""
        self._behind: set[str] = set()
        """Ids of calls whose result came right behind them: what follows with such an id is a
        second one, and not early."""
        self._open: dict[str, list[Pair]] = {}
        """Calls without a result, by id."""
        self._unnamed: list[Pair] = []
        """The same of those without an id that nothing but results came behind."""
        self._joinable: Group | None = None

    def add(self, held: Held) -> None:
        results = results_in(held.raw)
        if results:
            if self._joinable is not None:
                self._joinable, self._early = None, []
            self._add_results(held, results)
            return
        calls = calls_in(held.raw)
        group = self._join(held, calls)
        self._behind = set()
        if len(group.members) == 1:
            self._unnamed = []
        for call in calls:
            pair = Pair(group, held, call)
            group.pairs.append(pair)
            self._await(pair)
        self._add_early({call.id for call in calls})
        if self._joinable is None:
            self._early = []

    def drop(self, gone: int, pins: frozenset[int]) -> list[Group]:
        """Let the first groups go: nothing that comes later answers them, unless they are
        pinned."""
        dropped, self.groups = self.groups[:gone], self.groups[gone:]
        lost = {id(group) for group in dropped if not any(held.seq in pins for held in group.held)}
        self._unnamed = [pair for pair in self._unnamed if id(pair.group) not in lost]
        for call_id, pairs in list(self._open.items()):
            kept = [pair for pair in pairs if id(pair.group) not in lost]
            if kept:
                self._open[call_id] = kept
            else:
                del self._open[call_id]
        if self._joinable is not None and id(self._joinable) in lost:
            self._joinable = None
        return dropped

    def _join(self, held: Held, calls: list[Call]) -> Group:
        """The group of a message that is no result: items of one response stay together."""
        is_item = any(call.form is Form.ITEM for call in calls)
        group, thought = self._joinable, is_thought(held.raw)
        is_said = held.raw.get("role") in (None, "assistant")
        if group is not None and is_said and (is_item or thought or group.is_thoughts):
            group.members.append(held)
            group.is_thoughts = group.is_thoughts and thought
        else:
            group = Group(held)
            self.groups.append(group)
        self._joinable = group if thought or is_item else None
        return group

    def _await(self, pair: Pair) -> None:
        call_id = pair.call.id
        if call_id is None:
            self._unnamed.append(pair)
            return
        self._open.setdefault(call_id, []).append(pair)

    def _add_early(self, ids: set[str | None]) -> None:
        """Give calls that were just added the results that came before them."""
        for held in self._early.copy():
            results = results_in(held.raw)
            if any(result.id is not None and result.id in ids for result in results):
                self._early.remove(held)
                self.orphans.remove(held)
                self._add_results(held, results)

    def _add_results(self, held: Held, results: list[Result]) -> None:
        matched: list[tuple[Result, Pair | None]] = []
        for result in results:
            pair = self._match(result)
            if pair is not None:
                # At once: another result in this message must not find it open.
                pair.result = result
            matched.append((result, pair))
        strays = {result.at for result, pair in matched if pair is None}
        if all(pair is None for _, pair in matched):
            self._add_orphan(held, results, strays)
            return
        if strays:
            held.message = without_parts(held.message, strays)
            self.strays.append(held)
        for result, pair in matched:
            if pair is not None:
                moved = sum(at < result.at for at in strays)
                self._answer(pair, held, result._replace(at=result.at - moved))

    def _add_orphan(self, held: Held, results: list[Result], strays: set[int]) -> None:
        if results[0].at >= 0:
            # What else the message says is a user's.
            rest = without_parts(held.message, strays)
            if rest["content"]:
                held.message, held.raw = rest, without_parts(held.raw, strays)
                self.groups.append(Group(held))
                self.strays.append(held)
                self._early = []
                return
        self.orphans.append(held)
        if not any(result.id in self._behind for result in results):
            self._early.append(held)

    def _match(self, result: Result) -> Pair | None:
        """The newest call with its id, but for one without an id right before it; where the result
        has none, the first of those that wait, best by name."""
        pairs = self._open.get(result.id or "", [])
        if not pairs or pairs[-1].group is not self.groups[-1]:
            waiting = self._unnamed if result.id is not None else self._waiting()
            for pair in waiting:
                if result.name is None or pair.call.name == result.name:
                    self._take(pair)
                    return pair
        if not pairs:
            return None
        # Of several calls with one id in one message, the first.
        newest = pairs[-1].held
        found = next(pair for pair in pairs if pair.held is newest)
        self._take(found)
        return found

    def _waiting(self) -> list[Pair]:
        """Calls without a result of the newest group that has any."""
        for group in reversed(self.groups):
            open_pairs = [pair for pair in group.pairs if pair.result is None]
            if open_pairs:
                return open_pairs
        return []

    def _take(self, pair: Pair) -> None:
        if pair.call.id is None:
            self._unnamed = [other for other in self._unnamed if other is not pair]
            return
        self._open[pair.call.id].remove(pair)
        if not self._open[pair.call.id]:
            del self._open[pair.call.id]

    def _answer(self, pair: Pair, held: Held, result: Result) -> None:
        group = pair.group
        pair.result, pair.result_held = result, held
        if held.seq > pair.held.seq and pair.call.id is not None:
            self._behind.add(pair.call.id)
        other = self._owner_of(held)
        if other is not None and other is not group:
            group = self._merge(other, group)
        if held not in group.results:
            group.results.append(held)
        self._on_answer(pair)

    def _owner_of(self, held: Held) -> Group | None:
        """Who has a result of this message already."""
        for group in reversed(self.groups):
            if held in group.results:
                return group
        return None

    def _merge(self, one: Group, other: Group) -> Group:
        """One message answers calls of both: they go together."""
        first, second = sorted((one, other), key=lambda group: group.first)
        for pair in second.pairs:
            pair.group = first
        first.members += second.members
        first.pairs += second.pairs
        first.results += [held for held in second.results if held not in first.results]
        self.groups.remove(second)
        return first


def _call_id(pair: Pair, used: set[str]) -> str:
    """That of the call, of its result, or a new one; no two of a group are the same."""
    wanted = pair.call.id or (pair.result.id if pair.result is not None else None)
    wanted = wanted or f"call_{pair.held.seq}_{pair.call.at}"
    call_id, n = wanted, 1
    while call_id in used:
        n += 1
        call_id = f"{wanted}_{n}"
    used.add(call_id)
    return call_id
