"""Lines of `memopt export`, and conversations of one line each, into a store.

A file is read a line at a time. What a session holds already is compared to the last digit, and
only the rest is written. Lines of `export` are of one program and have to be right: a wrong one
ends the import with its number. Not here: other programs' histories (`memopt.past`), though which
session a conversation without a name is, is found as for theirs.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from memopt import Memory, Session
from memopt.base.errors import UsageError
from memopt.base.records import Entry, Message
from memopt.base.units import GIB
from memopt.cli.item_transfer import KINDS as OF_ITEMS
from memopt.cli.item_transfer import ItemReading
from memopt.cli.item_tree import TreeReport
from memopt.cli.transfer import FORM
from memopt.past import Bringer, Brought, Room, Source
from memopt.past.files import READ_ERRORS, line_of, opened
from memopt.past.records import About, Begin, Say

_LINE_BYTES_MAX: Final = 1 * GIB
_TOGETHER_MAX: Final = 256
"""Messages that are written by one call."""
_NAMELESS: Final = "\0"


class Imported(Brought, kw_only=True):
    states: int = 0
    items: int = 0
    """Memories."""
    items_there: int = 0
    trees: list[TreeReport] = msgspec.field(default_factory=list)
    formats: dict[str, int] = msgspec.field(default_factory=dict)
    """Files, by what they are."""
    ended: str | None = None
    """Why it ended before all was read; what was read is there, and to repeat it goes on."""
    dry_run: bool = False
    """Nothing was done: it is what would be."""


def import_lines(
    memory: Memory | None, file: Path, scope: str | None, counts: Imported,
    told: Callable[[int], None],
) -> None:  # fmt: skip
    """All of one file. `memory` is None where there is no store yet, in a dry run."""
    reading = _Reading(memory, file, scope, counts)

    def read(read_bytes: int) -> None:
        counts.bytes += read_bytes
        told(read_bytes)

    counts.files += 1
    room = Room.of(memory)
    try:
        for number, line, refusal in _lines(file, room, read):
            if refusal is None:
                reading.take(number, line)
            else:
                reading.leave_out(number, refusal)
    finally:  # what came before a bad line is kept
        reading.finish()
        room.clear()


def _lines(
    file: Path, room: Room, told: Callable[[int], None]
) -> Iterator[tuple[int, bytes, str | None]]:
    """The lines that are not blank, with their numbers, or why they are passed over; packed files
    are unpacked on the way. `told` hears of bytes that were read."""
    part = room.part()
    number = 0
    try:
        with opened(Source(file), told, room) as stream:
            for number in count(1):
                read = line_of(stream, part, _LINE_BYTES_MAX)
                if not read.line and read.refusal is None:
                    return
                if read.refusal is not None or read.line.strip():
                    yield number, read.line.removeprefix(BOM_UTF8), read.refusal
    except READ_ERRORS as error:
        raise UsageError(str(error), field=f"{file}:{number}") from error


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
        self._is_left_out = False
        """Whether the rest of a session is passed over."""
        self._bringers: dict[tuple[str, str | None], Bringer] = {}
        self._bringer: Bringer | None = None
        """Of a conversation without a name."""

    def _counted(self, was_there: bool) -> None:
        if was_there:
            self._counts.items_there += 1
        else:
            self._counts.items += 1

    def take(self, number: int, line: bytes) -> None:
        where = f"{self._file}:{number}"
        try:
            kind = msgspec.json.decode(line, type=_Kind).kind
            if self._is_left_out and kind in ("message", "state"):
                self._counts.skip("lines behind one that was left out")
                return
            self._is_left_out = False
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

    def leave_out(self, number: int, reason: str) -> None:
        """Something is too large. What follows it in its session is left out with it."""
        self.finish()
        self._counts.damage(f"{self._file}:{number}", reason)
        self._is_left_out = True

    def finish(self) -> None:
        self._flush()
        if self._bringer is not None:
            self._bringer.take(About(_NAMELESS, {"format": "jsonl"}))
            self._bringer.finish()
            self._bringer = None
        self._session = None
        self._is_begun = False

    def _begin(self, where: str, number: int, header: _Session) -> None:
        self.finish()
        if header.memopt != FORM:
            raise UsageError(f"form {header.memopt} is newer than this memopt", field=where)
        scope = self._scope or header.scope or "default"
        name = header.id or header.session
        if name is None:
            self._begin_nameless(where, number, scope, header)
            return
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

    def _begin_nameless(self, where: str, number: int, scope: str, header: _Session) -> None:
        try:
            if self._memory is not None:
                self._memory.session("any", scope=scope, agent=header.agent)
        except UsageError as error:
            raise UsageError(str(error), field=where) from error
        bringer = self._bringers.get((scope, header.agent))
        if bringer is None:
            bringer = self._bringers[scope, header.agent] = Bringer(
                self._memory, scope=scope, agent=header.agent, report=self._counts,
                dry_run=self._counts.dry_run,
            )  # fmt: skip
        self._bringer = bringer
        name = f"{self._file.name.split('.')[0]}-{number}"
        file = f"{Source(self._file).file}:{number}"
        bringer.take(Begin(_NAMELESS, names=(name,), file=file))
        for message in header.messages:
            bringer.take(Say(_NAMELESS, message, None, where))

    def _said(self, where: str, said: _Said) -> None:
        if self._bringer is not None:
            self._bringer.take(Say(_NAMELESS, said.message, said.at, where))
            return
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
