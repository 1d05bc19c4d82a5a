"""The journal as it is stored, moments of the past, and how much of both is kept."""

import gc
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import RecordKind
from memopt.base.clock import ManualClock
from memopt.base.records import to_datetime
from memopt.base.units import MIB
from memopt.journal.history import Held

DAY = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def opened(path: Path, clock: ManualClock, **settings: Any) -> memopt.Memory:
    settings = {"page_target_bytes": 512, "seal": "full", "budget": "32MiB"} | settings
    return memopt.open(
        path / "store", durability="os", maintenance_seconds=0, clock=clock, **settings
    )


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[memopt.Memory]:
    with opened(tmp_path, clock) as memory:
        yield memory


def now(clock: ManualClock) -> datetime:
    return to_datetime(clock.now_us())


def fill(memory: memopt.Memory, count: int = 60) -> list[tuple[int, str, Any]]:
    """Messages of three sessions, some sealed, some in the tail, with events between them."""
    said = []
    for n in range(count):
        session = memory.session(f"s{n % 3}")
        body = {"n": n, "pad": "x" * 60}
        said.append((session.append(body).lsn, session.id, body))
        if n % 10 == 0:
            session.save_state({"n": n})
    return said


def test_the_journal_merges_tail_pages_and_events_in_order(memory: memopt.Memory) -> None:
    said = fill(memory)
    assert memory.pages("s0")
    records = list(memory.journal())
    assert [record.lsn for record in records] == list(range(1, memory.lsn + 1))
    messages = [(r.lsn, r.session, r.message) for r in records if r.kind is RecordKind.MESSAGE]
    assert messages == said
    memory.compact()
    assert list(memory.journal()) == records


@pytest.mark.parametrize("since", [0, 1, 17, 40])
def test_since_is_where_one_goes_on(memory: memopt.Memory, since: int) -> None:
    fill(memory)
    whole = list(memory.journal())
    assert list(memory.journal(since=since)) == [r for r in whole if r.lsn > since]


def test_nothing_is_behind_the_last_record(memory: memopt.Memory) -> None:
    fill(memory)
    assert list(memory.journal(since=memory.lsn)) == []
    assert list(memory.journal(since=memory.lsn + 1000)) == []


def test_a_journal_ends_where_the_store_was_when_it_began(memory: memopt.Memory) -> None:
    fill(memory, 6)
    end = memory.lsn
    records = memory.journal()
    first = next(records)
    memory.session("s0").append({"late": True})
    assert [first.lsn, *(record.lsn for record in records)] == list(range(1, end + 1))


def test_a_journal_reads_on_while_pages_are_rewritten(memory: memopt.Memory) -> None:
    said = fill(memory)
    found = []
    for record in memory.journal():
        if record.kind is RecordKind.MESSAGE:
            found.append(record.message)
            if len(found) % 20 == 0:
                memory.compact()
    assert found == [body for _, _, body in said]


def test_a_journal_never_names_what_was_deleted(memory: memopt.Memory) -> None:
    fill(memory)
    memory.session("s0").fork("f", at=5)
    memory.session("s0").delete()
    records = list(memory.journal())
    assert all(record.session != "s0" for record in records)
    shared = [r for r in records if r.kind is RecordKind.MESSAGE and r.session is None]
    assert [r.message["n"] for r in shared if r.message] == [0, 3, 6, 9, 12]


@pytest.mark.parametrize("kind", ["entries", "messages", "texts", "events"])
def test_a_reader_of_the_journal_occupies_no_more_than_it_says(
    memory: memopt.Memory, kind: str
) -> None:
    session = memory.session("a")
    if kind == "entries":
        memory.mapping("m").update({f"k{n}": n for n in range(6000)})
    elif kind == "events":
        for n in range(300):
            session.save_state(n)
    else:
        for start in range(0, 900, 100):
            pad = "x" * 3000 if kind == "texts" else ""
            session.extend(
                [{"n": n, "pad": f"{n // 300} {pad}"} for n in range(start, start + 100)]
            )
    held = Held()
    for _ in memory._parts.history.read(None, lambda: memory.lsn, held):
        pass  # what the home keeps for the next reader is there now
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        reading = memory._parts.history.read(None, lambda: memory.lsn, held)
        next(reading)
        gc.collect()
        occupied = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.3 * held.size_bytes < occupied <= held.size_bytes


def test_a_pass_over_a_large_journal_takes_little_memory(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Sixteen megabytes in tails alone: neither the tails nor a pass are held as a whole."""
    with opened(tmp_path, clock, page_target_bytes=4 * MIB, budget="64MiB") as memory:
        body = {"content": "x" * (16 * 1024)}
        for number in range(8):
            memory.session(f"s{number}").extend([body] * 128)
        assert not memory.pages("s0")
        count = 0
        tracemalloc.start()
        try:
            for record in memory.journal():
                count += record.kind is RecordKind.MESSAGE
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == 8 * 128
    assert peak < 12 * MIB


# -- moments of the past --------------------------------------------------------------------------


def test_a_moment_is_named_by_its_time_as_by_its_lsn(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    session = memory.session("s")
    moments = []
    for n in range(30):
        session.append({"n": n, "pad": "x" * 60})
        if n % 9 == 8:
            session.truncate(n - 4)
        session.save_state({"n": n})
        moments.append((memory.lsn, now(clock), list(session.messages()), {"n": n}))
        clock.advance(60)
    for lsn, at, messages, state in moments:
        for moment in (lsn, at, at + timedelta(seconds=59)):
            view = memory.at(moment).session("s")
            assert list(view.messages()) == messages
            assert len(view) == len(messages)
            assert [entry.message for entry in view.entries(1, 3)] == messages[1:3]
            loaded = view.load_state()
            assert loaded is not None
            assert loaded.value == state
    with pytest.raises(memopt.NotFoundError):
        list(memory.at(moments[0][1] - timedelta(seconds=1)).session("s").messages())


def test_a_session_made_later_was_not_there(memory: memopt.Memory) -> None:
    lsn = memory.session("old").append({"n": 0}).lsn
    memory.session("new").append({"n": 1})
    view = memory.at(lsn)
    assert [info.id for info in view.sessions("default")] == ["old"]
    with pytest.raises(memopt.NotFoundError, match="was not there yet"):
        list(view.session("new").messages())
    assert view.session("new").load_state() is None
    assert view.session("new").states() == []


def test_a_moment_is_an_lsn_or_an_aware_datetime(memory: memopt.Memory) -> None:
    for moment in (datetime(2024, 1, 1), -1, True, "1", 1.0, None):
        with pytest.raises(memopt.UsageError) as refused:
            memory.at(moment)  # type: ignore[arg-type]
        assert refused.value.field == "moment"


def test_restore_makes_sessions_and_states_what_they_were(memory: memopt.Memory) -> None:
    kept, made, other = (memory.session(id, scope="acme/ann") for id in ("kept", "made", "other"))
    kept.extend([{"n": n, "pad": "x" * 90} for n in range(12)])
    kept.save_state("old")
    other.append({"n": "same"})
    lsn, before = memory.lsn, list(kept.messages())
    kept.truncate(0)
    kept.append({"n": "new"})
    kept.save_state("new")
    made.append({"n": "made since"})
    outside = memory.session("kept", scope="acme/anna")
    outside.append({"n": "not of this scope"})
    assert memory.restore("acme/ann", lsn) == 2
    assert list(kept.messages()) == before
    state = kept.load_state()
    assert state is not None
    assert (state.value, state.version) == ("old", 3)
    assert len(made) == 0
    assert list(other.messages()) == [{"n": "same"}]
    assert list(outside.messages()) == [{"n": "not of this scope"}]
    assert memory.restore("acme/ann", memory.lsn) == 0
    assert memory.check().clean


# -- retention ------------------------------------------------------------------------------------


def test_retention_by_records_keeps_every_message_of_a_current_line(
    tmp_path: Path, clock: ManualClock
) -> None:
    with opened(tmp_path, clock, journal_retention_records=1) as memory:
        said = fill(memory)
        memory.session("s0").fork("f", at=7)
        memory.session("s0").delete()
        expected = {
            info.id: list(memory.session(info.id).messages()) for info in memory.sessions("default")
        }
        assert expected.keys() == {"s1", "s2", "f"}
        memory.compact()
        for id, messages in expected.items():
            assert list(memory.session(id).messages()) == messages
            assert [entry.seq for entry in memory.session(id).entries()] == list(
                range(len(messages))
            )
        assert memory.check().clean
        start = memory.lsn - 1
        assert all(record.lsn >= start for record in memory.journal())
        with pytest.raises(memopt.NotFoundError, match="the journal is kept from LSN"):
            list(memory.journal(since=0))
        with pytest.raises(memopt.NotFoundError, match="history is kept from LSN"):
            memory.at(said[5][0])
        with pytest.raises(memopt.NotFoundError, match="history is kept from LSN"):
            memory.restore("default", said[5][0])


def test_retention_by_records_drops_branches_that_were_left(
    tmp_path: Path, clock: ManualClock
) -> None:
    with opened(tmp_path, clock, journal_retention_records=3) as memory:
        session = memory.session("s")
        session.extend([{"n": n, "secret": "abandoned" * 9} for n in range(20)])
        clock.advance(60)
        left_at = now(clock)
        clock.advance(60)
        session.truncate(4)
        session.append({"n": "kept"})
        session.fork("f", at=3)
        session.truncate(2)
        for n in range(5):
            clock.advance(60)
            session.append({"n": n})
        pages = memory._parts.directory.home
        memory.compact()
        with pages.snapshot() as tables:
            lines = [line.line for line in tables.lines.of_session(1)]
            kept = sum(row.stop - row.start for row in tables.pages.scan((0, 0), 1000))
        assert len(lines) == 2, "the first is shared by a fork and by the current one"
        assert kept < 20 + 6
        assert [message["n"] for message in session.messages()] == [0, 1, 0, 1, 2, 3, 4]
        assert [message["n"] for message in memory.session("f").messages()] == [0, 1, 2]
        with pytest.raises(memopt.NotFoundError, match="history is kept from"):
            memory.at(left_at)
        assert len(memory.at(memory.lsn - 2).session("s")) == 5
        assert len(memory.at(now(clock)).session("s")) == 7
        assert memory.check().clean


def test_retention_by_age_keeps_what_is_young(tmp_path: Path, clock: ManualClock) -> None:
    with opened(tmp_path, clock, journal_retention_seconds=DAY) as memory:
        session = memory.session("s")
        session.extend([{"n": n} for n in range(8)])
        session.truncate(2)
        old_lsn, old_at = memory.lsn, now(clock)
        clock.advance(3 * DAY)
        session.extend([{"n": n} for n in range(20, 28)])
        session.truncate(1)
        young_lsn, young_at = memory.lsn, now(clock)
        clock.advance(DAY / 2)
        session.append({"n": 30})
        memory.compact()
        assert [m["n"] for m in session.messages()] == [0, 30]
        assert len(memory.at(young_lsn - 1).session("s")) == 10
        assert len(memory.at(young_lsn).session("s")) == 1
        assert len(memory.at(young_at).session("s")) == 1
        with pytest.raises(memopt.NotFoundError):
            memory.at(old_lsn - 1)
        with pytest.raises(memopt.NotFoundError):
            memory.at(old_at - timedelta(seconds=1))
        kinds = [record.kind for record in memory.journal()]
        assert kinds.count(RecordKind.HEAD_MOVED) == 1
        memory.compact()
        assert [m["n"] for m in session.messages()] == [0, 30]


def test_what_retention_dropped_stays_dropped_after_reopening(
    tmp_path: Path, clock: ManualClock
) -> None:
    with opened(tmp_path, clock, journal_retention_records=2) as memory:
        lsn = memory.session("s").append({"n": 0}).lsn
        for n in range(10):
            memory.session("s").append({"n": n})
        memory.compact()
    with opened(tmp_path, clock) as memory:
        with pytest.raises(memopt.NotFoundError):
            memory.at(lsn)
        assert len(memory.session("s")) == 11


def test_without_retention_everything_is_kept(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.extend([{"n": n} for n in range(9)])
    lsn = memory.lsn
    session.truncate(0)
    memory.compact()
    memory.compact()
    assert len(memory.at(lsn).session("s")) == 9
    assert next(memory.journal()).lsn == 1


def test_state_versions_beyond_the_limit_are_trimmed_and_the_others_still_load(
    tmp_path: Path, clock: ManualClock
) -> None:
    with opened(tmp_path, clock, state_versions_max=3, state_keyframe_versions=2) as memory:
        session = memory.session("s")
        for n in range(11):
            session.save_state({"n": n, "pad": "x" * 200})
        memory.compact()
        assert [version.version for version in session.states()] == [9, 10, 11]
        for version in (9, 10, 11):
            state = session.load_state(version=version)
            assert state is not None
            assert state.value["n"] == version - 1
        assert session.save_state({"n": 11}, if_version=11).version == 12
        with pytest.raises(memopt.NotFoundError):
            session.load_state(version=1)
        assert memory.check().clean
