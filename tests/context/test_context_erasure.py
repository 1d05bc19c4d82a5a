"""What is forgotten is in no byte of the store that contexts wrote: windows with their summaries,
recalled blocks, and what a model wrote, of which no message holds a word."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.testing.search import Finding, search
from waiting import until

SCOPE = "acme/ann"
CHANCE = random.Random(5)
CANARIES = {
    name: f"{name}-" + "".join(CHANCE.choices("abcdefghijkmnpqrstuvwxyz23456789", k=26)) + "7"
    for name in ("said", "answered", "argument", "output", "noted", "written", "pinned")
}
WINDOW = 4000
ROWS = {
    "said": "row of contexts, decoded", "answered": "row of contexts, decoded",
    "argument": "row of contexts, decoded", "output": "row of contexts, decoded",
    "noted": "row of contexts, decoded", "written": "row of contexts, decoded",
}  # fmt: skip


def summarize(before: str | None, messages: Sequence[Any], tokens: int) -> str:
    said = [text for text in CANARIES.values() if text in str(messages) or text in (before or "")]
    return f"It is about {' '.join(said)} and {CANARIES['written']}. " + "So it went on. " * 9


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="32MiB", durability="os", maintenance_seconds=0, ballast_bytes=0,
        summarizer=summarize,
    ) as opened:  # fmt: skip
        yield opened
        assert opened.check().clean


class Planted:
    """A session whose windows tell of every canary, and one beside it in another scope."""

    def __init__(self, memory: memopt.Memory) -> None:
        self.memory = memory
        self.item = memory.remember(f"the gate code is {CANARIES['noted']}", scope=SCOPE)
        self.session = memory.session("s", scope=SCOPE)
        self.other = memory.session("s", scope="acme/bob")
        arguments = f'{{"code": "{CANARIES["argument"]}"}}'
        for session in (self.session, self.other):
            session.append({"role": "system", "content": "Be brief."})
        self.session.extend(
            [
                {"role": "user", "content": f"My code word is {CANARIES['said']}."},
                call(0, arguments),
                {"role": "tool", "tool_call_id": "c0", "content": f"{CANARIES['output']} is it"},
                {"role": "assistant", "content": f"So it is {CANARIES['answered']}."},
                {"role": "user", "content": f"Keep {CANARIES['pinned']} in mind."},
            ]
        )
        self.session.pin(5)
        for session in (self.session, self.other):
            for step in range(75):
                session.extend([call(step + 1, "{}"), result(step + 1)])
                if step % 10 == 9:
                    session.append({"role": "user", "content": "What is the gate code?"})
                session.context(max_tokens=WINDOW)
                # It is given back once a summary is kept.
                until(lambda: not memory._parts.budget.held_bytes("summaries"))
        self.kept = self.other.context(max_tokens=WINDOW).messages

    def check_other(self) -> None:
        assert self.other.context(max_tokens=WINDOW).messages == self.kept


def call(number: int, arguments: str) -> dict[str, Any]:
    function = {"name": "run", "arguments": arguments}
    made = {"id": f"c{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [made]}


def result(number: int) -> dict[str, Any]:
    text = f"step {number}: " + "some words here " * 20
    return {"role": "tool", "tool_call_id": f"c{number}", "content": text}


def find(memory: memopt.Memory, names: Sequence[str]) -> dict[str, list[Finding]]:
    wanted = {CANARIES[name]: name for name in names}
    found: dict[str, list[Finding]] = {name: [] for name in names}
    for finding in search(memory.path, wanted):
        found[wanted[finding.text]].append(finding)
    return found


def assert_gone(memory: memopt.Memory, names: Sequence[str]) -> None:
    assert {name: found for name, found in find(memory, names).items() if found} == {}


def in_contexts(memory: memopt.Memory, names: Sequence[str]) -> set[str]:
    found = find(memory, names)
    return {name for name in names if any("row of contexts" in one.place for one in found[name])}


def test_the_searcher_finds_what_contexts_wrote(memory: memopt.Memory) -> None:
    Planted(memory)
    assert in_contexts(memory, list(ROWS)) == set(ROWS)


EVERYTHING: dict[str, Callable[[Planted], object]] = {
    "the session is deleted": lambda p: p.session.delete(),
    "the session is forgotten": lambda p: p.memory.forget(
        memopt.Selector(scope=SCOPE, session="s")
    ),
    "the scope is forgotten": lambda p: p.memory.forget(
        memopt.Selector(scope=SCOPE, whole_scope=True)
    ),
}


@pytest.mark.parametrize("way", EVERYTHING)
def test_what_contexts_wrote_goes_with_its_session(memory: memopt.Memory, way: str) -> None:
    planted = Planted(memory)
    EVERYTHING[way](planted)
    names = [name for name in CANARIES if name != "noted" or "scope" in way]
    with memory._parts.directory.home.snapshot() as tables:
        rows = tables.contexts.scan((-1, ""), 100)
        pins = tables.message_pins.scan((-1, 0), 100)
        other = tables.sessions.find("acme/bob", "s")
    assert other is not None
    assert {line for line, _ in rows} == {other.line}
    assert pins == []
    memory.compact()
    # The other session's model wrote that, too.
    names.remove("written")
    assert_gone(memory, names)
    planted.check_other()
    assert memory.check().clean


@pytest.mark.parametrize(
    ("name", "seq"), [("said", 1), ("argument", 2), ("output", 3), ("answered", 4), ("pinned", 5)]
)
def test_a_redacted_message_is_in_nothing_that_contexts_wrote(
    memory: memopt.Memory, name: str, seq: int
) -> None:
    planted = Planted(memory)
    planted.session.redact(seq)
    memory.compact()
    assert_gone(memory, [name])
    # What is made again tells of it no more, and the rest as before.
    for _ in range(2):
        text = str(planted.session.context(max_tokens=WINDOW).messages)
        until(lambda: not memory._parts.budget.held_bytes("summaries"))
        assert CANARIES[name] not in text
    memory.compact()
    assert_gone(memory, [name])
    assert all(find(memory, [other for other in ("said", "output") if other != name]).values())
    planted.check_other()


@pytest.mark.parametrize("name", ["said", "argument", "output", "answered", "pinned", "written"])
def test_a_forgotten_text_is_in_nothing_that_contexts_wrote(
    memory: memopt.Memory, name: str
) -> None:
    Planted(memory)
    memory.forget(
        memopt.Selector(scope="acme", reach=memopt.Reach.SUBTREE, containing=CANARIES[name])
    )
    memory.compact()
    assert_gone(memory, [name])


def test_a_forgotten_memory_is_in_no_recalled_block(memory: memopt.Memory) -> None:
    planted = Planted(memory)
    assert in_contexts(memory, ["noted"])
    memory.forget(memopt.Selector(scope=SCOPE, items=(planted.item.item_id,)))
    memory.compact()
    assert_gone(memory, ["noted"])
    planted.session.context(max_tokens=WINDOW)
    memory.compact()
    assert_gone(memory, ["noted"])
    planted.check_other()


def test_what_a_fork_was_told_goes_with_the_message_of_its_parent(memory: memopt.Memory) -> None:
    planted = Planted(memory)
    fork = planted.session.fork("f")
    for step in range(100, 160):
        fork.extend([call(step, "{}"), result(step)])
        fork.context(max_tokens=WINDOW)
        until(lambda: not memory._parts.budget.held_bytes("summaries"))
    planted.session.redact(1)
    memory.compact()
    assert_gone(memory, ["said"])
    planted.session.delete()
    assert "said-" not in str(fork.context(max_tokens=WINDOW).messages)


def test_a_summary_that_was_begun_before_is_not_kept_after(memory: memopt.Memory) -> None:
    """A model that writes while something is forgotten."""
    planted = Planted(memory)
    writer = memory._parts.contexts.writer
    written: list[bool] = []

    def forgets(before: str | None, messages: Sequence[Any], tokens: int) -> str:
        if not written:
            written.append(True)
            planted.session.redact(1)
        return f"It was {CANARIES['said']}."

    writer._summarizer = forgets
    for step in range(200, 260):
        planted.session.extend([call(step, "{}"), result(step)])
        planted.session.context(max_tokens=WINDOW)
        until(lambda: not memory._parts.budget.held_bytes("summaries"))
        if written:
            break
    assert written
    memory.compact()
    assert_gone(memory, ["said"])
