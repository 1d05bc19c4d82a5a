"""The ladder, up and down: readings by hand, a clock that stands still."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt.base.clock import ManualClock
from memopt.base.errors import BudgetError
from memopt.base.events import Events, PressureChanged, StepTaken, StepUndone
from memopt.base.readings import Level, Reading
from memopt.base.units import GIB, MIB
from memopt.pressure.forecast import Forecaster
from memopt.pressure.governor import LEVELS, Governor, Step, nearest

PERIOD = 0.25
BUDGET = 100 * MIB


def reading(share: float, **figures: Any) -> Reading:
    """`share` of the budget is held and cannot be given back; RSS is far from its limit."""
    figures = {
        "reserved_bytes": round(share * BUDGET), "budget_bytes": BUDGET, "evictable_bytes": 0,
        "rss_bytes": 50 * MIB, "rss_start_bytes": 50 * MIB, "rss_limit_bytes": 200 * MIB,
        "rss_limit_is_hard": False,
    } | figures  # fmt: skip
    return Reading(**figures)


class Ladder:
    """A governor whose steps write down that they were called."""

    def __init__(self, aggressiveness: float = 0.0) -> None:
        self.clock = ManualClock()
        self.deeds: list[str] = []
        self.events: list[Any] = []
        names = {"one": Level.GUARDED, "two": Level.GUARDED, "three": Level.HIGH}
        steps = [
            Step(
                name, level, lambda n=name: self.deeds.append(f"do {n}"),  # type: ignore[misc]
                lambda n=name: self.deeds.append(f"undo {n}"),  # type: ignore[misc]
            )
            for name, level in names.items()
        ]  # fmt: skip
        self.governor = Governor(
            steps, Forecaster(PERIOD), guarded_share=0.75, high_share=0.9,
            aggressiveness=aggressiveness, dwell_seconds=2.0, clock=self.clock,
            events=Events(self),
        )  # fmt: skip

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def see(self, share: float, times: int = 1, **figures: Any) -> None:
        for _ in range(times):
            self.clock.advance(PERIOD)
            self.governor.observe(reading(share, **figures))

    @property
    def told(self) -> list[str]:
        """Levels and steps, in the order of their events."""
        found = []
        for event in self.events:
            match event:
                case PressureChanged(level=level):
                    found.append(str(level))
                case StepTaken(step=step):
                    found.append(f"+{step}")
                case StepUndone(step=step):
                    found.append(f"-{step}")
        return found


def test_the_ladder_is_climbed_in_order_and_left_in_the_reverse_order() -> None:
    ladder = Ladder()
    ladder.see(0.5, 4)
    assert ladder.told == []
    ladder.see(0.8, 4)
    ladder.see(0.92, 4)
    ladder.see(0.98, 2)
    assert ladder.governor.refusing
    ladder.see(0.2, 60)
    assert ladder.told == [
        "guarded", "+one", "+two", "high", "+three", "critical", "+refuse new work",
        "high", "-refuse new work", "guarded", "-three", "calm", "-two", "-one",
    ]  # fmt: skip
    assert ladder.deeds == [
        "do one", "do two", "do three", "undo three", "undo two", "undo one"
    ]  # fmt: skip
    assert not ladder.governor.refusing


def test_at_critical_every_step_is_taken_at_once() -> None:
    ladder = Ladder()
    ladder.see(0.99, 2)
    assert ladder.told == ["critical", "+one", "+two", "+three", "+refuse new work"]


def test_a_single_reading_above_an_entry_changes_nothing() -> None:
    ladder = Ladder()
    for _ in range(50):
        ladder.see(0.3, 3)
        ladder.see(0.99)
    assert ladder.told == []


def test_at_the_border_there_is_no_oscillation() -> None:
    ladder = Ladder()
    for _ in range(200):
        ladder.see(0.76, 3)
        ladder.see(0.74, 3)
    assert ladder.told == ["guarded", "+one", "+two"]
    for _ in range(200):
        ladder.see(0.71, 1)
        ladder.see(0.69, 7)
    # Below the exit for less than the dwell time, each time.
    assert ladder.told == ["guarded", "+one", "+two"]


def test_each_level_is_left_after_its_own_dwell_time() -> None:
    ladder = Ladder()
    ladder.see(0.99, 2)
    ladder.see(0.1, 7)
    assert ladder.governor.level is Level.CRITICAL
    ladder.see(0.1)
    assert ladder.governor.level is Level.HIGH
    ladder.see(0.1, 7)
    assert ladder.governor.level is Level.HIGH
    ladder.see(0.1)
    assert ladder.governor.level is Level.GUARDED


def test_a_budget_full_of_what_can_be_given_back_is_calm() -> None:
    ladder = Ladder()
    ladder.see(1.0, 100, evictable_bytes=90 * MIB, rss_bytes=150 * MIB)
    assert ladder.told == []
    assert ladder.governor.claim.share == pytest.approx(0.1)


def test_a_forecast_leads_up_the_ladder_and_never_to_refusal() -> None:
    ladder, blind = Ladder(aggressiveness=1.0), Ladder(aggressiveness=0.0)
    for step in range(70):
        share = 0.01 * step
        ladder.see(share)
        blind.see(share)
    assert blind.governor.level is Level.CALM
    assert ladder.governor.level in (Level.GUARDED, Level.HIGH)
    assert not ladder.governor.refusing
    for step in range(26):
        ladder.see(0.7 + 0.01 * step)
    assert ladder.governor.level is Level.HIGH


def test_an_rss_limit_that_nobody_asked_for_refuses_nothing() -> None:
    ladder = Ladder()
    ladder.see(0.1, 50, rss_bytes=500 * MIB)
    assert ladder.governor.level is Level.HIGH
    assert not ladder.governor.refusing
    asked = Ladder()
    asked.see(0.1, 50, rss_bytes=500 * MIB, rss_limit_is_hard=True)
    assert asked.governor.refusing


def test_an_rss_limit_that_nobody_asked_for_hides_no_other() -> None:
    ladder = Ladder()
    ladder.see(0.99, 2, rss_bytes=500 * MIB)
    assert ladder.governor.refusing


@pytest.mark.parametrize(
    ("figures", "limit", "share"),
    [
        ({}, "budget", 0.5),
        ({"rss_bytes": 170 * MIB}, "rss", 0.8),
        ({"rss_bytes": 170 * MIB, "evictable_bytes": 40 * MIB}, "rss", 80 / 150),
        ({"memory_used_bytes": 90, "memory_limit_bytes": 100}, "memory", 0.9),
        ({"memory_used_bytes": 90}, "budget", 0.5),
        (
            {"rss_bytes": 110 * MIB, "data_start_bytes": 0, "data_limit_bytes": 80 * MIB},
            "data",
            0.75,
        ),
    ],
)
def test_the_nearest_limit_is_the_one_that_counts(
    figures: dict[str, Any], limit: str, share: float
) -> None:
    claim = nearest(reading(0.5, **figures))
    assert (claim.limit, claim.share) == (limit, pytest.approx(share))


def test_of_a_large_group_the_last_part_counts() -> None:
    group = {"memory_limit_bytes": 64 * GIB, "memory_used_bytes": 63 * GIB}
    # 0.984 of the group, and ten times the budget is free.
    assert nearest(reading(0.1, **group)).share == pytest.approx(0.1)
    group["memory_used_bytes"] = 64 * GIB - 16 * MIB
    claim = nearest(reading(0.1, **group))
    assert (claim.limit, claim.share) == ("memory", pytest.approx(1 - 16 / 1024))
    group["memory_used_bytes"] = 65 * GIB
    assert nearest(reading(0.1, **group)).share > 1


def test_a_machine_that_stalls_is_guarded() -> None:
    ladder = Ladder()
    ladder.see(0.1, 2, stall_full_percent=25.0)
    assert ladder.told == ["guarded", "+one", "+two"]
    ladder.see(0.1, 60, stall_full_percent=0.0)
    assert ladder.governor.level is Level.CALM


def test_a_step_that_fails_is_passed_and_undone_like_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ladder = Ladder()

    def fail() -> None:
        raise BudgetError("none", limit="budget")

    governor = ladder.governor
    governor._steps = (governor._steps[0]._replace(do=fail), *governor._steps[1:])
    ladder.see(0.8, 3)
    assert [step.name for step in governor.taken] == ["one", "two"]
    assert "step 'one' failed" in caplog.text


def test_when_refused_a_fall_says_when_to_come_again() -> None:
    ladder = Ladder()
    ladder.see(1.0, 20)
    still = ladder.governor.retry_after_seconds()
    for step in range(4):
        ladder.see(1.0 - 0.005 * step)
    falling = ladder.governor.retry_after_seconds()
    assert ladder.governor.refusing
    assert 0 < falling <= 60
    assert 0 < still <= 60
    for step in range(400):
        if not ladder.governor.refusing:
            break
        ladder.see(max(0.0, 0.985 - 0.005 * step))
    assert step * PERIOD <= 1.5 * falling + 1.0


def test_closing_undoes_everything() -> None:
    ladder = Ladder()
    ladder.see(0.99, 2)
    ladder.governor.undo_all()
    assert ladder.deeds[-3:] == ["undo three", "undo two", "undo one"]
    assert not ladder.governor.refusing


def test_whatever_a_step_raises_the_others_are_taken_and_undone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ladder = Ladder()

    def fail() -> None:
        raise ZeroDivisionError("a defect")

    governor = ladder.governor
    broken = governor._steps[1]._replace(do=fail, undo=fail)
    governor._steps = (governor._steps[0], broken, *governor._steps[2:])
    ladder.see(0.99, 2)
    assert governor.refusing
    ladder.see(0.1, 60)
    assert governor.taken == []
    assert ladder.deeds == ["do one", "do three", "undo three", "undo one"]
    ladder.see(0.99, 2)
    governor.undo_all()
    assert ladder.deeds[-2:] == ["undo three", "undo one"]
    assert not governor.refusing
    assert "a defect" in caplog.text


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([0.75, 0.90, 0.97, 0.70, 0.85, 0.92]), st.floats(0, 0.02), st.integers(0, 99)
)
def test_noise_around_a_border_changes_no_level_for_long(
    border: float, noise: float, seed: int
) -> None:
    """Two minutes around an entry or an exit, with noise smaller than what lies between them."""
    chance, ladder = random.Random(seed), Ladder()
    for _ in range(480):
        ladder.see(border + chance.uniform(-noise, noise))
    changes = [event for event in ladder.events if isinstance(event, PressureChanged)]
    assert len(changes) <= 3


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1.2), st.integers(1, 12), st.floats(0, 100)), min_size=1, max_size=40
    ),
    st.floats(0, 1),
)
def test_whatever_the_readings_the_invariants_hold(
    runs: list[tuple[float, int, float]], aggressiveness: float
) -> None:
    ladder = Ladder(aggressiveness)
    governor = ladder.governor
    changed_at = dict.fromkeys(LEVELS, 0.0)
    for share, times, stall in runs:
        for _ in range(times):
            before, level = len(governor.taken), governor.level
            ladder.see(share, stall_full_percent=stall)
            now = ladder.clock.monotonic()
            assert governor.taken == list(governor._steps[: len(governor.taken)])
            assert governor.refusing == (len(governor.taken) == len(governor._steps))
            if governor.level is not Level.CRITICAL:
                assert abs(len(governor.taken) - before) <= 1
            climbed = LEVELS.index(governor.level) - LEVELS.index(level)
            assert climbed >= -1
            if climbed < 0:
                assert now - changed_at[level] >= 2.0
                assert share < governor._entries[LEVELS.index(level)]
            if climbed > 0:
                changed_at[governor.level] = now
    ladder.see(0.0, 80)
    assert governor.level is Level.CALM
    assert governor.taken == []
    done = [deed for deed in ladder.deeds if deed.startswith("do")]
    assert len(done) == len(ladder.deeds) - len(done)


def test_what_rss_took_from_the_budget_is_no_pressure_on_it_but_leaves_less() -> None:
    """Half of the budget was taken for RSS, which is well again: no reason for a level."""
    seen = reading(0.8, outside_bytes=50 * MIB)
    assert nearest(seen).limit == "budget"
    assert nearest(seen).share == pytest.approx(0.6)
    assert nearest(reading(0.8)).share == pytest.approx(0.8)
    ladder = Ladder()
    ladder.see(0.8, times=20, outside_bytes=50 * MIB)
    assert ladder.governor.level is Level.CALM
    ladder.see(0.97, times=2, outside_bytes=50 * MIB)
    assert ladder.governor.level is Level.HIGH
