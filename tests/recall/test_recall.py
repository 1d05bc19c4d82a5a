"""Recall of messages: whatever is acknowledged and visible is found, and nothing else is."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.errors import UsageError
from memopt.base.records import Reach
from memopt.memory import Memory
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
        yield opened
        opened._parts.recall.engine.scopes.check()
        opened._parts.budget.check()


def say(memory: Memory, id: str, *texts: str, scope: str = SCOPE) -> None:
    memory.session(id, scope=scope).extend([{"role": "user", "content": text} for text in texts])


def filler(memory: Memory, count: int = 30) -> None:
    say(memory, "filler", *(f"the weather was mild on day {n} of the walk" for n in range(count)))


def found(memory: Memory, query: str, **how: Any) -> list[str]:
    return [hit.text for hit in memory.recall(query, **({"scope": SCOPE} | how))]


def test_a_message_is_found_as_soon_as_it_is_acknowledged_and_stays_found(memory: Memory) -> None:
    filler(memory)
    assert "zebra" not in found(memory, "zebra", limit=1)[0]
    for n in range(40):
        say(memory, "s", f"a zebra{n} in the garden")
        assert found(memory, f"zebra{n}", limit=1) == [f"a zebra{n} in the garden"]
    assert found(memory, "zebra3", limit=1) == ["a zebra3 in the garden"]
    memory.compact()
    assert found(memory, "zebra3", limit=1) == ["a zebra3 in the garden"]


def test_a_hit_says_what_and_where_it_is(memory: Memory) -> None:
    filler(memory)
    at = datetime(2025, 3, 4, 5, 6, tzinfo=UTC)
    session = memory.session("talk", scope=SCOPE)
    session.append({"role": "user", "content": "nothing much"})
    session.append({"role": "assistant", "content": "The flight to Lima leaves at nine."}, at=at)
    (hit,) = memory.recall("when does the flight to Lima leave?", scope=SCOPE, limit=1)
    assert hit.text == "The flight to Lima leaves at nine."
    assert hit.tokens == 9
    assert (hit.role, hit.kind, hit.scope, hit.at) == ("assistant", "episode", SCOPE, at)
    assert hit.spans == (memopt.Span(session="talk", start=1, stop=2),)
    assert hit.item_id
    again = memory.recall("flight Lima", scope=SCOPE, limit=1)[0]
    assert again.item_id == hit.item_id


def test_what_a_session_has_left_is_not_found(memory: Memory) -> None:
    filler(memory)
    session = memory.session("s", scope=SCOPE)
    say(memory, "s", "first an elephant", "then a gazelle", "last an okapi")
    assert found(memory, "gazelle", limit=1) == ["then a gazelle"]
    session.truncate(1)
    assert not any("gazelle" in text or "okapi" in text for text in found(memory, "gazelle okapi"))
    say(memory, "s", "instead a gazelle calf")
    assert found(memory, "gazelle", limit=1) == ["instead a gazelle calf"]
    session.pop()
    assert not any("gazelle" in text for text in found(memory, "gazelle"))
    assert found(memory, "elephant", limit=1) == ["first an elephant"]


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_redacted_is_not_found(memory: Memory, sealed: bool) -> None:
    filler(memory)
    say(memory, "s", "the code is 4711", "and so on")
    if sealed:
        memory.compact()
    assert found(memory, "code 4711", limit=1) == ["the code is 4711"]
    memory.session("s", scope=SCOPE).redact(0)
    for _ in range(2):
        assert not any("4711" in text or "redacted" in text for text in found(memory, "code 4711"))
        memory.compact()


@pytest.mark.parametrize("how", ["delete", "forget", "whole_scope"])
def test_what_is_deleted_is_not_found(memory: Memory, how: str) -> None:
    filler(memory)
    say(memory, "s", "the code is 4711")
    assert found(memory, "code 4711", limit=1) == ["the code is 4711"]
    if how == "delete":
        memory.session("s", scope=SCOPE).delete()
    elif how == "forget":
        memory.forget(memopt.Selector(scope=SCOPE, containing="4711"))
    else:
        memory.forget(memopt.Selector(scope=SCOPE, whole_scope=True))
    assert not any("4711" in text for text in found(memory, "code 4711"))
    say(memory, "s", "another code, 4712")
    assert found(memory, "code", limit=1) == ["another code, 4712"]


def test_what_a_fork_shares_is_found_once_and_outlives_its_parent(memory: Memory) -> None:
    filler(memory)
    say(memory, "parent", "we saw an elephant", "and a gazelle")
    fork = memory.session("parent", scope=SCOPE).fork("child", at=1)
    fork.append({"role": "user", "content": "the fork saw an okapi"})
    hits = list(memory.recall("elephant", scope=SCOPE))
    assert [hit.spans[0].session for hit in hits if "elephant" in hit.text] == ["parent"]
    assert found(memory, "okapi", limit=1) == ["the fork saw an okapi"]
    memory.session("parent", scope=SCOPE).delete()
    hits = list(memory.recall("elephant gazelle", scope=SCOPE))
    assert [hit.spans[0].session for hit in hits if "elephant" in hit.text] == ["child"]
    assert not any("gazelle" in hit.text for hit in hits)


def test_a_store_that_is_opened_again_finds_what_the_last_one_found(tmp_path: Path) -> None:
    with open_memory(tmp_path, **SETTINGS) as memory:
        filler(memory)
        say(memory, "s", "an elephant", "a gazelle")
        before = list(memory.recall("gazelle walk", scope=SCOPE))
    with open_memory(tmp_path, **SETTINGS) as memory:
        assert list(memory.recall("gazelle walk", scope=SCOPE)) == before


def test_what_was_not_indexed_is_found_all_the_same(tmp_path: Path) -> None:
    with open_memory(tmp_path, indexing="off", **SETTINGS) as memory:
        filler(memory)
        say(memory, "s", "an elephant")
        memory.compact()
    with open_memory(tmp_path, **SETTINGS) as memory:
        say(memory, "s", "a gazelle")
        assert found(memory, "elephant", limit=1) == ["an elephant"]
        assert found(memory, "gazelle", limit=1) == ["a gazelle"]


def test_scopes_are_looked_at_by_reach_and_never_otherwise(memory: Memory) -> None:
    for scope in ("acme", "acme/ann", "acme/ann/work", "acme/bob", "other"):
        say(memory, "s", f"the elephant of {scope}", scope=scope)
    assert found(memory, "elephant", scope="acme/ann") == ["the elephant of acme/ann"]
    below = found(memory, "elephant", scope="acme/ann", reach=Reach.SUBTREE)
    assert sorted(below) == ["the elephant of acme/ann", "the elephant of acme/ann/work"]
    above = found(memory, "elephant", scope="acme/ann", reach="ancestors")
    assert sorted(above) == ["the elephant of acme", "the elephant of acme/ann"]


def test_what_comes_back_fits_into_the_tokens_that_were_asked_for(memory: Memory) -> None:
    say(memory, "s", *(f"elephant {n} " + "and more " * n for n in range(30)))
    for limit in (1, 5, 20, 100):
        recall = memory.recall("elephant", scope=SCOPE, max_tokens=limit)
        assert recall.tokens == sum(-(-len(hit.text) // 4) for hit in recall) <= limit
    assert len(memory.recall("elephant", scope=SCOPE, max_tokens=1000, limit=3)) == 3
    assert len(memory.recall("elephant", scope=SCOPE, max_tokens=100_000)) == 30


def test_what_was_known_later_is_not_found_as_of_then(memory: Memory) -> None:
    filler(memory)
    say(memory, "s", "an elephant came")
    lsn = memory.lsn
    say(memory, "s", "an elephant went")
    for recall in (
        memory.recall("elephant", scope=SCOPE, known_at=lsn),
        memory.at(lsn).recall("elephant", scope=SCOPE),
    ):
        assert [hit.text for hit in recall if "elephant" in hit.text] == ["an elephant came"]


NOTHING: list[tuple[str, Callable[[Memory], None]]] = [
    ("nothing in scope", lambda memory: None),
    ("no word", lambda memory: say(memory, "s", "an elephant")),
    ("has text", lambda memory: memory.session("s", scope=SCOPE).append({"n": 1}) and None),
]


@pytest.mark.parametrize(("note", "prepare"), NOTHING, ids=[note for note, _ in NOTHING])
def test_an_empty_recall_says_why(
    memory: Memory, note: str, prepare: Callable[[Memory], None]
) -> None:
    prepare(memory)
    recall = memory.recall("", scope=SCOPE)
    assert list(recall) == []
    assert bool(recall)
    assert note in recall.notes[0]


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("query", {"query": 3}),
        ("scope", {"scope": "/"}),
        ("reach", {"reach": "everywhere"}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": 100_000}),
        ("limit", {"limit": "10"}),
        ("max_tokens", {"max_tokens": 0}),
        ("kinds", {"kinds": "fact"}),
        ("kinds[0]", {"kinds": ["thing"]}),
        ("tags", {"tags": "a"}),
        ("min_score", {"min_score": "high"}),
        ("min_score", {"min_score": float("nan")}),
        ("valid_at", {"valid_at": datetime(2025, 1, 1)}),
        ("known_at", {"known_at": -1}),
        ("now", {"now": 3}),
    ],
)
def test_a_wrong_argument_is_named(memory: Memory, field: str, arguments: dict[str, Any]) -> None:
    say(memory, "s", "an elephant")
    with pytest.raises(UsageError) as caught:
        memory.recall(**({"query": "elephant", "scope": SCOPE} | arguments))
    assert caught.value.field == field


def test_no_query_makes_it_stumble(memory: Memory) -> None:
    filler(memory)
    for query in ("the of and", "\x00\x01", "x" * 100_000, "?" * 50, "大象", "\ud800"):
        assert len(memory.recall(query, scope=SCOPE).hits) <= 10


def test_a_remote_recall_is_the_same(memory: Memory) -> None:
    filler(memory)
    say(memory, "s", "an elephant")
    with memopt.connect(memory.path) as remote:
        assert remote.recall("elephant", scope=SCOPE) == memory.recall("elephant", scope=SCOPE)
        at = remote.at(memory.lsn)
        assert at.recall("elephant", scope=SCOPE, limit=1)[0].text == "an elephant"


def test_a_hit_says_why_in_words_and_in_numbers(memory: Memory) -> None:
    filler(memory)
    say(memory, "s", "Lea adopted a dog from the shelter", "and called her Maple")
    hits = list(memory.recall("Who adopted a dog?", scope=SCOPE, limit=5))
    assert hits[0].text == "Lea adopted a dog from the shelter"
    assert hits[0].why.startswith("has adopted, dog; ")
    assert all(0 < hit.score < 1 and hit.why and hit.features for hit in hits)
    assert hits[0].features["words_root"] > hits[-1].features["words_root"]
    low = (hits[0].score + hits[1].score) / 2
    assert list(memory.recall("Who adopted a dog?", scope=SCOPE, min_score=low)) == hits[:1]


def test_messages_memories_and_documents_are_ranked_together(memory: Memory) -> None:
    filler(memory)
    say(memory, "s", "The flight to Lima leaves at nine.")
    memory.remember("Ann prefers an aisle seat", scope=SCOPE, kind="preference")
    memory.ingest("# Travel rules\n\nTrains up to four hours.", scope=SCOPE, source="handbook")
    for query, kind in (
        ("When does the flight to Lima leave?", "episode"),
        ("Which seat does Ann prefer?", "preference"),
        ("What are the travel rules?", "document"),
    ):
        (hit,) = memory.recall(query, scope=SCOPE, limit=1)
        assert hit.kind == kind
        assert hit.why


def test_importance_and_feedback_are_heeded_a_little(memory: Memory) -> None:
    filler(memory)
    low, high = (
        memory.remember("the code of the door is kept in the safe", scope=SCOPE, importance=at)
        for at in (0.1, 0.9)
    )
    query = "Where is the code of the door kept?"
    hits = memory.recall(query, scope=SCOPE, limit=2)
    assert [hit.item_id for hit in hits] == [high.item_id, low.item_id]
    assert hits[0].features["importance"] > 0 > hits[1].features["importance"]
    for _ in range(5):
        memory.feedback([low.item_id], 1.0)
        memory.feedback([high.item_id], -1.0)
    hits = memory.recall(query, scope=SCOPE, limit=2)
    assert [hit.item_id for hit in hits] == [low.item_id, high.item_id]


def test_what_stands_under_a_heading_is_found_by_it(memory: Memory) -> None:
    filler(memory)
    session = memory.session("page", scope=SCOPE)
    session.append({"role": "heading", "content": "Ghent"})
    session.append({"content": "The river is narrow there."})
    memory.session("other", scope=SCOPE).append({"content": "The river is wide here."})
    texts = found(memory, "How is the river in Ghent?", limit=40)
    assert texts[0] == "The river is narrow there."
    assert "Ghent" not in texts
