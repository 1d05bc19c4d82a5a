"""The models of the answer cache: fitted alike from alike data, and opened whole or not at all."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest

from memopt.answers.features import Reader
from memopt.answers.matching import SHIPPED, Matcher, chosen_of, open_matcher, pack_matcher
from memopt.answers.verification import UNKNOWN_TIME
from memopt.base.errors import CorruptionError, StoreVersionError, UsageError
from memopt.bench import answer_fitting
from memopt.bench.answer_data import (
    Asking,
    LabelledPair,
    components,
    load_intents,
    load_pairs,
)
from memopt.bench.answer_fitting import fit_matcher, score_table
from memopt.embedding.static import StaticEmbedder

THINGS = ["card", "account", "transfer", "loan", "receipt", "limit", "refund", "address"]
WAYS = ["How do I change my {}?", "how can I change the {}", "What must I do to change a {}?"]


def small_data() -> tuple[list[LabelledPair], list[Asking]]:
    chance = random.Random(2)
    pairs = []
    for _ in range(160):
        one, other = chance.choice(THINGS), chance.choice(THINGS)
        other = one if chance.random() < 0.5 else other
        pairs.append(
            LabelledPair(
                chance.choice(WAYS).format(one), chance.choice(WAYS).format(other), one == other
            )
        )
    askings = [
        Asking(f"{way.format(thing)} {n}", thing)
        for n in range(4) for way in WAYS for thing in THINGS
    ]  # fmt: skip
    return pairs, askings


@pytest.fixture(scope="module")
def fitted() -> Matcher:
    pytest.importorskip("scipy", reason="fitting needs scipy")
    return fit()


def fit() -> Matcher:
    pairs, askings = small_data()
    with pytest.MonkeyPatch.context() as patched:
        # A few trees and folds are enough to see that they come out alike.
        patched.setattr(answer_fitting, "_ROUNDS", 12)
        patched.setattr(answer_fitting, "_INNER", 2)
        return fit_matcher(pairs, np.arange(len(pairs)) % 23, askings, StaticEmbedder())


def alike(matcher: Matcher, one: str, other: str) -> float:
    reader = Reader(StaticEmbedder())
    first, second = (reader.read(text, UNKNOWN_TIME) for text in (one, other))
    there = matcher.alike(reader.pair(first, second))
    assert there == pytest.approx(matcher.alike(reader.pair(second, first)), abs=1e-4)
    return there


def test_the_same_data_give_the_same_models(fitted: Matcher) -> None:
    assert pack_matcher(fit()) == pack_matcher(fitted)


def test_what_was_fitted_is_packed_and_opened(fitted: Matcher, tmp_path: Path) -> None:
    path = tmp_path / "matcher.bin"
    path.write_bytes(pack_matcher(fitted))
    opened = open_matcher(path)
    for pair in small_data()[0][:9]:
        assert alike(opened, pair.one, pair.other) == alike(fitted, pair.one, pair.other)
    assert pack_matcher(opened) == path.read_bytes()


def test_the_shipped_one_was_fitted_with_the_shipped_table() -> None:
    """Where another table is shipped, tools/fit_answers.py has to be run, too."""
    assert open_matcher().lexicon == StaticEmbedder().space


def test_the_shipped_one_knows_what_differs() -> None:
    matcher = open_matcher()
    same = alike(matcher, "How do I learn to cook?", "What is the best way to learn cooking?")
    other = alike(matcher, "How do I learn to cook?", "How do I learn to drive?")
    assert same > other + 1
    assert matcher.pair_scores.of(same) > matcher.pair_scores.of(other)


@pytest.mark.parametrize("place", [0, 3, 4, 6, 9, 13, 20, 5000, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, place: int) -> None:
    whole = bytearray(SHIPPED.read_bytes())
    whole[place] ^= 4
    path = tmp_path / "matcher.bin"
    path.write_bytes(whole)
    with pytest.raises((CorruptionError, StoreVersionError)):
        open_matcher(path)


@pytest.mark.parametrize("size", [0, 3, 15, 16, 40, 60_000])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "matcher.bin"
    path.write_bytes(SHIPPED.read_bytes()[:size])
    with pytest.raises(CorruptionError):
        open_matcher(path)


def test_scores_are_lower_bounds_that_rise() -> None:
    chance = np.random.Generator(np.random.PCG64(3))
    logits = chance.normal(size=3000)
    right = chance.random(3000) < 1 / (1 + np.exp(-3 * logits))
    table = score_table(logits, right.astype(np.float64))
    assert np.all(np.diff(table.scores) >= 0)
    for logit in (-1.0, 0.0, 1.0):
        assert table.of(logit) <= right[logits >= logit].mean() + 0.01


def test_neighbours_vote_for_the_answer_that_most_of_the_near_ones_have() -> None:
    chosen = chosen_of([0.9, 0.88, 0.87, 0.3], [7, 8, 8, 9], 16)
    assert (chosen.place, chosen.holders) == (1, 2)
    alone = chosen_of([0.9], [7], 16)
    assert (alone.place, alone.holders) == (0, 1)


def test_pairs_that_share_a_question_are_of_one_group() -> None:
    pairs = [LabelledPair(*one, True) for one in (("a", "b"), ("c", "d"), ("e", "b"), ("d", "a"))]
    assert components(pairs) == [0, 0, 0, 0]
    assert components(pairs[:2]) == [0, 1]


def test_a_line_that_is_no_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.gz"
    good = b'{"text_a": "a", "text_b": "b", "label": 1}\n'
    path.write_bytes(gzip.compress(good + b'{"text_a": 4}\n'))
    with pytest.raises(UsageError) as raised:
        load_pairs(path)
    assert raised.value.field == f"{path}:2"
    path.write_bytes(gzip.compress(good))
    assert load_pairs(path) == [LabelledPair("a", "b", True)]
    path.write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        load_pairs(path)
    path.write_bytes(gzip.compress(b"text,category\nWhere?,place\n"))
    assert load_intents([path]) == [Asking("Where?", "place")]
    path.write_bytes(gzip.compress(b"text,category\nWhere?\n"))
    with pytest.raises(UsageError, match="text,category"):
        load_intents([path])
