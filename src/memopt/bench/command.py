"""How a benchmark is run by hand: its options, its progress bar, where its results go.

Owns: the command line that all benchmarks share, and the list of them. Invariant: with `--json`,
standard output holds one JSON object and nothing else. Not here: any measuring.
"""

import argparse
import dataclasses
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memopt.base.errors import MemoptError, UsageError

NAMES: Final = (
    "agents",
    "answers",
    "capacity",
    "context",
    "context_questions",
    "context_windows",
    "arena",
    "density",
    "embedding",
    "forecast",
    "importing",
    "imports",
    "indexing",
    "latency",
    "likeness",
    "mappings",
    "opening",
    "policies",
    "prefetch",
    "pressure",
    "proxy",
    "recall",
    "scale",
    "soak",
    "shares",
    "states",
    "tiers",
    "vectors",
)
"""Every benchmark with a `run`; `replay` and `demo` have options of their own."""


_INTERRUPTED: Final = 130


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What every benchmark takes."""

    quick: bool = False
    """Small sizes: does it work, not what does it measure."""
    files: tuple[Path, ...] = ()
    """Conversations; none = the benchmark's own choice."""
    out: Path = Path("out")
    """Where JSON and plots go."""
    home: Path | None = None
    """On which file system to work: a directory for temporary ones; None = the system's choice."""
    seed: int = 0


Run = Callable[[BenchOptions], dict[str, Any]]


def bench(name: str, options: BenchOptions) -> dict[str, Any]:
    """Run a benchmark by its name and save its JSON. Raises UsageError for an unknown name."""
    if name not in NAMES:
        raise UsageError(f"expected one of {', '.join(NAMES)}, got {name!r}", field="name")
    # Now, and not after an hour's work, it is seen whether there can be one.
    options.out.mkdir(parents=True, exist_ok=True)
    run: Run = importlib.import_module(f"memopt.bench.{name}").run
    result = run(options)
    save(options.out / f"{name}.json", result)
    return result


def main(name: str, description: str | None, arguments: list[str] | None = None) -> int:
    """`python -m memopt.bench.<name>`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m memopt.bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, help="JSONL of conversations")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("out"), help="for JSON and plots")
    parser.add_argument("--home", type=Path, help="a directory on the file system to measure")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    options = BenchOptions(
        quick=given.quick,
        files=tuple(given.files),
        out=given.out,
        home=given.home,
        seed=given.seed,
    )
    try:
        result = bench(name, options)
    except (MemoptError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    if given.json:
        print_json(result)
    else:
        Console().print(figures_table(name, result))
    return 0


@contextmanager
def scratch(options: BenchOptions) -> Iterator[Path]:
    """A directory for one measurement, on the file system that was asked for."""
    with tempfile.TemporaryDirectory(prefix="memopt-bench-", dir=options.home) as directory:
        yield Path(directory)


def print_json(result: Mapping[str, Any]) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(result)).decode() + "\n")


def save(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")


def say(line: str) -> None:
    """A line for whoever watches, such as why something is skipped."""
    sys.stderr.write(line + "\n")


def figures_table(name: str, result: Mapping[str, Any]) -> Table:
    """Every figure of a result on a line of its own, named by its path."""
    table = Table(title=name, title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for path, value in _leaves(result):
        table.add_row(path, f"{value:,}" if type(value) in (int, float) else str(value))
    return table


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A callable (done, total) that draws on standard error when that is a terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value
