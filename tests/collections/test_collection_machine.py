"""Mappings and sequences against a dict and a list, which are too dull to be wrong."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import memopt
from memopt.base.clock import ManualClock
from memopt.base.units import MIB

LONG = "long " * 3000
keys = st.one_of(
    st.integers(0, 12), st.sampled_from(["", "a", "b", "ä", "a" * 300]),
    st.sampled_from([b"", b"a", -1, 2**70, -(2**70)]),
)  # fmt: skip
values = st.one_of(
    st.integers(-5, 5), st.text(max_size=8), st.none(), st.binary(max_size=8),
    st.lists(st.integers(0, 9), max_size=3), st.just(LONG), st.just({"k": [1, {"n": None}]}),
)  # fmt: skip
indices = st.integers(-14, 14)
bounds = st.one_of(st.none(), indices)
slices = st.builds(slice, bounds, bounds, st.one_of(st.none(), st.integers(-3, 3).filter(bool)))


class _Store(RuleBasedStateMachine):
    """A store with hardly any room, which is closed and opened and robbed of its cache."""

    owner = "session"
    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.open()

    def open(self) -> None:
        self.memory = memopt.open(
            self.path, budget="8MiB", durability="os", maintenance_seconds=0, ballast_bytes=0,
            clock=ManualClock(), policy=self.policy,
        )  # fmt: skip
        made = self.memory._parts.sessions.collections
        self.cache, self.rows = made.cache, made.rows  # type: ignore[attr-defined]
        self.bind()

    def bind(self) -> None:
        raise NotImplementedError

    def where(self) -> Any:
        return self.memory if self.owner == "memory" else self.memory.session("s")

    @rule()
    def open_again(self) -> None:
        self.memory.close()
        self.open()

    @rule(size=st.sampled_from([1, 1000, 1 << 20]))
    def rob(self, size: int) -> None:
        self.memory._parts.sessions.collections.make_free(size)  # type: ignore[attr-defined]

    @invariant()
    def accounts_agree(self) -> None:
        self.cache.check()
        self.memory._parts.budget.check()

    def teardown(self) -> None:
        assert self.memory.check().clean
        self.memory.close()
        shutil.rmtree(self.path)


def same(act: Any, model: Any, *arguments: Any) -> None:
    """The same call on both: the same result, or the same kind of error."""
    assert outcome(act, *arguments) == outcome(model, *arguments)


def outcome(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except KeyError:
        return KeyError
    except IndexError:
        return IndexError
    except ValueError:
        return ValueError


class MappingMachine(_Store):
    def bind(self) -> None:
        self.mapping = self.where().mapping("m")

    @initialize()
    def begin(self) -> None:
        self.model: dict[Any, Any] = {}

    @rule(key=keys, value=values)
    def put(self, key: Any, value: Any) -> None:
        self.mapping[key] = value
        self.model[key] = value

    @rule(key=keys)
    def get(self, key: Any) -> None:
        same(self.mapping.__getitem__, self.model.__getitem__, key)
        assert self.mapping.get(key, "none") == self.model.get(key, "none")
        assert (key in self.mapping) == (key in self.model)

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        same(self.mapping.__delitem__, self.model.__delitem__, key)

    @rule(key=keys, default=st.one_of(st.just(()), st.tuples(values)))
    def pop(self, key: Any, default: Any) -> None:
        same(self.mapping.pop, self.model.pop, key, *default)

    @rule()
    def popitem(self) -> None:
        same(self.mapping.popitem, self.model.popitem)

    @rule(key=keys, value=values)
    def setdefault(self, key: Any, value: Any) -> None:
        same(self.mapping.setdefault, self.model.setdefault, key, value)

    @rule(items=st.lists(st.tuples(keys, values), max_size=6), way=st.integers(0, 2))
    def update(self, items: list[tuple[Any, Any]], way: int) -> None:
        if way == 0:
            self.mapping.update(items)
        elif way == 1:
            self.mapping.update(dict(items), extra=1)
            items = [*items, ("extra", 1)] if items else [("extra", 1)]
            self.model.update(dict(items[:-1]))
        else:
            self.mapping |= dict(items)
        self.model.update(items)

    @rule()
    def clear(self) -> None:
        self.mapping.clear()
        self.model.clear()

    @rule(other=st.dictionaries(keys, values, max_size=3))
    def unite(self, other: dict[Any, Any]) -> None:
        assert list((self.mapping | other).items()) == list((self.model | other).items())
        assert list((other | self.mapping).items()) == list((other | self.model).items())
        assert (self.mapping == other) == (self.model == other)

    @rule(key=keys, value=values)
    def change_while_iterating(self, key: Any, value: Any) -> None:
        grows = key not in self.model
        iterator = iter(self.mapping.items())
        if not self.model:
            return
        next(iterator)
        self.mapping[key] = value
        self.model[key] = value
        if grows:
            with pytest.raises(RuntimeError):
                list(iterator)
        else:
            assert list(iterator) == list(self.model.items())[1:]

    @invariant()
    def is_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        mapping, model = self.mapping, self.model
        assert list(mapping) == list(model)
        assert list(reversed(mapping)) == list(reversed(model))
        assert list(mapping.items()) == list(model.items())
        assert list(reversed(mapping.items())) == list(reversed(model.items()))
        assert list(mapping.values()) == list(model.values())
        assert len(mapping) == len(model)
        assert bool(mapping) == bool(model)
        assert mapping == model
        assert mapping.keys() == model.keys()


class SequenceMachine(_Store):
    def bind(self) -> None:
        self.sequence = self.where().sequence("l")

    @initialize()
    def begin(self) -> None:
        self.model: list[Any] = []

    @rule(value=values)
    def append(self, value: Any) -> None:
        self.sequence.append(value)
        self.model.append(value)

    @rule(index=indices, value=values)
    def insert(self, index: int, value: Any) -> None:
        self.sequence.insert(index, value)
        self.model.insert(index, value)

    @rule(items=st.lists(values, max_size=6))
    def extend(self, items: list[Any]) -> None:
        self.sequence += items
        self.model += items

    @rule(index=indices, value=values)
    def put(self, index: int, value: Any) -> None:
        same(self.sequence.__setitem__, self.model.__setitem__, index, value)

    @rule(where=slices, items=st.lists(values, max_size=6))
    def put_slice(self, where: slice, items: list[Any]) -> None:
        same(self.sequence.__setitem__, self.model.__setitem__, where, items)

    @rule(where=st.one_of(indices, slices))
    def delete(self, where: Any) -> None:
        same(self.sequence.__delitem__, self.model.__delitem__, where)

    @rule(index=indices)
    def pop(self, index: int) -> None:
        same(self.sequence.pop, self.model.pop, index)

    @rule(value=values)
    def remove(self, value: Any) -> None:
        same(self.sequence.remove, self.model.remove, value)

    @rule()
    def reverse(self) -> None:
        self.sequence.reverse()
        self.model.reverse()

    @rule()
    def clear(self) -> None:
        self.sequence.clear()
        self.model.clear()

    @rule(index=indices, where=slices, value=values, start=indices)
    def read(self, index: int, where: slice, value: Any, start: int) -> None:
        same(self.sequence.__getitem__, self.model.__getitem__, index)
        same(self.sequence.__getitem__, self.model.__getitem__, where)
        same(self.sequence.index, self.model.index, value)
        same(self.sequence.index, self.model.index, value, start)
        assert self.sequence.count(value) == self.model.count(value)
        assert (value in self.sequence) == (value in self.model)

    @rule(value=values, steps=st.integers(0, 4))
    def change_while_iterating(self, value: Any, steps: int) -> None:
        ours, theirs = iter(self.sequence), iter(self.model)
        assert [next(ours, "end") for _ in range(steps)] == [
            next(theirs, "end") for _ in range(steps)
        ]
        self.sequence.insert(0, value)
        self.model.insert(0, value)
        assert list(ours) == list(theirs)

    @invariant()
    def is_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert list(self.sequence) == self.model
        assert list(reversed(self.sequence)) == self.model[::-1]
        assert len(self.sequence) == len(self.model)
        assert self.sequence == self.model
        assert self.sequence[:] == self.model


def machines() -> Iterator[Any]:
    for kind in (MappingMachine, SequenceMachine):
        for owner, policy in (("session", "lru"), ("memory", "s3fifo")):
            name = f"{kind.__name__} of {owner}"
            made = type(name, (kind,), {"owner": owner, "policy": policy})
            yield pytest.param(made, id=name)


@pytest.mark.parametrize("machine", machines())
def test_it_behaves_like_the_built_in_one(machine: Any) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=25))


def test_a_million_bytes_of_keys_do_not_stay_in_ram(tmp_path: Path) -> None:
    with memopt.open(tmp_path, budget="8MiB", durability="os", maintenance_seconds=0) as memory:
        mapping = memory.mapping("m")
        for start in range(0, 20_000, 500):
            mapping.update(
                {f"key {i}": {"n": i, "text": "x" * 200} for i in range(start, start + 500)}
            )
        assert len(mapping) == 20_000
        assert mapping["key 0"]["n"] == 0
        assert memory.stats().reserved_bytes <= 8 * MIB
        assert sum(value["n"] for value in mapping.values()) == sum(range(20_000))
