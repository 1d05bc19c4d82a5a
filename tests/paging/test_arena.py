"""The arena against a dict, in far too small a budget, with failing reservations, under threads."""

import os
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.errors import (
    BudgetError,
    CapacityError,
    NotFoundError,
    StoreClosedError,
    UsageError,
)
from memopt.base.events import Collected, Events
from memopt.base.records import Lifetime
from memopt.base.units import KIB, MIB
from memopt.bench.measure import rss_bytes
from memopt.paging import arena_extent
from memopt.paging.arena import Arena, extent_bytes_for
from memopt.paging.arena_extent import OBJECT_BYTES, TABLE_BYTES, TABLE_HANDLES
from memopt.paging.arena_space import OWNER, TABLE_CHARGE_BYTES

EXTENT = 16 * KIB
EPHEMERAL, SESSION, PERSISTENT = Lifetime


class Heard:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def emit(self, event: Any) -> None:
        self.events.append(event)


def make(budget: Budget, *, extent_bytes: int = EXTENT, sink: Heard | None = None) -> Arena:
    return Arena(
        budget, clock=ManualClock(), events=Events(sink or Heard()), extent_bytes=extent_bytes
    )


def collect_all(arena: Arena, slice_bytes: int = EXTENT) -> list[Collected]:
    found = [arena.collect(slice_bytes)]
    while found[-1].more:
        found.append(arena.collect(slice_bytes))
    return found


@pytest.fixture
def budget() -> Budget:
    return Budget(64 * MIB)


@pytest.fixture
def arena(budget: Budget) -> Iterator[Arena]:
    arena = make(budget)
    yield arena
    arena.check()
    assert budget.owners().get(OWNER, 0) == arena.charged_bytes
    arena.close()
    assert budget.used_bytes == 0
    assert arena.resident_bytes == arena.live_bytes == 0


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 200, 4095, 4096])
def test_what_was_put_is_got(arena: Arena, size: int) -> None:
    values = [random.Random(seed).randbytes(size) for seed in range(50)]
    handles = [arena.put(SESSION, value) for value in values]
    assert [arena.get(handle) for handle in handles] == values
    assert {arena.size(handle) for handle in handles} == {size}
    assert arena.live_bytes == 50 * size
    assert len(arena) == len(set(handles)) == 50


def test_a_value_that_is_too_large_is_refused_by_name(arena: Arena) -> None:
    arena.put(SESSION, bytes(arena.value_bytes_max))
    with pytest.raises(UsageError, match=f"at most {EXTENT // 4}") as caught:
        arena.put(SESSION, bytes(arena.value_bytes_max + 1))
    assert caught.value.field == "value"


@pytest.mark.parametrize("handle", [-1, 1, TABLE_HANDLES, 1 << 40])
def test_a_handle_that_was_never_given_is_not_found(arena: Arena, handle: int) -> None:
    arena.put(SESSION, b"one")
    for call in (arena.get, arena.size, arena.delete):
        with pytest.raises(NotFoundError, match=str(handle)):
            call(handle)


def test_a_deleted_handle_is_not_found_until_it_is_given_again(arena: Arena) -> None:
    kept, handle = arena.put(SESSION, b"kept"), arena.put(SESSION, b"old")
    arena.delete(handle)
    for call in (arena.get, arena.size, arena.delete):
        with pytest.raises(NotFoundError):
            call(handle)
    assert arena.put(SESSION, b"new") == handle, "and it is small numbers that are used again"
    assert (arena.get(handle), arena.get(kept)) == (b"new", b"kept")


def test_what_is_got_is_a_copy(arena: Arena) -> None:
    handle = arena.put(EPHEMERAL, b"before")
    got = arena.get(handle)
    arena.drop(EPHEMERAL)
    arena.put(EPHEMERAL, b"after!")
    assert got == b"before"
    assert type(got) is bytes


def test_a_closed_arena_takes_nothing(budget: Budget) -> None:
    arena = make(budget)
    handle = arena.put(SESSION, b"value")
    arena.close()
    arena.close()
    with pytest.raises(StoreClosedError):
        arena.put(SESSION, b"value")
    with pytest.raises(NotFoundError):
        arena.get(handle)
    assert budget.used_bytes == 0


@pytest.mark.parametrize("extent_bytes", [0, 8 * KIB, 48 * KIB, 2 * MIB])
def test_an_impossible_extent_is_refused(budget: Budget, extent_bytes: int) -> None:
    with pytest.raises(UsageError, match="power of two"):
        make(budget, extent_bytes=extent_bytes)


@pytest.mark.parametrize(
    ("budget_bytes", "extent_bytes"),
    [(1, 16 * KIB), (8 * MIB, 32 * KIB), (9 * MIB, 32 * KIB), (64 * MIB, MIB // 4), (1 << 40, MIB)],
)
def test_extents_are_small_in_a_small_budget(budget_bytes: int, extent_bytes: int) -> None:
    assert extent_bytes_for(budget_bytes) == extent_bytes


# -- lifetimes ------------------------------------------------------------------------------------


def test_lifetimes_share_no_extent_and_no_table(arena: Arena) -> None:
    handles = {lifetime: arena.put(lifetime, lifetime.encode()) for lifetime in Lifetime}
    assert arena.resident_bytes == 3 * (EXTENT + TABLE_BYTES)
    arena.drop(EPHEMERAL)
    assert arena.resident_bytes == 2 * (EXTENT + TABLE_BYTES)
    with pytest.raises(NotFoundError):
        arena.get(handles[EPHEMERAL])
    assert arena.get(handles[SESSION]) == b"session"


def test_dropping_a_lifetime_closes_its_extents_whatever_happens_to_them(arena: Arena) -> None:
    kept = [arena.put(PERSISTENT, bytes([n]) * 100) for n in range(200)]
    before = arena.resident_bytes, arena.live_bytes, len(arena)
    for _ in range(3):
        handles = [arena.put(EPHEMERAL, bytes(500)) for _ in range(300)]
        for handle in handles[::2]:
            arena.delete(handle)
        arena.collect(3_000)  # in the middle of a victim
        arena.drop(EPHEMERAL)
        arena.check()
        assert (arena.resident_bytes, arena.live_bytes, len(arena)) == before
    assert [arena.get(handle) for handle in kept] == [bytes([n]) * 100 for n in range(200)]


def test_an_extent_whose_values_all_went_is_closed_without_a_collection(arena: Arena) -> None:
    handles = [arena.put(SESSION, bytes(1000)) for _ in range(160)]
    full_bytes = arena.resident_bytes
    for handle in handles:
        arena.delete(handle)
    assert full_bytes >= 10 * EXTENT
    assert arena.resident_bytes == EXTENT + TABLE_BYTES, "the open one is left"
    arena.collect(1)
    assert arena.resident_bytes == arena.charged_bytes == 0


def test_an_open_extent_is_filled_again_once_its_values_went(arena: Arena) -> None:
    for _ in range(1_000):
        handle = arena.put(EPHEMERAL, bytes(4_000))
        arena.delete(handle)
    assert arena.resident_bytes == EXTENT + TABLE_BYTES


def test_a_table_whose_handles_all_went_is_closed_and_its_numbers_serve_again(
    arena: Arena,
) -> None:
    handles = [arena.put(SESSION, b"x") for _ in range(3 * TABLE_HANDLES)]
    assert sorted(handles) == list(range(3 * TABLE_HANDLES))
    for handle in handles[: 2 * TABLE_HANDLES]:
        arena.delete(handle)
    collect_all(arena)
    tables = [arena.put(PERSISTENT, b"y") // TABLE_HANDLES for _ in range(2 * TABLE_HANDLES)]
    assert set(tables) == {0, 1}
    with pytest.raises(NotFoundError):
        arena.get(3 * TABLE_HANDLES)


# -- the budget -----------------------------------------------------------------------------------


def test_the_charge_is_what_is_mapped_with_its_objects_and_a_spare(arena: Arena) -> None:
    assert arena.charged_bytes == 0
    for _ in range(100):
        arena.put(SESSION, bytes(1_000))
    extents = (arena.resident_bytes - TABLE_BYTES) // EXTENT
    assert arena.charged_bytes == (extents + 1) * (EXTENT + OBJECT_BYTES) + TABLE_CHARGE_BYTES


def test_the_objects_of_a_mapping_take_no_more_than_they_are_charged() -> None:
    import tracemalloc

    arena = make(Budget(512 * MIB))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        values = TABLE_HANDLES * 4
        for _ in range(values):
            arena.put(SESSION, bytes(1_000))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    mappings = arena.resident_bytes // EXTENT
    assert mappings > 3_000
    assert grown <= mappings * OBJECT_BYTES <= 2.5 * grown
    arena.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no statm to read RSS from")
def test_memory_is_back_with_the_system_once_extents_are_closed() -> None:
    arena = make(Budget(256 * MIB), extent_bytes=MIB)
    before = rss_bytes()
    handles = [arena.put(EPHEMERAL, bytes(1_000)) for _ in range(60_000)]
    assert rss_bytes() - before >= arena.live_bytes
    arena.drop(EPHEMERAL)
    assert rss_bytes() - before <= 6 * MIB, "what is left is the list of handles"
    assert len(handles) == 60_000
    arena.close()


def test_a_put_without_room_collects_before_it_asks_others() -> None:
    budget, heard, asked = Budget(20 * EXTENT + TABLE_CHARGE_BYTES), Heard(), []
    budget.on_shortage(asked.append)
    arena = make(budget, sink=heard)
    kept, lost = [], []
    for number in range(300):
        (kept if number % 4 == 0 else lost).append(arena.put(SESSION, bytes([number % 251]) * 900))
        if len(lost) > 100:
            arena.delete(lost.pop(0))
    while len(kept) < 220:
        kept.append(arena.put(SESSION, b"k" * 900))
        if lost:
            arena.delete(lost.pop(0))
    assert {event.reason for event in heard.events} == {"room"}
    assert not asked
    arena.check()
    assert all(len(arena.get(handle)) == 900 for handle in kept)
    arena.close()


def test_a_put_without_any_room_raises_and_changes_nothing() -> None:
    budget = Budget(8 * EXTENT + TABLE_CHARGE_BYTES)
    arena = make(budget)
    handles = [arena.put(SESSION, bytes(1_000)) for _ in range(6 * 16)]
    with pytest.raises(BudgetError) as caught:
        handles += [arena.put(SESSION, bytes(1_000)) for _ in range(2 * 16)]
    assert caught.value.wanted_bytes == EXTENT + OBJECT_BYTES
    arena.check()
    assert budget.owners()[OWNER] == arena.charged_bytes
    arena.delete(handles.pop())
    assert [len(arena.get(handle)) for handle in handles] == [1_000] * len(handles)
    arena.close()
    assert budget.used_bytes == 0


def test_whoever_is_asked_for_room_may_delete_and_the_holes_are_used() -> None:
    budget = Budget(12 * EXTENT + TABLE_CHARGE_BYTES)
    arena = make(budget)
    handles: list[int] = []

    def reclaim(size_bytes: int) -> None:
        for _ in range(4 * size_bytes // 1_000):
            arena.delete(handles.pop(chance.randrange(len(handles))))

    chance = random.Random(3)
    budget.on_shortage(reclaim)
    for _ in range(2_000):
        handles.append(arena.put(SESSION, bytes(1_000)))
    arena.check()
    assert len(arena) == len(handles)
    arena.close()


def test_what_is_dead_is_room_for_somebody_else() -> None:
    budget = Budget(12 * EXTENT)
    arena = make(budget)
    handles = [arena.put(SESSION, bytes(1_000)) for _ in range(6 * 16)]
    arena.make_free(8 * EXTENT)
    assert budget.free_bytes() < 8 * EXTENT, "nothing was dead"
    for index, handle in enumerate(handles):
        if index % 3:
            arena.delete(handle)
    free_bytes = budget.free_bytes()
    budget.on_shortage(arena.make_free)
    budget.reserve("somebody", free_bytes + 2 * EXTENT)
    assert [len(arena.get(handle)) for handle in handles[::3]] == [1_000] * 32
    arena.check()


class FailingBudget(Budget):
    """Refuses the reservation with a given number, and those after it if it is told to."""

    def __init__(self, fails_at: int, *, once: bool) -> None:
        super().__init__(64 * MIB)
        self.calls = 0
        self._fails_at = fails_at
        self._once = once

    def try_reserve(self, owner: str, size_bytes: int) -> bool:
        self.calls += 1
        late = self.calls - self._fails_at
        if late == 0 or (late > 0 and not self._once):
            return False
        return super().try_reserve(owner, size_bytes)


@pytest.mark.parametrize("once", [True, False])
def test_a_reservation_that_fails_leaves_nothing_half_done(once: bool) -> None:
    number = 0
    while True:
        number += 1
        budget = FailingBudget(number, once=once)
        arena = make(budget)
        model: dict[int, bytes] = {}
        chance = random.Random(7)
        failures = 0
        for step in range(600):
            lifetime = chance.choice(list(Lifetime))
            value = chance.randbytes(chance.choice([10, 300, 2_000]))
            try:
                handle = arena.put(lifetime, value)
            except BudgetError:
                failures += 1
            else:
                assert handle not in model
                model[handle] = value
            if step % 3 and model:
                gone = chance.choice(list(model))
                arena.delete(gone)
                del model[gone]
            if step % 50 == 0:
                arena.collect(2_000)
            if step % 150 == 0:
                arena.check()
        arena.check()
        assert budget.owners().get(OWNER, 0) == arena.charged_bytes
        assert {handle: arena.get(handle) for handle in model} == model
        arena.close()
        assert budget.used_bytes == 0
        if budget.calls < number:
            return


@pytest.mark.parametrize("number", range(1, 12))
def test_a_mapping_that_fails_leaves_nothing_half_done(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, mapping = 0, arena_extent._mapping

    def failing(size_bytes: int) -> Any:
        nonlocal made
        made += 1
        if made == number:
            raise CapacityError("no more", limit="memory")
        return mapping(size_bytes)

    monkeypatch.setattr(arena_extent, "_mapping", failing)
    budget = Budget(64 * MIB)
    arena = make(budget)
    handles = []
    for lifetime in [*Lifetime] * 30:
        try:
            handles.append(arena.put(lifetime, bytes(2_000)))
        except CapacityError:
            arena.check()
            assert budget.owners().get(OWNER, 0) == arena.charged_bytes
    assert len(handles) == 89
    arena.check()
    arena.close()
    assert budget.used_bytes == 0


# -- collection -----------------------------------------------------------------------------------


def test_collecting_closes_what_is_mostly_dead_and_keeps_what_lives(arena: Arena) -> None:
    chance = random.Random(1)
    model = {}
    for _ in range(5_000):
        value = chance.randbytes(chance.randrange(400))
        model[arena.put(chance.choice(list(Lifetime)), value)] = value
    for handle in chance.sample(list(model), 4_500):
        arena.delete(handle)
        del model[handle]
    before = arena.usage()
    slices = collect_all(arena, 4_000)
    after = arena.usage()
    arena.check()
    assert {handle: arena.get(handle) for handle in model} == model
    assert before.live_bytes == after.live_bytes == sum(map(len, model.values()))
    assert sum(each.freed_bytes for each in slices) >= before.resident_bytes // 2
    assert after.dead_bytes <= after.resident_bytes / 8
    assert after.resident_bytes <= 1.4 * after.live_bytes + 6 * EXTENT + TABLE_BYTES * 3
    assert len(slices) > 20, "in bounded slices"
    assert max(each.moved_bytes for each in slices) <= 4_000 + 400


def test_a_slice_of_one_byte_still_gets_somewhere(arena: Arena) -> None:
    handles = [arena.put(SESSION, bytes(1_000)) for _ in range(100)]
    for handle in handles[::2]:
        arena.delete(handle)
    slices = collect_all(arena, 1)
    assert max(each.moved_bytes for each in slices) <= 1_000
    assert sum(each.extents for each in slices) >= 6


def test_there_is_nothing_to_collect_in_full_extents(arena: Arena) -> None:
    handles = [arena.put(SESSION, bytes(arena.value_bytes_max - 100)) for _ in range(40)]
    found = arena.collect(MIB)
    assert (found.moved_bytes, found.extents, found.more) == (0, 0, False), "not even slack"
    arena.delete(handles[0])
    assert arena.collect(MIB).extents == 1


def test_a_collection_is_an_event_with_its_pause(budget: Budget) -> None:
    class Ticking(ManualClock):
        def monotonic(self) -> float:
            self.advance(0.001)
            return super().monotonic()

    heard = Heard()
    arena = Arena(budget, clock=Ticking(), events=Events(heard), extent_bytes=EXTENT)
    handles = [arena.put(SESSION, bytes(1_000)) for _ in range(30)]
    arena.collect(MIB)
    assert not heard.events, "nothing was done"
    for handle in handles[:14]:
        arena.delete(handle)
    arena.delete(handles[20])
    arena.collect(MIB, reason="growth")
    [event] = heard.events
    assert isinstance(event, Collected)
    assert event.seconds == pytest.approx(0.001)
    assert event.reason == "growth"
    assert event.freed_bytes == event.extents * EXTENT
    arena.close()


def test_collecting_needs_no_room_in_the_budget() -> None:
    budget = Budget(10 * (EXTENT + OBJECT_BYTES) + TABLE_CHARGE_BYTES)
    arena = make(budget)
    handles = [arena.put(SESSION, bytes([n]) * 1_000) for n in range(9 * 15)]
    assert budget.free_bytes() < EXTENT
    for handle in handles[::2]:
        arena.delete(handle)
    slices = collect_all(arena, 2_000)
    assert sum(each.extents for each in slices) >= 7
    arena.check()
    assert [arena.get(handle)[0] for handle in handles[1::2]] == list(range(1, 135, 2))
    arena.close()


def test_puts_between_slices_do_not_take_the_room_that_the_cleaner_counts_on() -> None:
    budget = Budget(10 * (EXTENT + OBJECT_BYTES) + TABLE_CHARGE_BYTES)
    arena = make(budget)
    handles = [arena.put(SESSION, bytes(1_000)) for _ in range(9 * 16)]
    assert budget.free_bytes() < EXTENT
    for index, handle in enumerate(handles):
        if index % 4:
            arena.delete(handle)
    # The spare is lent now, and the survivors' extent has room for many.
    assert arena.collect(1).moved_bytes == 1_000
    more = [arena.put(SESSION, b"m" * 1_000) for _ in range(6 * 16)]
    arena.check()
    assert {arena.get(handle) for handle in more} == {b"m" * 1_000}
    arena.close()


def test_threads_put_get_delete_and_collect_at_once() -> None:
    budget = Budget(200 * EXTENT)
    arena = make(budget)
    done = threading.Event()

    def work(number: int) -> None:
        chance, mine = random.Random(number), {}
        for step in range(4_000):
            if chance.random() < 0.55 or not mine:
                value = bytes([number]) * chance.randrange(300)
                handle = arena.put(chance.choice([SESSION, PERSISTENT]), value)
                assert handle not in mine
                mine[handle] = value
            else:
                handle = chance.choice(list(mine)) if step % 7 == 0 else next(iter(mine))
                assert arena.get(handle) == mine.pop(handle)
                arena.delete(handle)
        assert {handle: arena.get(handle) for handle in mine} == mine

    def collect() -> None:
        while not done.is_set():
            arena.collect(5_000)

    with ThreadPoolExecutor(5) as threads:
        collector = threads.submit(collect)
        try:
            for worker in [threads.submit(work, number) for number in range(4)]:
                worker.result()
        finally:
            done.set()
        collector.result()
    arena.check()
    assert budget.owners()[OWNER] == arena.charged_bytes
    arena.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_to_pages_of_its_own(arena: Arena) -> None:
    handle = arena.put(SESSION, b"of the parent")
    child = os.fork()
    if child == 0:
        try:
            arena.delete(handle)
            arena.put(SESSION, b"of the child!")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert arena.get(handle) == b"of the parent"


# -- interrupts -----------------------------------------------------------------------------------


class Interrupter:
    """Raises KeyboardInterrupt after the n-th call that the arena's code makes or returns from,
    which is where a signal's handler may run."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("c_return", "return") and "/paging/arena" in frame.f_code.co_filename:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def play(arena: Arena, model: dict[int, tuple[Lifetime, bytes]], chance: random.Random) -> None:
    """Calls of all kinds. The model forgets a value before it is deleted, and learns of it after
    it was put, so it holds what has to be there at any moment."""
    for step in range(300):
        draw = chance.random()
        if draw < 0.6 or not model:
            lifetime, value = chance.choice([SESSION, EPHEMERAL]), chance.randbytes(700)
            model[arena.put(lifetime, value)] = (lifetime, value)
        elif draw < 0.88:
            handle = chance.choice(list(model))
            del model[handle]
            arena.delete(handle)
        elif draw < 0.93:
            arena.collect(3_000)
        else:
            for handle in [h for h, (lifetime, _) in model.items() if lifetime is EPHEMERAL]:
                del model[handle]
            arena.drop(EPHEMERAL)
        if step == 200:
            for handle in list(model)[::2]:
                del model[handle]
                arena.delete(handle)


def test_an_interrupt_anywhere_loses_no_value_and_no_room() -> None:
    number, stride = 1, 7
    while True:
        budget = Budget(12 * (EXTENT + OBJECT_BYTES) + 2 * TABLE_CHARGE_BYTES)
        arena = make(budget)
        model: dict[int, tuple[Lifetime, bytes]] = {}
        interrupter = Interrupter(number)
        before = sys.getprofile()
        sys.setprofile(interrupter)
        try:
            play(arena, model, random.Random(number))
        except (KeyboardInterrupt, BudgetError):
            pass
        finally:
            sys.setprofile(before)
        arena.check()
        assert budget.owners().get(OWNER, 0) == arena.charged_bytes
        play(arena, model, random.Random(1))
        arena.check()
        assert {handle: arena.get(handle) for handle in model} == {
            handle: value for handle, (_, value) in model.items()
        }
        arena.close()
        assert budget.used_bytes == 0
        if interrupter.left > 0:
            return
        number += stride


# -- against a dict -------------------------------------------------------------------------------


class ArenaMachine(RuleBasedStateMachine):
    """Random calls beside a dict, in a budget for six extents."""

    @initialize(extents=st.integers(min_value=3, max_value=8))
    def start(self, extents: int) -> None:
        self.budget = Budget(extents * (EXTENT + OBJECT_BYTES) + 3 * TABLE_CHARGE_BYTES)
        self.arena = make(self.budget)
        self.model: dict[int, tuple[Lifetime, bytes]] = {}
        self.count = 0

    @rule(
        lifetime=st.sampled_from(Lifetime),
        size=st.sampled_from([0, 1, 100, 700, 2_000, EXTENT // 4]),
        times=st.integers(min_value=1, max_value=12),
    )
    def put(self, lifetime: Lifetime, size: int, times: int) -> None:
        for _ in range(times):
            self.count += 1
            value = self.count.to_bytes(4, "big") * (size // 4 + 1)
            value = value[:size]
            try:
                handle = self.arena.put(lifetime, value)
            except BudgetError:
                assert self.arena.usage().dead_bytes < EXTENT
                return
            assert handle not in self.model, "a handle in use was given again"
            self.model[handle] = (lifetime, value)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), times=st.integers(min_value=1, max_value=8))
    def delete(self, data: st.DataObject, times: int) -> None:
        for _ in range(min(times, len(self.model))):
            handle = data.draw(st.sampled_from(sorted(self.model)))
            self.arena.delete(handle)
            del self.model[handle]
            with pytest.raises(NotFoundError):
                self.arena.get(handle)
            with pytest.raises(NotFoundError):
                self.arena.overwrite(handle, b"")

    @precondition(lambda self: self.model)
    @rule(data=st.data(), longer=st.integers(min_value=0, max_value=1))
    def overwrite(self, data: st.DataObject, longer: int) -> None:
        handle = data.draw(st.sampled_from(sorted(self.model)))
        lifetime, value = self.model[handle]
        other = bytes(255 - byte for byte in value)
        assert self.arena.overwrite(handle, other + b"x" * longer) is (not longer)
        if not longer:
            self.model[handle] = (lifetime, other)

    @precondition(lambda self: self.model)
    @rule(start=st.integers(min_value=0, max_value=2), step=st.integers(min_value=2, max_value=9))
    def delete_most(self, start: int, step: int) -> None:
        for index, handle in enumerate(sorted(self.model)):
            if index % step != start:
                self.arena.delete(handle)
                del self.model[handle]

    @rule(work_bytes=st.sampled_from([1, 2_000, 10_000, 1_000_000]))
    def collect(self, work_bytes: int) -> None:
        before = self.arena.resident_bytes
        found = self.arena.collect(work_bytes)
        assert self.arena.resident_bytes <= before + EXTENT
        if work_bytes == 1_000_000 and not found.more:
            usage = self.arena.usage()
            assert usage.dead_bytes <= usage.resident_bytes

    @rule(lifetime=st.sampled_from(Lifetime))
    def drop(self, lifetime: Lifetime) -> None:
        self.arena.drop(lifetime)
        self.model = {h: found for h, found in self.model.items() if found[0] is not lifetime}

    @invariant()
    def it_agrees(self) -> None:
        if hasattr(self, "arena"):
            self.arena.check()
            for handle, (_, value) in self.model.items():
                assert self.arena.get(handle) == value
                assert self.arena.size(handle) == len(value)
            assert len(self.arena) == len(self.model)
            assert self.arena.live_bytes == sum(len(value) for _, value in self.model.values())
            assert self.budget.owners().get(OWNER, 0) == self.arena.charged_bytes
            self.budget.check()

    def teardown(self) -> None:
        if hasattr(self, "arena"):
            self.arena.close()
            assert self.budget.used_bytes == 0


def test_it_agrees_with_a_dict() -> None:
    run_state_machine_as_test(
        ArenaMachine, settings=settings(max_examples=50, stateful_step_count=30, deadline=None)
    )
