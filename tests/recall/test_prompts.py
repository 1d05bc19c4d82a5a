"""What is remembered of system prompts changes no entry."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memopt.embedding.static import StaticEmbedder
from memopt.recall.entries import Draft, Entries, Role
from memopt.recall.prompts import SIZE_BYTES_MAX, Prompts
from memopt.text.analysis import Analyser

EMBEDDER, ANALYSER = StaticEmbedder(), Analyser()
TEXTS = ("You are a clerk of an airline.", "Be brief.", "Where is my bag?", "In Oslo.", "")


def make(drafts: Sequence[Draft]) -> Entries:
    return Entries.of(drafts, embedder=EMBEDDER, analyser=ANALYSER)


def fields(entries: Entries) -> list[object]:
    values = (getattr(entries, field.name) for field in dataclasses.fields(entries))
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]


drafts = st.builds(
    Draft,
    source=st.integers(-3, 3),
    seq=st.integers(0, 9),
    at_us=st.integers(0, 99),
    text=st.sampled_from(TEXTS),
    role=st.sampled_from((Role.USER, Role.SYSTEM, Role.TOOL)),
    kind=st.integers(0, 2),
    speaker=st.sampled_from((None, "ada")),
)


@given(st.lists(st.lists(drafts, min_size=1, max_size=6), min_size=1, max_size=6))
def test_entries_are_those_that_would_be_made(batches: list[list[Draft]]) -> None:
    prompts = Prompts()
    for batch in batches:
        found = prompts.entries(batch, make, EMBEDDER.space)
        assert fields(found) == fields(make(batch))


def test_a_prompt_is_made_once() -> None:
    prompts, made = Prompts(), []

    def counted(drafts: Sequence[Draft]) -> Entries:
        made.append([draft.text for draft in drafts])
        return make(drafts)

    for seq in range(3):
        batch = [
            Draft(source=1, seq=seq, at_us=0, text="Be brief.", role=Role.SYSTEM),
            Draft(source=1, seq=seq + 1, at_us=0, text="Hello.", role=Role.USER),
        ]
        prompts.entries(batch, counted, EMBEDDER.space)
    assert made.count(["Be brief."]) == 1
    assert made.count(["Hello."]) == 3


def test_what_is_remembered_is_bounded() -> None:
    prompts = Prompts()
    for number in range(300):
        text = f"prompt {number} " + "word " * number
        draft = Draft(source=1, seq=0, at_us=0, text=text, role=Role.SYSTEM)
        assert fields(prompts.entries([draft], make, EMBEDDER.space)) == fields(make([draft]))
        held = sum(entries.charged_bytes for entries in prompts._known.values())
        assert held == prompts._size_bytes <= SIZE_BYTES_MAX


def test_an_embedder_that_fails_for_some_leaves_all_without_vectors() -> None:
    def failing(drafts: Sequence[Draft]) -> Entries:
        embedder = EMBEDDER if any(d.role == Role.SYSTEM for d in drafts) else None
        return Entries.of(
            drafts, embedder=embedder if len(drafts) == 1 else None, analyser=ANALYSER
        )

    batch = [
        Draft(source=1, seq=0, at_us=0, text="Be brief.", role=Role.SYSTEM),
        Draft(source=1, seq=1, at_us=0, text="Hello.", role=Role.USER),
    ]
    found = Prompts().entries(batch, failing, EMBEDDER.space)
    assert found.space == ""
    assert len(found) == 2


def test_another_embedders_prompt_is_not_given() -> None:
    prompts = Prompts()
    draft = Draft(source=1, seq=0, at_us=0, text="Be brief.", role=Role.SYSTEM)
    prompts.entries([draft], make, EMBEDDER.space)

    def by_words(drafts: Sequence[Draft]) -> Entries:
        return Entries.of(drafts, embedder=None, analyser=ANALYSER)

    assert fields(prompts.entries([draft], by_words, "")) == fields(by_words([draft]))
    assert fields(prompts.entries([draft], make, EMBEDDER.space)) == fields(make([draft]))
