"""Recall of many scopes at once: none of another is found, and room is given back in time."""

import contextlib
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from memopt.base.errors import BudgetError
from memopt.memory import Memory
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "durability": "os",
    "maintenance_seconds": 0,
    "probe_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 1500,
}
NOUNS = ("lamp", "river", "ticket", "window", "letter", "garden", "engine", "bottle", "mirror")
VERBS = ("found", "lost", "bought", "painted", "wanted", "broke", "repaired", "forgot")


def say(memory: Memory, scope: str, count: int, chance: random.Random) -> None:
    """Messages that differ between scopes in their mark alone."""
    for id in ("a", "b"):
        memory.session(id, scope=scope).extend(
            [
                {
                    "role": chance.choice(["user", "assistant"]),
                    "content": f"we {chance.choice(VERBS)} the {chance.choice(NOUNS)} of {scope}",
                }
                for _ in range(count // 2)
            ]
        )


def test_a_hundred_thousand_hits_and_none_of_another_scope(tmp_path: Path) -> None:
    chance = random.Random(5)
    scopes = [f"t{tenant}/u{user}" for tenant in range(4) for user in range(4)]
    scopes += [f"{scope}/deep" for scope in scopes[:8]]
    with open_memory(tmp_path, **SETTINGS) as memory:
        for scope in scopes:
            say(memory, scope, 100, chance)
        hits = 0
        while hits < 100_000:
            scope, other = chance.choice(scopes), chance.choice(scopes)
            query = f"who {chance.choice(VERBS)} the {chance.choice(NOUNS)} of {other}?"
            recall = memory.recall(query, scope=scope, limit=100)
            assert len(recall) == 100
            assert {hit.scope for hit in recall} == {scope}
            assert all(hit.text.endswith(f" of {scope}") for hit in recall)
            hits += len(recall)
            if chance.random() < 0.02:
                memory._parts.recall.engine.scopes.evict(1)


def test_what_left_ram_comes_back_with_the_same_hits(tmp_path: Path) -> None:
    chance = random.Random(6)
    scopes = [f"u{number}" for number in range(12)]
    with open_memory(tmp_path, budget="64MiB", **SETTINGS) as memory:
        engine = memory._parts.recall.engine
        for scope in scopes:
            say(memory, scope, 60, chance)
        memory.compact()
        query = "who lost the letter?"
        before = {scope: list(memory.recall(query, scope=scope)) for scope in scopes}
        one = engine.scopes.size_bytes // len(scopes)
        # Room for a few and for ranking: everybody else has taken the rest.
        budget = memory._parts.budget
        engine.scopes.clear()
        taken = budget.free_bytes() - 6 * one - (1 << 20)
        budget.reserve("another", taken)
        for _ in range(60):
            scope = chance.choice(scopes)
            assert list(memory.recall(query, scope=scope)) == before[scope]
            assert budget.used_bytes <= budget.limit_bytes
            engine.scopes.check()
        assert memory.stats().counters["scopes_evicted"] > 5
        budget.release("another", taken)


def test_a_scope_that_does_not_fit_is_refused_and_others_are_not(tmp_path: Path) -> None:
    chance = random.Random(7)
    with open_memory(tmp_path, budget="24MiB", **SETTINGS) as memory:
        say(memory, "small", 20, chance)
        say(memory, "large", 4000, chance)
        memory.compact()
        budget = memory._parts.budget
        assert memory.recall("who lost the letter?", scope="small")
        with contextlib.suppress(BudgetError):
            while True:  # Everybody gives up what they can.
                budget.reserve("another", 1 << 16)
        budget.release("another", 1 << 20)
        with pytest.raises(BudgetError):
            memory.recall("who lost the letter?", scope="large")
        assert memory.recall("who lost the letter?", scope="small")
        budget.release_all("another")
        assert memory.recall("who lost the letter?", scope="large")
        assert budget.held_bytes("recall loading") == 0


def test_idle_scopes_leave_ram(tmp_path: Path) -> None:
    chance = random.Random(8)
    with open_memory(tmp_path, l2_idle_seconds=0.0001, **SETTINGS) as memory:
        say(memory, "u", 20, chance)
        memory.recall("who lost the letter?", scope="u")
        assert memory._parts.budget.held_bytes("recall") > 0
        memory._parts.maintenance.once()
        assert memory._parts.budget.held_bytes("recall") == 0
        assert memory.recall("who lost the letter?", scope="u")


def test_under_pressure_indexes_are_given_up(tmp_path: Path) -> None:
    chance = random.Random(9)
    with open_memory(tmp_path, **SETTINGS) as memory:
        for scope in ("a", "b", "c", "d"):
            say(memory, scope, 40, chance)
            memory.recall("who lost the letter?", scope=scope)
        held = memory._parts.budget.held_bytes("recall")
        memory._parts.recall.engine.scopes.limit(0.5)
        assert 0 < memory._parts.budget.held_bytes("recall") <= held / 2
        for scope in ("a", "b", "c", "d"):
            assert memory.recall("who lost the letter?", scope=scope)
        assert memory._parts.budget.held_bytes("recall") <= held / 2
        memory._parts.recall.engine.scopes.limit(1.0)


def test_what_is_acknowledged_is_recalled_while_others_write_merge_and_evict(
    tmp_path: Path,
) -> None:
    with open_memory(tmp_path, **SETTINGS | {"page_target_bytes": 300}) as memory:
        engine = memory._parts.recall.engine
        stop, failures = threading.Event(), list[str]()

        def write(writer: int) -> None:
            session = memory.session(f"w{writer}", scope="u")
            for n in range(60):
                session.append({"role": "user", "content": f"mark{writer}x{n} of the writer"})
                hits = memory.recall(f"mark{writer}x{n}", scope="u", limit=1)
                if f"mark{writer}x{n} " not in hits[0].text:
                    failures.append(f"{writer}, {n}: {hits[0].text}")

        def disturb() -> None:
            while not stop.is_set():
                engine.scopes.evict(1)
                memory._parts.maintenance.once()

        writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        other = threading.Thread(target=disturb)
        for thread in (*writers, other):
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        other.join()
        assert failures == []
        engine.scopes.check()
        assert len(memory.recall("writer", scope="u", limit=1000)) == 180
