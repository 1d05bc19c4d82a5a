"""What is forgotten takes the answers with it that it was used for, and leaves no byte of them."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.records import Reach, RecordKind, Selector
from memopt.memory import Memory
from memopt.testing.search import search

SCOPE = "acme/team-of-quiet-people-4711"
"""So long because a text is searched by its halves, too."""
CHANCE = random.Random(3)


def canary(name: str) -> str:
    return f"{name}-" + "".join(CHANCE.choices("abcdefghijkmnpqrstuvwxyz23456789", k=26))


def ask(*said: str, system: str | None = None, **more: Any) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(said)
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    before = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*before, *turns]} | more


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with memopt.open(
        tmp_path / "store", budget="64MiB", durability="os", maintenance_seconds=0,
        probe_seconds=0, ballast_bytes=0,
    ) as opened:  # fmt: skip
        yield opened
        assert opened.check().clean


def places(memory: Memory, text: str) -> set[str]:
    return {finding.place for finding in search(memory.path, [text])}


class Planted:
    """An answer with a canary wherever a user can put a text, among others that stay."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.canaries = c = {
            name: canary(name)
            for name in ("question", "answer", "model", "tag", "kind", "system", "turn", "long")
        }
        words = " ".join(CHANCE.choices(["alpha", "beta", "gamma"], k=400))
        memory.answers.store(
            ask(f"what is {c['question']}", model=c["model"]),
            {"text": f"it is {c['answer']}", "more": f"{words} {c['long']}"},
            scope=SCOPE, tags=[c["tag"]], category=c["kind"],
        )  # fmt: skip
        memory.answers.store(ask("what is it", system=c["system"]), "a", scope=SCOPE)
        memory.answers.store(ask(c["turn"], "aha", "and then"), "b", scope=SCOPE)
        self.others = [ask("what is a page"), ask("what is a frame")]
        for request in self.others:
            memory.answers.store(request, "c", scope=SCOPE)
            memory.answers.store(request, "d", scope="acme/other")

    def check_others(self) -> None:
        for request in self.others:
            assert self.memory.answers.lookup(request, scope="acme/other")


KEPT = ("question", "answer", "model", "kind", "long")


def test_the_searcher_finds_every_canary_that_is_kept(memory: Memory) -> None:
    planted = Planted(memory)
    found = {name: places(memory, text) for name, text in planted.canaries.items()}
    assert all(found[name] for name in KEPT), found
    # What was said before the question is kept as a digest alone, and so is the name of a tag
    # beside the answers that have it.
    assert found["system"] == found["turn"] == set()


@pytest.mark.parametrize("name", [*KEPT, "tag", "system", "turn"])
def test_a_forgotten_text_leaves_no_answer_that_it_could_be_in(memory: Memory, name: str) -> None:
    planted = Planted(memory)
    selector = Selector(scope="acme", reach=Reach.SUBTREE, containing=planted.canaries[name])
    plan = memory.plan_forget(selector)
    receipt = memory.forget(selector)
    assert receipt.answers == plan.answers >= (3 if name in (*KEPT, "tag") else 2)
    memory.compact()
    assert places(memory, planted.canaries[name]) == set()
    for request in planted.others:
        assert memory.answers.lookup(request, scope=SCOPE)
    planted.check_others()


@pytest.mark.parametrize("field", ["documents", "context", "suffix", "prompt_of_mine"])
def test_a_field_that_is_not_known_may_hold_what_is_forgotten(memory: Memory, field: str) -> None:
    session = memory.session("s", scope=SCOPE)
    session.extend([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    request = ask("what is it", **{field: ["the word is bluebell"]})
    memory.answers.store(request, "a flower", scope=SCOPE)
    memory.forget(Selector(scope=SCOPE, containing="bluebell"))
    assert not memory.answers.lookup(request, scope=SCOPE)
    memory.answers.store(request, "a flower", scope=SCOPE)
    session.redact(0)
    assert not memory.answers.lookup(request, scope=SCOPE)


def test_a_forgotten_scope_leaves_no_byte_of_its_answers(memory: Memory) -> None:
    planted = Planted(memory)
    receipt = memory.forget(Selector(scope=SCOPE, whole_scope=True))
    assert receipt.answers == 5
    assert memory.answers.categories(scope=SCOPE) == []
    memory.compact()
    assert {name for name, text in planted.canaries.items() if places(memory, text)} == set()
    assert places(memory, SCOPE) == set()
    planted.check_others()


def test_answers_of_a_time_are_forgotten_with_it(memory: Memory) -> None:
    memory.answers.store(ask("one"), 1, scope=SCOPE)
    hit = memory.answers.lookup(ask("one"), scope=SCOPE)
    assert hit
    assert memory.forget(Selector(scope=SCOPE, until=hit.at)).answers == 0  # type: ignore[union-attr]
    assert memory.forget(Selector(scope=SCOPE, since=hit.at)).answers == 1  # type: ignore[union-attr]
    assert not memory.answers.lookup(ask("one"), scope=SCOPE)


def test_a_deleted_or_redacted_message_takes_its_answers(memory: Memory) -> None:
    session = memory.session("s", scope=SCOPE)
    session.extend([{"role": "user", "content": f"my dog is called Rex {n}"} for n in range(4)])
    used = [hit.item_id for hit in memory.recall("what is my dog called", scope=SCOPE)]
    assert len(used) == 4
    by_seq = {hit.spans[0].start: hit.item_id for hit in memory.recall("dog Rex", scope=SCOPE)}
    for seq in range(4):
        memory.answers.store(ask(f"dog {seq}"), "Rex", scope="acme/elsewhere", uses=[by_seq[seq]])
    memory.answers.store(ask("hello", "hi", "who am I"), "You", scope=SCOPE)
    memory.answers.store(ask("what is a page", system="be brief"), "A page", scope=SCOPE)
    session.redact(1)
    left = [n for n in range(4) if memory.answers.lookup(ask(f"dog {n}"), scope="acme/elsewhere")]
    assert left == [0, 2, 3]
    assert not memory.answers.lookup(ask("hello", "hi", "who am I"), scope=SCOPE)
    assert memory.answers.lookup(ask("what is a page", system="be brief"), scope=SCOPE)
    session.delete()
    assert not any(memory.answers.lookup(ask(f"dog {n}"), scope="acme/elsewhere") for n in range(4))
    assert memory.answers.lookup(ask("what is a page", system="be brief"), scope=SCOPE)


def test_a_newer_memory_of_the_same_takes_the_answers_of_the_older(memory: Memory) -> None:
    old = memory.remember("lives in Oslo", scope=SCOPE, subject="Ann", attribute="home")
    other = memory.remember("likes tea", scope=SCOPE, subject="Ann", attribute="drink")
    memory.answers.store(ask("where does Ann live"), "Oslo", scope=SCOPE, uses=[old.item_id])
    memory.answers.store(ask("what does Ann drink"), "Tea", scope=SCOPE, uses=[other.item_id])
    memory.pin(old.item_id)
    assert memory.answers.lookup(ask("where does Ann live"), scope=SCOPE)
    memory.remember("lives in Rome", scope=SCOPE, subject="Ann", attribute="home")
    assert not memory.answers.lookup(ask("where does Ann live"), scope=SCOPE)
    assert memory.answers.lookup(ask("what does Ann drink"), scope=SCOPE)


def test_what_is_taken_away_is_in_the_journal_without_a_word_of_it(memory: Memory) -> None:
    memory.answers.store(ask("one"), 1, scope=SCOPE, tags=["t"])
    lsn = memory.lsn
    memory.answers.invalidate(scope=SCOPE, tags=["t"])
    kinds = [record.kind for record in memory.journal(lsn)]
    assert kinds == [RecordKind.ANSWERS_DELETED]
    assert memory.lsn > lsn
