"""What `bench agents` says of a pair of runs."""

import pytest

from memopt.bench import agents
from memopt.bench.command import BenchOptions


def test_a_ratio_to_agents_that_were_stopped_is_said_to_be_at_least_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for exhausted in (False, True):
        ours = {"agents": 30, "exhausted": exhausted}
        naive = {"agents": 10, "exhausted": True}
        found = iter((naive, ours))
        monkeypatch.setattr(agents, "_filled", lambda *_, found=found: next(found))
        (filled,) = agents._fill(agents.WORKLOADS[0], BenchOptions(quick=True)).values()
        assert (filled["agents_ratio"], filled["is_at_least"]) == (3.0, not exhausted)
    pair = iter(({"agents": 10, "exhausted": False}, ours))
    monkeypatch.setattr(agents, "_filled", lambda *_: next(pair))
    (filled,) = agents._fill(agents.WORKLOADS[0], BenchOptions(quick=True)).values()
    assert filled["agents_ratio"] is None


def test_the_seconds_of_the_model_are_those_that_were_waited() -> None:
    assert agents._model_seconds(BenchOptions(quick=True)) < agents._model_seconds(BenchOptions())
