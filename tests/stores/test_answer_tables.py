"""The tables of the answer cache: what is stored comes back, by scope and in order, and damage is
seen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import memopt
from memopt.base.answer_records import AnswerRow, CategoryRow, History, Use, UseRow
from memopt.base.errors import CorruptionError
from memopt.base.protocols import Tables
from memopt.journal.recovery import highest_lsn
from memopt.memory import Memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with memopt.open(tmp_path, maintenance_seconds=0, probe_seconds=0) as opened:
        yield opened


@pytest.fixture
def tables(memory: Memory) -> Iterator[Tables]:
    with memory._parts.directory.home.snapshot():
        yield memory._parts.directory.home.writer.tables


def row(
    answer: int, scope: int = 7, category: int = 1, expires_us: int | None = None,
    history: History = History.SYSTEM,
) -> AnswerRow:  # fmt: skip
    return AnswerRow(
        answer, scope, category, b"c" * 16, answer.to_bytes(16, "big"), "model", history,
        1000 + answer, expires_us, 42, b"body" * 2000,
    )  # fmt: skip


def test_answers_come_back_by_number_by_key_and_by_scope(tables: Tables) -> None:
    for answer, scope in [(3, 7), (5, 8), (9, 7)]:
        tables.answers.put(row(answer, scope))
        tables.answer_entries.put(scope, answer, b"entry %d" % answer)
    assert tables.answers.get(3) == row(3)
    assert tables.answers.get(4) is None
    assert tables.answers.find(7, b"c" * 16, (9).to_bytes(16, "big")) == row(9)
    assert tables.answers.find(8, b"c" * 16, (9).to_bytes(16, "big")) is None
    found = tables.answers.page(7, 0, 10)
    assert [(one.answer, one.body) for one in found] == [(3, b""), (9, b"")]
    assert [one.answer for one in tables.answers.page(7, 3, 10)] == [9]
    assert tables.answer_entries.range(7, 0, 1) == [(3, b"entry 3")]
    assert tables.answer_entries.range(7, 3, 10) == [(9, b"entry 9")]
    assert tables.answer_entries.get(8, 5) == b"entry 5"
    tables.answers.delete(9)
    tables.answer_entries.delete(7, 9)
    assert tables.answers.get(9) is None
    assert tables.answer_entries.range(7, 0, 10) == [(3, b"entry 3")]


def test_the_oldest_of_a_category_and_the_expired_of_all(tables: Tables) -> None:
    for answer, category, expires in [(1, 1, None), (2, 2, 500), (3, 1, 300), (4, 1, 900)]:
        tables.answers.put(row(answer, category=category, expires_us=expires))
    assert tables.answer_order.oldest(1, 0, 10) == [1, 3, 4]
    assert tables.answer_order.oldest(1, 1, 1) == [3]
    assert tables.answer_order.expired(500, 10) == [3]
    assert tables.answer_order.expired(1000, 2) == [3, 2]


def test_those_that_answer_within_a_conversation(tables: Tables) -> None:
    for answer, scope, history in [(1, 7, 2), (2, 7, 1), (3, 8, 2), (4, 7, 0), (5, 7, 2)]:
        tables.answers.put(row(answer, scope, history=History(history)))
    assert tables.answer_order.of_turns(7, 10) == [1, 5]
    assert tables.answer_order.of_turns(7, 1) == [1]


def test_the_highest_lsn_is_that_of_an_answer_or_of_a_category(tables: Tables) -> None:
    assert tables.answer_order.highest_lsn() == 0
    tables.answers.put(row(70))
    assert tables.answer_order.highest_lsn() == highest_lsn(tables) == 70
    tables.answer_categories.put(CategoryRow(0, 7, "a", 90, 1, 2, b""))
    assert tables.answer_order.highest_lsn() == highest_lsn(tables) == 90


def test_what_answers_hang_on(tables: Tables) -> None:
    line, item = Use.LINE, Use.ITEM
    for use in [(line, 5, 1, 10), (line, 5, 2, 10), (line, 5, 2, 11), (item, 5, 0, 12)]:
        tables.answer_uses.put(UseRow(*use))
    tables.answer_uses.put(UseRow(item, 5, 0, 12))
    assert tables.answer_uses.of(line, 5, 2, 10) == [10, 11]
    assert sorted(tables.answer_uses.of(line, 5, None, 10)) == [10, 11]
    assert tables.answer_uses.of(item, 5, None, 10) == [12]
    assert len(tables.answer_uses.of(line, 5, None, 1)) == 1
    tables.answer_uses.delete(10)
    assert tables.answer_uses.of(line, 5, None, 10) == [11]


def test_categories_have_numbers_that_are_never_used_twice(tables: Tables) -> None:
    table = tables.answer_categories
    numbers = [table.put(CategoryRow(0, 7, name, 1, 0, 0, b"s")) for name in ("b", "a")]
    assert numbers == [1, 2]
    assert [one.name for one in table.of_scope(7)] == ["a", "b"]
    assert table.of_scope(8) == []
    table.put(CategoryRow(2, 7, "a", 3, 4, 5, b"t"))
    assert table.get(2) == table.find(7, "a") == CategoryRow(2, 7, "a", 3, 4, 5, b"t")
    table.delete(2)
    assert table.find(7, "a") is None
    assert table.put(CategoryRow(0, 7, "a", 1, 0, 0, b"")) == 3


@pytest.mark.parametrize(
    "damage",
    [
        "scope = 8", "category = 2", "context = x'00'", "question = x'00'", "model = NULL",
        "history = 0", "made_us = 1", "expires_us = 5", "bytes = 1",
    ],
)  # fmt: skip
def test_an_answer_whose_row_was_changed_is_damage(
    memory: Memory, tables: Tables, damage: str
) -> None:
    tables.answers.put(row(3))
    memory._parts.directory.home.writer.connection.execute(f"UPDATE answers SET {damage}")
    with pytest.raises(CorruptionError, match="answers"):
        tables.answers.get(3)


@pytest.mark.parametrize(
    "damage", ["scope = 8", "name = 'b'", "lsn = 2", "answers = 9", "bytes = 9", "body = x'00'"]
)
def test_a_category_whose_row_was_changed_is_damage(
    memory: Memory, tables: Tables, damage: str
) -> None:
    tables.answer_categories.put(CategoryRow(0, 7, "a", 1, 2, 3, b"body"))
    memory._parts.directory.home.writer.connection.execute(f"UPDATE answer_categories SET {damage}")
    with pytest.raises(CorruptionError, match="answer_categories"):
        tables.answer_categories.get(1)
