"""Bench recall: what it judges is what a store returns, and measures are what they say."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import memopt
from memopt.bench.child import run_in_child
from memopt.bench.evidence import (
    Asked,
    ask,
    difference,
    evidence_at,
    evidence_within,
    figure,
    sessions_at,
    user_turns_at,
)
from memopt.bench.questions import Material, Question
from memopt.bench.recall import FOLD_WEIGHTS, expected_places
from memopt.bench.recall_memory import places_of, recalled, write
from memopt.bench.recall_peers import PeerTask, _asked_of, measure_peer
from memopt.embedding.static import StaticEmbedder
from memopt.recall.entries import Draft, Role
from memopt.recall.weights import SHIPPED, read_several, read_weights

DAY_US = 86_400_000_000
TALKS = (
    ("Ann: I adopted a dog, Maple!", "Bob: Lovely! How big is she?", "Ann: Six kilos.",
     "Bob: When did you get her?", "Ann: Yesterday, at the shelter in Ghent."),
    ("Bob: My sister Lea moved to Lyon.", "Ann: What does she do there?", "Bob: She bakes bread.",
     "Ann: I want to visit her bakery next May.", "Bob: Bring Maple along."),
    ("Ann: Work was a mess last week.", "Bob: What happened?", "Ann: The train was late, daily.",
     "Bob: Take the bike, it is ten miles.", "Ann: In this rain? No."),
)  # fmt: skip
ASKED = (
    ("What is the name of Ann's dog?", (0,)), ("When did Ann adopt a dog?", (4,)),
    ("Where did Bob's sister move?", (5,)), ("Who bakes bread?", (7,)), ("train", (12,)),
    ("What did Ann say about work in May 2023?", (10,)), ("How far is it to work?", (13,)),
)  # fmt: skip


def material(*, headings: bool = False) -> Material:
    drafts = []
    for source, talk in enumerate(TALKS, 1):
        at_us = 19_480 * DAY_US + source * 3 * DAY_US
        for seq, line in enumerate(talk):
            speaker, _, text = line.partition(": ")
            is_heading = headings and not seq
            role = Role.HEADING if is_heading else (Role.USER, Role.ASSISTANT)[seq % 2]
            # Numbers of a page's lines have gaps, and a session's have none.
            drafts.append(Draft(source=source, seq=2 * seq, at_us=at_us, text=text, role=role,
                                speaker=None if headings else speaker))  # fmt: skip
    now_us = 19_500 * DAY_US
    questions = [
        Question(text, gold, tuple(sorted({drafts[at].source for at in gold})), "1", now_us)
        for text, gold in ASKED
    ]
    return Material("talks", 0, drafts, questions)


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    return StaticEmbedder()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(tmp_path / "s", budget="64MiB", durability="os") as opened:
        yield opened


@pytest.mark.parametrize("headings", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_store_returns_what_is_judged_in_the_same_order(
    memory: memopt.Memory, embedder: StaticEmbedder, headings: bool, sealed: bool
) -> None:
    one = material(headings=headings)
    write(memory, one.drafts, "a")
    if sealed:
        memory.compact()
    for asked in ask([one], embedder):
        expected = expected_places(one, asked)
        assert len(expected) == (12 if headings else 15)
        assert recalled(memory, asked.question, "a", limit=100) == expected


def test_within_a_budget_the_store_takes_what_the_measure_counts(
    memory: memopt.Memory, embedder: StaticEmbedder
) -> None:
    one = material()
    write(memory, one.drafts, "a")
    places = list(places_of(one.drafts))
    for asked in ask([one], embedder):
        order = np.array([places.index(place) for place in expected_places(one, asked)])
        for tokens in (3, 10, 25):
            found = recalled(memory, asked.question, "a", max_tokens=tokens)
            share = np.mean([places[at] in found for at in asked.question.gold])
            # Tokens of a text are rounded up, characters are not.
            assert share <= evidence_within(asked, order, tokens)
            used = sum(len(one.drafts[places.index(place)].text) for place in found)
            assert used <= 4 * tokens


def asked_of(roles: list[int], sources: list[int], gold: list[int], chars: list[int]) -> Asked:
    drafts = [
        Draft(source=source, seq=n, at_us=0, text="x" * size, role=role)
        for n, (role, source, size) in enumerate(zip(roles, sources, chars, strict=True))
    ]
    gold_sources = tuple(sorted({sources[at] for at in gold}))
    question = Question("x", tuple(gold), gold_sources, "1", 0)
    return ask([Material("m", 0, drafts, [question])], None)[0]


def test_measures_are_what_they_say() -> None:
    one = asked_of([1, 2, 1, 1], [1, 1, 2, 3], [0, 2], [8, 8, 40, 4])
    order = np.array([1, 2, 3, 0])
    assert evidence_at(one, order, 1) == 0
    assert evidence_at(one, order, 2) == 0.5
    assert evidence_at(one, order, 4) == 1
    assert user_turns_at(one, order, 1) == 0.5
    assert sessions_at(one, order, 1) == 0.5
    assert sessions_at(one, order, 2) == 1
    # 8 characters, 40 do not fit, 4 do, and 8 more.
    assert evidence_within(one, order, 5) == 0.5
    assert evidence_within(one, order, 12) == 0.5
    assert evidence_within(one, order, 15) == 1


def test_intervals_hold_the_mean_and_are_drawn_from_the_seed() -> None:
    values = [0.0, 1.0, 1.0, 0.5] * 10
    one = figure(values, 3)
    assert one == figure(values, 3)
    assert one.low < one.mean == 0.625 < one.high
    assert one.questions == 40
    same = difference(values, values, 3)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_the_folds_are_there_and_none_is_what_is_shipped() -> None:
    folds = read_several(FOLD_WEIGHTS)
    shipped = read_weights(SHIPPED)
    assert [w.fitted_on for w in folds] == [
        f"{shipped.fitted_on} without fold {n}" for n in range(5)
    ]
    for one in folds:
        assert one.examine.names == shipped.examine.names
        assert one.examine.weights != shipped.examine.weights


@pytest.mark.parametrize("peer", ["memopt", "bm25", "langgraph", "mem0"])
def test_a_peer_finds_what_it_was_given(tmp_path: Path, peer: str) -> None:
    if peer != "bm25" and importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    turns, questions = _asked_of([material()], 0)
    task = PeerTask(
        peer=peer, home=str(tmp_path), turns=turns, questions=questions, weights=str(FOLD_WEIGHTS)
    )
    figures = run_in_child(measure_peer, msgspec.to_builtins(task))
    assert figures["turns"] == 15
    assert figures["questions"] == len(ASKED)
    assert 0.5 < figures["evidence_at_10"] <= 1
