"""`memopt ingest`: files and folders of documents into a scope, to be recalled.

Of a folder the files are taken whose suffix says that they are documents, in the order of their
names; what is hidden is not. A file that is refused stops nobody else: it is listed, and the
command fails at the end.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from memopt.base.document_records import Ingested
from memopt.base.errors import UsageError
from memopt.cli.directory import AsJson, Directory, attached
from memopt.cli.terminal import EXIT_FAILED, describe, fail, print_json, progress, say, table
from memopt.recall.document_text import SUFFIXES

FILES_MAX: Final = 100_000
"""Of one call."""
_STANDARD_INPUT: Final = Path("-")


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    reason: str


def ingest(
    directory: Directory,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help='Files and folders; "-" is standard input.'),
    ],
    scope: Annotated[str, typer.Option("--scope", help="Whose memory it becomes.")] = "default",
    source: Annotated[
        str | None,
        typer.Option("--source", help="Where it is from, of one file. [default: its path]"),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep documents in pieces, in place of what is there from the same source."""
    files = list(_files(paths))
    if source is not None and len(files) != 1:
        raise UsageError(f"goes with one file, got {len(files)}", field="--source")
    done: list[Ingested] = []
    refused: list[Refused] = []
    with attached(directory, writable=True, create=True) as memory:
        limit = memory.config.document_bytes_max
        with progress("Ingesting") as bar:
            for number, path in enumerate(files):
                bar(number, len(files))
                is_input = path == _STANDARD_INPUT
                try:
                    document = sys.stdin.buffer.read(limit + 1) if is_input else path
                    one = memory.ingest(document, scope=scope, source=source, tags=tag or ())
                except (UsageError, OSError) as error:
                    reason = describe(error).removeprefix(f"{path}: ")
                    refused.append(Refused(path=str(path), reason=reason))
                else:
                    done.append(one)
    if as_json:
        print_json({"ingested": done, "refused": refused})
    else:
        _show(done)
    for one_refused in refused:
        fail(f"{one_refused.path}: {one_refused.reason}")
    if refused:
        raise typer.Exit(EXIT_FAILED)


def _show(done: list[Ingested]) -> None:
    if not done:
        return
    columns = ("source", "written in", "#pieces", "#new", "#kept", "#gone", "notes")
    rows = (
        (
            one.source, one.media, one.pieces, one.added, one.kept, one.removed,
            "; ".join(one.notes),
        )
        for one in done
    )  # fmt: skip
    say(table("", columns, rows))


def _files(paths: list[Path]) -> Iterator[Path]:
    """The files that are meant, each once. Raises UsageError for too many, and for a folder
    without any."""
    seen: set[str] = set()
    for path in paths:
        found = _walk(path) if path.is_dir() else iter([path])
        count = len(seen)
        for file in found:
            if str(file) not in seen:
                seen.add(str(file))
                if len(seen) > FILES_MAX:
                    raise UsageError(f"more than {FILES_MAX} files", field="PATH")
                yield file
        if path.is_dir() and len(seen) == count:
            suffixes = " ".join(SUFFIXES)
            raise UsageError(f"no documents in {path}, of {suffixes}", field="PATH")


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(where, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file():
                yield path
