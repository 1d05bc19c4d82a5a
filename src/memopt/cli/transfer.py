"""`memopt export` and `import`: sessions and memories out of a store and back, a line at a time.

The JSONL form has one JSON object a line, so a session of any length streams through constant
memory. A session is a line of kind "session", followed by its messages and its state versions:

    {"kind":"session","memopt":1,"scope":"acme/ann","id":"s1","agent":"desk","message_count":2}
    {"kind":"message","at":"2031-05-17T09:20:00Z","actor":null,"message":{"role":"user", …}}
    {"kind":"state","name":"main","value":{…}}

Behind them come the memories that are stated (item_transfer.py).

Kept: scope, id, agent, each message exactly, when it was said, who wrote it, and the values of all
state versions. Not kept: LSNs, times of commits and of states, branches that were abandoned.
`import` also takes lines of the plain form {"messages": […]} with optional id, scope and agent.

Importing is repeatable: what a session holds already is compared, and only the rest is written.
"""

import gzip
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import typer

from memopt import Memory, Session
from memopt.base.errors import CorruptionError, UsageError
from memopt.base.records import Entry, Message, Reach, SessionInfo
from memopt.base.units import GIB
from memopt.cli.directory import AsJson, Directory, attached, every_session, find_session
from memopt.cli.item_transfer import KINDS as OF_ITEMS
from memopt.cli.item_transfer import ItemReading, item_lines
from memopt.cli.item_tree import TreeReport, read_tree, say_tree, write_tree
from memopt.cli.terminal import json_text, print_json, progress, say, shown, shown_lines

_FORM: Final = 1
_GZIP_MAGIC: Final = b"\x1f\x8b"
_LINE_BYTES_MAX: Final = 1 * GIB
_TOGETHER_MAX: Final = 256
"""Messages that are written by one call."""


class Form(StrEnum):
    JSONL = "jsonl"
    """Lossless; `memopt import` reads it."""
    MARKDOWN = "markdown"
    """For people."""
    TREE = "tree"
    """Memories alone, as a folder of Markdown that people can edit; `memopt import` reads it."""


def export(
    directory: Directory,
    scope: Annotated[
        str | None, typer.Option("--scope", help="Only this scope. [default: all]")
    ] = None,
    subtree: Annotated[bool, typer.Option("--subtree", help="And the scopes below it.")] = False,
    session: Annotated[
        str | None, typer.Option("--session", help='One session of --scope (or of "default").')
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", help="Lossless, for people, or to be edited.")
    ] = Form.JSONL,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="PATH", help="[default: standard output]")
    ] = None,
) -> None:
    """Write sessions and memories out, as JSONL that `import` reads or as Markdown for people. A
    tree is a folder of memories alone, which people can edit and `import` reads.

    A damaged session is written up to the damage, the others are whole, and the exit code is 1.
    Mappings and sequences are left out: `memopt backup` copies everything.
    """
    damaged: list[str] = []
    memories: list[str] = []
    reach = Reach.SUBTREE if subtree else Reach.EXACT
    if form is Form.TREE:
        if output is None or session is not None:
            raise UsageError("a tree needs a folder, and no session", field="--output")
        with attached(directory, writable=False) as memory:
            write_tree(memory, output, scope, reach)
        return
    with attached(directory, writable=False) as memory, _destination(output) as write:
        infos: Iterable[SessionInfo]
        if session is None:
            infos = every_session(memory, scope, reach)
        else:
            infos = [_info(memory, "default" if scope is None else scope, session)]
        lines = _jsonl if form is Form.JSONL else _markdown
        with progress("Exporting messages") as bar:
            done = 0
            for info in infos:
                try:
                    for line in lines(info, memory.session(info.id, scope=info.scope)):
                        write(line)
                        done += 1
                        bar(done, 0)
                except CorruptionError:
                    damaged.append(f"{info.id} of {info.scope}")
            if session is None and form is Form.JSONL:
                for item_line in item_lines(memory, scope, reach, memories):
                    write(json_text(item_line) + "\n")
                    done += 1
                    bar(done, 0)
    said = [
        f"{len(some)} {what} are damaged: {', '.join(some)}"
        for some, what in ((damaged, "sessions"), (memories, "memories"))
        if some
    ]
    if said:
        raise CorruptionError("; ".join(said))


def _info(memory: Memory, scope: str, session_id: str) -> SessionInfo:
    find_session(memory, scope, session_id)
    for info in every_session(memory, scope, Reach.EXACT):
        if info.id == session_id:
            return info
    raise AssertionError(f"session {session_id!r} has a head and is not listed")


@contextmanager
def _destination(output: Path | None) -> Iterator[Callable[[str], object]]:
    """Standard output, or a file that appears once it is complete."""
    if output is None:
        yield sys.stdout.write
        return
    unfinished = output.with_name(f"{output.name}.part-{os.getpid()}")
    try:
        with unfinished.open("x", encoding="utf-8") as file:
            yield file.write
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def _jsonl(info: SessionInfo, session: Session) -> Iterator[str]:
    header = {
        "kind": "session",
        "memopt": _FORM,
        "scope": info.scope,
        "id": info.id,
        "agent": info.agent,
        "message_count": info.message_count,
    }
    yield json_text(header) + "\n"
    for entry in session.entries():
        line = {"kind": "message", "at": entry.at, "actor": entry.actor, "message": entry.message}
        yield json_text(line) + "\n"
    for version in session.states():
        state = session.load_state(name=version.name, version=version.version)
        if state is not None:
            yield json_text({"kind": "state", "name": version.name, "value": state.value}) + "\n"


# -- Markdown -------------------------------------------------------------------------------------


def _markdown(info: SessionInfo, session: Session) -> Iterator[str]:
    agent = f", agent {shown(info.agent)}" if info.agent else ""
    yield f"# {shown(info.id)}\n\n"
    yield f"Scope {shown(info.scope)}{agent}, {info.message_count} messages.\n\n"
    for entry in session.entries():
        yield _markdown_entry(entry)


def _markdown_entry(entry: Entry) -> str:
    message = entry.message
    name = f" {message['name']}" if isinstance(message.get("name"), str) else ""
    actor = f" · {entry.actor}" if entry.actor else ""
    role = message.get("role", message.get("type", "message"))
    at = f"{entry.at:%Y-%m-%d %H:%M:%S} UTC"
    parts = [f"## {entry.seq} · {shown(role)}{shown(name)}{shown(actor)} · {at}"]
    content = message.get("content")
    if role == "tool" and isinstance(content, str):
        parts.append(_fenced(content))
    elif isinstance(content, str):
        parts.append(shown_lines(content))
    elif content is not None:
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else None
            parts.append(shown_lines(text) if isinstance(text, str) else _fenced_json(part))
    known = {"role", "content", "name", "tool_call_id"}
    rest = {key: value for key, value in message.items() if key not in known and value is not None}
    if rest:
        parts.append(_fenced_json(rest))
    return "\n\n".join(part for part in parts if part) + "\n\n"


def _fenced_json(value: Any) -> str:
    return _fenced(json_text(value, indent=2), "json")


def _fenced(text: str, language: str = "") -> str:
    """A code block that no line of its own can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{shown_lines(text)}\n{fence}"


# -- import ---------------------------------------------------------------------------------------


class Imported(msgspec.Struct, kw_only=True):
    sessions: int = 0
    messages: int = 0
    messages_there: int = 0
    """Messages that the store held already."""
    states: int = 0
    items: int = 0
    """Memories."""
    items_there: int = 0
    trees: list[TreeReport] = []


def import_(
    directory: Directory,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", exists=True, help="JSONL, .gz too, or a tree's folder."),
    ],
    scope: Annotated[
        str | None, typer.Option("--scope", help="Put all sessions here. [default: as in the file]")
    ] = None,
    forget_removed: Annotated[
        bool, typer.Option("--forget-removed", help="Forget memories whose lines are gone.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of a tree, say what would be done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read what `export` wrote, or lines of {"messages": […]}; makes DIR where needed."""
    counts = Imported()
    wrong = {"--dry-run": dry_run, "--forget-removed": forget_removed}
    _check_paths(files, [name for name, given in wrong.items() if given], scope)
    with attached(directory, writable=not dry_run, create=not dry_run) as memory:
        for file in files:
            if file.is_dir():
                tree = read_tree(memory, file, forget_removed=forget_removed, dry_run=dry_run)
                counts.trees.append(tree)
                continue
            reading = _Reading(memory, file, scope, counts)
            with progress(f"Importing {shown(file.name)}") as bar:
                try:
                    for number, line in _lines(file, bar):
                        reading.take(number, line)
                finally:  # what came before a bad line is kept
                    reading.finish()
    if as_json:
        print_json(counts)
    else:
        if len(counts.trees) < len(files):
            _say_counts(counts)
        for tree in counts.trees:
            say_tree(tree)


def _check_paths(paths: list[Path], of_trees: list[str], scope: str | None) -> None:
    """Raises UsageError where an option does not go with what is named."""
    files = [path for path in paths if not path.is_dir()]
    if files and of_trees:
        raise UsageError("goes with the folder of a tree alone", field=of_trees[0])
    if scope is not None and len(files) < len(paths):
        raise UsageError("goes with files alone: a page names its scope itself", field="--scope")
    for file in files:
        if file.suffix == ".md":
            raise UsageError(f"{file} is a page: import the folder of its tree", field="PATH")


def _say_counts(counts: Imported) -> None:
    messages = f" ({counts.messages_there} were there already)" if counts.messages_there else ""
    items = f" ({counts.items_there} were there already)" if counts.items_there else ""
    say(
        f"{counts.sessions} sessions, {counts.messages} messages{messages},"
        f" {counts.states} state versions, {counts.items} memories{items}."
    )


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
    memopt: int = _FORM
    scope: str | None = None
    id: str | None = None
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

    def __init__(self, memory: Memory, file: Path, scope: str | None, counts: Imported) -> None:
        self._memory = memory
        self._file = file
        self._scope = scope
        self._counts = counts
        self._session: Session | None = None
        self._there: Iterator[Entry] = iter(())
        self._states_there: dict[str, list[int]] = {}
        self._head = 0
        self._waiting: _Waiting | None = None
        self._items = ItemReading(memory, scope, self._counted)

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
                    self._items.take(kind, line)
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

    def _begin(self, where: str, number: int, header: _Session) -> None:
        self.finish()
        if header.memopt != _FORM:
            raise UsageError(f"form {header.memopt} is newer than this memopt", field=where)
        scope = self._scope or header.scope or "default"
        name = header.id or f"{self._file.name.split('.')[0]}-{number}"
        try:
            self._session = self._memory.session(name, scope=scope, agent=header.agent)
            self._head = self._session.head
        except UsageError as error:
            raise UsageError(str(error), field=where) from error
        self._there = iter(self._session.entries()) if self._head else iter(())
        self._states_there = {}
        for version in self._session.states() if self._head else ():
            self._states_there.setdefault(version.name, []).append(version.version)
        self._counts.sessions += 1
        for message in header.messages:
            self._said(where, _Said(message=message))

    def _said(self, where: str, said: _Said) -> None:
        if self._session is None:
            raise UsageError("a message before the first session", field=where)
        there = next(self._there, None)
        if there is not None:
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
        if self._session is None:
            raise UsageError("a state before the first session", field=where)
        self._flush()
        versions = self._states_there.get(saved.name)
        if versions:
            state = self._session.load_state(name=saved.name, version=versions.pop(0))
            if state is None or _exact(state.value) != _exact(saved.value):
                raise UsageError(
                    f"session {self._session.id!r} of scope {self._session.scope!r} holds"
                    f" another state {saved.name!r}",
                    field=where,
                )
            return
        try:
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
        assert self._session is not None, "only messages of a session wait"
        receipt = self._session.extend(
            messages, if_head=self._head, at=waiting.at, actor=waiting.actor
        )
        self._head = receipt.head
        self._counts.messages += len(messages)


def _exact(value: Any) -> bytes:
    """Equal only for what is the same to the last key and digit; 1 == 1.0 is not good enough."""
    return msgspec.json.encode(value)
