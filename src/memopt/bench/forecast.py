"""Question: how good are the forecasts of memory, and what does watching it cost?

Method: in one fresh process.
1. Forecasts: series of known kind, four readings a second for half an hour, and one recorded from
   a store that plays conversations; the share of upper forecasts, ten seconds ahead, that were
   exceeded, and the time of an update.
2. Cost: one reading of the probe, one round of the whole monitor, one turn, and appends of the same
   messages in alternating rounds to two stores, one of which is watched.
3. `malloc_trim`: RSS after nine of ten pages of a heap were freed, before and after.
Not measured: what pressure does to a process under load; the soak does that.
"""

import functools
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import memopt
from memopt.base.units import MIB
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, scratch
from memopt.bench.measure import machine, median
from memopt.pressure.forecast import HORIZON_SECONDS, Forecaster
from memopt.upkeep import trim_heap

_PERIOD_SECONDS: Final = 0.25
_READINGS: Final = 7200
_RECORDED_SECONDS: Final = 30.0
_ROUNDS: Final = 9
_BAR_SHARE: Final = 0.10
_REACH_SHARE: Final = 0.05
_PAGE_BYTES: Final = 16 * 1024
_PAGES: Final = 4096


def run(options: BenchOptions) -> dict[str, Any]:
    with scratch(options) as home:
        result: dict[str, Any] = run_in_child(
            measured, {"home": str(home), "quick": options.quick, "seed": options.seed}
        )
        result["machine"] = machine(home)
    return result


def measured(argument: Any, _report: Report) -> Any:
    """Child: all three."""
    home, quick, seed = Path(argument["home"]), argument["quick"], argument["seed"]
    return {
        "trim": _trim(),
        "forecasts": _forecasts(home, _READINGS // (6 if quick else 1), seed, quick=quick),
        "cost": _cost(home, quick=quick),
    }


# -- forecasts ------------------------------------------------------------------------------------


def _forecasts(home: Path, readings: int, seed: int, *, quick: bool) -> dict[str, Any]:
    named = _series(readings, seed)
    named["recorded"] = _recorded(home, 2.0 if quick else _RECORDED_SECONDS)
    shares: dict[str, float] = {}
    times: list[float] = []
    for name, series in named.items():
        forecaster = Forecaster(_PERIOD_SECONDS)
        begun = time.perf_counter()
        for used in series:
            forecaster.update(used)
        times.append((time.perf_counter() - begun) / len(series) * 1e6)
        shares[name] = round(forecaster.exceeded_share, 4)
    return {
        "horizon_seconds": HORIZON_SECONDS,
        "exceeded_share": shares,
        "exceeded_share_max": max(shares.values()),
        "bar_share": _BAR_SHARE,
        "reach_share": _REACH_SHARE,
        "update_us": round(median(times), 2),
    }


def _series(count: int, seed: int) -> dict[str, list[float]]:
    chance = random.Random(seed)
    walk, agents = [50.0], [0]
    for step in range(count - 1):
        walk.append(max(0.0, walk[-1] + chance.gauss(0, 0.5)))
        rate = 0.2 + 0.15 * math.sin(step / 400)
        came = sum(chance.random() < rate for _ in range(10))
        agents.append(agents[-1] + came - sum(chance.random() < 0.02 for _ in range(agents[-1])))
    shapes: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 50.0,
        "noise": lambda step: 50.0 + chance.gauss(0, 1),
        "ramp": lambda step: 0.01 * step,
        "saw": lambda step: 0.5 * (step % 200),
        "slow saw": lambda step: 0.05 * (step % 1000),
        "steps": lambda step: 10.0 if step % 1600 < 800 else 50.0,
        "wave": lambda step: 50.0 + 20.0 * math.sin(step / 60),
        "random walk": lambda step: walk[step],
        "agents that come and go": lambda step: 0.1 * agents[step],
    }
    return {name: [MIB * shape(step) for step in range(count)] for name, shape in shapes.items()}


def _recorded(home: Path, seconds: float) -> list[float]:
    """What a store holds that cannot be given back, read often while it works: a reading every
    25 ms stands for one every quarter of a second."""
    chance, found = random.Random(3), []
    with _opened(home / "recorded", probe_seconds=0) as memory:
        monitor = memory._parts.pressure
        end = time.monotonic() + seconds
        due = time.monotonic()
        while time.monotonic() < end:
            session = memory.session(f"s{chance.randrange(400)}")
            with session.turn():
                session.extend([_message(chance, n) for n in range(chance.randrange(1, 12))])
                if chance.random() < 0.3:
                    list(session.messages())
                if chance.random() < 0.1:
                    session.save_state({"step": chance.random(), "body": "x" * 20_000})
            if time.monotonic() >= due:
                due += 0.025
                reading = monitor.look()
                held = reading.reserved_bytes - reading.evictable_bytes
                found.append(float(held + monitor.admission.used_bytes()))
    return found


# -- cost -----------------------------------------------------------------------------------------


def _cost(home: Path, *, quick: bool) -> dict[str, Any]:
    count = 200 if quick else 3_000
    chance = random.Random(1)
    messages = [_message(chance, number) for number in range(count)]
    with (
        _opened(home / "watched") as watched,
        _opened(home / "alone", probe_seconds=0) as alone,
    ):
        rounds: dict[str, list[float]] = {"watched": [], "alone": []}
        for number in range(_ROUNDS):
            # Whoever comes first has the colder caches: take turns.
            order = [("watched", watched), ("alone", alone)]
            for name, memory in order if number % 2 else reversed(order):
                append = memory.session(f"round {number}").append
                rounds[name].append(_each_us(functools.partial(_play, append, messages), 1) / count)
        monitor, session = alone._parts.pressure, alone.session("turns")
        governor = monitor.governor
        return {
            "append_us": round(median(rounds["watched"]), 2),
            "append_unwatched_us": round(median(rounds["alone"]), 2),
            "append_ratio": round(
                median(a / b for a, b in zip(rounds["watched"], rounds["alone"], strict=True)), 4
            ),
            "check_us": round(_check_us(governor), 4),
            "probe_us": round(_each_us(lambda: monitor._probe.read(), 500), 1),
            "look_us": round(_each_us(lambda: monitor.look(), 500), 1),
            "turn_us": round(_each_us(functools.partial(_turn, session), 2_000), 1),
        }


def _check_us(governor: Any) -> float:
    """What every append has to look at, less an empty loop."""

    def look() -> None:
        for _ in range(100_000):
            if governor.refusing:
                raise AssertionError

    def empty() -> None:
        for _ in range(100_000):
            pass

    differences = [_each_us(look, 1) - _each_us(empty, 1) for _ in range(_ROUNDS)]
    return median(differences) / 100_000


def _play(append: Callable[[Any], Any], messages: list[dict[str, Any]]) -> None:
    for message in messages:
        append(message)


def _turn(session: memopt.Session) -> None:
    with session.turn():
        pass


def _each_us(action: Callable[[], object], count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - begun) / count * 1e6


def _message(chance: random.Random, number: int) -> dict[str, Any]:
    words = " ".join(chance.choice(("order", "refund", "flight", "seat")) for _ in range(60))
    return {"role": "user" if number % 2 else "assistant", "content": words, "n": number}


def _opened(path: Path, **settings: Any) -> memopt.Memory:
    return memopt.open(path, budget=64 * MIB, durability="os", **settings)


# -- the heap -------------------------------------------------------------------------------------


def _trim() -> dict[str, Any]:
    """64 MiB of pages, of which nine in ten go, in no order: as eviction leaves a heap."""
    chance = random.Random(2)
    start = _rss_bytes()
    pages = [chance.randbytes(_PAGE_BYTES - chance.randrange(2000)) for _ in range(_PAGES)]
    full = _rss_bytes()
    chance.shuffle(pages)
    del pages[_PAGES // 10 :]
    freed = _rss_bytes()
    begun = time.perf_counter()
    trim_heap()
    seconds = time.perf_counter() - begun
    trimmed = _rss_bytes()
    kept = sum(map(len, pages))
    return {
        "full_bytes": full - start,
        "kept_bytes": kept,
        "freed_bytes": freed - start,
        "trimmed_bytes": trimmed - start,
        "seconds": round(seconds, 5),
    }


def _rss_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    sys.exit(main("forecast", __doc__))
