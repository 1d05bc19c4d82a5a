"""What changes while an answer is made of it keeps the answer from being stored."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.answers.takings import TAKINGS_MAX, Takings
from memopt.base.answer_records import Answer, Cached, Made, Miss, MissReason, Use
from memopt.base.clock import ManualClock
from memopt.base.records import Selector, to_datetime
from memopt.memory import Memory

SCOPE = "acme/faq"
ASKED = "where does Ann live"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[Memory]:
    with memopt.open(
        tmp_path / "store", budget="64MiB", durability="os", maintenance_seconds=0,
        probe_seconds=0, ballast_bytes=0, clock=clock,
    ) as opened:  # fmt: skip
        yield opened
        assert opened.check().clean


def home(memory: Memory, where: str = "Oslo", **more: Any) -> str:
    subject = {"subject": "Ann", "attribute": "home"}
    return memory.remember(f"lives in {where}", scope=SCOPE, **subject, **more).item_id


def forget(memory: Memory, item: str) -> None:
    memory.forget(Selector(scope=SCOPE, items=(item,)))


CHANGES: list[Callable[[Memory, str], Any]] = [
    forget,
    lambda memory, item: memory.revise(item, "lives in Rome"),
    lambda memory, item: memory.end(item),
    lambda memory, item: home(memory, "Rome"),
    lambda memory, item: memory.answers.invalidate(scope=SCOPE, tags=["x"]),
    lambda memory, item: memory.answers.invalidate(scope=SCOPE, uses=[item]),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_while_an_answer_is_made(memory: Memory, change: Any) -> None:
    item = home(memory)

    def make() -> str:
        change(memory, item)
        return "Oslo"

    made = memory.answers.through(ASKED, make, scope=SCOPE, uses=[item], tags=["x"])
    assert isinstance(made, Made)
    assert (made.response, made.is_stored, made.miss.reason) == ("Oslo", False, MissReason.USES)
    assert not memory.answers.lookup(ASKED, scope=SCOPE)
    assert memory.answers.store(ASKED, "anew", scope=SCOPE, tags=["x"])
    assert memory.answers.lookup(ASKED, scope=SCOPE)


def test_what_others_change_keeps_no_answer_back(memory: Memory) -> None:
    item, other = home(memory), memory.remember("likes tea", scope=SCOPE).item_id

    def make() -> str:
        memory.revise(other, "likes milk")
        memory.answers.invalidate(scope="acme/else", tags=["x"])
        return "Oslo"

    made = memory.answers.through(ASKED, make, scope=SCOPE, uses=[item])
    assert isinstance(made, Made)
    assert made.is_stored
    assert memory.answers.lookup(ASKED, scope=SCOPE)


@pytest.mark.parametrize("change", [CHANGES[0], CHANGES[2], CHANGES[3]])
def test_what_is_gone_already_holds_no_answer(memory: Memory, change: Any) -> None:
    item = home(memory)
    change(memory, item)
    found = memory.answers.store(ASKED, "Oslo", scope=SCOPE, uses=[item])
    assert isinstance(found, Miss)
    assert found.reason is MissReason.USES
    assert item in found.detail
    assert not memory.answers.lookup(ASKED, scope=SCOPE)


def test_a_message_that_is_redacted_holds_no_answer(memory: Memory) -> None:
    session = memory.session("s", scope=SCOPE)
    session.extend([{"role": "user", "content": f"my dog is called Rex {n}"} for n in range(3)])
    by_seq = {h.spans[0].start: h.item_id for h in memory.recall("dog Rex", scope=SCOPE)}

    def make() -> str:
        session.redact(0)
        return "Rex"

    made = memory.answers.through("dog", make, scope=SCOPE, uses=[by_seq[0]])
    assert isinstance(made, Made)
    assert not made.is_stored
    assert isinstance(memory.answers.store("dog", "Rex", scope=SCOPE, uses=[by_seq[0]]), Miss)
    assert isinstance(memory.answers.store("dog", "Rex", scope=SCOPE, uses=[by_seq[1]]), Cached)


def test_an_answer_lives_no_longer_than_what_it_is_made_of(
    memory: Memory, clock: ManualClock
) -> None:
    until = to_datetime(clock.now_us()) + timedelta(hours=1)
    item = home(memory, valid_to=until)
    memory.answers.store(ASKED, "Oslo", scope=SCOPE, uses=[item])
    found = memory.answers.lookup(ASKED, scope=SCOPE)
    assert isinstance(found, Answer)
    assert found.expires_at == until
    clock.advance(3601)
    assert not memory.answers.lookup(ASKED, scope=SCOPE)


def test_what_began_before_all_that_is_known_counts_as_changed(memory: Memory) -> None:
    takings = Takings(memory._parts.committer, memory._parts.budget)
    begun = takings.begun()
    ours = [(Use.ITEM, 7, 0)]
    for number in range(TAKINGS_MAX):
        takings.took(Use.ITEM, 1000 + number, None)
    assert not takings.taken_since(begun, SCOPE, 1, ours, has_turns=True)
    takings.took(Use.ITEM, 5000, None)
    assert takings.taken_since(begun, SCOPE, 1, ours, has_turns=True)


def test_what_there_was_no_room_to_note_counts_as_changed(memory: Memory) -> None:
    budget = memory._parts.budget
    takings = Takings(memory._parts.committer, budget)
    begun = takings.begun()
    free = budget.free_bytes()
    budget.reserve("test", free)
    takings.took(Use.ITEM, 1, None)
    budget.release("test", free)
    assert takings.taken_since(begun, SCOPE, 1, [(Use.ITEM, 7, 0)], has_turns=False)
    budget.check()
