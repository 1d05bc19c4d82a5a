"""RSS and the budget, leaks, and a whole store whose probe is made up."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import wiring
from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.errors import DiskFullError
from memopt.base.events import Events, LeakSuspected, OutsideCharged
from memopt.base.readings import Reading
from memopt.base.units import MIB
from memopt.bench.measure import rss_bytes
from memopt.directory import Directory
from memopt.pressure.leaks import OUTSIDE, SAMPLES, LeakWatch
from memopt.pressure.outside import Outside, room_bytes, slack_bytes
from memopt.pressure.probe import RSS_MARGIN_BYTES, SystemProbe
from memopt.stores.sqlite import SqliteHome

BUDGET = 64 * MIB
START = 40 * MIB


def reading(**figures: Any) -> Reading:
    figures = {
        "reserved_bytes": 10 * MIB, "budget_bytes": BUDGET, "evictable_bytes": 0,
        "rss_bytes": START, "rss_start_bytes": START,
        "rss_limit_bytes": START + int(1.05 * BUDGET) + RSS_MARGIN_BYTES,
        "rss_limit_is_hard": False,
    } | figures  # fmt: skip
    return Reading(**figures)


class Log:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def emit(self, event: Any) -> None:
        self.events.append(event)


# -- outside --------------------------------------------------------------------------------------


class Process:
    """A budget with pages that give way, and memory that no account knows."""

    def __init__(self, *, hard: bool = False) -> None:
        self.log = Log()
        self.budget = Budget(BUDGET)
        self.outside_bytes = 0
        self.trims = 0
        self.hard = hard
        self.budget.reserve("fixed", 4 * MIB)
        self.budget.reserve("pages", 60 * MIB)
        self.budget.on_shortage(self.make_free)
        self.outside = Outside(self.budget, self.trim, Events(self.log))

    def make_free(self, size_bytes: int) -> None:
        wanted = size_bytes - self.budget.free_bytes()
        self.budget.release("pages", min(max(0, wanted), self.budget.held_bytes("pages")))

    def trim(self) -> None:
        self.trims += 1

    def read(self) -> Reading:
        held = self.budget.held_bytes("pages") + self.budget.held_bytes("fixed")
        return reading(
            reserved_bytes=self.budget.used_bytes, evictable_bytes=self.budget.held_bytes("pages"),
            rss_bytes=START + held + self.outside_bytes, rss_limit_is_hard=self.hard,
        )  # fmt: skip

    def settle(self, times: int = 1) -> Reading:
        for _ in range(times):
            self.outside.settle(self.read())
            self.budget.check()
        return self.read()


def test_a_full_budget_takes_nothing_from_itself() -> None:
    process = Process()
    process.settle(5)
    assert process.outside.held_bytes == process.trims == 0


def test_pages_go_as_far_as_rss_is_too_near_its_limit() -> None:
    process = Process()
    process.outside_bytes = 30 * MIB
    seen = process.settle(2)
    assert room_bytes(seen) == pytest.approx(slack_bytes(seen), abs=MIB)
    assert process.outside.held_bytes == pytest.approx(20.4 * MIB, abs=MIB)
    assert process.trims == 1
    # Steady from here on.
    events = len(process.log.events)
    process.settle(10)
    assert len(process.log.events) == events


def test_it_is_given_back_as_rss_falls_and_does_not_swing() -> None:
    process = Process()
    process.outside_bytes = 30 * MIB
    process.settle(3)
    process.outside_bytes = 28 * MIB
    held = process.outside.held_bytes
    process.settle(5)
    assert process.outside.held_bytes == held
    process.outside_bytes = 0
    process.settle(5)
    assert process.outside.held_bytes == 0
    changes = [event.size_bytes > 0 for event in process.log.events]
    assert changes == sorted(changes, reverse=True)
    assert process.log.events[-1] == OutsideCharged(process.log.events[-1].size_bytes, 0)


def test_what_it_stands_for_may_be_holes_in_the_heap_which_only_trimming_gives_back() -> None:
    class Holed(Process):
        def trim(self) -> None:
            super().trim()
            if self.trims > 1:
                self.outside_bytes = 0

    process = Holed()
    process.outside_bytes = 30 * MIB
    process.settle(2)
    assert process.outside.held_bytes > 0
    # Within the dead band now; RSS falls by nothing that happens but a trim.
    process.settle(20)
    assert process.trims == 2
    assert process.outside.held_bytes == 0


def test_holes_are_given_back_also_when_nothing_can_be_taken() -> None:
    process = Process()
    process.budget.on_shortage(lambda size_bytes: None)
    process.outside_bytes = 30 * MIB
    process.settle(3)
    assert process.outside.held_bytes == 0
    assert process.trims == 3


def test_for_a_limit_that_nobody_asked_for_half_of_the_budget_stays() -> None:
    process = Process()
    process.outside_bytes = 2000 * MIB
    process.settle(5)
    assert process.outside.held_bytes == BUDGET // 2
    asked = Process(hard=True)
    asked.outside_bytes = 2000 * MIB
    asked.settle(5)
    assert asked.outside.held_bytes == BUDGET * 7 // 8 - 4 * MIB


def test_room_is_that_to_the_first_limit() -> None:
    assert room_bytes(reading()) == int(1.05 * BUDGET) + RSS_MARGIN_BYTES
    assert room_bytes(reading(memory_used_bytes=90, memory_limit_bytes=100)) == 10
    assert room_bytes(reading(data_start_bytes=5, data_limit_bytes=25)) == 20
    assert slack_bytes(reading(data_start_bytes=0, data_limit_bytes=32 * MIB)) == 2 * MIB


# -- leaks ----------------------------------------------------------------------------------------


def watched(
    growth: list[int], owners: dict[str, int], *, sessions: list[int] | None = None,
    evictable: int = 0,
) -> list[LeakSuspected]:  # fmt: skip
    """One sample for each number of `growth`, in MiB; `owners` grow by so much each time."""
    log = Log()
    watch = LeakWatch(120.0, Events(log))
    rss, held, evicted = START, dict.fromkeys(owners, MIB), 0
    for index, grown in enumerate(growth):
        now = 10.0 * index
        assert watch.is_due(now)
        rss += grown * MIB
        evicted += evictable * MIB
        held = {owner: size + owners[owner] * MIB for owner, size in held.items()}
        count = sessions[index] if sessions is not None else 100
        watch.sample(now, reading(rss_bytes=rss, evictable_bytes=evicted), count, held)
        assert not watch.is_due(now + 9.0)
    return log.events


def test_memory_that_only_grows_names_the_owner_that_grew() -> None:
    (event,) = watched([1] * (SAMPLES + 1), {"states": 1, "sqlite": 0})
    assert event == LeakSuspected("states", SAMPLES * MIB, 120.0)


def test_where_no_owner_grows_it_is_outside() -> None:
    (event,) = watched([2] * (SAMPLES + 1), {"states": 0})
    assert event.owner == OUTSIDE


@pytest.mark.parametrize(
    "arguments",
    [
        {"growth": [1] * SAMPLES},
        {"growth": [1, 1, 1, -1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]},
        {"growth": [1] * 20, "sessions": [100 + 10 * n for n in range(20)]},
        {"growth": [1] * 20, "evictable": 1},
    ],
    ids=["too short", "fell once", "more sessions", "a cache that fills"],
)
def test_what_is_no_leak_is_not_reported(arguments: dict[str, Any]) -> None:
    assert watched(owners={"states": 1}, **arguments) == []


# -- a whole store --------------------------------------------------------------------------------


class MadeUp:
    """The real reading of a store, and what a test puts in its place."""

    def __init__(self) -> None:
        self.real: SystemProbe | None = None
        self.figures: dict[str, Any] = {}

    def read(self) -> Reading:
        return reading(**self.figures)


@pytest.fixture
def made_up() -> MadeUp:
    return MadeUp()


@pytest.fixture
def memory(tmp_path: Path, made_up: MadeUp) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="64MiB", durability="os", maintenance_seconds=0,
        clock=ManualClock(), probe=made_up,
    ) as memory:  # fmt: skip
        yield memory


def look(memory: memopt.Memory, times: int) -> None:
    clock = memory._parts.clock
    assert isinstance(clock, ManualClock)
    for _ in range(times):
        clock.advance(0.25)
        memory._parts.pressure.look()


def test_a_store_climbs_the_ladder_and_comes_down_again(
    memory: memopt.Memory, made_up: MadeUp
) -> None:
    session = memory.session("a")
    session.extend([{"role": "user", "content": "x" * 2000}] * 100)
    mapping, sequence = memory.mapping("m"), session.sequence("l")
    mapping.update({number: number for number in range(6)})
    sequence.extend(range(8))
    memory.compact()
    messages = list(session.messages())
    assert memory.stats().tiers["l1"]["objects"] > 0
    made_up.figures = {"reserved_bytes": 63 * MIB}
    look(memory, 2)
    stats = memory.stats()
    assert stats.pressure.level == "critical"
    assert stats.pressure.steps == (
        "stop prefetching", "put off merging", "shrink caches", "empty L1", "put off indexing",
        "collect", "refuse new work",
    )  # fmt: skip
    assert stats.tiers["l1"]["objects"] == 0
    assert stats.tiers["l2"]["objects"] > 0
    refused: list[memopt.BackpressureError] = []
    for new_work in (
        lambda: session.append({"role": "user"}),
        lambda: session.save_state(1),
        lambda: session.turn().__enter__(),
        lambda: mapping.update(more=1),
        lambda: sequence.append(1),
        lambda: sequence.reverse(),
    ):
        with pytest.raises(memopt.BackpressureError) as error:
            new_work()
        refused.append(error.value)
    assert {error.limit for error in refused} == {"pressure"}
    assert all(0 < error.retry_after_seconds <= 60 for error in refused)
    # Reading and taking away go on, and what is read is kept compressed alone.
    assert list(session.messages()) == messages
    assert memory.stats().tiers["l1"]["objects"] == 0
    session.redact(0)
    session.fork("b")
    memory.session("b").delete()
    del mapping[0]
    assert mapping.pop(1) == 1
    assert mapping.popitem() == (5, 5)
    assert dict(mapping) == {2: 2, 3: 3, 4: 4}
    mapping.clear()
    del sequence[0]
    del sequence[::3]
    assert sequence.pop() == 6
    sequence[:1] = []
    sequence.remove(5)
    assert list(sequence) == [3]
    sequence.clear()
    memory.forget(memopt.Selector(scope="default", containing="no such text"))
    memory.compact()
    made_up.figures = {}
    look(memory, 40)
    stats = memory.stats()
    assert stats.pressure.level == "calm"
    assert stats.pressure.steps == ()
    assert stats.counters["pressure_steps"] == stats.counters["pressure_steps_undone"] == 7
    session.append({"role": "user"})
    list(session.messages())
    assert memory.stats().tiers["l1"]["objects"] > 0
    with session.turn():
        pass
    memory._parts.pager.check()
    memory._parts.pressure.admission.check()


def test_coming_back_after_a_refusal_for_pressure_succeeds_once_it_fell(
    memory: memopt.Memory, made_up: MadeUp
) -> None:
    made_up.figures = {"reserved_bytes": 64 * MIB}
    look(memory, 20)
    with pytest.raises(memopt.BackpressureError) as refused:
        memory.session("a").append({"role": "user"})
    made_up.figures = {"reserved_bytes": 30 * MIB}
    look(memory, round(refused.value.retry_after_seconds / 0.25) + 1)
    memory.session("a").append({"role": "user"})


def test_what_may_be_admitted_follows_rss(memory: memopt.Memory, made_up: MadeUp) -> None:
    look(memory, 1)
    calm = memory.stats().pressure.admission_bytes
    assert calm == BUDGET // 2 + slack_bytes(reading())
    made_up.figures = {
        "rss_bytes": START + 60 * MIB, "memory_used_bytes": 100 * MIB,
        "memory_limit_bytes": 110 * MIB, "evictable_bytes": 13 * MIB,
    }  # fmt: skip
    look(memory, 1)
    # The room, and what can be given back but for an eighth of the budget, less a quarter of the
    # slack, a sixteenth of 70 MiB.
    assert memory.stats().pressure.admission_bytes == 15 * MIB - 70 * MIB // 64


def test_a_disk_that_others_have_filled_is_noticed_by_the_next_write(
    memory: memopt.Memory, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = memory.session("a")
    session.append({"role": "user"})
    with monkeypatch.context() as patched:
        patched.setattr(SqliteHome, "disk_free_bytes", lambda home: 0)
        # There was room a few frames ago.
        session.append({"role": "user"})
        made_up.figures = {"disk_free_bytes": 0}
        look(memory, 1)
        with pytest.raises(DiskFullError):
            session.append({"role": "user"})
    made_up.figures = {"disk_free_bytes": 1 << 40}
    look(memory, 1)
    session.append({"role": "user"})
    assert len(session) == 3


def committed(memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commits from here on; the first of them finds the disk full."""
    commits: list[Any] = []
    commit = memory._parts.committer.commit

    def noted(member: Any) -> Any:
        commits.append(member)
        if len(commits) == 1:
            raise DiskFullError("no room", limit="disk")
        return commit(member)

    monkeypatch.setattr(memory._parts.committer, "commit", noted)
    return commits


def test_looking_commits_nothing_and_maintenance_writes_what_was_learnt(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> bytes | None:
        with memory._parts.directory.home.snapshot() as tables:
            return tables.meta.get("turn_peaks")

    with memory.session("a").turn():
        pass
    memory._parts.maintenance.once()
    commits = committed(memory, monkeypatch)
    look(memory, 300)
    assert commits == []
    assert kept() is None
    # A write that fails has saved nothing: the next round tries again.
    with pytest.raises(DiskFullError):
        memory._parts.maintenance.once()
    assert kept() is None
    memory._parts.maintenance.once()
    assert kept() == memory._parts.pressure.admission.peaks.pack()
    look(memory, 300)
    memory._parts.maintenance.once()
    assert len(commits) == 2


def test_a_store_that_is_closed_under_pressure_leaves_a_sound_budget(
    tmp_path: Path, made_up: MadeUp
) -> None:
    memory = memopt.open(
        tmp_path / "store", budget="64MiB", durability="os", maintenance_seconds=0,
        clock=ManualClock(), probe=made_up,
    )  # fmt: skip
    made_up.figures = {"rss_bytes": START + 80 * MIB}
    look(memory, 4)
    assert memory.stats().pressure.outside_bytes > 0
    assert len(memory.stats().pressure.steps) == 3
    budget = memory._parts.budget
    memory.close()
    assert budget.used_bytes == 0, budget.owners()


def test_the_thread_looks_by_itself_and_ends_with_the_store(tmp_path: Path) -> None:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", probe_seconds=0.005
    ) as memory:
        waited = threading.Event()
        for _ in range(2000):
            if memory._parts.pressure._reading is not None:
                break
            waited.wait(0.005)
        assert memory.stats().pressure.level == "calm"
        assert "memopt-pressure" in {thread.name for thread in threading.enumerate()}
        thread = memory._parts.pressure._thread
    assert thread is not None
    assert not thread.is_alive()


def test_a_probe_that_fails_is_said_once_and_does_not_end_the_looking(
    tmp_path: Path, made_up: MadeUp, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(MadeUp):
        reads = 0

        def read(self) -> Reading:
            self.reads += 1
            if self.reads <= 20:
                raise ZeroDivisionError("a defect")
            return super().read()

    probe = Failing()
    with memopt.open(
        tmp_path / "store", budget="64MiB", durability="os", probe_seconds=0.002, probe=probe
    ) as memory:
        waited = threading.Event()
        for _ in range(2000):
            if memory._parts.pressure._reading is not None:
                break
            waited.wait(0.005)
        assert probe.reads > 20
    said = [record for record in caplog.records if "looking at memory failed" in record.message]
    assert len(said) == 1
    assert said[0].exc_info is not None


def test_what_opening_takes_is_the_stores_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening: list[bytearray] = []

    def slow(*arguments: Any, **named: Any) -> Directory:
        opening.append(bytearray(b"x" * (32 * MIB)))
        return Directory(*arguments, **named)

    monkeypatch.setattr(wiring, "Directory", slow)
    before = rss_bytes()
    with memopt.open(tmp_path / "store", budget="16MiB", maintenance_seconds=0) as memory:
        reading = memory._parts.pressure.look()
    assert opening
    assert reading.rss_bytes > before + 16 * MIB
    assert reading.rss_start_bytes < before + 8 * MIB
    assert reading.rss_limit_bytes < before + 8 * MIB + int(1.05 * 16 * MIB) + RSS_MARGIN_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc lists")
def test_a_closed_store_holds_no_file_open(tmp_path: Path) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    kept = []
    for _ in range(3):
        memory = memopt.open(tmp_path / "store", budget="16MiB", durability="os")
        memory.close()
        kept.append((memory, opened()))
    assert len({count for _, count in kept}) == 1
