"""What is damaged is not served: a lookup is a miss that says so, or finds what is whole."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.answer_records import Answer, Match, MissReason
from memopt.memory import Memory

SCOPE = "acme/faq"
EQUAL = "How do I reset my password?"
WORDS = "how do i reset my password"
OTHER = "Where is the nearest branch?"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], Memory]:
    def open_again() -> Memory:
        return memopt.open(
            tmp_path, budget="64MiB", durability="os", maintenance_seconds=0, probe_seconds=0,
            ballast_bytes=0,
        )  # fmt: skip

    with open_again() as memory:
        memory.answers.store(EQUAL, "In the settings.", scope=SCOPE, tags=["t"])
        memory.answers.store(OTHER, "In the square.", scope=SCOPE, category="places")
    return open_again


def damage(memory: Memory, statement: str, *values: Any) -> None:
    connection = memory._parts.directory.home.writer.connection
    memory._parts.committer.exclusive(lambda: connection.execute(statement, values))
    assert connection.changes()


def right_or_nothing(memory: Memory) -> list[str]:
    """What is found of three lookups, none of which is wrong or fails."""
    found = []
    for question, response in (
        (EQUAL, "In the settings."), (WORDS, "In the settings."), (OTHER, "In the square."),
    ):  # fmt: skip
        hit = memory.answers.lookup(question, scope=SCOPE)
        if isinstance(hit, Answer):
            assert hit.response == response
        found.append(str(hit.match if isinstance(hit, Answer) else hit.reason))
    return found


def test_what_is_whole_is_found(opened: Callable[[], Memory]) -> None:
    with opened() as memory:
        assert right_or_nothing(memory) == [Match.EXACT, Match.WORDS, Match.EXACT]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE answers SET category = 2", "damaged damaged exact"),
        ("UPDATE answers SET expires_us = 5", "damaged damaged damaged"),
        ("UPDATE answers SET model = 'other'", "damaged damaged damaged"),
        ("UPDATE answers SET body = zeroblob(40) WHERE answer = (SELECT min(answer) FROM answers)",
         "damaged damaged exact"),
        ("UPDATE answer_entries SET record = zeroblob(300)", "exact empty exact"),
        ("DELETE FROM answer_entries", "exact empty exact"),
        ("UPDATE answer_entries SET record = x''", "exact empty exact"),
        ("UPDATE answer_categories SET body = x'c0'", "damaged damaged damaged"),
        ("UPDATE answer_categories SET answers = 7", "damaged damaged damaged"),
    ],
)  # fmt: skip
def test_damage_is_a_miss_and_check_reports_it(
    opened: Callable[[], Memory], statement: str, found: str
) -> None:
    with opened() as memory:
        damage(memory, statement)
        assert " ".join(right_or_nothing(memory)).replace("context", "empty") == found
        assert not memory.check().clean


def test_an_answer_in_the_place_of_another_is_damage(opened: Callable[[], Memory]) -> None:
    """A whole body, but another's: each is checked against its own key."""
    with opened() as memory:
        damage(
            memory,
            "UPDATE answers SET body = (SELECT max(body) FROM answers)",
        )
        assert MissReason.DAMAGED in right_or_nothing(memory)


def test_no_flipped_bit_is_ever_served(opened: Callable[[], Memory]) -> None:
    chance = random.Random(11)
    with opened() as memory:
        connection = memory._parts.directory.home.writer.connection
        for table, column in (("answers", "body"), ("answer_entries", "record")) * 60:
            rows = connection.execute(f"SELECT answer, {column} FROM {table}").fetchall()
            answer, whole = chance.choice(rows)
            place = chance.randrange(8 * len(whole))
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            statement = f"UPDATE {table} SET {column} = ? WHERE answer = ?"
            damage(memory, statement, bytes(flipped), answer)
            memory._parts.answers.keeper._rows._residents.drop(3)
            right_or_nothing(memory)
            assert not memory.check().clean
            damage(memory, statement, whole, answer)
        assert memory.check().clean
        memory._parts.answers.keeper._rows._residents.clear()
        assert right_or_nothing(memory) == [Match.EXACT, Match.WORDS, Match.EXACT]


def test_a_scope_with_damaged_answers_can_be_forgotten(opened: Callable[[], Memory]) -> None:
    with opened() as memory:
        damage(memory, "UPDATE answers SET body = zeroblob(9)")
        damage(memory, "UPDATE answer_entries SET record = x'00'")
        memory.forget(memopt.Selector(scope=SCOPE, whole_scope=True))
        assert memory.check().clean
        memory.answers.store(EQUAL, "Anew.", scope=SCOPE)
        hit = memory.answers.lookup(EQUAL, scope=SCOPE)
        assert isinstance(hit, Answer)
        assert hit.response == "Anew."


def test_an_item_whose_answer_is_damaged_can_be_forgotten(opened: Callable[[], Memory]) -> None:
    with opened() as memory:
        item = memory.remember("the bank moved", scope=SCOPE).item_id
        memory.answers.store("Where is it?", "There.", scope=SCOPE, uses=[item])
        damage(
            memory,
            "UPDATE answers SET crc = crc + 1 WHERE answer = (SELECT max(answer) FROM answers)",
        )
        assert not memory.check().clean
        memory.forget(memopt.Selector(scope=SCOPE, items=(item,)))
        assert memory.check().clean
        assert right_or_nothing(memory) == [Match.EXACT, Match.WORDS, Match.EXACT]


@pytest.mark.parametrize("column", ["crc = crc + 1", "body = zeroblob(9)"])
def test_a_text_in_a_damaged_answer_can_be_forgotten(
    opened: Callable[[], Memory], column: str
) -> None:
    """Whatever it holds cannot be seen, so it goes as well; what is whole stays."""
    with opened() as memory:
        damage(
            memory,
            f"UPDATE answers SET {column} WHERE answer = (SELECT min(answer) FROM answers)",
        )
        memory.forget(memopt.Selector(scope=SCOPE, containing="settings"))
        assert memory.check().clean
        assert isinstance(memory.answers.lookup(OTHER, scope=SCOPE), Answer)
        assert not isinstance(memory.answers.lookup(EQUAL, scope=SCOPE), Answer)


def test_damaged_answers_are_taken_away_with_those_that_are_asked_for(
    opened: Callable[[], Memory],
) -> None:
    with opened() as memory:
        damage(
            memory,
            "UPDATE answers SET crc = crc + 1 WHERE answer = (SELECT min(answer) FROM answers)",
        )
        assert memory.answers.invalidate(scope=SCOPE, category="places") == 2
        assert memory.check().clean
