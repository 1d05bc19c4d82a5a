"""What is an agent sent, step by step, in a window of 8,000 tokens?

Every trajectory of a coding agent is played: before each of its answers it asks for its context, as
it would before a call of its model. Beside it, in the same pass, the same agent clips the oldest
half of its messages whenever they no longer fit (a sawtooth), and one sends everything (unmanaged).

Measured: tokens sent ÷ unmanaged; the share of tokens that a call has in common with the call
before it, from the beginning (what a prompt cache finds); outputs of tools that a later message
quotes, and whether, when it does, all that it quotes is in the window, or can be opened by a handle
that is in it; whether pinned messages are in every context; tokens that were encoded ÷ the
trajectory's. What is quoted are runs of six words that came into the conversation by that output.
Not measured: whether a model does as well with it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base.context_records import Context, Omission
from memopt.base.errors import ContextOverflowError
from memopt.base.records import Message
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.data import Conversation, load, trajectories
from memopt.context.calls import results_in
from memopt.context.estimating import Estimate
from memopt.context.handles import handle_in
from memopt.context.payload import payload_of
from memopt.memory import Memory
from memopt.sessions.session import Session
from memopt.wiring import open_memory

WINDOW: Final = 8_000
_QUOTE_WORDS: Final = 6
_WORD: Final = re.compile(r"\w+")
_HANDLE: Final = re.compile(r"\bm\d+(?:\.\d+)?\b")
_PIN_EVERY: Final = 25
_PIN_CHARS: Final = 800
_COUNT: Final = Estimate().count


class CountingTokenizer:
    """As many tokens as are estimated, and how many that were in all."""

    name: Final = "counting"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, text: str) -> Sequence[int]:
        found = _COUNT(text)
        self.encoded += found
        return range(found)


class Quote(NamedTuple):
    at: int
    """The message that quotes."""
    source: int
    """The output it quotes."""
    runs: frozenset[str]
    """Of words."""


class Sums:
    """Of one way to send."""

    def __init__(self) -> None:
        self.sent = self.shared = self.quotes = self.available = 0
        self._before: list[bytes] = []

    def begin(self) -> None:
        self._before = []

    def add(self, messages: Sequence[Message], costs: dict[bytes, int]) -> None:
        """A call; `costs` has what was counted, by message."""
        now = [msgspec.msgpack.encode(message) for message in messages]
        same = 0
        for one, other in zip(now, self._before, strict=False):
            if one != other:
                break
            same += 1
        self.sent += sum(costs[one] for one in now)
        self.shared += sum(costs[one] for one in now[:same])
        self._before = now


class Costs(dict[bytes, int]):
    """Tokens of messages, each counted once."""

    def __missing__(self, key: bytes) -> int:
        payload = payload_of(msgspec.msgpack.decode(key), "openai")
        self[key] = count = _COUNT(payload.text) + payload.extra
        return count


class Sawtooth:
    """Keeps messages until they no longer fit, then clips the oldest half of them."""

    def __init__(self, window: int, costs: Costs) -> None:
        self._window = window
        self._costs = costs
        self.messages: list[Message] = []

    def add(self, message: Message) -> None:
        self.messages.append(message)
        while self._tokens() > self._window and len(self.messages) > 1:
            first = 1 if self.messages[0].get("role") == "system" else 0
            rest = self.messages[first:]
            half = rest[-(-len(rest) // 2) :] if len(rest) > 1 else []
            # Providers refuse results without their call.
            named = {call["id"] for one in half for call in one.get("tool_calls") or ()}
            while half and results_in(half[0]) and half[0].get("tool_call_id") not in named:
                half = half[1:]
            self.messages = self.messages[:first] + half
            if not half:
                break

    def _tokens(self) -> int:
        return sum(self._costs[msgspec.msgpack.encode(message)] for message in self.messages)


def run(options: BenchOptions) -> dict[str, Any]:
    found = load(options.files or [trajectories("openhands")])
    conversations = found[:3] if options.quick else found
    costs = Costs()
    ours, clipped, whole = Sums(), Sums(), Sums()
    played = _Played()
    with scratch(options) as directory, progress_bar("trajectories") as report:
        tokenizer = CountingTokenizer()
        with open_memory(
            directory / "store", budget="256MiB", durability="os", tokenizer=tokenizer
        ) as memory:
            for number, conversation in enumerate(conversations):
                played.play(memory, number, conversation, costs, (ours, clipped, whole))
                report(number + 1, len(conversations))
    length = sum(costs[msgspec.msgpack.encode(message)] for one in conversations for message in one)
    return {
        "window": WINDOW,
        "trajectories": len(conversations),
        "calls": played.calls,
        "sent_share": ours.sent / whole.sent,
        "prefix_share": ours.shared / ours.sent,
        "compactions": played.compactions,
        "sawtooth": {
            "sent_share": clipped.sent / whole.sent,
            "prefix_share": clipped.shared / clipped.sent,
        },
        "quotes": ours.quotes,
        "quoted_available": ours.available / max(1, ours.quotes),
        "sawtooth_available": clipped.available / max(1, clipped.quotes),
        "available_ratio": ours.available / max(1, clipped.available),
        "quoted_in_window": played.in_window / max(1, ours.quotes),
        "pins": played.pins,
        "pins_missing": played.pins_missing,
        "overflows": played.overflows,
        "encoded_share": tokenizer.encoded / length,
        "tokens": length,
    }


class _Played:
    def __init__(self) -> None:
        self.calls = self.compactions = self.pins = self.pins_missing = self.overflows = 0
        self.in_window = 0

    def play(
        self, memory: Memory, number: int, conversation: Conversation, costs: Costs,
        sums: tuple[Sums, Sums, Sums],
    ) -> None:  # fmt: skip
        ours, clipped, whole = sums
        for one in sums:
            one.begin()
        session = memory.session("run", scope=f"agent-{number}")
        sawtooth = Sawtooth(WINDOW, costs)
        quotes: dict[int, list[Quote]] = {}
        for quote in quotes_in(conversation):
            quotes.setdefault(quote.at, []).append(quote)
        pinned: dict[int, str] = {}
        for at, message in enumerate(conversation):
            context = self._asked(session) if message.get("role") == "assistant" and at else None
            if context is not None:
                self.compactions += context.report.is_compacted
                ours.add(context.messages, costs)
                clipped.add(sawtooth.messages, costs)
                whole.add(conversation[:at], costs)
                self._quotes(quotes.get(at, ()), session, context, sawtooth, (ours, clipped))
                shown = {_content(message) for message in context.messages}
                self.pins += len(pinned)
                self.pins_missing += sum(text not in shown for text in pinned.values())
            session.append(message)
            sawtooth.add(message)
            text = _content(message)
            is_short = len(text) > 0 and len(msgspec.json.encode(message)) < _PIN_CHARS
            if message.get("role") == "assistant" and not at % _PIN_EVERY and is_short:
                session.pin(at)
                pinned[at] = text

    def _asked(self, session: Session) -> Context | None:
        try:
            context = session.context(max_tokens=WINDOW)
        except ContextOverflowError:
            self.overflows += 1
            return None
        self.calls += 1
        return context

    def _quotes(
        self, quotes: Sequence[Quote], session: Session, context: Context, sawtooth: Sawtooth,
        sums: tuple[Sums, Sums],
    ) -> None:  # fmt: skip
        if not quotes:
            return
        ours, clipped = sums
        shown = "\n".join(_texts(context.messages))
        runs, clipped_runs = runs_of(shown), runs_of("\n".join(_texts(sawtooth.messages)))
        for quote in quotes:
            in_window = quote.runs <= runs.keys()
            self.in_window += in_window
            ours.quotes += 1
            clipped.quotes += 1
            ours.available += in_window or _is_openable(session, context, shown, quote)
            clipped.available += quote.runs <= clipped_runs.keys()


def _is_openable(session: Session, context: Context, shown: str, quote: Quote) -> bool:
    """Whether the window names a handle by which an agent that looks gets the words."""
    named = {handle_in(found).seq for found in _HANDLE.findall(shown)}
    ranges = [
        (one.start, one.stop)
        for one in context.report.left_out
        if one.reason is Omission.SUMMARISED
    ]
    if quote.source not in named and not any(a <= quote.source < b for a, b in ranges):
        return False
    text, start, chars = "", 0, 1
    while start < chars:
        opened = session.open_output(f"m{quote.source}", start)
        text, start, chars = text + opened.text, opened.stop, opened.chars
    return quote.runs <= runs_of(text).keys()


def quotes_in(conversation: Conversation) -> Iterator[Quote]:
    """Words that came into a conversation by an output of a tool, and are written again, so many in
    a row, by a later message of the agent."""
    origin: dict[str, int] = {}
    for at, message in enumerate(conversation):
        runs = runs_of("\n".join(_texts([message])))
        if message.get("role") == "assistant":
            quoted: dict[int, list[str]] = {}
            for run in runs:
                source = origin.get(run, -1)
                if source >= 0:
                    quoted.setdefault(source, []).append(run)
            for source, found in quoted.items():
                yield Quote(at, source, frozenset(found))
        is_output = bool(results_in(message))
        for run in runs:
            # What somebody else said before is no tool's.
            origin.setdefault(run, at if is_output else -1)


def runs_of(text: str) -> dict[str, None]:
    """Every run of so many words."""
    words = _WORD.findall(text)
    return dict.fromkeys(
        " ".join(words[at : at + _QUOTE_WORDS]) for at in range(len(words) - _QUOTE_WORDS + 1)
    )


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    """Contents, and the arguments of calls as they read."""
    for message in messages:
        yield _content(message)
        for call in message.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            try:
                values = msgspec.json.decode(arguments)
            except ValueError:
                yield arguments
                continue
            for value in values.values() if isinstance(values, dict) else ():
                if isinstance(value, str):
                    yield value


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


if __name__ == "__main__":
    raise SystemExit(main("context", __doc__))
