"""What `bench agents` says of a pair of runs."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from memopt.bench import agents, data
from memopt.bench.command import BenchOptions
from memopt.bench.population import Task, grow, serve
from memopt.bench.traces import read_trace


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


@pytest.mark.parametrize("quick", [True, False])
def test_the_seconds_of_the_model_are_those_that_were_waited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: bool
) -> None:
    """By the agents that are served: `serve` waits what its task says (test_population.py)."""
    waited: list[float] = []

    def run_in_child(work: Any, task: Task, report: Any) -> dict[str, Any]:
        if work is serve:
            waited.append(task.model_seconds)
            return {
                "step_ms": {"p50": 1.0, "p99": 1.0}, "step_ms_mean": 1.0,
                "messages_per_second": 1.0, "agents_with_losses": 0,
            }  # fmt: skip
        assert work is grow
        assert not task.model_seconds
        return {"rss_growth_bytes_max": 1}

    monkeypatch.setattr(agents, "run_in_child", run_in_child)
    monkeypatch.setattr(agents, "_fill", lambda *_: {})
    monkeypatch.setattr(agents, "plot", lambda *_: None)
    result = agents.run(
        BenchOptions(quick=quick, files=(data.SAMPLE,), home=tmp_path, out=tmp_path)
    )
    assert len(waited) == 2 * len(agents.WORKLOADS) * (1 if quick else 3)
    assert set(waited) == {result["model_seconds"]}
    # What the module says of itself: 500 ms, and less where it only has to work.
    assert 0 < result["model_seconds"] < 0.5 if quick else result["model_seconds"] == 0.5


def test_what_is_recorded_can_be_simulated(tmp_path: Path) -> None:
    """Of conversations that fill pages."""
    text, chance = tmp_path / "long.jsonl", random.Random(1)
    roles = ("user", "assistant")
    said = [{"role": roles[at % 2], "content": chance.randbytes(600).hex()} for at in range(80)]
    text.write_text(json.dumps({"messages": said}) + "\n")
    options = BenchOptions(files=(text,), home=tmp_path, out=tmp_path / "out")
    for _ in range(2):
        trace = read_trace(options.out / agents._record(agents.WORKLOADS[0], options, 20))
        assert trace.format == "memopt"
        assert len(trace.sizes) >= 20
        assert trace.requests > len(trace.sizes)
