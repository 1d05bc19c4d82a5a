"""The pager: brings pages in, lets them go cold, lets them go.

L1 holds raw bytes, ready to decode, beside the compressed frame; L2 the frame alone; L3 is the
home. Everything sealed is at home already, so eviction writes nothing. Room is reserved before a
page is read or decoded; when it cannot be had, the page is read past the tiers and not kept.

Invariant: what the budget holds for "pages" and "texts" is exactly the table's bytes. Not here:
choosing victims (policies), making pages (page_writer.py), when to be idle (maintenance).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, MemoptError
from memopt.base.events import Demoted, Events, Evicted, Faulted, Hit, PrefetchSettled
from memopt.base.forks import LostLock
from memopt.base.heap import heap_bytes
from memopt.base.interrupts import mended_by
from memopt.base.protocols import Clock, Compressor, Policy, Reader
from memopt.base.records import PREFETCHES, PageRow, Prefetch
from memopt.codecs.page import Page
from memopt.codecs.texts import text_decoder
from memopt.paging.access_log import AccessLog
from memopt.paging.fetching import READING, Fetched, Fetcher, PageGoneError, TextRefs
from memopt.paging.page_table import ROW_BYTES, PageTable, row_bytes
from memopt.paging.text_cache import TextCache
from memopt.paging.working_set import WorkingSet, WorkingSets

_OWNER: Final = "pages"
_POLICY_OWNER: Final = "policies"
_DECODED_BYTES: Final = 16 * 1024
"""Decoding so many bytes takes about as long as all else about a fault."""
_PREFETCHED_SHARE: Final = 1 / 16
"""Of the pages in RAM: so many may have been brought in at others' cost and wait for a touch."""
_PREFETCH_VICTIMS: Final = 4
"""That go at most for one page that is brought in early."""

_whole = mended_by(lambda pager: pager._let_all_go())
"""A Ctrl-C may come between two columns of a row. Everything here can be brought in again, so then
everything is let go."""


def fault_cost(raw_bytes: int) -> float:
    """What bringing a page back costs, relative to an empty one. An estimate and not what the last
    fault took: that varies a hundredfold with the disk's cache, and would make choices chance."""
    return 1.0 + raw_bytes / _DECODED_BYTES


class OpenPage(NamedTuple):
    """A page ready to read: its columns and bodies, and how to decode a body."""

    row: PageRow
    page: Page
    decode: Callable[[Any], Any]


class Pager:
    """Thread-safe. Holds no page number that is not resident."""

    def __init__(
        self,
        home: Reader,
        compressor: Compressor,
        budget: Budget,
        *,
        make_policy: Callable[[], Policy],
        clock: Clock,
        events: Events,
        promotion_batch_pages: int,
        l1_share: float,
        sets: WorkingSets | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self._budget = budget
        self._fetcher = Fetcher(home, compressor, budget, self._cached_texts)
        self._clock = clock
        self._events = events
        self._batch = promotion_batch_pages
        self._l1_share = l1_share
        self._access_log = access_log
        self._keeps_l1 = True
        self._lock: AbstractContextManager[Any] = threading.RLock()
        self._table = PageTable()
        self._texts = TextCache(budget)
        self._make_policy = make_policy
        self._hot = make_policy()
        self._warm = make_policy()
        self.sets = sets or WorkingSets(clock.monotonic())
        """Changed under the pager's lock alone."""
        self.on_open: Callable[[Sequence[PageRow], int, int, str | None], None] | None = None
        """Told of the rows that are read, from which one on, for which scope and agent: at the
        first one, and at each that faults."""
        self.ask_first: Callable[[int], bool] = lambda size_bytes: False
        """Lets go of so much where somebody else holds more than its part; whether anything went.
        Asked before a page goes."""
        self.prefetched_pages = 0
        """In RAM, brought in before they were asked for, and not asked for since."""
        self._drops = 0
        """Calls of `drop`: what was read before one is not kept after it."""
        self.freed_bytes = 0
        """Of everything that was demoted or evicted so far."""
        self.l1_bytes = 0
        self.l2_bytes = 0

    # -- reading ----------------------------------------------------------------------------------

    def open(
        self, rows: Sequence[PageRow], scope: int, agent: str | None = None
    ) -> Iterator[OpenPage]:
        """The pages of `rows`, which are neighbours, one after the other, for a session of an agent
        type. Raises PageGoneError when one is no longer there, CorruptionError when its bytes are
        damaged."""
        fetched: dict[int, OpenPage] = {}
        for index, row in enumerate(rows):
            if self._access_log is not None:
                self._access_log.touched(row)
            found = fetched.pop(row.page, None) or self._resident(row)
            if self.on_open is not None and (found is None or index == 0):
                self.on_open(rows, index, scope, agent)
            if found is None:
                fetched = self._fault(rows[index : index + self._batch], scope, agent)
                found = fetched.pop(row.page)
            yield found

    @_whole
    def _resident(self, row: PageRow) -> OpenPage | None:
        with self._lock:
            table = self._table
            slot = table.slots.get(row.page)
            if slot is None:
                return None
            raw = table.raws[slot]
            if raw is None:
                return None
            table.touched[slot] = self._clock.monotonic()
            self._hot.touched(row.page)
            self.sets.hits += 1
            if table.windows[slot] != self.sets.window:
                self._touch_first(slot, table.row_bytes(slot) + heap_bytes(len(raw)))
            texts = self._held_texts(table.texts[slot])
        self._events.emit(Hit(1))
        return OpenPage(row, Page(raw), text_decoder(texts))

    @_whole
    def _fault(self, rows: Sequence[PageRow], scope: int, agent: str | None) -> dict[int, OpenPage]:
        """Bring in the first of `rows`, and those after it that are not hot as far as there is
        room for them."""
        found: dict[int, OpenPage] = {}
        for index, row in enumerate(rows):
            started = self._clock.monotonic()
            with self._lock:
                slot = self._table.slots.get(row.page)
                frame = None if slot is None else self._table.frames[slot]
                refs = () if slot is None else self._table.texts[slot]
                drops = self._drops
                if index and slot is not None and self._table.raws[slot] is not None:
                    continue
            need = row.raw_bytes + row.stored_bytes + ROW_BYTES
            if index and self._budget.free_bytes() < need:
                break
            self.make_room(need)
            try:
                fetched = self._fetcher.fetch(row, frame, refs, self.make_room)
            except PageGoneError:
                if index:
                    break
                raise
            finally:
                self._budget.release(READING, need)
            refaults = self._admit(fetched, scope, agent, drops, is_major=frame is None)
            texts = {digest: fetched.values[text] for digest, text in fetched.texts}
            found[row.page] = OpenPage(row, fetched.page, text_decoder(texts))
            kind = "major" if frame is None else "minor"
            seconds = self._clock.monotonic() - started
            self._events.emit(Faulted(kind, 1, row.raw_bytes, seconds, refaults))
        self.observe()
        return found

    def _touch_first(self, slot: int, size_bytes: int) -> None:
        """The first touch of a page in RAM in this window."""
        self._settle(slot, was_used=True)
        self._table.windows[slot] = self.sets.window
        self.sets.touched(self._table.agents[slot], size_bytes)

    @_whole
    def prefetch(self, row: PageRow, scope: int, agent: str | None, by: Prefetch) -> bool:
        """Bring a page in that may be asked for; whether it was. Takes free room, and that of
        others only while few pages that were brought in so have not been asked for yet."""
        with self._lock:
            slot = self._table.slots.get(row.page)
            if slot is not None and self._table.raws[slot] is not None:
                return False
            frame = None if slot is None else self._table.frames[slot]
            refs = () if slot is None else self._table.texts[slot]
            drops = self._drops
            few = self.prefetched_pages < len(self._table) * _PREFETCHED_SHARE
            victims = _PREFETCH_VICTIMS if few and by is not Prefetch.RECENCY else 0
        need = row.raw_bytes + row.stored_bytes + ROW_BYTES

        def make_room(size_bytes: int) -> None:
            # Twice, because what is read is kept as well.
            nonlocal victims
            wanted = 2 * size_bytes
            while self._budget.free_bytes() < wanted and victims and self._give_way(wanted):
                victims -= 1
            free_bytes = self._budget.free_bytes()
            if free_bytes < 2 * size_bytes or not self._budget.try_reserve(READING, size_bytes):
                raise BudgetError("no room to bring a page in early", limit="budget")

        try:
            make_room(need)
            try:
                fetched = self._fetcher.fetch(row, frame, refs, make_room)
            finally:
                self._budget.release(READING, need)
        except (PageGoneError, MemoptError):
            # Whoever asks for the page hears of it, if it is damaged.
            return False
        with self._lock:
            slot = self._table.slots.get(row.page)
            if drops != self._drops or (slot is not None and self._table.raws[slot] is not None):
                return False
            slot = self._keep(fetched, scope, self.sets.type_of(agent))
            if slot is None:
                return False
            self._expect(slot, by)
        return True

    def _expect(self, slot: int, by: Prefetch) -> None:
        """Mark a page that was brought in before it was asked for."""
        table = self._table
        if table.windows[slot] == self.sets.window:
            # Its next touch must be seen, and will be counted again.
            size = row_bytes(table.frames[slot] or b"", table.texts[slot])
            self.sets.touched(table.agents[slot], -size - heap_bytes(len(table.raws[slot] or b"")))
        table.windows[slot] = 0
        if not table.marks[slot]:
            self.prefetched_pages += 1
        table.marks[slot] = PREFETCHES.index(by)

    def _settle(self, slot: int, *, was_used: bool) -> None:
        """A page that was expected was touched, or is leaving untouched."""
        mark = self._table.marks[slot]
        if mark:
            self._table.marks[slot] = 0
            self.prefetched_pages -= 1
            self._events.emit(PrefetchSettled(PREFETCHES[mark], 1, was_used))

    def _cached_texts(self, refs: TextRefs) -> dict[int, str]:
        with self._lock:
            found = ((text, self._texts.get(text)) for _, text in refs)
            return {text: value for text, value in found if value is not None}

    def _held_texts(self, texts: TextRefs) -> dict[bytes, str]:
        held = {}
        for digest, text in texts:
            value = self._texts.get(text)
            assert value is not None, "a page in L1 holds its texts"
            held[digest] = value
        return held

    # -- moving -----------------------------------------------------------------------------------

    def make_room(self, size_bytes: int) -> None:
        """Reserve `size_bytes` for reading, demoting and evicting as needed, after what others hold
        beyond their part. The caller releases them. Raises BudgetError when everything evictable is
        gone and they still do not fit."""
        while not self._budget.try_reserve(READING, size_bytes):
            if not self._give_way(size_bytes):
                self._budget.reserve(READING, size_bytes)
                return

    def make_free(self, size_bytes: int) -> None:
        """Let pages go until `size_bytes` of the budget are free for somebody else."""
        while self._budget.free_bytes() < size_bytes and self._give_way(size_bytes):
            pass

    def has_room(self, size_bytes: int) -> bool:
        return self._budget.free_bytes() >= size_bytes

    def _let_all_go(self) -> None:
        with self._lock:
            self._table = PageTable()
            self._hot, self._warm = self._make_policy(), self._make_policy()
            self._texts.clear()
            self._budget.release_all(_OWNER)
            self._budget.release_all(_POLICY_OWNER)
            self.l1_bytes = self.l2_bytes = 0
            self.prefetched_pages = 0
            self.sets.resident_bytes[:] = [0] * len(self.sets.resident_bytes)

    def _give_way(self, size_bytes: int) -> bool:
        """Without the lock: others have locks of their own."""
        return self.ask_first(size_bytes) or self._let_one_go()

    @_whole
    def _let_one_go(self) -> bool:
        with self._lock:
            pages_bytes = self.l1_bytes + self.l2_bytes
            if not pages_bytes:
                return False
            # Only the tier that gives way is asked: naming a victim is not a mere peek.
            event: Demoted | Evicted
            if self.l1_bytes > self._l1_share * pages_bytes or not self.l2_bytes:
                event = Demoted(1, self._demote(self._victim(self._hot)), "room")
            else:
                slot = self._victim(self._warm)
                self.sets.refaults.left(self._table.pages[slot], self._table.windows[slot])
                event = Evicted(1, self._evict(slot), "room")
        self._events.emit(event)
        return True

    def _victim(self, policy: Policy) -> int:
        page = policy.victim()
        assert page is not None, "a tier that holds bytes has a victim"
        return self._table.slots[page]

    @_whole
    def demote_idle(self, l1_seconds: float, l2_seconds: float) -> None:
        """Cool what was not touched for so long: L1 to L2, L2 to nowhere."""
        moment = self._clock.monotonic()
        demoted = evicted = demoted_bytes = evicted_bytes = 0
        with self._lock:
            for slot in self._table.idle_since(moment - min(l1_seconds, l2_seconds)):
                idle = moment - self._table.touched[slot]
                if idle > min(l1_seconds, l2_seconds) and self._table.raws[slot] is not None:
                    demoted_bytes += self._demote(slot)
                    demoted += 1
                if idle > l2_seconds:
                    evicted_bytes += self._evict(slot)
                    evicted += 1
        if demoted:
            self._events.emit(Demoted(demoted, demoted_bytes, "idle"))
        if evicted:
            self._events.emit(Evicted(evicted, evicted_bytes, "idle"))

    @_whole
    def drop(self, pages: Sequence[int]) -> None:
        """Pages that are no longer at home: forget them everywhere."""
        with self._lock:
            self._drops += 1
            for page in pages:
                slot = self._table.slots.get(page)
                if slot is not None:
                    if self._table.raws[slot] is not None:
                        self._demote(slot)
                    self._evict(slot)

    # -- under pressure ---------------------------------------------------------------------------

    @_whole
    def empty_l1(self) -> None:
        """Keep compressed pages alone, until `fill_l1`."""
        self._keeps_l1 = False
        demoted = size = 0
        with self._lock:
            for slot in list(self._table.slots.values()):
                if self._table.raws[slot] is not None:
                    size += self._demote(slot)
                    demoted += 1
        if demoted:
            self._events.emit(Demoted(demoted, size, "pressure"))

    def fill_l1(self) -> None:
        """Pages that are brought in may be hot again."""
        self._keeps_l1 = True

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self._lock = LostLock()

    def clear(self) -> None:
        with self._lock:
            self.drop(list(self._table.slots))
            self._budget.release_all(_POLICY_OWNER)

    def _admit(
        self, fetched: Fetched, scope: int, agent: str | None, drops: int, *, is_major: bool
    ) -> int:
        """Keep a page that was just brought in for a touch, unless pages were dropped meanwhile,
        for then it may be gone. How many refaults that was."""
        size_bytes = row_bytes(fetched.frame, fetched.texts) + heap_bytes(fetched.row.raw_bytes)
        with self._lock:
            sets, agent_type = self.sets, self.sets.type_of(agent)
            window, is_refault = 0, False
            if is_major:
                window, is_refault = sets.faulted(fetched.row.page, len(self._table))
            else:
                sets.faults += 1
            slot = self._keep(fetched, scope, agent_type) if drops == self._drops else None
            if slot is None:
                if window != sets.window:
                    sets.touched(agent_type, size_bytes)
                return is_refault
            if is_major and window == sets.window:
                self._table.windows[slot] = window
            if self._table.windows[slot] != sets.window:
                self._touch_first(slot, size_bytes)
            return is_refault

    def _keep(self, fetched: Fetched, scope: int, agent_type: int) -> int | None:
        """A page as hot as there is room for: its slot, or None where there is no room at all."""
        row, raw_bytes = fetched.row, heap_bytes(fetched.row.raw_bytes)
        table = self._table
        slot = table.slots.get(row.page)
        if slot is None:
            size = row_bytes(fetched.frame, fetched.texts)
            if not self._budget.try_reserve(_OWNER, size):
                return None
            now = self._clock.monotonic()
            slot = table.add(row.page, scope, fetched.frame, fetched.texts, now, agent_type)
            self.l2_bytes += size
            self.sets.resident_bytes[agent_type] += size
            self._warm.admitted(row.page, size, fault_cost(row.raw_bytes))
        if not self._keeps_l1:
            # It stays in L2, and was wanted there.
            if table.raws[slot] is None:
                table.touched[slot] = self._clock.monotonic()
                self._warm.touched(row.page)
        elif table.raws[slot] is None and self._budget.try_reserve(_OWNER, raw_bytes):
            if not self._texts.try_hold(fetched.values):
                self._budget.release(_OWNER, raw_bytes)
            else:
                size = table.row_bytes(slot)
                table.raws[slot] = fetched.page.raw
                table.touched[slot] = self._clock.monotonic()
                self._warm.removed(row.page)
                self.l2_bytes -= size
                self.l1_bytes += size + raw_bytes
                self.sets.resident_bytes[table.agents[slot]] += raw_bytes
                self._hot.admitted(row.page, size + raw_bytes, fault_cost(row.raw_bytes))
        self._charge_policies()
        return slot

    def _demote(self, slot: int) -> int:
        """L1 to L2: drop the raw bytes; how many."""
        table = self._table
        raw = table.raws[slot]
        assert raw is not None
        size = table.row_bytes(slot)
        self._hot.removed(table.pages[slot])
        table.raws[slot] = None
        self._texts.let_go(table.texts[slot])
        raw_bytes = heap_bytes(len(raw))
        self._budget.release(_OWNER, raw_bytes)
        self.freed_bytes += raw_bytes
        self.l1_bytes -= size + raw_bytes
        self.l2_bytes += size
        self.sets.resident_bytes[table.agents[slot]] -= raw_bytes
        self._warm.admitted(table.pages[slot], size, fault_cost(len(raw)))
        self._charge_policies()
        return raw_bytes

    def _evict(self, slot: int) -> int:
        """L2 to nowhere: drop the row; how many bytes."""
        self._settle(slot, was_used=False)
        size = self._table.row_bytes(slot)
        self.sets.resident_bytes[self._table.agents[slot]] -= size
        self._warm.removed(self._table.pages[slot])
        self._table.remove(slot)
        self._budget.release(_OWNER, size)
        self.freed_bytes += size
        self.l2_bytes -= size
        self._charge_policies()
        return size

    def _charge_policies(self) -> None:
        """What policies occupy grows after the fact, by a few bytes a page: when even those do not
        fit, they wait until the next page leaves."""
        wanted = self._hot.charged_bytes() + self._warm.charged_bytes()
        self._budget.try_settle(_POLICY_OWNER, wanted)

    # -- figures ----------------------------------------------------------------------------------

    def type_of(self, page: int) -> int:
        """The agent type that a resident page was brought in for."""
        return self._table.agents[self._table.slots[page]]

    def observe(self) -> None:
        """End the window of the working sets when it is time, and judge whether it thrashes."""
        with self._lock:
            event = self.sets.ended(self._clock.monotonic())
        if event is not None:
            self._events.emit(event)

    def unsaved_sets(self) -> bytes | None:
        """The history of the working sets, when it is to be stored now."""
        with self._lock:
            return self.sets.unsaved(self._clock.monotonic())

    def working_sets(self) -> list[WorkingSet]:
        with self._lock:
            return self.sets.sets()

    def tiers(self) -> dict[str, dict[str, int]]:
        with self._lock:
            hot = sum(1 for raw in self._table.raws if raw is not None)
            return {
                "l1": {"bytes": self.l1_bytes, "objects": hot},
                "l2": {"bytes": self.l2_bytes, "objects": len(self._table) - hot},
            }

    def scopes(self) -> dict[int, tuple[int, int]]:
        """(bytes, pages) that are resident, by scope number."""
        sums: dict[int, tuple[int, int]] = {}
        with self._lock:
            for scope, raw_bytes, cold_bytes, _ in self._table.rows():
                size, count = sums.get(scope, (0, 0))
                sums[scope] = (size + raw_bytes + cold_bytes, count + 1)
        return sums

    def tier_of(self, page: int) -> str:
        with self._lock:
            slot = self._table.slots.get(page)
            if slot is None:
                return "l3"
            return "l2" if self._table.raws[slot] is None else "l1"

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            hot = warm = 0
            for _, raw_bytes, size, page in self._table.rows():
                if self.tier_of(page) == "l1":
                    hot += size + raw_bytes
                else:
                    warm += size
            assert (hot, warm) == (self.l1_bytes, self.l2_bytes)
            assert sum(self.sets.resident_bytes) == hot + warm
            marks = [self._table.marks[slot] for slot in self._table.slots.values()]
            assert sum(mark > 0 for mark in marks) == self.prefetched_pages
            assert self._budget.owners().get(_OWNER, 0) == hot + warm
            self._texts.check()
