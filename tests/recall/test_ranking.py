"""The order of entries, what made it, and the file of its weights."""

import dataclasses
import math
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from memopt.base.errors import UsageError
from memopt.embedding.static import StaticEmbedder
from memopt.recall.entries import Draft, Entries, Role
from memopt.recall.features import examine
from memopt.recall.index import ScopeIndex
from memopt.recall.query import Query
from memopt.recall.ranking import CANDIDATES, Priors, Ranker, best_of, work_bytes
from memopt.recall.reasons import FAMILY_OF, parts_of, why
from memopt.recall.scan import Scan
from memopt.recall.weights import SHIPPED, read_several, read_weights, sealed
from memopt.text.analysis import Analyser

ANALYSER = Analyser()
TALK = (
    "What did you do on Sunday?", "I adopted a dog from the shelter, her name is Maple.",
    "How lovely! Is she big?", "Not at all, she weighs six kilos.", "My week was full of work.",
    "The train to Ghent was late again.", "I baked bread with my sister Lea.",
    "Lea moved to Lyon in March.", "We watched a film about whales.", "Whales sleep upright!",
)  # fmt: skip


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    return StaticEmbedder()


def index_of(embedder: Any, count: int = 10) -> ScopeIndex:
    drafts = [
        Draft(source=1 + n // 10, seq=n % 10, at_us=n // 10 * 10**12, text=TALK[n % len(TALK)],
              role=Role.USER, speaker=("Ann", "Bob")[n % 2])
        for n in range(count)
    ]  # fmt: skip
    return ScopeIndex.of([Entries.of(drafts, embedder=embedder, analyser=ANALYSER)])


def query_of(text: str, index: ScopeIndex, embedder: Any) -> Query:
    return Query.of(text, analyser=ANALYSER, embedder=embedder, speakers=index.speakers)


def test_the_sum_is_the_dull_formula_bit_for_bit(embedder: StaticEmbedder) -> None:
    weights = read_weights(SHIPPED)
    index = index_of(embedder)
    query = query_of("What is the name of the dog that Bob adopted?", index, embedder)
    ranked = Ranker(weights).rank(index, query)
    scan = Scan(index, query)

    def line(one: Any) -> tuple[list[float], float]:
        slopes = [w / s for w, s in zip(one.weights, one.scales, strict=True)]
        return slopes, -sum(s * m for s, m in zip(slopes, one.means, strict=True))

    slopes, offset = line(weights.scan)
    scores = np.array(slopes, np.float32) @ scan.table + np.float32(offset)
    chosen = np.array(sorted(range(len(index)), key=lambda n: -scores[n]))
    names, table = examine(scan, chosen, scores)
    assert names == weights.examine.names
    slopes, offset = line(weights.examine)
    sums = np.array(slopes, np.float32) @ table + np.float32(offset)
    order = sorted(range(len(chosen)), key=lambda n: -sums[n])
    assert ranked.numbers.tolist() == chosen[order].tolist()
    assert ranked.sums == pytest.approx(sums[order].astype(float), abs=1e-5)
    for place, at in enumerate(order):
        logit = weights.slope * float(sums[at]) + weights.offset
        assert ranked.scores[place] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
        assert sum(ranked.shares(place).values()) == pytest.approx(float(sums[at]), abs=1e-3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the name of the dog that Bob adopted?", 1),
        ("How heavy is the dog?", 3),
        ("Who moved to Lyon?", 7),
        ("Ghent", 5),
        ("Maple", 1),
    ],
)
def test_what_answers_is_found(embedder: StaticEmbedder, text: str, expected: int) -> None:
    index = index_of(embedder)
    ranked = Ranker.shipped().rank(index, query_of(text, index, embedder))
    assert expected in ranked.numbers[:3].tolist()


def test_a_rare_word_finds_the_text_that_has_it(embedder: StaticEmbedder) -> None:
    drafts = [Draft(source=1, seq=n, at_us=0, text=f"a zebra{n} in the garden") for n in range(60)]
    index = ScopeIndex.of([Entries.of(drafts, embedder=embedder, analyser=ANALYSER)])
    for n in range(60):
        ranked = Ranker.shipped().rank(index, query_of(f"zebra{n}", index, embedder))
        assert ranked.numbers[0] == n
        assert ranked.words(0) == [f"zebra{n}"]


def test_the_same_is_ranked_the_same_and_equals_in_their_order(embedder: StaticEmbedder) -> None:
    drafts = [Draft(source=n, seq=0, at_us=0, text="the same again") for n in range(1, 400)]
    index = ScopeIndex.of([Entries.of(drafts, embedder=embedder, analyser=ANALYSER)])
    query = query_of("the same", index, embedder)
    first = Ranker.shipped().rank(index, query)
    assert first.numbers.tolist() == list(range(CANDIDATES))
    for _ in range(3):
        again = Ranker(read_weights(SHIPPED)).rank(index, query)
        assert np.array_equal(again.numbers, first.numbers)
        assert np.array_equal(again.sums, first.sums)


def test_only_what_is_among_them_is_ranked_and_headings_never(embedder: StaticEmbedder) -> None:
    index = index_of(embedder)
    among = np.zeros(10, bool)
    among[[2, 5]] = True
    query = query_of("Lyon", index, embedder)
    assert set(Ranker.shipped().rank(index, query, among=among).numbers.tolist()) == {2, 5}
    role = np.full(10, Role.HEADING, np.uint8)
    headings = ScopeIndex.of([dataclasses.replace(index.entries, role=role)])
    for some, asked in ((headings, query), (index, query_of("of the", index, None))):
        assert len(Ranker.shipped().rank(some, asked)) == 0


def test_importance_and_feedback_are_added_and_said(embedder: StaticEmbedder) -> None:
    index = index_of(embedder)
    query = query_of("whales", index, embedder)
    plain = Ranker.shipped().rank(index, query)
    importance, feedback = np.zeros((2, 10), np.float32)
    importance[0], feedback[9] = 100, -100
    ranked = Ranker.shipped().rank(index, query, priors=Priors(importance, feedback))
    assert ranked.numbers[0] == 0
    assert ranked.numbers[-1] == 9
    assert plain.numbers[-1] != 9
    assert ranked.shares(0)["importance"] == 100
    assert ranked.why(0).startswith("its importance +100")
    assert sorted(plain.numbers) == sorted(ranked.numbers)


@pytest.mark.parametrize("count", [1, 200, 6000])
def test_a_ranking_occupies_no_more_than_it_is_charged(
    embedder: StaticEmbedder, count: int
) -> None:
    index = index_of(embedder, count)
    text = "When did Ann say that her sister moved to Lyon with the dog from the shelter?"
    query = query_of(text, index, embedder)
    Ranker.shipped().rank(index, query)
    tracemalloc.start()
    try:
        Ranker.shipped().rank(index, query)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < work_bytes(index, query)


def test_every_feature_has_a_family_and_why_names_the_largest() -> None:
    names = read_weights(SHIPPED).examine.names
    assert set(FAMILY_OF) == {*names, *Priors._fields}
    some = ("words", "met", "has_all", "length", "said")
    columns = np.array([[0.5, 0.9, 0.2, -3.0, 0.001], [-1, -2, 0, -3, -2]], np.float32).T
    parts = parts_of(some, columns)
    assert parts == ["its meaning +0.90, its words +0.70", "its words -1.00"]
    assert why(["dog", "cat"], parts[0]) == "has dog, cat; its meaning +0.90, its words +0.70"
    assert why([], parts[1]) == "its words -1.00"


def test_every_place_is_explained(embedder: StaticEmbedder) -> None:
    index = index_of(embedder, 60)
    ranked = Ranker.shipped().rank(index, query_of("Who moved to Lyon?", index, embedder))
    assert len(ranked) == 60
    for place in range(60):
        shares = ranked.shares(place)
        expected = {n: round(v, 3) for n, v in shares.items() if abs(v) >= 0.001}
        found = ranked.features(place)
        assert {n: found.get(n, 0) for n in expected} == pytest.approx(expected, abs=0.0011)
        (parts,) = parts_of(tuple(shares), np.array([list(shares.values())], np.float32).T)
        assert ranked.why(place) == why(ranked.words(place), parts)


def test_the_best_are_the_best_and_of_equals_the_first() -> None:
    scores = np.array([3, 1, 3, 2, 3, 0], np.float32)
    assert best_of(scores, np.arange(6), 2).tolist() == [0, 2]
    assert best_of(scores, np.arange(6), 4).tolist() == [0, 2, 4, 3]
    assert best_of(scores, np.array([1, 3, 5]), 9).tolist() == [3, 1, 5]


# -- the file -------------------------------------------------------------------------------------


def broken(**changed: Any) -> Any:
    raw = msgspec.json.decode(SHIPPED.read_bytes())
    raw["scan"] = dict(raw["scan"])
    for name, value in changed.items():
        if name in raw["scan"]:
            raw["scan"][name] = value
        else:
            raw[name] = value
    return raw


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"checksum": 1}, "checksum"),
        ({"slope": 9.5}, "checksum"),
        ({"names": ["words"]}, "one mean"),
        ({"means": [0.0]}, "one mean"),
        ({"more": 1}, "holds no weights"),
        ({"slope": None}, "holds no weights"),
        ({"examine": []}, "holds no weights"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    path = tmp_path / "weights.json"
    path.write_bytes(msgspec.json.encode(broken(**changed)))
    with pytest.raises(UsageError, match=says):
        read_weights(path)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\0" * 100, b'{"version": 1}'])
def test_what_is_no_weights_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "w").write_bytes(raw)
    with pytest.raises(UsageError, match="holds no weights"):
        read_weights(tmp_path / "w")


def test_numbers_that_are_none_and_files_that_are_huge_are_refused(tmp_path: Path) -> None:
    weights = read_weights(SHIPPED)
    for value in (math.nan, math.inf):
        scan = msgspec.structs.replace(weights.scan, weights=(value, *weights.scan.weights[1:]))
        with pytest.raises(UsageError, match="not a finite number"):
            sealed(msgspec.structs.replace(weights, scan=scan))
        with pytest.raises(UsageError, match="not a finite number"):
            sealed(msgspec.structs.replace(weights, offset=value))
    scales = (0.0, *weights.scan.scales[1:])
    scan = msgspec.structs.replace(weights.scan, scales=scales)
    with pytest.raises(UsageError, match="scale"):
        sealed(msgspec.structs.replace(weights, scan=scan))
    raw = SHIPPED.read_bytes()
    (tmp_path / "w").write_bytes(raw.replace(b'"slope": ', b'"slope": 1e999, "was": ', 1))
    with pytest.raises(UsageError):
        read_weights(tmp_path / "w")
    (tmp_path / "w").write_bytes(raw + b" " * (1 << 20))
    with pytest.raises(UsageError, match="more than"):
        read_weights(tmp_path / "w")
    with pytest.raises(UsageError, match="holds no weights"):
        read_weights(tmp_path / "missing")


def test_weights_of_other_features_are_refused() -> None:
    weights = read_weights(SHIPPED)
    names = (*weights.scan.names[:-1], "other")
    with pytest.raises(UsageError, match="not those of this release"):
        Ranker(
            sealed(
                msgspec.structs.replace(
                    weights, scan=msgspec.structs.replace(weights.scan, names=names)
                )
            )
        )


def test_what_is_sealed_is_read_again(tmp_path: Path) -> None:
    weights = read_weights(SHIPPED)
    assert sealed(weights) == weights
    assert weights.fitted_on
    (tmp_path / "w").write_bytes(msgspec.json.encode([weights, weights]))
    assert read_several(tmp_path / "w") == [weights, weights]
