"""Puts the commands together and turns errors into exit codes.

Not here: what a command does (one module per group of them) and how it prints (terminal.py).
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from memopt.base.errors import MemoptError
from memopt.cli import (
    context,
    forget,
    importing,
    ingest,
    inspect,
    measure,
    memories,
    recall,
    serve,
    simulate,
    top,
    transfer,
    upkeep,
)
from memopt.cli.directory import config_file
from memopt.cli.terminal import EXIT_PIPE, describe, exit_code, fail


class Commands(TyperGroup):
    """The door of every command: what goes wrong on purpose becomes one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # What is still in the buffer would fail again when the interpreter flushes it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_PIPE) from None
        except (MemoptError, OSError) as error:
            fail(describe(error))
            raise typer.Exit(exit_code(error)) from error


app = typer.Typer(
    name="memopt",
    cls=Commands,
    help="A memory runtime for LLM agents: any number of conversations inside one byte budget.",
    epilog=(
        "Exit codes: 0 done; 1 failed or damaged; 2 wrong call or nothing there; 3 locked or a"
        " limit is reached, try again later. Settings come from --config, then MEMOPT_* variables."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"memopt {version('memopt')}\n")
        raise typer.Exit


@app.callback()
def options(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", exists=True, dir_okay=False, help="TOML file."),
    ] = None,
    print_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    config_file.set(config)


app.command("serve")(serve.serve)
app.command("replay")(measure.replay)
app.command("simulate")(simulate.simulate)
app.command("inspect")(inspect.inspect)
app.command("top")(top.top)
app.command("check")(upkeep.check)
app.command("compact")(upkeep.compact)
app.command("backup")(upkeep.backup)
app.command("restore")(upkeep.restore)
app.command("export")(transfer.export)
app.command("import")(importing.import_)
app.command("ingest")(ingest.ingest)
app.command("forget")(forget.forget)
app.command("remember")(memories.remember)
app.command("items")(memories.items)
app.command("recall")(recall.recall)
app.command("context")(context.context)
app.command("bench")(measure.bench)


def main() -> None:
    """The entry point of the `memopt` command."""
    app()
