"""Question: would it pay to move the L1 share with demand, and to give agent types shares of RAM?

Method: a child writes and compacts sessions of two agent types: `desk` (airline agents, short
conversations) and `code` (coding agents, long ones). Fresh processes then read whole sessions at
several settings, interleaved. Orders: `zipf` (a few desk sessions are busy), `returns` (Mooncake's
conversations in their real order), `scan` (the zipf order, in which every fourth read is the next
session of the coding agents, round and round: reads that never pay). Three rounds, medians; the
first half of the reads warms up. CPU is of the whole process, per read, for wall time here depends
on who else works. Baseline: an L1 share of 0.5 and no pool shares. The policy is LRU throughout.

The best fixed L1 share of an order, chosen afterwards, bounds what one that moves slowly can gain.
Not measured: demand that changes within a run; writes; a cold OS cache.
"""

import random
import sys
import time
from typing import Any, Final

import msgspec

import memopt
from memopt.base.records import Durability, PoolShares
from memopt.base.units import MIB
from memopt.bench import data, returns, schedule
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.measure import LatencyHistogram, machine, median

_SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
_SCAN_EVERY: Final = 4


class Task(msgspec.Struct, frozen=True, kw_only=True):
    store: str
    desk: str
    code: str
    desk_sessions: int
    code_sessions: int
    reads: int
    seed: int
    order: str = "zipf"
    l1_share: float = 0.5
    pool_shares: PoolShares = PoolShares.OFF
    budget_bytes: int = 10 * MIB


def run(options: BenchOptions) -> dict[str, Any]:
    """Every L1 share and both ways to share RAM, on every order."""
    quick = options.quick
    rounds = 1 if quick else 3
    with scratch(options) as home:
        task = Task(
            store=str(home / "store"), desk=str(data.trajectories("tau_bench")),
            code=str(data.trajectories("openhands")), desk_sessions=60 if quick else 1500,
            code_sessions=10 if quick else 150, reads=100 if quick else 4000, seed=options.seed,
        )  # fmt: skip
        run_in_child(build, task)
        settings: list[dict[str, Any]] = [
            *({"l1_share": share} for share in _SHARES), {"pool_shares": PoolShares.SOFT}
        ]  # fmt: skip
        runs: dict[str, dict[str, list[dict[str, float]]]] = {}
        orders = ("zipf", "returns", "scan")
        total = rounds * len(orders) * len(settings)
        with progress_bar("shares") as progress:
            for done in range(total):
                progress(done, total)
                at, which = divmod(done % (len(orders) * len(settings)), len(settings))
                changes: dict[str, Any] = {"order": orders[at], **settings[which]}
                found = run_in_child(read, msgspec.structs.replace(task, **changes))
                name = " ".join(f"{key} {value}" for key, value in settings[which].items())
                runs.setdefault(orders[at], {}).setdefault(name, []).append(found)
        result: dict[str, Any] = {"rounds": rounds, "reads": task.reads}
        for order, by_setting in runs.items():
            result[order] = _compared(by_setting)
        return {**result, "machine": machine(home)}


def build(argument: Any, _report: Report) -> Any:
    """Child: write the sessions of both types."""
    task = msgspec.convert(argument, Task)
    with memopt.open(task.store, budget="64MiB", durability=Durability.OS) as memory:
        for agent, file, count in (
            ("desk", task.desk, task.desk_sessions), ("code", task.code, task.code_sessions)
        ):  # fmt: skip
            conversations = data.load((file,))
            for session in range(count):
                messages = list(schedule.expected_session(conversations, session))
                _session(memory, agent, session).extend(messages)
        memory.compact()
    return None


def read(argument: Any, _report: Report) -> Any:
    """Child: read sessions by the task's order; latency and where pages were found."""
    task = msgspec.convert(argument, Task)
    order = _order(task)
    times = {name: LatencyHistogram() for name in ("all", "desk", "code")}
    cpu = 0.0
    with memopt.open(
        task.store, budget=task.budget_bytes, durability=Durability.OS, l1_share=task.l1_share,
        pool_shares=task.pool_shares, policy="lru", working_set_seconds=1.0,
        maintenance_seconds=0.1,
    ) as memory:  # fmt: skip
        before = memory.stats().counters
        for index, (agent, number) in enumerate(order):
            if index == len(order) // 2:
                before = memory.stats().counters
                cpu = time.process_time()
            session = _session(memory, agent, number)
            begun = time.perf_counter_ns()
            list(session.messages())
            taken = time.perf_counter_ns() - begun
            if index >= len(order) // 2:
                times["all"].add(taken)
                times[agent].add(taken)
        cpu = time.process_time() - cpu
        after = memory.stats().counters
    hits, minor, major = (
        after[name] - before[name] for name in ("page_hits", "faults_minor", "faults_major")
    )
    touched = max(1, hits + minor + major)
    return {
        "cpu_us": round(1e6 * cpu / max(1, times["all"].count), 2),
        "p50_us": times["all"].quantile_us(0.5),
        "desk_p50_us": times["desk"].quantile_us(0.5),
        "l1_ratio": round(hits / touched, 4),
        "ram_ratio": round((hits + minor) / touched, 4),
    }


def _order(task: Task) -> list[tuple[str, int]]:
    draw = random.Random(task.seed).random
    if task.order == "returns":
        found = returns.mooncake(task.reads).order
        whole = task.desk_sessions + task.code_sessions
        numbers = [number * 7919 % whole for number in found]
        return [
            ("desk", number) if number < task.desk_sessions
            else ("code", number - task.desk_sessions) for number in numbers
        ]  # fmt: skip
    order: list[tuple[str, int]] = []
    for index in range(task.reads):
        if task.order == "scan" and index % _SCAN_EVERY == 0:
            order.append(("code", index // _SCAN_EVERY % task.code_sessions))
        else:
            order.append(("desk", int((task.desk_sessions + 1) ** draw()) - 1))
    return order


def _session(memory: memopt.Memory, agent: str, number: int) -> memopt.Session:
    scope = f"shares/{agent}-{number // schedule.SESSIONS_PER_SCOPE}"
    return memory.session(str(number), scope=scope, agent=agent)


def _compared(by_setting: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians by setting, and against the baseline."""
    found = {
        name: {field: median(one[field] for one in runs) for field in runs[0]}
        for name, runs in by_setting.items()
    }
    base = found["l1_share 0.5"]
    for figures in found.values():
        for field in ("cpu_us", "desk_p50_us"):
            figures[f"{field}_ratio"] = (
                round(figures[field] / base[field], 3) if base[field] else 0.0
            )
    return found


if __name__ == "__main__":
    sys.exit(main("shares", __doc__))
