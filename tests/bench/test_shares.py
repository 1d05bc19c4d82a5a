"""The benches of shares and of prefetching read what was written, in the order they were given."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from memopt.base.records import PoolShares, Prefetch
from memopt.bench import data, prefetch, shares
from memopt.pressure import outside


def silent(line: dict[str, Any]) -> None:
    """Takes a report and says nothing."""


@pytest.mark.parametrize("order", ["zipf", "returns", "scan"])
def test_shares_are_measured_on_both_types(order: str, tmp_path: Path) -> None:
    task = shares.Task(
        store=str(tmp_path / "store"), desk=str(data.SAMPLE), code=str(data.SAMPLE),
        desk_sessions=12, code_sessions=4, reads=24, seed=0, order=order,
        pool_shares=PoolShares.SOFT,
    )  # fmt: skip
    argument = msgspec.to_builtins(task)
    shares.build(argument, silent)
    found = shares.read(argument, silent)
    assert 0 <= found["l1_ratio"] <= found["ram_ratio"] <= 1
    assert found["p50_us"] > 0
    agents = {agent for agent, _ in shares._order(task)}
    assert agents <= {"desk", "code"}
    assert order != "scan" or len(agents) == 2


@pytest.mark.parametrize("case", ["plain", "streamed", "relief"])
def test_prefetching_is_measured_with_what_became_of_its_pages(case: str, tmp_path: Path) -> None:
    task = prefetch.Task(
        files=(str(data.SAMPLE),), store=str(tmp_path / "store"), sessions=10,
        order=tuple(range(10)) * 3, prefetch=Prefetch.ALL, streamed=case == "streamed",
        relief=case == "relief",
    )  # fmt: skip
    argument = msgspec.to_builtins(task)
    assert prefetch.build(argument, silent) == 10
    found = prefetch.read(argument, silent)
    assert found["p50_us"] > 0
    assert found["used"] + found["wasted"] <= found["pages_prefetched"]


def test_the_room_that_somebody_else_has_is_not_given_back_by_the_pressure_monitor() -> None:
    assert prefetch._ELSE != outside.OWNER


def test_runs_are_compared_with_those_without_a_predictor() -> None:
    def run(p50_us: float, used: int) -> dict[str, Any]:
        times = dict.fromkeys(("p50_us", "p99_us", "mean_us", "cpu_us_per_read"), p50_us)
        return {**times, "l1_ratio": 0.5, "pages_prefetched": 10, "used": used, "wasted": 1}

    found = prefetch._compared(
        {"off": [run(100.0, 0)], "next": [run(50.0, 3), run(90.0, 3), run(80.0, 3)]}
    )
    assert found["next"]["p50_us_ratio"] == 0.8
    assert found["next"]["precision"] == 0.75
