"""The cache of entries: what it charges, what it lets go of, and what it never brings back."""

import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.budget import Budget
from memopt.base.clock import SystemClock
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.events import EntriesEvicted, Event, Events
from memopt.base.units import MIB
from memopt.collections import cache as cache_module
from memopt.collections.cache import OWNER, EntryCache, _Row
from memopt.collections.names import Name, name_of_key, name_of_place
from memopt.paging.arena import Arena, extent_bytes_for
from memopt.policies.catalog import POLICIES, make_policy
from memopt.policies.lru import Lru


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def made(budget: Budget, policy: str = "lru", heard: Heard | None = None) -> EntryCache:
    events = Events(heard or Heard())
    arena = Arena(
        budget, clock=SystemClock(), events=events,
        extent_bytes=extent_bytes_for(budget.limit_bytes),
    )  # fmt: skip
    return EntryCache(budget, lambda: make_policy(policy), events, arena)


def put(cache: EntryCache, collection: int, number: int, record: bytes) -> None:
    cache.apply(collection, [(name_of_key(collection, b"s%d" % number), number, record)])


@pytest.mark.parametrize("size", [40, 220, 3000, 400_000])
def test_it_charges_at_least_what_it_occupies(size: int) -> None:
    budget = Budget(1024 * MIB)
    cache = made(budget)
    # So many that the index has just grown.
    count = 11_000 if size < 100_000 else 1_000
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        cache.apply(
            7, [(name_of_key(7, b"skey-%d" % number), number, bytes([number % 255]) * size)]
        )
    occupied = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # The arena's mappings are no objects of Python; it is tested by itself.
    charged = budget.used_bytes - budget.held_bytes("arena")
    assert (budget.held_bytes("arena") > count * size) == (size < 100_000)
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


def test_scipy_is_not_imported_before_a_sparse_array_is_met(tmp_path: Path) -> None:
    script = (
        "import sys, memopt\n"
        f"memory = memopt.open({str(tmp_path)!r}, maintenance_seconds=0)\n"
        "mapping = memory.mapping('m')\n"
        "mapping['k'] = {'n': [1, b'x'.hex()]}\n"
        "mapping['b'] = b'x'\n"
        "assert dict(mapping) == {'k': {'n': [1, '78']}, 'b': b'x'}\n"
        "assert mapping == dict(mapping)\n"
        "memory.close()\n"
        "assert 'scipy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_under_pressure_it_holds_half_of_what_it_held_and_no_more() -> None:
    budget = Budget(4 * MIB)
    cache = made(budget)
    for number in range(2_000):
        put(cache, 1, number, bytes(300))
    before = cache.held_bytes
    cache.limit(0.5)
    assert cache.held_bytes <= before / 2
    assert cache.freed_bytes >= before / 2
    for number in range(2_000, 3_000):
        put(cache, 1, number, bytes(300))
        assert cache.held_bytes <= before / 2
    # What came last is here, for others went.
    assert cache.get(name_of_key(1, b"s2999")) is not None
    cache.check()
    cache.limit(1.0)
    for number in range(3_000, 6_000):
        put(cache, 1, number, bytes(300))
    assert cache.held_bytes > before
    cache.check()
    budget.check()


def test_an_unknown_policy_is_refused_by_the_name_of_its_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="collection_policy: expected one of"):
        memopt.open(tmp_path / "store", config=Config(collection_policy="bananas"))


def test_two_names_of_one_hash_are_never_taken_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_module, "_HASH_MASK", 0)
    cache = made(Budget(4 * MIB))
    one, other = name_of_key(1, b"one"), name_of_key(1, b"other")
    cache.apply(1, [(one, 0, b"a"), (other, 1, b"b")])
    assert cache.get(one) is None
    assert cache.get(other) == b"b"
    assert (cache.place(one), cache.place(other)) == (None, 1)
    cache.apply(1, [(one, 0, b"c")])
    assert (cache.get(one), cache.get(other)) == (b"c", None)
    cache.apply(1, [(other, 1, None)])
    assert cache.get(one) == b"c"
    cache.check()


def test_what_was_made_before_everything_was_let_go_of_is_not_kept() -> None:
    """Its place in the arena may be somebody else's by now."""
    budget = Budget(4 * MIB)
    cache = made(budget)
    name, later = name_of_key(1, b"early"), name_of_key(1, b"later")
    row = _Row(1, name, 0, b"e" * 50)
    assert cache._pay(row)
    cache.clear()
    put(cache, 1, 7, b"l" * 50)
    cache.apply(1, [(later, 1, b"l" * 50)])
    with cache._lock:
        cache._add(row)
    cache._throw_away(row)
    assert cache.get(name) is None
    again = _Row(1, name, 0, b"e" * 50)
    assert cache._pay(again)
    cache.clear()
    cache.apply(1, [(later, 1, b"l" * 50)])
    cache._throw_away(again)
    assert cache.get(later) == b"l" * 50
    cache.check()
    cache.close()
    assert budget.used_bytes == 0


def test_a_value_that_changes_again_and_again_leaves_no_holes_behind() -> None:
    budget = Budget(1 * MIB)
    cache = made(budget)
    for number in range(40_000):
        put(cache, 1, number % 16, b"%d" % number * 40)
    assert budget.held_bytes("arena") < MIB // 2
    cache.check()


@pytest.mark.parametrize("last", [b"new" * 20, None])
def test_of_a_name_that_one_batch_changes_twice_without_room_the_last_is_kept(
    monkeypatch: pytest.MonkeyPatch, last: bytes | None
) -> None:
    cache = made(Budget(1 * MIB))
    name = name_of_key(1, b"sname")
    pays, asked = cache._try_to_pay, []

    def full_at_first(row: _Row) -> bool:
        asked.append(row)
        return len(asked) > 2 and pays(row)

    monkeypatch.setattr(cache, "_try_to_pay", full_at_first)
    cache.apply(1, [(name, 0, b"old" * 20), (name, 0, last)])
    monkeypatch.undo()
    assert cache.get(name) == last
    cache.check()


def test_letting_go_of_everything_while_a_row_is_made_leaves_nothing_in_the_arena(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget(1 * MIB)
    cache = made(budget)
    put_into = cache._arena.try_put
    cleared: list[bool] = []

    def interrupted(*arguments: Any) -> int | None:
        thread = threading.Thread(target=cache.clear)
        thread.start()
        thread.join(timeout=0.05)
        cleared.append(not thread.is_alive())
        waiting.append(thread)
        return put_into(*arguments)

    waiting: list[threading.Thread] = []
    monkeypatch.setattr(cache._arena, "try_put", interrupted)
    name = name_of_key(1, b"sname")
    cache.fill(1, name, cache.ticket(name), 0, b"x" * 50)
    monkeypatch.undo()
    for thread in waiting:
        thread.join()
    # Where it waited for the row, it has let go of that one, too.
    assert len(cache._arena) == len(cache)
    cache.check()
    cache.close()
    assert budget.used_bytes == 0


def test_a_system_that_maps_no_more_costs_the_cache_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget(1 * MIB)
    cache = made(budget)

    def refuse(size_bytes: int) -> None:
        raise OSError(12, "cannot allocate memory")

    monkeypatch.setattr("memopt.paging.arena_extent._mapping", refuse)
    put(cache, 1, 1, b"x" * 100)
    assert cache.get(name_of_key(1, b"s1")) is None
    cache.check()
    monkeypatch.undo()
    put(cache, 1, 1, b"x" * 100)
    assert cache.get(name_of_key(1, b"s1")) == b"x" * 100
    cache.close()
    assert budget.used_bytes == 0


def test_a_ctrl_c_after_any_call_of_a_fill_leaves_the_budget_as_it_was() -> None:
    """At every call that the cache makes, and at the start of everything it calls."""
    for at in range(1, 200):
        budget = Budget(1 * MIB)
        cache = made(budget)
        put(cache, 1, 1, b"x" * 100)
        name: Name = name_of_key(1, b"sname")
        ticket, calls = cache.ticket(name), 0

        def stop(frame: Any, event: str, argument: Any, at: int = at) -> None:
            nonlocal calls
            if frame.f_code.co_name == "clear":
                sys.setprofile(None)
            # No signal comes between the end of a `with` and the release of its lock.
            leaving = event == "c_call" and argument.__name__ in ("__exit__", "setprofile")
            if event in ("call", "c_call") and not leaving:
                calls += 1
                if calls == at:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        met = False
        try:
            sys.setprofile(stop)
            cache.fill(1, name, ticket, 0, b"y" * 100)
        except KeyboardInterrupt:
            met = True
        finally:
            sys.setprofile(None)
        assert cache.get(name) in (None, b"y" * 100)
        cache.check()
        cache.close()
        assert budget.used_bytes == 0, at
        if not met:
            break
    assert 10 < at < 199


def test_an_emptied_cache_leaves_nothing_mapped_when_room_is_short() -> None:
    budget = Budget(8 * MIB)
    cache = made(budget)
    put(cache, 1, 1, b"x" * 100)
    put(cache, 1 << 29, 1, b"x" * 100)
    budget.reserve("other", budget.free_bytes())
    cache.make_free(200_000)
    assert len(cache) == 0
    assert budget.held_bytes("arena") == 0
    assert budget.free_bytes() >= 200_000
    cache.check()


class Sizes(Lru):
    """A policy that can be asked what it was told."""

    __slots__ = ("sizes",)

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        super().admitted(key, size_bytes, cost, importance)
        self.sizes[key] = size_bytes

    def removed(self, key: int) -> None:
        super().removed(key)
        del self.sizes[key]


@pytest.mark.parametrize("later", [10, 60, 9_000, 100_000])
def test_the_policy_knows_how_large_an_entry_became(later: int) -> None:
    budget = Budget(64 * MIB)
    cache = made(budget)
    policy = cache._policy = Sizes()
    for size in (10, later, 10, later):
        put(cache, 1, 1, bytes(size))
        assert list(policy.sizes.values()) == [cache.held_bytes]
    assert min(policy.sizes.values()) >= later
    cache.check()


def test_an_entry_that_is_overwritten_by_a_large_one_passes_no_limit() -> None:
    budget = Budget(256 * MIB)
    cache = made(budget)
    for number in range(2_000):
        put(cache, 1, number, bytes(300))
    cache.limit(0.5)
    limit = cache._bytes_max
    for number in range(1_990, 2_000):
        put(cache, 1, number, bytes(10))
        put(cache, 1, number, bytes(200_000))
        assert cache.held_bytes <= limit
        # What came last is here, for others went.
        assert cache.get(name_of_key(1, b"s%d" % number)) == bytes(200_000)
    cache.check()
