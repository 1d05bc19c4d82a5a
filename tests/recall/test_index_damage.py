"""A damaged index costs work and nothing else: it is named, made anew, and keeps nobody from
forgetting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import CorruptionError, Selector
from memopt.memory import Memory
from memopt.testing.search import search

SCOPE, OTHER = "acme/ann", "acme/bob"
CANARY = "a canary that nobody must find again 4711"
SETTINGS: dict[str, Any] = {
    "budget": "64MiB",
    "durability": "os",
    "maintenance_seconds": 0,
    "probe_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 400,
}


def opened(path: Path, **more: Any) -> Memory:
    return memopt.open(path, **SETTINGS | more)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with opened(tmp_path / "store") as memory:
        for scope in (SCOPE, OTHER):
            texts = [f"the elephant of {scope} ran on day {n}" for n in range(40)]
            memory.session("s", scope=scope).extend([{"role": "user", "content": t} for t in texts])
            fork = memory.session("s", scope=scope).fork("f", at=20)
            fork.append({"role": "user", "content": f"the elephant of {scope} slept"})
        memory.session("s", scope=SCOPE).redact(3)
        memory.session("s", scope=SCOPE).append({"role": "user", "content": CANARY})
        item = memory.remember(f"the elephant of {SCOPE} is grey", scope=SCOPE)
        memory.revise(item.item_id, f"the elephant of {SCOPE} is green")
        memory.compact()
    return tmp_path / "store"


def every_text(memory: Memory, scope: str = SCOPE) -> list[str]:
    return sorted(hit.text for hit in memory.recall("elephant", scope=scope, limit=1000))


def flip(body: bytes) -> bytes:
    at = len(body) // 2
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def damage(path: Path, make: Callable[[bytes], bytes], *, scope: str = SCOPE) -> int:
    """All segments of a scope; how many."""
    with opened(path) as memory:

        def member(transaction: Any) -> int:
            execute = transaction.tables.segments._execute
            number = transaction.tables.scopes.number(scope)
            rows = execute("SELECT segment, body FROM segments WHERE scope = ?", (number,))
            found = rows.fetchall()
            for segment, body in found:
                execute("UPDATE segments SET body = ? WHERE segment = ?", (make(body), segment))
            return len(found)

        return int(memory._parts.committer.commit(member))


@pytest.mark.parametrize("make", [flip, lambda body: body[:-1], lambda body: b""])
def test_whoever_asks_has_it_made_anew(store: Path, make: Callable[[bytes], bytes]) -> None:
    with opened(store) as memory:
        before = every_text(memory), every_text(memory, OTHER)
    assert damage(store, make) > 0
    with opened(store) as memory:
        assert (every_text(memory), every_text(memory, OTHER)) == before
        assert memory.check().clean
        memory.compact()
        assert (every_text(memory), every_text(memory, OTHER)) == before
    with opened(store) as memory:
        assert memory.check().clean
        assert every_text(memory) == before[0]


def test_check_names_it_and_compact_makes_it_anew(store: Path) -> None:
    count = damage(store, flip)
    with opened(store) as memory:
        damages = memory.check().damages
        assert [(one.scope, one.session) for one in damages] == [(SCOPE, None)] * count
        assert all("of its index" in one.what for one in damages)
        assert all("compact() makes it anew" in one.what for one in damages)
        memory.compact()
        assert memory.check().clean
        assert len(every_text(memory)) == 42


def test_who_only_reads_is_told_and_others_are_not_kept_from_it(store: Path) -> None:
    damage(store, flip)
    with opened(store, read_only=True) as memory:
        with pytest.raises(CorruptionError):
            every_text(memory)
        assert len(every_text(memory, OTHER)) == 41


def test_upkeep_goes_on_behind_it(store: Path) -> None:
    """A damaged segment that is to be merged is no reason to merge nothing any more."""
    damage(store, flip)
    with opened(store, page_target_bytes=150) as memory:
        for scope in (SCOPE, OTHER):
            for n in range(60):
                memory.session("more", scope=scope).append({"content": f"elephant number {n}"})
        for _ in range(20):
            memory._parts.maintenance.once()
        memory.compact()
        assert memory.check().clean
        assert len(every_text(memory)) == 102


def test_what_is_forgotten_leaves_a_damaged_index_too(store: Path) -> None:
    with opened(store) as memory:
        before = every_text(memory)
    damage(store, flip)
    with opened(store) as memory:
        memory.forget(Selector(scope=SCOPE, containing=CANARY))
        memory.compact()
        assert search(memory.path, [CANARY]) == []
        assert every_text(memory) == [text for text in before if text != CANARY]
        assert memory.check().clean
