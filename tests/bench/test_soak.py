"""The soak's own parts tell the truth, and a short one holds what the long one claims."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memopt.bench import data
from memopt.bench.command import BenchOptions
from memopt.bench.crew import Lives, turns_of
from memopt.bench.soak import PHASES, Sampler, course, soak

SOAK_SECONDS = float(os.environ.get("MEMOPT_SOAK_SECONDS", "60"))


def point(seconds: float, phase: int, level: str = "calm", refusals: int = 0) -> dict[str, Any]:
    return {
        "seconds": seconds, "phase": phase, "level": level, "refusals": refusals,
        "retry_seconds_max": 0.5, "steps_taken": [], "forecasts_exceeded_share": 0.0,
    }  # fmt: skip


def test_turns_cover_a_conversation_without_gaps() -> None:
    lives = Lives([str(data.SAMPLE)])
    turns = lives.turns(0)
    assert turns[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(turns))
    assert turns == turns_of(tuple(lives.messages(0, 0, turns[-1][1])))
    assert lives.messages(0, 0, 5) != lives.messages(1, 0, 5)


def test_the_course_says_when_it_was_calm_again() -> None:
    points = [
        point(1, 0), point(2, 1, "high", 3), point(3, 1, "critical", 9), point(4, 1, "high", 12),
        point(5, 2, "guarded", 12), point(6, 2, "calm", 12),
    ]  # fmt: skip
    found = course(points, ((1, 4, 0), (3, 64, 1), (2, 4, 0)))
    assert found["first_refusal_seconds"] == 2
    assert found["calm_again_after_seconds"] == 1
    assert found["calm_at_the_end"]
    assert found["level_changes_at_the_height"] == 2
    assert found["refusals_after_the_fall"] == 0
    never = course(points[:-1], ((1, 4, 0), (3, 64, 1), (2, 4, 0)))
    assert (never["calm_again_after_seconds"], never["calm_at_the_end"]) == (None, False)


def test_phases_are_shares_of_the_whole() -> None:
    assert sum(PHASES) == pytest.approx(1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_samples_are_of_the_other_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", "x = bytes(1 << 26); input()"], stdin=-1)
    try:
        sampler = Sampler(process.pid)
        sampler.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not any(r > 4 << 20 for _, r in sampler.samples):
            pass
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    sampler.stop()
    assert any(rss > 4 << 20 for _, rss in sampler.samples)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits are the Linux kernel's")
def test_four_times_the_load_loses_nothing_and_stays_within_its_line(tmp_path: Path) -> None:
    found = soak(BenchOptions(out=tmp_path, home=tmp_path), SOAK_SECONDS)
    ours, naive = found["memopt"], found["naive"]
    assert ours["failure"] is None
    assert ours["through"]
    assert not ours["killed_by_the_kernel"]
    assert ours["rss_samples"] > 100
    assert ours["rss_samples_over_line"] == 0
    assert ours["wrong"] == 0
    after = ours["after_the_kill"]
    assert after["messages"] > 0
    assert (after["lost"], after["wrong"], after["clean"]) == (0, 0, True)
    assert ours["refusals"] > 0
    assert ours["calm_at_the_end"]
    assert naive["killed_by_the_kernel"] or naive["rss_bytes_max"] > naive["line_bytes"]
