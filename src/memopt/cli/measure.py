"""`memopt replay` and `memopt bench`: figures, beside a baseline that runs in the same call."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

import memopt.bench
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.records import Durability, Seal
from memopt.base.units import parse_bytes
from memopt.bench.command import NAMES
from memopt.bench.replay import ReplayOptions, as_json, render
from memopt.bench.replay import replay as play
from memopt.cli.directory import config_file, refuse_config
from memopt.cli.terminal import EXIT_FAILED, print_json, progress, say, table

_DEFAULTS: Final = ReplayOptions()
_QUESTION: Final = "Question:"
"""How the docstring of a benchmark begins."""
_ALL: Final = "all"
_ENDING_SECONDS: Final = 60.0


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    question: str


def replay(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            exists=True,
            dir_okay=False,
            help="JSONL of conversations, .gz too. [default: the best that is there]",
        ),
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="How many sessions.")] = _DEFAULTS.sessions,
    budget: Annotated[str | None, typer.Option(help="The byte budget. [default: 64MiB]")] = None,
    durability: Annotated[
        Durability | None,
        typer.Option(help="What an acknowledged write survives. [default: os]"),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Who leaves a tier. [default: adaptive]")
    ] = None,
    seal: Annotated[
        Seal | None, typer.Option(help="When a tail becomes a page. [default: idle]")
    ] = None,
    promotion_batch: Annotated[
        int | None, typer.Option(min=1, help="Pages that a fault brings in. [default: 1]")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the store here. [default: temporary]")
    ] = None,
    access_log: Annotated[
        Path | None,
        typer.Option(
            "--access-log", metavar="FILE", help="Record the touches of pages, for simulate."
        ),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="The same with a dict of lists.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the schedule.")] = _DEFAULTS.seed,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put conversations through a budget, resume cold ones, read all back and compare."""
    given = {
        "budget_bytes": parse_bytes(budget, field="--budget") if budget is not None else None,
        "durability": durability,
        "policy": policy,
        "seal": seal,
        "promotion_batch_pages": promotion_batch,
        "access_log": access_log,
    }
    named = Config.named(config_file.get()) | {k: v for k, v in given.items() if v is not None}
    # Read here as well: a setting that cannot be is named before a process is started for it.
    settings = Config(**named)
    values = {name: getattr(settings, name) for name in named}
    chosen = ReplayOptions(
        files=tuple(files or ()),
        sessions=sessions,
        budget_bytes=values.pop("budget_bytes", _DEFAULTS.budget_bytes),
        durability=values.pop("durability", _DEFAULTS.durability),
        policy=values.pop("policy", _DEFAULTS.policy),
        seal=values.pop("seal", _DEFAULTS.seal),
        promotion_batch=values.pop("promotion_batch_pages", _DEFAULTS.promotion_batch),
        access_log=Path(log) if (log := values.pop("access_log", None)) else None,
        home=home,
        baseline=baseline,
        seed=seed,
        settings=msgspec.to_builtins(values),
    )
    with progress("Replaying messages") as bar:
        result = play(chosen, bar)
    if json:
        print_json(as_json(result))
    else:
        say(render(result))
    if result.mismatches:
        raise typer.Exit(EXIT_FAILED)


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Benchmarks to run, or all. [default: list them]"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller, in minutes.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where JSON and plots are saved.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run benchmarks, each in a process of its own; without a name, list them."""
    refuse_config()
    if not names:
        known = benchmarks()
        if json:
            print_json(known)
        else:
            rows = ((benchmark.name, benchmark.question) for benchmark in known)
            say(table("", ("name", "question"), rows))
        return
    if names == [_ALL]:
        names = list(NAMES)
    for name in names:
        if name not in NAMES:
            raise UsageError(f"there is no such benchmark, but {', '.join(NAMES)}", field=name)
    flags = ["--quick"] * quick + ["--json"] * json
    flags += ["--out", str(out)] if out is not None else []
    results = {}
    failed = False
    for name in names:
        # A process each, so that the memory of one is not the start of the next.
        command = [sys.executable, "-m", f"{memopt.bench.__name__}.{name}", *flags]
        code, answer = _ended(command, is_heard=json)
        failed |= code != 0
        if json and code == 0:
            results[name] = msgspec.json.decode(answer)
    if json:
        print_json(results)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _ended(command: list[str], *, is_heard: bool) -> tuple[int, bytes]:
    """The exit code, and what was printed where that is heard.

    A Ctrl-C reaches the process, too: it is waited for, so that what it made on disk is gone. Not
    subprocess.run, which gives it a quarter of a second and kills it.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE if is_heard else None) as process:
        try:
            answer, _ = process.communicate()
        except KeyboardInterrupt:
            process.wait(_ENDING_SECONDS)
            raise
    return process.returncode, answer or b""


def benchmarks() -> list[Benchmark]:
    """What there is, by name, with the question each answers."""
    found = []
    for name in NAMES:
        # Parsed and not imported: what a benchmark needs may not be installed.
        source = Path(memopt.bench.__path__[0], f"{name}.py").read_text("utf-8")
        paragraph = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
        question = " ".join(paragraph.removeprefix(_QUESTION).split())
        found.append(Benchmark(name=name, question=question))
    return found
