"""`memopt import`: what `export` wrote, and what other programs kept, into a store.

Finds out what the paths mean and says what became of it. A file of `export` is read by
line_import.py, a person's histories by `memopt.past`. Either way what a session holds already is
compared, and only the rest is written, so an import may be repeated.
"""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from memopt import Kind, Memory
from memopt.base.errors import CapacityError, NotFoundError, UsageError
from memopt.base.names import check_scope
from memopt.base.units import format_bytes
from memopt.cli.directory import AsJson, Directory, attached
from memopt.cli.item_tree import INDEX, read_tree, say_tree
from memopt.cli.line_import import Imported, import_lines
from memopt.cli.memories import moment
from memopt.cli.terminal import EXIT_FAILED, describe, fail, print_json, progress, say, table
from memopt.past import (
    Bringer,
    Brought,
    Format,
    Source,
    detected,
    project_of,
    read,
    size_of,
    sources,
)
from memopt.past.files import unread

_SHOWN_MAX: Final = 20
"""Notes that are said; --json has them all."""
_MARKS_LOOKED_FOR: Final = 4096
_SCOPES: Final = {Format.JSONL: "default", Format.MESSAGES: "default"}
_NO_PROJECT: Final = "other"
_BRINGERS_MAX: Final = 64
"""Scopes at a time of which it is known what they hold."""
_PAGE_NAMES: Final = frozenset(kind.value for kind in Kind)


class From(StrEnum):
    AUTO = "auto"
    """What is in the file says it."""
    CLAUDE_CODE = "claude-code"
    CODEX = "codex"
    CHATGPT = "chatgpt"
    OPEN_WEBUI = "open-webui"
    JSONL = "jsonl"
    MARKDOWN = "markdown"


_SUFFIXES: Final = {
    From.CLAUDE_CODE: (".jsonl",), From.CODEX: (".jsonl",), From.JSONL: (".jsonl",),
    From.CHATGPT: (".json", ".zip"), From.OPEN_WEBUI: (".json",),
    From.MARKDOWN: (".md", ".markdown"),
}  # fmt: skip


def import_(
    directory: Directory,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", exists=True, help="Files, archives and folders."),
    ],
    from_: Annotated[From, typer.Option("--from", help="Who kept it.")] = From.AUTO,
    scope: Annotated[
        str | None,
        typer.Option(
            "--scope",
            help="Put all sessions here; {project} stands for the folder that an agent worked in,"
            " {program} for who kept it. [default: as in the file; me/PROGRAM]",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Leave out what ended before then."),
    ] = None,
    forget_removed: Annotated[
        bool, typer.Option("--forget-removed", help="Forget memories whose lines are gone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a history in: of Claude Code, Codex or ChatGPT, Markdown, or what `export` wrote.
    Repeat it, and only what is new comes in. Makes DIR where needed."""
    counts = Imported(dry_run=dry_run)
    works = _works(paths, from_, moment(since, "--since"), counts)
    _check_options(works, scope, forget_removed=forget_removed)
    try:
        with attached(directory, writable=not dry_run, create=not dry_run) as memory:
            _import(memory, works, scope, counts, forget_removed=forget_removed)
    except NotFoundError:
        if not dry_run or any(work.format is None for work in works):
            raise
        _import(None, works, scope, counts)
    except (CapacityError, KeyboardInterrupt) as error:
        # What came in stays: it is said before the error is.
        counts.ended = "interrupted" if isinstance(error, KeyboardInterrupt) else describe(error)
        _say_account(counts, works, as_json=as_json)
        raise
    _say_account(counts, works, as_json=as_json)
    if counts.damaged or counts.conflicts:
        raise typer.Exit(EXIT_FAILED)


def _say_account(counts: Imported, works: "list[_Work]", *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        _say_all(counts, is_tree_alone=bool(works) and all(work.format is None for work in works))
    if counts.ended is not None:
        fail("it ended early; what was read is there: repeat it to go on")


class _Work(NamedTuple):
    """Something to import."""

    path: Path
    source: Source | None
    """None for the folder of a tree."""
    format: Format | None


def _import(
    memory: Memory | None, works: list[_Work], scope: str | None, counts: Imported,
    *, forget_removed: bool = False,
) -> None:  # fmt: skip
    total = sum(size_of(work.source) for work in works if work.source is not None)
    done = 0
    bringers: dict[tuple[Format, str | None], Bringer] = {}
    with progress("Importing", in_bytes=True) as bar:

        def told(read_bytes: int) -> None:
            nonlocal done
            done += read_bytes
            bar(done, total, f"{counts.messages + counts.messages_there} messages")

        for work in works:
            if work.source is None or work.format is None:
                assert memory is not None, "a tree is of a store that is there"
                tree = read_tree(
                    memory, work.path, forget_removed=forget_removed, dry_run=counts.dry_run
                )
                counts.trees.append(tree)
                continue
            counts.formats[work.format] = counts.formats.get(work.format, 0) + 1
            where = _scope_of(scope, work.source, work.format)
            if work.format is Format.JSONL:
                import_lines(memory, work.path, where, counts, told)
                continue
            bringer = bringers.get((work.format, where))
            if bringer is None:
                while len(bringers) >= _BRINGERS_MAX:
                    del bringers[next(iter(bringers))]
                bringer = _bringer(memory, work.format, where, counts)
                bringers[work.format, where] = bringer
            bringer.bring(read(work.source, work.format, counts, told, bringer.room))


def _scope_of(scope: str | None, source: Source, format: Format) -> str | None:
    """Where a file's sessions go; None where it says so itself, or as its program has it."""
    if scope is None or "{" not in scope:
        return scope
    filled = scope.replace("{program}", format.value)
    return filled.replace("{project}", project_of(source) or _NO_PROJECT)


def _bringer(
    memory: Memory | None, format: Format, scope: str | None, counts: Imported
) -> Bringer:  # fmt: skip
    return Bringer(
        memory, scope=scope or _SCOPES.get(format, f"me/{format}"),
        agent=None if format is Format.MESSAGES else format.value,
        report=counts, dry_run=counts.dry_run,
    )  # fmt: skip


# -- what is meant --------------------------------------------------------------------------------


def _works(
    paths: list[Path], from_: From, since: datetime | None, counts: Imported
) -> list[_Work]:  # fmt: skip
    """What the paths mean, in order. Raises UsageError for a file of no known format."""
    works: list[_Work] = []
    for path in paths:
        if from_ is From.AUTO and path.is_dir() and _is_tree(path):
            works.append(_Work(path, None, None))
            continue
        for source in sources(path, counts, since):
            if path.is_dir() and not _may_be(source, from_):
                continue
            try:
                format = _format(source, from_)
            except OSError as error:
                if not path.is_dir():
                    raise
                counts.damage(source.name, unread(error))
                continue
            if format is None and not path.is_dir():
                raise UsageError(_unknown(source), field=str(path))
            if format is None:
                is_empty = not size_of(source)
                counts.skip("empty files" if is_empty else "files of no known format")
            else:
                works.append(_Work(source.path, source, format))
    return works


def _may_be(source: Source, from_: From) -> bool:
    """Whether a file of a folder may be what was asked for, by its name."""
    suffixes = _SUFFIXES.get(from_)
    name = source.path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return suffixes is None or name.endswith(suffixes)


def _format(source: Source, from_: From) -> Format | None:
    found = detected(source)
    if from_ is From.AUTO:
        return found
    if from_ is From.JSONL:
        return Format.MESSAGES if found is Format.MESSAGES else Format.JSONL
    return Format(from_.value)


def _unknown(source: Source) -> str:
    if not size_of(source):
        return "is empty"
    if source.path.suffix == ".md":
        return "is a page, or no conversation: of a tree of memories, import the folder"
    return "is of no known format: name it with --from"


def _is_tree(folder: Path) -> bool:
    """Whether a folder is one of memories, and not of somebody's conversations."""
    if (folder / INDEX).exists():
        return True
    pages = False
    for source in sources(folder, Brought()):
        if source.path.suffix != ".md":
            return False
        try:
            with source.path.open("rb") as file:
                head = file.read(_MARKS_LOOKED_FOR)
        except OSError:
            # It is named when it is read.
            return False
        is_page = source.path.stem.partition("~")[0] in _PAGE_NAMES
        pages = pages or is_page or (head.startswith(b"---") and b"\nmemopt:" in head)
    return pages


def _check_options(works: list[_Work], scope: str | None, *, forget_removed: bool) -> None:
    """Raises UsageError where an option does not go with what is named."""
    if forget_removed and any(work.format is not None for work in works):
        raise UsageError("goes with the folder of a tree alone", field="--forget-removed")
    if scope is not None and any(work.format is None for work in works):
        raise UsageError("goes with files alone: a page names its scope itself", field="--scope")
    if scope is not None:
        bare = scope.replace("{program}", "x").replace("{project}", "x")
        if "{" in bare or "}" in bare:
            raise UsageError(f"knows {{project}} and {{program}}, got {scope}", field="--scope")
        check_scope(bare, field="--scope")


# -- what is said ---------------------------------------------------------------------------------


def _say_all(counts: Imported, *, is_tree_alone: bool) -> None:
    if not is_tree_alone:
        _say_counts(counts)
    for tree in counts.trees:
        say_tree(tree)
    if counts.skipped:
        rows = sorted(counts.skipped.items(), key=lambda row: -row[1])
        say(table("", ("no part of a conversation", "#times"), rows[:_SHOWN_MAX]))
    for kind, notes in (
        ("damaged", counts.damaged), ("not mixed", counts.conflicts),
        ("unfinished", counts.unfinished),
    ):  # fmt: skip
        for note in notes[:_SHOWN_MAX]:
            fail(f"{kind}: {note.where}: {note.reason}")
        if len(notes) > _SHOWN_MAX:
            fail(f"{kind}: {len(notes) - _SHOWN_MAX} more, which --json lists")


def _say_counts(counts: Imported) -> None:
    messages = f" ({counts.messages_there} were there already)" if counts.messages_there else ""
    items = f" ({counts.items_there} were there already)" if counts.items_there else ""
    would = "Would bring in: " if counts.dry_run else ""
    of = f" {counts.files} files, {format_bytes(counts.bytes)}." if counts.files else ""
    say(
        f"{would}{counts.sessions} sessions, {counts.messages} messages{messages},"
        f" {counts.states} state versions, {counts.items} memories{items}.{of}"
    )
