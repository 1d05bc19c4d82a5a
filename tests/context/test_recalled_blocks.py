"""What is recalled into a window: nothing that it shows already, and all the rest there is room
for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.sessions.session import context_at, open_output_at

ASKED: dict[str, Any] = {
    "max_tokens": 1000, "model": None, "tools": (), "reserve_tokens": 0, "query": "",
    "token_ids": False,
}  # fmt: skip


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(tmp_path / "store", budget="16MiB", durability="os") as opened:
        yield opened


def say(session: memopt.Session, *texts: str) -> None:
    session.extend([{"role": "user", "content": text} for text in texts])


def block_of(context: memopt.Context) -> str:
    return "".join(str(m["content"]) for m in context.messages if "<recalled>" in str(m["content"]))


def test_a_window_is_not_recalled_what_it_shows(memory: memopt.Memory) -> None:
    session, other = memory.session("s"), memory.session("other")
    say(other, "The gate code of the barn is 1234.")
    say(session, "The gate code of the house is 4711.", "What is the gate code?")
    block = block_of(session.context(max_tokens=2000))
    assert "1234" in block
    assert "4711" not in block


def test_a_fork_is_not_recalled_what_it_has_from_its_parent(memory: memopt.Memory) -> None:
    parent = memory.session("s")
    say(parent, "The gate code of the house is 4711.", "It is blue.")
    fork = parent.fork("f")
    say(fork, "What is the gate code?")
    assert block_of(fork.context(max_tokens=2000)) == ""
    other = memory.session("new")
    say(other, "What is the gate code?")
    assert "4711" in block_of(other.context(max_tokens=2000))


def test_what_a_parent_said_otherwise_since_is_recalled(memory: memopt.Memory) -> None:
    parent = memory.session("s")
    say(parent, "It is blue.", "The gate code of the house is 4711.")
    fork = parent.fork("f")
    parent.truncate(1)
    say(parent, "The gate code of the house is 9876.")
    say(fork, "What is the gate code?")
    block = block_of(fork.context(max_tokens=2000))
    assert "9876" in block
    assert "4711" not in block


def test_a_result_of_no_call_is_not_sent_but_recalled(memory: memopt.Memory) -> None:
    session = memory.session("s")
    say(session, "Hello")
    session.append({"role": "tool", "tool_call_id": "none", "content": "The gate code is 4711."})
    say(session, "What is the gate code?")
    context = session.context(max_tokens=2000)
    assert "4711" in block_of(context)
    assert not any(message["role"] == "tool" for message in context.messages)


def test_what_a_window_left_out_is_recalled(memory: memopt.Memory) -> None:
    session = memory.session("s")
    say(session, "The gate code of the house is 4711.")
    say(session, *(f"Line {at}: " + "nothing of interest here " * 8 for at in range(60)))
    say(session, "What is the gate code?")
    context = session.context(max_tokens=1000)
    assert "4711" in block_of(context)
    assert context.report.tokens <= 1000


def test_a_block_has_as_much_as_there_is_room_for(memory: memopt.Memory) -> None:
    for at in range(200):
        say(memory.session(f"s{at}"), f"On visit {at} the gate was painted in colour number {at}.")
    session = memory.session("new")
    say(session, "Hello")
    context = session.context(max_tokens=4000, query="gate painted colour")
    recalled = sum(s.tokens for s in context.report.sections if s.part == "recalled")
    assert 0.55 * 4000 <= recalled <= 4000
    assert len(context.report.recalled) > 100


def test_a_context_of_a_head_is_of_that_head(memory: memopt.Memory) -> None:
    session = memory.session("s")
    say(session, "One.", "Two.")
    old = session.head
    say(session, "Three.")
    longer = session.head
    session.truncate(1)
    say(session, "Other.", "More.")
    texts = {
        head: [m["content"] for m in context_at(session, head, **ASKED).messages]
        for head in (old, longer, session.head)
    }
    assert texts[old] == ["One.", "Two."]
    assert texts[longer] == ["One.", "Two.", "Three."]
    assert texts[session.head] == ["One.", "Other.", "More."]
    assert open_output_at(session, longer, "m1", 0, None).text == "Two."
    assert open_output_at(session, session.head, "m1", 0, None).text == "Other."


def test_a_compaction_by_who_has_gone_on_is_not_that_of_an_earlier_head(
    memory: memopt.Memory,
) -> None:
    session = memory.session("s")
    say(session, *(f"Line {at}: " + "nothing of interest here " * 8 for at in range(12)))
    old = session.head
    say(session, *(f"Line {at}: " + "nothing of interest here " * 8 for at in range(12, 60)))
    session.context(max_tokens=1000, query="")
    context = context_at(session, old, **ASKED)
    assert context.messages[-1]["content"].startswith("Line 11: ")


def test_a_head_of_another_session_is_refused(memory: memopt.Memory) -> None:
    one, other = memory.session("s"), memory.session("t", scope="elsewhere")
    say(one, "Mine.")
    say(other, "Yours.")
    with pytest.raises(memopt.NotFoundError):
        context_at(one, other.head, **ASKED)
    with pytest.raises(memopt.NotFoundError):
        open_output_at(one, other.head, "m0", 0, None)
