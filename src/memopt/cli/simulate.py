"""`memopt simulate`: an access trace through every policy, and a plan from it.

Not here: the simulation (bench/simulation.py, bench/contest.py) and the search (bench/plan.py),
which are imported when the command runs, for they need numpy and no other command does.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from memopt.base.units import format_bytes, parse_bytes
from memopt.cli.terminal import print_json, progress, say, shown, table

if TYPE_CHECKING:
    from memopt.bench.contest import Run, Simulation

_SHARE: Final = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*\Z")


def simulate(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE...",
            exists=True,
            dir_okay=False,
            help="ARC .lis, Mooncake or agents' JSONL, CSV with time,key,size, or a recording of"
            " access_log; .gz and .zst too.",
        ),
    ],
    policies: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="NAME", help="Only this one; repeatable. [default: all]"),
    ] = None,
    capacities: Annotated[
        list[str] | None,
        typer.Option(
            "--capacity",
            metavar="SIZE",
            help="Share of the footprint (5% or 0.05) or bytes (64MiB); repeatable."
            " [default: 1%, 2%, 5%, 10%]",
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Only so many requests, from the begin.")
    ] = None,
    block: Annotated[
        str | None,
        typer.Option("--block-bytes", metavar="SIZE", help="Of a key, where the trace names none."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = os.cpu_count() or 1,
    reference: Annotated[
        bool,
        typer.Option(
            "--libcachesim/--no-libcachesim", help="Run libcachesim beside, where it is installed."
        ),
    ] = True,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curves: .png, .svg or .pdf.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Save JSON and curves here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay access traces through every policy, beside Belady's optimum."""
    from memopt.bench import curves
    from memopt.bench.command import save
    from memopt.bench.contest import SHARES, ContestOptions, contest
    from memopt.bench.traces import read_trace

    if plot is not None:
        curves.check_matplotlib()
    options = ContestOptions(
        policies=tuple(policies or ()),
        capacities=tuple(map(capacity_of, capacities)) if capacities else SHARES,
        jobs=jobs,
        reference=reference,
    )
    block_bytes = parse_bytes(block, field="--block-bytes") if block is not None else None
    found = []
    for path in traces:
        with progress(f"Reading {shown(path.name, limit=40)}") as bar:
            trace = read_trace(path, requests=requests, block_bytes=block_bytes, progress=bar)
        with progress(f"Simulating {shown(path.name, limit=40)}") as bar:
            found.append(contest(trace, options, bar))
        if not json:
            _print(found[-1])
    if plot is not None:
        curves.draw(found, plot)
    if out is not None:
        save(out / "simulate.json", {"simulations": found})
        for index, simulation in enumerate(found, 1):
            curves.draw([simulation], out / f"simulate-{index}.png")
    if json:
        print_json({"simulations": found})


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
