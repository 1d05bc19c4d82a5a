"""Forgetting by what is typed: items, sources, tags and times; and what is left then."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import NotFoundError, Reach, RecordKind, Selector, UsageError
from memopt.base.clock import ManualClock
from memopt.base.records import to_datetime

SCOPE = "acme/ann"
DAY = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0, clock=clock,
        page_target_bytes=512,
    ) as memory:  # fmt: skip
        yield memory
        assert memory.check().clean


def texts(memory: memopt.Memory, **which: Any) -> list[str]:
    return [item.text for item in memory.items(SCOPE, **which)]


def test_what_a_forgotten_one_had_ended_is_so_again(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    about: dict[str, Any] = {"scope": SCOPE, "subject": "Ann", "attribute": "city"}
    paris = memory.remember("Paris", **about)
    clock.advance(DAY)
    lyon = memory.remember("Lyon", **about)
    assert memory.item(paris.item_id).valid != paris.valid
    memory.forget(Selector(scope=SCOPE, items=(lyon.item_id,)))
    assert memory.item(paris.item_id) == paris
    assert memory.history(paris.item_id) == [paris]
    assert memory.at(lyon.lsn).item(paris.item_id) == paris
    assert texts(memory, valid_at=to_datetime(clock.now_us())) == ["Paris"]


def test_the_journal_names_nothing_that_was_forgotten(memory: memopt.Memory) -> None:
    item = memory.remember("a secret", scope=SCOPE)
    memory.revise(item.item_id, "another secret")
    other = memory.remember("stays", scope=SCOPE)
    with memory.subscribe() as subscription:
        memory.forget(Selector(scope=SCOPE, items=(item.item_id,)))
        live = subscription.get(0)
    records = list(memory.journal())
    assert records[-1] == live
    assert [record.kind for record in records] == [
        RecordKind.ITEM_STATED, RecordKind.ITEM_REVISED, RecordKind.ITEM_STATED,
        RecordKind.ITEM_FORGOTTEN,
    ]  # fmt: skip
    assert [(r.item, r.scope, r.text) for r in records] == [
        (item.item_id, None, None), (item.item_id, None, None),
        (other.item_id, SCOPE, "stays"), (item.item_id, None, None),
    ]  # fmt: skip


def test_a_key_of_what_was_forgotten_states_anew(memory: memopt.Memory) -> None:
    first = memory.remember("one", scope=SCOPE, key="k")
    kept = memory.remember("two", scope=SCOPE, key="l")
    memory.forget(Selector(scope=SCOPE, items=(first.item_id,)))
    again = memory.remember("one", scope=SCOPE, key="k")
    assert again.item_id not in (first.item_id, kept.item_id)
    assert memory.remember("two", scope=SCOPE, key="l") == kept


def test_fields_are_put_together(memory: memopt.Memory) -> None:
    for n in range(8):
        memory.remember(
            f"item {n}", scope=SCOPE, source="wiki" if n % 2 else "chat", tags=[f"t{n % 3}", "all"]
        )
    selector = Selector(scope=SCOPE, source="wiki", tags=("t0", "all"))
    assert memory.plan_forget(selector).items == 1
    memory.forget(selector)
    assert texts(memory) == [f"item {n}" for n in range(8) if n != 3]
    assert memory.forget(Selector(scope=SCOPE, source="wiki", containing="7")).items == 1
    assert memory.forget(Selector(scope=SCOPE, tags=("nobody's",))).items == 0
    assert memory.forget(Selector(scope=SCOPE, source="wik")).items == 0
    assert len(texts(memory)) == 6


def test_a_time_takes_messages_and_memories(memory: memopt.Memory, clock: ManualClock) -> None:
    session = memory.session("s", scope=SCOPE)
    begun = to_datetime(clock.now_us())
    for n in range(6):
        session.append({"role": "user", "content": f"day {n}"})
        session.save_state({"day": n})
        memory.remember(f"day {n}", scope=SCOPE)
        clock.advance(DAY)
    session.append({"role": "user", "content": "said on day 2"}, at=begun + timedelta(days=2.5))
    since, until = begun + timedelta(days=2), begun + timedelta(days=4)
    selector = Selector(scope=SCOPE, since=since, until=until)
    plan = memory.plan_forget(selector)
    assert (plan.entries, plan.items) == (3, 2)
    receipt = memory.forget(plan)
    assert (receipt.entries, receipt.items, receipt.states) == (3, 2, 0)
    assert texts(memory) == [f"day {n}" for n in (0, 1, 4, 5)]
    said = [message["content"] for message in session.messages()]
    assert [one for one in said if one != "[redacted]"] == [f"day {n}" for n in (0, 1, 4, 5)]
    assert memory.plan_forget(selector).targets == ()
    late = Selector(scope=SCOPE, since=until, session="s")
    assert memory.plan_forget(late).entries == 2
    assert memory.plan_forget(late).items == 0


def test_nothing_outside_the_scope_is_forgotten(memory: memopt.Memory) -> None:
    ids = [
        memory.remember("x", scope=scope, tags=["t"], source="s").item_id
        for scope in (SCOPE, "acme/bob", "acme/ann/below", "acme")
    ]
    for selector in (
        Selector(scope="acme/bob", items=(ids[0],)),
        Selector(scope=SCOPE, items=(ids[2],)),
        Selector(scope=SCOPE, items=(ids[0], "i99")),
    ):
        with pytest.raises(NotFoundError):
            memory.plan_forget(selector)
        with pytest.raises(NotFoundError):
            memory.forget(selector)
    assert memory.forget(Selector(scope=SCOPE, tags=("t",))).items == 1
    assert len(memory.items("acme", reach="subtree")) == 3
    subtree = Selector(scope="acme", reach=Reach.SUBTREE, source="s")
    assert memory.forget(subtree).items == 3


@pytest.mark.parametrize(
    ("field", "which"),
    [
        ("selector", {}),
        ("selector", {"items": (), "tags": ()}),
        ("selector.items[0]", {"items": ("17",)}),
        ("selector.items", {"items": "i1"}),
        ("selector.tags", {"tags": "home"}),
        ("selector.tags[0]", {"tags": ("",)}),
        ("selector.source", {"source": ""}),
        ("selector.since", {"since": datetime(2031, 1, 1)}),
        ("selector.until", {"until": datetime(2031, 1, 1)}),
        ("selector", {"session": "s", "tags": ("t",)}),
        ("selector.containing", {"containing": ""}),
    ],
)
def test_a_wrong_selector_is_named(
    memory: memopt.Memory, field: str, which: dict[str, Any]
) -> None:
    memory.remember("stays", scope=SCOPE)
    for verb in (memory.plan_forget, memory.forget):
        with pytest.raises(UsageError) as caught:
            verb(Selector(scope=SCOPE, **which))
        assert caught.value.field == field
    assert texts(memory) == ["stays"]


def test_a_time_that_ends_before_it_begins_is_refused(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    now = to_datetime(clock.now_us())
    with pytest.raises(UsageError, match=r"selector\.until"):
        memory.forget(Selector(scope=SCOPE, since=now, until=now))


def test_many_are_forgotten_in_a_few_commits(memory: memopt.Memory) -> None:
    for n in range(600):
        memory.remember(f"item {n}", scope=SCOPE, tags=["t"])
    commits = memory._parts.directory.home.writer.commits
    assert memory.forget(Selector(scope=SCOPE, tags=("t",))).items == 600
    assert memory._parts.directory.home.writer.commits - commits <= 3
    assert memory.items() == []


def test_damage_of_a_memory_is_found_and_named(tmp_path: Path) -> None:
    with memopt.open(tmp_path, durability="os", maintenance_seconds=0) as memory:
        memory.remember("whole", scope=SCOPE)
        damaged = memory.remember("damaged", scope=SCOPE)
        gone = memory.remember("gone", scope=SCOPE)

        def member(transaction: Any) -> None:
            execute = transaction.tables.items._execute
            record = bytearray(transaction.tables.item_texts.get(2, 1))
            record[-3] ^= 1
            execute("UPDATE item_texts SET record = ? WHERE text = 2 << 20 | 1", (bytes(record),))
            execute("DELETE FROM item_texts WHERE text >> 20 = 3")

        memory._parts.committer.commit(member)
        report = memory.check()
        assert report.items == 3
        assert [(damage.scope, damage.what) for damage in report.damages] == [
            (SCOPE, "the text of version 1 of item 2 fails its checksum"),
            (SCOPE, "version 1 of item 3 is missing"),
        ]
        with pytest.raises(memopt.CorruptionError):
            memory.item(damaged.item_id)
        memory.forget(Selector(scope=SCOPE, items=(damaged.item_id, gone.item_id)))
        assert memory.check().clean
