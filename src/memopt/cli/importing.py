"""`memopt import`: what `export` wrote, and what other programs kept, into a store.

A file of `export` is read a line at a time, here; a person's histories are read and brought in by
`memopt.past`. Either way what a session holds already is compared, and only the rest is written,
so an import may be repeated. Lines of `export` are of one program and have to be right: a wrong
one ends the import with its number. Histories are of others: what cannot be read is counted.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import typer

from memopt import Kind, Memory, Session
from memopt.base.errors import NotFoundError, UsageError
from memopt.base.records import Entry, Message
from memopt.base.units import GIB, format_bytes
from memopt.cli.directory import AsJson, Directory, attached
from memopt.cli.item_transfer import KINDS as OF_ITEMS
from memopt.cli.item_transfer import ItemReading
from memopt.cli.item_tree import INDEX, TreeReport, read_tree, say_tree
from memopt.cli.terminal import EXIT_FAILED, fail, print_json, progress, say, table
from memopt.cli.transfer import FORM
from memopt.past import Bringer, Brought, Format, Source, detected, read, size_of, sources

_GZIP_MAGIC: Final = b"\x1f\x8b"
_LINE_BYTES_MAX: Final = 1 * GIB
_TOGETHER_MAX: Final = 256
"""Messages that are written by one call."""
_SHOWN_MAX: Final = 20
"""Notes that are said; --json has them all."""
_MARKS_LOOKED_FOR: Final = 4096
_SCOPES: Final = {Format.JSONL: "default", Format.MESSAGES: "default"}
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


class Imported(Brought, kw_only=True):
    states: int = 0
    items: int = 0
    """Memories."""
    items_there: int = 0
    trees: list[TreeReport] = msgspec.field(default_factory=list)
    formats: dict[str, int] = msgspec.field(default_factory=dict)
    """Files, by what they are."""
    dry_run: bool = False
    """Nothing was done: it is what would be."""


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
            "--scope", help="Put all sessions here. [default: as in the file; me/PROGRAM]"
        ),
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
    works = _works(paths, from_, counts)
    _check_options(works, scope, forget_removed=forget_removed)
    try:
        with attached(directory, writable=not dry_run, create=not dry_run) as memory:
            _import(memory, works, scope, counts, forget_removed=forget_removed)
    except NotFoundError:
        if not dry_run or any(work.format is None for work in works):
            raise
        _import(None, works, scope, counts)
    if as_json:
        print_json(counts)
    else:
        _say_all(counts, is_tree_alone=all(work.format is None for work in works))
    if counts.damaged or counts.conflicts:
        raise typer.Exit(EXIT_FAILED)


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
    bringers: dict[Format, Bringer] = {}
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
            if work.format is Format.JSONL:
                _import_lines(memory, work.path, scope, counts, told)
                continue
            bringer = bringers.get(work.format)
            if bringer is None:
                bringer = bringers[work.format] = _bringer(memory, work.format, scope, counts)
            bringer.bring(read(work.source, work.format, counts, told))


def _bringer(
    memory: Memory | None, format: Format, scope: str | None, counts: Imported
) -> Bringer:  # fmt: skip
    return Bringer(
        memory, scope=scope or _SCOPES.get(format, f"me/{format}"),
        agent=None if format is Format.MESSAGES else format.value,
        report=counts, dry_run=counts.dry_run,
    )  # fmt: skip


def _import_lines(
    memory: Memory | None, file: Path, scope: str | None, counts: Imported,
    told: Callable[[int], None],
) -> None:  # fmt: skip
    reading = _Reading(memory, file, scope, counts)
    before = 0

    def bar(done: int, _total: int) -> None:
        nonlocal before
        told(done - before)
        counts.bytes += done - before
        before = done

    counts.files += 1
    try:
        for number, line in _lines(file, bar):
            reading.take(number, line)
    finally:  # what came before a bad line is kept
        reading.finish()


# -- what is meant --------------------------------------------------------------------------------


def _works(paths: list[Path], from_: From, counts: Imported) -> list[_Work]:
    """What the paths mean, in order. Raises UsageError for a file of no known format."""
    works: list[_Work] = []
    for path in paths:
        if from_ is From.AUTO and path.is_dir() and _is_tree(path):
            works.append(_Work(path, None, None))
            continue
        for source in sources(path, counts):
            if path.is_dir() and not _may_be(source, from_):
                continue
            format = _format(source, from_)
            if format is None and not path.is_dir():
                raise UsageError(_unknown(source), field=str(path))
            if format is None:
                counts.skip("files of no known format")
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
        # As lines of an export are read, what is wrong with them is named.
        is_lines = source.path.name.lower().endswith((".jsonl", ".jsonl.gz"))
        return found or (Format.JSONL if is_lines and source.place == source.path.name else None)
    if from_ is From.JSONL:
        return Format.MESSAGES if found is Format.MESSAGES else Format.JSONL
    return Format(from_.value)


def _unknown(source: Source) -> str:
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
        with source.path.open("rb") as file:
            head = file.read(_MARKS_LOOKED_FOR)
        is_page = source.path.stem.partition("~")[0] in _PAGE_NAMES
        pages = pages or is_page or (head.startswith(b"---") and b"\nmemopt:" in head)
    return pages


def _check_options(works: list[_Work], scope: str | None, *, forget_removed: bool) -> None:
    """Raises UsageError where an option does not go with what is named."""
    if forget_removed and any(work.format is not None for work in works):
        raise UsageError("goes with the folder of a tree alone", field="--forget-removed")
    if scope is not None and any(work.format is None for work in works):
        raise UsageError("goes with files alone: a page names its scope itself", field="--scope")


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


# -- lines of an export ---------------------------------------------------------------------------


def _lines(file: Path, bar: Callable[[int, int], None]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; packed files are unpacked on the way."""
    size = file.stat().st_size
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        unpacked: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        for number in count(1):
            try:
                line = unpacked.readline(_LINE_BYTES_MAX + 1)
            except (EOFError, zlib.error) as error:
                raise UsageError(str(error), field=f"{file}:{number}") from error
            if not line:
                return
            if len(line) > _LINE_BYTES_MAX:
                raise UsageError("the line is too long", field=f"{file}:{number}")
            bar(raw.tell(), size)
            if line.strip():
                yield number, line


class _Session(msgspec.Struct, kw_only=True):
    """The first line of a session, or a whole one in the plain form."""

    kind: str = "session"
    memopt: int = FORM
    scope: str | None = None
    id: str | None = None
    session: str | None = None
    """Another word for its id."""
    agent: str | None = None
    messages: list[Message] = []


class _Said(msgspec.Struct, kw_only=True):
    message: Message
    at: datetime | None = None
    actor: str | None = None


class _Saved(msgspec.Struct, kw_only=True):
    name: str
    value: Any


class _Kind(msgspec.Struct):
    kind: str = "session"


class _Waiting(NamedTuple):
    at: datetime | None
    actor: str | None
    messages: list[Message]
    wheres: list[str]


class _Reading:
    """Puts the lines of one file into the store, in order, beside what is there already."""

    def __init__(
        self, memory: Memory | None, file: Path, scope: str | None, counts: Imported
    ) -> None:
        """`memory` is None where there is no store yet, in a dry run."""
        self._memory = memory
        self._file = file
        self._scope = scope
        self._counts = counts
        self._session: Session | None = None
        self._there: Iterator[Entry] = iter(())
        self._states_there: dict[str, list[int]] = {}
        self._head = 0
        self._waiting: _Waiting | None = None
        self._items: ItemReading | None = None
        if memory is not None:
            self._items = ItemReading(memory, scope, self._counted, dry_run=counts.dry_run)
        self._is_begun = False

    def _counted(self, was_there: bool) -> None:
        if was_there:
            self._counts.items_there += 1
        else:
            self._counts.items += 1

    def take(self, number: int, line: bytes) -> None:
        where = f"{self._file}:{number}"
        try:
            kind = msgspec.json.decode(line, type=_Kind).kind
            if kind == "message":
                self._said(where, msgspec.json.decode(line, type=_Said))
            elif kind == "state":
                self._saved(where, msgspec.json.decode(line, type=_Saved))
            elif kind in OF_ITEMS:
                self.finish()
                try:
                    if self._items is not None:
                        self._items.take(kind, line)
                    elif kind == "item":
                        self._counted(was_there=False)
                except UsageError as error:
                    raise UsageError(str(error), field=where) from error
            elif kind == "session":
                self._begin(where, number, msgspec.json.decode(line, type=_Session))
            else:
                raise UsageError(f"an unknown kind of line, {kind!r}", field=where)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(str(error), field=where) from error

    def finish(self) -> None:
        self._flush()
        self._session = None
        self._is_begun = False

    def _begin(self, where: str, number: int, header: _Session) -> None:
        self.finish()
        if header.memopt != FORM:
            raise UsageError(f"form {header.memopt} is newer than this memopt", field=where)
        scope = self._scope or header.scope or "default"
        name = header.id or header.session or f"{self._file.name.split('.')[0]}-{number}"
        self._there, self._states_there, self._head = iter(()), {}, 0
        try:
            if self._memory is not None:
                self._session = self._memory.session(name, scope=scope, agent=header.agent)
                self._head = self._session.head
        except UsageError as error:
            raise UsageError(str(error), field=where) from error
        self._is_begun = True
        if self._session is not None and self._head:
            self._there = iter(self._session.entries())
        versions = self._session.states() if self._session is not None and self._head else []
        for version in versions:
            self._states_there.setdefault(version.name, []).append(version.version)
        self._counts.sessions += 1
        for message in header.messages:
            self._said(where, _Said(message=message))

    def _said(self, where: str, said: _Said) -> None:
        if not self._is_begun:
            raise UsageError("a message before the first session", field=where)
        there = next(self._there, None)
        if there is not None and self._session is not None:
            if _exact(there.message) != _exact(said.message):
                raise UsageError(
                    f"session {self._session.id!r} of scope {self._session.scope!r} holds"
                    f" something else as message {there.seq}",
                    field=where,
                )
            self._counts.messages_there += 1
            return
        waiting = self._waiting
        if waiting is None or waiting[:2] != (said.at, said.actor):
            self._flush()
            self._waiting = waiting = _Waiting(said.at, said.actor, [], [])
        waiting.messages.append(said.message)
        waiting.wheres.append(where)
        if len(waiting.messages) >= _TOGETHER_MAX:
            self._flush()

    def _saved(self, where: str, saved: _Saved) -> None:
        if not self._is_begun:
            raise UsageError("a state before the first session", field=where)
        self._flush()
        versions = self._states_there.get(saved.name)
        if versions and self._session is not None:
            state = self._session.load_state(name=saved.name, version=versions.pop(0))
            if state is None or _exact(state.value) != _exact(saved.value):
                raise UsageError(
                    f"session {self._session.id!r} of scope {self._session.scope!r} holds"
                    f" another state {saved.name!r}",
                    field=where,
                )
            return
        try:
            if not self._counts.dry_run:
                assert self._session is not None, "it was begun"
                self._session.save_state(saved.value, name=saved.name)
        except UsageError as error:
            raise UsageError(str(error), field=where) from error
        self._counts.states += 1

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        try:
            self._write(waiting, waiting.messages)
        except UsageError:
            # Nothing of them was written: one by one, to keep the good ones and name the bad one.
            for message, where in zip(waiting.messages, waiting.wheres, strict=True):
                try:
                    self._write(waiting, [message])
                except UsageError as error:
                    raise UsageError(str(error), field=where) from error

    def _write(self, waiting: _Waiting, messages: list[Message]) -> None:
        if not self._counts.dry_run:
            assert self._session is not None, "only messages of a session wait"
            receipt = self._session.extend(
                messages, if_head=self._head, at=waiting.at, actor=waiting.actor
            )
            self._head = receipt.head
        self._counts.messages += len(messages)


def _exact(value: Any) -> bytes:
    """Equal only for what is the same to the last key and digit; 1 == 1.0 is not good enough."""
    return msgspec.json.encode(value)
