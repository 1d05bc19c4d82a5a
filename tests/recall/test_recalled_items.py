"""Recall of what was stated and ingested: as it is, as it was, and never once it is forgotten."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.memory import Memory
from memopt.recall.entries import Entries
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "durability": "os",
    "maintenance_seconds": 0,
    "probe_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 1000,
}
SCOPE = "acme/ann"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with open_memory(tmp_path / "store", **SETTINGS) as opened:
        texts = [f"the weather was mild on day {n} of the walk" for n in range(30)]
        opened.session("s", scope=SCOPE).extend([{"content": text} for text in texts])
        yield opened
        opened._parts.recall.engine.scopes.check()
        opened._parts.budget.check()


def found(memory: Memory, query: str, **how: Any) -> list[str]:
    return [hit.text for hit in memory.recall(query, **({"scope": SCOPE, "limit": 5} | how))]


def entries(memory: Memory) -> set[tuple[int, int]]:
    with memory._parts.directory.home.snapshot() as tables:
        heads = tables.segments.heads((0, 0), 1000)
        parts = [
            Entries.decode(row.body) for head in heads if (row := tables.segments.get(head.segment))
        ]
    return {
        (source, seq)
        for part in parts
        for source, seq in zip(part.source.tolist(), part.seq.tolist(), strict=True)
        if source < 0
    }


@pytest.mark.parametrize("indexing", ["on", "off"])
@pytest.mark.parametrize("is_indexed", [False, True])
def test_what_is_stated_is_found_with_all_that_is_known_of_it(
    tmp_path: Path, indexing: str, is_indexed: bool
) -> None:
    with open_memory(tmp_path, indexing=indexing, **SETTINGS) as memory:
        memory.session("s", scope=SCOPE).append({"content": "somebody likes milk"})
        memory.recall("tea", scope=SCOPE)
        item = memory.remember(
            "Ann likes green tea", scope=SCOPE, kind="preference", subject="Ann", tags=["drinks"],
            source="her sister", pin=True,
        )  # fmt: skip
        if is_indexed:
            memory.compact()
            assert entries(memory) == {(-1, 1)}
        (hit,) = memory.recall("what tea does Ann like?", scope=SCOPE, limit=1)
        assert (hit.item_id, hit.text, hit.kind) == (item.item_id, item.text, "preference")
        assert (hit.tags, hit.source, hit.pinned, hit.valid) == (
            ("drinks",), "her sister", True, item.valid,
        )  # fmt: skip
        assert (hit.spans, hit.role, hit.at) == ((), None, item.stated_at)


@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("is_indexed", [False, True])
def test_what_was_replaced_is_found_as_of_then_alone(
    memory: Memory, is_resident: bool, is_indexed: bool
) -> None:
    if is_resident:
        found(memory, "walk")
    tea = memory.remember("Ann drinks tea", scope=SCOPE, subject="Ann", attribute="drink")
    lsn = memory.lsn
    coffee = memory.remember("Ann drinks coffee", scope=SCOPE, subject="Ann", attribute="drink")
    memory.revise(coffee.item_id, "Ann drinks strong coffee")
    if is_indexed:
        memory.compact()
    facts = {"kinds": ["fact"]}
    assert found(memory, "Ann drinks", **facts) == ["Ann drinks strong coffee"]
    assert found(memory, "Ann drinks", known_at=lsn, **facts) == ["Ann drinks tea"]
    assert found(memory, "Ann drinks", known_at=lsn + 1, **facts) == ["Ann drinks coffee"]
    assert found(memory, "Ann drinks", valid_at=tea.stated_at, **facts) == ["Ann drinks tea"]
    before = datetime(2001, 1, 1, tzinfo=UTC)
    assert found(memory, "Ann drinks", valid_at=before, **facts) == []


def test_kinds_and_tags_choose(memory: Memory) -> None:
    memory.remember("the walk was a fact", scope=SCOPE, tags=["a", "b"])
    memory.remember("the walk was a goal", scope=SCOPE, kind="goal", tags=["b"])
    memory.ingest("# Walks\n\nA walk begins at home.", scope=SCOPE, source="walks.md", tags=["a"])
    assert found(memory, "walk", kinds=["goal"]) == ["the walk was a goal"]
    assert len(found(memory, "walk", kinds=["episode"])) == 5
    assert set(found(memory, "walk", tags=["b"])) == {"the walk was a fact", "the walk was a goal"}
    assert found(memory, "walk", tags=["b", "a"]) == ["the walk was a fact"]
    (document,) = memory.recall("walk", scope=SCOPE, kinds=["document"])
    assert (document.source, document.tags) == ("walks.md", ("a",))
    assert found(memory, "walk", tags=["c"]) == []
    assert found(memory, "walk", kinds=[]) == []


@pytest.mark.parametrize("is_indexed", [False, True])
def test_what_is_forgotten_is_not_found_and_leaves_no_entry(
    memory: Memory, is_indexed: bool
) -> None:
    item = memory.remember("the code is 4711", scope=SCOPE)
    memory.revise(item.item_id, "the code is 4712")
    if is_indexed:
        memory.compact()
        assert entries(memory) == {(-1, 1), (-1, 2)}
    assert found(memory, "code", limit=1) == ["the code is 4712"]
    memory.forget(memopt.Selector(scope=SCOPE, items=(item.item_id,)))
    assert not any("471" in text for text in found(memory, "code 4711 4712"))
    memory.compact()
    assert entries(memory) == set()
    assert not any("471" in text for text in found(memory, "code 4711 4712"))


def test_what_one_scope_states_another_does_not_find(memory: Memory) -> None:
    memory.remember("the zebra is ann's", scope=SCOPE)
    memory.remember("the zebra is bob's", scope="acme/bob")
    assert found(memory, "zebra", limit=1) == ["the zebra is ann's"]
    assert found(memory, "zebra", scope="acme/bob") == ["the zebra is bob's"]
    above = found(memory, "zebra", scope="acme", reach="subtree", limit=2)
    assert set(above) == {"the zebra is ann's", "the zebra is bob's"}


def test_every_hit_says_why_it_is_remembered(tmp_path: Path) -> None:
    clock = ManualClock()
    with open_memory(tmp_path, clock=clock, **SETTINGS) as memory:
        session = memory.session("s1", scope=SCOPE)
        session.append(
            {"role": "user", "content": "a zebra ran"}, at=datetime(2022, 5, 7, tzinfo=UTC)
        )
        session.append({"content": "the zebra slept"})
        memory.ingest("# Zebra\n\nIt has stripes.", scope=SCOPE, source="zoo.md")
        memory.remember("a zebra was born", scope=SCOPE, kind="event", source="Bob", pin=True)
        memory.remember(
            "the zebra is ill", scope=SCOPE, valid_to=datetime(2023, 11, 20, tzinfo=UTC)
        )
        hits = memory.recall("zebra", scope=SCOPE)
    assert {hit.because.removeprefix("I remember this because ") for hit in hits} == {
        "the user said it on 2022-05-07, in session s1.",
        "somebody said it on 2023-11-14, in session s1.",
        "it stands in zoo.md, ingested on 2023-11-14.",
        "it was stated as an event on 2023-11-14, taken from Bob, pinned.",
        "it was stated as a fact on 2023-11-14, so until 2023-11-20.",
    }
