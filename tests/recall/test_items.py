"""Stated memories: stated, revised, pinned, ended, and known as they were."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import Kind, NotFoundError, RecordKind, UsageError
from memopt.base.clock import ManualClock
from memopt.base.records import to_datetime

SCOPE = "acme/ann"
DAY = 86_400.0
NAIVE = datetime(2031, 1, 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0, clock=clock
    ) as memory:
        yield memory
        assert memory.check().clean


def now(clock: ManualClock) -> datetime:
    return to_datetime(clock.now_us())


def city(memory: memopt.Memory, name: str, **more: Any) -> memopt.Item:
    text = f"Ann lives in {name}"
    return memory.remember(text, scope=SCOPE, subject="Ann", attribute="city", **more)


def texts(items: list[memopt.Item]) -> list[str]:
    return [item.text for item in items]


def test_what_is_stated_is_there_as_it_was_stated(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    item = memory.remember(
        "Ann prefers tea", scope=SCOPE, kind="preference", subject="Ann", importance=1,
        source="chat s1", tags=["food", "drink", "food"],
    )  # fmt: skip
    assert item == memory.item(item.item_id) == memory.items(SCOPE)[0]
    assert (item.kind, item.text, item.version) == (Kind.PREFERENCE, "Ann prefers tea", 1)
    assert (item.subject, item.attribute, item.source) == ("Ann", None, "chat s1")
    assert (item.tags, item.importance) == (("food", "drink"), 1.0)
    assert item.valid == item.known == memopt.Interval(start=now(clock))
    assert item.lsn == memory.lsn
    assert item.why == (
        f"I remember this because it was stated as a preference on {now(clock):%Y-%m-%d}, "
        "taken from chat s1."
    )


def test_a_newer_one_about_the_same_ends_the_older_one(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    paris = city(memory, "Paris")
    stated = now(clock)
    clock.advance(DAY)
    lyon = memory.remember("in Lyon", scope=SCOPE, subject=" ANN", attribute="City ")
    moved = now(clock)
    assert memory.item(paris.item_id).valid == memopt.Interval(start=stated, stop=moved)
    assert lyon.valid == memopt.Interval(start=moved)
    assert texts(memory.items(SCOPE, valid_at=stated)) == ["Ann lives in Paris"]
    assert texts(memory.items(SCOPE, valid_at=moved)) == ["in Lyon"]
    assert texts(memory.items(SCOPE, valid_at=moved, known_at=paris.lsn)) == ["Ann lives in Paris"]
    assert texts(memory.items(SCOPE)) == ["Ann lives in Paris", "in Lyon"]


def test_what_was_known_then_is_what_a_view_shows(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    before = memory.lsn
    item = city(memory, "Paris")
    clock.advance(DAY)
    revised = memory.revise(item.item_id, "Ann lives in Paris, Texas")
    clock.advance(DAY)
    city(memory, "Lyon")
    assert memory.at(before).items(SCOPE) == []
    with pytest.raises(NotFoundError):
        memory.at(before).item(item.item_id)
    (then,) = memory.at(item.lsn).items(SCOPE)
    assert (then.text, then.valid) == (item.text, item.valid)
    assert then.known == memopt.Interval(start=item.known.start, stop=revised.known.start)
    (then,) = memory.items(SCOPE, known_at=now(clock) - timedelta(seconds=1))
    assert then.text == "Ann lives in Paris, Texas"
    assert then.known.start == revised.known.start
    assert then.known.stop == now(clock)


def test_history_has_one_item_for_each_change(memory: memopt.Memory, clock: ManualClock) -> None:
    item = city(memory, "Paris")
    clock.advance(1)
    memory.pin(item.item_id)
    clock.advance(1)
    memory.unpin(item.item_id)
    clock.advance(1)
    memory.revise(item.item_id, "Paris, Texas")
    memory.revise(item.item_id, "Paris, Texas")
    clock.advance(1)
    city(memory, "Lyon")
    history = memory.history(item.item_id)
    assert [one.lsn for one in history] == [1, 2, 3, 4, 5]
    assert [one.pinned for one in history] == [False, True, False, False, False]
    assert [one.version for one in history] == [1, 1, 1, 2, 2]
    assert [one.valid is not None and one.valid.stop for one in history] == [None] * 4 + [
        now(clock)
    ]
    assert [one.known.stop for one in history] == [one.known.start for one in history[1:]] + [None]
    assert memory.history(item.item_id, after=1, limit=2) == history[1:3]


def test_a_pinned_one_is_not_ended_until_it_is_unpinned(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    paris = city(memory, "Paris", pin=True)
    clock.advance(1)
    city(memory, "Lyon")
    found = memory.item(paris.item_id)
    assert found.pinned
    assert found.valid == paris.valid
    memory.unpin(paris.item_id)
    clock.advance(1)
    city(memory, "Rome")
    found = memory.item(paris.item_id)
    assert not found.pinned
    assert found.valid == memopt.Interval(start=paris.stated_at, stop=now(clock))


def test_a_pin_until_a_time_is_over_then(memory: memopt.Memory, clock: ManualClock) -> None:
    paris = city(memory, "Paris")
    until = now(clock) + timedelta(days=1)
    assert memory.pin(paris.item_id, until=until).pinned_until == until
    clock.advance(2 * DAY)
    assert not memory.item(paris.item_id).pinned
    city(memory, "Lyon")
    found = memory.item(paris.item_id)
    assert found.valid is not None
    assert found.valid.stop == now(clock)


def test_a_user_ends_it(memory: memopt.Memory, clock: ManualClock) -> None:
    item = memory.remember("works at Acme", scope=SCOPE)
    clock.advance(DAY)
    ended = memory.end(item.item_id)
    assert ended.valid == memopt.Interval(start=item.stated_at, stop=now(clock))
    clock.advance(DAY)
    later = item.stated_at + timedelta(hours=1)
    assert memory.end(item.item_id, at=later).valid == memopt.Interval(
        start=item.stated_at, stop=later
    )
    assert texts(memory.items(SCOPE, valid_at=later)) == []
    with pytest.raises(UsageError, match=r"^at: "):
        memory.end(item.item_id, at=item.stated_at - timedelta(seconds=1))


def test_what_was_over_before_it_was_stated_has_no_known_beginning(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    until = now(clock) - timedelta(days=400)
    item = memory.remember("worked at Acme", scope=SCOPE, valid_to=until)
    assert item.valid == memopt.Interval(stop=until)
    assert item.why.endswith(f"so until {until:%Y-%m-%d}.")


def test_a_key_states_once(memory: memopt.Memory) -> None:
    item = memory.remember("once", scope=SCOPE, key="k")
    assert memory.remember("once", scope=SCOPE, key="k") == item
    other = memory.remember("once", scope="acme/bob", key="k")
    assert other.item_id != item.item_id
    assert len(memory.items("acme", reach="subtree")) == 2


def test_feedback_is_an_average_within_its_bounds(memory: memopt.Memory) -> None:
    ids = [memory.remember(f"fact {n}", scope=SCOPE).item_id for n in range(3)]
    assert memory.feedback(ids[:2], 1) == 2
    memory.feedback(ids[:1], -0.5)
    rewards = [item.reward for item in memory.items(SCOPE)]
    assert rewards == [0.25, 1.0, 0.0]
    for _ in range(50):
        memory.feedback([ids[0], ids[0]], -1)
    assert -1 <= memory.item(ids[0]).reward < -0.9
    assert memory.feedback([], 1) == 0
    with pytest.raises(NotFoundError):
        memory.feedback([ids[1], "i99"], -1)
    assert memory.item(ids[1]).reward == 1.0


def test_lists_come_a_page_at_a_time_by_kind_and_by_tag(memory: memopt.Memory) -> None:
    for scope in ("acme/ann", "acme/bob", "other"):
        for n in range(5):
            kind = Kind.GOAL if n % 2 else Kind.FACT
            memory.remember(f"{scope} {n}", scope=scope, kind=kind, tags=[f"t{n % 3}", "all"])
    whole = memory.items("acme", reach="subtree")
    assert texts(whole) == [f"acme/{who} {n}" for who in ("ann", "bob") for n in range(5)]
    paged, after = [], None
    while page := memory.items("acme", reach="subtree", after=after, limit=3):
        paged += page
        after = (page[-1].scope, page[-1].item_id)
    assert paged == whole
    assert len(memory.items()) == 15
    assert texts(memory.items("acme/bob", kinds=["goal"])) == ["acme/bob 1", "acme/bob 3"]
    assert texts(memory.items("acme/bob", tags=["t0", "all"])) == ["acme/bob 0", "acme/bob 3"]
    assert memory.items("nobody") == []
    assert texts(memory.items("acme/ann/below", reach="ancestors", limit=1)) == ["acme/ann 0"]


def test_every_change_is_in_the_journal_and_subscribed_to(memory: memopt.Memory) -> None:
    with memory.subscribe() as subscription:
        item = memory.remember("a fact", scope=SCOPE)
        memory.revise(item.item_id, "another")
        memory.pin(item.item_id)
        memory.unpin(item.item_id)
        memory.end(item.item_id)
        memory.feedback([item.item_id], 1)
        live = [subscription.get(0) for _ in range(6)]
    stored = list(memory.journal())
    assert stored == live
    assert [record.kind for record in stored] == [
        RecordKind.ITEM_STATED, RecordKind.ITEM_REVISED, RecordKind.ITEM_PINNED,
        RecordKind.ITEM_UNPINNED, RecordKind.ITEM_ENDED, RecordKind.ITEM_RATED,
    ]  # fmt: skip
    assert [record.text for record in stored] == ["a fact", "another", None, None, None, None]
    assert {(record.item, record.scope) for record in stored} == {(item.item_id, SCOPE)}


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("text", {"text": ""}),
        ("text", {"text": " \n\t"}),
        ("text", {"text": b"bytes"}),
        ("text", {"text": "a\x00b"}),
        ("text", {"text": "\x1bPNG"}),
        ("text", {"text": "\ud800"}),
        ("text", {"text": "x" * 65_537}),
        ("text", {"text": None}),
        ("kind", {"kind": "rumour"}),
        ("kind", {"kind": "episode"}),
        ("kind", {"kind": None}),
        ("scope", {"scope": ""}),
        ("scope", {"scope": "a//b"}),
        ("scope", {"scope": 3}),
        ("subject", {"attribute": "city"}),
        ("subject", {"subject": ""}),
        ("attribute", {"subject": "Ann", "attribute": "a\nb"}),
        ("valid_from", {"valid_from": NAIVE}),
        ("valid_to", {"valid_to": NAIVE}),
        ("valid_to", {"valid_to": "2031"}),
        (
            "valid_to",
            {
                "valid_from": datetime(2031, 1, 2, tzinfo=UTC),
                "valid_to": datetime(2031, 1, 1, tzinfo=UTC),
            },
        ),
        ("importance", {"importance": 1.5}),
        ("importance", {"importance": float("nan")}),
        ("importance", {"importance": True}),
        ("source", {"source": 7}),
        ("tags", {"tags": "home"}),
        ("tags[1]", {"tags": ["home", ""]}),
        ("tags", {"tags": [f"t{n}" for n in range(33)]}),
        ("pin", {"pin": 1}),
        ("key", {"key": ""}),
    ],
)
def test_a_wrong_argument_is_named(
    memory: memopt.Memory, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as caught:
        memory.remember(**({"text": "a fact", "scope": SCOPE} | arguments))
    assert caught.value.field == field
    assert memory.items() == []
    assert memory.lsn == 0


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("item_id", lambda m: m.revise("17", "x")),
        ("item_id", lambda m: m.item(17)),
        ("text", lambda m: m.revise("i1", "")),
        ("until", lambda m: m.pin("i1", until=NAIVE)),
        ("until", lambda m: m.pin("i1", until=datetime(1999, 1, 1, tzinfo=UTC))),
        ("reward", lambda m: m.feedback(["i1"], 1.01)),
        ("reward", lambda m: m.feedback(["i1"], float("nan"))),
        ("item_ids", lambda m: m.feedback("i1", 1)),
        ("item_ids[0]", lambda m: m.feedback(["x"], 1)),
        ("limit", lambda m: m.items(SCOPE, limit=0)),
        ("reach", lambda m: m.items(SCOPE, reach="far")),
        ("kinds[0]", lambda m: m.items(SCOPE, kinds=["rumour"])),
        ("kinds", lambda m: m.items(SCOPE, kinds="fact")),
        ("tags", lambda m: m.items(SCOPE, tags="home")),
        ("valid_at", lambda m: m.items(SCOPE, valid_at=NAIVE)),
        ("known_at", lambda m: m.items(SCOPE, known_at=-1)),
        ("after", lambda m: m.items(SCOPE, after="i1")),
        ("after[1]", lambda m: m.items(SCOPE, after=(SCOPE, "x"))),
        ("after[0]", lambda m: m.items(SCOPE, after=("acme/bob", "i1"))),
        ("decision", lambda m: m.decide("i1", "i2", "perhaps")),
        ("scope", lambda m: m.revise("i1", "x", scope="")),
    ],
)
def test_a_wrong_argument_of_another_verb_is_named(
    memory: memopt.Memory, field: str, call: Any
) -> None:
    memory.remember("a fact", scope=SCOPE)
    with pytest.raises(UsageError) as caught:
        call(memory)
    assert caught.value.field == field
    assert memory.lsn == 1


def test_an_item_of_another_scope_is_not_found(memory: memopt.Memory) -> None:
    item = memory.remember("a fact", scope=SCOPE)
    for scope in ("acme/bob", "acme", "acme/ann/below", "acme/an"):
        for call in (
            lambda **where: memory.revise(item.item_id, "x", **where),
            lambda **where: memory.pin(item.item_id, **where),
            lambda **where: memory.unpin(item.item_id, **where),
            lambda **where: memory.end(item.item_id, **where),
            lambda **where: memory.history(item.item_id, **where),
            lambda **where: memory.item(item.item_id, **where),
            lambda **where: memory.feedback([item.item_id], 1, **where),
        ):
            with pytest.raises(NotFoundError):
                call(scope=scope)
    assert memory.item(item.item_id, scope=SCOPE) == item
    with pytest.raises(NotFoundError):
        memory.item("i2")
    assert memory.lsn == 1


def test_a_long_text_is_compressed_and_comes_back(memory: memopt.Memory) -> None:
    text = "Ann said that she would come. " * 1000
    item = memory.remember(text, scope=SCOPE)
    assert memory.item(item.item_id).text == text
    with memory._parts.directory.home.snapshot() as tables:
        record = tables.item_texts.get(1, 1)
        assert record is not None
        assert len(record) < 1000


def test_a_store_that_is_opened_again_knows_it(tmp_path: Path, clock: ManualClock) -> None:
    settings: dict[str, Any] = {"durability": "os", "maintenance_seconds": 0, "clock": clock}
    with memopt.open(tmp_path, **settings) as memory:
        city(memory, "Paris", pin=True)
        city(memory, "Lyon", key="k")
        before = memory.items(SCOPE)
    with memopt.open(tmp_path, read_only=True, **settings) as memory:
        assert memory.items(SCOPE) == before
        with pytest.raises(UsageError, match="read_only"):
            memory.remember("x", scope=SCOPE)
