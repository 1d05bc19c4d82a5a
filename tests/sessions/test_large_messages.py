"""Messages of many MiB: they are written one call at a time, and charged meanwhile."""

import threading
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.units import MIB

PATIENCE = 60.0


def opened(path: Path, budget: str) -> memopt.Memory:
    return memopt.open(
        path / "store", budget=budget, durability="os", maintenance_seconds=0, ballast_bytes=0
    )


def test_of_large_messages_one_is_written_at_a_time_and_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, "32MiB") as memory:
        transcripts = memory._parts.sessions.transcripts
        commit, budget = transcripts._commit, memory._parts.budget
        entered = threading.Semaphore(0)
        within = most = 0
        charged: list[int] = []

        def counting(*arguments: Any) -> Any:
            nonlocal within, most
            within += 1
            most = max(most, within)
            entered.release()
            # Time for another one, if it is let in.
            entered.acquire(timeout=0.05)
            entered.acquire(timeout=0.05)
            charged.append(budget.held_bytes("appends"))
            try:
                return commit(*arguments)
            finally:
                within -= 1

        monkeypatch.setattr(transcripts, "_commit", counting)
        message = {"role": "user", "content": "x" * (2 * MIB)}
        threads = [
            threading.Thread(target=memory.session(f"s{n}").append, args=(message,))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert most == 1
        assert all(2 * MIB < size < 3 * MIB for size in charged)
        assert budget.held_bytes("appends") == 0
        assert [len(memory.session(f"s{n}")) for n in range(3)] == [1, 1, 1]


def test_the_largest_message_gets_in_however_little_the_budget_has_left(tmp_path: Path) -> None:
    with opened(tmp_path, "8MiB") as memory:
        budget = memory._parts.budget
        budget.reserve("outside", budget.free_bytes() - 64 * 1024)
        message = {"role": "user", "content": "x" * (2 * MIB - 1024)}
        memory.session("a").append(message)
        assert len(memory.session("a")) == 1
        budget.release_all("outside")
        assert list(memory.session("a").messages()) == [message]
