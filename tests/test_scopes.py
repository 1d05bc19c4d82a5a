"""Nothing crosses scopes: texts, dictionaries, listings, forgetting, time, ids and names."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memopt.base.errors import UsageError
from memopt.base.records import Reach, Selector
from memopt.codecs.frame import dictionary_of
from memopt.memory import Memory
from memopt.sessions import compaction
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "budget": "64MiB",
    "durability": "os",
    "maintenance_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 1024,
    "text_bytes_min": 300,
    "dictionary_bytes": 4096,
    "dictionary_training_pages": 8,
}
ALIKE = [
    "acme",
    "acme/user-4",
    "acme/user-42",
    "acme/user-4/2",
    "acme/user-4/project",
    "acme/user-4 2",
    "acme/user-4.2",
    "acme/user-4-2",
    "acme/user_4",
    "acme/user%4",
    "acme/user%",
    "acme/%",
    "acme/_ser-4",
    "acme/USER-4",
    "acme/üser-4",
    "acme/u\u0308ser-4",
    "acme/用户-4",
    "acme/\U0001f600",
    "acme/\U0010ffff",
    "acme/'; DROP TABLE sessions --",
    "acme0",
    "acme.",
    "acmé",
    "ACME/user-4",
    "%",
    "_",
    "*",
    "acm",
]
CHANCE = random.Random(13)


def words(count: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(CHANCE.choices(letters, k=CHANCE.randint(3, 9))) for _ in range(count))


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with open_memory(tmp_path / "store", **SETTINGS) as opened:
        yield opened
        assert opened.check().clean


@pytest.fixture
def alike(memory: Memory) -> Memory:
    """The same id in every one of the scopes whose names look alike."""
    for scope in ALIKE:
        session = memory.session("same", scope=scope)
        session.append(said(f"said in {scope}"))
        session.save_state({"in": scope})
    return memory


def scopes_of(memory: Memory) -> set[str]:
    infos = memory.sessions(None, limit=1000)
    assert all(info.id == "same" for info in infos)
    assert len({info.scope for info in infos}) == len(infos)
    return {info.scope for info in infos}


def is_below(scope: str, top: str) -> bool:
    """By whole components: what the library has to agree with."""
    return scope.split("/")[: len(top.split("/"))] == top.split("/")


def test_one_id_in_many_scopes_is_many_sessions(alike: Memory) -> None:
    assert scopes_of(alike) == set(ALIKE)
    for scope in ALIKE:
        session = alike.session("same", scope=scope)
        assert list(session.messages()) == [said(f"said in {scope}")]
        state = session.load_state()
        assert state is not None
        assert state.value == {"in": scope}
        assert alike.pages("same", scope=scope) == []


@pytest.mark.parametrize("scope", ALIKE)
def test_a_listing_shows_the_scopes_it_was_asked_for(alike: Memory, scope: str) -> None:
    def listed(reach: Reach) -> list[str]:
        return [info.scope for info in alike.sessions(scope, reach=reach, limit=1000)]

    assert listed(Reach.EXACT) == [scope]
    assert set(listed(Reach.SUBTREE)) == {other for other in ALIKE if is_below(other, scope)}
    assert set(listed(Reach.ANCESTORS)) == {other for other in ALIKE if is_below(scope, other)}


@pytest.mark.parametrize("reach", [Reach.EXACT, Reach.SUBTREE])
@pytest.mark.parametrize("scope", ["acme", "acme/user-4", "acme/user%", "acme/%", "%", "_", "acm"])
def test_forgetting_a_scope_leaves_those_that_look_like_it(
    alike: Memory, scope: str, reach: Reach
) -> None:
    gone = {
        other
        for other in ALIKE
        if other == scope or (reach is Reach.SUBTREE and is_below(other, scope))
    }
    plan = alike.plan_forget(Selector(scope=scope, reach=reach, whole_scope=True))
    assert {target.scope for target in plan.targets} == gone
    assert alike.forget(plan).sessions == len(gone)
    assert scopes_of(alike) == set(ALIKE) - gone
    alike.compact()
    assert scopes_of(alike) == set(ALIKE) - gone
    for other in set(ALIKE) - gone:
        assert list(alike.session("same", scope=other).messages()) == [said(f"said in {other}")]


def test_forgetting_a_text_leaves_it_where_it_was_not_asked_for(alike: Memory) -> None:
    for scope in ALIKE:
        alike.session("same", scope=scope).append(said("the same words"))
    alike.forget(Selector(scope="acme/user-4", containing="the same words"))
    for scope in ALIKE:
        texts = [message["content"] for message in alike.session("same", scope=scope).messages()]
        assert texts[1] == ("[redacted]" if scope == "acme/user-4" else "the same words")


def test_restoring_a_scope_moves_no_head_elsewhere(alike: Memory) -> None:
    lsn = alike.lsn
    for scope in ALIKE:
        alike.session("same", scope=scope).append(said("later"))
    assert alike.restore("acme/user-4", lsn) == 1
    for scope in ALIKE:
        assert len(alike.session("same", scope=scope)) == (1 if scope == "acme/user-4" else 2)


def test_time_travel_lists_no_other_scope(alike: Memory) -> None:
    view = alike.at(alike.lsn)
    assert [info.scope for info in view.sessions("acme/user-4")] == ["acme/user-4"]
    assert len(view.session("same", scope="acme/user-42")) == 1


def test_a_fork_stays_in_its_scope(alike: Memory) -> None:
    fork = alike.session("same", scope="acme/user-4").fork("forked")
    assert fork.scope == "acme/user-4"
    assert len(alike.session("forked", scope="acme/user-42")) == 0


def test_an_idempotency_key_is_known_to_its_session_alone(memory: Memory) -> None:
    first = memory.session("s", scope="a/1").append(said("one"), key="k")
    second = memory.session("s", scope="a/2").append(said("two"), key="k")
    third = memory.session("t", scope="a/1").append(said("three"), key="k")
    assert len({first.lsn, second.lsn, third.lsn}) == 3
    assert memory.session("s", scope="a/1").append(said("one"), key="k") == first


@pytest.mark.parametrize("scope", ["", "/", "a/", "/a", "a//b", "a/../b", ".", "a/ /b", "a\nb", 7])
def test_a_scope_that_is_no_path_is_refused(memory: Memory, scope: Any) -> None:
    with pytest.raises(UsageError):
        memory.session("s", scope=scope)
    with pytest.raises(UsageError):
        memory.sessions(scope)
    with pytest.raises(UsageError):
        memory.plan_forget(Selector(scope=scope, whole_scope=True))


# -- texts and dictionaries -----------------------------------------------------------------------


def rows(memory: Memory, sql: str) -> list[Any]:
    return memory._parts.directory.home.writer.connection.execute(sql).fetchall()


def texts_by_scope(memory: Memory) -> dict[str, int]:
    query = "SELECT path, count(*) FROM texts JOIN scopes USING (scope) GROUP BY path"
    return dict(rows(memory, query))


def test_a_system_prompt_is_stored_once_in_a_tenant_and_again_in_the_next(memory: Memory) -> None:
    prompt = words(200)
    for scope in ("acme/a", "acme/b", "acme/b/c", "beta/a"):
        memory.session("s", scope=scope).append({"role": "system", "content": prompt})
    memory.compact()
    assert texts_by_scope(memory) == {"acme": 1, "beta": 1}


def test_what_users_say_is_stored_once_in_their_scope_and_again_in_every_other(
    memory: Memory,
) -> None:
    text = words(2000)
    for scope in ("acme/a", "acme/b", "acme/b/c", "beta/a"):
        for id in ("s", "t"):
            memory.session(id, scope=scope).append(said(text))
    memory.compact()
    assert texts_by_scope(memory) == {"acme/a": 1, "acme/b": 1, "acme/b/c": 1, "beta/a": 1}


def test_a_page_refers_to_texts_of_its_tenant_or_of_its_scope_alone(memory: Memory) -> None:
    prompt, text = words(200), words(2000)
    for scope in ("acme/a", "acme/b", "beta/a"):
        memory.session("s", scope=scope).extend([{"role": "system", "content": prompt}, said(text)])
    memory.compact()
    refs = rows(
        memory,
        "SELECT own.path, theirs.path FROM text_refs JOIN texts USING (text) "
        "JOIN page_map USING (page) JOIN lines USING (line) "
        "JOIN sessions ON sessions.session = lines.session "
        "JOIN scopes own ON own.scope = sessions.scope "
        "JOIN scopes theirs ON theirs.scope = texts.scope",
    )
    assert len(refs) == 6
    assert all(theirs in (own, own.partition("/")[0]) for own, theirs in refs)


def test_a_dictionary_serves_its_tenant_and_one_of_few_scopes_its_leaf_scope_alone(
    memory: Memory,
) -> None:
    for tenant, scopes in (("many", 6), ("few", 2)):
        phrases = [words(14) for _ in range(12)]
        for scope in range(scopes):
            for session in range(12 // scopes * 2):
                handle = memory.session(f"s{session}", scope=f"{tenant}/{scope}")
                for phrase in phrases:
                    handle.append(said(f"{phrase} {words(2)} {phrase}"))
    memory.compact()
    owners = dict(
        rows(memory, "SELECT dictionary, path FROM dictionaries JOIN scopes USING (scope)")
    )
    assert set(owners.values()) == {"many", "few/0", "few/1"}
    used = rows(
        memory,
        "SELECT scopes.path, pages.body FROM pages JOIN lines USING (line) "
        "JOIN sessions ON sessions.session = lines.session "
        "JOIN scopes ON scopes.scope = sessions.scope",
    )
    assert len(used) > 20
    for scope, body in used:
        number = dictionary_of(body)
        assert number == 0 or owners[number] in (scope, scope.partition("/")[0])
    assert {owners[number] for _, body in used if (number := dictionary_of(body))} == set(
        owners.values()
    )


def test_forgetting_one_tenant_leaves_the_dictionary_of_another(memory: Memory) -> None:
    for tenant in ("one", "two"):
        phrases = [words(14) for _ in range(12)]
        for scope in range(6):
            for session in range(3):
                handle = memory.session(f"s{session}", scope=f"{tenant}/{scope}")
                for phrase in phrases:
                    handle.append(said(f"{phrase} {words(2)} {phrase}"))
    memory.compact()
    before = rows(memory, "SELECT dictionary, body FROM dictionaries ORDER BY dictionary")
    assert len(before) == 2
    memory.forget(Selector(scope="one", reach=Reach.SUBTREE, whole_scope=True))
    memory.compact()
    after = rows(memory, "SELECT dictionary, body FROM dictionaries")
    assert len(after) == 1
    assert after[0] in before
    assert {info.scope.partition("/")[0] for info in memory.sessions(None)} == {"two"}


def test_a_dictionary_that_was_being_learnt_while_somebody_forgot_is_not_kept(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was forgotten is in its samples; its install comes after the forgetting."""
    secret = "the secret of the red house by the sea, which nobody else may ever hear of"
    for number in range(40):
        session = memory.session(f"s{number}", scope="acme/u")
        session.append({"role": "user", "content": f"{secret} {number} " * 12})
        session.append({"role": "user", "content": f"{secret} {number} " * 12})
    parts = memory._parts
    learn = parts.dictionaries.learn
    found: list[int] = []

    def meanwhile(tenant: int, samples: Any = None) -> Any:
        trained = learn(tenant, samples)
        found.append(sum(secret.encode()[:20] in item.body for item in trained))
        if len(found) == 1:
            memory.forget(Selector(scope="acme/u", containing="red house"))
            memory.session("other", scope="acme/u").append({"role": "user", "content": "hello"})
        return trained

    with parts.directory.home.snapshot() as tables:
        tenant = tables.scopes.number("acme")
    assert tenant is not None
    samples = list(parts.compaction._samples().get(tenant, []))
    monkeypatch.setattr(parts.dictionaries, "learn", meanwhile)
    compaction.install_learnt(parts.dictionaries, parts.committer, parts.events, tenant, samples)
    assert found[0], "the dictionary would have held it"
    assert rows(memory, "SELECT body FROM dictionaries") == []
