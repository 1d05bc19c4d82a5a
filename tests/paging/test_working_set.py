"""Working sets by agent type, refaults by worked examples, thrashing with hysteresis."""

import gc
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.base.events import Event, Thrashing
from memopt.base.heap import heap_bytes
from memopt.paging.page_table import row_bytes
from memopt.paging.refaults import Refaults, Shadows
from memopt.paging.working_set import OTHERS, TYPES_MAX, WorkingSets

# -- shadows --------------------------------------------------------------------------------------


def test_a_refault_has_the_distance_of_the_evictions_since_its_own() -> None:
    shadows = Shadows(16)
    for page in (1, 2, 3, 4):
        shadows.left(page, window=page + 10)
    assert shadows.taken(4) == (0, 14)
    assert shadows.taken(1) == (3, 11)
    shadows.left(5, 20)
    assert shadows.taken(2) == (3, 12)


def test_a_shadow_is_taken_once() -> None:
    shadows = Shadows(16)
    assert shadows.taken(1) is None
    shadows.left(1, 1)
    assert shadows.taken(1) is not None
    assert shadows.taken(1) is None


def test_the_latest_eviction_of_a_page_is_the_one_that_counts() -> None:
    shadows = Shadows(16)
    for page in (7, 8, 9, 7):
        shadows.left(page, page)
    assert shadows.taken(7) == (0, 7)
    assert shadows.taken(7) is None


def test_a_shadow_beyond_the_limit_does_not_count() -> None:
    shadows = Shadows(4)
    for page in range(1, 6):
        shadows.left(page, 1)
    assert shadows.taken(1) is None
    assert shadows.taken(2) is not None


@pytest.mark.parametrize("stride", [1, 4, 64, 1024])
def test_few_shadows_are_lost_before_their_time(stride: int) -> None:
    shadows = Shadows(1024)
    pages = [stride * number for number in range(1, 5001)]
    for page in pages:
        shadows.left(page, 1)
    kept = [shadow for page in pages[-1024:] if (shadow := shadows.taken(page)) is not None]
    assert len(kept) > 0.9 * 1024
    assert all(0 <= shadow.distance < 1024 for shadow in kept)


def test_shadows_take_no_more_than_they_are_charged_and_nothing_before_the_first() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        shadows = Shadows(32768)
        assert tracemalloc.get_traced_memory()[0] - before < 2000
        for page in range(1, 100_000):
            shadows.left(page, page)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= shadows.charged_bytes() + 2000
    assert shadows.charged_bytes() <= 1.3 * grown


# -- thrashing ------------------------------------------------------------------------------------


def judged() -> Refaults:
    return Refaults(shadows_max=4096, share=0.5, half_seconds=5.0, now=0.0)


def faults(refaults: Refaults, *, back: int, new: int, start: int) -> None:
    """`back` pages that left a moment ago come back, and `new` ones come for the first time."""
    for page in range(start, start + back):
        refaults.left(page, 1)
        assert refaults.faulted(page, resident_pages=10) == (1, True)
    for page in range(start + back, start + back + new):
        assert refaults.faulted(page, resident_pages=10) == (0, False)


def test_a_fault_from_further_away_than_there_are_pages_in_ram_is_no_refault() -> None:
    refaults = judged()
    for page in range(1, 12):
        refaults.left(page, 3)
    assert refaults.faulted(1, resident_pages=9) == (3, False)
    assert refaults.faulted(2, resident_pages=9) == (3, True)
    assert refaults.distance_p50() == 16


def test_thrashing_begins_above_the_share_and_ends_at_half_of_it() -> None:
    refaults = judged()
    faults(refaults, back=51, new=49, start=1)
    assert refaults.judged(4.9, touches=100) is None
    assert refaults.judged(5.0, touches=100) == Thrashing(True, 51, 100)
    # 51 + 30 of 200 are above a quarter: it goes on, though it would not begin now.
    faults(refaults, back=30, new=70, start=1000)
    assert refaults.judged(10.0, touches=200) is None
    assert refaults.is_thrashing
    faults(refaults, back=10, new=90, start=2000)
    assert refaults.judged(15.0, touches=300) == Thrashing(False, 40, 200)
    assert refaults.judged(20.0, touches=300) is None


def test_it_ends_when_faults_cease() -> None:
    refaults = judged()
    faults(refaults, back=100, new=0, start=1)
    assert refaults.judged(5.0, touches=100) == Thrashing(True, 100, 100)
    assert refaults.judged(10.0, touches=100) is None
    assert refaults.judged(15.0, touches=100) == Thrashing(False, 0, 0)


def test_a_long_pause_between_two_looks_leaves_nothing_of_the_window_before() -> None:
    refaults = judged()
    faults(refaults, back=40, new=0, start=1)
    assert refaults.judged(5.0, touches=40) is None
    faults(refaults, back=40, new=0, start=1000)
    assert refaults.judged(100.0, touches=80) is None


def test_few_faults_are_not_thrashing() -> None:
    refaults = judged()
    faults(refaults, back=Refaults.FAULTS_MIN - 1, new=0, start=1)
    assert refaults.judged(5.0, touches=63) is None


def test_many_refaults_among_far_more_hits_are_not_thrashing() -> None:
    refaults = judged()
    faults(refaults, back=100, new=0, start=1)
    assert refaults.judged(5.0, touches=1001) is None
    refaults = judged()
    faults(refaults, back=100, new=0, start=1)
    assert refaults.judged(5.0, touches=1000) is not None


# -- working sets ---------------------------------------------------------------------------------


def test_what_is_touched_is_counted_by_type_and_window() -> None:
    sets = WorkingSets(0.0, window_seconds=10.0)
    desk, none = sets.type_of("desk"), sets.type_of(None)
    sets.touched(desk, 100)
    sets.touched(none, 7)
    sets.touched(desk, 20)
    sets.ended(9.9)
    assert sets.window == 1
    assert sets.sets()[0].predicted_bytes == 0
    sets.ended(10.0)
    assert sets.window == 2
    assert [tuple(one) for one in sets.sets()] == [("desk", 0, 120, 120), (None, 0, 7, 7)]
    sets.ended(20.0)
    assert [tuple(one) for one in sets.sets()] == [("desk", 0, 0, 120), (None, 0, 0, 7)]


def test_shares_are_those_of_the_predictions() -> None:
    sets = WorkingSets(0.0, window_seconds=10.0)
    desk, code = sets.type_of("desk"), sets.type_of("code")
    assert sum(sets.shares()) == 0
    sets.touched(desk, 300)
    sets.touched(code, 100)
    sets.ended(10.0)
    assert (sets.shares()[desk], sets.shares()[code]) == (0.75, 0.25)
    # A type that is new moves with what it demands now.
    sets.touched(sets.type_of("new"), 400)
    assert sets.shares()[desk] == 300 / 800


def test_types_beyond_the_limit_share_an_entry_and_idle_ones_make_room() -> None:
    sets = WorkingSets(0.0, window_seconds=1.0)
    numbers = {sets.type_of(str(agent)) for agent in range(TYPES_MAX - 1)}
    assert len(numbers) == TYPES_MAX - 1
    assert OTHERS not in numbers
    assert sets.type_of("one too many") == OTHERS
    sets.touched(sets.type_of("0"), 5)
    sets.resident_bytes[sets.type_of("1")] = 9
    sets.ended(1.0)
    assert sorted(one.agent or "" for one in sets.sets()) == ["0", "1"]
    assert sets.type_of("one too many") != OTHERS


def test_a_history_is_given_out_once_a_minute_and_only_when_it_is_new() -> None:
    sets = WorkingSets(0.0, window_seconds=10.0)
    sets.ended(60.0)
    assert sets.unsaved(60.0) is None
    sets.touched(sets.type_of("desk"), 50)
    sets.ended(70.0)
    packed = sets.unsaved(70.0)
    assert packed is not None
    sets.touched(sets.type_of("desk"), 60)
    sets.ended(80.0)
    assert sets.unsaved(129.0) is None
    assert sets.unsaved(130.0) is not None
    assert sets.unsaved(1000.0) is None
    again = WorkingSets(0.0)
    again.restore(packed)
    desk = again.type_of("desk")
    assert again.shares()[desk] == 1.0


def test_working_sets_take_no_more_than_they_are_charged() -> None:
    names = ["é" * 508 + f"{agent:04}" for agent in range(1000)]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        sets = WorkingSets(0.0, window_seconds=1.0, shadows_max=8192)
        for moment, name in enumerate(names):
            sets.touched(sets.type_of(name[:508] + name[508:]), 10**15)
            sets.refaults.left(moment + 1, sets.window)
            sets.ended(float(moment))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= sets.charged_bytes()


# -- in a store -----------------------------------------------------------------------------------


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Any) -> None:
        self.events.append(event)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[memopt.Memory]:
    with opened(tmp_path, clock) as memory:
        yield memory


def opened(path: Path, clock: ManualClock, **settings: Any) -> memopt.Memory:
    settings = {"budget": "8MiB", "maintenance_seconds": 0, "seal": "always"} | settings
    return memopt.open(path / "store", clock=clock, durability="os", **settings)


def filled(memory: memopt.Memory, agents: dict[str | None, int], *, size: int = 3000) -> None:
    """A session for each agent, named after it, with so many pages that do not compress."""
    chance = random.Random(0)
    for agent, pages in agents.items():
        session = memory.session(agent or "none", agent=agent)
        for _ in range(pages):
            session.append({"role": "user", "content": chance.randbytes(size).hex()})


def l1_bytes(memory: memopt.Memory, session: str) -> int:
    return sum(
        row_bytes(b"x" * page.stored_bytes, ()) + heap_bytes(page.raw_bytes)
        for page in memory.pages(session)
    )


def test_a_working_set_is_the_distinct_bytes_of_a_window(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    filled(memory, {"desk": 4, None: 2})
    for _ in range(3):
        # Whose a session is says its row, not the handle.
        list(memory.session("desk").messages())
        list(memory.session("none", agent="somebody else").messages())
    clock.advance(61)
    memory._parts.maintenance.once()
    desk, none = l1_bytes(memory, "desk"), l1_bytes(memory, "none")
    assert memory.stats().working_sets == {
        "desk": {"resident": desk, "touched": desk, "predicted": desk},
        "": {"resident": none, "touched": none, "predicted": none},
    }
    list(memory.session("desk").messages(0, 1))
    clock.advance(61)
    memory._parts.maintenance.once()
    sets = memory.stats().working_sets
    assert 0 < sets["desk"]["touched"] < desk / 2
    assert sets["desk"]["predicted"] == desk
    assert sets[""]["touched"] == 0


def test_a_page_that_is_evicted_and_comes_back_counts_once_a_window(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    filled(memory, {"desk": 3})
    for _ in range(3):
        list(memory.session("desk").messages())
        while memory._parts.pager.l1_bytes + memory._parts.pager.l2_bytes:
            memory._parts.pager.make_free(memory._parts.budget.free_bytes() + 1)
    counters = memory.stats().counters
    # At a distance of two evictions, when the other two pages were not there: too far away.
    assert counters["faults_major"] == 9
    assert 0 < counters["refaults"] < 6
    clock.advance(61)
    memory._parts.pager.observe()
    assert memory.stats().working_sets["desk"]["touched"] == l1_bytes(memory, "desk")


def test_predictions_survive_a_restart_and_an_idle_store_writes_nothing(
    tmp_path: Path, clock: ManualClock
) -> None:
    with opened(tmp_path, clock) as memory:
        filled(memory, {"desk": 3})
        list(memory.session("desk").messages())
        for _ in range(2):
            clock.advance(61)
            memory._parts.maintenance.once()
        predicted = memory.stats().working_sets["desk"]["predicted"]
        assert predicted == l1_bytes(memory, "desk")
        commits = memory.stats().counters["commits"]
        for _ in range(3):
            clock.advance(61)
            memory._parts.maintenance.once()
        assert memory.stats().counters["commits"] == commits
    with opened(tmp_path, clock) as memory:
        list(memory.session("desk").messages(0, 1))
        assert memory.stats().working_sets["desk"]["predicted"] == predicted


def test_a_damaged_history_is_begun_anew(tmp_path: Path, clock: ManualClock) -> None:
    with opened(tmp_path, clock) as memory:
        memory._parts.committer.commit(lambda t: t.tables.meta.put("working_sets", b"\xc1"))
    with opened(tmp_path, clock) as memory:
        filled(memory, {"desk": 1})
        list(memory.session("desk").messages())
        assert memory.stats().working_sets["desk"]["predicted"] == 0


def test_a_cycle_larger_than_the_budget_thrashes_and_ends_with_it(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    recorder = Recorder()
    memory._parts.events.add(recorder)
    filled(memory, {"desk": 400}, size=7000)
    for _ in range(4):
        list(memory.session("desk").messages())
        clock.advance(5.1)
        memory._parts.maintenance.once()
    stats = memory.stats()
    assert stats.thrashing
    assert stats.counters["thrashing"] == 1
    assert stats.counters["refaults"] > 400
    assert stats.refault_distance_p50 > 64
    for _ in range(3):
        clock.advance(5.1)
        memory._parts.maintenance.once()
    assert not memory.stats().thrashing
    found = [event for event in recorder.events if isinstance(event, Thrashing)]
    assert [event.is_on for event in found] == [True, False]


def test_what_was_deleted_or_idle_leaves_no_shadow(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    filled(memory, {"desk": 3})
    list(memory.session("desk").messages())
    clock.advance(10_000)
    memory._parts.maintenance.once()
    list(memory.session("desk").messages())
    assert memory.stats().counters["refaults"] == 0


def test_everything_is_given_back_on_closing(tmp_path: Path, clock: ManualClock) -> None:
    memory = opened(tmp_path, clock)
    budget = memory._parts.budget
    assert budget.owners()["working sets"] > 0
    memory.close()
    assert budget.owners()["working sets"] == 0
