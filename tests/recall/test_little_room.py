"""Recall, sealing and compacting where the budget is small and messages are large."""

import math
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError
from memopt.memory import Memory
from memopt.recall.indexing import Appended
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "durability": "os",
    "maintenance_seconds": 0,
    "probe_seconds": 0,
    "ballast_bytes": 0,
}


def test_large_messages_are_found_and_sealed_where_there_is_no_room_for_them(
    tmp_path: Path,
) -> None:
    with open_memory(tmp_path, budget="8MiB", **SETTINGS) as memory:
        # What others hold, who give nothing back.
        budget = memory._parts.budget
        session = memory.session("big", scope="u")
        for number in range(8):
            session.append({"role": "user", "content": f"lamp{number} " + "x " * 400_000})
        assert len(memory.recall("lamp3", scope="u")) > 0
        free = budget.free_bytes() - 300_000
        budget.reserve("others", free)
        session.append({"role": "user", "content": "lamp8 " + "x " * 400_000})
        memory.compact()
        budget.release("others", free)
        with memory._parts.directory.home.snapshot() as tables:
            assert tables.tail.scan((0, 0), 1) == []
        budget.check()
        found = memory.recall("lamp8", scope="u", limit=1)
        assert found[0].text.startswith("lamp8 ")
        assert len(session) == 9


def test_the_largest_record_is_paid_for_and_not_all_of_them(tmp_path: Path) -> None:
    with open_memory(tmp_path, page_target_bytes="4MiB", **SETTINGS) as memory:
        session = memory.session("big", scope="u")
        for number in range(8):
            session.append({"role": "user", "content": f"lamp{number} " + "x " * 200_000})
        assert charged(memory, "u") < 2 * 8 * 400_000


def charged(memory: Memory, scope: str) -> int:
    """What loading the index of a scope asks for."""
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(scope)
    assert number is not None
    asked: list[int] = []
    memory._parts.recall.engine.scopes._loader.load(number, asked.append)
    return sum(asked)


def test_an_error_says_whether_to_come_again() -> None:
    budget = Budget(1000)
    with pytest.raises(BudgetError, match="to retry does not help") as never:
        budget.reserve("a", 1001)
    assert math.isinf(never.value.retry_after_seconds)
    budget.reserve("a", 600)
    with pytest.raises(BudgetError, match="retry after 1 s") as later:
        budget.reserve("b", 600)
    assert later.value.retry_after_seconds == 1.0


@pytest.mark.parametrize(("words", "count"), [(15, 2_000), (400, 100)])
def test_loading_an_index_asks_for_what_it_takes(tmp_path: Path, words: int, count: int) -> None:
    draw = Random(words)
    with open_memory(tmp_path, page_target_bytes="64KiB", **SETTINGS) as memory:
        session = memory.session("s", scope="u")
        texts = [" ".join(f"w{draw.randrange(5_000)}" for _ in range(words)) for _ in range(count)]
        session.extend([{"role": "user", "content": text} for text in texts])
        memory.compact()
        charged(memory, "u")
        with memory._parts.directory.home.snapshot() as tables:
            number = tables.scopes.number("u")
        assert number is not None
        loader = memory._parts.recall.engine.scopes._loader
        asked: list[int] = []
        tracemalloc.start()
        try:
            scope = loader.load(number, asked.append)
            assert tracemalloc.get_traced_memory()[1] <= sum(asked)
            added = session.extend([{"role": "user", "content": text} for text in texts[:20]])
            note = Appended(number, 1, added.seq - 19, added.seq + 1)
            asked.clear()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            more = loader.add(number, scope, [note], asked.append)
            assert tracemalloc.get_traced_memory()[1] - held <= sum(asked)
        finally:
            tracemalloc.stop()
        assert len(more.index) == count + 20
        assert len(scope.index) == count
