"""What to set for a budget: policies and shares of L1, tried on a trace as the pager would do it.

Owns: a model of the pager's two tiers (`Tiers`), and the search. A page in L1 has its frame and
its raw bytes, one in L2 its frame alone; both are charged as the page table charges them, and so is
what the policies occupy. Room is made as the pager makes it: L1 gives while it has more than its
share of the page bytes, else L2 does. Invariant: pages and policies never exceed the pages' part of
the budget.

The search is greedy: every policy at the default share, then the best few at every share. What is
best is the lowest mean cost of an access. Not here: pages that go cold by time, prefetch, texts
that pages share; the compressed size of a page is the trace's own where it has one, else
`ratio`.
"""

import dataclasses
import tempfile
import threading
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.heap import heap_bytes
from memopt.base.protocols import Policy
from memopt.base.units import MIB, format_bytes
from memopt.bench.child import Report, run_in_child
from memopt.bench.simulation import parts_of
from memopt.bench.traces import Progress, Trace
from memopt.paging.page_table import ROW_BYTES
from memopt.paging.pager import fault_cost
from memopt.policies.catalog import POLICIES, make_policy

L1_SHARES: Final = (0.1, 0.25, 0.5, 0.75, 1.0)
COMPRESSION_RATIO: Final = 7.0
"""Of pages with a dictionary; for traces that do not know the bytes of a page once compressed."""
OTHERS_BYTES: Final = 10 * MIB
"""Of the budget, what is not for pages: SQLite's caches, codec contexts, handles, dictionaries."""
_FINALISTS: Final = 3
_STEP: Final = 1 << 16
_SMALL_REQUESTS: Final = 1_000_000


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds that an access takes by the tier that answers it. Only their ratios decide.

    The defaults are medians of `memopt bench tiers`, of whole sessions in 12 MiB with a warm OS
    cache; with a cold one L3 took 820.
    """

    l1_us: float = 95.0
    l2_us: float = 227.0
    l3_us: float = 370.0


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One policy with one share of L1."""

    policy: str
    l1_share: float
    l1_ratio: float
    """Of all requests, those that L1 answers."""
    l2_ratio: float
    hit_ratio: float
    """Of all requests, those that RAM answers: L1 and L2."""
    mean_us: float
    """Mean cost of an access."""
    evictions: int
    policy_bytes: int
    """What both tiers' policies charge for themselves at the end."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    requests: int
    budget_bytes: int
    pages_bytes: int
    """The part of the budget that is for pages and policies."""
    compression_ratio: float
    """Of all pages' bytes: raw ÷ stored."""
    costs: Costs
    best: Tried
    default: Tried
    """What the settings are without a plan."""
    tried: tuple[Tried, ...]
    """All, best first."""
    toml: str
    """Settings for `--config`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    budget_bytes: int
    policies: tuple[str, ...] = ()
    """Empty = the catalog."""
    l1_shares: tuple[float, ...] = L1_SHARES
    ratio: float | None = None
    """Compression; None = the trace's own sizes, else COMPRESSION_RATIO."""
    others_bytes: int | None = None
    """None = OTHERS_BYTES, and at most half of the budget."""
    costs: Costs = dataclasses.field(default_factory=Costs)
    jobs: int = 2

    def __post_init__(self) -> None:
        # As a store would: a plan that no store can open is none.
        Config(budget_bytes=self.budget_bytes)
        for share in self.l1_shares:
            Config(l1_share=share)
        for name in self.policies:
            _make(name)
        if self.jobs < 1:
            raise UsageError(f"expected at least 1, got {self.jobs}", field="jobs")
        if self.ratio is not None and not 1 <= self.ratio < inf:
            raise UsageError(f"expected 1 or more, got {self.ratio}", field="ratio")
        if not 0 <= self.costs.l1_us <= self.costs.l2_us <= self.costs.l3_us < inf:
            raise UsageError("expected costs that rise from L1 to L3", field="costs")
        if not 0 <= self.reserved_bytes < self.budget_bytes:
            raise UsageError("nothing is left for pages", field="others_bytes")

    @property
    def reserved_bytes(self) -> int:
        if self.others_bytes is not None:
            return self.others_bytes
        return min(OTHERS_BYTES, self.budget_bytes // 2)


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    directory: str
    policy: str
    l1_share: float
    pages_bytes: int
    costs: Costs


def plan(trace: Trace, options: PlanOptions, progress: Progress | None = None) -> Plan:
    """The best settings that were found for a trace and a budget, and all that were tried."""
    default = Config()
    names = tuple(dict.fromkeys((default.policy, *(options.policies or POLICIES))))
    finalists = min(_FINALISTS, len(names))
    others = [share for share in options.l1_shares if share != default.l1_share]
    rounds = len(names) + finalists * len(others)
    done = 0
    lock = threading.Lock()
    in_children = options.jobs > 1 and trace.requests * rounds > _SMALL_REQUESTS
    pages_bytes = options.budget_bytes - options.reserved_bytes
    stored = _stored(trace, options.ratio)

    with tempfile.TemporaryDirectory(prefix="memopt-plan-") as directory:
        trace.keys.tofile(Path(directory, "keys"))
        trace.sizes.tofile(Path(directory, "sizes"))
        stored.tofile(Path(directory, "stored"))

        def report(line: dict[str, Any]) -> None:
            nonlocal done
            with lock:
                done += line["done"]
                if progress is not None:
                    progress(done, trace.requests * rounds)

        def one(choice: tuple[str, float]) -> Tried:
            task = _Task(
                directory=directory,
                policy=choice[0],
                l1_share=choice[1],
                pages_bytes=pages_bytes,
                costs=options.costs,
            )
            if in_children:
                return msgspec.convert(run_in_child(run_tiered, task, report), Tried)
            return msgspec.convert(run_tiered(msgspec.to_builtins(task), report), Tried)

        with ThreadPoolExecutor(options.jobs if in_children else 1) as pool:
            first = sorted(
                pool.map(one, [(name, default.l1_share) for name in names]),
                key=lambda tried: tried.mean_us,
            )
            best = [tried.policy for tried in first[:finalists]]
            second = pool.map(one, [(name, share) for name in best for share in others])
            tried = sorted([*first, *second], key=lambda each: (each.mean_us, -each.hit_ratio))
    return Plan(
        trace=trace.name,
        requests=trace.requests,
        budget_bytes=options.budget_bytes,
        pages_bytes=pages_bytes,
        compression_ratio=round(float(trace.sizes.sum() / stored.sum()), 2),
        costs=options.costs,
        best=tried[0],
        default=next(each for each in first if each.policy == default.policy),
        tried=tuple(tried),
        toml=settings_of(options.budget_bytes, tried[0]),
    )


def sentence(found: Plan) -> str:
    """The plan in one line."""
    best, default = found.best, found.default
    line = (
        f"this trace, a budget of {format_bytes(found.budget_bytes)}: use policy {best.policy}, "
        f"l1_share {best.l1_share:g}: RAM answers {100 * best.hit_ratio:.1f} % "
        f"(L1 {100 * best.l1_ratio:.1f} %), an access costs {best.mean_us:.1f} µs"
    )
    if (best.policy, best.l1_share) == (default.policy, default.l1_share):
        return f"{line}; these are the defaults"
    return (
        f"{line}; the defaults ({default.policy}, {default.l1_share:g}): "
        f"{100 * default.hit_ratio:.1f} %, {default.mean_us:.1f} µs"
    )


def run_tiered(argument: Any, report: Report) -> Any:
    """Child: one policy with one share of L1."""
    task = msgspec.convert(argument, _Task)
    directory = Path(task.directory)
    keys = array("i", Path(directory, "keys").read_bytes())
    raw = np.fromfile(directory / "sizes", dtype=np.int64)
    stored = np.fromfile(directory / "stored", dtype=np.int64)
    tiers = Tiers(
        lambda: _make(task.policy),
        raw.tolist(),
        stored.tolist(),
        pages_bytes=task.pages_bytes,
        l1_share=task.l1_share,
    )
    for first in range(0, len(keys), _STEP):
        part = keys[first : first + _STEP]
        tiers.play(part)
        report({"done": len(part)})
    return msgspec.to_builtins(tiers.figures(task.policy, task.costs))


class Tiers:
    """The pager's two tiers, without pages."""

    def __init__(
        self,
        make: Callable[[], Policy],
        raw: Sequence[int],
        stored: Sequence[int],
        *,
        pages_bytes: int,
        l1_share: float,
    ) -> None:
        self._hot, self._warm = make(), make()
        self._rows = [ROW_BYTES + heap_bytes(size) for size in stored]
        """By key: what a page takes in L2."""
        self._raws = [heap_bytes(size) for size in raw]
        """By key: what it takes more in L1."""
        self._needs = [a + b + ROW_BYTES for a, b in zip(raw, stored, strict=True)]
        """By key: what is reserved while it is brought in."""
        self._costs = [fault_cost(size) for size in raw]
        self._tier = bytearray(len(self._rows))
        """By key: the tier that holds it, 1 or 2, or 0."""
        self._pages_bytes = pages_bytes
        self._l1_share = l1_share
        self._policy_bytes = 0
        self.l1_bytes = 0
        self.l2_bytes = 0
        self.l1_hits = 0
        self.l2_hits = 0
        self.misses = 0
        self.evictions = 0

    def play(self, keys: Sequence[int]) -> None:
        tier, touched = self._tier, self._hot.touched
        for key in keys:
            held = tier[key]
            if held == 1:
                self.l1_hits += 1
                touched(key)
                continue
            if held:
                self.l2_hits += 1
            else:
                self.misses += 1
            self._bring_in(key)

    def used_bytes(self) -> int:
        return self.l1_bytes + self.l2_bytes + self._policy_bytes

    def figures(self, policy: str, costs: Costs) -> Tried:
        requests = max(1, self.l1_hits + self.l2_hits + self.misses)
        spent = self.l1_hits * costs.l1_us + self.l2_hits * costs.l2_us + self.misses * costs.l3_us
        return Tried(
            policy=policy,
            l1_share=self._l1_share,
            l1_ratio=self.l1_hits / requests,
            l2_ratio=self.l2_hits / requests,
            hit_ratio=(self.l1_hits + self.l2_hits) / requests,
            mean_us=spent / requests,
            evictions=self.evictions,
            policy_bytes=self._hot.charged_bytes() + self._warm.charged_bytes(),
        )

    def _bring_in(self, key: int) -> None:
        limit = self._pages_bytes
        while self.used_bytes() + self._needs[key] > limit and self.l1_bytes + self.l2_bytes:
            self._let_one_go()
        row, raw = self._rows[key], self._raws[key]
        # In L2 it may have been the one that went.
        if not self._tier[key]:
            if self.used_bytes() + row > limit:
                return
            self._tier[key] = 2
            self.l2_bytes += row
            self._warm.admitted(key, row, self._costs[key])
        if self.used_bytes() + raw <= limit:
            self._tier[key] = 1
            self._warm.removed(key)
            self.l2_bytes -= row
            self.l1_bytes += row + raw
            self._hot.admitted(key, row + raw, self._costs[key])
        self._charge()

    def _let_one_go(self) -> None:
        if self.l1_bytes > self._l1_share * (self.l1_bytes + self.l2_bytes) or not self.l2_bytes:
            key = self._hot.victim()
            assert key is not None, "a tier that holds bytes has a victim"
            self._hot.removed(key)
            self._tier[key] = 2
            self.l1_bytes -= self._rows[key] + self._raws[key]
            self.l2_bytes += self._rows[key]
            self._warm.admitted(key, self._rows[key], self._costs[key])
        else:
            key = self._warm.victim()
            assert key is not None, "a tier that holds bytes has a victim"
            self._warm.removed(key)
            self._tier[key] = 0
            self.l2_bytes -= self._rows[key]
            self.evictions += 1
        self._charge()

    def _charge(self) -> None:
        """As the pager does: when what policies grew by does not fit, it waits."""
        wanted = self._hot.charged_bytes() + self._warm.charged_bytes()
        grown = wanted - self._policy_bytes
        if grown <= 0 or self.used_bytes() + grown <= self._pages_bytes:
            self._policy_bytes = wanted


def _stored(trace: Trace, ratio: float | None) -> "np.ndarray[Any, np.dtype[np.int64]]":
    if ratio is None and trace.stored is not None:
        return trace.stored
    smaller = np.ceil(trace.sizes / (ratio or COMPRESSION_RATIO))
    return np.maximum(1, smaller).astype(np.int64)


def settings_of(budget_bytes: int, best: Tried) -> str:
    """What to give to `--config`, in TOML."""
    policy, admission = parts_of(best.policy)
    asks = f'admission_policy = "{admission}"\n' if admission is not None else ""
    return (
        f"budget_bytes = {budget_bytes}\n"
        f'policy = "{policy}"\n{asks}'
        f"l1_share = {best.l1_share:.6g}\n"
    )


def _make(name: str) -> Policy:
    """As a store would: FIFO is not among its policies."""
    base, admission = parts_of(name)
    return make_policy(base, admission=admission)
