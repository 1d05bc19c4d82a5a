"""Entries are made where messages are sealed, in one commit; or it is said that they are not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError
from memopt.base.protocols import Tables
from memopt.base.recall_records import SegmentRow
from memopt.memory import Memory
from memopt.recall.entries import Entries
from memopt.recall.indexing import OWNER, WORDS
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "durability": "os",
    "maintenance_seconds": 0,
    "probe_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 1000,
}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with open_memory(tmp_path, **SETTINGS) as opened:
        yield opened


def say(memory: Memory, id: str, count: int, start: int = 0) -> None:
    session = memory.session(id, scope="acme")
    for n in range(start, start + count):
        session.append({"role": "user", "content": f"message {n} of {id} is about pears"})


def segments(tables: Tables) -> list[SegmentRow]:
    number = tables.scopes.number("acme")
    assert number is not None
    return tables.segments.of_scope(number)


def places(rows: list[SegmentRow]) -> list[tuple[int, int]]:
    parts = [Entries.decode(row.body) for row in rows]
    return sorted(
        (int(s), int(q)) for part in parts for s, q in zip(part.source, part.seq, strict=True)
    )


def sealed(tables: Tables, line: int) -> list[tuple[int, int]]:
    return [(line, n) for page in tables.pages.map(line, 0, 2**24) for n in range(*page[1:3])]


def test_what_is_sealed_has_entries_and_what_is_not_has_none(memory: Memory) -> None:
    say(memory, "a", 50)
    with memory._parts.directory.home.snapshot() as tables:
        rows = segments(tables)
        (line,) = tables.scope_lines.current(rows[0].scope_number)
        assert rows
        assert 0 < len(places(rows)) < 50
        assert places(rows) == sealed(tables, line.line)
        assert [row.entries for row in rows] == [len(places([row])) for row in rows]
        assert {row.space for row in rows} != {""}
        assert tables.unindexed.first(9) == []


@pytest.mark.parametrize("how", ["fork", "truncate", "compact", "pop"])
def test_every_way_of_sealing_makes_entries(memory: Memory, how: str) -> None:
    say(memory, "a", 7)
    session = memory.session("a", scope="acme")
    if how == "fork":
        session.fork("b", at=3)
    elif how == "truncate":
        session.truncate(3)
    elif how == "pop":
        session.pop()
    else:
        memory.compact()
    with memory._parts.directory.home.snapshot() as tables:
        first = places(segments(tables))[0][0]
        assert places(segments(tables)) == sealed(tables, first) == [(first, n) for n in range(7)]


def test_a_message_without_text_has_no_entry(memory: Memory) -> None:
    session = memory.session("a", scope="acme")
    session.extend([{"n": 1}, {"role": "user", "content": "text"}, {"role": "user", "content": 7}])
    memory.compact()
    with memory._parts.directory.home.snapshot() as tables:
        assert [seq for _, seq in places(segments(tables))] == [1]


def test_without_indexing_what_is_sealed_is_listed_as_unindexed(tmp_path: Path) -> None:
    with open_memory(tmp_path, indexing="off", **SETTINGS) as memory:
        say(memory, "a", 50)
        with memory._parts.directory.home.snapshot() as tables:
            assert segments(tables) == []
            rows = tables.unindexed.first(1000)
            listed = [(row.source, n) for row in rows for n in range(row.start, row.stop)]
            assert listed
            assert listed == sealed(tables, rows[0].source)


def test_without_room_for_entries_a_tail_is_sealed_all_the_same(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = memory._parts.budget
    say(memory, "a", 7)

    def reserve(owner: str, size_bytes: int) -> None:
        if owner == OWNER:
            raise BudgetError("there is no room", limit="budget")
        Budget.reserve(budget, owner, size_bytes)

    monkeypatch.setattr(budget, "reserve", reserve)
    memory.session("a", scope="acme").fork("b")
    with memory._parts.directory.home.snapshot() as tables:
        assert segments(tables) == []
        (row,) = tables.unindexed.first(9)
        assert (row.start, row.stop) == (0, 7)


def test_what_is_sealed_while_indexing_is_put_off_is_found_then_and_indexed_later(
    memory: Memory,
) -> None:
    say(memory, "a", 20)
    engine = memory._parts.recall.engine
    held = memory._parts.budget.held_bytes(WORDS)
    assert held
    engine.indexer.put_off()
    assert memory._parts.budget.held_bytes(WORDS) == 0
    say(memory, "a", 20, start=20)
    home = memory._parts.directory.home
    with home.snapshot() as tables:
        assert tables.unindexed.first(9)
    found = memory.recall("message 25 pears", scope="acme", limit=40)
    assert len({hit.spans[0].start for hit in found}) == 40
    engine.indexer.go_on()
    engine.maintain()
    with home.snapshot() as tables:
        assert tables.unindexed.first(9) == []
        rows = segments(tables)
        (line,) = tables.scope_lines.current(rows[0].scope_number)
        assert places(rows) == sealed(tables, line.line)
    assert memory._parts.budget.held_bytes(WORDS) == held


def test_four_bits_take_less_room(tmp_path: Path) -> None:
    sizes = []
    for bits in (8, 4):
        with open_memory(tmp_path / str(bits), vector_bits=bits, **SETTINGS) as memory:
            say(memory, "a", 60)
            with memory._parts.directory.home.snapshot() as tables:
                sizes.append(sum(row.size_bytes for row in segments(tables)))
    assert sizes[1] < sizes[0] - 40 * 100


def test_pieces_of_a_document_are_put_off_as_messages_are(memory: Memory) -> None:
    engine = memory._parts.recall.engine
    engine.indexer.put_off()
    memory.ingest("# Fruit\n\nPears keep for a week.", scope="acme", source="handbook")
    home = memory._parts.directory.home
    with home.snapshot() as tables:
        assert tables.unindexed.first(9)
        assert segments(tables) == []
    assert memory.recall("how long do pears keep", scope="acme").hits
    engine.indexer.go_on()
    engine.maintain()
    with home.snapshot() as tables:
        assert tables.unindexed.first(9) == []
        assert segments(tables)
