"""What is read from a shelf is what was put there, notes included, in whatever budget."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from memopt.base.units import MIB
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
