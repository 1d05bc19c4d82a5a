"""Triggers under a clock that stands still and chance that is seeded; and who runs them."""

import random
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.events import Collected
from memopt.base.protocols import Trigger
from memopt.base.records import ArenaUsage
from memopt.base.units import KIB, MIB
from memopt.pressure.collector import PAUSE_SECONDS, Collector
from memopt.pressure.triggers import (
    TRIGGERS,
    Bandit,
    Fragmentation,
    Growth,
    Periodic,
    make_trigger,
)
from memopt.testing.triggers import TriggerConformance


def usage(live_mib: float, dead_mib: float) -> ArenaUsage:
    live, dead = int(live_mib * MIB), int(dead_mib * MIB)
    return ArenaUsage(live, dead, live + dead)


class TestPeriodic(TriggerConformance):
    def make(self, chance: random.Random) -> Trigger:
        return make_trigger("periodic", chance)


class TestFragmentation(TriggerConformance):
    def make(self, chance: random.Random) -> Trigger:
        return make_trigger("fragmentation", chance)


class TestGrowth(TriggerConformance):
    def make(self, chance: random.Random) -> Trigger:
        return make_trigger("growth", chance)


class TestBandit(TriggerConformance):
    def make(self, chance: random.Random) -> Trigger:
        return make_trigger("bandit", chance)


class TestBanditUcb(TriggerConformance):
    def make(self, chance: random.Random) -> Trigger:
        return make_trigger("bandit_ucb", chance)


def test_every_trigger_has_its_suite() -> None:
    assert len(TriggerConformance.__subclasses__()) == len(TRIGGERS)


def test_an_unknown_trigger_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="periodic, fragmentation, growth") as caught:
        make_trigger("often", random.Random(0))
    assert caught.value.field == "collection_trigger"


def test_a_store_refuses_an_unknown_trigger_and_pays_nothing_for_an_empty_arena(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="collection_trigger"):
        memopt.open(tmp_path / "store", config=Config(collection_trigger="often"))
    for name in TRIGGERS:
        config = Config(collection_trigger=name, maintenance_seconds=0)
        with memopt.open(tmp_path / name, config=config) as memory:
            assert memory.stats().owners.get("arena", 0) == 0


def test_periodic_is_due_after_its_period_and_again_after_the_next() -> None:
    trigger, some = Periodic(10), usage(5, 1)
    assert [trigger.due(some, now) for now in (100, 105, 109.9, 110)] == [False, False, False, True]
    trigger.collected(some, 0.001, 112)
    assert [trigger.due(some, now) for now in (120, 122)] == [False, True]


def test_fragmentation_is_due_above_its_share_where_it_is_worth_it() -> None:
    trigger = Fragmentation(0.25, MIB)
    assert not trigger.due(usage(9, 2.9), 0)
    assert trigger.due(usage(9, 3), 0)
    assert not trigger.due(usage(0.1, 0.9), 0), "the share is large, and the bytes are few"


def test_growth_is_due_by_its_factor_over_what_the_last_collection_left() -> None:
    trigger = Growth(1.5, MIB)
    assert not trigger.due(usage(10, 0), 0)
    assert not trigger.due(usage(10, 4.9), 0)
    assert trigger.due(usage(10, 5), 0)
    trigger.collected(usage(14, 0), 0.001, 0)
    assert not trigger.due(usage(14, 6), 0)
    assert trigger.due(usage(14, 7), 0)
    assert not trigger.due(usage(2, 1), 0), "it shrank by itself"
    assert trigger.due(usage(2, 2.5), 0), "and grew again from there"


class Costly:
    """An arm that is always due, and has the pauses and the dead share that a test gives it."""

    def __init__(self) -> None:
        self.asked = 0
        self.told = 0

    def due(self, usage: ArenaUsage, now: float) -> bool:
        self.asked += 1
        return True

    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        self.told += 1


def play(bandit: Bandit, dead_shares: list[float], epochs: int, *, start: float = 0.0) -> list[int]:
    """How often each arm was taken, where each has a dead share of its own."""
    taken = [0] * len(dead_shares)
    for second in range(epochs):
        share = dead_shares[bandit.arm]
        bandit.due(ArenaUsage(0, round(share * MIB), MIB), start + second)
        taken[bandit.arm] += 1
    return taken


@pytest.mark.parametrize("explored_share", [0.1, None])
def test_a_bandit_takes_the_best_arm_most_of_the_time(explored_share: float | None) -> None:
    arms = [Costly(), Costly(), Costly()]
    bandit = Bandit(arms, chance=random.Random(5), explored_share=explored_share, epoch_seconds=1.0)
    taken = play(bandit, [0.6, 0.2, 0.4], 400)
    assert taken[1] >= 0.6 * 400
    assert min(taken) >= 3, "and looks at the others now and then"
    assert bandit.rewards == pytest.approx([0.4, 0.8, 0.6], abs=0.06)
    assert [arm.asked for arm in arms] == [400, 400, 400]


@pytest.mark.parametrize("explored_share", [0.1, None])
def test_a_bandit_follows_when_another_arm_becomes_the_best(explored_share: float | None) -> None:
    bandit = Bandit(
        [Costly(), Costly()], chance=random.Random(5), explored_share=explored_share,
        epoch_seconds=1.0,
    )  # fmt: skip
    assert play(bandit, [0.1, 0.5], 200)[0] >= 140
    play(bandit, [0.8, 0.3], 100, start=200.0)
    assert play(bandit, [0.8, 0.3], 200, start=300.0)[1] >= 140


def test_pauses_count_against_an_arm() -> None:
    bandit = Bandit([Costly(), Costly()], chance=random.Random(1), epoch_seconds=10.0)
    for second in range(0, 400, 1):
        bandit.due(usage(9, 1), float(second))
        bandit.collected(usage(10, 0), 0.03 if bandit.arm == 0 else 0.001, float(second))
    first, second_reward = bandit.rewards
    assert first == pytest.approx(1 - 0.1 - 10 * 0.03, abs=0.04)
    assert second_reward == pytest.approx(1 - 0.1 - 10 * 0.001, abs=0.04)
    assert bandit.arm == 1


def test_every_arm_hears_of_every_collection() -> None:
    arms = [Costly(), Costly()]
    bandit = Bandit(arms, chance=random.Random(1))
    bandit.collected(usage(1, 0), 0.001, 0.0)
    assert [arm.told for arm in arms] == [1, 1]


# -- the collector --------------------------------------------------------------------------------


class Arena:
    """Has so many slices to do, and takes a time for each that grows with the bytes."""

    def __init__(self, slices: int, seconds_per_mib: float, clock: ManualClock) -> None:
        self.slices = slices
        self.seconds_per_mib = seconds_per_mib
        self.asked: list[tuple[int, str]] = []
        self._clock = clock

    def usage(self) -> ArenaUsage:
        return usage(1, self.slices)

    def collect(self, bytes_max: int, *, reason: str) -> Any:
        self.asked.append((bytes_max, reason))
        self.slices = max(0, self.slices - 1)
        seconds = self.seconds_per_mib * bytes_max / MIB
        self._clock.advance(seconds)
        return Collected(
            moved_bytes=1, freed_bytes=MIB, extents=1, seconds=seconds, reason=reason,
            more=self.slices > 0,
        )  # fmt: skip


def collector_of(
    arena: Arena, trigger: Trigger, clock: ManualClock
) -> tuple[Collector, list[float]]:
    waits: list[float] = []
    collector = Collector(arena, trigger, name="mine", clock=clock, wait=waits.append)
    return collector, waits


class Once:
    """Due at the first question; remembers what it was told."""

    def __init__(self) -> None:
        self.questions = 0
        self.told: list[tuple[ArenaUsage, float]] = []

    def due(self, usage: ArenaUsage, now: float) -> bool:
        self.questions += 1
        return self.questions == 1

    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        self.told.append((usage, pause_seconds))


def test_a_step_collects_all_there_is_when_it_is_due_and_steps_aside_between() -> None:
    clock, trigger = ManualClock(), Once()
    arena = Arena(10, 0.001, clock)
    collector, waits = collector_of(arena, trigger, clock)
    collector.step()
    assert len(arena.asked) == 10
    assert {reason for _, reason in arena.asked} == {"mine"}
    assert len(waits) == 9
    [(left, pause_seconds)] = trigger.told
    assert left.dead_bytes == 0
    assert pause_seconds == pytest.approx(clock.monotonic())
    collector.step()
    assert len(arena.asked) == 10, "it was not due again"


def test_a_step_ends_after_its_time_and_the_next_one_goes_on() -> None:
    clock, trigger = ManualClock(), Once()
    arena = Arena(1_000_000, 0.1, clock)
    collector, _ = collector_of(arena, trigger, clock)
    collector.step()
    first = len(arena.asked)
    assert clock.monotonic() == pytest.approx(0.1, rel=0.1)
    collector.step()
    assert len(arena.asked) > first
    assert trigger.questions == 2


@pytest.mark.parametrize("seconds_per_mib", [0.0002, 0.002, 0.02])
def test_slices_become_as_large_as_a_short_pause_allows(seconds_per_mib: float) -> None:
    clock = ManualClock()
    arena = Arena(200, seconds_per_mib, clock)
    collector, _ = collector_of(arena, Once(), clock)
    collector.collect(10.0)
    pauses = [seconds_per_mib * size / MIB for size, _ in arena.asked]
    assert max(pauses[20:]) <= 1.25 * PAUSE_SECONDS
    sizes = [size for size, _ in arena.asked]
    assert (
        min(pauses[20:]) >= PAUSE_SECONDS / 4 or max(sizes) == 512 * KIB or (min(sizes) == 8 * KIB)
    )


def test_pressure_collects_whatever_the_trigger_says() -> None:
    clock, trigger = ManualClock(), Once()
    trigger.questions = 1
    arena = Arena(3, 0.001, clock)
    collector, _ = collector_of(arena, trigger, clock)
    collector.step()
    assert not arena.asked
    assert collector.collect() == 3 * MIB
    assert {reason for _, reason in arena.asked} == {"pressure"}
    assert len(trigger.told) == 1
