"""A scope's index against a twin that reads every text, in whatever portions it came."""

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.recall import index as module
from memopt.recall.entries import Draft, Entries
from memopt.recall.index import NONE, RUN_GAP_US, Postings, ScopeIndex
from memopt.text.analysis import Analyser, term_of

ANALYSER = Analyser()
WORDS = ("dog", "cat", "river", "stone", "cloud")


class Letters:
    """An embedder that counts letters."""

    space = "letters"
    dimensions = 4

    def embed(self, texts: Sequence[str]) -> Any:
        made = np.array([[t.count(c) for c in "aeio"] for t in texts], np.float32)
        return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)


def draft(source: int, seq: int, words: Sequence[str], hours: int) -> Draft:
    return Draft(source=source, seq=seq, at_us=hours * 3_600_000_000, text=" ".join(words))


places = st.tuples(st.integers(-3, 3), st.integers(0, 6))
texts = st.lists(st.sampled_from(WORDS), max_size=6)
memories = st.dictionaries(places, texts, max_size=20).map(
    lambda known: [draft(*place, words, 4 * place[1] // 3) for place, words in known.items()]
)


def made(drafts: Sequence[Draft]) -> Entries:
    return Entries.of(drafts, embedder=Letters(), analyser=ANALYSER)


def place_of(index: ScopeIndex, number: int) -> tuple[int, int] | None:
    if number == NONE:
        return None
    return int(index.entries.source[number]), int(index.entries.seq[number])


def twin_weight(drafts: Sequence[Draft], word: str, text: str) -> float:
    docs = [d.text.split() for d in drafts]
    mean = sum(map(len, docs)) / len(docs)
    df = sum(word in doc for doc in docs)
    idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
    tf = text.split().count(word)
    if not tf:
        return 0.0
    return idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(text.split()) / mean))


def assert_like_the_twin(index: ScopeIndex, drafts: Sequence[Draft]) -> None:
    assert len(index) == len(drafts)
    known = {(d.source, d.seq): d for d in drafts}
    numbers = {place_of(index, n): n for n in range(len(index))}
    assert numbers.keys() == known.keys()
    weights = index.weigh([term_of(word) for word in WORDS]).parts
    assert not weights[:, len(index)].any()
    query = Letters().embed(["a river aioe"])[0]
    cosines = index.cosines(query)
    ordered = sorted(known)
    for at, place in enumerate(ordered):
        number, one = numbers[place], known[place]
        expected = [twin_weight(drafts, word, one.text) for word in WORDS]
        assert weights[:, number] == pytest.approx(expected, rel=1e-4)
        assert cosines[number] == pytest.approx(Letters().embed([one.text])[0] @ query, abs=0.02)
        neighbour = ordered[at + 1] if at + 1 < len(ordered) else None
        if neighbour is not None:
            gap = abs(known[neighbour].at_us - one.at_us)
            if neighbour[0] != place[0] or gap > RUN_GAP_US:
                assert place_of(index, index.after[number]) is None
                assert place_of(index, index.before[numbers[neighbour]]) is None
                assert index.run[number] != index.run[numbers[neighbour]]
                assert index.run_first[index.run[numbers[neighbour]]] == numbers[neighbour]
            else:
                assert place_of(index, index.after[number]) == neighbour
                assert place_of(index, index.before[numbers[neighbour]]) == place
                assert index.run[number] == index.run[numbers[neighbour]]


@given(memories, st.randoms(use_true_random=False), st.integers(1, 4))
def test_an_index_is_like_its_twin_in_whatever_portions_it_came(
    drafts: list[Draft], chance: Any, portions: int
) -> None:
    chance.shuffle(drafts)
    size = math.ceil(len(drafts) / portions) or 1
    parts = [made(drafts[at : at + size]) for at in range(0, len(drafts), size)]
    if not drafts:
        assert len(ScopeIndex.of(parts)) == 0
        return
    assert_like_the_twin(ScopeIndex.of(parts), drafts)
    grown = ScopeIndex.of(parts[:1])
    for part in parts[1:]:
        grown = grown.adding(part)
    assert_like_the_twin(grown, drafts)


def test_many_added_entries_are_sorted_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_MIN", 4)
    drafts = [draft(n % 3, n, [WORDS[n % 5]], 0) for n in range(40)]
    index = ScopeIndex.of([made(drafts[:20])])
    for number in range(20, 40):
        index = index.adding(made(drafts[number : number + 1]))
        assert len(index) - index.sealed <= 4
        assert_like_the_twin(index, drafts[: number + 1])


@given(memories)
def test_postings_are_what_is_counted(drafts: list[Draft]) -> None:
    postings = Postings.of(made(drafts), 10)
    counted = collections.Counter(
        (term_of(word), number)
        for number, one in enumerate(drafts, 10)
        for word in one.text.split()
    )
    found = {
        (int(term), int(entry)): int(count)
        for term in postings.table
        for entry, count in zip(*postings.find(int(term)), strict=True)
    }
    assert found == counted


def test_nothing_at_all_can_be_searched() -> None:
    index = ScopeIndex.of([])
    weighed = index.weigh([1, 2])
    assert weighed.parts.shape == (2, 1)
    assert np.isfinite(weighed.idf).all()
    assert index.cosines(np.ones(4, np.float32)).shape == (0,)
    assert index.speakers == frozenset()
    grown = index.adding(made([draft(1, 1, ["dog"], 0)]))
    assert grown.weigh([term_of("dog")]).parts[0, 0] > 0


def test_an_index_is_charged_for_all_its_arrays() -> None:
    index = ScopeIndex.of([made([draft(1, n, list(WORDS), 0) for n in range(100)])])
    arrays = [a for a in vars(index).values() if isinstance(a, np.ndarray)]
    arrays += [a for part in index._postings for a in part]
    arrays += [
        getattr(index.entries, name) for name in Entries.__dataclass_fields__ if name != "space"
    ]
    assert (
        sum(a.nbytes for a in arrays) < index.charged_bytes < sum(a.nbytes for a in arrays) + 5000
    )
