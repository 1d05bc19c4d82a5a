"""Collections of a turn: the same verbs, and nothing left behind."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import CapacityError, CorruptionError, StoreClosedError, UsageError
from memopt.base.units import MIB
from memopt.stores.entry_tables import FIRST_OF_SCRATCH, NUMBERS_STOP
from memopt.testing.search import search

CANARY = "kanarienvogel-0815"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0,
        ballast_bytes=0, scratch_bytes_max="6MiB",
    ) as memory:  # fmt: skip
        yield memory


def begin(memory: memopt.Memory) -> Any:
    return memory._parts.sessions.turns.begin(lambda entry, size_bytes: None)


def test_a_turn_has_mappings_and_sequences_of_its_own(memory: memopt.Memory) -> None:
    one, other = begin(memory), begin(memory)
    one.mapping("m").update({"a": 1, "b": [2]})
    other.mapping("m")["a"] = "other"
    one.sequence("l").extend([1, 2, 3])
    one.sequence("l").insert(1, CANARY)
    assert dict(one.mapping("m")) == {"a": 1, "b": [2]}
    assert dict(other.mapping("m")) == {"a": "other"}
    assert list(one.sequence("l")) == [1, CANARY, 2, 3]
    assert one.mapping("m").pop("a") == 1
    assert len(one.mapping("m")) == 1
    one.close()
    assert dict(other.mapping("m")) == {"a": "other"}


def test_what_a_turn_had_is_gone_with_it(memory: memopt.Memory) -> None:
    lsn = memory.lsn
    turn = begin(memory)
    mapping = turn.mapping("m")
    mapping[CANARY] = {"text": CANARY}
    assert mapping[CANARY] == {"text": CANARY}
    turn.close()
    turn.close()
    for act in (
        lambda: mapping[CANARY], lambda: mapping.update(a=1), lambda: len(mapping),
        lambda: turn.sequence("l").append(1), lambda: list(mapping),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="the turn has ended"):
            act()
    assert memory.lsn == lsn
    assert list(memory.journal()) == []
    assert not search(memory.path, [CANARY])
    cache = memory._parts.sessions.collections.cache  # type: ignore[attr-defined]
    assert len(cache) == 0


def test_the_file_is_limited_and_given_back(memory: memopt.Memory) -> None:
    turn = begin(memory)
    mapping = turn.mapping("m")

    def fill() -> None:
        for number in range(100_000):
            mapping[number] = bytes(1000 + number % 7)

    with pytest.raises(CapacityError) as raised:
        fill()
    assert raised.value.limit == "scratch_bytes_max"
    count = len(mapping)
    assert count > 1000
    assert list(mapping) == list(range(count))
    assert (memory.path / "scratch").stat().st_size <= 6 * MIB
    mapping.clear()
    mapping["again"] = 1
    turn.close()
    assert not (memory.path / "scratch").exists()
    with_room = begin(memory)
    with_room.mapping("m")["k"] = 1
    assert with_room.mapping("m")["k"] == 1


def test_nothing_of_it_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        turn = begin(memory)
        turn.mapping("m")["k"] = CANARY
        assert (tmp_path / "scratch").exists()
    assert not (tmp_path / "scratch").exists()
    with pytest.raises(StoreClosedError):
        turn.mapping("m")["j"]
    # What a process that was killed has left.
    (tmp_path / "scratch").write_bytes(CANARY.encode())
    with memopt.open(tmp_path, maintenance_seconds=0) as memory:
        assert not (tmp_path / "scratch").exists()
        assert memory.check().clean


def test_turns_of_many_threads_do_not_meet(memory: memopt.Memory) -> None:
    def work(number: int) -> None:
        for _ in range(5):
            turn = begin(memory)
            mapping, sequence = turn.mapping("m"), turn.sequence("l")
            for step in range(20):
                mapping[step] = number
                sequence.append([number, step])
            seen.append(set(mapping.values()) == {number})
            seen.append(list(sequence) == [[number, step] for step in range(20)])
            turn.close()

    seen: list[bool] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 60
    assert all(seen)
    memory._parts.budget.check()


def fill_beyond_what_is_kept(turn: Any) -> None:
    """So that the file is deleted once the last turn ends."""
    chance = random.Random(0)
    for number in range(45):
        turn.mapping("bulk")[number] = chance.randbytes(100_000)


def read_by_the_next_turn(memory: memopt.Memory) -> list[Any]:
    """What the first collections of the next turn have under a key that it never set."""
    turn = begin(memory)
    found = []
    for number in range(4):
        notes = turn.mapping(f"notes {number}")
        notes["mine"] = number
        found.append(notes.get("secret"))
    return found


def test_what_is_written_while_a_turn_ends_is_read_by_no_other(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the deletion and the end of the turn."""
    turn = begin(memory)
    fill_beyond_what_is_kept(turn)
    notes = turn.mapping("notes")
    notes["secret"] = CANARY
    committer = memory._parts.sessions.turns._collections.engine.committer  # type: ignore[attr-defined]
    commit, refused = committer.commit, []

    def deleting(member: Any) -> Any:
        monkeypatch.setattr(committer, "commit", commit)
        deleted = commit(member)
        try:
            notes["secret"] = CANARY
        except UsageError as error:
            refused.append(error)
        return deleted

    monkeypatch.setattr(committer, "commit", deleting)
    turn.close()
    assert len(refused) == 1
    assert not (memory.path / "scratch").exists()
    assert read_by_the_next_turn(memory) == [None] * 4


def test_what_a_turn_had_is_read_by_no_other_though_it_could_not_be_deleted(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = begin(memory)
    fill_beyond_what_is_kept(turn)
    notes, steps = turn.mapping("notes"), turn.sequence("steps")
    notes["secret"] = CANARY
    steps.append(CANARY)
    assert (notes["secret"], steps[0]) == (CANARY, CANARY)

    def damaged(*arguments: Any) -> None:
        raise CorruptionError("a row of collections")

    with monkeypatch.context() as patched:
        keeper = memory._parts.sessions.turns._collections.keeper  # type: ignore[attr-defined]
        patched.setattr(keeper, "delete", damaged)
        with pytest.raises(CorruptionError):
            turn.close()
    assert not (memory.path / "scratch").exists()
    assert len(memory._parts.sessions.collections.cache) == 0  # type: ignore[attr-defined]
    for act in (
        lambda: notes["secret"], lambda: notes.put("secret", 1), lambda: steps[0],
        lambda: len(steps),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="the turn has ended"):
            act()
    assert read_by_the_next_turn(memory) == [None] * 4


def test_numbers_of_collections_never_return(memory: memopt.Memory) -> None:
    """Neither with a new file nor after a commit that failed."""
    seen: list[int] = []

    def numbers(turn: Any) -> None:
        rows = memory._parts.sessions.turns._collections.rows  # type: ignore[attr-defined]
        seen.extend(row.number for row in rows._rows.values())

    for _ in range(2):
        turn = begin(memory)
        fill_beyond_what_is_kept(turn)
        with pytest.raises(CapacityError):
            # In one commit with the collection that it makes.
            turn.mapping("more")["k"] = random.Random(1).randbytes(3_000_000)
        turn.mapping("more")["k"] = 1
        numbers(turn)
        turn.close()
        assert not (memory.path / "scratch").exists()
    assert seen == sorted(set(seen))
    assert seen[0] == FIRST_OF_SCRATCH


def test_used_up_numbers_are_refused(memory: memopt.Memory) -> None:
    scratch = memory._parts.sessions.turns._scratch  # type: ignore[attr-defined]
    scratch._numbers = iter(range(NUMBERS_STOP - 1, NUMBERS_STOP))
    turn = begin(memory)
    last = turn.mapping("last")
    last["k"] = 1
    for _ in range(2):
        with pytest.raises(CapacityError, match="used up") as raised:
            turn.mapping("one more")["k"] = 1
        assert raised.value.limit == "numbers of collections"
    last["j"] = 2
    assert dict(last) == {"k": 1, "j": 2}
    turn.close()

    # Those of the store itself end where the turns' begin.
    memory.mapping("m")["k"] = 1
    memory._parts.committer.commit(
        lambda transaction: transaction.tables.collections._execute(  # type: ignore[attr-defined]
            "UPDATE sqlite_sequence SET seq = ? WHERE name = 'collections'", (FIRST_OF_SCRATCH - 2,)
        )
    )
    memory.mapping("last")["k"] = 1
    with pytest.raises(CapacityError, match="used up"):
        memory.mapping("one more")["k"] = 1
    assert (memory.mapping("last")["k"], memory.mapping("m")["k"]) == (1, 1)
    assert memory.check().clean


def test_a_turn_of_a_session_hands_them_out_and_takes_them_back(memory: memopt.Memory) -> None:
    session = memory.session("s")
    with session.turn() as turn:
        mapping = turn.mapping("m")
        mapping["a"] = 1
        assert turn.mapping("m")["a"] == 1
        turn.sequence("l").append(2)
        with session.turn() as other:
            assert not other.mapping("m")
        assert dict(mapping) == {"a": 1}
    with pytest.raises(UsageError, match="the turn has ended"):
        mapping["a"]
    with pytest.raises(UsageError, match="the turn has ended"):
        turn.mapping("m")
    with pytest.raises(UsageError, match="not entered"):
        session.turn().mapping("m")
    assert not session.mapping("m")


@pytest.mark.parametrize("verb", ["append", "delete", "set"])
def test_a_ctrl_c_after_the_write_loses_nothing_of_a_turn(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """It is written, and what RAM knows of it is not put right yet."""
    turn = begin(memory)
    values, entries = turn.sequence("l"), turn.mapping("m")
    values.extend([0, 1, 2])
    entries.update({"a": 0, "b": 1})
    # Both are in use, and so held by others than the table of rows.
    walking, scanning = iter(entries), iter(values)
    assert (next(walking), next(scanning)) == ("a", 0)
    assert entries["a"] == 0

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    cache = memory._parts.sessions.collections.cache
    with monkeypatch.context() as patched:
        patched.setattr(cache, "apply", interrupted)
        act: Any = {
            "append": lambda: values.append(3), "set": lambda: entries.put("a", 9),
            "delete": lambda: entries.pop("a"),
        }[verb]  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            act()
    expected = {"append": [0, 1, 2, 3]}.get(verb, [0, 1, 2])
    assert len(values) == len(expected)
    values.append(4)
    assert values[:] == [*expected, 4]
    kept = {"set": {"a": 9, "b": 1}, "delete": {"b": 1}}.get(verb, {"a": 0, "b": 1})
    assert dict(entries) == kept
    assert {key: entries.get(key) for key in kept} == kept
    assert len(entries) == len(kept)
    with pytest.raises(RuntimeError, match="changed"):
        next(walking)
    cache.check()
    turn.close()


def test_what_is_known_of_the_collections_of_turns_gives_way(memory: memopt.Memory) -> None:
    budget = memory._parts.budget
    turn = begin(memory)
    mappings = [turn.mapping(f"m{number}") for number in range(300)]
    for number, mapping in enumerate(mappings):
        mapping["k"] = number
    assert budget.held_bytes("collections") > 300 * 1200
    budget.ask(budget.limit_bytes)
    assert budget.held_bytes("collections") == 0
    assert [mapping["k"] for mapping in mappings] == list(range(300))
    turn.close()
