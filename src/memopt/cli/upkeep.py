"""`memopt check`, `compact`, `backup` and `restore`: keeping a store well, and getting it back."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Final

import typer

import memopt
from memopt.base.errors import CorruptionError, NotFoundError, UsageError
from memopt.base.records import CheckReport, Reach
from memopt.base.units import format_bytes, format_seconds
from memopt.cli.directory import AsJson, Directory, attached
from memopt.cli.terminal import EXIT_FAILED, print_json, progress, say, table

_COPIED_AT_ONCE: Final = 1 << 20


def check(
    directory: Directory,
    after: Annotated[
        int | None, typer.Option("--after", help="Go on after this cursor of an earlier check.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Sessions to check. [default: all]")
    ] = None,
    accept_damage: Annotated[
        bool,
        typer.Option(
            "--accept-damage",
            help="Then stop reporting what was lost, and let damaged sessions be written again.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read everything and verify every checksum. Exit code 1 when something is damaged or lost."""
    with attached(directory, writable=accept_damage) as memory:
        with progress("Checking") as bar:
            report = memory.check(after=after, limit=limit, progress=bar)
        if accept_damage:
            memory.accept_damage()
    if as_json:
        print_json(report)
    else:
        _say_checked(report)
    if not report.clean:
        raise typer.Exit(EXIT_FAILED)


def _say_checked(report: CheckReport) -> None:
    say(
        f"Checked {report.sessions} sessions, {report.messages} messages, {report.pages} pages,"
        f" {report.states} states, {report.items} memories, {report.answers} cached answers:"
        f" {format_bytes(report.bytes_checked)}."
    )
    if report.lost_records:
        say(f"{report.lost_records} acknowledged records were lost.")
    if report.damages:
        rows = ((d.scope or "", d.session or "", d.what) for d in report.damages)
        say(table("Damaged", ("scope", "session", "what"), rows))
    if report.cursor is not None:
        say(f"Not everything was checked; go on with --after {report.cursor}.")
    elif report.clean:
        say("Clean.")


def compact(directory: Directory, as_json: AsJson = False) -> None:
    """Seal tails, erase what was forgotten, train dictionaries, give room back to the disk."""
    with attached(directory, writable=True) as memory, progress("Compacting") as bar:
        report = memory.compact(progress=bar)
    if as_json:
        print_json(report)
        return
    say(
        f"{format_bytes(report.disk_bytes_before)} became"
        f" {format_bytes(report.disk_bytes_after)} in {format_seconds(report.seconds)}:"
        f" {report.sealed_sessions} sessions sealed, {report.pages_encoded} pages encoded,"
        f" {report.dictionaries_trained} dictionaries trained, {report.dictionaries_dropped}"
        f" dropped, {report.texts_dropped} texts dropped."
    )


def backup(
    directory: Directory,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Where the copy goes.")],
    as_json: AsJson = False,
) -> None:
    """Copy a store while it is in use. The copy is complete and verified, or not there at all."""
    # Absolute, because the owner of the directory may stand in another one.
    with attached(directory, writable=True) as memory, progress("Backing up") as bar:
        report = memory.backup(target.absolute(), progress=bar)
    if as_json:
        print_json(report)
    else:
        say(
            f"{report.path}: everything up to LSN {report.lsn},"
            f" {format_bytes(report.size_bytes)} in {format_seconds(report.seconds)}."
        )


def restore(
    directory: Directory,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="BACKUP", help="Make DIR from this backup.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", help="Put this scope back to what it was at --lsn.")
    ] = None,
    lsn: Annotated[int | None, typer.Option("--lsn", min=0, help="With --scope.")] = None,
    subtree: Annotated[bool, typer.Option("--subtree", help="And the scopes below it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a directory from a backup (--from), or take a scope back in time (--scope and --lsn).

    Neither overwrites anything: a backup goes into a directory that is not there yet, and going
    back in time moves the heads of sessions, which can be moved again.
    """
    if source is not None:
        if scope is not None or lsn is not None or subtree:
            raise UsageError("goes alone, without --scope, --lsn and --subtree", field="--from")
        report = _restore_backup(source, directory)
        if as_json:
            print_json({"directory": str(directory), "check": report})
        else:
            say(f"{directory} was made from {source}.")
            _say_checked(report)
        return
    if scope is None or lsn is None:
        raise UsageError("say --from BACKUP, or --scope SCOPE and --lsn LSN")
    reach = Reach.SUBTREE if subtree else Reach.EXACT
    with attached(directory, writable=True) as memory:
        moved = memory.restore(scope, lsn, reach=reach)
    if as_json:
        print_json({"scope": scope, "reach": reach, "lsn": lsn, "sessions": moved})
    else:
        say(f"{moved} sessions are as they were at LSN {lsn}.")


def _restore_backup(source: Path, directory: Path) -> CheckReport:
    """Copy beside `directory`, check the copy, and only then give it the name."""
    if not source.is_dir():
        raise NotFoundError(f"there is no backup at {source}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError("is there already, and not empty", field=str(directory))
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f"{directory.name}.restoring-{os.getpid()}")
    try:
        _copy(source, unfinished)
        with memopt.open(unfinished, create=False) as memory, progress("Checking") as bar:
            report: CheckReport = memory.check(progress=bar)
        if not report.clean:
            raise CorruptionError(
                f"{source} is damaged: {len(report.damages)} places,"
                f" {report.lost_records} records lost; nothing was restored"
            )
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _sync(directory.parent)
    return report


def _copy(source: Path, target: Path) -> None:
    files = [file for file in sorted(source.iterdir()) if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    done = 0
    target.mkdir(mode=0o700)
    with progress("Restoring") as bar:
        for file in files:
            with file.open("rb") as reading, (target / file.name).open("xb") as writing:
                while piece := reading.read(_COPIED_AT_ONCE):
                    writing.write(piece)
                    done += len(piece)
                    bar(done, total)
                writing.flush()
                os.fsync(writing.fileno())
    _sync(target)


def _sync(directory: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
