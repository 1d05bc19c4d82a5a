"""Stated memories in random order, known and valid at random times, against a dull model: a list of
what was stated, looked through from the beginning for every question, listed or recalled."""

import dataclasses
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import memopt
from memopt import Selector
from memopt.base.clock import ManualClock
from memopt.base.item_records import item_number
from memopt.base.moments import NOW, Bound
from memopt.base.records import to_datetime, to_us
from memopt.recall.item_columns import Filter, ItemColumns

SCOPE = "acme/ann"
DAY = timedelta(days=1)
FIRST = datetime.min
topics = st.sampled_from([None, ("Ann", "city"), ("Ann", "job")])
days = st.one_of(st.none(), st.integers(-4, 4))
which = st.integers(0, 30)
tags = st.sets(st.sampled_from(["a", "b"]))


@dataclasses.dataclass
class Stated:
    """All that was ever done to one memory."""

    id: str
    topic: Any
    made: tuple[int, datetime]
    start: datetime | None
    stop: datetime | None
    tags: set[str]
    texts: list[tuple[int, str]]
    pins: list[tuple[int, bool]]
    ends: list[tuple[int, datetime]]

    def text(self, lsn: int) -> str:
        return [text for made, text in self.texts if made <= lsn][-1]

    def is_pinned(self, lsn: int) -> bool:
        return [False, *(pinned for made, pinned in self.pins if made <= lsn)][-1]


class Model:
    """Everything that was stated and not forgotten, in order."""

    def __init__(self) -> None:
        self.stated: list[Stated] = []

    def valid(self, one: Stated, lsn: int) -> tuple[datetime | None, datetime | None] | None:
        """When it was so, by what was known then; None: never."""
        start, stop = one.start, one.stop
        for other in self.stated[self.stated.index(one) + 1 :]:
            if one.topic is None or other.topic != one.topic or other.made[0] > lsn:
                continue
            if one.is_pinned(other.made[0]):
                continue
            if _before(other.stop, start) or _before(stop, other.start):
                continue
            if _key(other.start) > _key(start):
                stop = other.start
            else:
                start = other.stop
                if start is None or not _key(start) < _key(stop, datetime.max):
                    return None
        ends = [at for made, at in one.ends if made <= lsn]
        if ends and _key(ends[-1]) < _key(stop, datetime.max):
            stop = ends[-1]
        return (start, stop) if _key(start) < _key(stop, datetime.max) else None

    def known(self, lsn: int) -> dict[str, tuple[str, Any]]:
        return {
            one.id: (one.text(lsn), self.valid(one, lsn))
            for one in self.stated
            if one.made[0] <= lsn
        }


def _key(at: datetime | None, default: datetime = FIRST) -> datetime:
    return default if at is None else at.replace(tzinfo=None)


def _before(stop: datetime | None, start: datetime | None) -> bool:
    """Whether what ends at `stop` is over when what begins at `start` begins."""
    return stop is not None and _key(stop) <= _key(start)


class Items(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.model = Model()
        self.count = 0
        self.begun = to_datetime(self.clock.now_us())
        self.columns = ItemColumns(())
        self.touched: set[int] = set()
        """Items that were changed since the columns were looked at."""
        self.open()

    def open(self) -> None:
        self.memory = memopt.open(
            self.path, budget="8MiB", durability="os", maintenance_seconds=0, ballast_bytes=0,
            clock=self.clock,
        )  # fmt: skip

    def now(self) -> datetime:
        return to_datetime(self.clock.now_us())

    def one(self, n: int) -> Stated:
        return self.model.stated[n % len(self.model.stated)]

    def touch(self, one: Stated) -> None:
        self.touched.add(item_number(one.id) or 0)

    # -- what happens -----------------------------------------------------------------------------

    @rule(hours=st.integers(0, 60))
    def wait(self, hours: int) -> None:
        self.clock.advance(hours * 3600)

    @rule(topic=topics, start=days, stop=days, pin=st.booleans(), tags=tags)
    def remember(self, topic: Any, start: Any, stop: Any, pin: bool, tags: set[str]) -> None:
        now = self.now()
        begins = None if start is None else now + start * DAY
        ends = None if stop is None else now + stop * DAY
        if begins is not None and ends is not None and ends <= begins:
            ends = None
        self.count += 1
        subject, attribute = topic or (None, None)
        item = self.memory.remember(
            f"text {self.count}", scope=SCOPE, subject=subject, attribute=attribute,
            valid_from=begins, valid_to=ends, pin=pin, tags=tags,
        )  # fmt: skip
        if begins is None and (ends is None or ends > now):
            begins = now
        lsn = self.memory.lsn
        pins = [(lsn, True)] if pin else []
        texts = [(lsn, item.text)]
        self.model.stated.append(
            Stated(item.item_id, topic, (lsn, now), begins, ends, tags, texts, pins, [])
        )
        self.touch(self.model.stated[-1])

    @precondition(lambda self: self.model.stated)
    @rule(n=which)
    def revise(self, n: int) -> None:
        self.count += 1
        item = self.memory.revise(self.one(n).id, f"text {self.count}")
        self.one(n).texts.append((self.memory.lsn, item.text))
        self.touch(self.one(n))

    @precondition(lambda self: self.model.stated)
    @rule(n=which, pinned=st.booleans())
    def pin(self, n: int, pinned: bool) -> None:
        one = self.one(n)
        item = self.memory.pin(one.id) if pinned else self.memory.unpin(one.id)
        assert item.pinned == pinned
        one.pins.append((self.memory.lsn, pinned))
        self.touch(one)

    @precondition(lambda self: self.model.stated)
    @rule(n=which, hours=st.integers(0, 100))
    def end(self, n: int, hours: int) -> None:
        one = self.one(n)
        at = (one.start or self.begun) + timedelta(hours=hours)
        self.memory.end(one.id, at=at)
        one.ends.append((self.memory.lsn, at))
        self.touch(one)

    @precondition(lambda self: self.model.stated)
    @rule(n=which)
    def forget(self, n: int) -> None:
        one = self.one(n)
        assert self.memory.forget(Selector(scope=SCOPE, items=(one.id,))).items == 1
        self.model.stated.remove(one)
        self.touch(one)

    @rule()
    def open_again(self) -> None:
        self.memory.close()
        self.open()

    @rule()
    def tidy(self) -> None:
        self.memory._parts.maintenance.once()

    # -- what is seen -----------------------------------------------------------------------------

    @invariant()
    def what_is_known_now_is_what_the_model_knows(self) -> None:
        self.compare(self.memory.items(SCOPE, limit=1000), self.model.known(self.memory.lsn))

    @rule(back=st.integers(0, 40))
    def what_was_known_is_what_the_model_knew(self, back: int) -> None:
        lsn = max(0, self.memory.lsn - back)
        known = self.model.known(lsn)
        self.compare(self.memory.at(lsn).items(SCOPE, limit=1000), known)
        self.compare(self.memory.items(SCOPE, known_at=lsn, limit=1000), known)

    @rule(hours=st.integers(0, 400))
    def a_time_of_commits_is_as_good_as_an_lsn(self, hours: int) -> None:
        at = self.begun + timedelta(hours=hours)
        made = [lsn for lsn, when in self.commits() if when <= at]
        self.compare(
            self.memory.items(SCOPE, known_at=at, limit=1000), self.model.known(max([0, *made]))
        )

    @rule(back=st.integers(0, 40), hours=st.integers(-100, 300), tags=tags)
    def a_filter_passes_what_the_model_has_then(
        self, back: int, hours: int, tags: set[str]
    ) -> None:
        lsn, at = max(0, self.memory.lsn - back), self.begun + timedelta(hours=hours)
        wanted = {
            one.id: text
            for one in self.model.stated
            if one.made[0] <= lsn and tags <= one.tags
            for text, valid in [self.model.known(lsn)[one.id]]
            if valid is not None and _key(valid[0]) <= _key(at) < _key(valid[1], datetime.max)
        }
        found = self.memory.items(SCOPE, known_at=lsn, valid_at=at, tags=tags, limit=1000)
        assert {item.item_id: item.text for item in found} == wanted
        hits = self.memory.recall(
            "which text?", scope=SCOPE, known_at=lsn, valid_at=at, tags=tags, limit=1000
        )
        assert {hit.item_id: hit.text for hit in hits} == wanted
        assert self.memory.at(lsn).recall(
            "which text?", scope=SCOPE, valid_at=at, tags=tags, limit=1000
        ) == hits  # fmt: skip
        self.check_columns(lsn, at, tags, wanted)

    def check_columns(self, lsn: int, at: datetime, tags: set[str], wanted: dict[str, str]) -> None:
        """Entries of all versions, masked: what is left is what the listing says."""
        bound = NOW if lsn == self.memory.lsn else Bound(lsn, NOW.at_us)
        columns = self.load(bound)
        places = [
            (-(item_number(one.id) or 0), seq, one.id, text)
            for one in self.model.stated
            for seq, (_, text) in enumerate(one.texts, 1)
        ]
        places.append((-9999, 1, "gone", "gone"))
        source = np.array([place[0] for place in places], np.int64)
        seq = np.array([place[1] for place in places], np.int64)
        mask = columns.visible(source, seq, Filter(None, frozenset(tags), to_us(at), 0))
        seen = {place[2]: place[3] for place, is_seen in zip(places, mask, strict=True) if is_seen}
        assert seen == wanted

    def load(self, bound: Bound) -> ItemColumns:
        with self.memory._parts.directory.home.snapshot() as tables:
            number = tables.scopes.number(SCOPE)
            if number is None:
                return ItemColumns(())
            return ItemColumns.load(
                tables, number, self.memory._parts.recall.listing._compressor, bound
            )

    @rule()
    def columns_are_brought_up_to_date_item_by_item(self) -> None:
        with self.memory._parts.directory.home.snapshot() as tables:
            number = tables.scopes.number(SCOPE) or 0
            compressor = self.memory._parts.recall.listing._compressor
            kept = self.columns.changed(tables, number, compressor, self.touched)
        self.columns, self.touched = kept, set()
        whole = self.load(NOW)
        assert len(kept) == len(whole) == len(self.model.stated)
        for name in vars(whole):
            if not name.startswith("_"):
                assert np.array_equal(getattr(kept, name), getattr(whole, name)), name
        for tag in "ab":
            passing = Filter(None, frozenset(tag), None, 0)
            assert np.array_equal(kept.passing(passing), whole.passing(passing))

    @precondition(lambda self: self.model.stated)
    @rule(n=which)
    def history_ends_with_what_is_known(self, n: int) -> None:
        one = self.one(n)
        history = self.memory.history(one.id, limit=1000)
        assert [item.lsn for item in history] == sorted({item.lsn for item in history})
        assert history[0].lsn == one.made[0]
        for item in history:
            text, valid = self.model.known(item.lsn)[one.id]
            self.compare_one(item, text, valid)
            assert item.pinned == one.is_pinned(item.lsn)
        assert history[-1] == self.memory.item(one.id)

    def commits(self) -> list[tuple[int, datetime]]:
        return [(record.lsn, record.at) for record in self.memory.journal()]

    def compare(self, items: list[memopt.Item], known: dict[str, tuple[str, Any]]) -> None:
        assert [item.item_id for item in items] == list(known)
        for item in items:
            self.compare_one(item, *known[item.item_id])

    def compare_one(self, item: memopt.Item, text: str, valid: Any) -> None:
        assert item.text == text
        if valid is None:
            assert item.valid is None
        else:
            assert item.valid == memopt.Interval(start=valid[0], stop=valid[1])

    def teardown(self) -> None:
        assert self.memory.check().clean
        self.memory._parts.budget.check()
        self.memory.close()
        shutil.rmtree(self.path)


def test_memories_are_what_a_dull_model_says() -> None:
    run_state_machine_as_test(
        Items, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
