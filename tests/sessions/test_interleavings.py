"""What others do at the worst moment: between two steps of one call, made to happen there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.sessions.states import trim_states


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="32MiB", durability="os", maintenance_seconds=0,
        page_target_bytes=512, seal="full", clock=ManualClock(), state_keyframe_versions=2,
    ) as memory:  # fmt: skip
        yield memory


class Meanwhile:
    """Does something once, before or after the next call of a method."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def before(self, owner: Any, name: str, deed: Callable[[], Any]) -> None:
        self._hook(owner, name, deed, first=True)

    def after(self, owner: Any, name: str, deed: Callable[[], Any]) -> None:
        self._hook(owner, name, deed, first=False)

    def _hook(self, owner: Any, name: str, deed: Callable[[], Any], *, first: bool) -> None:
        original = getattr(owner, name)
        self.done = False

        def hooked(*arguments: Any, **named: Any) -> Any:
            self._patch.setattr(owner, name, original)
            self.done = True
            if first:
                deed()
            found = original(*arguments, **named)
            if not first:
                deed()
            return found

        self._patch.setattr(owner, name, hooked)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    return Meanwhile(monkeypatch)


def body(n: int) -> dict[str, Any]:
    return {"n": n, "pad": "x" * 60}


def numbers(session: Any) -> list[Any]:
    return [message.get("n") for message in session.messages()]


SEALED_MEANWHILE: dict[str, tuple[Callable[[memopt.Memory], Any], list[Any]]] = {
    "another append": (lambda m: m.session("s").append(body(99)), [*range(6), 99]),
    "a redaction": (lambda m: m.session("s").redact(1), [0, None, 2, 3, 4, 5]),
    "a truncation": (lambda m: m.session("s").truncate(2), [0, 1]),
    "a truncation to nothing": (lambda m: m.session("s").truncate(0), []),
    "a fork": (lambda m: m.session("s").fork("f", at=3), [*range(6)]),
    "a deletion": (lambda m: m.session("s").delete(), []),
    "a deletion and a new beginning": (
        lambda m: (m.session("s").delete(), m.session("s").append(body(7))), [7],
    ),
    "a compaction": (lambda m: m.compact(), [*range(6)]),
    "a redaction of what a fork shares": (
        lambda m: (m.session("s").fork("f"), m.session("f").redact(0)), [None, 1, 2, 3, 4, 5],
    ),
    "its row leaves": (lambda m: m._parts.residents.shrink(0), [*range(6)]),
    "its row leaves and comes again": (
        lambda m: (m._parts.residents.shrink(0), m.session("s").append(body(99))),
        [*range(6), 99],
    ),
}  # fmt: skip


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("deed", SEALED_MEANWHILE)
def test_a_seal_gives_way_to_whatever_changes_its_tail(
    memory: memopt.Memory, meanwhile: Meanwhile, deed: str, alone: bool
) -> None:
    act, expected = SEALED_MEANWHILE[deed]
    session = memory.session("s")
    for n in range(5):
        session.append({"n": n})
    parts = memory._parts
    pages = parts.sessions.transcripts._pages

    def do() -> None:
        if not alone:
            # A seal that is under way keeps others from beginning one; here they do all the same.
            for _, resident in parts.residents.rows():
                resident.sealing = False
        act(memory)

    meanwhile.before(pages, "make", do)
    session.append({"n": 5, "pad": "x" * 600})
    assert meanwhile.done
    assert numbers(session) == expected
    assert memory.check().clean
    memory.compact()
    assert numbers(session) == expected
    lsns = [record.lsn for record in memory.journal()]
    assert lsns == sorted(set(lsns))


def test_an_idle_seal_gives_way_to_an_append(memory: memopt.Memory, meanwhile: Meanwhile) -> None:
    session = memory.session("s")
    session.append({"n": 0})
    transcripts = memory._parts.sessions.transcripts
    meanwhile.before(transcripts._pages, "make", lambda: session.append({"n": 1}))
    transcripts.seal_idle(-1)
    assert numbers(session) == [0, 1]
    assert session.append({"n": 2}).seq == 2
    assert memory.check().clean


def test_a_version_whose_base_was_trimmed_meanwhile_is_saved_without_it(
    memory: memopt.Memory, meanwhile: Meanwhile
) -> None:
    session = memory.session("s")
    for n in range(2):
        session.save_state({"n": n, "pad": "x" * 300})
    parts = memory._parts
    states = parts.sessions.states
    with parts.directory.home.snapshot() as tables:
        row = tables.sessions.find("default", "s")
        assert row is not None

    def trim() -> None:
        # Version 1, the keyframe that version 3 is to lean on.
        parts.committer.commit(
            lambda t: trim_states(t.tables, states._compressor, row.session, "main", 2, 2)
        )

    meanwhile.after(states, "_raw", trim)
    assert session.save_state({"n": 2}).version == 3
    assert meanwhile.done
    assert [version.version for version in session.states()] == [2, 3]
    for version in (2, 3):
        state = session.load_state(version=version)
        assert state is not None
        assert state.value["n"] == version - 1
    assert memory.check().clean


def test_a_session_deleted_while_it_is_checked_is_not_damaged(
    memory: memopt.Memory, meanwhile: Meanwhile
) -> None:
    for id in ("a", "b"):
        memory.session(id).extend([body(n) for n in range(20)])
        memory.session(id).save_state({"x": 1})
    checking = memory._parts.checking
    meanwhile.before(checking, "_check_session", memory.session("a").delete)
    report = memory.check()
    assert meanwhile.done
    assert report.clean
    assert memory.stats().quarantined_sessions == 0
    assert numbers(memory.session("b")) == list(range(20))


@pytest.mark.parametrize("step", ["_check_line", "reads_of"])
@pytest.mark.parametrize("deed", ["compact", "truncate", "delete", "append"])
def test_a_session_changed_while_it_is_checked_is_not_damaged(
    memory: memopt.Memory, meanwhile: Meanwhile, step: str, deed: str
) -> None:
    session = memory.session("s")
    session.extend([body(n) for n in range(20)])
    session.truncate(7)
    deeds: dict[str, Callable[[], Any]] = {
        "compact": memory.compact, "truncate": lambda: session.truncate(3),
        "delete": session.delete, "append": lambda: session.append(body(7)),
    }  # fmt: skip
    checking = memory._parts.checking
    meanwhile.before(checking if step == "_check_line" else checking._reader, step, deeds[deed])
    assert memory.check().clean
    assert meanwhile.done


@pytest.mark.parametrize("by_time", [False, True])
def test_a_moment_is_read_while_its_pages_are_rewritten(
    memory: memopt.Memory, meanwhile: Meanwhile, by_time: bool
) -> None:
    session = memory.session("s")
    clock = memory._parts.clock
    for n in range(30):
        session.append({"n": n, "pad": "x" * 30})
        if n == 17:
            lsn = memory.lsn
            clock.advance(1)  # type: ignore[attr-defined]
    moment = memory.at(next(session.entries(17, 18)).committed_at if by_time else lsn)
    meanwhile.before(memory._parts.pager, "open", memory.compact)
    assert len(moment.session("s")) == 18
    assert meanwhile.done
    meanwhile.before(memory._parts.pager, "open", lambda: session.redact(3))
    assert numbers(moment.session("s")) == [*range(3), None, *range(4, 18)]
    assert meanwhile.done


def test_a_pop_that_is_overtaken_takes_the_message_that_is_last_then(
    memory: memopt.Memory, meanwhile: Meanwhile
) -> None:
    session = memory.session("s")
    session.extend([{"n": 0}, {"n": 1}])
    branches = memory._parts.sessions.branches
    meanwhile.before(branches, "truncate", lambda: session.append({"n": 2}))
    assert session.pop() == {"n": 2}
    assert numbers(session) == [0, 1]


def test_a_truncation_gets_through_while_others_seal_all_the_time(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = memory.session("s")
    session.extend([{"n": n} for n in range(4)])
    monkeypatch.setattr(memory._parts.sessions.transcripts, "seal", lambda *a, **k: False)
    session.truncate(2)
    session.fork("f", at=1)
    assert (numbers(session), numbers(memory.session("f"))) == ([0, 1], [0])
    assert memory.check().clean


def test_idle_tails_are_sealed_whoever_left_them(tmp_path: Path) -> None:
    """Of a run before, of a session whose row was let go, of one that was damaged: in that order
    none is in the way of the next."""
    clock = ManualClock()

    def opened() -> memopt.Memory:
        return memopt.open(
            tmp_path / "store", budget="32MiB", durability="os", maintenance_seconds=0,
            seal="idle", clock=clock, resident_sessions_max=2,
        )  # fmt: skip

    with opened() as memory:
        memory.session("of a run before").append({"n": 0})
    with opened() as memory:
        for name in ("damaged", "let go", "resident", "new"):
            clock.advance(10.0)
            memory.session(name).append({"n": 0})
        parts = memory._parts
        connection = parts.directory.home.writer.connection
        parts.committer.exclusive(
            lambda: connection.execute(
                "UPDATE tail SET record = zeroblob(60) WHERE key >> 24 = "
                "(SELECT line FROM sessions WHERE id = 'damaged')"
            ).fetchall()
        )
        sealed: list[str] = []
        for _ in range(2):
            parts.sessions.transcripts.seal_idle(5.0)
            sealed += [s.id for s in memory.sessions() if memory.pages(s.id)]
        assert sealed == 2 * ["let go", "of a run before", "resident"]
        assert len(parts.residents) == 1
        touched = {info.id: info.touched_at for info in memory.sessions()}
        assert touched["of a run before"] < touched["resident"]


def test_a_damaged_page_of_the_tails_is_not_in_the_way_of_those_behind_it(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        memory.session(name).append({"n": 0})
    parts = memory._parts
    transcripts = parts.sessions.transcripts
    with parts.directory.home.snapshot() as tables:
        first = tables.sessions.find("default", "a")
        assert first is not None
        kind = type(tables.tail)
    scan = kind.scan

    def damaged(tail: Any, after: tuple[int, int], limit: int) -> Any:
        if after[0] < first.line:
            raise memopt.CorruptionError("a database page fails its checksum")
        return scan(tail, after, limit)

    monkeypatch.setattr(kind, "scan", damaged)
    parts.residents.shrink(0.0)
    for _ in range(3):
        transcripts.seal_idle(-1)
    assert [name for name in ("a", "b", "c") if memory.pages(name)] == ["b", "c"]
