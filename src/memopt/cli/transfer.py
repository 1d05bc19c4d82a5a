"""`memopt export`: sessions and memories out of a store, a line at a time.

The JSONL form has one JSON object a line, so a session of any length streams through constant
memory. A session is a line of kind "session", followed by its messages and its state versions:

    {"kind":"session","memopt":1,"scope":"acme/ann","id":"s1","agent":"desk","message_count":2}
    {"kind":"message","at":"2031-05-17T09:20:00Z","actor":null,"message":{"role":"user", …}}
    {"kind":"state","name":"main","value":{…}}

Behind them come the memories that are stated (item_transfer.py).

Kept: scope, id, agent, each message exactly, when it was said, who wrote it, and the values of all
state versions. Not kept: LSNs, times of commits and of states, branches that were abandoned.
Not here: the way back (importing.py).
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from memopt import Memory, Session
from memopt.base.errors import CorruptionError, UsageError
from memopt.base.records import Entry, Message, Reach, SessionInfo
from memopt.base.units import GIB
from memopt.cli.directory import Directory, attached, every_session, find_session
from memopt.cli.item_transfer import item_lines
from memopt.cli.item_tree import write_tree
from memopt.cli.terminal import json_text, progress, shown, shown_lines

FORM: Final = 1
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
        "memopt": FORM,
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
    heading = f"## {entry.seq} · {shown(role)}{shown(name)}{shown(actor)} · {at}"
    body = body_of(message)
    return "\n\n".join([heading, *([body] if body else [])]) + "\n\n"


def body_of(message: Message) -> str:
    """What a message says, as Markdown that is safe on a terminal; what it has besides, as JSON."""
    parts: list[str] = []
    role, content = message.get("role", message.get("type")), message.get("content")
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
    return "\n\n".join(part for part in parts if part)


def _fenced_json(value: Any) -> str:
    return _fenced(json_text(value, indent=2), "json")


def _fenced(text: str, language: str = "") -> str:
    """A code block that no line of its own can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{shown_lines(text)}\n{fence}"
