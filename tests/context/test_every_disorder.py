"""Every disorder of calls, in windows of all sizes, with pins, against rules of providers alone."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from disorders import Message, conversations, ids_of, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt
from memopt.context.calls import INTERRUPTED
from memopt.context.payload import payload_of
from memopt.context.tokens import Tokenizers

WHOLE = 1_000_000
SUMMARY_SHARE = 0.08
_numbers = itertools.count()


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[memopt.Memory]:
    path: Path = tmp_path_factory.mktemp("contexts")
    with memopt.open(path / "store", budget="32MiB", durability="os", indexing="off") as opened:
        yield opened


def cost(messages: list[Message]) -> int:
    count = Tokenizers(None).of(None).tokenizer.count
    payloads = [payload_of(message, "openai") for message in messages]
    return sum(count(payload.text) + payload.extra for payload in payloads)


def newest_finished(sent: list[Message]) -> int | None:
    """Where the newest finished exchange begins in what is sent of all messages."""
    at = len(sent) - 1
    while at >= 0:
        answered = bool(ids_of(sent[at])[1])
        if answered:
            start = at
            while start > 0 and (ids_of(sent[start])[1] or sent[start].get("type") == "reasoning"):
                start -= 1
            while start > 0 and (
                sent[start - 1].get("type") in ("function_call", "reasoning")
                and sent[start].get("type") == "function_call"
            ):
                start -= 1
            if INTERRUPTED not in str(sent[start : at + 1]):
                return start
            at = start - 1
        elif sent[at].get("role") == "assistant" and not ids_of(sent[at])[0]:
            start = at - 1 if at and sent[at - 1].get("type") == "reasoning" else at
            return start - 1 if start and sent[start - 1].get("role") == "user" and not ids_of(
                sent[start - 1]
            )[1] else start  # fmt: skip
        else:
            at -= 1
    return None


def names_of(message: Message) -> list[str]:
    """What tells it from others, however short it is sent."""
    made, answered = ids_of(message)
    ids = [f"call {_id(one)}" for one in made] + [f"result {_id(one)}" for one in answered]
    return ids or [str(message.get("content") or message)]


def _id(sent: str | None) -> str:
    """As it was said, or nearly: one that was used again is sent with a number behind it."""
    return re.sub(r"^(again\d?)_\d+$", r"\1", str(sent))


@settings(max_examples=25)
@given(
    conversations(),
    st.lists(st.integers(90, 3000), min_size=2, max_size=4),
    st.sets(st.integers(0, 30), max_size=2),
)
def test_what_is_sent_is_what_providers_take(
    memory: memopt.Memory,
    conversation: tuple[list[Message], bool],
    windows: list[int],
    pins: set[int],
) -> None:
    said, is_late = conversation
    session = memory.session("s", scope=f"n{next(_numbers)}")
    session.extend(said)
    for seq in pins:
        if seq < len(said):
            session.pin(seq)
    whole = session.context(max_tokens=WHOLE)
    sent = list(whole.messages)
    assert refused(sent) == []
    orphaned = {
        one.start for one in whole.report.left_out if one.reason is memopt.Omission.ORPHANED
    }
    for seq, message in enumerate(said):
        for mark in re.findall(r"r\d+\.\d: ", str(message)):
            assert mark in str(sent) or seq in orphaned
    kept = {one for message in sent for one in names_of(message)}
    start = None if is_late else newest_finished(sent)
    pinned = [h for h in whole.report.pinned if h.startswith("m")]
    for window in sorted(windows):
        try:
            context = session.context(max_tokens=window)
        except memopt.ContextOverflowError:
            assert start is None or not fits(sent, start, window, bool(pins))
            continue
        messages = list(context.messages)
        assert refused(messages) == []
        assert context.report.tokens <= window
        assert sum(section.tokens for section in context.report.sections) <= window
        assert messages == list(session.context(max_tokens=window).messages)
        assert set(pinned) <= set(context.report.pinned)
        shown = {one for message in messages for one in names_of(message)}
        users = [m for m in sent if m.get("role") == "user" and not ids_of(m)[1]]
        if users:
            assert names_of(users[-1])[0] in shown
        if start is not None and fits(sent, start, window, bool(pins)):
            for message in sent[start:]:
                assert set(names_of(message)) <= shown
        made = {one for one in shown if "<summary>" in one or "<recalled>" in one}
        assert shown - kept <= made


def fits(sent: list[Message], start: int, window: int, has_pins: bool) -> bool:
    """Whether everything from `start` on fits beside what has to be there anyway."""
    if has_pins:
        return False
    needed = [message for message in sent[:1] if message.get("role") == "system"]
    users = [m for m in sent[:start] if m.get("role") == "user" and not ids_of(m)[1]]
    later = any(m.get("role") == "user" and not ids_of(m)[1] for m in sent[start:])
    needed += [] if later else users[-1:]
    # A result that is not there is charged more than it takes.
    missing = str(sent[start:]).count(INTERRUPTED)
    room = window - int(window * SUMMARY_SHARE) - 8 - 32 * missing
    return cost([*needed, *sent[start:]]) <= room


@settings(max_examples=6)
@given(conversations(), st.integers(1, 8))
def test_a_fork_and_a_restart_send_the_same(
    tmp_path_factory: pytest.TempPathFactory, conversation: tuple[list[Message], bool], repeats: int
) -> None:
    path = tmp_path_factory.mktemp("again") / "store"
    try:
        with memopt.open(path, budget="16MiB", durability="os", indexing="off") as memory:
            session = memory.session("s")
            for turn in range(repeats):
                session.extend([*conversation[0], {"role": "user", "content": f"turn {turn}"}])
            first = session.context(max_tokens=1200)
    except memopt.ContextOverflowError:
        return
    with memopt.open(path, budget="16MiB", durability="os", indexing="off") as memory:
        session = memory.session("s")
        assert session.context(max_tokens=1200).messages == first.messages
        fork = session.fork("f")
        assert fork.context(max_tokens=1200).messages == first.messages
        session.delete()
        assert refused(list(fork.context(max_tokens=1200).messages)) == []
        memory._parts.sessions.contexts.counts.check()  # type: ignore[attr-defined]
