"""Where code that was written for a dict or a list would trip."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0
    ) as memory:
        yield memory


@pytest.mark.parametrize("key", [None, 1.5, (1, 2), frozenset(), "x" * 5000, "\ud800"])
def test_looking_for_what_is_no_key_finds_nothing(memory: memopt.Memory, key: Any) -> None:
    mapping = memory.mapping("m")
    mapping["a"] = 1
    assert key not in mapping
    assert mapping.get(key) is None
    assert mapping.get(key, 5) == 5
    assert mapping.pop(key, 5) == 5
    assert (key, 1) not in mapping.items()
    assert mapping != {key: 1}
    for miss in (lambda: mapping[key], lambda: mapping.pop(key), lambda: mapping.__delitem__(key)):
        with pytest.raises(KeyError):
            miss()
    with pytest.raises(memopt.UsageError, match=r"^key"):
        mapping[key] = 1


def test_what_cannot_be_hashed_is_a_type_error_as_with_a_dict(memory: memopt.Memory) -> None:
    mapping: Any = memory.mapping("m")
    for look in (lambda: [] in mapping, lambda: mapping.get({}), lambda: mapping[[]]):
        with pytest.raises(TypeError, match="unhashable"):
            look()
    assert 5 not in mapping.items()
    assert "ab" not in mapping.items()


def test_a_copy_is_a_dict_or_a_list_and_a_handle_is_never_pickled(memory: memopt.Memory) -> None:
    mapping, sequence = memory.mapping("m"), memory.sequence("s")
    mapping["a"] = [1]
    sequence.append([1])
    assert copy.copy(mapping) == {"a": [1]}
    assert type(copy.copy(mapping)) is dict
    assert type(copy.copy(sequence)) is list
    for handle in (mapping, sequence):
        for act in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match=r"use copy\(\)|copy\(\) gives"):
                act(handle)


def test_a_sequence_sorts_multiplies_and_compares_as_a_list(memory: memopt.Memory) -> None:
    sequence: Any = memory.sequence("s")
    ours = [3, 1, 2]
    sequence.extend(ours)
    for one, other in (([3, 1], [9]), ([3, 1, 2], [3, 1, 2])):
        assert (sequence < one) == (ours < one)
        assert (sequence <= other) == (ours <= other)
        assert (sequence > one) == (ours > one)
        assert (other >= sequence) == (other >= ours)
    assert not sequence < sequence
    with pytest.raises(TypeError):
        _ = sequence < (1,)
    assert sequence * 2 == 2 * sequence == ours * 2
    sequence.sort(key=lambda value: -value)
    assert list(sequence) == [3, 2, 1]
    sequence.sort()
    sequence *= 2
    assert list(sequence) == [1, 2, 3, 1, 2, 3]
    sequence *= 0
    assert not sequence
    assert sequence[:] == []


def test_a_position_that_is_no_integer_is_a_type_error(memory: memopt.Memory) -> None:
    sequence: Any = memory.sequence("s")
    sequence.append(1)
    for act in (
        lambda: sequence[1.0], lambda: sequence["a"], lambda: sequence.insert(None, 1),
        lambda: sequence.pop("a"), lambda: sequence.extend(None),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            act()
    assert list(sequence) == [1]
