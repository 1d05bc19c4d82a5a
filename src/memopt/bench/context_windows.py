"""Every trajectory, in fifty windows: is what is sent always something that a provider takes?

Each trajectory is written down in two parts, and behind each part its context is asked for, in
windows from 300 to 64,000 tokens. Counted: calls that are sent without exactly one result behind
them and results without their call; and how often the newest finished exchange (a call and its
results, or an answer and the question before it) fits beside the system message and the newest
user message, and is not there. Counted by four characters a token. Not measured: time, and what is
recalled, for nothing is asked for.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from memopt.base.errors import ContextOverflowError
from memopt.base.records import Message
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.context_questions import FourthsTokenizer
from memopt.bench.data import Conversation, load, trajectories
from memopt.context.groups import INTERRUPTED_TOKENS
from memopt.context.payload import payload_of
from memopt.memory import Memory
from memopt.wiring import open_memory

WINDOWS: Final = tuple(round(300 * (64_000 / 300) ** (n / 49)) for n in range(50))
_SETS: Final = ("openhands", "tau_bench", "tau2_bench", "agentdojo", "intercode")
_QUICK_EVERY: Final = 50
_SUMMARY_SHARE: Final = 0.08
_OUTPUT_SHARE: Final = 1 / 16
_OUTPUT_TOKENS_MIN: Final = 64
_SLACK: Final = 40
"""Tokens that no message accounts for, such as what begins a reply."""
_NOTHING: Final = " "
"""As a query: recall nothing."""


class _Tally:
    def __init__(self) -> None:
        self.contexts = self.overflows = self.orphans = self.fitting = self.missing = 0


def run(options: BenchOptions) -> dict[str, Any]:
    paths = options.files or [trajectories(name) for name in _SETS]
    found = load(dict.fromkeys(paths))
    conversations = found[::_QUICK_EVERY] if options.quick else found
    tally = _Tally()
    with scratch(options) as directory, progress_bar("trajectories") as report:
        store = directory / "store"
        with open_memory(
            store, budget="256MiB", durability="os", tokenizer=FourthsTokenizer(), indexing="off"
        ) as memory:
            for number, conversation in enumerate(conversations):
                _play(memory, number, conversation, tally)
                report(number + 1, len(conversations))
    return {
        "trajectories": len(conversations),
        "of": len(found),
        "windows": len(WINDOWS),
        "contexts": tally.contexts,
        "overflows": tally.overflows,
        "orphans": tally.orphans,
        "exchanges_fitting": tally.fitting,
        "exchanges_missing": tally.missing,
    }


def _play(memory: Memory, number: int, conversation: Conversation, tally: _Tally) -> None:
    session = memory.session("run", scope=f"s{number}")
    half = len(conversation) // 2
    for start, stop in ((0, half), (half, len(conversation))):
        if start == stop:
            continue
        session.extend(conversation[start:stop])
        said = conversation[:stop]
        for window in WINDOWS:
            tally.contexts += 1
            exchange = _fitting(said, window)
            tally.fitting += exchange is not None
            try:
                messages = session.context(max_tokens=window, query=_NOTHING).messages
            except ContextOverflowError:
                tally.overflows += 1
                tally.missing += exchange is not None
                continue
            tally.orphans += orphans_in(messages)
            if exchange is not None:
                tally.missing += not any(
                    _is_same(exchange, message, window) for message in messages
                )


def orphans_in(messages: Sequence[Message]) -> int:
    """Calls without exactly one result right behind them, and results of no such call."""
    orphans = 0
    pending: list[str] = []
    for message in messages:
        if message.get("role") == "tool":
            if message.get("tool_call_id") in pending:
                pending.remove(message["tool_call_id"])
            else:
                orphans += 1
            continue
        orphans += len(pending)
        pending = [call["id"] for call in message.get("tool_calls") or ()]
    return orphans + len(pending)


def _fitting(said: Sequence[Message], window: int) -> Message | None:
    """The call or the answer of the newest finished exchange, where that fits."""
    at = _finished(said)
    if at is None:
        return None
    start = at - 1 if at and said[at - 1].get("role") == "user" else at
    rest = list(said[start:])
    users = [message for message in said[:start] if message.get("role") == "user"]
    if not any(message.get("role") == "user" for message in rest):
        rest += users[-1:]
    system = said[:1] if said[0].get("role") == "system" else ()
    waiting = sum(len(message.get("tool_calls") or ()) for message in rest)
    waiting -= sum(message.get("role") == "tool" for message in rest)
    room = window - int(window * _SUMMARY_SHARE) - _SLACK
    room -= INTERRUPTED_TOKENS * max(0, waiting)
    return said[at] if sum(_costs((*system, *rest), window)) <= room else None


def _finished(said: Sequence[Message]) -> int | None:
    """Where the newest answer is, or the newest call that has all its results behind it."""
    results = 0
    for at in range(len(said) - 1, -1, -1):
        message = said[at]
        if message.get("role") == "tool":
            results += 1
        elif message.get("role") == "assistant" or message.get("tool_calls"):
            # In some trajectories users call tools, too.
            calls = len(message.get("tool_calls") or ())
            if calls == results:
                return at
            results = 0
        else:
            results = 0
    return None


def _costs(messages: Sequence[Message], window: int) -> Iterator[int]:
    """At most, as they are sent: outputs are shortened."""
    for message in messages:
        payload = payload_of(message, "openai")
        tokens = len(payload.text) // 4 + 1
        if message.get("role") == "tool":
            tokens = min(tokens, max(int(window * _OUTPUT_SHARE), _OUTPUT_TOKENS_MIN) + 1)
        yield tokens + payload.extra


def _is_same(raw: Message, sent: Message, window: int) -> bool:
    """But for ids, which a call may be given, and for what is longer than an output in its
    arguments."""
    chars_max = 4 * max(int(window * _OUTPUT_SHARE), _OUTPUT_TOKENS_MIN)
    calls = [message.get("tool_calls") or () for message in (raw, sent)]
    functions = [[call["function"] for call in some] for some in calls]
    return (
        raw.get("content") == sent.get("content")
        and len(functions[0]) == len(functions[1])
        and all(
            one["name"] == other["name"]
            and (one["arguments"] == other["arguments"] or len(one["arguments"]) > chars_max)
            for one, other in zip(*functions, strict=True)
        )
    )


if __name__ == "__main__":
    raise SystemExit(main("context_windows", __doc__))
