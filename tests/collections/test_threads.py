"""Many threads on the same collections: every change is there once, and reads are of one moment."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.errors import UsageError
from memopt.codecs.entry import pack_value


def together(*works: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def opened(path: Path) -> memopt.Memory:
    return memopt.open(path, budget="8MiB", durability="os", maintenance_seconds=0, ballast_bytes=0)


def test_appends_and_pops_of_many_threads_are_each_there_once(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        taken: list[Any] = []

        def put(number: int) -> None:
            sequence = memory.sequence("l")
            for step in range(60):
                sequence.append([number, step])

        def take() -> None:
            sequence = memory.sequence("l")
            for _ in range(60):
                try:
                    taken.append(sequence.pop(0))
                except IndexError:
                    continue

        together(*(lambda n=n: put(n) for n in range(4)), take, take)  # type: ignore[misc]
        left = list(memory.sequence("l"))
        assert sorted(taken + left) == sorted([n, s] for n in range(4) for s in range(60))
        for number in range(4):
            steps = [step for n, step in left if n == number]
            assert steps == sorted(steps)
        memory._parts.sessions.collections.cache.check()  # type: ignore[attr-defined]
        assert memory.check().clean


def test_a_mapping_counts_what_many_threads_put_and_take(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        mapping = memory.mapping("m")
        wins: list[int] = []

        def work(number: int) -> None:
            for step in range(50):
                mapping[f"{number}-{step}"] = step
                if mapping.setdefault(f"shared {step}", number) == number:
                    wins.append(step)
                if step % 3 == 0:
                    assert mapping.pop(f"{number}-{step}") == step
                assert f"{number}-{step}" not in mapping or step % 3
                len(mapping)

        together(*(lambda n=n: work(n) for n in range(5)))  # type: ignore[misc]
        assert sorted(wins) == list(range(50))
        assert len(mapping) == len(list(mapping)) == 50 + 5 * (50 - 17)
        memory._parts.sessions.collections.cache.check()  # type: ignore[attr-defined]


def test_a_position_is_read_as_it_was_at_some_moment(tmp_path: Path) -> None:
    """The sequence is always a run of neighbours; a read that mixed two moments would show."""
    with opened(tmp_path) as memory:
        sequence = memory.sequence("l")
        sequence.extend(range(100, 140))
        done = threading.Event()

        def turn_over() -> None:
            for step in range(120):
                if step % 2:
                    sequence.insert(0, sequence[0] - 1)
                    sequence.pop()
                else:
                    sequence.append(sequence[-1] + 1)
                    del sequence[0]
            done.set()

        def read() -> None:
            while not done.is_set():
                whole = sequence[:]
                assert whole == list(range(whole[0], whole[0] + len(whole)))
                assert 38 < len(whole) < 42
                middle = sequence[20]
                assert abs(middle - whole[0] - 20) <= 6
                memory._parts.sessions.collections.make_free(1 << 20)  # type: ignore[attr-defined]

        together(turn_over, read, read)
        assert sequence[:] == list(range(sequence[0], sequence[0] + 40))


def test_a_failure_in_a_batch_harms_no_other_member(tmp_path: Path) -> None:
    """Members that fail and members that succeed meet in the same commits, on the same keys."""
    with opened(tmp_path) as memory:
        mapping, sequence = memory.mapping("m"), memory.sequence("l")
        sequence.extend(range(10))

        def work(number: int) -> None:
            for step in range(40):
                mapping[f"{number}"] = step
                with pytest.raises(KeyError):
                    del mapping["never there"]
                with pytest.raises(IndexError):
                    sequence[5000] = 1
                with pytest.raises(UsageError):
                    sequence[0:10:3] = [1]
                sequence.append(number)

        together(*(lambda n=n: work(n) for n in range(6)))  # type: ignore[misc]
        assert dict(mapping) == {str(n): 39 for n in dict.fromkeys(map(int, mapping))}
        assert len(mapping) == 6
        assert len(sequence) == 10 + 6 * 40
        assert sorted(sequence[10:]) == sorted(list(range(6)) * 40)
        assert memory.check().clean


def test_a_read_that_was_overtaken_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as memory:
        sequence = memory.sequence("l")
        sequence.extend(["a", "b", "c", "d"])
        made: Any = memory._parts.sessions.collections
        record = made._sequences._record
        turns = [lambda: sequence.insert(1, "new"), lambda: sequence.pop(0)]

        def overtaken(number: int, place: int) -> Any:
            # Between the look at the bounds and the look at the place.
            if turns:
                turns.pop()()
            return record(number, place)

        monkeypatch.setattr(made._sequences, "_record", overtaken)
        assert sequence[0] == "b"
        assert list(sequence) == ["b", "new", "c", "d"]


def test_a_key_that_is_taken_away_and_set_again_in_one_batch_goes_to_the_end(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as memory:
        mapping = memory.mapping("m")
        mapping.update({"a": 1, "b": 2})
        assert mapping["a"] == 1
        assert len(mapping) == 2
        made: Any = memory._parts.sessions.collections
        [ref] = made.rows._rows
        cache, key = made.cache, b"sa"
        [name] = [name for name in cache._names if name is not None and name.endswith(key)]
        record, place = cache.get(name), cache.place(name)

        def batch(transaction: Any) -> None:
            number = made.rows.peek(transaction, ref)
            row = made.engine.find(transaction.tables, number, key)
            made._mappings._delete(transaction, ref, row.place, key)
            # A reader with an older snapshot still sees it, and still keeps it.
            assert (cache.get(name), cache.place(name)) == (record, place)
            draft = made.rows.draft(transaction, ref)
            packed = pack_value(made.engine.compressor, b"\x01\x09")
            made._mappings._put(transaction, ref, draft, key, packed)

        memory._parts.committer.commit(batch)
        assert list(mapping.items()) == [("b", 2), ("a", 9)]
        assert len(mapping) == 2
        cache.check()
        assert memory.check().clean
