"""The order in which many sessions are used: seeded, skewed, endless in size and small in memory.

Session i holds the messages of conversation i % n, marked with ` [i]` so that no two sessions share
text. A window of active sessions is drawn from with Zipf's skew (exponent 1): a few are busy, most
linger. Some sessions pause half-way, go cold, and come back later: that is a resume (the whole
session is read) followed by the rest of its messages. Finished and running sessions are resumed at
random as well.

Invariant: every message of every session is appended exactly once, in order, and only sessions that
hold a message are resumed; the same arguments give the same operations. Memory is O(active
sessions), so a harness needs no record of what it wrote: `expected` makes it anew.
Not here: running the operations, or timing them.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from memopt.base.records import Message
from memopt.bench.data import Conversation

SESSIONS_PER_SCOPE: Final = 20
"""Neighbouring sessions share a leaf scope, as the conversations of one user do."""

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})


class Append(NamedTuple):
    session: int
    message: int


class Resume(NamedTuple):
    session: int


Operation = Append | Resume


class Schedule:
    """Operations over `sessions` sessions whose lengths cycle through `lengths`.

    `active_max` sessions are in use at a time, and eight times as many (at most a sixteenth of all)
    may be paused. A session is paused once with probability `pause_share`, and after an append some
    earlier one is resumed with probability `resume_share`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        sessions: int,
        seed: int = 0,
        active_max: int = 256,
        pause_share: float = 0.25,
        resume_share: float = 0.03,
    ) -> None:
        assert sessions > 0
        assert active_max > 0
        assert min(lengths) > 0, "a session has at least one message"
        self._lengths = tuple(lengths)
        self.sessions = sessions
        self.seed = seed
        self._active_max = active_max
        self._paused_max = max(1, min(8 * active_max, sessions // 16))
        self._pause_share = pause_share
        self._resume_share = resume_share

    @property
    def message_count(self) -> int:
        """Appends in all."""
        cycles, rest = divmod(self.sessions, len(self._lengths))
        return cycles * sum(self._lengths) + sum(self._lengths[:rest])

    def length(self, session: int) -> int:
        """Messages of a session once everything is written."""
        return self._lengths[session % len(self._lengths)]

    def __iter__(self) -> Iterator[Operation]:
        # Only random() is drawn: its stream is the one Python promises to keep between versions.
        draw = random.Random(self.seed).random
        active: list[_Run] = []
        paused: list[_Run] = []
        started = 0
        while True:
            while len(active) < self._active_max:
                if paused and (len(paused) >= self._paused_max or started == self.sessions):
                    run = _taken(paused, int(draw() * len(paused)))
                    yield Resume(run.session)
                    active.append(run)
                elif started < self.sessions:
                    yield Append(started, 0)
                    run = self._begun(started, draw(), draw())
                    started += 1
                    if run.message < self.length(run.session):
                        active.append(run)
                else:
                    break
            if not active:
                return
            # A power of a uniform draw falls on rank r about as often as 1/r.
            slot = min(int((len(active) + 1) ** draw()), len(active)) - 1
            run = active[slot]
            yield Append(run.session, run.message)
            run.message += 1
            if run.message == self.length(run.session):
                _taken(active, slot)
            elif run.message == run.pause:
                paused.append(_taken(active, slot))
            if draw() < self._resume_share:
                yield Resume(int(draw() * started))

    def _begun(self, session: int, chance: float, where: float) -> "_Run":
        length = self.length(session)
        pauses = chance < self._pause_share and length > 2
        return _Run(session, pause=2 + int(where * (length - 2)) if pauses else 0)


class _Run:
    """A session in use: its next message, and before which one it pauses (0: it does not)."""

    __slots__ = ("message", "pause", "session")

    def __init__(self, session: int, *, pause: int) -> None:
        self.session = session
        self.message = 1
        self.pause = pause


def _taken(runs: list[_Run], index: int) -> _Run:
    runs[index], runs[-1] = runs[-1], runs[index]
    return runs.pop()


def session_id(session: int) -> str:
    return f"session-{session}"


def scope_of(session: int) -> str:
    """The leaf scope of a session; many of them, so that a tenant's dictionary has its five."""
    return f"replay/user-{session // SESSIONS_PER_SCOPE}"


def expected(conversations: Sequence[Conversation], session: int, message: int) -> Message:
    """What message `message` of session `session` is, made from the source."""
    return marked(conversations[session % len(conversations)][message], session)


def expected_session(conversations: Sequence[Conversation], session: int) -> Iterator[Message]:
    """All messages of a session, made from the source one by one."""
    for message in conversations[session % len(conversations)]:
        yield marked(message, session)


def marked(message: Message, session: int) -> Message:
    """A copy of a message whose text is this session's own; a system prompt is returned as it is.

    ` [session]` is appended to a content that is a string, an empty one too, or to every text part
    of a content that is a list. Where there is neither, it goes into the arguments of the tool
    calls (as a member `_session` when they are a JSON object, at the end otherwise), into a
    top-level `arguments` or `output` string, or, failing all that, into a field `_session`.
    """
    if message.get("role") in _SYSTEM_ROLES:
        return message
    mark = f" [{session}]"
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + mark}
    if isinstance(content, list) and any(_is_text(part) for part in content):
        return {**message, "content": [_marked_part(part, mark) for part in content]}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        return {**message, "tool_calls": [_marked_call(call, mark) for call in calls]}
    for field in ("arguments", "output"):
        text = message.get(field)
        if isinstance(text, str):
            return {**message, field: _marked_arguments(text, mark)}
    return {**message, "_session": mark}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _marked_part(part: Any, mark: str) -> Any:
    return {**part, "text": part["text"] + mark} if _is_text(part) else part


def _marked_call(call: Any, mark: str) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        arguments = _marked_arguments(function["arguments"], mark)
        return {**call, "function": {**function, "arguments": arguments}}
    return {**call, "_session": mark} if isinstance(call, dict) else call


def _marked_arguments(text: str, mark: str) -> str:
    """A member before the closing brace: parsing each one would cost as much as a write."""
    whole = text.strip()
    if not (whole.startswith("{") and whole.endswith("}")):
        return text + mark
    comma = ", " if whole[1:-1].strip() else ""
    return f'{whole[:-1]}{comma}"_session": "{mark}"}}'
