"""`memopt top`: a running store at a glance. A frame is a pure function of two readings."""

import time
from itertools import islice
from typing import Annotated, Final

import typer
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from memopt.base.stats_records import PressureStats, Stats
from memopt.base.units import format_bytes, format_seconds
from memopt.cli.directory import AsJson, Directory, attached
from memopt.cli.terminal import console, print_json, say, shown, table

_ROWS: Final = 8
_BAR_WIDTH: Final = 60
_TOUCHES: Final = ("page_hits", "faults_minor", "faults_major")
_RATES: Final = (
    "messages_appended",
    "commits",
    "pages_sealed",
    "page_hits",
    "faults_minor",
    "faults_major",
    "pages_demoted",
    "pages_evicted",
    "checkpoints",
    "refusals",
)


def top(
    directory: Directory,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=60, help="Seconds between two frames.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and leave.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a store: its budget, tiers, owners, rates and latencies. Leave with Ctrl-C."""
    with attached(directory, writable=False) as memory:
        stats = memory.stats()
        if as_json:
            print_json(stats)
            return
        if once or not console().is_terminal:
            say(frame(str(directory), stats))
            return
        out = console()
        try:
            with Live(
                frame(str(directory), stats), console=out, screen=True, auto_refresh=False
            ) as live:
                read_at = time.monotonic()
                while True:
                    time.sleep(interval)
                    before, stats = stats, memory.stats()
                    since, read_at = read_at, time.monotonic()
                    picture = frame(str(directory), stats, before, read_at - since)
                    live.update(picture, refresh=True)
        except KeyboardInterrupt:
            return


def frame(
    name: str, stats: Stats, before: Stats | None = None, seconds: float = 1.0
) -> RenderableType:
    """One picture of `stats`; with `before`, read `seconds` earlier, counters become rates."""
    parts: list[RenderableType] = [
        Text(f"memopt · {shown(name)} · LSN {stats.lsn}", style="bold"),
        _budget(stats),
        _pressure(stats.pressure),
        Columns([_tiers(stats), _owners(stats)], padding=(0, 4)),
        Columns([_rates(stats, before, seconds), _figures(stats)], padding=(0, 4)),
    ]
    if stats.scopes:
        rows = (
            (scope, format_bytes(held.get("bytes", 0)), held.get("objects", 0))
            for scope, held in islice(stats.scopes.items(), _ROWS)
        )
        parts.append(table("largest scopes in RAM", ("scope", "#bytes", "#objects"), rows))
    if stats.lost_records:
        parts.append(Text(f"{stats.lost_records} acknowledged records were lost", style="red"))
    if stats.quarantined_sessions:
        parts.append(Text(f"{stats.quarantined_sessions} sessions are damaged", style="red"))
    parts.extend(Text(shown(note), style="dim") for note in stats.notes)
    return Group(*parts)


def _budget(stats: Stats) -> RenderableType:
    share = stats.reserved_bytes / max(stats.budget_bytes, 1)
    line = Table.grid(padding=(0, 1))
    line.add_row(
        "budget",
        ProgressBar(
            total=max(stats.budget_bytes, 1),
            completed=stats.reserved_bytes,
            width=_BAR_WIDTH,
            complete_style="green" if share < 0.9 else "yellow",
            finished_style="red",
        ),
        f"{format_bytes(stats.reserved_bytes)} of {format_bytes(stats.budget_bytes)}"
        f" (at most {format_bytes(stats.reserved_bytes_max)}), process"
        f" {format_bytes(stats.rss_bytes)}",
    )
    return line


def _pressure(pressure: PressureStats) -> Text:
    """The level, why, what is expected, what was done, and who waits."""
    styles = {"calm": "green", "guarded": "yellow", "high": "yellow", "critical": "red"}
    line = Text("pressure ")
    line.append(pressure.level, style=styles.get(pressure.level, "red"))
    line.append(f" · {pressure.used_share:.0%} of {pressure.nearest}")
    line.append(
        f" · in {pressure.forecast_seconds:.0f} s at most"
        f" {format_bytes(pressure.forecast_upper_bytes)}"
        f" (exceeded {pressure.forecasts_exceeded_share:.1%})"
    )
    if pressure.limit_seconds is not None:
        line.append(f" · at the limit in {format_seconds(pressure.limit_seconds)}", style="red")
    if pressure.outside_bytes:
        line.append(f" · {format_bytes(pressure.outside_bytes)} given up to outside")
    line.append(
        f" · {pressure.turns} turns, {format_bytes(pressure.admitted_bytes)} of"
        f" {format_bytes(pressure.admission_bytes)}, {pressure.turns_waiting} waiting"
    )
    if pressure.steps:
        line.append(" · " + ", ".join(pressure.steps), style="yellow")
    return line


def _tiers(stats: Stats) -> Table:
    rows = (
        (name, format_bytes(held.get("bytes", 0)), held.get("objects", "-"), held.get("hits", 0))
        for name, held in stats.tiers.items()
    )
    return table("tiers", ("tier", "#bytes", "#objects", "#hits"), rows)


def _owners(stats: Stats) -> Table:
    largest = sorted(stats.owners.items(), key=lambda owner: -owner[1])[:_ROWS]
    return table("owners", ("owner", "#bytes"), ((name, format_bytes(n)) for name, n in largest))


def _rates(stats: Stats, before: Stats | None, seconds: float) -> Table:
    if before is None:
        rows = [(name, stats.counters.get(name, 0)) for name in _RATES]
        return table("since it was opened", ("what", "#count"), rows)
    rates = [
        (name, f"{(stats.counters.get(name, 0) - before.counters.get(name, 0)) / seconds:,.0f}")
        for name in _RATES
    ]
    return table("each second", ("what", "#rate"), rates)


def _to_one(ratio: float) -> str:
    return f"{ratio:.1f} : 1" if ratio else "-"


def _figures(stats: Stats) -> Table:
    is_touched = any(stats.counters.get(name) for name in _TOUCHES)
    return table(
        "figures",
        ("what", "#value"),
        (
            ("append p50", format_seconds(stats.append_seconds_p50)),
            ("append p99", format_seconds(stats.append_seconds_p99)),
            ("sync p99", format_seconds(stats.sync_seconds_p99)),
            ("hit ratio", f"{stats.hit_ratio:.3f}" if is_touched else "-"),
            ("compression", _to_one(stats.compression_ratio)),
            ("state deltas", _to_one(stats.delta_ratio)),
            ("write-ahead log", format_bytes(stats.wal_bytes)),
            ("not sealed yet", format_bytes(stats.unsealed_bytes)),
            ("oldest reader", format_seconds(stats.oldest_reader_seconds)),
            ("resident sessions", stats.resident_sessions),
            (
                "disk",
                f"{format_bytes(stats.disk_bytes)}, free {format_bytes(stats.disk_free_bytes)}",
            ),
        ),
    )
