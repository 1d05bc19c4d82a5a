"""Runs all policies on a trace at several capacities, with Belady and libcachesim beside them.

Owns: what is run, in which processes, and the result. Each policy runs in a process of its own,
`jobs` at a time, unless the trace is small; libcachesim always does, with a limit on its time,
because its BeladySize may never end. Invariant: LRU and Belady are in every result, for what is
between them is what a policy can win.
Not here: the loop (simulation.py), the optimum (belady.py), libcachesim (reference.py).
"""

import contextlib
import dataclasses
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from memopt.base.errors import UsageError
from memopt.bench import belady, reference
from memopt.bench.child import Child, ChildFailedError, Report, Work
from memopt.bench.simulation import capacities_of, fresh_policy, play, policy_names
from memopt.bench.traces import Trace

SHARES: Final = (0.01, 0.02, 0.05, 0.1)
LRU: Final = "lru"
BELADY: Final = "belady"
CEILING: Final = "ceiling"
_SMALL_REQUESTS: Final = 1_000_000
"""Of all runs together: below it, starting processes takes longer than the work."""

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContestOptions:
    policies: tuple[str, ...] = ()
    """Empty = all there are."""
    capacities: tuple[float | int, ...] = SHARES
    """A float is a share of the footprint, an int is bytes."""
    jobs: int = 2
    reference: bool = True
    """Run libcachesim too, where it is installed."""
    reference_seconds: float = 120.0
    """After so long, a policy of libcachesim is stopped."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"expected at least 1, got {self.jobs}", field="jobs")
        if not self.reference_seconds > 0:
            raise UsageError("expected more than 0", field="reference_seconds")
        if not self.capacities:
            raise UsageError("at least one is needed", field="capacity")
        for name in self.policies:
            fresh_policy(name)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one policy, or of a baseline, at one capacity."""

    policy: str
    kind: str
    """policy, baseline, belady, ceiling or libcachesim."""
    capacity_bytes: int
    share: float
    """The capacity as a share of the footprint."""
    hit_ratio: float | None
    byte_hit_ratio: float | None
    gap_closed: float | None = None
    """(hit ratio - LRU's) / (Belady's - LRU's); None where those two are equal."""
    requests_per_second: float | None = None
    """Of CPU time, the loop included."""
    policy_us: float | None = None
    """CPU time of the policy alone, a request."""
    policy_bytes_per_key: float | None = None
    """What the policy charges for itself, ghosts included, a resident key."""
    note: str | None = None


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """A trace, and every run on it."""

    trace: str
    format: str
    requests: int
    keys: int
    footprint_bytes: int
    uniform_bytes: int | None
    """The size of every key, where there is but one. Then hit ratio and byte hit ratio are one."""
    notes: tuple[str, ...]
    capacities_bytes: tuple[int, ...]
    runs: tuple[Run, ...]
    libcachesim: str | None
    """The version that was run beside it; None = none was."""
    seconds: float


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to run, and where the arrays of the trace lie."""

    directory: str
    name: str
    capacities: tuple[int, ...]
    footprint_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    work: Work
    name: str
    kind: str
    seconds_max: float | None = None


def contest(trace: Trace, options: ContestOptions, progress: Progress | None = None) -> Simulation:
    """Every chosen policy at every capacity. Raises UsageError for a capacity or a policy that
    there is not, ChildFailedError when a policy fails."""
    begun = time.monotonic()
    names = tuple(dict.fromkeys((LRU, *(options.policies or policy_names()))))
    capacities = capacities_of(trace.footprint_bytes, options.capacities)
    version = reference.installed_version() if options.reference else None
    if (
        int(trace.sizes.max()) > reference.SIZE_BYTES_MAX
        or max(capacities) > reference.CAPACITY_BYTES_MAX
    ):
        version = None
    entries = [_Entry(run_belady, BELADY, BELADY)]
    entries += [_Entry(run_policy, name, "policy") for name in names]
    if version is not None:
        entries += [
            _Entry(run_reference, name, reference.KIND, options.reference_seconds)
            for name in reference.names_for(names, is_uniform=trace.uniform_bytes is not None)
        ]
    each = trace.requests * len(capacities)
    meter = _Meter(progress, each * len(entries))
    in_children = options.jobs > 1 and each * len(entries) > _SMALL_REQUESTS
    with tempfile.TemporaryDirectory(prefix="memopt-simulate-") as directory:
        save_arrays(trace, Path(directory))

        def one(entry: _Entry) -> list[Run]:
            task = Task(
                directory=directory,
                name=entry.name,
                capacities=capacities,
                footprint_bytes=trace.footprint_bytes,
            )
            with meter.part(each) as tell:
                if in_children or entry.seconds_max is not None:
                    return _in_child(entry, task, tell)
                found = _Found(tell)
                entry.work(msgspec.to_builtins(task), found)
                return found.runs

        with ThreadPoolExecutor(options.jobs if in_children else 1) as pool:
            runs = [run for found in pool.map(one, entries) for run in found]
    return Simulation(
        trace=trace.name,
        format=trace.format,
        requests=trace.requests,
        keys=len(trace.sizes),
        footprint_bytes=trace.footprint_bytes,
        uniform_bytes=trace.uniform_bytes,
        notes=trace.notes,
        capacities_bytes=capacities,
        runs=_with_gaps(runs),
        libcachesim=version,
        seconds=round(time.monotonic() - begun, 3),
    )


def run_policy(argument: Any, report: Report) -> None:
    """Child: a policy of the catalog, by its name."""
    task = msgspec.convert(argument, Task)
    keys, sizes = load_arrays(Path(task.directory))
    total_bytes = _total_bytes(keys, sizes)
    size_of = sizes.tolist()
    played_keys = array("i", keys.tobytes())
    for capacity in task.capacities:
        found = play(
            lambda: fresh_policy(task.name),
            played_keys,
            size_of,
            capacity,
            tell=lambda count: report({"done": count}),
        )
        run = _run_of(task, "policy", capacity, len(keys), found.hits, found.hit_bytes, total_bytes)
        measured = msgspec.structs.replace(
            run,
            requests_per_second=round(len(keys) / max(found.seconds, 1e-9)),
            policy_us=round(found.policy_seconds / len(keys) * 1e6, 4),
            policy_bytes_per_key=round(found.policy_bytes / max(1, found.resident), 1),
        )
        report({"run": msgspec.to_builtins(measured)})


def run_belady(argument: Any, report: Report) -> None:
    """Child: what a cache reaches that knows the future, and what none can pass."""
    task = msgspec.convert(argument, Task)
    keys, sizes = load_arrays(Path(task.directory))
    total_bytes = _total_bytes(keys, sizes)
    following = belady.next_uses(keys)
    is_uniform = int(sizes.min()) == int(sizes.max())
    for capacity in task.capacities:
        begun = time.thread_time()
        if is_uniform:
            hits = belady.optimum(following, capacity // int(sizes[0]))
            found = belady.Reached(hits, hits * int(sizes[0]))
        else:
            found = belady.far_sighted(keys, sizes, following, capacity)
        seconds = time.thread_time() - begun
        run = _run_of(task, BELADY, capacity, len(keys), *found, total_bytes)
        rate = round(len(keys) / max(seconds, 1e-9))
        note = None if is_uniform else "an approximation: the optimum for many sizes is NP-hard"
        run = msgspec.structs.replace(run, requests_per_second=rate, note=note)
        report({"run": msgspec.to_builtins(run)})
        if not is_uniform:
            found = belady.ceiling(keys, sizes, following, capacity)
            bound = _run_of(task, CEILING, capacity, len(keys), *found, total_bytes)
            note = "no cache can pass it; none need reach it"
            bound = msgspec.structs.replace(bound, policy=CEILING, note=note)
            report({"run": msgspec.to_builtins(bound)})
        report({"done": len(keys)})


def run_reference(argument: Any, report: Report) -> None:
    """Child: a policy of libcachesim, by its name there."""
    task = msgspec.convert(argument, Task)
    directory = Path(task.directory)
    keys, sizes = load_arrays(directory)
    for capacity in task.capacities:
        found = reference.replay(task.name, keys, sizes, capacity, directory)
        run = Run(
            policy=task.name,
            kind=reference.KIND,
            capacity_bytes=capacity,
            share=capacity / task.footprint_bytes,
            hit_ratio=found.hit_ratio,
            byte_hit_ratio=found.byte_hit_ratio,
            requests_per_second=round(len(keys) / max(found.seconds, 1e-9)),
        )
        report({"run": msgspec.to_builtins(run)})
        report({"done": len(keys)})


def save_arrays(trace: Trace, directory: Path) -> None:
    """Where children find a trace: reading it from its file would take each of them longer."""
    trace.keys.tofile(directory / "keys")
    trace.sizes.tofile(directory / "sizes")


def load_arrays(directory: Path) -> tuple[belady.Keys, belady.Sizes]:
    return (
        np.fromfile(directory / "keys", dtype=np.int32),
        np.fromfile(directory / "sizes", dtype=np.int64),
    )


def gap_closed(hit_ratio: float, lru: float, best: float) -> float | None:
    """Of what is between LRU and Belady, the share that is won; negative below LRU."""
    return (hit_ratio - lru) / (best - lru) if best > lru else None


class _Found:
    """Takes what is reported, from a child or from a call."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.runs: list[Run] = []
        self._tell = tell

    def __call__(self, line: dict[str, Any]) -> None:
        if "run" in line:
            self.runs.append(msgspec.convert(line["run"], Run))
        else:
            self._tell(line["done"])


class _Meter:
    """Adds up what several runs have done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def part(self, total: int) -> Iterator[Callable[[int], None]]:
        """A part of the work: however it ends, it counts as done then."""
        left = total

        def tell(count: int) -> None:
            nonlocal left
            count = min(count, left)
            left -= count
            self._add(count)

        yield tell
        self._add(left)

    def _add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)


def _in_child(entry: _Entry, task: Task, tell: Callable[[int], None]) -> list[Run]:
    found = _Found(tell)
    # Somebody else's code prints a warning for every key that is larger than the cache.
    with Child(entry.work, task, is_quiet=entry.seconds_max is not None) as child:
        if entry.seconds_max is None:
            child.result(found)
            return found.runs
        reason = ""

        def stop() -> None:
            nonlocal reason
            reason = f"stopped after {entry.seconds_max:g} s"
            child.kill()

        watch = threading.Timer(entry.seconds_max, stop)
        watch.daemon = True
        watch.start()
        try:
            child.result(found)
        except ChildFailedError as error:
            # That it fails is said in its row, and is no failure of ours.
            reason = reason or str(error)
        finally:
            watch.cancel()
    done = {run.capacity_bytes for run in found.runs}
    missing = [
        Run(
            policy=entry.name,
            kind=entry.kind,
            capacity_bytes=capacity,
            share=capacity / task.footprint_bytes,
            hit_ratio=None,
            byte_hit_ratio=None,
            note=reason,
        )
        for capacity in task.capacities
        if capacity not in done
    ]
    return found.runs + missing


def _run_of(
    task: Task,
    kind: str,
    capacity: int,
    requests: int,
    hits: int,
    hit_bytes: int,
    total_bytes: int,
) -> Run:
    return Run(
        policy=task.name,
        kind=kind,
        capacity_bytes=capacity,
        share=capacity / task.footprint_bytes,
        hit_ratio=hits / requests,
        byte_hit_ratio=hit_bytes / total_bytes,
    )


def _with_gaps(runs: Sequence[Run]) -> tuple[Run, ...]:
    def ratios(policy: str, kind: str) -> dict[int, float]:
        return {
            run.capacity_bytes: run.hit_ratio
            for run in runs
            if run.policy == policy and run.kind == kind and run.hit_ratio is not None
        }

    low, high = ratios(LRU, "policy"), ratios(BELADY, BELADY)
    found = []
    for run in runs:
        if run.kind == "policy" and run.hit_ratio is not None:
            at = run.capacity_bytes
            gap = gap_closed(run.hit_ratio, low[at], high[at])
            found.append(msgspec.structs.replace(run, gap_closed=gap))
        else:
            found.append(run)
    return tuple(found)


def _total_bytes(keys: belady.Keys, sizes: belady.Sizes) -> int:
    return int(np.dot(np.bincount(keys, minlength=len(sizes)), sizes))
