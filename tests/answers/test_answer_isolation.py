"""Nothing crosses a scope, however near a question of another one is."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import memopt
from memopt.base.answer_records import Answer
from memopt.base.records import Selector
from memopt.memory import Memory

SCOPES = ["acme", "acme/user-4", "acme/user-42", "acme/user-4/2", "acme0", "ACME/user-4", "%", "_"]
THINGS = [
    "the card", "my account", "a transfer", "the app", "my passcode", "a refund", "the statement",
    "my address", "the exchange rate", "a direct debit",
]  # fmt: skip
WAYS = [
    "How do I change {}?", "how can I change {}", "What is the way to change {}?",
    "Where do I see {}?", "Why can I not see {}?", "Is {} safe?", "how safe is {}",
]  # fmt: skip


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with memopt.open(
        tmp_path, budget="64MiB", durability="os", maintenance_seconds=0, probe_seconds=0
    ) as opened:
        yield opened
        assert opened.check().clean


def test_random_probes_get_answers_of_their_own_scope_alone(memory: Memory) -> None:
    chance = random.Random(5)
    answers = memory.answers
    for scope in SCOPES:
        # Whatever is near enough to be thought of is served.
        answers.set_category("general", scope=scope, wrong_share=1.0)
    held: dict[str, set[str]] = {scope: set() for scope in SCOPES}
    hits = 0
    for number in range(3000):
        scope = chance.choice(SCOPES)
        question = chance.choice(WAYS).format(chance.choice(THINGS))
        found = answers.lookup(question, scope=scope)
        if isinstance(found, Answer):
            hits += 1
            assert found.response["of"] == scope
            assert found.question in held[scope]
        if number % 4 == 0:
            answers.store(question, {"of": scope, "n": number % 9}, scope=scope)
            held[scope].add(question)
        if number % 500 == 499:
            gone = chance.choice(SCOPES)
            memory.forget(Selector(scope=gone, whole_scope=True))
            held[gone].clear()
            answers.set_category("general", scope=gone, wrong_share=1.0)
    assert hits > 500


def test_a_verdict_and_a_setting_are_of_one_scope(memory: Memory) -> None:
    for scope in ("a", "b"):
        memory.answers.set_category("general", scope=scope, wrong_share=0.3)
        memory.answers.store("What is the best way to lose weight?", "Walk.", scope=scope)
    hit = memory.answers.lookup("What are the best ways to lose weight?", scope="a")
    assert isinstance(hit, Answer)
    for _ in range(30):
        memory.answers.feedback(hit.answer_id, "wrong")
    [mine], [theirs] = (memory.answers.categories(scope=scope) for scope in ("a", "b"))
    assert mine.learnt_threshold > theirs.learnt_threshold
    assert theirs.wrong == 0
    assert memory.answers.lookup("What are the best ways to lose weight?", scope="b")
    assert memory.answers.invalidate(scope="a", category="general") == 1
    assert memory.answers.lookup("What is the best way to lose weight?", scope="b")
