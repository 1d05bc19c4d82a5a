"""Forecasts against series whose future is known."""

import math
import random
from collections.abc import Callable

import pytest

from memopt.base.units import MIB
from memopt.pressure.forecast import HORIZON_SECONDS, WINDOW, Forecaster

PERIOD = 0.25
AHEAD = round(HORIZON_SECONDS / PERIOD)
READINGS = 6000


def constant() -> list[float]:
    return [50.0 * MIB] * READINGS


def ramp() -> list[float]:
    return [1000.0 * step for step in range(READINGS)]


def saw() -> list[float]:
    return [(step % 200) * 0.5 * MIB for step in range(READINGS)]


def slow_saw() -> list[float]:
    return [(step % 1000) * 0.05 * MIB for step in range(READINGS)]


def steps() -> list[float]:
    return [(10 if step % 1600 < 800 else 50) * MIB for step in range(READINGS)]


def wave() -> list[float]:
    return [(50 + 20 * math.sin(step / 60)) * MIB for step in range(READINGS)]


def random_walk() -> list[float]:
    chance, at, found = random.Random(1), 50.0, []
    for _ in range(READINGS):
        at = max(0.0, at + chance.gauss(0, 0.5))
        found.append(at * MIB)
    return found


def agents() -> list[float]:
    """How many are at work, as they come and go, more by day than by night."""
    chance, count, found = random.Random(2), 0, []
    for step in range(READINGS):
        rate = 0.2 + 0.15 * math.sin(step / 400)
        count += sum(chance.random() < rate for _ in range(10))
        count -= sum(chance.random() < 0.02 for _ in range(count))
        found.append(count * 0.1 * MIB)
    return found


@pytest.mark.parametrize(
    "series", [constant, ramp, saw, slow_saw, steps, wave, random_walk, agents]
)
def test_upper_forecasts_are_exceeded_in_less_than_one_of_twenty(
    series: Callable[[], list[float]],
) -> None:
    forecaster = Forecaster(PERIOD)
    for used in series():
        forecaster.update(used)
    assert forecaster.scored == READINGS - AHEAD
    assert forecaster.exceeded_share <= 0.05


def test_what_is_counted_as_exceeded_was_exceeded() -> None:
    forecaster = Forecaster(PERIOD)
    series = random_walk()
    uppers = [forecaster.update(used).upper_bytes for used in series]
    exceeded = sum(used > upper + 0.5 for upper, used in zip(uppers, series[AHEAD:], strict=False))
    assert forecaster.exceeded == exceeded > 0


def test_a_steady_ramp_is_forecast_within_a_tenth_of_its_way() -> None:
    forecaster = Forecaster(PERIOD)
    for used in ramp():
        expected = forecaster.update(used)
    way = 1000.0 * AHEAD
    assert expected.upper_bytes == pytest.approx(ramp()[-1] + way, abs=0.1 * way)


def test_a_constant_is_forecast_as_it_is() -> None:
    forecaster = Forecaster(PERIOD)
    for used in constant():
        expected = forecaster.update(used)
    assert expected.bytes == expected.upper_bytes == 50.0 * MIB
    assert forecaster.limit_seconds(60.0 * MIB) is None
    assert forecaster.limit_seconds(50.0 * MIB) == 0.0


def test_the_time_to_the_limit_shrinks_as_it_comes_nearer() -> None:
    forecaster = Forecaster(PERIOD)
    times = []
    for used in ramp()[:4000]:
        forecaster.update(used)
        seconds = forecaster.limit_seconds(4_005_000.0)
        if seconds is not None:
            times.append(seconds)
    assert times
    assert times[-1] <= 4.0
    assert times[-1] < times[0]


def test_a_single_spike_is_no_trend() -> None:
    forecaster = Forecaster(PERIOD)
    for used in [20.0 * MIB] * 100:
        forecaster.update(used)
    assert forecaster.update(90.0 * MIB).bytes < 90.0 * MIB


@pytest.mark.parametrize("period", [0.005, 0.25, 2.0])
def test_however_often_it_is_read_a_step_is_followed_in_the_same_time(period: float) -> None:
    forecaster = Forecaster(period)
    seconds, highest = 0.0, 0.0
    for _ in range(round(5 / period)):
        forecaster.update(20.0 * MIB)
    while forecaster.update(60.0 * MIB).bytes < 50.0 * MIB:
        seconds += period
    for _ in range(round(10 / period)):
        highest = max(highest, forecaster.update(60.0 * MIB).bytes)
    assert seconds <= 1.0
    assert highest < 110.0 * MIB


def test_memory_does_not_grow_with_readings() -> None:
    forecaster = Forecaster(PERIOD)
    for used in random_walk():
        forecaster.update(used)
    assert len(forecaster._open) == AHEAD
    assert len(forecaster._errors) == len(forecaster._sorted) == WINDOW


def test_a_forecast_is_never_below_nothing() -> None:
    forecaster = Forecaster(PERIOD)
    for used in [100.0 * MIB, 0.0, 0.0, 0.0]:
        assert forecaster.update(used).bytes >= 0.0
