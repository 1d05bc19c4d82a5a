"""The pager against a home that knows everything, under every policy and far too small a budget."""

import contextlib
import gc
import random
import shutil
import tempfile
import tracemalloc
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
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
from memopt.base.errors import BudgetError, CorruptionError
from memopt.base.events import Events
from memopt.base.metrics import Metrics
from memopt.base.protocols import Policy
from memopt.base.records import Durability, LineRow, PageRow, Prefetch, SessionRow
from memopt.base.units import KIB, MIB
from memopt.codecs.record import TailRecord
from memopt.codecs.zstd import Zstd
from memopt.paging.fetching import PageGoneError
from memopt.paging.page_table import PageTable
from memopt.paging.page_writer import Owner, PageWriter
from memopt.paging.pager import Pager
from memopt.paging.pools import Pools
from memopt.paging.text_cache import TextCache
from memopt.paging.working_set import WorkingSets
from memopt.policies.catalog import POLICIES, make_policy
from memopt.sessions.names import SessionKey
from memopt.sessions.residents import Resident, Residents
from memopt.stores.sqlite import SqliteHome

SCOPE = 7
LINES, PAGES = 3, 12
OWNER = Owner(1, SCOPE)


class Store:
    """A home full of pages, and what is in them."""

    def __init__(self, path: Path) -> None:
        self.budget = Budget(256 * MIB)
        self.home = SqliteHome(path / "memopt.db", self.budget, durability=Durability.OS)
        self.compressor = Zstd(self.budget, dictionary=lambda number: None, raw_bytes_max=MIB)
        self.writer = PageWriter(
            self.compressor, lambda owner: 0, next_page=1, text_bytes_min=1500
        )  # fmt: skip
        self.pages: dict[tuple[int, int], PageRow] = {}
        self.messages: dict[int, list[Any]] = {}
        chance = random.Random(0)
        self.shared = [f"{letter}" * 2000 for letter in "abc"]
        self.home.writer.begin()
        for line in range(1, LINES + 1):
            for index in range(PAGES):
                self._put(line, index, chance)
        self.home.writer.commit()

    def put(self, line: int, index: int, chance: random.Random) -> None:
        self.home.writer.begin()
        self._put(line, index, chance)
        self.home.writer.commit()

    def _put(self, line: int, index: int, chance: random.Random) -> None:
        """A page of four messages, in the place of the one that was there."""
        bodies = [
            {"role": "system", "n": n, "pad": chance.randbytes(chance.choice([5, 90, 600])).hex(),
             "text": chance.choice(["", "", *self.shared]), "place": [line, index]}
            for n in range(4)
        ]  # fmt: skip
        records = [
            TailRecord(index * 4 + n + 1, n, None, None, msgspec.msgpack.encode(body))
            for n, body in enumerate(bodies)
        ]
        old = self.pages.get((line, index))
        new = self.writer.make(OWNER, line, index * 4, records, sealed=False)
        self.writer.write(self.home.writer.tables, OWNER, new, [old] if old else [])
        self.pages[line, index] = new.row
        self.messages[new.row.page] = bodies

    def delete(self, line: int, index: int) -> PageRow:
        row = self.pages.pop((line, index))
        self.home.writer.begin()
        self.writer.delete(self.home.writer.tables, row)
        self.home.writer.commit()
        return row

    def close(self) -> None:
        self.compressor.close()
        self.home.close(checkpoint=False)


@contextlib.contextmanager
def stored() -> Iterator[Store]:
    path = Path(tempfile.mkdtemp(prefix="memopt-pager-"))
    store = Store(path)
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(path)


def paged(
    store: Store, budget: Budget, clock: ManualClock, *, policy: str = "lru", batch: int = 1,
    l1_share: float = 0.5, metrics: Metrics | None = None,
) -> Pager:  # fmt: skip
    sets = WorkingSets(clock.monotonic())

    def make() -> Policy:
        if policy == "pools":
            return Pools(lambda: make_policy("lru"), lambda page: pager.type_of(page), sets)
        return make_policy(policy)

    pager = Pager(
        store.home, store.compressor, budget, make_policy=make, clock=clock,
        events=Events(metrics or Metrics()), promotion_batch_pages=batch, l1_share=l1_share,
        sets=sets,
    )  # fmt: skip
    return pager


class PagerMachine(RuleBasedStateMachine):
    policy = "lru"

    @initialize(
        limit=st.sampled_from([6, 12, 30, 60]), batch=st.integers(1, 4),
        l1_share=st.sampled_from([0.01, 0.5, 1.0]),
    )  # fmt: skip
    def start(self, limit: int, batch: int, l1_share: float) -> None:
        self.context = stored()
        self.store = self.context.__enter__()
        self.clock = ManualClock()
        self.budget = Budget(limit * KIB)
        self.metrics = Metrics()
        self.pager = paged(
            self.store, self.budget, self.clock, policy=self.policy, batch=batch,
            l1_share=l1_share, metrics=self.metrics,
        )  # fmt: skip
        self.chance = random.Random(1)
        self.touches = self.gone = 0

    def teardown(self) -> None:
        if hasattr(self, "pager"):
            self.pager.clear()
            assert self.budget.owners().get("pages", 0) == 0
            assert self.budget.owners().get("texts", 0) == 0
            assert (
                self.pager.tiers()["l1"] == self.pager.tiers()["l2"] == {"bytes": 0, "objects": 0}
            )
            self.context.__exit__(None, None, None)

    def rows(self, line: int, start: int, count: int) -> list[PageRow]:
        return [row for (on, _), row in sorted(self.store.pages.items()) if on == line][
            start : start + count
        ]

    @rule(line=st.integers(1, LINES), start=st.integers(0, PAGES - 1), count=st.integers(1, 5))
    def pages_are_opened(self, line: int, start: int, count: int) -> None:
        rows = self.rows(line, start, count)
        try:
            pages = self.pager.open(rows, SCOPE, f"agent of line {line}")
            for row, opened in zip(rows, pages, strict=True):
                assert opened.row == row
                found = opened.page.messages(0, 4, opened.decode)
                assert found == self.store.messages[row.page]
                self.touches += 1
        except BudgetError:
            # Nothing else was left to let go.
            assert self.pager.l1_bytes + self.pager.l2_bytes == 0

    @rule(
        line=st.integers(1, LINES), index=st.integers(0, PAGES - 1),
        by=st.sampled_from([Prefetch.NEXT, Prefetch.ORDER, Prefetch.RECENCY]),
    )  # fmt: skip
    def a_page_is_prefetched(self, line: int, index: int, by: Prefetch) -> None:
        row = self.store.pages.get((line, index))
        if row is None:
            return
        tiers = {row.page: self.pager.tier_of(row.page) for row in self.store.pages.values()}
        came = self.pager.prefetch(row, SCOPE, None, by)
        assert not (came and tiers.pop(row.page) == "l1")
        left = [page for page, tier in tiers.items() if self.pager.tier_of(page) > tier]
        assert len(left) <= (0 if by is Prefetch.RECENCY else 4)
        assert not came or self.pager.tier_of(row.page) != "l3"

    @rule(line=st.integers(1, LINES), index=st.integers(0, PAGES - 1), early=st.booleans())
    def a_page_is_rewritten_while_it_is_brought_in(
        self, line: int, index: int, early: bool
    ) -> None:
        old = self.store.pages.get((line, index))
        if old is None or self.pager.tier_of(old.page) == "l1":
            return
        fetch = self.pager._fetcher.fetch

        def fetch_and_rewrite(*arguments: Any) -> Any:
            fetched = fetch(*arguments)
            self.store.put(line, index, self.chance)
            self.pager.drop([old.page])
            return fetched

        messages = self.store.messages[old.page]
        with unittest.mock.patch.object(self.pager._fetcher, "fetch", fetch_and_rewrite):
            if early:
                assert not self.pager.prefetch(old, SCOPE, None, Prefetch.NEXT)
            else:
                with contextlib.suppress(BudgetError):
                    # It was there when the read began, so it may be read; it is not kept.
                    [opened] = self.pager.open([old], SCOPE)
                    assert opened.page.messages(0, 4, opened.decode) == messages
                    self.touches += 1
        if self.store.pages[line, index] != old:
            self.is_gone(old)

    @rule(size=st.integers(0, 70 * KIB))
    def an_outsider_makes_room(self, size: int) -> None:
        try:
            self.pager.make_room(size)
        except BudgetError:
            assert size > self.budget.limit_bytes - self.budget.owners().get("policies", 0)
        else:
            self.budget.release("reading", size)

    @rule(size=st.integers(0, 70 * KIB))
    def room_is_made_for_somebody_else(self, size: int) -> None:
        self.pager.make_free(size)
        resident = self.pager.l1_bytes + self.pager.l2_bytes
        assert self.pager.has_room(size) or not resident

    @rule(seconds=st.sampled_from([10, 100, 400]), idle=st.sampled_from([(60, 300), (300, 60)]))
    def what_is_idle_cools_down(self, seconds: float, idle: tuple[int, int]) -> None:
        self.clock.advance(seconds)
        self.pager.demote_idle(*idle)
        if seconds > max(idle):
            assert self.pager.l1_bytes == self.pager.l2_bytes == 0

    @rule(line=st.integers(1, LINES), index=st.integers(0, PAGES - 1), told=st.booleans())
    def a_page_is_rewritten(self, line: int, index: int, told: bool) -> None:
        if (line, index) in self.store.pages:
            old = self.store.pages[line, index]
            self.store.put(line, index, self.chance)
            if told:
                self.pager.drop([old.page])
                self.is_gone(old)

    @precondition(lambda self: len(self.store.pages) > 10)
    @rule(data=st.data())
    def a_page_is_deleted(self, data: st.DataObject) -> None:
        row = self.store.delete(*data.draw(st.sampled_from(sorted(self.store.pages))))
        self.pager.drop([row.page])
        self.is_gone(row)

    def is_gone(self, row: PageRow) -> None:
        assert self.pager.tier_of(row.page) == "l3"
        with contextlib.suppress(BudgetError):
            with pytest.raises(PageGoneError):
                list(self.pager.open([row], SCOPE))
            self.gone += 1

    @rule(share=st.sampled_from([0.2, 0.9]))
    def somebody_takes_the_budget_and_gives_it_back(self, share: float) -> None:
        size = int(self.budget.free_bytes() * share)
        self.budget.reserve("outside", size)
        with contextlib.suppress(BudgetError):
            rows = self.rows(1, 0, 2)
            for row, opened in zip(rows, self.pager.open(rows, SCOPE), strict=True):
                found = opened.page.messages(1, 3, opened.decode)
                assert found == self.store.messages[row.page][1:3]
                self.touches += 1
        self.budget.release("outside", size)

    @invariant()
    def the_books_are_right(self) -> None:
        if hasattr(self, "pager"):
            self.pager.check()
            self.budget.check()
            tiers = self.pager.tiers()
            objects = tiers["l1"]["objects"] + tiers["l2"]["objects"]
            resident = self.pager.l1_bytes + self.pager.l2_bytes
            assert self.pager.scopes() == ({SCOPE: (resident, objects)} if objects else {})
            counters = self.metrics.counters
            touched = sum(counters[n] for n in ("page_hits", "faults_minor", "faults_major"))
            assert touched >= self.touches


@pytest.mark.parametrize("policy", [*sorted(POLICIES), "pools"])
def test_the_pager_equals_its_home(policy: str) -> None:
    # The name seeds the examples: each policy gets its own.
    machine = type(f"Pager_{policy}", (PagerMachine,), {"policy": policy})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, settings.default.max_examples // 5),
            stateful_step_count=50,
            report_multiple_bugs=False,
        ),
    )


# -- what the machine does not say ----------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[Store]:
    with stored() as store:
        yield store


def read(pager: Pager, *rows: PageRow) -> None:
    for opened in pager.open(rows, SCOPE):
        opened.page.messages(0, 4, opened.decode)


def test_a_page_is_faulted_once_and_then_hit(store: Store) -> None:
    metrics = Metrics()
    pager = paged(store, Budget(MIB), ManualClock(), metrics=metrics)
    rows = [store.pages[1, index] for index in range(3)]
    read(pager, *rows)
    read(pager, *rows)
    counters = metrics.counters
    assert (counters["faults_major"], counters["page_hits"]) == (3, 3)
    pager.demote_idle(-1, 1e9)
    assert {pager.tier_of(row.page) for row in rows} == {"l2"}
    read(pager, *rows)
    assert (counters["faults_minor"], counters["faults_major"]) == (3, 3)
    assert {pager.tier_of(row.page) for row in rows} == {"l1"}


def test_a_fault_brings_in_the_next_pages_of_its_batch(store: Store) -> None:
    metrics = Metrics()
    pager = paged(store, Budget(MIB), ManualClock(), batch=4, metrics=metrics)
    rows = [store.pages[1, index] for index in range(6)]
    next(pager.open(rows, SCOPE))
    assert [pager.tier_of(row.page) for row in rows] == ["l1"] * 4 + ["l3"] * 2


def test_neighbours_are_not_brought_in_at_the_cost_of_others(store: Store) -> None:
    budget = Budget(MIB)
    pager = paged(store, budget, ManualClock(), batch=4)
    read(pager, store.pages[2, 0])
    rows = [store.pages[1, index] for index in range(4)]
    first = rows[0]
    budget.reserve("outside", budget.free_bytes() - 2 * (first.raw_bytes + 2 * KIB))
    next(pager.open(rows, SCOPE))
    assert pager.tier_of(store.pages[2, 0].page) == "l1"
    assert pager.tier_of(first.page) == "l1"
    assert pager.tier_of(rows[3].page) == "l3"


def test_a_page_in_l2_is_read_without_the_home(store: Store) -> None:
    pager = paged(store, Budget(MIB), ManualClock())
    plain = next(row for row in store.pages.values() if not _texts(store, row))
    read(pager, plain)
    pager.demote_idle(-1, 1e9)
    snapshot = store.home.snapshot
    with snapshot(), snapshot(), snapshot(), snapshot():
        # Nobody can take one more now without waiting for a minute.
        read(pager, plain)


def _texts(store: Store, row: PageRow) -> list[Any]:
    with store.home.snapshot() as tables:
        return tables.texts.of_page(row.page)


def test_a_shared_text_is_held_once_however_many_pages_use_it(store: Store) -> None:
    budget = Budget(4 * MIB)
    pager = paged(store, budget, ManualClock())
    read(pager, *store.pages.values())
    assert budget.owners()["texts"] < 2 * sum(len(text) + 400 for text in store.shared)
    found = {
        id(message["text"])
        for opened in pager.open(list(store.pages.values()), SCOPE)
        for message in opened.page.messages(0, 4, opened.decode)
        if message["text"]
    }
    assert len(found) == len(store.shared)


def test_a_page_that_is_not_what_its_map_says_is_refused(store: Store) -> None:
    pager = paged(store, Budget(MIB), ManualClock())
    row = store.pages[1, 0]
    for wrong in (
        row._replace(raw_bytes=row.raw_bytes + 1),
        row._replace(stored_bytes=row.stored_bytes + 1),
        row._replace(stop=row.stop + 1),
        row._replace(line=2),
        row._replace(page=store.pages[1, 1].page),
    ):
        with pytest.raises(CorruptionError):
            read(pager, wrong)
    assert pager.tiers()["l2"]["objects"] == 0
    read(pager, row)


def test_the_oldest_page_goes_first_under_lru_whatever_tier_gave_way_before(store: Store) -> None:
    budget = Budget(4 * MIB)
    pager = paged(store, budget, ManualClock(), l1_share=0.01)
    rows = [store.pages[1, index] for index in range(PAGES)]
    read(pager, *rows)
    for _ in range(PAGES):
        pager.make_free(budget.free_bytes() + 1)
    evicted = []
    while pager.l1_bytes + pager.l2_bytes:
        pager.make_free(budget.free_bytes() + 1)
        evicted += [r.page for r in rows if pager.tier_of(r.page) == "l3" and r.page not in evicted]
    assert evicted == [row.page for row in rows]


def growth(make: Callable[[], Any]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        make()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("texts", [0, 1, 4])
def test_a_page_row_takes_no_more_than_it_is_charged(texts: int) -> None:
    table = PageTable()
    count, charged = 20_000, 0

    def fill() -> None:
        nonlocal charged
        for page in range(1_000_000, 1_000_000 + count):
            refs = tuple((bytes((i, *page.to_bytes(15, "big"))), page + i) for i in range(texts))
            slot = table.add(page, page % 97, bytes(200 + page % 50), refs, float(page))
            table.raws[slot] = bytes(page % 301)
            charged += table.row_bytes(slot) + page % 301

    grown = growth(fill)
    assert grown <= charged
    assert charged <= 2.2 * grown, "and not far more"


@pytest.mark.parametrize("length", [5, 100, 500])
def test_a_resident_session_takes_no_more_than_it_is_charged(length: int) -> None:
    budget, count = Budget(256 * MIB), 20_000
    residents = Residents(budget, count)
    before = budget.used_bytes

    def fill() -> None:
        for number in range(1_000_000, 1_000_000 + count):
            scope, id = f"{'s' * length}/{number}", f"{'é' * (length // 2)}-{number}"
            row = SessionRow(number, number, scope, id, None, number, number, number, number)
            line = LineRow(number, number, 0, 0, number, number)
            resident = Resident(row, number + 1, line)
            resident.next_seq, resident.tail_start, resident.tail_bytes = number, number, number
            resident.touched = float(number)
            residents.add(SessionKey(scope, id), resident)

    grown = growth(fill)
    charged = budget.used_bytes - before
    assert grown <= charged
    assert charged <= 2.2 * grown
    residents.close()
    assert budget.used_bytes == 0


def test_a_text_takes_no_more_than_it_is_charged() -> None:
    budget, count = Budget(256 * MIB), 20_000
    cache = TextCache(budget)

    def fill() -> None:
        for text in range(1_000_000, 1_000_000 + count):
            assert cache.try_hold({text: f"{'é' if text % 2 else '🦜'}{text}" * 20})

    grown = growth(fill)
    assert grown <= budget.used_bytes <= 2 * grown
