"""The benchmark of the answer cache measures what it says."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from memopt.answers.matching import SHIPPED, open_matcher
from memopt.bench import answer_peers, answers
from memopt.bench.answer_data import Asking, LabelledPair
from memopt.bench.answers import Outcome
from memopt.bench.command import BenchOptions
from memopt.embedding.static import StaticEmbedder

ASKINGS = [
    Asking(f"{how} my {thing}{mark}", thing)
    for mark in ("?", "", " please", " today")
    for how in ("How do I change", "Where can I see", "Why can I not find")
    for thing in ("card", "address", "balance", "limit")
]


def test_shares_are_of_what_was_asked_of_what_was_served_and_of_what_was_due() -> None:
    outcomes = [Outcome(n, True, True, False) for n in range(6)]
    outcomes += [Outcome(6, False, True, True), Outcome(7, True, False, False)]
    found = answers._figures(outcomes, 0)
    assert (found["asked"], found["served"]) == (8, 7)
    assert found["hit_ratio"] == 0.875
    assert found["wrong_per_hit"] == pytest.approx(1 / 7, abs=1e-4)
    assert found["duplicates_served"] == pytest.approx(6 / 7, abs=1e-4)
    for name in ("hit_ratio", "wrong_per_hit", "duplicates_served"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert answers._figures(outcomes[7:], 0)["wrong_per_hit"] == 0.0


def test_a_stream_stores_what_is_not_answered(tmp_path: Path) -> None:
    # The second half asks the first one's questions in the same words.
    found = answers._streamed(tmp_path, ASKINGS[:24], [open_matcher()] * 24, 0)
    assert len(found) == 24
    assert [one.is_served for one in found[12:]] == [True] * 12
    assert not any(one.is_wrong for one in found)


def test_pairs_are_asked_each_in_a_context_of_its_own(tmp_path: Path) -> None:
    pairs = [
        LabelledPair("What is a page?", "what is a PAGE", True),
        LabelledPair("What is a page?", "Who wrote Faust?", False),
    ]
    found = answers._paired(tmp_path, list(enumerate(pairs)), open_matcher())
    assert [(one.is_served, one.is_wrong) for one in found] == [(True, False), (False, False)]


def test_the_nearest_is_looked_for_among_all(tmp_path: Path) -> None:
    texts = [asking.question for asking in ASKINGS]
    assert answers._best_found(texts, ["Where is my card?", "What?"], StaticEmbedder()) == 1.0


@pytest.mark.parametrize("system", ["memopt", "gptcache"])
def test_both_systems_are_asked_alike(tmp_path: Path, system: str) -> None:
    if system == "gptcache":
        for name in ("gptcache", "faiss", "sqlalchemy"):
            pytest.importorskip(name, reason="the peer is not installed")
    stream = tuple((asking.question, asking.intent, 0) for asking in ASKINGS[:24])
    task = answer_peers.Task(
        system=system, home=str(tmp_path), askings=stream, matchers=(str(SHIPPED),), threshold=0.9
    )
    found: Any = answer_peers.run_in_child(answer_peers.measure, msgspec.to_builtins(task))
    assert found["asked"] == 24
    assert found["hit_ratio"] >= 0.5
    assert 0 <= found["wrong_per_hit"] < 1


def test_a_threshold_that_serves_as_much_is_found() -> None:
    embedder = StaticEmbedder()
    strict = answer_peers._threshold(ASKINGS, 0.3, embedder)
    loose = answer_peers._threshold(ASKINGS, 0.6, embedder)
    assert 0.5 < loose <= strict <= 1


def test_without_data_there_is_nothing_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMOPT_DATA", str(tmp_path))
    assert answers.run(BenchOptions(quick=True)).keys() == {"machine"}
    assert "is not there" in capsys.readouterr().err
