"""Prefetching: which pages come in early, at whose cost, and that nothing wrong is ever served."""

import gc
import random
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.base.records import Prefetch
from memopt.paging.prefetch import QUEUE_MAX, Prefetcher, Successors


def opened(path: Path, kind: str, **settings: Any) -> memopt.Memory:
    # LRU, whose rows and victims are easily foreseen.
    settings = {
        "budget": "8MiB", "clock": ManualClock(), "maintenance_seconds": 0, "policy": "lru",
    } | settings  # fmt: skip
    return memopt.open(path / "store", durability="os", seal="always", prefetch=kind, **settings)


def quiet(memory: memopt.Memory) -> Prefetcher:
    """Its prefetcher, which then works when it is told to, on this thread."""
    prefetcher = memory._parts.prefetcher
    prefetcher._begin = lambda: None  # type: ignore[method-assign]
    return prefetcher


def fill(memory: memopt.Memory, session: str, pages: int, *, scope: str = "default") -> None:
    chance = random.Random(session)
    for _ in range(pages):
        message = {"role": "user", "content": chance.randbytes(1500).hex()}
        memory.session(session, scope=scope).append(message)


def read(memory: memopt.Memory, session: str, *, scope: str = "default") -> None:
    list(memory.session(session, scope=scope).messages())


def tiers(memory: memopt.Memory, session: str, *, scope: str = "default") -> list[str]:
    return [page.tier for page in memory.pages(session, scope=scope)]


def let_all_go(memory: memopt.Memory) -> None:
    pager = memory._parts.pager
    while pager.l1_bytes + pager.l2_bytes:
        pager.make_free(memory._parts.budget.free_bytes() + 1)


def figures(memory: memopt.Memory) -> tuple[int, int, int]:
    counters = memory.stats().counters
    return (
        counters["pages_prefetched"],
        counters["prefetch_hits"],
        counters["prefetch_wasted"],
    )


# -- predictors -----------------------------------------------------------------------------------


def test_nothing_is_prefetched_unless_it_is_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path, "off") as memory:
        fill(memory, "a", 5)
        next(memory.session("a").messages())
        assert memory._parts.prefetcher.drain() == 0
        assert memory._parts.pager.on_open is None
        assert "prefetch" not in memory.stats().owners


def test_the_next_pages_of_a_session_come_in_while_it_is_read(tmp_path: Path) -> None:
    with opened(tmp_path, "next") as memory:
        prefetcher = quiet(memory)
        fill(memory, "a", 7)
        messages = memory.session("a").messages()
        next(messages)
        assert prefetcher.drain() == 4
        assert tiers(memory, "a") == ["l1"] * 5 + ["l3"] * 2
        for _ in range(2):
            next(messages)
        assert figures(memory) == (4, 2, 0)
        assert memory.stats().counters["faults_major"] == 1


def test_a_session_that_came_next_twice_is_expected_the_third_time(tmp_path: Path) -> None:
    with opened(tmp_path, "order") as memory:
        prefetcher = quiet(memory)
        for session in "abc":
            fill(memory, session, 2)
        for _ in range(2):
            for session in "abc":
                read(memory, session)
        assert prefetcher.drain() == 0
        let_all_go(memory)
        read(memory, "c")
        read(memory, "a")
        assert prefetcher.drain() == 2
        assert (tiers(memory, "b"), tiers(memory, "c")) == (["l1"] * 2, ["l1"] * 2)
        faults = memory.stats().counters["faults_major"]
        read(memory, "b")
        assert memory.stats().counters["faults_major"] == faults
        assert figures(memory) == (2, 2, 0)


def test_no_order_is_learnt_across_scopes(tmp_path: Path) -> None:
    with opened(tmp_path, "order") as memory:
        prefetcher = quiet(memory)
        for scope in ("acme/ann", "acme/bob"):
            fill(memory, "a", 1, scope=scope)
        for _ in range(5):
            for scope in ("acme/ann", "acme/bob"):
                read(memory, "a", scope=scope)
            let_all_go(memory)
        assert prefetcher.drain() == 0


def test_what_fell_out_comes_back_once_there_is_room_latest_first(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path, "recency", clock=clock) as memory:
        prefetcher, budget = quiet(memory), memory._parts.budget
        for session in "abc":
            fill(memory, session, 2)
            read(memory, session)
        clock.advance(200)
        read(memory, "b")
        let_all_go(memory)
        free = budget.free_bytes()
        budget.reserve("outside", free - 100_000)
        memory._parts.maintenance.once()
        assert prefetcher.drain() == 0
        budget.release("outside", free - 100_000)
        clock.advance(200)
        memory._parts.maintenance.once()
        # Only b was used within the last five minutes.
        assert prefetcher.drain() == 2
        assert tiers(memory, "b") == ["l1"] * 2
        assert tiers(memory, "a") == ["l3"] * 2


def test_all_is_all_of_them(tmp_path: Path) -> None:
    with opened(tmp_path, "all") as memory:
        prefetcher = quiet(memory)
        assert all(prefetcher._does(kind) for kind in Prefetch if kind is not Prefetch.OFF)


def test_a_successor_gives_way_to_one_that_is_seen_more_often() -> None:
    successors = Successors()
    successors.note(1, 2)
    assert successors.after(1) is None
    successors.note(1, 2)
    assert successors.after(1) == 2
    successors.note(1, 3)
    assert successors.after(1) is None
    for _ in range(3):
        successors.note(1, 3)
    assert successors.after(1) == 3
    assert successors.after(2) is None


# -- at whose cost --------------------------------------------------------------------------------


def test_few_pages_come_in_at_the_cost_of_others(tmp_path: Path) -> None:
    with opened(tmp_path, "order") as memory:
        pager = memory._parts.pager
        quiet(memory)
        fill(memory, "busy", 80)
        fill(memory, "idle", 60)
        budget = memory._parts.budget
        read(memory, "busy")
        budget.reserve("outside", budget.free_bytes())
        rows = list(memory.pages("idle"))
        with memory._parts.directory.home.snapshot() as home:
            rows = home.pages.map(rows[0].line, 0, 60)
        came = [pager.prefetch(row, 1, None, Prefetch.ORDER) for row in rows]
        assert 3 <= sum(came) <= 7
        assert pager.prefetched_pages == sum(came)
        assert not pager.prefetch(rows[-1], 1, None, Prefetch.RECENCY)
        let_all_go(memory)
        assert memory.stats().counters["prefetch_wasted"] == sum(came)
        assert pager.prefetched_pages == 0


def test_it_holds_no_more_than_it_is_charged_and_a_bounded_queue(tmp_path: Path) -> None:
    with opened(tmp_path, "all", budget="64MiB") as memory:
        prefetcher = quiet(memory)
        charged = memory.stats().owners["prefetch"]
        fill(memory, "a", 6)
        with memory._parts.directory.home.snapshot() as home:
            rows = home.pages.map(memory.pages("a")[0].line, 0, 6)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for line in range(10**9, 10**9 + 20_000):
                own = [row._replace(line=line + 0) for row in rows]
                prefetcher.opened(own, 0, line + 5, "agent" * 2)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert len(prefetcher._queue) == QUEUE_MAX
        assert grown <= charged


# -- correctness ----------------------------------------------------------------------------------


def test_a_page_that_was_redacted_meanwhile_is_not_kept(tmp_path: Path) -> None:
    with opened(tmp_path, "next") as memory:
        prefetcher = quiet(memory)
        fill(memory, "a", 3)
        next(memory.session("a").messages())
        memory.session("a").redact(1)
        # The prediction names a page that is no longer there.
        assert prefetcher.drain() == 1
        messages = list(memory.session("a").messages())
        assert messages[1]["content"] == "[redacted]"


def test_a_session_that_was_deleted_is_not_brought_in(tmp_path: Path) -> None:
    with opened(tmp_path, "order") as memory:
        prefetcher = quiet(memory)
        for session in "ab":
            fill(memory, session, 2)
        for session in "abababa":
            read(memory, session)
        assert prefetcher._queue
        memory.session("b").delete()
        memory.session("a").delete()
        assert prefetcher.drain() == 0
        assert memory._parts.pager.l1_bytes == 0


def test_stop_forgets_what_waits_and_start_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path, "next") as memory:
        prefetcher = quiet(memory)
        fill(memory, "a", 3)
        next(memory.session("a").messages())
        prefetcher.stop()
        assert not prefetcher._queue
        let_all_go(memory)
        next(memory.session("a").messages())
        assert prefetcher.drain() == 0
        prefetcher.start()
        let_all_go(memory)
        next(memory.session("a").messages())
        assert prefetcher.drain() == 2


@pytest.fixture
def threaded(tmp_path: Path) -> Iterator[memopt.Memory]:
    with opened(tmp_path, "all") as memory:
        yield memory


def test_reads_are_right_while_a_thread_prefetches_and_pages_are_rewritten(
    threaded: memopt.Memory,
) -> None:
    memory = threaded
    count = 6
    for session in "abcd":
        for at in range(count):
            memory.session(session).append({"role": "user", "content": f"{session}{at}" * 400})
    wrong: list[Any] = []

    def reader(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            session = chance.choice("abcd")
            for at, message in enumerate(memory.session(session).messages()):
                if message.get("content") not in (f"{session}{at}" * 400, "[redacted]"):
                    wrong.append((session, at))

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for at in range(count):
        for session in "abcd":
            memory.session(session).redact(at)
            for found in list(memory.session(session).messages())[: at + 1]:
                assert found["content"] == "[redacted]"
            let_all_go(memory)
    for thread in threads:
        thread.join()
    assert wrong == []
    assert memory.stats().counters["pages_prefetched"] > 0


def test_closing_waits_for_the_thread(tmp_path: Path) -> None:
    memory = opened(tmp_path, "next")
    fill(memory, "a", 5)
    read(memory, "a")
    thread = memory._parts.prefetcher._thread
    assert thread is not None
    budget = memory._parts.budget
    memory.close()
    assert not thread.is_alive()
    assert budget.owners()["prefetch"] == 0
    memory._parts.prefetcher.start()
    assert memory._parts.prefetcher._is_stopped
