"""How long collections live, who sees them, and what forgetting, checking and the journal say."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import Reach, RecordKind, Selector, UsageError
from memopt.base.clock import ManualClock
from memopt.base.records import PLACE_BITS
from memopt.testing.search import search

CANARY = "kanarienvogel-4711"
NAME = "papers of this user alone"


def opened(path: Path, **settings: Any) -> memopt.Memory:
    settings = {
        "budget": "16MiB", "durability": "os", "maintenance_seconds": 0, "ballast_bytes": 0,
        "clock": ManualClock(),
    } | settings  # fmt: skip
    return memopt.open(path / "store", **settings)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with opened(tmp_path) as memory:
        yield memory
        assert memory.check().clean


def rows(memory: memopt.Memory, table: str) -> int:
    connection = memory._parts.directory.home.writer.connection
    [[count]] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)


def test_owners_names_and_kinds_do_not_meet(memory: memopt.Memory) -> None:
    handles: list[Any] = [
        memory.mapping("m", scope="acme/user-4"),
        memory.mapping("m", scope="acme/user-42"),
        memory.mapping("m", scope="acme"),
        memory.mapping("n", scope="acme"),
        memory.session("m", scope="acme").mapping("m"),
        memory.session("n", scope="acme").mapping("m"),
        memory.session("n", scope="acme/user-4").mapping("m"),
    ]
    lists: list[Any] = [memory.sequence("m", scope="acme"), memory.session("m").sequence("m")]
    for number, handle in enumerate(handles):
        handle["k"] = number
    for handle in lists:
        handle.append("one")
    assert [dict(handle) for handle in handles] == [{"k": n} for n in range(len(handles))]
    assert [list(handle) for handle in lists] == [["one"], ["one"]]


def test_a_session_takes_its_collections_along(memory: memopt.Memory) -> None:
    session = memory.session("s", scope="acme")
    session.mapping("m")["k"] = CANARY
    session.sequence("l").extend(["a", "b"])
    kept = memory.mapping("m", scope="acme")
    kept["k"] = "kept"
    handle = session.mapping("m")
    assert handle["k"] == CANARY
    session.delete()
    assert "k" not in handle
    assert list(handle) == []
    assert len(session.sequence("l")) == 0
    assert rows(memory, "collections") == 1
    assert rows(memory, "entries") == 1
    # The scope stays, for it has something of its own; and a session of that name starts empty.
    assert kept["k"] == "kept"
    handle["k"] = 2
    assert dict(memory.session("s", scope="acme").mapping("m")) == {"k": 2}


def test_a_fork_does_not_copy_them(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.append({"role": "user", "content": "hello"})
    session.mapping("m")["k"] = 1
    assert not session.fork("t").mapping("m")


def test_a_collection_makes_its_session_and_its_agent(memory: memopt.Memory) -> None:
    memory.session("s", agent="bot").mapping("m")["k"] = 1
    [info] = memory.sessions("default")
    assert (info.id, info.agent, info.message_count) == ("s", "bot", 0)


def test_a_scope_is_forgotten_with_what_it_owns(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.mapping("papers", scope="acme/user-4")["k"] = {"text": f"about {CANARY}"}
        memory.sequence(NAME, scope="acme/user-4").append(f"{CANARY} again".encode())
        memory.session("s", scope="acme/user-4").mapping("m")[CANARY] = 1
        memory.mapping("papers", scope="acme/user-42")["k"] = "stays"
        plan = memory.plan_forget(Selector(scope="acme/user-4", whole_scope=True))
        assert plan.values == 3
        assert [target.session for target in plan.targets] == ["s", None]
        receipt = memory.forget(plan)
        assert (receipt.sessions, receipt.values) == (1, 3)
        assert not memory.mapping("papers", scope="acme/user-4")
        assert memory.mapping("papers", scope="acme/user-42")["k"] == "stays"
        with memory._parts.directory.home.snapshot() as tables:
            assert tables.scopes.number("acme/user-4") is None
        memory.compact()
        assert not search(tmp_path / "store", [CANARY, NAME])
        assert search(tmp_path / "store", ["papers"]), "another scope's"
    assert not search(tmp_path / "store", [CANARY, NAME])


@pytest.mark.parametrize("owner", ["scope", "session"])
def test_entries_that_hold_a_text_are_forgotten_and_the_others_stay(
    tmp_path: Path, owner: str
) -> None:
    with opened(tmp_path) as memory:
        where: Any = memory if owner == "scope" else memory.session("s")
        mapping, sequence = where.mapping("m"), where.sequence("l")
        named = where.mapping(f"of {CANARY}")
        mapping.update({"a": 1, "b": {"deep": [f"x{CANARY}x"]}, f"c {CANARY}": 2, "d": "stays"})
        mapping["e"] = f"{CANARY} in bytes".encode()
        mapping["long"] = f"{CANARY} {'compressed ' * 500}"
        mapping["replaced"] = f"{CANARY} before"
        mapping["replaced"] = "after"
        sequence.extend([0, CANARY, 2, [CANARY], 4])
        named["k"] = 1
        selector = Selector(scope="default", containing=CANARY)
        plan = memory.plan_forget(selector)
        assert plan.values == 7
        assert memory.forget(plan).values == 7
        assert dict(mapping) == {"a": 1, "d": "stays", "replaced": "after"}
        assert list(sequence) == [0, 2, 4]
        assert not named
        assert memory.plan_forget(selector).targets == ()
        memory.compact()
        assert not search(tmp_path / "store", [CANARY])
        assert memory.check().clean


def test_what_was_overwritten_or_deleted_is_erased(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        mapping, sequence = memory.mapping("m"), memory.sequence("l")
        mapping["k"] = f"{CANARY} {'x' * 3000}"
        mapping["k"] = 1
        mapping[CANARY] = 1
        del mapping[CANARY]
        sequence.extend(range(10))
        sequence.insert(3, CANARY)
        sequence.pop(3)
        memory.mapping("gone")["k"] = CANARY
        memory.mapping("gone").clear()
        memory.compact()
        assert not search(tmp_path / "store", [CANARY])


def test_scopes_below_are_reached_when_that_is_asked_for(memory: memopt.Memory) -> None:
    for scope in ("acme", "acme/user-4", "acme/user-42", "acmeadam"):
        memory.mapping("m", scope=scope)["k"] = CANARY
    plan = memory.plan_forget(Selector(scope="acme", reach=Reach.SUBTREE, containing=CANARY))
    assert [target.scope for target in plan.targets] == ["acme", "acme/user-4", "acme/user-42"]
    memory.forget(plan)
    assert memory.mapping("m", scope="acmeadam")["k"] == CANARY
    assert not memory.mapping("m", scope="acme")


# -- the journal ----------------------------------------------------------------------------------


def told(records: Any) -> list[tuple[Any, ...]]:
    return [
        (record.kind, record.scope, record.session, record.collection, record.key, record.seq)
        for record in records
    ]


def test_the_journal_tells_what_is_there_and_never_what_was(memory: memopt.Memory) -> None:
    mapping, sequence = memory.mapping("m"), memory.session("s").sequence("l")
    mapping["a"] = CANARY
    mapping[7] = 1
    mapping["a"] = 2
    sequence.extend([0, 1])
    sequence.insert(0, "first")
    mapping["gone"] = 1
    del mapping["gone"]
    del mapping[7]
    kinds = RecordKind
    expected = [
        (kinds.COLLECTION_CREATED, "default", None, "m", None, None),
        (kinds.ENTRY_SET, "default", None, "m", "a", None),
        (kinds.SESSION_CREATED, "default", "s", None, None, None),
        (kinds.COLLECTION_CREATED, "default", "s", "l", None, None),
        (kinds.ENTRY_SET, "default", "s", "l", None, 1),
        (kinds.ENTRY_SET, "default", "s", "l", None, 2),
        (kinds.ENTRY_SET, "default", "s", "l", None, 0),
        (kinds.ENTRY_DELETED, "default", None, "m", None, None),
    ]
    assert told(memory.journal()) == expected
    lsns = [record.lsn for record in memory.journal()]
    assert lsns == sorted(lsns)
    assert told(memory.journal(since=lsns[2])) == expected[3:]
    memory.session("s").delete()
    assert [row[0] for row in told(memory.journal())] == [
        kinds.COLLECTION_CREATED, kinds.ENTRY_SET, kinds.ENTRY_DELETED, kinds.SESSION_DELETED,
    ]  # fmt: skip


def test_a_journal_of_many_entries_comes_in_order_and_whole(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memopt.journal.history._PASS_RECORDS", 7)
    monkeypatch.setattr("memopt.journal.history._ENTRIES_AT_ONCE", 17)
    mapping, session = memory.mapping("m"), memory.session("s")
    for number in range(40):
        mapping[number] = number
        session.append({"n": number})
        mapping[number // 2] = "again"
    records = list(memory.journal())
    lsns = [record.lsn for record in records]
    assert lsns == sorted(set(lsns))
    assert {record.key for record in records if record.kind is RecordKind.ENTRY_SET} == {*range(40)}
    assert sum(record.kind is RecordKind.MESSAGE for record in records) == 40


def test_a_subscriber_hears_of_every_change(memory: memopt.Memory) -> None:
    mapping = memory.mapping("m")
    with memory.subscribe() as subscription:
        mapping["a"] = 1
        del mapping["a"]
        memory.sequence("l").append(1)
        heard = [record for _ in range(5) if (record := subscription.get(timeout=0))]
    assert [record.kind for record in heard] == [
        RecordKind.COLLECTION_CREATED, RecordKind.ENTRY_SET, RecordKind.ENTRY_DELETED,
        RecordKind.COLLECTION_CREATED, RecordKind.ENTRY_SET,
    ]  # fmt: skip
    assert heard[1].key == "a"
    assert heard[2].key is None
    assert heard[4].seq == 0


# -- damage ---------------------------------------------------------------------------------------


def test_a_damaged_entry_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        mapping = memory.session("s", scope="acme").mapping("m")
        mapping.update({"a": 1, "b": 2, "c": 3})
        memory.sequence("l").extend([1, 2, 3])
        connection = memory._parts.directory.home.writer.connection
        # What the page's own checksum does not see: two records that changed places.
        connection.execute(
            "UPDATE entries SET record = (SELECT record FROM entries WHERE key = ?) WHERE key = ?",
            (b"sa", b"sb"),
        )
        [[entry]] = connection.execute("SELECT max(entry) FROM entries").fetchall()
        connection.execute("DELETE FROM entries WHERE entry = ?", (entry - 1,))
        memory._parts.sessions.collections.make_free(1 << 20)  # type: ignore[attr-defined]
        report = memory.check()
        assert len(report.damages) == 2
        assert (report.damages[0].scope, report.damages[0].session) == ("acme", "s")
        assert "mapping 'm'" in report.damages[0].what
        assert "sequence 'l'" in report.damages[1].what
        assert "missing" in report.damages[1].what
        with pytest.raises(memopt.CorruptionError, match=r"'m'.*session 's' of scope 'acme'"):
            mapping["b"]
        assert (mapping["a"], mapping["c"]) == (1, 3)
        with pytest.raises(memopt.CorruptionError):
            mapping.pop("b")
        # It can be replaced or deleted, and the session takes messages.
        mapping["b"] = 2
        assert dict(mapping) == {"a": 1, "b": 2, "c": 3}
        memory.session("s", scope="acme").append({"n": 1})


def test_a_check_needs_no_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with opened(tmp_path) as memory:
        mapping = memory.session("s").mapping("m")
        mapping.update({"a": sparse.csr_array([[0, 1], [2, 0]]), "b": 1})
        monkeypatch.setitem(sys.modules, "scipy.sparse", None)
        report = memory.check()
        assert report.clean
        assert report.values == 2
        with pytest.raises(UsageError, match="install scipy"):
            mapping["a"]
        # What is behind it is looked at.
        memory._parts.directory.home.writer.connection.execute(
            "UPDATE entries SET record = CAST(substr(record, 1, 9) AS BLOB) WHERE key = ?",
            (b"sb",),
        )
        [damage] = memory.check().damages
        assert "cut short" in damage.what


def test_what_is_read_only_stays_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.mapping("m")["k"] = [1]
        memory.sequence("l").append(1)
    with opened(tmp_path, read_only=True) as memory:
        mapping, sequence = memory.mapping("m"), memory.sequence("l")
        assert (dict(mapping), len(mapping), list(sequence)) == ({"k": [1]}, 1, [1])
        for change in (
            lambda: mapping.__setitem__("k", 1), lambda: mapping.pop("k"), mapping.clear,
            lambda: sequence.append(1), sequence.pop, lambda: sequence.__delitem__(0),
        ):  # fmt: skip
            with pytest.raises(UsageError, match="read-only"):
                change()
        assert dict(mapping) == {"k": [1]}


def test_a_backup_has_them(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.mapping("m")["k"] = [1]
        memory.backup(tmp_path / "copy")
    with memopt.open(tmp_path / "copy", maintenance_seconds=0) as copy:
        assert dict(copy.mapping("m")) == {"k": [1]}


def test_a_full_sequence_says_so(memory: memopt.Memory) -> None:
    sequence = memory.sequence("l")
    sequence.append(1)
    [[entry]] = memory._parts.directory.home.writer.connection.execute(
        "SELECT entry FROM entries"
    ).fetchall()
    assert entry & ((1 << PLACE_BITS) - 1) == 1 << (PLACE_BITS - 1)
    rows = memory._parts.sessions.collections.rows  # type: ignore[attr-defined]
    [row] = rows._rows.values()
    row.bounds = (row.bounds[0], (1 << PLACE_BITS) - 1)
    with pytest.raises(memopt.CapacityError, match="places of a collection"):
        sequence.append(2)
