"""`memopt simulate`: an access trace through every policy, and a plan from it.

Not here: the simulation (bench/simulation.py, bench/contest.py) and the search (bench/plan.py),
which are imported when the command runs, for they need numpy and no other command does.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from memopt.base.errors import UsageError
from memopt.base.units import format_bytes, parse_bytes
from memopt.cli.directory import refuse_config
from memopt.cli.terminal import console, print_json, progress, say, shown, table

if TYPE_CHECKING:
    from memopt.bench.contest import ContestOptions, Run, Simulation
    from memopt.bench.plan import Plan, PlanOptions
    from memopt.bench.traces import Trace

_CORES: Final = os.cpu_count() or 1
_SHARE: Final = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*\Z")


Traces = Annotated[
    list[Path],
    typer.Argument(
        metavar="TRACE...",
        exists=True,
        dir_okay=False,
        help="ARC .lis, Mooncake or agents' JSONL, CSV with time,key,size, or a recording of"
        " access_log; .gz and .zst too.",
    ),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="Only this one, or lru+frequency; repeatable. [default: all]",
    ),
]
Capacities = Annotated[
    list[str] | None,
    typer.Option(
        "--capacity",
        metavar="SIZE",
        help="Share of the footprint (5% or 0.05) or bytes (64MiB); repeatable."
        " [default: 1%, 2%, 5%, 10%]",
    ),
]
Requests = Annotated[
    int | None, typer.Option(min=1, help="Only so many requests, from the beginning.")
]
Block = Annotated[
    str | None,
    typer.Option("--block-bytes", metavar="SIZE", help="Of a key, where the trace names none."),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes at a time.")]
Reference = Annotated[
    bool,
    typer.Option(
        "--libcachesim/--no-libcachesim", help="Run libcachesim beside, where it is installed."
    ),
]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw the curves: .png, .svg or .pdf.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Save JSON and curves here.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Planned = Annotated[
    bool, typer.Option("--plan", help="Search policies and shares of L1 for a --budget.")
]
Budget = Annotated[str | None, typer.Option(help="The byte budget to plan for.")]
Shares = Annotated[
    list[float] | None,
    typer.Option("--l1-share", help="To try; repeatable. [default: 0.1, 0.25, 0.5, 0.75, 1]"),
]
Ratio = Annotated[
    float | None,
    typer.Option("--compression", help="Raw ÷ compressed. [default: the trace's own, else 7]"),
]
Others = Annotated[
    str | None,
    typer.Option(
        "--others", metavar="SIZE", help="Of the budget, not for pages. [default: 10MiB or half]"
    ),
]
Spent = Annotated[
    tuple[float, float, float] | None,
    typer.Option("--costs", metavar="L1 L2 L3", help="Microseconds of an access by tier."),
]


def simulate(
    traces: Traces,
    policies: Policies = None,
    capacities: Capacities = None,
    requests: Requests = None,
    block: Block = None,
    jobs: Jobs = _CORES,
    reference: Reference = True,
    plot: Plot = None,
    out: Out = None,
    plan: Planned = False,
    budget: Budget = None,
    shares: Shares = None,
    ratio: Ratio = None,
    others: Others = None,
    costs: Spent = None,
    json: Json = False,
) -> None:
    """Replay access traces through every policy beside Belady's optimum, or plan a budget."""
    from memopt.bench.contest import SHARES, ContestOptions
    from memopt.bench.plan import L1_SHARES, Costs, PlanOptions

    refuse_config()
    if out is not None:
        # Now, and not after an hour's work, it is seen whether there can be one.
        out.mkdir(parents=True, exist_ok=True)
    block_bytes = parse_bytes(block, field="--block-bytes") if block is not None else None
    source = _Source(tuple(traces), requests, block_bytes)
    if not plan:
        given = {"--budget": budget, "--l1-share": shares, "--compression": ratio}
        _refuse({**given, "--others": others, "--costs": costs}, "goes with --plan")
        sizes = tuple(map(capacity_of, capacities)) if capacities else SHARES
        options = ContestOptions(
            policies=tuple(policies or ()), capacities=sizes, jobs=jobs, reference=reference
        )
        _simulate(source, options, plot=plot, out=out, json=json)
        return
    _refuse({"--capacity": capacities, "--plot": plot}, "does not go with --plan")
    if budget is None:
        raise UsageError("--plan needs one, such as 64MiB", field="--budget")
    wanted = PlanOptions(
        budget_bytes=parse_bytes(budget, field="--budget"),
        policies=tuple(policies or ()),
        l1_shares=tuple(shares or L1_SHARES),
        ratio=ratio,
        others_bytes=parse_bytes(others, field="--others") if others is not None else None,
        costs=Costs(l1_us=costs[0], l2_us=costs[1], l3_us=costs[2]) if costs else Costs(),
        jobs=jobs,
    )
    _plan(source, wanted, out=out, json=json)


class _Source(NamedTuple):
    """What is read, and how much of it."""

    traces: tuple[Path, ...]
    requests: int | None
    block_bytes: int | None

    def read(self) -> "Iterator[Trace]":
        from memopt.bench.traces import read_trace

        for path in self.traces:
            with progress(f"Reading {shown(path.name, limit=40)}") as bar:
                trace = read_trace(
                    path, requests=self.requests, block_bytes=self.block_bytes, progress=bar
                )
            yield trace


def _refuse(given: Mapping[str, object], why: str) -> None:
    for name, value in given.items():
        if value is not None and value != []:
            raise UsageError(why, field=name)


def _simulate(
    source: _Source, options: "ContestOptions", *, plot: Path | None, out: Path | None, json: bool
) -> None:
    from memopt.bench import curves
    from memopt.bench.command import save
    from memopt.bench.contest import contest

    if plot is not None:
        curves.check_matplotlib(plot)
    found = []
    for trace in source.read():
        with progress(f"Simulating {shown(trace.name, limit=40)}") as bar:
            found.append(contest(trace, options, bar))
        if not json:
            _print(found[-1])
    if plot is not None:
        curves.draw(found, plot)
    if out is not None:
        save(out / "simulate.json", {"simulations": found})
        if curves.has_matplotlib():
            for index, simulation in enumerate(found, 1):
                curves.draw([simulation], out / f"simulate-{index}.png")
    if json:
        print_json({"simulations": found})


def _plan(source: _Source, options: "PlanOptions", *, out: Path | None, json: bool) -> None:
    from memopt.bench.command import save
    from memopt.bench.plan import plan

    found = []
    for trace in source.read():
        with progress(f"Planning {shown(trace.name, limit=40)}") as bar:
            found.append(plan(trace, options, bar))
        if not json:
            _print_plan(found[-1])
    if out is not None:
        save(out / "plan.json", {"plans": found})
    if json:
        print_json({"plans": found})


def capacity_of(text: str) -> float | int:
    """A share as a float, bytes as an int. Raises UsageError."""
    match = _SHARE.match(text)
    if match is not None and (match[2] or "." in match[1]):
        return float(match[1]) / (100.0 if match[2] else 1.0)
    return parse_bytes(text, field="--capacity")


def _print(simulation: "Simulation") -> None:
    size = simulation.uniform_bytes
    each = f"of {size:,} bytes each" if size is not None else "of many sizes"
    say(
        f"{shown(simulation.trace)} ({simulation.format}): {simulation.requests:,} requests of "
        f"{simulation.keys:,} keys {each}, footprint {format_bytes(simulation.footprint_bytes)}"
    )
    for note in simulation.notes:
        say(f"  {shown(note)}")
    ratios = _ratios(simulation, "hit_ratio")
    title = "hit ratio, % (of the gap from LRU to Belady closed, %)"
    say("", table(title, _columns(simulation, cost=True), ratios))
    if size is None:
        title = "byte hit ratio, %"
        bytes_of = _ratios(simulation, "byte_hit_ratio")
        say("", table(title, _columns(simulation, cost=False), bytes_of))
    notes = {run.note: f"{run.policy}: {run.note}" for run in simulation.runs if run.note}
    for note in notes.values():
        say(f"  {shown(note)}")
    say("")


def _print_plan(found: "Plan") -> None:
    from memopt.bench.plan import sentence

    costs = found.costs
    console().print(shown(f"{found.trace}: {sentence(found)}"), soft_wrap=True)
    rows = [
        (
            tried.policy,
            f"{tried.l1_share:g}",
            f"{100 * tried.hit_ratio:.2f}",
            f"{100 * tried.l1_ratio:.2f}",
            f"{100 * tried.l2_ratio:.2f}",
            f"{tried.mean_us:.2f}",
            f"{tried.evictions:,}",
        )
        for tried in found.tried
    ]
    names = ("policy", "#l1_share", "#RAM %", "#L1 %", "#L2 %", "#mean µs", "#evictions")
    console().print(
        f"  {format_bytes(found.pages_bytes)} for pages, which compress "
        f"{found.compression_ratio:g} x; an access costs {costs.l1_us:g} µs in L1, "
        f"{costs.l2_us:g} in L2, {costs.l3_us:g} in L3",
        soft_wrap=True,
    )
    say("", table("", names, rows), "", found.toml)


def _columns(simulation: "Simulation", *, cost: bool) -> list[str]:
    footprint = simulation.footprint_bytes
    sizes = [
        f"#{100 * size / footprint:.3g}% = {format_bytes(size)}"
        for size in simulation.capacities_bytes
    ]
    return ["", *sizes, *(["#requests/s", "#µs of its own", "#bytes/key"] if cost else [])]


def _ratios(simulation: "Simulation", field: str) -> list[list[str]]:
    """A row for each policy: best first; what is not a policy of ours above and below."""
    rows: dict[tuple[str, str], list[Run]] = {}
    for run in simulation.runs:
        rows.setdefault((run.kind, run.policy), []).append(run)

    def order(item: tuple[tuple[str, str], list["Run"]]) -> tuple[int, float]:
        (kind, _), runs = item
        place = {"ceiling": 0, "belady": 1, "policy": 2}.get(kind, 3)
        return place, -sum(getattr(run, field) or 0.0 for run in runs)

    found = []
    for (kind, policy), runs in sorted(rows.items(), key=order):
        of = {run.capacity_bytes: run for run in runs}
        name = f"{policy} (libcachesim)" if kind == "libcachesim" else policy
        cells = [_ratio(of[size], field) for size in simulation.capacities_bytes]
        if field == "hit_ratio":
            cells += [
                _median(runs, "requests_per_second", ",.0f"),
                _median(runs, "policy_us", ".2f"),
                _median(runs, "policy_bytes_per_key", ".0f"),
            ]
        found.append([name, *cells])
    return found


def _ratio(run: "Run", field: str) -> str:
    value = getattr(run, field)
    if value is None:
        return "-"
    gap = run.gap_closed if field == "hit_ratio" and run.policy != "lru" else None
    closed = f" ({100 * gap:+.0f})" if gap is not None else ""
    return f"{100 * value:.2f}{closed}"


def _median(runs: list["Run"], field: str, form: str) -> str:
    from memopt.bench.measure import median

    values = [value for run in runs if (value := getattr(run, field)) is not None]
    return format(median(values), form) if values else ""
