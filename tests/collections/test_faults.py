"""The n-th disk call fails while collections are written: memory agrees with the disk, nothing that
was acknowledged is lost, and the store can be opened again."""

import contextlib
import copy
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memopt.base.clock import ManualClock
from memopt.base.errors import BudgetError, MemoptError
from memopt.memory import Memory
from memopt.testing.disk import VFS_NAME, Fault, FaultyDisk
from memopt.wiring import open_memory

pytestmark = pytest.mark.slow

State = dict[str, Any]
Step = tuple[Callable[[Memory], Any], Callable[[State], Any]]


def open_on(disk: FaultyDisk) -> Memory:
    return open_memory(
        disk.directory, clock=ManualClock(), vfs=VFS_NAME, budget="16MiB", durability="sync",
        ballast_bytes=0, wal_limit_bytes=48 << 10, maintenance_seconds=0,
    )  # fmt: skip


def steps() -> list[Step]:
    """What is done to the store, and the same to two dicts and a list."""
    long = "x" * 3000
    found: list[Step] = []

    def also(ours: Callable[[Any, Any, Any], Any], theirs: Callable[[Any, Any, Any], Any]) -> None:
        found.append((
            lambda m: ours(
                m.mapping("m"), m.session("s").mapping("m"), m.session("s").sequence("l")
            ),
            lambda state: theirs(state["m"], state["s"], state["l"]),
        ))  # fmt: skip

    def both(act: Callable[[Any, Any, Any], Any]) -> None:
        also(act, act)

    both(lambda m, s, q: m.update({"a": 1, "b": long}))
    both(lambda m, s, q: s.update({1: [1], 2: [2], 3: [3]}))
    both(lambda m, s, q: q.extend([*range(12), long]))
    for number in range(3):
        both(lambda m, s, q, number=number: m.__setitem__(number, long))
        both(lambda m, s, q, number=number: q.insert(2 * number, number))
    both(lambda m, s, q: m.__setitem__("a", 2))
    both(lambda m, s, q: m.pop("b"))
    both(lambda m, s, q: q.pop(3))
    both(lambda m, s, q: s.popitem())
    both(lambda m, s, q: q.__delitem__(slice(None, None, 3)))
    both(lambda m, s, q: q.__setitem__(slice(1, 3), ["new"] * 4))
    both(lambda m, s, q: m.setdefault("d", []))
    both(lambda m, s, q: q.reverse())
    both(lambda m, s, q: s.clear())
    both(lambda m, s, q: s.__setitem__("again", 1))
    return found


def seen(memory: Memory) -> State:
    session = memory.session("s")
    mappings = {"m": memory.mapping("m"), "s": session.mapping("m")}
    for mapping in mappings.values():
        assert len(mapping) == len(list(mapping))
    sequence = session.sequence("l")
    assert len(sequence) == len(list(sequence))
    return {name: dict(mapping) for name, mapping in mappings.items()} | {"l": list(sequence)}


def ordered(state: State) -> list[Any]:
    return [list(state["m"].items()), list(state["s"].items()), state["l"]]


def let_go(memory: Memory | None) -> None:
    if memory is not None:
        with contextlib.suppress(MemoptError):
            memory.close()


STRIDES = {Fault.EIO: 5, Fault.ENOSPC: 3, Fault.EIO_SYNC: 2, Fault.EIO_SYNC_FORGET: 2}


@pytest.mark.parametrize("fault", list(Fault))
def test_whatever_disk_call_fails_a_collection_is_as_before_or_as_after(fault: Fault) -> None:
    rng = random.Random(3)
    for at in itertools.count(1, STRIDES[fault]):
        with FaultyDisk() as disk:
            disk.fail(at=at, error=fault)
            state: State = {"m": {}, "s": {}, "l": []}
            allowed = [state]
            memory: Memory | None = None
            error: MemoptError | None = None
            try:
                memory = open_on(disk)
                for ours, theirs in steps():
                    after = copy.deepcopy(state)
                    theirs(after)
                    allowed = [state, after]
                    ours(memory)
                    state, allowed = after, [after]
                    memory._parts.sessions.collections.cache.check()  # type: ignore[attr-defined]
                memory.compact()
            except MemoptError as met:
                error = met
            raised = bool(disk.faults_raised)
            disk.heal()
            if memory is not None and error is not None:
                # What can still be read is what was acknowledged.
                with contextlib.suppress(MemoptError):
                    found = seen(memory)
                    assert ordered(found) in [ordered(each) for each in allowed], at
                memory._parts.budget.check()
            if at % 2:
                let_go(memory)
            with (
                disk.lose_power(rng) if at % 3 else disk.kill() as left,
                contextlib.closing(open_on(left)) as again,
            ):
                found = seen(again)
                assert ordered(found) in [ordered(each) for each in allowed], (at, error)
                assert again.check().clean
                again.mapping("m")["goes on"] = 1
                assert again.mapping("m").popitem() == ("goes on", 1)
            let_go(memory)
            if not raised:
                return


def test_a_value_there_is_no_room_for_is_not_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = b"x" * 200_000
    with open_memory(
        tmp_path / "store", budget="8MiB", durability="os", maintenance_seconds=0
    ) as memory:
        mapping, sequence = memory.mapping("m"), memory.sequence("s")
        mapping["large"] = large
        sequence.append(large)
        budget = memory._parts.budget
        reserve = budget.reserve

        def short(owner: str, size_bytes: int) -> None:
            if size_bytes >= len(large):
                raise BudgetError("no room", limit="budget")
            reserve(owner, size_bytes)

        monkeypatch.setattr(budget, "reserve", short)
        for take in (lambda: mapping.pop("large"), mapping.popitem, sequence.pop):
            with pytest.raises(BudgetError):
                take()
        monkeypatch.undo()
        assert mapping.pop("large") == large
        assert sequence.pop() == large
        assert (len(mapping), len(sequence)) == (0, 0)
        assert mapping.pop("large", None) is None
