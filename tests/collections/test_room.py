"""Pages and entries of collections share one budget: neither starves the other, and what nobody
uses costs no RAM."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.base.units import MIB
from memopt.collections.cache import EntryCache


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="8MiB", durability="os", maintenance_seconds=0,
        ballast_bytes=0, clock=ManualClock(), l2_idle_seconds=900.0,
        # Pages and collections alone: what indexing remembers is a quarter of what they share here.
        indexing="off",
    ) as memory:  # fmt: skip
        yield memory
        cache_of(memory).check()
        memory._parts.pager.check()
        memory._parts.budget.check()


def cache_of(memory: memopt.Memory) -> EntryCache:
    cache: EntryCache = memory._parts.sessions.collections.cache  # type: ignore[attr-defined]
    return cache


def written(memory: memopt.Memory, ids: range) -> None:
    """Sessions of about a page each, sealed."""
    for number in ids:
        messages = [{"role": "user", "content": f"{number} {at} " + "x" * 700} for at in range(20)]
        memory.session(f"s{number}").extend(messages)
    memory.compact()


def read(memory: memopt.Memory, ids: range) -> dict[str, int]:
    """Read them once; what that counted."""
    before = memory.stats().counters
    for number in ids:
        assert len(list(memory.session(f"s{number}").messages())) == 20
    after = memory.stats().counters
    return {name: after[name] - before.get(name, 0) for name in after}


def value(number: int, size: int) -> bytes:
    """Bytes that no compression makes smaller."""
    return random.Random(number).randbytes(size)


def filled(memory: memopt.Memory, size: int) -> Any:
    """A mapping that has taken all of the budget that was free."""
    mapping = memory.mapping("m")
    for start in range(0, 10 * MIB // size, 8):
        mapping.update({at: value(at, size) for at in range(start, start + 8)})
    assert memory._parts.budget.free_bytes() < MIB // 2
    return mapping


@pytest.mark.parametrize("size", [300, 20_000])
def test_a_collection_that_filled_the_budget_makes_way_for_pages(
    memory: memopt.Memory, size: int
) -> None:
    ids = range(12)
    written(memory, ids)
    filled(memory, size)
    budget = memory._parts.budget
    budget.reserve("somebody", max(0, budget.free_bytes() - 20_000))
    for _ in range(6):
        counted = read(memory, ids)
    budget.release_all("somebody")
    assert (counted["faults_major"], counted["faults_minor"]) == (0, 0)
    assert counted["page_hits"] >= len(ids)


@pytest.mark.parametrize("size", [300, 20_000])
def test_pages_that_filled_the_budget_make_way_for_a_collection(
    memory: memopt.Memory, size: int
) -> None:
    mapping, keys = memory.mapping("m"), range(min(400, 300_000 // size))
    for number in keys:
        mapping[number] = value(number, size)
    cache_of(memory).clear()
    ids = range(400)
    written(memory, ids)
    read(memory, ids)
    read(memory, ids)
    assert memory._parts.budget.free_bytes() < MIB // 2
    for _ in range(3):
        assert all(mapping[number] == value(number, size) for number in keys)
        # Whoever reads pages meanwhile takes nothing of the collection's part.
        read(memory, ids)
    before = memory.stats().counters["entries_faulted"]
    assert all(mapping[number] == value(number, size) for number in keys)
    assert memory.stats().counters["entries_faulted"] == before


def test_a_collection_gives_room_before_pages_do_and_keeps_its_part(memory: memopt.Memory) -> None:
    ids = range(60)
    written(memory, ids)
    filled(memory, 300)
    for _ in range(3):
        read(memory, ids)
    pages = memory._parts.budget.held_bytes("pages")
    cache = cache_of(memory)
    while cache.excess_bytes > 65_536:
        memory._parts.budget.reserve("somebody", 16_000)
        assert memory._parts.budget.held_bytes("pages") == pages
    while memory._parts.budget.held_bytes("pages") == pages:
        memory._parts.budget.reserve("somebody", 4_000)
    assert -100_000 < cache.excess_bytes < 50_000
    assert len(cache) > 200
    memory._parts.budget.release_all("somebody")


def test_what_is_dead_goes_before_what_somebody_may_want(memory: memopt.Memory) -> None:
    mapping = memory.mapping("m")
    mapping.update({number: bytes(300) for number in range(200)})
    other = memory.mapping("other")
    for start in range(0, 12_000, 64):
        other.update({number: bytes(300) for number in range(start, start + 64)})
    cache = cache_of(memory)
    entries = [slot for slot, name in enumerate(cache._names) if name is not None]
    for slot in entries[300:]:
        if slot % 2:
            cache._remove(slot)
    assert cache.excess_bytes > 100_000
    before = len(cache)
    taken = memory._parts.budget.free_bytes()
    memory._parts.budget.reserve("somebody", taken)
    assert cache.make_free_of_excess(100_000)
    assert len(cache) == before
    assert memory._parts.budget.free_bytes() >= 100_000
    memory._parts.budget.release_all("somebody")


def advance(memory: memopt.Memory, seconds: float) -> None:
    clock = memory._parts.clock
    assert isinstance(clock, ManualClock)
    clock.advance(seconds)
    memory._parts.maintenance.once()


def test_what_nobody_used_for_long_leaves_ram_and_the_rest_stays(memory: memopt.Memory) -> None:
    mapping, other = memory.mapping("m"), memory.mapping("other")
    mapping.update({number: bytes(300) for number in range(500)})
    other.update({number: bytes(9000) for number in range(20)})
    cache = cache_of(memory)
    for _ in range(8):
        advance(memory, 110.0)
        assert mapping[7] == bytes(300)
        mapping[8] = bytes(301)
    assert len(cache) == 520, "880 seconds are not idle yet"
    for _ in range(3):
        advance(memory, 113.0)
        assert mapping[7] == bytes(300)
        mapping[8] = bytes(302)
    assert len(cache) == 2
    assert len(memory._parts.sessions.collections.rows) == 1  # type: ignore[attr-defined]
    cache.check()
    assert other[3] == bytes(9000)


def test_an_idle_collection_costs_no_ram_at_all(memory: memopt.Memory) -> None:
    budget = memory._parts.budget
    cache_of(memory).clear()
    before = {name: budget.held_bytes(name) for name in ("collections", "arena")}
    mapping = memory.mapping("m")
    mapping.update({number: bytes(300) for number in range(4000)})
    advance(memory, 1.0)
    for _ in range(10):
        advance(memory, 113.0)
    assert {name: budget.held_bytes(name) for name in before} == before
    assert len(cache_of(memory)._names) == 0
    assert mapping[17] == bytes(300)


def test_idle_entries_go_as_soon_as_that_is_said(memory: memopt.Memory) -> None:
    cache = cache_of(memory)
    memory.mapping("m")["k"] = 1
    assert cache.let_idle_go(8.0, 100.0) == -1
    assert cache.let_idle_go(8.0, 100.5) == -1
    assert cache.epochs.now == 1, "an epoch is a second long"
    assert cache.let_idle_go(8.0, 107.5) == -1
    assert len(cache) == 1
    assert cache.let_idle_go(8.0, 108.5) == 0
    assert len(cache) == 0


def test_pages_that_are_all_let_go_of_take_nothing_of_what_entries_are_charged(
    memory: memopt.Memory,
) -> None:
    memory.mapping("m").update({number: bytes(300) for number in range(300)})
    written(memory, range(4))
    read(memory, range(4))
    held = memory._parts.budget.held_bytes("collection policies")
    assert held > 0
    memory._parts.pager._let_all_go()
    assert memory._parts.budget.held_bytes("policies") == 0
    assert memory._parts.budget.held_bytes("collection policies") == held
    cache_of(memory).close()
