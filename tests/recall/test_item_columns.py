"""Items as arrays: what passes, and arrays that are brought up to date instead of made anew."""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import memopt
from memopt import Kind, Selector
from memopt.base.clock import ManualClock
from memopt.base.item_records import item_number
from memopt.base.moments import NOW, Bound
from memopt.base.records import to_datetime
from memopt.recall.item_columns import Filter, ItemColumns

SCOPE = "acme/ann"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0, clock=clock
    ) as memory:
        yield memory


def load(memory: memopt.Memory, bound: Bound = NOW) -> ItemColumns:
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(SCOPE) or 0
        return ItemColumns.load(tables, number, memory._parts.recall.listing._compressor, bound)


def changed(memory: memopt.Memory, columns: ItemColumns, items: set[int]) -> ItemColumns:
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(SCOPE) or 0
        compressor = memory._parts.recall.listing._compressor
        return columns.changed(tables, number, compressor, items)


def passing(columns: ItemColumns, which: Filter) -> list[int]:
    return [int(item) for item in columns.item[columns.passing(which)]]


def test_arrays_that_are_brought_up_to_date_are_those_that_are_made_anew(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    chance = random.Random(5)
    columns = ItemColumns(())
    ids: list[str] = []
    for step in range(250):
        clock.advance(chance.choice([0, 60, 3600]))
        deed = chance.choice(["state", "state", "revise", "pin", "end", "rate", "forget"])
        if deed == "state" or not ids:
            about = {"subject": "Ann", "attribute": chance.choice("ab")}
            begin = to_datetime(clock.now_us()) + timedelta(hours=chance.randint(-3, 3))
            item = memory.remember(
                f"text {step}", scope=SCOPE, valid_from=chance.choice([None, begin]),
                tags=chance.sample(["x", "y", "z"], chance.randint(0, 3)),
                **(about if chance.random() < 0.8 else {}),
            )  # fmt: skip
            ids.append(item.item_id)
            touched = item.item_id
        else:
            touched = chance.choice(ids)
            if deed == "revise":
                memory.revise(touched, f"text {step}")
            elif deed == "pin":
                memory.pin(touched)
            elif deed == "end":
                memory.end(touched, at=to_datetime(2**51))
            elif deed == "rate":
                memory.feedback([touched], 1)
            else:
                memory.forget(Selector(scope=SCOPE, items=(touched,)))
                ids.remove(touched)
        columns = changed(memory, columns, {item_number(touched) or 0})
        whole = load(memory)
        for name in vars(whole):
            if not name.startswith("_"):
                assert np.array_equal(getattr(columns, name), getattr(whole, name)), (step, name)
        for tag in "xyz":
            which = Filter(None, frozenset(tag), None, 0)
            assert passing(columns, which) == passing(whole, which)
    assert columns.charged_bytes == whole.charged_bytes > 0


def test_filters_pass_what_they_say(memory: memopt.Memory, clock: ManualClock) -> None:
    now = clock.now_us()
    memory.remember("one", scope=SCOPE, kind="goal", tags=["a", "b"])
    memory.remember("two", scope=SCOPE, tags=["b"], subject="s", attribute="t")
    clock.advance(3600)
    memory.remember("three", scope=SCOPE, subject="s", attribute="t")
    later = to_datetime(clock.now_us()) + timedelta(days=1)
    memory.remember("four", scope=SCOPE, valid_from=later, tags=["c"])
    columns = load(memory)
    everything = Filter(None, frozenset(), None, clock.now_us())
    assert passing(columns, everything) == [1, 3, 4]
    assert passing(columns, everything._replace(now_us=now)) == [1, 2, 3, 4]
    assert passing(columns, everything._replace(valid_us=now)) == [1, 2]
    assert passing(columns, everything._replace(valid_us=clock.now_us())) == [1, 3]
    assert passing(columns, everything._replace(kinds=frozenset({Kind.GOAL}))) == [1]
    assert passing(columns, everything._replace(tags=frozenset({"b"}), now_us=now)) == [1, 2]
    assert passing(columns, everything._replace(tags=frozenset({"a", "b"}))) == [1]
    assert passing(columns, everything._replace(tags=frozenset({"nobody's"}))) == []


def test_entries_of_former_versions_and_of_messages_are_not_seen(memory: memopt.Memory) -> None:
    for n in range(3):
        memory.remember(f"text {n}", scope=SCOPE)
    before = memory.lsn
    memory.revise("i2", "text two")
    memory.forget(Selector(scope=SCOPE, items=("i3",)))
    source = np.array([-3, -2, -2, -1, -1, 1, 2, -4], np.int64)
    seq = np.array([1, 1, 2, 1, 2, 1, 1, 1], np.int64)
    which = Filter(None, frozenset(), None, 0)
    columns = load(memory)
    assert columns.visible(source, seq, which).tolist() == [
        False, False, True, True, False, False, False, False,
    ]  # fmt: skip
    assert columns.rows_of(source, seq).tolist() == [-1, -1, 1, 0, -1, -1, -1, -1]
    then = load(memory, Bound(before, NOW.at_us))
    assert then.visible(source, seq, which).tolist() == [
        False, True, False, True, False, False, False, False,
    ]  # fmt: skip
    none = ItemColumns(())
    assert not none.visible(source, seq, which).any()
