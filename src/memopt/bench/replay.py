"""Question: what do N real conversations cost in a byte budget, beside the same in plain Python?

Method: a seeded, skewed schedule appends every message of N sessions and resumes cold ones on the
way (schedule); every session is then read back and compared by hash with what was written. memopt
and the baseline each play it in a fresh process that reads the source data before its RSS is taken.
Baseline: a dict of lists of dicts (player.NaiveKeeper).
Not measured: other threads, other processes on the machine, network, and the model's own time.

`messages_per_second` is messages ÷ seconds spent in append calls, with the seals and checkpoints
they waited for; `messages_per_second_wall` is over the whole schedule, resumes and the making of
the messages included.
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from memopt.base.config import Config
from memopt.base.errors import MemoptError, UsageError
from memopt.base.records import Durability, Seal
from memopt.base.units import MIB, format_bytes, parse_bytes
from memopt.bench import data
from memopt.bench.child import Work, run_in_child
from memopt.bench.command import print_json, progress_bar
from memopt.bench.measure import Quantiles, machine
from memopt.bench.player import Figures, Script, play_memopt, play_naive, prepared

Progress = Callable[[int, int], None]
"""(done, total), in messages."""

_ACTIVE_MAX: Final = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    files: tuple[Path, ...] = ()
    """JSONL of conversations; none = the best that is there."""
    sessions: int = 20_000
    budget_bytes: int = 64 * MIB
    durability: Durability = Durability.OS
    policy: str = Config().policy
    seal: Seal = Config().seal
    promotion_batch: int = Config().promotion_batch_pages
    home: Path | None = None
    """An empty or absent directory that is kept; None = a temporary one."""
    baseline: bool = True
    compact: bool = True
    """Compact at the end, to report the disk it leaves."""
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the store, beside those above; by their names in Config, as JSON can say them."""
    access_log: Path | None = None
    """Where the touches of pages are recorded, for `memopt simulate`. The store is then opened anew
    for the comparison, so resident bytes and tiers are those of reading all back."""

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise UsageError(f"expected at least 1, got {self.sessions}", field="sessions")
        Config(**self.settings)


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """A dict of lists of dicts."""

    rss_growth_bytes: int
    messages_per_second: float
    messages_per_second_wall: float
    append_us: Quantiles
    resume_us: Quantiles


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    sessions: int
    messages: int
    raw_bytes: int
    """JSON of all messages."""
    budget_bytes: int
    resident_bytes_max: int
    """The most that was ever charged to the budget."""
    rss_start_bytes: int
    """With the source data loaded, before the directory is opened."""
    rss_growth_bytes_max: int
    rss_growth_compact_bytes_max: int
    """The same with `compact` at the end included."""
    disk_bytes: int
    """Allocated at the end, the write-ahead log included."""
    disk_bytes_compacted: int | None
    append_us: Quantiles
    resume_us: Quantiles
    resumes: int
    messages_per_second: float
    messages_per_second_wall: float
    verified_messages: int
    mismatches: int
    baseline: Baseline | None
    rss_ratio: float | None
    """The baseline's growth ÷ memopt's."""
    durability: Durability
    policy: str
    seal: Seal
    promotion_batch: int
    settings: dict[str, Any]
    """Other settings of the store that were given."""
    seed: int
    stats: dict[str, float]
    machine: dict[str, Any]


def replay(options: ReplayOptions, progress: Progress | None = None) -> ReplayResult:
    """Play the schedule on memopt and, unless told otherwise, on the baseline.

    Raises UsageError for a source that cannot be read or a home that is not empty.
    """
    with home_of(options.home) as home:
        script = script_of(options, home=home)
        # Read here as well: a bad file is named before a process is started for it.
        _, plan = prepared(script)
        total = plan.message_count * (3 if options.baseline else 2)
        figures = played(play_memopt, script, progress, total=total)
        naive = None
        if options.baseline:
            begun = 2 * plan.message_count
            naive = played(play_naive, script, progress, done=begun, total=total)
        return result_of(options, figures, naive, machine(home))


def as_json(result: ReplayResult) -> dict[str, Any]:
    """The result as JSON has it, its fields in the order of the class."""
    value: dict[str, Any] = msgspec.to_builtins(result)
    return value


def render(result: ReplayResult) -> Table:
    """The result beside the baseline, for people."""
    table = Table(
        title=f"{result.sessions:,} sessions, {result.messages:,} messages, "
        f"{format_bytes(result.raw_bytes)} of JSON, budget {format_bytes(result.budget_bytes)}, "
        f"{result.durability} durability, {result.policy}"
        + "".join(f", {name} {value}" for name, value in result.settings.items()),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("")
    table.add_column("memopt", justify="right")
    naive = result.baseline
    if naive is not None:
        table.add_column("dict of lists", justify="right")
    for label, ours, theirs in _rows(result, naive):
        table.add_row(label, ours, *([theirs] if naive is not None else []))
    return table


def script_of(options: ReplayOptions, *, home: Path, acked_file: Path | None = None) -> Script:
    files = options.files or (data.trajectories(),)
    return Script(
        files=tuple(str(path) for path in files),
        sessions=options.sessions,
        seed=options.seed,
        active_max=_ACTIVE_MAX,
        home=str(home),
        budget_bytes=options.budget_bytes,
        durability=options.durability,
        policy=options.policy,
        seal=options.seal,
        promotion_batch=options.promotion_batch,
        compact=options.compact,
        settings=dict(options.settings),
        access_log=str(options.access_log.resolve()) if options.access_log else None,
        acked_file=str(acked_file) if acked_file else None,
    )


def played(
    work: Work, script: Script, progress: Progress | None, *, total: int, done: int = 0
) -> Figures:
    """The figures of a script played in a child."""

    def report(line: dict[str, Any]) -> None:
        if progress is not None:
            progress(done + line["done"], total)

    return msgspec.convert(run_in_child(work, script, report), Figures)


def result_of(
    options: ReplayOptions,
    figures: Figures,
    naive: Figures | None,
    where: dict[str, Any],
    *,
    messages: int | None = None,
) -> ReplayResult:
    """The comparison; `messages` where more were appended than these figures are of."""
    baseline = None
    if naive is not None:
        baseline = Baseline(
            rss_growth_bytes=naive.rss_growth_bytes_max,
            messages_per_second=naive.messages_per_second,
            messages_per_second_wall=naive.messages_per_second_wall,
            append_us=naive.append_us,
            resume_us=naive.resume_us,
        )
    growth = max(1, figures.rss_growth_bytes_max)
    return ReplayResult(
        sessions=options.sessions,
        messages=messages if messages is not None else figures.messages,
        raw_bytes=figures.raw_bytes,
        budget_bytes=options.budget_bytes,
        resident_bytes_max=figures.resident_bytes_max,
        rss_start_bytes=figures.rss_start_bytes,
        rss_growth_bytes_max=figures.rss_growth_bytes_max,
        rss_growth_compact_bytes_max=figures.rss_growth_compact_bytes_max,
        disk_bytes=figures.disk_bytes,
        disk_bytes_compacted=figures.disk_bytes_compacted,
        append_us=figures.append_us,
        resume_us=figures.resume_us,
        resumes=figures.resumes,
        messages_per_second=figures.messages_per_second,
        messages_per_second_wall=figures.messages_per_second_wall,
        verified_messages=figures.verified_messages,
        mismatches=figures.mismatches,
        baseline=baseline,
        rss_ratio=round(baseline.rss_growth_bytes / growth, 2) if baseline else None,
        durability=options.durability,
        policy=options.policy,
        seal=options.seal,
        promotion_batch=options.promotion_batch,
        settings=dict(options.settings),
        seed=options.seed,
        stats=figures.stats,
        machine=where,
    )


@contextlib.contextmanager
def home_of(home: Path | None) -> Iterator[Path]:
    """The directory to play in: the given one, which must be empty and is kept, or a temporary."""
    if home is None:
        with tempfile.TemporaryDirectory(prefix="memopt-bench-") as temporary:
            yield Path(temporary)
        return
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UsageError(f"{home} is not an empty directory", field="home")
    home.mkdir(parents=True, exist_ok=True)
    yield home


def _rows(result: ReplayResult, naive: Baseline | None) -> Iterator[tuple[str, str, str]]:
    def times(quantiles: Quantiles | None) -> str:
        return f"{quantiles.p50:,.1f} / {quantiles.p99:,.1f} µs" if quantiles else ""

    ratio = f" ({result.rss_ratio:.1f}x)" if result.rss_ratio is not None else ""
    per_session = result.rss_growth_bytes_max / result.sessions
    compacted = result.disk_bytes_compacted
    yield (
        "RSS growth",
        format_bytes(result.rss_growth_bytes_max),
        f"{format_bytes(naive.rss_growth_bytes)}{ratio}" if naive else "",
    )
    yield (
        "RSS growth per session",
        format_bytes(per_session),
        format_bytes(naive.rss_growth_bytes / result.sessions) if naive else "",
    )
    yield "charged to the budget, at most", format_bytes(result.resident_bytes_max), "-"
    yield "disk", format_bytes(result.disk_bytes), "- (lost on a crash)"
    if compacted is not None:
        each = format_bytes(compacted / result.sessions)
        yield "disk after compact", f"{format_bytes(compacted)}, {each} a session", "-"
    yield "append p50 / p99", times(result.append_us), times(naive.append_us if naive else None)
    yield "resume p50 / p99", times(result.resume_us), times(naive.resume_us if naive else None)
    yield (
        "messages/s in appends",
        f"{result.messages_per_second:,.0f}",
        f"{naive.messages_per_second:,.0f}" if naive else "",
    )
    yield (
        "messages/s, whole schedule",
        f"{result.messages_per_second_wall:,.0f}",
        f"{naive.messages_per_second_wall:,.0f}" if naive else "",
    )
    yield "verified messages", f"{result.verified_messages:,}", "-"
    yield "mismatches", f"{result.mismatches:,}", "-"


def main(arguments: list[str] | None = None) -> int:
    """`python -m memopt.bench.replay`: the options of `memopt replay`."""
    given = options_parser("replay", __doc__, ReplayOptions()).parse_args(arguments)
    try:
        with progress_bar("replay") as progress:
            result = replay(replay_options(given), progress)
    except MemoptError as error:
        sys.stderr.write(f"replay: {error}\n")
        return 1
    if given.json:
        print_json(as_json(result))
    else:
        Console().print(render(result))
    return 1 if result.mismatches else 0


def options_parser(
    name: str, description: str | None, defaults: ReplayOptions
) -> argparse.ArgumentParser:
    """The command line of a replay."""
    parser = argparse.ArgumentParser(
        prog=f"python -m memopt.bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, help="JSONL of conversations")
    parser.add_argument("--sessions", type=int, default=defaults.sessions)
    parser.add_argument("--budget", default=str(defaults.budget_bytes), metavar="SIZE")
    parser.add_argument("--durability", default=defaults.durability, choices=list(Durability))
    parser.add_argument("--policy", default=defaults.policy)
    parser.add_argument("--seal", default=defaults.seal, choices=list(Seal))
    parser.add_argument("--promotion-batch", type=int, default=defaults.promotion_batch)
    parser.add_argument("--home", type=Path, help="an empty directory, kept afterwards")
    parser.add_argument("--access-log", type=Path, help="record the touches of pages here")
    parser.add_argument("--no-baseline", dest="baseline", action="store_false")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser


def replay_options(given: argparse.Namespace) -> ReplayOptions:
    return ReplayOptions(
        files=tuple(given.files),
        sessions=given.sessions,
        budget_bytes=parse_bytes(given.budget, field="budget"),
        durability=Durability(given.durability),
        policy=given.policy,
        seal=Seal(given.seal),
        promotion_batch=given.promotion_batch,
        home=given.home,
        baseline=given.baseline,
        seed=given.seed,
        access_log=given.access_log,
    )


if __name__ == "__main__":
    sys.exit(main())
