"""Every feature against a twin that looks at one text after the other."""

import itertools
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt.base.records import to_us
from memopt.recall.entries import Draft, Entries, Role
from memopt.recall.features import examine
from memopt.recall.index import RUN_GAP_US, ScopeIndex
from memopt.recall.query import FRAME_WEIGHT, Asks, Query
from memopt.recall.scan import SCANNED, Scan
from memopt.text.analysis import Analyser, Flag, name_of, term_of

ANALYSER = Analyser()
WORDS = ("dog", "cat", "river", "stone", "cloud", "I", "Lima", "7", "not", "yesterday", "mention")
PEOPLE = ("Ann", "Bob", None)
NOON = datetime(2024, 5, 8, 12, tzinfo=UTC)
ROLES = (Role.OTHER, Role.USER, Role.ASSISTANT, Role.HEADING)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Letters:
    """An embedder whose pieces are letters, each a direction of its own and a little of another."""

    space = "letters"
    dimensions = len(LETTERS)
    table = np.eye(dimensions, dtype=np.float32) * 0.8
    table += np.roll(np.eye(dimensions, dtype=np.float32), 1, axis=1) * 0.6

    def pieces(self, texts: Sequence[str], limit: int | None = None) -> Any:
        cut = [[LETTERS.index(c) for c in t.lower() if c in LETTERS] for t in texts]
        numbers = np.array([n for some in cut for n in some], np.uint16)
        return numbers, np.cumsum([0, *map(len, cut)])

    def pooled(self, pieces: Any, starts: Any) -> Any:
        sums = [self.table[pieces[a:b]].sum(0) for a, b in itertools.pairwise(starts)]
        made = np.array(sums, np.float32).reshape(-1, self.dimensions)
        return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)

    def embed(self, texts: Sequence[str]) -> Any:
        return self.pooled(*self.pieces(texts))

    def piece_vectors(self, pieces: Any) -> Any:
        return self.table[pieces]

    def piece_likeness(self, pieces: Any, vectors: Any) -> Any:
        return self.piece_vectors(pieces) @ vectors.T

    def piece_weights(self, pieces: Any) -> Any:
        return 1 + np.asarray(pieces, np.float32) / 26

    def charged_bytes(self) -> int:
        return 0


EMBEDDER = Letters()


def drafted(place: tuple[int, int], said: tuple[list[str], int, int, int, bool]) -> Draft:
    words, who, role, hours, asks = said
    text = " ".join(words) + ("?" if asks else "")
    at_us = to_us(NOON - timedelta(hours=hours))
    return Draft(source=place[0], seq=place[1], at_us=at_us, text=text, role=ROLES[role],
                 speaker=PEOPLE[who])  # fmt: skip


places = st.tuples(st.integers(-1, 3), st.integers(0, 5))
said = st.tuples(
    st.lists(st.sampled_from(WORDS), max_size=6), st.integers(0, 2), st.integers(0, 3),
    st.integers(0, 60), st.booleans(),
)  # fmt: skip
memories = st.dictionaries(places, said, min_size=1, max_size=16).map(
    lambda known: [drafted(place, one) for place, one in sorted(known.items())]
)
queries = st.lists(
    st.sampled_from((*WORDS, "Ann", "Bob", "when", "who", "where", "my", "how many")), max_size=5
).map(" ".join)


class Twin:
    """What the features mean, without an array."""

    def __init__(self, drafts: Sequence[Draft], query: Query) -> None:
        self.drafts, self.query = drafts, query
        self.docs = [list(ANALYSER.analyse(d.text).terms) for d in drafts]
        self.idf = [self._idf(t) * w for t, w in zip(query.terms, query.weights, strict=True)]
        self.full = max(sum(self.idf), 1e-6)
        mean = sum(map(len, self.docs)) / len(self.docs)
        self.bm25 = [sum(self._parts(doc, mean)) for doc in self.docs]
        self.top = max(*self.bm25, 1e-6)

    def _idf(self, term: int) -> float:
        df = sum(term in doc for doc in self.docs)
        return math.log(1 + (len(self.docs) - df + 0.5) / (df + 0.5))

    def _parts(self, doc: list[int], mean: float) -> list[float]:
        slack = 1.2 * (0.25 + 0.75 * len(doc) / max(mean, 1e-9))
        counts = [doc.count(term) for term in self.query.terms]
        return [i * n * 2.2 / (n + slack) for i, n in zip(self.idf, counts, strict=True)]

    def words(self, at: int | None) -> float:
        return 0.0 if at is None else self.bm25[at] / self.top

    def beside(self, at: int | None, step: int) -> int | None:
        """The neighbour in the run."""
        if at is None:
            return None
        for _ in range(abs(step)):
            other = at + (1 if step > 0 else -1)
            if not 0 <= other < len(self.drafts):
                return None
            here, there = self.drafts[at], self.drafts[other]
            if here.source != there.source or abs(here.at_us - there.at_us) > RUN_GAP_US:
                return None
            at = other
        return at

    def has(self, at: int | None) -> list[bool]:
        return [at is not None and term in self.docs[at] for term in self.query.terms]

    def covered(self, *window: int | None) -> float:
        rows = [self.has(at) for at in window]
        there = (any(column) for column in zip(*rows, strict=True))
        return sum(i for i, h in zip(self.idf, there, strict=True) if h) / self.full

    def met(self, at: int | None) -> list[float]:
        """How well each piece of the query is met."""
        assert self.query.pieces is not None
        vectors = self.query.pieces.vectors[: len(self.query.pieces.weights)]
        if at is None:
            return [0.0] * len(vectors)
        mine = EMBEDDER.piece_vectors(EMBEDDER.pieces([self.drafts[at].text])[0][:64])
        return [max([0.0, *(float(v @ m) for m in mine)]) for v in vectors]

    def weighed(self, met: Sequence[float]) -> float:
        assert self.query.pieces is not None
        return float(sum(w * m for w, m in zip(self.query.pieces.weights, met, strict=True)))

    def within(self, at: int) -> float:
        days = [
            max(0.0, start - self.drafts[at].at_us, self.drafts[at].at_us - stop) / 86_400e6
            for start, stop in self.query.times
        ]
        return float(bool(days) and min(days) < 1)

    def expected(self, at: int) -> dict[str, float]:
        one, query = self.drafts[at], self.query
        flags = ANALYSER.analyse(one.text).flags
        before, after = self.beside(at, -1), self.beside(at, 1)
        window = [self.beside(at, step) for step in (-2, -1, 0, 1, 2)]
        all_terms = [t for t in range(len(query.terms)) if any(self.has(d)[t] for d in self.all)]
        number = float(bool(flags & Flag.NUMBER))
        name = float(bool(flags & Flag.NAME))
        said = float(name_of(one.speaker) in query.names)
        expected = {
            "words": self.words(at),
            "words_root": math.sqrt(self.words(at)),
            "words_before": self.words(before),
            "words_after": self.words(after),
            "words_before2": self.words(window[0]),
            "has_all": float(bool(all_terms) and all(self.has(at)[t] for t in all_terms)),
            "length": math.log1p(len(self.docs[at])),
            "length_2": math.log1p(len(self.docs[at])) ** 2,
            "question": float(bool(flags & Flag.QUESTION)),
            "first_person": float(bool(flags & Flag.FIRST_PERSON)),
            "number": number,
            "name": name,
            "when_number": number * bool(query.asks & Asks.WHEN),
            "who_name": name * bool(query.asks & Asks.WHO),
            "where_name": name * bool(query.asks & Asks.WHERE),
            "how_many_number": number * bool(query.asks & Asks.HOW_MANY),
            "said": said,
            "other_words": (1 - said) * self.words(at) if query.names else 0 * said,
            "at_start": float(before is None),
            "at_end": float(after is None),
            "in_time": self.within(at),
            "my_user": float(one.role == Role.USER and bool(query.flags & Flag.FIRST_PERSON)),
            "my_assistant": float(
                one.role == Role.ASSISTANT and bool(query.flags & Flag.FIRST_PERSON)
            ),
        }
        if query.pieces is not None:
            around = [self.met(other) for other in window]
            expected |= {
                "met": self.weighed(around[2]),
                "met_before": self.weighed(around[1]),
                "pair_met": self.weighed([max(m) for m in zip(*around[1:3], strict=True)]),
            }
        return expected

    @property
    def all(self) -> range:
        return range(len(self.drafts))


@settings(max_examples=60)
@given(memories, queries)
def test_features_are_what_the_twin_counts(drafts: list[Draft], text: str) -> None:
    index = ScopeIndex.of([Entries.of(drafts, embedder=EMBEDDER, analyser=ANALYSER)])
    query = Query.of(text, analyser=ANALYSER, embedder=EMBEDDER, speakers=index.speakers, now=NOON)
    scan = Scan(index, query)
    scores = scan.words[: len(index)]
    chosen = np.argsort(-scores, kind="stable")
    names, table = examine(scan, chosen, scores)
    assert names[: len(SCANNED)] == SCANNED
    assert np.isfinite(table).all()
    twin = Twin(drafts, query)
    for place, at in enumerate(chosen.tolist()):
        found = dict(zip(names, table[:, place].tolist(), strict=True))
        expected = twin.expected(at)
        if query.names == ():
            del expected["other_words"]
        assert {name: found[name] for name in expected} == pytest.approx(
            expected, rel=2e-3, abs=2e-4
        )


@settings(max_examples=40)
@given(memories, queries, st.integers(1, 4), st.randoms(use_true_random=False))
def test_features_do_not_depend_on_how_entries_came(
    drafts: list[Draft], text: str, portions: int, chance: Any
) -> None:
    whole = ScopeIndex.of([Entries.of(drafts, embedder=EMBEDDER, analyser=ANALYSER)])
    shuffled = list(drafts)
    chance.shuffle(shuffled)
    size = math.ceil(len(drafts) / portions)
    parts = [
        Entries.of(shuffled[at : at + size], embedder=EMBEDDER, analyser=ANALYSER)
        for at in range(0, len(drafts), size)
    ]
    grown = ScopeIndex.of(parts[:1])
    for part in parts[1:]:
        grown = grown.adding(part)

    def features(index: ScopeIndex) -> dict[tuple[int, int], Any]:
        query = Query.of(text, analyser=ANALYSER, embedder=EMBEDDER, speakers=index.speakers)
        scan = Scan(index, query)
        entries = index.entries
        # In one order for both: the best are compared with the others in the order they come in.
        chosen = np.lexsort((entries.seq, entries.source))
        _, table = examine(scan, chosen, scan.words[: len(index)])
        keys = zip(entries.source[chosen].tolist(), entries.seq[chosen].tolist(), strict=True)
        return dict(zip(keys, table.T, strict=True))

    one, other = features(whole), features(grown)
    assert one.keys() == other.keys()
    for place, row in one.items():
        assert row == pytest.approx(other[place], rel=1e-4, abs=1e-4)


def test_a_word_by_which_is_asked_weighs_little() -> None:
    query = Query.of("what did they mention about dogs", analyser=ANALYSER, embedder=None)
    weights = dict(zip(query.terms, query.weights.tolist(), strict=True))
    assert weights[term_of("mention")] == pytest.approx(FRAME_WEIGHT)
    assert weights[term_of("dog")] == 1


def test_a_word_that_names_a_time_weighs_little_where_times_are_read() -> None:
    def weight(word: str, now: datetime | None) -> float:
        query = Query.of("the last month of school", analyser=ANALYSER, embedder=None, now=now)
        (stem,) = (s for s in query.stems if s == word)
        return float(query.weights[query.stems.index(stem)])

    assert weight("month", NOON) == pytest.approx(FRAME_WEIGHT)
    assert weight("month", None) == weight("school", NOON) == 1


def test_what_has_not_begun_is_no_time_of_a_memory() -> None:
    def times(text: str) -> int:
        return len(Query.of(text, analyser=ANALYSER, embedder=None, now=NOON).times)

    assert times("what did I do last weekend?") == 1
    assert times("what did I do this week?") == 1
    assert times("any tips for next weekend?") == 0


def test_a_heading_is_what_its_page_is_about() -> None:
    pages = {1: ("Lima", "the river is wide"), 2: ("Ghent", "the river is narrow, far from Lima")}
    drafts = []
    for source, (title, text) in pages.items():
        drafts.append(Draft(source=source, seq=0, at_us=0, text=title, role=Role.HEADING))
        drafts.append(Draft(source=source, seq=1, at_us=0, text=text))
    index = ScopeIndex.of([Entries.of(drafts, embedder=EMBEDDER, analyser=ANALYSER)])
    scan = Scan(index, Query.of("river in Ghent", analyser=ANALYSER, embedder=EMBEDDER))
    names, table = examine(scan, np.array([3, 1]), np.zeros(4, np.float32))
    found = dict(zip(names, table.tolist(), strict=True))
    assert found["title_whole"] == [1, 0]
    assert found["page_first"] == [1, 1]
    assert found["title_covered"][0] == pytest.approx(1)
    # The one in Ghent mentions Lima, which leads to the other.
    assert found["linked"] == pytest.approx([0, 1])
    assert found["linking"] == pytest.approx([1, 0])
