"""The verbs of memory.answers: what is served, what is not, and why."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.answer_records import Answer, Cached, Made, Match, Miss, MissReason, Verdict
from memopt.base.clock import ManualClock
from memopt.base.errors import NotFoundError, UsageError
from memopt.memory import Memory

SCOPE = "acme/faq"
SETTINGS: dict[str, Any] = {
    "budget": "64MiB", "durability": "os", "maintenance_seconds": 0, "probe_seconds": 0,
    "ballast_bytes": 0,
}  # fmt: skip


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[Memory]:
    with memopt.open(tmp_path / "store", clock=clock, **SETTINGS) as opened:
        yield opened
        if not opened._closed:
            opened._parts.answers._parts.residents.check()
            opened._parts.budget.check()
            assert opened.check().clean


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | more


def served(found: Answer | Miss) -> Answer:
    assert isinstance(found, Answer), found
    return found


def missed(found: Answer | Miss) -> Miss:
    assert isinstance(found, Miss), found
    return found


def stored(found: Cached | Miss) -> Cached:
    assert isinstance(found, Cached), found
    return found


# -- equal requests -------------------------------------------------------------------------------


def test_an_equal_request_gets_its_answer(memory: Memory) -> None:
    answers = memory.answers
    assert missed(answers.lookup(ask("Why?"), scope=SCOPE)).reason is MissReason.EMPTY
    cached = stored(answers.store(ask("Why?"), {"content": "Because."}, scope=SCOPE))
    assert (cached.category, cached.evicted) == ("general", 0)
    found = served(answers.lookup(ask("Why?", stream=False, user="u"), scope=SCOPE))
    assert found.response == {"content": "Because."}
    assert (found.match, found.distance, found.score) == (Match.EXACT, 0.0, 1.0)
    assert (found.model, found.question, found.chunks) == ("m", "Why?", ())
    assert "same request" in found.why
    assert not missed(answers.lookup(ask("Why?", model="n"), scope=SCOPE))


def test_an_answer_to_an_equal_request_is_replaced(memory: Memory) -> None:
    for text in ("one", "two"):
        memory.answers.store(ask("Which one is it today?"), text, scope=SCOPE)
    found = memory.answers.lookup(ask("Which one is it today?"), scope=SCOPE)
    assert served(found).response == "two"
    [category] = memory.answers.categories(scope=SCOPE)
    assert category.answers == 1


def test_what_is_not_cached_unless_it_is_asked_for(memory: Memory) -> None:
    request = ask("Tell me a story about a fox", temperature=0.9)
    found = memory.answers.store(request, "Once", scope=SCOPE)
    assert isinstance(found, Miss)
    assert found.reason is MissReason.TEMPERATURE
    assert memory.answers.categories(scope=SCOPE) == []
    stored(memory.answers.store(request, "Once", scope=SCOPE, allow=["temperature"]))
    assert missed(memory.answers.lookup(request, scope=SCOPE)).reason is MissReason.TEMPERATURE
    found_again = memory.answers.lookup(request, scope=SCOPE, allow=[MissReason.TEMPERATURE])
    assert served(found_again).response == "Once"


def test_answers_are_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    with memopt.open(tmp_path, **SETTINGS) as memory:
        memory.answers.store(ask("What is a page table?"), "A map.", scope=SCOPE)
        memory.answers.set_category("law", scope=SCOPE, wrong_share=0.2)
    with memopt.open(tmp_path, **SETTINGS) as memory:
        assert served(memory.answers.lookup(ask("What is a page table?"), scope=SCOPE))
        near = served(memory.answers.lookup(ask("what is a PAGE TABLE"), scope=SCOPE))
        assert near.match is Match.WORDS
        assert [kind.name for kind in memory.answers.categories(scope=SCOPE)] == ["general", "law"]
        assert memory.check().answers == 1


# -- questions that are near ----------------------------------------------------------------------


def test_the_same_words_are_the_same_question(memory: Memory) -> None:
    memory.answers.store(ask("How do I reset my password?"), "So.", scope=SCOPE)
    found = served(memory.answers.lookup(ask("how do i reset my password"), scope=SCOPE))
    assert (found.match, found.score, found.response) == (Match.WORDS, 1.0, "So.")
    assert found.question == "How do I reset my password?"
    assert all(check.passed for check in found.checks)
    assert found.distance == pytest.approx(0.0, abs=0.01)
    assert "same words" in found.why


def test_another_number_is_another_question(memory: Memory) -> None:
    memory.answers.set_category("general", scope=SCOPE, wrong_share=1.0)
    memory.answers.store(ask("How do I send 100 dollars to Oslo?"), "So.", scope=SCOPE)
    found = missed(memory.answers.lookup(ask("How do I send 900 dollars to Oslo?"), scope=SCOPE))
    assert found.reason is MissReason.CHECK
    assert found.question == "How do I send 100 dollars to Oslo?"
    assert [check.name for check in found.checks if not check.passed] == ["numbers"]
    assert "100 / 900" in found.detail or "900 / 100" in found.detail


def test_a_threshold_decides_about_a_question_in_other_words(memory: Memory) -> None:
    memory.answers.store(ask("How can I improve my English writing skills?"), "Read.", scope=SCOPE)
    asked = ask("How do I improve my writing skills in English?")
    far = missed(memory.answers.lookup(asked, scope=SCOPE))
    assert far.reason is MissReason.FAR
    assert far.threshold == pytest.approx(0.99)
    memory.answers.set_category("general", scope=SCOPE, wrong_share=0.3)
    near = served(memory.answers.lookup(asked, scope=SCOPE))
    assert near.match is Match.QUESTION
    assert near.threshold == pytest.approx(0.7)
    assert near.threshold <= near.score < 0.99
    assert near.response == "Read."
    memory.answers.set_category("general", scope=SCOPE, wrong_share=0.3, threshold=0.999)
    assert not memory.answers.lookup(asked, scope=SCOPE)


CARD = [
    "Where is my new card?", "My new card has not arrived yet", "Has my new card been sent?",
    "When will my new card arrive?", "I am still waiting for my new card",
    "How long until my new card arrives?", "The new card did not arrive",
]  # fmt: skip
TOP_UP = [
    "How do I top up by bank transfer?", "Can I top up with a transfer from my bank?",
    "Top up with my bank account", "What does it cost to top up by transfer?",
]  # fmt: skip


def test_neighbours_with_one_answer_speak_for_it(memory: Memory) -> None:
    for question in CARD[:-1]:
        memory.answers.store(ask(question), "It takes a week.", scope=SCOPE)
    for question in TOP_UP:
        memory.answers.store(ask(question), "By transfer.", scope=SCOPE)
    memory.answers.set_category("general", scope=SCOPE, wrong_share=0.05)
    found = served(memory.answers.lookup(ask("When does my new card arrive?"), scope=SCOPE))
    assert found.match is Match.NEIGHBOURS
    assert found.response == "It takes a week."
    assert found.score >= 0.95


def test_only_answers_of_the_same_context_are_compared(tmp_path: Path, memory: Memory) -> None:
    polite = ask("What is a page table?", system="be polite")
    memory.answers.store(polite, "A map, please.", scope=SCOPE)
    other = ask("what is a page TABLE", system="be rude")
    assert missed(memory.answers.lookup(other, scope=SCOPE)).reason is MissReason.CONTEXT
    same = ask("what is a page TABLE", system="be polite")
    assert served(memory.answers.lookup(same, scope=SCOPE)).match is Match.WORDS
    settings = SETTINGS | {"answer_context": "any"}
    with memopt.open(tmp_path / "any", **settings) as loose:
        loose.answers.store(polite, "A map, please.", scope=SCOPE)
        assert served(loose.answers.lookup(other, scope=SCOPE)).match is Match.WORDS


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, MissReason.QUESTION),
        (ask("long " * 2000), MissReason.QUESTION),
        (ask("\u2603 \u2603"), MissReason.QUESTION),
        (ask("Which bird flies highest?"), MissReason.FAR),
    ],
)
def test_a_miss_says_why(memory: Memory, request_: Any, reason: MissReason) -> None:
    memory.answers.store(ask("What is a page table?"), "A map.", scope=SCOPE)
    assert missed(memory.answers.lookup(request_, scope=SCOPE)).reason is reason
    # An equal request is found all the same.
    memory.answers.store(request_, "as it is", scope=SCOPE)
    assert served(memory.answers.lookup(request_, scope=SCOPE)).response == "as it is"


def test_without_an_embedder_only_equal_requests_are_found(tmp_path: Path) -> None:
    with memopt.open(tmp_path, embedder="off", **SETTINGS) as memory:
        memory.answers.store(ask("What is a page table?"), "A map.", scope=SCOPE)
        assert served(memory.answers.lookup(ask("What is a page table?"), scope=SCOPE))
        found = missed(memory.answers.lookup(ask("what is a page table"), scope=SCOPE))
        assert found.reason is MissReason.EMBEDDER


# -- time -----------------------------------------------------------------------------------------


def test_answers_expire(memory: Memory, clock: ManualClock) -> None:
    memory.answers.set_category("news", scope=SCOPE, ttl_seconds=60, stale_seconds=20)
    stored(memory.answers.store(ask("What is new?"), "Much.", scope=SCOPE, category="news"))
    found = served(memory.answers.lookup(ask("What is new?"), scope=SCOPE))
    assert not found.is_stale
    assert found.expires_at == found.at + timedelta(seconds=60)
    clock.advance(30)
    assert served(memory.answers.lookup(ask("What is new?"), scope=SCOPE)).is_stale
    assert served(memory.answers.lookup(ask("what is NEW"), scope=SCOPE)).is_stale
    clock.advance(31)
    assert missed(memory.answers.lookup(ask("What is new?"), scope=SCOPE)).reason is (
        MissReason.EXPIRED
    )
    assert not memory.answers.lookup(ask("what is NEW"), scope=SCOPE)
    assert memory._parts.answers.expire() == 1
    assert memory.answers.categories(scope=SCOPE)[0].answers == 0


def test_a_shorter_life_counts_for_what_is_stored_already(
    memory: Memory, clock: ManualClock
) -> None:
    memory.answers.store(ask("What is new?"), "Much.", scope=SCOPE)
    clock.advance(50)
    memory.answers.set_category("general", scope=SCOPE, ttl_seconds=40)
    assert not memory.answers.lookup(ask("What is new?"), scope=SCOPE)
    assert not memory.answers.lookup(ask("what is NEW"), scope=SCOPE)


def test_yesterdays_answer_is_not_todays(memory: Memory, clock: ManualClock) -> None:
    memory.answers.store(ask("What happened yesterday?"), "Rain.", scope=SCOPE)
    assert memory.answers.lookup(ask("what happened YESTERDAY"), scope=SCOPE)
    clock.advance(86400)
    found = missed(memory.answers.lookup(ask("what happened YESTERDAY"), scope=SCOPE))
    assert "dates" in found.detail
    same = missed(memory.answers.lookup(ask("What happened yesterday?"), scope=SCOPE))
    assert same.reason is MissReason.EXPIRED
    memory.answers.store(ask("What happened yesterday?"), "Sun.", scope=SCOPE)
    found_again = memory.answers.lookup(ask("What happened yesterday?"), scope=SCOPE)
    assert served(found_again).response == "Sun."


# -- quotas ---------------------------------------------------------------------------------------


def test_a_category_has_no_more_answers_than_it_may(memory: Memory) -> None:
    memory.answers.set_category("few", scope=SCOPE, answers_max=3)
    for number in range(3):
        memory.answers.store(ask(f"question {number}"), number, scope=SCOPE, category="few")
    assert memory.answers.lookup(ask("question 0"), scope=SCOPE)
    cached = stored(memory.answers.store(ask("question 3"), 3, scope=SCOPE, category="few"))
    assert cached.evicted == 1
    left = [n for n in range(4) if memory.answers.lookup(ask(f"question {n}"), scope=SCOPE)]
    # The one that was served lately is passed over once.
    assert left == [0, 2, 3]


def test_a_scope_has_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    with memopt.open(tmp_path, answer_bytes_max=40_000, **SETTINGS) as memory:
        import random

        chance = random.Random(1)
        for number in range(30):
            text = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=4000))
            kind = "odd" if number % 2 else "even"
            memory.answers.store(ask(f"question {number}"), text, scope=SCOPE, category=kind)
            kinds = memory.answers.categories(scope=SCOPE)
            assert sum(one.size_bytes for one in kinds) <= 40_000
        assert memory.answers.lookup(ask("question 29"), scope=SCOPE)
        assert not memory.answers.lookup(ask("question 0"), scope=SCOPE)
        with pytest.raises(UsageError, match="40000"):
            memory.answers.store(ask("too much"), list(range(60_000)), scope=SCOPE)
        assert memory.check().clean


# -- streams --------------------------------------------------------------------------------------

CHUNKS = [
    {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    for text in ("Hel", "lo")
]


def test_a_stream_is_replayed_as_a_stream(memory: Memory) -> None:
    memory.answers.store(ask("Say hello", stream=True), CHUNKS, scope=SCOPE)
    found = served(memory.answers.lookup(ask("Say hello", stream=True), scope=SCOPE))
    assert (list(found.chunks), found.response) == (CHUNKS, None)
    whole = served(memory.answers.lookup(ask("Say hello"), scope=SCOPE))
    assert whole.response["choices"][0]["message"]["content"] == "Hello"
    assert whole.chunks == ()


def test_what_cannot_be_turned_into_the_other_form_says_so(memory: Memory) -> None:
    memory.answers.store(ask("Say hello"), {"text": "Hello"}, scope=SCOPE)
    found = missed(memory.answers.lookup(ask("Say hello", stream=True), scope=SCOPE))
    assert found.reason is MissReason.FORM
    memory.answers.store(ask("Say bye", stream=True), [{"text": "Bye"}], scope=SCOPE)
    assert missed(memory.answers.lookup(ask("Say bye"), scope=SCOPE)).reason is MissReason.FORM


# -- feedback -------------------------------------------------------------------------------------


def test_a_wrong_near_hit_is_not_made_again(memory: Memory) -> None:
    memory.answers.set_category("general", scope=SCOPE, wrong_share=0.3)
    memory.answers.store(ask("How can I improve my English writing skills?"), "Read.", scope=SCOPE)
    asked = ask("How do I improve my writing skills in English?")
    hit = served(memory.answers.lookup(asked, scope=SCOPE))
    kind = memory.answers.feedback(hit.answer_id, Verdict.WRONG)
    assert (kind.right, kind.wrong) == (0, 1)
    assert not memory.answers.lookup(asked, scope=SCOPE)
    exact = ask("How can I improve my English writing skills?")
    assert memory.answers.lookup(exact, scope=SCOPE)


def test_verdicts_raise_the_threshold_and_never_lower_it(memory: Memory) -> None:
    answers = memory.answers
    before = answers.set_category("general", scope=SCOPE, wrong_share=0.3).learnt_threshold
    questions = [
        ("How can I improve my English writing skills?",
         "How do I improve my writing skills in English?"),
        ("What are the best ways to lose weight?", "What is the best way to lose weight?"),
        ("How do I learn to play the piano?", "How can I learn to play piano?"),
    ]  # fmt: skip
    for one, other in questions:
        answers.store(ask(one), one, scope=SCOPE)
        hit = served(answers.lookup(ask(other), scope=SCOPE))
        assert answers.feedback(hit.answer_id, "right").learnt_threshold == before
    for _ in range(40):
        after = answers.feedback(hit.answer_id, "wrong")
    assert after.learnt_threshold > before
    assert after.wrong == 40
    strict = answers.categories(scope=SCOPE)[0].learnt_threshold
    assert strict == after.learnt_threshold
    # What one kind of questions has taught holds for all of the scope.
    assert answers.set_category("other", scope=SCOPE).learnt_threshold >= strict


def test_a_stale_answer_and_a_wrong_one_to_an_equal_request_go(memory: Memory) -> None:
    for verdict in ("stale", "wrong"):
        memory.answers.store(ask("What is new?"), "Much.", scope=SCOPE)
        hit = served(memory.answers.lookup(ask("What is new?"), scope=SCOPE))
        kind = memory.answers.feedback(hit.answer_id, verdict)
        assert (kind.answers, kind.right, kind.wrong) == (0, 0, 0)
        assert not memory.answers.lookup(ask("What is new?"), scope=SCOPE)


@pytest.mark.parametrize("answer_id", ["", "a", "a1.1.e0.0", "x1.1.e0.1f", 17, None, "a1.1"])
def test_feedback_needs_the_id_of_a_hit(memory: Memory, answer_id: Any) -> None:
    with pytest.raises(UsageError) as raised:
        memory.answers.feedback(answer_id, "right")
    assert raised.value.field == "answer_id"


def test_feedback_on_what_is_nowhere_says_so(memory: Memory, tmp_path: Path) -> None:
    hit_id = stored(memory.answers.store(ask("Why?"), "So.", scope=SCOPE)).answer_id
    with (
        memopt.open(tmp_path / "other", **SETTINGS) as other,
        pytest.raises(NotFoundError, match="no answer"),
    ):
        other.answers.feedback(hit_id, "right")


# -- taking away ----------------------------------------------------------------------------------


def test_answers_are_taken_away_by_what_is_true_of_them(memory: Memory, clock: ManualClock) -> None:
    answers = memory.answers
    item = memory.remember("It is blue.", scope=SCOPE)

    def fill() -> None:
        answers.store(ask("one"), 1, scope=SCOPE, tags=["t"])
        clock.advance(10)
        answers.store(ask("two", model="n"), 2, scope=SCOPE, uses=[item.item_id])
        clock.advance(10)
        answers.store(ask("three"), 3, scope=SCOPE, category="c")
        answers.store(ask("one"), 1, scope="acme/other", tags=["t"], uses=[item.item_id])

    def left() -> list[str]:
        asks = {"one": ask("one"), "two": ask("two", model="n"), "three": ask("three")}
        return [name for name, request in asks.items() if answers.lookup(request, scope=SCOPE)]

    fill()
    for how, expected in [
        ({"tags": ["t"]}, ["two", "three"]),
        ({"uses": [item.item_id]}, ["one", "three"]),
        ({"model": "n"}, ["one", "three"]),
        ({"category": "c"}, ["one", "two"]),
        ({"tags": ["t"], "model": "n"}, ["one", "two", "three"]),
        ({"category": "nowhere"}, ["one", "two", "three"]),
    ]:
        assert left() == ["one", "two", "three"]
        gone = answers.invalidate(scope=SCOPE, **how)  # type: ignore[arg-type]
        assert gone == 3 - len(expected)
        assert left() == expected
        fill()
    clock.advance(10)
    answers.store(ask("three"), 3, scope=SCOPE)
    moment = served(answers.lookup(ask("three"), scope=SCOPE)).at
    assert answers.invalidate(scope=SCOPE, before=moment) == 2
    assert left() == ["three"]
    assert answers.lookup(ask("one"), scope="acme/other")
    assert answers.invalidate(scope="acme/nowhere", tags=["t"]) == 0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda a: a.invalidate(scope=SCOPE), "uses"),
        (lambda a: a.invalidate(scope=SCOPE, before="today"), "before"),
        (lambda a: a.invalidate(scope=SCOPE, uses="i1"), "uses"),
        (lambda a: a.store("q", "r", scope=SCOPE, uses=["nothing"]), "uses[0]"),
        (lambda a: a.store("q", "r", scope=SCOPE, tags=["ok", ""]), "tags[1]"),
        (lambda a: a.store("q", float("nan"), scope=SCOPE), "response"),
        (lambda a: a.store("q", [], scope=SCOPE), "response"),
        (lambda a: a.store("q", "r", scope="/"), "scope"),
        (lambda a: a.store("q", "r", scope=SCOPE, category=""), "category"),
        (lambda a: a.lookup("q", scope=SCOPE, allow=["everything"]), "allow[0]"),
        (lambda a: a.lookup("q", scope=SCOPE, allow="tools"), "allow"),
        (lambda a: a.feedback("a1", "maybe"), "verdict"),
        (lambda a: a.set_category("c", scope=SCOPE, wrong_share=0), "wrong_share"),
        (lambda a: a.set_category("c", scope=SCOPE, threshold=2), "threshold"),
        (lambda a: a.set_category("c", scope=SCOPE, ttl_seconds="1h"), "ttl_seconds"),
        (lambda a: a.set_category("c", scope=SCOPE, answers_max=1.5), "answers_max"),
        (lambda a: a.through("q", 17, scope=SCOPE), "make"),
        (lambda a: a.through("q", dict, scope=SCOPE, wait_seconds=-1), "wait_seconds"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_by_field(memory: Memory, call: Any, field: str) -> None:
    with pytest.raises(UsageError) as raised:
        call(memory.answers)
    assert raised.value.field == field


# -- through --------------------------------------------------------------------------------------


def test_through_makes_what_is_not_there_and_stores_it(memory: Memory) -> None:
    calls: list[int] = []

    def make() -> str:
        calls.append(1)
        return "made"

    first = memory.answers.through(ask("Why?"), make, scope=SCOPE, tags=["t"])
    assert isinstance(first, Made)
    assert (first.response, first.is_shared) == ("made", False)
    assert first.miss.reason is MissReason.EMPTY
    second = memory.answers.through(ask("Why?"), make, scope=SCOPE)
    assert isinstance(second, Answer)
    assert (second.response, second.tags) == ("made", ("t",))
    assert len(calls) == 1
    third = memory.answers.through(ask("Why?", temperature=1), make, scope=SCOPE)
    assert isinstance(third, Made)
    assert third.miss.reason is MissReason.TEMPERATURE
    assert len(calls) == 2


def test_what_fails_to_be_made_is_not_stored(memory: Memory) -> None:
    def fail() -> str:
        raise RuntimeError("the model is down")

    with pytest.raises(RuntimeError, match="down"):
        memory.answers.through(ask("Why?"), fail, scope=SCOPE)
    assert not memory.answers.lookup(ask("Why?"), scope=SCOPE)


# -- the store around it --------------------------------------------------------------------------


def test_a_closed_store_answers_nothing(memory: Memory) -> None:
    answers = memory.answers
    memory.close()
    for call in (
        lambda: answers.lookup("q", scope=SCOPE), lambda: answers.store("q", "r", scope=SCOPE)
    ):  # fmt: skip
        with pytest.raises(memopt.StoreClosedError):
            call()


def test_a_read_only_store_looks_up_and_stores_nothing(tmp_path: Path) -> None:
    with memopt.open(tmp_path, **SETTINGS) as memory:
        memory.answers.store(ask("What is a page table?"), "A map.", scope=SCOPE)
    with memopt.open(tmp_path, read_only=True, **SETTINGS) as memory:
        assert memory.answers.lookup(ask("what is a page table"), scope=SCOPE)
        with pytest.raises(UsageError, match="read-only"):
            memory.answers.store(ask("Why?"), "So.", scope=SCOPE)


def test_what_happened_is_counted(memory: Memory) -> None:
    memory.answers.store(ask("What is a page table?"), "A map.", scope=SCOPE)
    memory.answers.lookup(ask("What is a page table?"), scope=SCOPE)
    hit = served(memory.answers.lookup(ask("what is a page table"), scope=SCOPE))
    memory.answers.lookup(ask("Which bird flies highest?"), scope=SCOPE)
    memory.answers.feedback(hit.answer_id, "wrong")
    counters = memory.stats().counters
    assert counters["answers_stored"] == 1
    assert counters["answers_served"] == 2
    assert counters["answers_served_near"] == 1
    assert counters["answers_missed"] == 1
    assert counters["answers_wrong"] == 1


def test_a_small_budget_finds_equal_requests_alone(tmp_path: Path) -> None:
    with memopt.open(tmp_path, **(SETTINGS | {"budget": "8MiB"})) as memory:
        memory.answers.store(ask("What is a page table?"), "A map.", scope=SCOPE)
        assert memory.answers.lookup(ask("What is a page table?"), scope=SCOPE)
        found = memory.answers.lookup(ask("what is a page table"), scope=SCOPE)
        assert found or missed(found).reason in (MissReason.ROOM, MissReason.EMBEDDER)
        memory._parts.budget.check()
