"""The tables of recall: what is stored comes back, damage is seen, a scope's lines are its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import memopt
from memopt.base.errors import CorruptionError
from memopt.base.protocols import Tables
from memopt.base.recall_records import SegmentRow, UnindexedRow
from memopt.codecs.record import open_record
from memopt.memory import Memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with memopt.open(tmp_path, maintenance_seconds=0, probe_seconds=0) as opened:
        yield opened


@pytest.fixture
def tables(memory: Memory) -> Iterator[Tables]:
    with memory._parts.directory.home.snapshot():
        yield memory._parts.directory.home.writer.tables


def row(scope: int, body: bytes) -> SegmentRow:
    return SegmentRow(0, scope, "space", 3, 17, 0, body)


def test_segments_come_back_by_scope_in_order_and_their_numbers_are_never_used_twice(
    tables: Tables,
) -> None:
    bodies = [(7, b"a"), (8, b"b" * 50_000), (7, b"c")]
    numbers = [tables.segments.put(row(scope, body)) for scope, body in bodies]
    assert numbers == [1, 2, 3]
    assert [found.body for found in tables.segments.of_scope(7)] == [b"a", b"c"]
    assert tables.segments.of_scope(9) == []
    found = tables.segments.get(2)
    assert found == SegmentRow(2, 8, "space", 3, 17, 50_000, b"b" * 50_000)
    heads = tables.segments.heads((0, 0), 10)
    assert [(head.scope_number, head.segment, head.size_bytes) for head in heads] == [
        (7, 1, 1), (7, 3, 1), (8, 2, 50_000),
    ]  # fmt: skip
    assert {head.body for head in heads} == {b""}
    assert [head.segment for head in tables.segments.heads((7, 1), 1)] == [3]
    tables.segments.delete(3)
    assert tables.segments.get(3) is None
    assert tables.segments.put(row(7, b"d")) == 4


@pytest.mark.parametrize(
    "damage",
    ["scope = 8", "space = 'other'", "entries = 4", "first_lsn = 1", "bytes = 2", "body = x'00'"],
)
def test_a_segment_whose_row_was_changed_is_damage(
    memory: Memory, tables: Tables, damage: str
) -> None:
    tables.segments.put(row(7, b"a"))
    memory._parts.directory.home.writer.connection.execute(f"UPDATE segments SET {damage}")
    with pytest.raises(CorruptionError, match="segments"):
        tables.segments.get(1)
    with pytest.raises(CorruptionError, match="segments"):
        tables.segments.of_scope(8 if damage == "scope = 8" else 7)


def test_what_is_unindexed_and_what_is_masked_comes_back(tables: Tables) -> None:
    rows = [UnindexedRow(scope, 5, start, start + 3) for scope, start in ((0, 7), (7, 9), (7, 0))]
    for row in (*rows, UnindexedRow(8, -4, 2, 3)):
        tables.unindexed.put(row)
    assert tables.unindexed.of_scope(7) == [rows[2], rows[0], rows[1]]
    assert tables.unindexed.first(2) == [rows[0], rows[2]]
    tables.unindexed.delete(rows[0])
    assert tables.unindexed.of_scope(8) == [UnindexedRow(8, -4, 2, 3)]
    for place in ((1, 5, 2), (1, -3, 1), (2, 5, 2), (1, 5, 2)):
        tables.masked.put(*place)
    assert tables.masked.of_scope(1) == [(-3, 1), (5, 2)]
    assert tables.masked.scopes() == [1, 2]
    tables.masked.delete(1, 5, 2)
    assert tables.masked.of_scope(1) == [(-3, 1)]


def test_the_lines_of_a_scope_are_the_current_ones_of_its_sessions(memory: Memory) -> None:
    for id in ("a", "b"):
        memory.session(id, scope="acme").extend([{"n": n} for n in range(4)])
    memory.session("c", scope="acme/below").append({"n": 0})
    memory.session("a", scope="acme").truncate(2)
    memory.session("a", scope="acme").append({"n": 9})
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number("acme")
        assert number is not None
        lines = {line.id: line for line in tables.scope_lines.current(number)}
        assert set(lines) == {"a", "b"}
        assert (lines["a"].base, bool(lines["a"].parent)) == (2, True)
        assert (lines["b"].base, lines["b"].parent) == (0, 0)
        tails = tables.scope_lines.tails(number, (0, 0), 100)
        assert [(line, seq) for line, seq, _ in tails] == sorted(
            [(lines["a"].line, 2), *((lines["b"].line, seq) for seq in range(4))]
        )
        assert tables.scope_lines.tails(number, tails[1][:2], 2) == tails[2:4]
        for line, seq, size in tails:
            ((_, record),) = tables.tail.range(line, seq, seq + 1)
            assert len(record) == size
            open_record(line, seq, record)
