"""Damaged rows of contexts and pins are named, served to nobody, and dropped."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import memopt
from memopt.base.context_records import ContextRow, PinRow
from memopt.base.item_records import FOREVER
from memopt.base.protocols import Tables
from memopt.context.windows import Block, Kept, Written, _key

WINDOW = 1500


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", indexing="off", maintenance_seconds=0
    ) as opened:
        yield opened


def long_session(memory: memopt.Memory) -> memopt.Session:
    session = memory.session("s", scope="acme/ann")
    session.append({"role": "system", "content": "Be brief."})
    for step in range(40):
        session.append({"role": "user", "content": f"question {step} " * 20})
        session.append({"role": "assistant", "content": f"answer {step} " * 20})
    session.pin(4)
    session.pin(80)
    return session


def of_session(tables: Tables) -> tuple[int, str]:
    row = tables.sessions.find("acme/ann", "s")
    assert row is not None
    return row.line, next(n for n in tables.contexts.names(row.line) if n.startswith("w"))


def window_of(tables: Tables) -> ContextRow:
    row = tables.contexts.get(*of_session(tables))
    assert row is not None
    return row


def write(memory: memopt.Memory, change: Callable[[Tables], object]) -> None:
    memory._parts.committer.commit(lambda transaction: change(transaction.tables))


def row_of(
    memory: memopt.Memory, value: Any, name: str, line: int | None = None, scope: int | None = None
) -> ContextRow:
    """One that is whole, but for what it says."""
    with memory._parts.directory.home.snapshot() as tables:
        like = window_of(tables)
    line = like.line if line is None else line
    raw = msgspec.msgpack.encode(value)
    body = memory._parts.contexts._windows._compressor.encode(raw, key=_key(line, name))
    return ContextRow(line, name, like.scope_number if scope is None else scope, body)


def put(value: Any, name: str, **other: Any) -> Callable[[memopt.Memory], None]:
    def spoil(memory: memopt.Memory) -> None:
        row = row_of(memory, value, name, **other)
        write(memory, lambda tables: tables.contexts.put(row))

    return spoil


def execute(table: str, statement: str) -> Callable[[memopt.Memory], None]:
    def spoil(memory: memopt.Memory) -> None:
        write(memory, lambda tables: getattr(tables, table)._execute(statement))

    return spoil


def cut(memory: memopt.Memory) -> None:
    def change(tables: Tables) -> None:
        row = window_of(tables)
        tables.contexts.put(row._replace(body=row.body[:-3]))

    write(memory, change)


CONTEXTS = {
    "checksum": (
        execute("contexts", "UPDATE contexts SET crc = crc + 1 WHERE name LIKE 'w%'"),
        "checksum mismatch",
    ),
    "body": (cut, "frame"),
    "line": (put(Kept(3, (), None), "w1.0.", line=987_654), "its line 987654 is gone"),
    "start": (put(Kept(500, (), None), "w1.0."), "has no message 499"),
    "nothing before": (put(Kept(0, (), None), "w1.0."), "has no message -1"),
    "message": (put(Block(81, "", "", ()), "r1.0."), "has no message 81"),
    "form": (put(["a", "b"], "w1.0."), "is no kept"),
    "version": (put(Written(3, "so", 9), "s1.0."), "has version 9"),
    "name": (put(Written(3, "so"), "x1.0."), "nothing of contexts"),
    "scope": (put(Written(3, "so"), "s1.0.", scope=77), "names scope 77"),
}


@pytest.mark.parametrize("kind", CONTEXTS)
def test_a_damaged_row_is_named_and_dropped_and_made_again(
    memory: memopt.Memory, kind: str
) -> None:
    spoil, said = CONTEXTS[kind]
    session = long_session(memory)
    before = session.context(max_tokens=WINDOW)
    assert before.report.is_compacted
    assert memory.check().clean
    spoil(memory)
    damages = memory.check().damages
    assert len(damages) == 1
    assert said in damages[0].what
    if kind != "line":
        assert (damages[0].scope, damages[0].session) == ("acme/ann", "s")
    memory.compact()
    assert memory.check().clean
    assert session.context(max_tokens=WINDOW).messages == before.messages
    assert memory.check().clean


def test_a_damaged_window_is_served_to_nobody(memory: memopt.Memory) -> None:
    session = long_session(memory)
    before = session.context(max_tokens=WINDOW).messages
    for spoil in (cut, CONTEXTS["checksum"][0]):
        spoil(memory)
        context = session.context(max_tokens=WINDOW)
        assert context.report.is_compacted
        assert context.messages == before
        assert memory.check().clean


def pin(line: int | None, seq: int) -> Callable[[memopt.Memory], None]:
    def change(tables: Tables) -> None:
        of = of_session(tables)[0] if line is None else line
        tables.message_pins.put(PinRow(of, seq, 1, FOREVER))

    return lambda memory: write(memory, change)


PINS = {
    "checksum": (
        execute("message_pins", "UPDATE message_pins SET crc = crc + 1 WHERE seq = 4"),
        "pin of message 4: checksum mismatch",
    ),
    "message": (pin(None, 81), "pin of message 81: line"),
    "line": (pin(987_654, 3), "pin of message 3: its line 987654 is gone"),
}


@pytest.mark.parametrize("kind", PINS)
def test_a_damaged_pin_is_named_and_dropped(memory: memopt.Memory, kind: str) -> None:
    spoil, said = PINS[kind]
    session = long_session(memory)
    session.context(max_tokens=WINDOW)
    spoil(memory)
    [damage] = memory.check().damages
    assert said in damage.what
    memory.compact()
    assert memory.check().clean
    assert session.pins() == ((80,) if kind == "checksum" else (4, 80))
    assert session.context(max_tokens=WINDOW).report.tokens <= WINDOW


def test_more_rows_than_are_read_at_once_are_all_looked_at(memory: memopt.Memory) -> None:
    long_session(memory).context(max_tokens=WINDOW)
    like = row_of(memory, Kept(3, (), None), "w0")

    def change(tables: Tables) -> None:
        for number in range(600):
            name = f"w{number}.bad"
            tables.contexts.put(like._replace(name=name, line=like.line + number % 3))

    write(memory, change)
    assert len(memory.check().damages) == 600
    memory.compact()
    assert memory.check().clean


def test_pins_of_what_no_fork_shares_go_with_their_session(memory: memopt.Memory) -> None:
    session = long_session(memory)
    fork = session.fork("f", at=10)
    session.context(max_tokens=WINDOW)
    session.delete()
    assert fork.pins() == (4,)
    assert memory.check().clean
    assert len(fork.context(max_tokens=WINDOW).messages) == 10
    fork.delete()
    assert memory.check().clean


def test_what_is_whole_is_clean_whatever_is_done_with_branches(memory: memopt.Memory) -> None:
    session = long_session(memory)
    for at in (70, 40, 60, 5, 30):
        fork = session.fork(f"f{at}", at=at)
        for one in (session, fork):
            one.context(max_tokens=WINDOW)
            one.context(max_tokens=600, query="answer 3")
        fork.pop()
        fork.truncate(at // 2)
        fork.append({"role": "user", "content": "once more"})
        fork.context(max_tokens=600)
        assert memory.check().clean
        session.redact(at)
        assert memory.check().clean
    session.delete()
    assert memory.check().clean
    memory.compact()
    assert memory.check().clean
