"""Large values under a small budget: one of them at a time is in RAM, and reserved before it is."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import memopt
from memopt import Selector
from memopt.base.clock import ManualClock
from memopt.base.units import MIB
from memopt.collections.cache import OWNER

BUDGET: Final = 16 * MIB
VALUE: Final = 2 * MIB
COUNT: Final = 9
SMALL: Final = MIB // 2
"""What anything may take beside the values."""

Act = Callable[[memopt.Memory, Any, Any], object]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget=BUDGET, durability="os", maintenance_seconds=0, ballast_bytes=0,
        clock=ManualClock(),
    ) as memory:  # fmt: skip
        yield memory
        memory._parts.budget.check()


def noise(number: int) -> bytes:
    return random.Random(number).randbytes(VALUE)


def fill(memory: memopt.Memory, value: Callable[[int], bytes]) -> tuple[Any, Any]:
    mapping, sequence = memory.mapping("m"), memory.sequence("s")
    for number in range(COUNT):
        mapping[number] = value(number)
        sequence.append(value(number))
    # What is imported only now is no value.
    memory.check()
    return mapping, sequence


def peak_of(act: Callable[[], object]) -> int:
    """The most that Python held at once in `act`, above what it held before."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def drain(values: Iterator[Any]) -> None:
    for _ in values:
        pass


# A caller holds the last value while the next one is read: its record, raw, and decoded.
READS: dict[str, Act] = {
    "values": lambda memory, m, s: drain(iter(m.values())),
    "items, backwards": lambda memory, m, s: drain(reversed(m.items())),
    "a sequence": lambda memory, m, s: drain(iter(s)),
    "a sequence, backwards": lambda memory, m, s: drain(reversed(s)),
    "get": lambda memory, m, s: [m[number] and None for number in range(COUNT)],
    "a position": lambda memory, m, s: [s[number] and None for number in range(COUNT)],
    "check": lambda memory, m, s: memory.check(),
    "look for a text": lambda memory, m, s: memory.plan_forget(
        Selector(scope="default", containing="what is nowhere")
    ),
}


@pytest.mark.parametrize("value", [noise, lambda number: bytes(VALUE)], ids=["noise", "zeros"])
@pytest.mark.parametrize("read", READS)
def test_one_large_value_at_a_time_is_read(
    memory: memopt.Memory, read: str, value: Callable[[int], bytes]
) -> None:
    mapping, sequence = fill(memory, value)
    assert peak_of(lambda: READS[read](memory, mapping, sequence)) < 4 * VALUE + SMALL


MOVES: dict[str, Act] = {
    "insert": lambda memory, m, s: s.insert(COUNT // 2, "new"),
    "insert behind the middle": lambda memory, m, s: s.insert(COUNT // 2 + 1, "new"),
    "delete": lambda memory, m, s: s.__delitem__(COUNT // 2),
    "thin out": lambda memory, m, s: s.__delitem__(slice(None, None, 4)),
    "reverse": lambda memory, m, s: s.reverse(),
    "reverse with a small one": lambda memory, m, s: (s.append("small"), s.reverse()),
}


@pytest.mark.parametrize("move", MOVES)
def test_one_large_value_at_a_time_is_moved(memory: memopt.Memory, move: str) -> None:
    mapping, sequence = fill(memory, noise)
    model = [noise(number) for number in range(COUNT)]
    assert peak_of(lambda: MOVES[move](memory, mapping, sequence)) < 2 * VALUE + SMALL
    MOVES[move](memory, mapping, model)
    assert list(sequence) == model
    assert memory.check().clean


@pytest.mark.parametrize("act", READS | MOVES)
def test_what_is_read_was_reserved(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    mapping, sequence = fill(memory, noise)
    budget = memory._parts.budget
    held: list[int] = []
    reserve = budget.reserve

    def noted(owner: str, size_bytes: int) -> None:
        reserve(owner, size_bytes)
        held.append(budget.held_bytes(OWNER))

    monkeypatch.setattr(budget, "reserve", noted)
    before = budget.held_bytes(OWNER)
    (READS | MOVES)[act](memory, mapping, sequence)
    # SQLite's copy and ours.
    assert max(held) - before >= 2 * VALUE
    assert budget.held_bytes(OWNER) - before < SMALL


def test_a_batch_is_bounded_in_bytes_and_never_empty(memory: memopt.Memory) -> None:
    sequence = memory.sequence("s")
    sizes = [10, 200_000, 50_000, 20_000, 300_000, 70_000, 1]
    sequence.extend(random.Random(size).randbytes(size) for size in sizes)
    engine = memory._parts.sessions.collections.engine  # type: ignore[attr-defined]
    with engine.home.snapshot() as tables:
        first, behind = tables.entries.bounds(1)

        def batches(*, descending: bool) -> list[list[int]]:
            at, stop, found = first, behind, []
            while rows := engine.scan(tables, 1, at, stop, descending=descending):
                found.append([row.place - first for row in rows])
                at, stop = (at, rows[-1].place) if descending else (rows[-1].place + 1, stop)
            return found

        assert batches(descending=False) == [[0, 1, 2], [3], [4], [5, 6]]
        assert batches(descending=True) == [[6, 5], [4], [3, 2], [1, 0]]


def test_a_value_there_is_no_room_for_is_not_read(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping, sequence = fill(memory, noise)
    small = memory.mapping("small")
    small["k"] = 1
    budget = memory._parts.budget
    monkeypatch.setattr(budget, "try_reserve", lambda owner, size_bytes: size_bytes < VALUE)
    for read in (lambda: mapping[1], lambda: sequence[1], lambda: list(mapping.items())):
        held = peak_of(lambda read=read: pytest.raises(memopt.BudgetError, read))  # type: ignore[misc]
        assert held < SMALL
    monkeypatch.undo()
    assert mapping[1] == sequence[1] == noise(1)
