"""What is read from a shelf is what was put there, notes included, in whatever budget."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from memopt.base.units import MIB
from memopt.bench import capacity
from memopt.bench.capacity import Task, read, write


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"Line {at} of a book that is rather dull." for at in range(900)))
    return path


def task(tmp_path: Path, book: Path, **fields: Any) -> Any:
    whole = Task(
        books=(str(book), str(book)), home=str(tmp_path / "store"), copies=2, reads=400,
        budget_bytes=8 * MIB, policy="lru", trigger="growth", seed=0,
    )  # fmt: skip
    return msgspec.to_builtins(msgspec.structs.replace(whole, **fields))


def test_every_passage_is_found_and_compared(tmp_path: Path, book: Path) -> None:
    said: list[object] = []
    written = write(task(tmp_path, book), said.append)
    assert written["passages"] == 2 * 2 * 39
    found = read(task(tmp_path, book), said.append)
    assert found["wrong"] == 0
    assert found["faults"] > 0
    assert 0 < found["hit_ratio"] < 1
    assert found["writes"] > 0


def test_a_passage_that_was_changed_is_noticed(tmp_path: Path, book: Path) -> None:
    said: list[object] = []
    write(task(tmp_path, book), said.append)
    book.write_text(book.read_text().replace("rather", "very"))
    assert read(task(tmp_path, book), said.append)["wrong"] > 300


def test_two_policies_let_different_passages_go(tmp_path: Path, book: Path) -> None:
    left = {}
    for policy in ("lru", "lfu"):
        wanted = msgspec.convert(
            task(tmp_path, book, home=str(tmp_path / policy), policy=policy), Task
        )
        with capacity._opened(wanted) as memory:
            shelf = capacity._shelf(memory, 0)
            shelf.update({f"0:{at}": capacity._entry(0, at, "x" * 900) for at in range(100)})
            for _ in range(3):
                assert all(shelf[f"0:{at}"]["at"] == at for at in range(20))
            assert all(shelf[f"0:{at}"]["at"] == at for at in range(20, 100))
            cache = memory._parts.sessions.collections.cache  # type: ignore[attr-defined]
            cache.make_free(cache.held_bytes // 2)
            before = memory.stats().counters["entries_faulted"]
            assert all(shelf[f"0:{at}"]["at"] == at for at in range(20))
            left[policy] = 20 - (memory.stats().counters["entries_faulted"] - before)
    assert left == {"lru": 0, "lfu": 20}
