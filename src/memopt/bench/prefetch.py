"""Question: do sessions resume faster when their pages are brought in before they are asked for?

Method: a child writes and compacts sessions; then fresh processes open the directory and read whole
sessions in an order of return, once without prefetching and once with each predictor, interleaved.
Orders: Mooncake's conversations and overlapping coding agents (real), and a rota in which each
scope's sessions are read in the same order again and again (made up, the best case of `order`).
Between two reads there is a pause of half a millisecond in which a prefetcher may work; the pauses
are in no latency. `cold` evicts the database from the OS cache before each pause. `streamed` pauses
after each message as well, as a slow consumer does. `relief` has somebody take most of the budget
for a while and give it back, which is what `recency` is for. The first third of the reads warms up.
Baseline: the same reads with `prefetch` off. The policy is LRU throughout.
CPU is of the whole process, per read.
Not measured: writes between the reads; several readers at once; longer pauses.
"""

import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

import memopt
from memopt.base.events import Prefetched, PrefetchSettled
from memopt.base.records import Durability, Prefetch
from memopt.base.units import MIB
from memopt.bench import data, returns, schedule
from memopt.bench.child import Report, run_in_child
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.measure import LatencyHistogram, evict_os_cache, machine, median
from memopt.bench.player import session_of

_PAUSE_SECONDS: Final = 0.0005
_RELIEF_READS: Final = 50
"""For so many reads somebody else has the room, and for as many not."""
_RELIEF_SHARE: Final = 0.8
_SESSIONS_MAX: Final = 2000
_ELSE: Final = "somebody else"
"""Who has the room. None of memopt's own owners: "outside" follows RSS and gives it all back."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[str, ...]
    store: str
    sessions: int
    order: tuple[int, ...] = ()
    prefetch: Prefetch = Prefetch.OFF
    budget_bytes: int = 8 * MIB
    cold: bool = False
    streamed: bool = False
    relief: bool = False


class _Counts:
    """A sink: pages by predictor and what became of them."""

    def __init__(self) -> None:
        self.came = self.used = self.wasted = 0

    def emit(self, event: Any) -> None:
        if isinstance(event, Prefetched):
            self.came += event.pages
        elif isinstance(event, PrefetchSettled):
            self.used += event.pages * event.was_used
            self.wasted += event.pages * (not event.was_used)


def run(options: BenchOptions) -> dict[str, Any]:
    """Latency, precision, waste and cost of every predictor on every order."""
    quick = options.quick
    reads = 120 if quick else 2400
    rounds = 1 if quick else 3
    names = ("tau_bench", "openhands")
    files = options.files or tuple(data.trajectories(name) for name in names)
    orders = (
        returns.mooncake(reads), returns.coding_agents(reads),
        returns.rota(reads, scopes=20, each=schedule.SESSIONS_PER_SCOPE, seed=options.seed),
    )  # fmt: skip
    sessions = min(_SESSIONS_MAX, max(order.sessions for order in orders))
    cases = _cases(orders, reads, quick=quick)
    with scratch(options) as home:
        task = Task(
            files=tuple(dict.fromkeys(str(path) for path in files)), store=str(home / "store"),
            sessions=sessions,
        )  # fmt: skip
        run_in_child(build, task)
        runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
        total = rounds * len(cases) * len(Prefetch)
        with progress_bar("prefetch") as progress:
            for done in range(total):
                progress(done, total)
                at, kind = divmod(done % (len(cases) * len(Prefetch)), len(Prefetch))
                name, changes = cases[at]
                by = tuple(Prefetch)[kind]
                found = run_in_child(read, msgspec.structs.replace(task, prefetch=by, **changes))
                runs.setdefault(name, {}).setdefault(by, []).append(found)
        return {
            "sessions": sessions,
            "reads": reads,
            "rounds": rounds,
            "budget_bytes": task.budget_bytes,
            "cases": {name: _compared(found) for name, found in runs.items()},
            "machine": machine(home),
        }


def _cases(
    orders: tuple[returns.Returns, ...], reads: int, *, quick: bool
) -> list[tuple[str, dict[str, Any]]]:
    few = reads if quick else reads // 5
    cases: list[tuple[str, dict[str, Any]]] = [
        (order.name, {"order": order.order}) for order in orders
    ]
    first, coding, made_up = orders
    return [
        *cases,
        (f"{first.name}, cold", {"order": first.order[:few], "cold": True}),
        (f"{made_up.name}, cold", {"order": made_up.order[: 2 * few], "cold": True}),
        (f"{coding.name}, streamed", {"order": coding.order[:few], "streamed": True}),
        (f"{first.name}, relief", {"order": first.order, "relief": True}),
    ]


def build(argument: Any, _report: Report) -> Any:
    """Child: write all sessions, seal and compact them."""
    task = msgspec.convert(argument, Task)
    conversations = data.load(task.files)
    with memopt.open(task.store, budget="64MiB", durability=Durability.OS) as memory:
        for session in range(task.sessions):
            # Coprime steps, so that long and short conversations are mixed.
            source = session * 7 % len(conversations)
            messages = [schedule.marked(message, session) for message in conversations[source]]
            session_of(memory, session).extend(messages)
        memory.compact()
    return task.sessions


def read(argument: Any, _report: Report) -> Any:
    """Child: read sessions in the task's order."""
    task = msgspec.convert(argument, Task)
    times, counts = LatencyHistogram(), _Counts()
    warm_up = len(task.order) // 3
    store = Path(task.store)
    held = 0
    cpu = 0.0
    with memopt.open(
        store, budget=task.budget_bytes, durability=Durability.OS, prefetch=task.prefetch,
        policy="lru", maintenance_seconds=0.05,
    ) as memory:  # fmt: skip
        memory._parts.events.add(counts)
        budget = memory._parts.budget
        for index, session in enumerate(task.order):
            if index == warm_up:
                cpu = time.process_time()
                before = memory.stats().counters
            if task.relief and index % _RELIEF_READS == 0:
                if held:
                    budget.release(_ELSE, held)
                    held = 0
                    # Long enough for a round of maintenance.
                    time.sleep(0.1)
                else:
                    held = int(_RELIEF_SHARE * memory._parts.pager.l1_bytes)
                    budget.reserve(_ELSE, held)
            taken = _resumed(memory, session % task.sessions, streamed=task.streamed)
            if index >= warm_up:
                times.add(taken)
            if task.cold:
                evict_os_cache(store)
            time.sleep(_PAUSE_SECONDS)
        cpu = time.process_time() - cpu
        after = memory.stats().counters
        budget.release(_ELSE, held)
    faults = after["faults_major"] - before["faults_major"]
    hits = after["page_hits"] - before["page_hits"]
    minor = after["faults_minor"] - before["faults_minor"]
    return {
        "p50_us": times.quantile_us(0.5),
        "p99_us": times.quantile_us(0.99),
        "mean_us": round(times.ns_sum / max(1, times.count) / 1000, 2),
        "cpu_us_per_read": round(1e6 * cpu / max(1, times.count), 1),
        "l1_ratio": round(hits / max(1, hits + minor + faults), 4),
        "pages_prefetched": counts.came,
        "used": counts.used,
        "wasted": counts.wasted,
    }


def _resumed(memory: memopt.Memory, session: int, *, streamed: bool) -> int:
    """Read a session; nanoseconds, without pauses."""
    handle = session_of(memory, session)
    begun = time.perf_counter_ns()
    if not streamed:
        list(handle.messages())
        return time.perf_counter_ns() - begun
    taken = 0
    for _ in handle.messages():
        taken += time.perf_counter_ns() - begun
        time.sleep(_PAUSE_SECONDS / 5)
        begun = time.perf_counter_ns()
    return taken


def _compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The medians of each predictor's runs, and their ratios to those without one."""
    found: dict[str, dict[str, Any]] = {}
    for by, results in runs.items():
        figures: dict[str, Any] = {
            name: median(one[name] for one in results) for name in results[0]
        }
        settled = figures["used"] + figures["wasted"]
        figures["precision"] = round(figures["used"] / settled, 3) if settled else None
        base = found.get(Prefetch.OFF, figures)
        for name in ("p50_us", "p99_us", "mean_us", "cpu_us_per_read"):
            figures[f"{name}_ratio"] = round(figures[name] / base[name], 3) if base[name] else None
        found[by] = figures
    return found


if __name__ == "__main__":
    sys.exit(main("prefetch", __doc__))
