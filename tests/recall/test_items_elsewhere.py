"""The verbs of stated memories through the owner's socket, and as coroutines."""

import asyncio
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import Decision, Kind, NotFoundError, Selector, UsageError, aio
from memopt.recalling import Recalling, RecallingView

SCOPE = "acme/ann"
VERBS = sorted(name for name in vars(Recalling) if not name.startswith("_"))
WHEN = datetime(2031, 5, 17, 9, 20, tzinfo=UTC)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(tmp_path / "store", durability="os", maintenance_seconds=0) as memory:
        yield memory


def test_every_verb_is_there_with_its_signature(memory: memopt.Memory) -> None:
    with memopt.connect(memory.path) as remote:
        for verb in VERBS:
            here, there = getattr(type(memory), verb), getattr(type(remote), verb)
            assert inspect.signature(there) == inspect.signature(here), verb
            assert there.__doc__ == here.__doc__
    for verb in VERBS:
        assert inspect.iscoroutinefunction(getattr(aio.AsyncMemory, verb)), verb
    for verb in [name for name in vars(RecallingView) if not name.startswith("_")]:
        assert inspect.iscoroutinefunction(getattr(aio.AsyncMemoryView, verb)), verb


def test_a_client_gets_what_the_owner_has(memory: memopt.Memory) -> None:
    with memopt.connect(memory.path) as remote:
        item = remote.remember(
            "Ann has two dogs", scope=SCOPE, kind=Kind.FACT, subject="Ann", valid_from=WHEN,
            tags=["a", "b"], importance=0.25, pin=True, key="k",
        )  # fmt: skip
        assert item == memory.item(item.item_id) == remote.item(item.item_id)
        other = remote.remember("Ann has three dogs", scope=SCOPE, subject="Ann")
        assert other.contradictions == memory.item(other.item_id).contradictions != ()
        assert remote.contradictions(SCOPE) == memory.contradictions(SCOPE)
        before = memory.lsn
        remote.decide(other.item_id, item.item_id, Decision.KEEP)
        remote.revise(item.item_id, "Ann has two dogs and a cat")
        remote.unpin(item.item_id)
        remote.end(item.item_id, at=WHEN)
        assert remote.feedback([item.item_id], 1) == 1
        assert remote.items(SCOPE, tags=["a"]) == memory.items(SCOPE, tags=["a"])
        assert remote.history(item.item_id) == memory.history(item.item_id)
        assert remote.at(before).items(SCOPE) == memory.at(before).items(SCOPE)
        assert remote.at(before).item(item.item_id).text == "Ann has two dogs"
        assert list(remote.journal()) == list(memory.journal())
        selector = Selector(scope=SCOPE, items=(item.item_id,), until=None)
        assert remote.plan_forget(selector) == memory.plan_forget(selector)
        assert remote.forget(selector).items == 1
        assert remote.items(SCOPE) == memory.items(SCOPE) == [memory.item(other.item_id)]


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (UsageError, lambda m: m.remember("", scope=SCOPE)),
        (UsageError, lambda m: m.remember("x", scope=SCOPE, kind="rumour")),
        (UsageError, lambda m: m.items(SCOPE, kinds="fact")),
        (NotFoundError, lambda m: m.item("i9")),
        (NotFoundError, lambda m: m.forget(Selector(scope=SCOPE, items=("i9",)))),
    ],
)
def test_an_error_is_the_same_there(memory: memopt.Memory, error: type, call: Any) -> None:
    memory.remember("x", scope=SCOPE)
    with pytest.raises(error) as here:
        call(memory)
    with memopt.connect(memory.path) as remote, pytest.raises(error) as there:
        call(remote)
    assert str(there.value) == str(here.value)
    assert getattr(there.value, "field", None) == getattr(here.value, "field", None)


def test_coroutines_do_the_same(tmp_path: Path) -> None:
    async def work() -> None:
        async with aio.open(tmp_path / "store", durability="os", maintenance_seconds=0) as memory:
            item = await memory.remember("Ann drinks tea", scope=SCOPE)
            await asyncio.gather(
                *(memory.remember(f"fact {n}", scope=SCOPE, tags=["t"]) for n in range(20))
            )
            assert await memory.item(item.item_id) == item
            assert len(await memory.items(SCOPE, tags=["t"])) == 20
            view = await memory.at(item.lsn)
            assert await view.items(SCOPE) == [item]

    asyncio.run(work())
