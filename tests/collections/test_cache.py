"""The cache of entries: what it charges, what it lets go of, and what it never brings back."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from memopt.base.budget import Budget
from memopt.base.events import EntriesEvicted, Event, Events
from memopt.base.units import MIB
from memopt.collections.cache import OWNER, EntryCache, name_of_key, name_of_place
from memopt.policies.catalog import POLICIES, make_policy


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def made(budget: Budget, policy: str = "lru", heard: Heard | None = None) -> EntryCache:
    return EntryCache(budget, lambda: make_policy(policy), Events(heard or Heard()))


def put(cache: EntryCache, collection: int, number: int, record: bytes) -> None:
    cache.apply(collection, [(name_of_key(collection, b"s%d" % number), number, record)])


@pytest.mark.parametrize("size", [40, 220, 3000])
def test_it_charges_at_least_what_it_occupies(size: int) -> None:
    budget = Budget(256 * MIB)
    cache = made(budget)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(10_000):
        cache.apply(
            7, [(name_of_key(7, b"skey-%d" % number), number, bytes([number % 255]) * size)]
        )
    occupied = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    charged = budget.used_bytes
    assert occupied <= charged
    assert charged <= 1.6 * occupied
    cache.check()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_it_makes_room_by_letting_go_and_says_so(policy: str) -> None:
    budget, heard = Budget(1 * MIB), Heard()
    cache = made(budget, policy, heard)
    for number in range(5_000):
        put(cache, number % 3, number, bytes(300))
        assert budget.used_bytes <= budget.limit_bytes
    cache.check()
    budget.check()
    assert 500 < len(cache) < 2000
    evicted = sum(e.entries for e in heard.events if isinstance(e, EntriesEvicted))
    assert evicted == 5_000 - len(cache)
    assert cache.make_free(10 * MIB) > 0
    assert len(cache) == 0
    cache.close()
    assert budget.used_bytes == 0


def test_what_is_too_large_for_it_is_not_kept() -> None:
    budget = Budget(1 * MIB)
    cache = made(budget)
    put(cache, 1, 1, bytes(100_000))
    assert len(cache) == 0
    assert budget.owners().get(OWNER, 0) == 0


def test_a_reader_that_was_overtaken_fills_nothing() -> None:
    cache = made(Budget(1 * MIB))
    name = name_of_place(5, 9)
    late = cache.ticket(name)
    cache.apply(5, [(name, 9, b"new" * 20)])
    cache.fill(5, name, late, 9, b"old" * 20)
    assert cache.get(name) == b"new" * 20
    late = cache.ticket(name)
    cache.apply(5, [(name, 9, None)])
    cache.fill(5, name, late, 9, b"old" * 20)
    assert cache.get(name) is None
    late = cache.ticket(name)
    cache.drop(5)
    cache.fill(5, name, late, 9, b"old" * 20)
    assert cache.get(name) is None
    in_time = cache.ticket(name)
    cache.fill(5, name, in_time, 9, b"now" * 20)
    assert cache.get(name) == b"now" * 20
    cache.check()


def test_dropping_a_collection_leaves_the_others() -> None:
    cache = made(Budget(1 * MIB))
    for number in range(100):
        put(cache, number % 4, number, bytes(50))
        name = name_of_place(number % 4, number)
        cache.apply(number % 4, [(name, number, bytes(50))])
    cache.drop(2)
    assert len(cache) == 150
    assert cache.get(name_of_place(2, 2)) is None
    assert cache.get(name_of_place(3, 3)) is not None
    cache.check()


def test_numpy_is_not_imported_before_an_array_is_met(tmp_path: Path) -> None:
    script = (
        "import sys, memopt\n"
        f"memory = memopt.open({str(tmp_path)!r}, maintenance_seconds=0)\n"
        "mapping = memory.mapping('m')\n"
        "mapping['k'] = {'n': [1, b'x'.hex()]}\n"
        "mapping['b'] = b'x'\n"
        "assert dict(mapping) == {'k': {'n': [1, '78']}, 'b': b'x'}\n"
        "assert mapping == dict(mapping)\n"
        "memory.close()\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_under_pressure_it_holds_half_of_what_it_held_and_no_more() -> None:
    budget = Budget(4 * MIB)
    cache = made(budget)
    for number in range(2_000):
        put(cache, 1, number, bytes(300))
    before = cache.size_bytes
    cache.limit(0.5)
    assert cache.size_bytes <= before / 2
    assert cache.freed_bytes >= before / 2
    for number in range(2_000, 3_000):
        put(cache, 1, number, bytes(300))
        assert cache.size_bytes <= before / 2
    # What came last is here, for others went.
    assert cache.get(name_of_key(1, b"s2999")) is not None
    cache.check()
    cache.limit(1.0)
    for number in range(3_000, 6_000):
        put(cache, 1, number, bytes(300))
    assert cache.size_bytes > before
    cache.check()
    budget.check()
