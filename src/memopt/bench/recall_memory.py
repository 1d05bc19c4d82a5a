"""The same questions asked of a store: memories written as sessions, and recalled from.

Owns: how a memory of a set is written (a source is a session, a draft a message at its time) and
where a hit is in it. Not here: judging (evidence), and what is compared (recall).
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from memopt.base.records import Message, to_datetime
from memopt.bench.measure import LatencyHistogram
from memopt.bench.questions import Material, Question
from memopt.memory import Memory
from memopt.recall.entries import Draft, Role

Place = tuple[int, int]
"""(source, number of the message in it)"""

_ROLES: Final = {
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
    Role.HEADING: "heading",
}


def message_of(draft: Draft) -> Message:
    message: Message = {"content": draft.text}
    if draft.role in _ROLES:
        message["role"] = _ROLES[draft.role]
    if draft.speaker is not None:
        message["name"] = draft.speaker
    return message


def places_of(drafts: Iterable[Draft]) -> Iterator[Place]:
    """Where `write` puts each, in their order."""
    counts: dict[int, int] = {}
    for draft in drafts:
        place = counts.get(draft.source, 0)
        counts[draft.source] = place + 1
        yield draft.source, place


def write(memory: Memory, drafts: Iterable[Draft], scope: str) -> LatencyHistogram:
    """A session a source, which are numbered as they come; what each message took."""
    histogram = LatencyHistogram()
    for draft in drafts:
        session = memory.session(str(draft.source), scope=scope)
        message, at = message_of(draft), to_datetime(draft.at_us)
        begun_ns = time.perf_counter_ns()
        session.append(message, at=at)
        histogram.add(time.perf_counter_ns() - begun_ns)
    return histogram


def recalled(memory: Memory, question: Question, scope: str, **how: Any) -> list[Place]:
    """Where the hits are, best first."""
    hits = memory.recall(question.text, scope=scope, now=to_datetime(question.now_us), **how)
    return [(int(hit.spans[0].session), hit.spans[0].start) for hit in hits]


def drafts_of(materials: Sequence[Material]) -> Iterator[Draft]:
    """Of all of them, as if they were one memory."""
    for number, one in enumerate(materials):
        for draft in one.drafts:
            yield Draft(
                source=(number + 1 << 20) + draft.source, seq=draft.seq, at_us=draft.at_us,
                text=draft.text, role=draft.role, speaker=draft.speaker,
            )  # fmt: skip
