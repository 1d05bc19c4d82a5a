"""A store from the outside: opening, sharing a directory, settings, scopes, streams, figures."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pydantic
import pytest

import memopt
from memopt import Reach
from memopt.base.clock import ManualClock
from memopt.base.units import KIB, MIB

PATIENCE = 30.0
"""Seconds after which a test that waits for another process has failed."""


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


# -- opening and closing --------------------------------------------------------------------------


def test_what_was_written_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.session("s").append({"role": "user", "content": "hello"})
        memory.session("s").save_state({"step": 1})
        lsn = memory.lsn
    with opened(tmp_path) as memory:
        assert memory.lsn == lsn
        assert list(memory.session("s").messages()) == [{"role": "user", "content": "hello"}]
        state = memory.session("s").load_state()
        assert state is not None
        assert state.value == {"step": 1}


def test_closing_twice_is_closing_once_and_leaves_no_log(tmp_path: Path) -> None:
    memory = opened(tmp_path)
    memory.session("s").append({"n": 0})
    memory.close()
    memory.close()
    wal = tmp_path / "store" / "memopt.db-wal"
    assert not wal.exists() or not wal.stat().st_size


def test_the_block_closes_the_store_also_when_it_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(tmp_path) as memory:
        raise ZeroDivisionError
    with pytest.raises(memopt.StoreClosedError):
        memory.session("s")
    opened(tmp_path).close()


def test_every_verb_of_a_closed_store_says_that_it_is_closed(tmp_path: Path) -> None:
    memory = opened(tmp_path)
    session = memory.session("s")
    session.append({"n": 0})
    view = memory.at(memory.lsn)
    memory.close()
    verbs: list[Callable[[], Any]] = [
        lambda: session.append({"n": 1}), lambda: list(session.messages()), lambda: len(session),
        lambda: session.head, session.pop, lambda: session.truncate(0), session.delete,
        lambda: session.redact(0), lambda: session.fork("t"), lambda: session.save_state(1),
        session.load_state, session.states, memory.sessions, memory.stats, memory.check,
        memory.compact, memory.subscribe, lambda: list(memory.journal()), lambda: memory.at(1),
        lambda: memory.restore("default", 1), lambda: memory.backup(tmp_path / "copy"),
        lambda: memory.plan_forget(memopt.Selector(scope="default", whole_scope=True)),
        lambda: memory.pages("s"), lambda: list(view.session("s").messages()), view.sessions,
    ]  # fmt: skip
    for verb in verbs:
        with pytest.raises(memopt.StoreClosedError):
            verb()


def test_the_budget_is_given_back_when_the_store_is_closed(tmp_path: Path) -> None:
    memory = opened(tmp_path, page_target_bytes=512)
    for n in range(40):
        memory.session(f"s{n % 3}").append({"n": n, "pad": "x" * 200})
        memory.session(f"s{n % 3}").save_state({"n": n})
    for n in range(3):
        list(memory.session(f"s{n}").messages())
    memory.close()
    assert not {owner: held for owner, held in memory._parts.budget.owners().items() if held}


def test_a_missing_directory_is_made_unless_asked_not_to(tmp_path: Path) -> None:
    with pytest.raises(memopt.NotFoundError, match="there is no memopt store"):
        memopt.open(tmp_path / "a" / "b", create=False)
    with pytest.raises(memopt.NotFoundError):
        memopt.open(tmp_path / "a" / "b", read_only=True)
    assert not (tmp_path / "a").exists()
    memopt.open(tmp_path / "a" / "b", maintenance_seconds=0).close()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


def test_a_newer_schema_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory._parts.directory.home.writer.connection.execute("PRAGMA user_version = 99")
    database = tmp_path / "store" / "memopt.db"
    before = database.read_bytes()
    with pytest.raises(memopt.StoreVersionError, match="schema version 99"):
        opened(tmp_path)
    assert database.read_bytes() == before


def test_opening_reads_no_session(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        for n in range(300):
            memory.session(f"s{n}", scope=f"acme/u{n % 7}").append({"n": n, "pad": "x" * 50})
    memory = opened(tmp_path)
    try:
        stats = memory.stats()
        assert stats.resident_sessions == 0
        assert stats.counters["faults_major"] == 0
        seen: list[str] = []
        writer = memory._parts.directory.home.writer.connection
        writer.trace_v2(1, lambda event: seen.append(event["sql"]))
        handle = memory.session("s9", scope="acme/u2")
        assert not seen, "a handle holds the key only"
        assert len(handle) == 1
        assert memory.stats().resident_sessions == 0, "reading makes nothing resident"
    finally:
        memory.close()


def test_opening_asks_for_nothing_that_grows_with_the_number_of_sessions(tmp_path: Path) -> None:
    """Counted in pages of the database that SQLite reads, not in seconds."""

    def pages_read(path: Path, sessions: int) -> int:
        path.mkdir()
        with opened(path) as memory:
            for n in range(sessions):
                memory.session(f"s{n}", scope=f"acme/u{n % 9}").append({"n": n, "pad": "x" * 300})
        memory = opened(path)
        import apsw

        status = memory._parts.directory.home.writer.connection.status
        misses = status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
        memory.close()
        return misses

    assert pages_read(tmp_path / "many", 600) <= pages_read(tmp_path / "few", 10) + 8


# -- one owner ------------------------------------------------------------------------------------

HOLDER = """
import sys, memopt
memory = memopt.open(sys.argv[1], budget="16MiB", durability="os")
memory.session("s").append({"n": 0})
print("open", flush=True)
sys.stdin.read()
memory.close()
"""


def test_a_second_process_is_refused_and_told_who_owns_the_store(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(memopt.StoreLockedError, match=f"pid {holder.pid}") as locked:
            opened(tmp_path)
        assert locked.value.owner is not None
        assert f"pid {holder.pid}" in locked.value.owner
        holder.communicate(timeout=PATIENCE)
    with opened(tmp_path) as memory:
        assert len(memory.session("s")) == 1


def test_a_second_opening_in_one_process_is_refused_too(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        with pytest.raises(memopt.StoreLockedError, match=f"pid {os.getpid()}"):
            opened(tmp_path)
        memory.session("s").append({"n": 0})
    opened(tmp_path).close()


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait(PATIENCE)
    with opened(tmp_path) as memory:
        assert list(memory.session("s").messages()) == [{"n": 0}]
        assert memory.check().clean


def forked(work: Callable[[], Any]) -> Any:
    """What `work` returned in a forked child, or the name of what it raised."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on, forking beside threads is warned about; a user may still do it.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        signal.alarm(int(PATIENCE))
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            found = type(error).__name__
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"
    return json.loads(answer)


@pytest.mark.parametrize(
    "verb", ["append", "messages", "len", "save_state", "session", "stats", "compact", "subscribe"]
)
def test_a_forked_child_is_refused_and_the_parent_goes_on(tmp_path: Path, verb: str) -> None:
    with opened(tmp_path) as memory:
        session = memory.session("s")
        session.append({"n": 0})
        verbs: dict[str, Callable[[], Any]] = {
            "append": lambda: session.append({"n": 1}) and None,
            "messages": lambda: list(session.messages()),
            "len": lambda: len(session),
            "save_state": lambda: session.save_state(1) and None,
            "session": lambda: memory.session("t") and None,
            "stats": lambda: memory.stats() and None,
            "compact": lambda: memory.compact() and None,
            "subscribe": lambda: memory.subscribe() and None,
        }
        assert forked(verbs[verb]) == "StoreClosedError"
        assert session.append({"n": 2}).seq == 1
        with pytest.raises(memopt.StoreLockedError):
            opened(tmp_path)
        assert memory.check().clean
    with opened(tmp_path) as memory:
        assert list(memory.session("s").messages()) == [{"n": 0}, {"n": 2}]


def test_a_child_forked_in_the_middle_of_a_commit_does_not_hang(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        session = memory.session("s")
        session.append({"n": 0})
        entered, go = threading.Event(), threading.Event()

        def member(transaction: Any) -> None:
            entered.set()
            assert go.wait(PATIENCE)

        committing = threading.Thread(target=memory._parts.committer.commit, args=(member,))
        committing.start()
        assert entered.wait(PATIENCE)
        assert forked(lambda: session.append({"n": 1}) and None) == "StoreClosedError"
        go.set()
        committing.join(PATIENCE)
        assert session.append({"n": 2}).seq == 1


PARENTS_LOCKS: dict[str, Callable[[memopt.Memory], Any]] = {
    "budget": lambda memory: memory._parts.budget._lock,
    "pages": lambda memory: memory._parts.pager._lock,
    "peaks": lambda memory: memory._parts.sessions.admission.peaks._lock,
    "subscriptions": lambda memory: memory._parts.subscriptions._lock,
    "subscription": lambda memory: memory._parts.subscriptions._subscriptions[0]._changed,
    "closing": lambda memory: memory._close_lock,
}


@pytest.mark.parametrize("name", PARENTS_LOCKS)
def test_a_child_waits_for_no_lock_that_a_thread_of_its_parent_held(
    tmp_path: Path, name: str
) -> None:
    with opened(tmp_path) as memory, memory.subscribe() as subscription:
        session = memory.session("s")
        for n in range(60):
            session.append({"n": n, "text": "of some length " * 200})
        session.save_state({"a": 1})
        messages = session.messages()
        assert next(messages)["n"] == 0
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with PARENTS_LOCKS[name](memory):
                held.set()
                assert go.wait(3 * PATIENCE)

        holding = threading.Thread(target=hold)
        holding.start()
        assert held.wait(PATIENCE)
        try:
            for refused in (
                lambda: list(messages), lambda: session.save_state({"a": 2}),
                lambda: session.append({"text": "x" * 1_000_000}),
                lambda: session.turn().__enter__(),
            ):  # fmt: skip
                assert forked(lambda refused=refused: refused() and None) == "StoreClosedError"  # type: ignore[misc]
            # What is closed with the store in its parent is closed already.
            for harmless in (subscription.get, subscription.close, memory.close):
                assert forked(harmless) is None
        finally:
            go.set()
            holding.join(PATIENCE)
        assert [message["n"] for message in messages] == list(range(1, 60))
        assert subscription.get(timeout=0) is not None
        assert session.append({"n": 60}).seq == 60
        assert memory.check().clean


def test_a_child_that_ends_or_closes_leaves_the_store_to_its_parent(tmp_path: Path) -> None:
    memory = opened(tmp_path)
    memory.session("s").append({"n": 0})
    assert forked(memory.close) is None
    descriptor = os.open(tmp_path / "store" / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    memory.session("s").append({"n": 1})
    memory.close()
    with opened(tmp_path) as memory:
        assert len(memory.session("s")) == 2


# -- read-only ------------------------------------------------------------------------------------


def test_a_read_only_store_reads_everything_and_writes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        memory.session("s").extend([{"n": n} for n in range(5)])
        memory.session("s").save_state({"a": 1})
        lsn = memory.lsn
    with opened(tmp_path, read_only=True) as memory:
        session = memory.session("s")
        assert len(list(session.messages())) == 5
        assert session.load_state() is not None
        assert len(list(memory.journal())) == lsn
        assert len(memory.at(3).session("s")) == 2
        assert memory.check().clean
        assert memory.stats().lsn == lsn
        verbs: list[Callable[[], Any]] = [
            lambda: session.append({"n": 5}), lambda: session.extend([{"n": 5}]),
            lambda: session.truncate(2), session.pop, lambda: session.redact(0),
            lambda: session.fork("t"), session.delete, lambda: session.save_state(2),
            lambda: memory.restore("default", 3), memory.compact, memory.accept_damage,
            lambda: memory.forget(memopt.Selector(scope="default", whole_scope=True)),
        ]  # fmt: skip
        for verb in verbs:
            with pytest.raises(memopt.UsageError, match="read-only"):
                verb()
        memory._parts.maintenance.once()
        assert memory.lsn == lsn
    with opened(tmp_path) as memory:
        assert len(memory.session("s")) == 5
        assert memory.lsn == lsn


# -- settings -------------------------------------------------------------------------------------


def test_arguments_come_before_variables_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "memopt.toml"
    file.write_text('budget_bytes = "20MiB"\npolicy = "sieve"\nseal = "full"\n')
    monkeypatch.setenv("MEMOPT_POLICY", "lfu")
    monkeypatch.setenv("MEMOPT_SEAL", "always")
    with memopt.open(
        tmp_path / "store", config=file, seal="idle", maintenance_seconds=0
    ) as memory:  # fmt: skip
        config = memory.config
    assert (config.budget_bytes, config.policy, config.seal) == (20 * MIB, "lfu", memopt.Seal.IDLE)


def test_a_config_is_taken_as_it_is_but_for_the_arguments(tmp_path: Path) -> None:
    config = memopt.Config(budget_bytes=16 * MIB, maintenance_seconds=0, policy="clock")
    with memopt.open(tmp_path / "store", config=config, budget="24MiB") as memory:
        assert memory.config == config.replace(budget_bytes=24 * MIB)
        assert memory.stats().budget_bytes == 24 * MIB


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"budget": "1MiB"}, "budget_bytes"),
        ({"budget": "much"}, "budget_bytes"),
        ({"durability": "maybe"}, "durability"),
        ({"policy": "guess"}, "policy"),
        ({"seal": "never"}, "seal"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"l1_share": 0}, "l1_share"),
    ],
)
def test_a_bad_setting_is_named_and_nothing_is_made(
    tmp_path: Path, settings: Any, field: str
) -> None:
    with pytest.raises(memopt.UsageError) as refused:
        memopt.open(tmp_path / "store", **settings)
    assert refused.value.field == field
    assert not (tmp_path / "store").exists()


def test_above_the_disk_quota_writing_is_refused_and_deleting_is_not(tmp_path: Path) -> None:
    with opened(tmp_path, disk_quota_bytes=2 * MIB) as memory:
        session, mapping = memory.session("s"), memory.mapping("m")
        mapping.update(a=1, b=2)

        def fill(random_bytes: int) -> None:
            for _ in range(1000):
                session.append({"content": os.urandom(random_bytes).hex()})

        with pytest.raises(memopt.QuotaError) as refused:
            fill(4 * KIB)
        assert refused.value.limit == "disk_quota_bytes"
        written = len(session)
        assert 10 < written < 250
        # What is smaller may fit; then that does not, either.
        with pytest.raises(memopt.QuotaError):
            fill(1)
        written = len(session)
        with pytest.raises(memopt.QuotaError):
            session.save_state("x" * 1000)
        with pytest.raises(memopt.QuotaError):
            mapping["c"] = 3
        assert len(list(session.messages())) == written
        assert mapping.pop("a") == 1
        mapping.clear()
        assert len(mapping) == 0
        session.delete()
        memory.compact()
        memory.session("t").append({"n": 0})


# -- figures --------------------------------------------------------------------------------------


def test_stats_say_what_there_is(tmp_path: Path) -> None:
    with opened(tmp_path, page_target_bytes=512) as memory:
        for n in range(58):
            memory.session(f"s{n % 3}", scope=f"acme/u{n % 3}").append({"n": n, "pad": "x" * 90})
        memory.session("s0", scope="acme/u0").save_state({"a": "x" * 500})
        memory.session("s0", scope="acme/u0").save_state({"a": "x" * 500, "b": 1})
        for _ in range(2):
            for n in range(3):
                list(memory.session(f"s{n}", scope=f"acme/u{n}").messages())
        stats = memory.stats()
        assert stats.lsn == memory.lsn
        assert stats.budget_bytes == 16 * MIB
        assert stats.reserved_bytes == sum(stats.owners.values()) <= stats.reserved_bytes_max
        assert stats.reserved_bytes_max <= stats.budget_bytes
        assert stats.rss_bytes > stats.reserved_bytes / 4
        assert stats.resident_sessions == 3
        pages = sum(len(memory.pages(f"s{n}", scope=f"acme/u{n}")) for n in range(3))
        assert stats.counters["pages_sealed"] == pages > 3
        assert stats.tiers["l1"]["objects"] == pages
        assert stats.faults == {"minor": 0, "major": pages}
        assert stats.hit_ratio == pytest.approx(0.5)
        assert set(stats.scopes) == {"acme/u0", "acme/u1", "acme/u2"}
        resident = sum(scope["bytes"] for scope in stats.scopes.values())
        assert resident == stats.tiers["l1"]["bytes"] + stats.tiers["l2"]["bytes"]
        assert stats.compression_ratio > 1
        assert stats.delta_ratio > 1
        assert stats.counters["messages_appended"] == 58
        assert stats.counters["states_saved"] == 2
        assert stats.wal_bytes > 0
        assert 0 < stats.unsealed_bytes < 3 * 1024
        assert 0 < stats.append_seconds_p50 <= stats.append_seconds_p99
        assert stats.disk_bytes > 0
        assert stats.disk_free_bytes > 0
        assert (stats.lost_records, stats.quarantined_sessions) == (0, 0)
        assert stats.oldest_reader_seconds == 0
        memory.compact()
        assert memory.stats().unsealed_bytes == 0


def test_pages_say_where_each_is(tmp_path: Path) -> None:
    with opened(tmp_path, page_target_bytes=512) as memory:
        session = memory.session("s")
        session.extend([{"n": n, "pad": "x" * 90} for n in range(30)])
        assert {page.tier for page in memory.pages("s")} == {"l3"}
        list(session.messages(0, 1))
        pages = memory.pages("s")
        assert [page.tier for page in pages] == ["l1"] + ["l3"] * (len(pages) - 1)
        assert [page.start for page in pages] == [0, *(page.stop for page in pages[:-1])]
        memory.session("s").fork("f", at=pages[0].stop + 1)
        shared = memory.pages("f")
        assert [page.page for page in shared] == [page.page for page in pages[:2]]
        assert shared[-1].stop == pages[0].stop + 1
        with pytest.raises(memopt.NotFoundError):
            memory.pages("nobody")


# -- messages -------------------------------------------------------------------------------------


class Part(pydantic.BaseModel):
    type: str = "text"
    text: str


class Turn(pydantic.BaseModel):
    role: str
    content: list[Part]
    at: datetime | None = None


def test_pydantic_models_are_kept_as_the_json_they_dump_to(memory: memopt.Memory) -> None:
    turn = Turn(role="user", content=[Part(text="hi")], at=datetime(2024, 1, 2, tzinfo=UTC))
    session = memory.session("s")
    session.append(turn)
    session.extend([turn, {"role": "assistant"}])
    first, second, _ = session.messages()
    assert first == second == turn.model_dump(mode="json")
    assert Turn.model_validate(first) == turn
    with pytest.raises(memopt.UsageError) as refused:
        session.append({"role": "user", "content": [Part(text="inside")]})
    assert refused.value.field == "message.content[0]"


BAD = [
    (lambda s: s.append({"a": [0, (1,)]}), "message.a[1]"),
    (lambda s: s.append([1]), "message"),
    (lambda s: s.extend([{"a": 1}, {"b": {1, 2}}]), "messages[1].b"),
    (lambda s: s.extend([]), "messages"),
    (lambda s: s.append({"x": "y" * 70_000}), "message"),
    (lambda s: s.extend([{"x": "y" * 40_000}] * 2), "messages"),
    (lambda s: s.append({"a": 1}, at=datetime(2024, 1, 1)), "at"),
    (lambda s: s.append({"a": 1}, at=1.5), "at"),
    (lambda s: s.append({"a": 1}, actor=""), "actor"),
    (lambda s: s.append({"a": 1}, key="x" * 513), "key"),
    (lambda s: s.append({"a": 1}, key="\n"), "key"),
    (lambda s: s.save_state({"a": float("nan")}), "value.a"),
    (lambda s: s.save_state(1, name=""), "name"),
    (lambda s: s.writer({"content": ["text"]}), "message.content"),
    (lambda s: s.writer({"content": []}), "message.content"),
    (lambda s: s.writer([1]), "message"),
    (lambda s: s.messages(-1), "start"),
    (lambda s: s.messages(0, True), "stop"),
    (lambda s: s.truncate("1"), "at"),
    (lambda s: s.redact(-1), "seq"),
]


@pytest.mark.parametrize(("call", "field"), BAD)
def test_a_bad_argument_is_named_and_nothing_is_written(
    tmp_path: Path, call: Callable[[memopt.Session], Any], field: str
) -> None:
    with opened(tmp_path, message_bytes_max=64 * KIB) as memory:
        with pytest.raises(memopt.UsageError) as refused:
            call(memory.session("s"))
        assert refused.value.field == field
        assert memory.lsn == 0
        assert memory.sessions() == []


def test_times_and_actors_are_kept_exactly(memory: memopt.Memory) -> None:
    at = datetime(2020, 2, 29, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    memory.session("s").append({"n": 0}, at=at, actor="änn")
    memory.session("s").append({"n": 1}, at=datetime(1900, 1, 1, tzinfo=UTC))
    memory.session("s").append({"n": 2})
    memory.compact()
    one, two, three = memory.session("s").entries()
    assert (one.at, one.actor) == (at, "änn")
    assert one.at.tzinfo is UTC
    assert two.at == datetime(1900, 1, 1, tzinfo=UTC)
    assert three.at == three.committed_at
    assert (two.actor, three.seq) == (None, 2)


def test_what_a_caller_gets_is_its_own(memory: memopt.Memory) -> None:
    memory.session("s").append({"a": [1]})
    memory.session("s").save_state({"a": [1]})
    for _ in range(2):
        (message,) = memory.session("s").messages()
        message["a"].append(2)
        state = memory.session("s").load_state()
        assert state is not None
        state.value["a"].append(2)
        memory.compact()
    assert list(memory.session("s").messages()) == [{"a": [1]}]


def test_a_reader_that_is_slow_holds_no_snapshot(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.extend([{"n": n, "pad": "x" * 400} for n in range(200)])
    messages = session.messages()
    next(messages)
    assert memory.stats().oldest_reader_seconds == 0
    session.append({"n": "late"})
    memory.compact()
    assert [message["n"] for message in messages] == list(range(1, 200))


def test_a_read_of_a_session_that_is_replaced_meanwhile_says_so(tmp_path: Path) -> None:
    with opened(tmp_path, page_target_bytes=512) as memory:
        session = memory.session("s")
        session.extend([{"n": n, "pad": "x" * 100} for n in range(50)])
        messages = session.messages()
        next(messages)
        session.delete()
        session.extend([{"m": n} for n in range(50)])
        with pytest.raises(memopt.NotFoundError, match="was deleted"):
            list(messages)


def test_a_fork_within_a_page_reads_its_own_tail(tmp_path: Path) -> None:
    with opened(tmp_path, page_target_bytes=512) as memory:
        session = memory.session("s")
        session.extend([{"n": n, "pad": "x" * 60} for n in range(10)])
        page = memory.pages("s")[0]
        fork = session.fork("f", at=page.start + 1)
        for n in range(page.stop + 3):
            fork.append({"own": n})
            expected = [0, *(["own"] * (n + 1))]
            found = [m.get("n", "own") for m in fork.messages()]
            assert found == expected


def test_an_append_that_was_committed_is_not_refused_for_want_of_a_page(tmp_path: Path) -> None:
    with opened(tmp_path, budget="8MiB") as memory:
        session = memory.session("s")
        session.append({"n": 0})
        budget = memory._parts.budget
        with memory._parts.directory.home.snapshot():
            held = budget.free_bytes()
        budget.reserve("outside", held)
        assert session.append({"n": 1, "content": "x" * 20 * KIB}).seq == 1
        assert memory.pages("s") == []
        budget.release("outside", held)
        session.append({"n": 2})
        assert [message["n"] for message in session.messages()] == [0, 1, 2]
        assert [(page.start, page.stop) for page in memory.pages("s")] == [(0, 2)]


def test_a_repeated_call_with_its_key_is_answered_though_it_moved_the_head(
    memory: memopt.Memory,
) -> None:
    session = memory.session("s")
    first = session.extend([{"n": 0}], if_head=0, key="k")
    assert session.extend([{"n": 0}], if_head=0, key="k") == first
    head = session.head
    second = session.extend([{"n": 1}], if_head=head, key="k2")
    assert session.extend([{"n": 1}], if_head=head, key="k2") == second
    assert len(session) == 2


def test_restoring_a_branch_that_was_left_with_a_tail(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.extend([{"n": n} for n in range(6)])
    lsn = memory.lsn
    session.truncate(0)
    assert memory.restore("default", lsn) == 1
    assert [message["n"] for message in session.messages()] == list(range(6))
    assert memory.check().clean


def test_forgetting_a_string_spares_what_stood_in_its_place_later(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.append({"n": "kept"})
    session.append({"n": "secret"})
    fork = session.fork("f")
    session.truncate(1)
    session.append({"n": "innocent"})
    receipt = memory.forget(memopt.Selector(scope="default", containing="secret"))
    assert [message.get("n") for message in session.messages()] == ["kept", "innocent"]
    assert [message.get("n") for message in fork.messages()] == ["kept", None]
    assert receipt.entries >= 1


# -- streams --------------------------------------------------------------------------------------


def test_a_streamed_message_is_there_once_it_is_committed(tmp_path: Path) -> None:
    with opened(tmp_path, spool_bytes=1 * KIB) as memory:
        session = memory.session("s")
        pieces = [f"piece {n} é🦜 " * 20 for n in range(30)]
        with session.writer({"role": "assistant", "content": "begin "}, key="k") as writer:
            for piece in pieces:
                writer.write(piece)
            assert len(session) == 0
            receipt = writer.commit()
        assert (receipt.seq, len(session)) == (0, 1)
        (message,) = session.messages()
        assert message == {"role": "assistant", "content": "begin " + "".join(pieces)}
        assert session.append({"other": True}, key="k") == receipt


def test_a_long_stream_waits_on_disk_and_leaves_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    with opened(tmp_path, spool_bytes=1 * KIB) as memory:
        writer = memory.session("s").writer({})
        writer.write("x" * 5000)
        assert writer._spool is not None
        assert writer._spool._rolled  # type: ignore[attr-defined]
        writer.abandon()
    assert list(spool.iterdir()) == []


def test_a_stream_that_is_abandoned_leaves_nothing(memory: memopt.Memory) -> None:
    session = memory.session("s")
    with session.writer({"role": "assistant"}) as writer:
        writer.write("never")
    writer.abandon()
    assert session.head == 0
    assert memory.sessions() == []


def test_a_stream_ends_once(memory: memopt.Memory) -> None:
    writer = memory.session("s").writer({"role": "assistant"})
    writer.commit()
    for call in (writer.commit, lambda: writer.write("more")):
        with pytest.raises(memopt.UsageError, match="was committed or abandoned"):
            call()
    assert list(memory.session("s").messages()) == [{"role": "assistant", "content": ""}]


def test_a_stream_that_grows_too_large_is_refused_and_keeps_what_it_had(tmp_path: Path) -> None:
    with opened(tmp_path, message_bytes_max=10 * KIB) as memory:
        with memory.session("s").writer({"role": "assistant"}) as writer:
            writer.write("x" * 9 * KIB)
            for text in ("y" * 2 * KIB, 7, "\ud800"):
                with pytest.raises(memopt.UsageError):
                    writer.write(text)  # type: ignore[arg-type]
            writer.commit()
        (message,) = memory.session("s").messages()
        assert message["content"] == "x" * 9 * KIB


def test_a_commit_that_was_refused_for_want_of_room_may_be_tried_again(tmp_path: Path) -> None:
    with opened(tmp_path, commit_queue_max=1, disk_quota_bytes=200 * KIB) as memory:
        with memory.session("s").writer({}) as writer:
            writer.write("x" * 300 * KIB)
            with pytest.raises(memopt.QuotaError):
                writer.commit()
            with pytest.raises(memopt.QuotaError):
                writer.commit()
        assert len(memory.session("s")) == 0


# -- scopes and listings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scope",
    ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", " ", "a/ /b", "a\n", "a\x00b",
     "a\x7f", "é" * 257, "x" * 513, "\ud800", None, 7, b"a", ("a",)],
)  # fmt: skip
def test_a_scope_that_is_no_path_is_refused(memory: memopt.Memory, scope: Any) -> None:
    for call in (
        lambda: memory.session("s", scope=scope),
        lambda: memory.restore(scope, 0),
        lambda: memory.plan_forget(memopt.Selector(scope=scope, whole_scope=True)),
    ):
        with pytest.raises(memopt.UsageError):
            call()


@pytest.mark.parametrize("id", ["", "\n", "a\tb", "x" * 513, "\ud800", None, 7, b"a"])
def test_an_id_that_is_no_name_is_refused(memory: memopt.Memory, id: Any) -> None:
    with pytest.raises(memopt.UsageError) as refused:
        memory.session(id)
    assert refused.value.field == "id"
    if id is not None:
        with pytest.raises(memopt.UsageError):
            memory.session("s", agent=id)


@pytest.mark.parametrize(
    "name", ["a", "x" * 512, "é" * 256, "a/b", "..", " a ", "🦜", "%", "_", "'"]
)
def test_ids_may_be_any_other_text(memory: memopt.Memory, name: str) -> None:
    memory.session(name, scope="acme").append({"n": 1})
    assert [info.id for info in memory.sessions("acme")] == [name]
    assert len(memory.session(name, scope="acme")) == 1


SCOPES = ["acme", "acme/user-4", "acme/user-42", "acme/user-4/a", "acme0", "acme%", "acm", "zeta/x"]


def filled(memory: memopt.Memory) -> list[tuple[str, str]]:
    keys = [(scope, id) for id in ("s", "t") for scope in SCOPES]
    for number, (scope, id) in enumerate(keys):
        memory.session(id, scope=scope, agent="bot").extend([{"n": number}] * (number + 1))
    return keys


def test_one_id_in_two_scopes_is_two_sessions(memory: memopt.Memory) -> None:
    keys = filled(memory)
    for number, (scope, id) in enumerate(keys):
        assert list(memory.session(id, scope=scope).messages()) == [{"n": number}] * (number + 1)
    memory.session("s", scope="acme/user-4").delete()
    assert len(memory.session("s", scope="acme/user-42")) == 3
    memory.forget(memopt.Selector(scope="acme/user-4", reach=Reach.SUBTREE, whole_scope=True))
    left = {(info.scope, info.id) for info in memory.sessions()}
    assert left == {key for key in keys if key[0] not in ("acme/user-4", "acme/user-4/a")}


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("scope", "reach", "expected"),
    [
        ("acme", Reach.EXACT, ["acme"]),
        ("acme/user-4", Reach.EXACT, ["acme/user-4"]),
        ("acme", Reach.SUBTREE, ["acme", "acme/user-4", "acme/user-42", "acme/user-4/a"]),
        ("acme/user-4", Reach.SUBTREE, ["acme/user-4", "acme/user-4/a"]),
        ("acme/user-4/a", Reach.ANCESTORS, ["acme", "acme/user-4", "acme/user-4/a"]),
        ("acme/user-42", Reach.ANCESTORS, ["acme", "acme/user-42"]),
        ("acme/user-42/b/c", Reach.ANCESTORS, ["acme", "acme/user-42"]),
        ("nobody", Reach.SUBTREE, []),
        (None, Reach.EXACT, SCOPES),
    ],
)
def test_a_listing_reaches_whole_components_page_by_page(
    memory: memopt.Memory, scope: str | None, reach: Reach, expected: list[str], limit: int
) -> None:
    keys = filled(memory)
    found: list[memopt.SessionInfo] = []
    after = None
    while rows := memory.sessions(scope, reach=reach, after=after, limit=limit):
        assert len(rows) <= limit
        found += rows
        after = (rows[-1].scope, rows[-1].id)
    assert sorted((info.scope, info.id) for info in found) == sorted(
        (on, id) for on in expected for id in ("s", "t")
    )
    if found and reach is not Reach.ANCESTORS:
        assert [(info.scope, info.id) for info in found] == sorted(
            (info.scope, info.id) for info in found
        )
    for info in found:
        number = keys.index((info.scope, info.id))
        assert (info.message_count, info.agent) == (number + 1, "bot")
        assert info.head == memory.session(info.id, scope=info.scope).head


def test_a_listing_goes_on_where_it_was_when_what_was_listed_is_deleted(
    memory: memopt.Memory,
) -> None:
    keys = {(info.scope, info.id) for info in memory.sessions(limit=10_000)} | {*filled(memory)}
    seen: set[tuple[str, str]] = set()
    after = None
    while rows := memory.sessions(after=after, limit=3):
        for info in rows:
            seen.add((info.scope, info.id))
            memory.session(info.id, scope=info.scope).delete()
        after = (rows[-1].scope, rows[-1].id)
    assert seen == keys
    assert memory.sessions() == []


def test_a_listing_says_what_was_wrong_with_its_arguments(memory: memopt.Memory) -> None:
    filled(memory)
    for arguments, field in (
        ({"limit": 0}, "limit"), ({"limit": 10_001}, "limit"),
        ({"reach": "everything"}, "reach"), ({"after": ("acme",)}, "after"),
        ({"after": ("", "s")}, "after[0]"),
    ):  # fmt: skip
        with pytest.raises(memopt.UsageError) as refused:
            memory.sessions("acme", **arguments)  # type: ignore[arg-type]
        assert refused.value.field == field


# -- damage ---------------------------------------------------------------------------------------


def damage(memory: memopt.Memory, sql: str) -> None:
    connection = memory._parts.directory.home.writer.connection
    memory._parts.committer.exclusive(lambda: connection.execute(sql).fetchall())


def test_a_damaged_session_is_named_quarantined_and_hurts_no_other(tmp_path: Path) -> None:
    with opened(tmp_path) as memory:
        for id in ("a", "b", "c"):
            memory.session(id).extend([{"n": n} for n in range(5)])
        damage(memory, "UPDATE tail SET record = zeroblob(20) WHERE rowid = "
                       "(SELECT key FROM tail ORDER BY key LIMIT 1 OFFSET 6)")  # fmt: skip
        report = memory.check()
        (found,) = report.damages
        assert (found.scope, found.session, report.clean) == ("default", "b", False)
        with pytest.raises(memopt.CorruptionError, match="quarantined"):
            memory.session("b").append({"n": 5})
        assert memory.stats().quarantined_sessions == 1
        for id in ("a", "c"):
            assert memory.session(id).append({"n": 5}).seq == 5
            assert len(list(memory.session(id).messages())) == 6
        memory.session("b").delete()
        assert memory.check().clean


def test_a_check_goes_on_where_it_stopped(memory: memopt.Memory) -> None:
    filled(memory)
    cursor, sessions = None, 0
    while True:
        report = memory.check(after=cursor, limit=3)
        sessions += report.sessions
        if report.cursor is None:
            break
        cursor = report.cursor
    assert sessions == 2 * len(SCOPES)


def test_forgetting_reaches_the_names_of_states_in_the_journal(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.append({"n": 0})
    session.save_state(1, name="plan for Ms Secret")
    session.save_state(2, name="other")
    memory.forget(memopt.Selector(scope="default", containing="Secret"))
    assert [version.name for version in session.states()] == ["other"]
    records = [r for r in memory.journal() if r.kind is memopt.RecordKind.STATE_SAVED]
    assert [record.state for record in records] == [None, "other"]
    assert memory.check().clean


@pytest.mark.parametrize("order", ["sfg", "gfs", "fsg", "sgf"])
def test_what_nobody_reads_any_more_leaves_with_its_last_reader(tmp_path: Path, order: str) -> None:
    with opened(tmp_path, page_target_bytes=512) as memory:
        session = memory.session("s")
        session.extend([{"n": n, "role": "system", "text": str(n) * 2000} for n in range(10)])
        memory.session("s").fork("f", at=6)
        memory.session("f").append({"n": "f"})
        memory.session("f").fork("g", at=3)
        memory.session("g").save_state({"x": 1})
        expected = {"s": list(range(10)), "f": [*range(6), "f"], "g": [0, 1, 2]}
        home = memory._parts.directory.home
        for id in order:
            memory.session(id).delete()
            del expected[id]
            for other, numbers in expected.items():
                found = [message["n"] for message in memory.session(other).messages()]
                assert found == numbers
            kept = {r.message["n"] for r in memory.journal() if r.message is not None}
            assert kept == {n for numbers in expected.values() for n in numbers}
            assert memory.check().clean
        with home.snapshot() as tables:
            assert tables.lines.of_session(0) == []
            assert tables.pages.scan((0, 0), 10) == []
            assert tables.tail.scan((0, 0), 10) == []
            assert tables.scopes.number("default") is None
            assert tables.texts.get(1) is None
        assert [r.kind for r in memory.journal()] == [memopt.RecordKind.SESSION_DELETED] * 3


def test_what_is_no_number_no_list_and_no_plan_is_refused_by_its_name(
    memory: memopt.Memory,
) -> None:
    session = memory.session("s")
    session.append({"n": 0})
    anything: Any = memory
    calls: dict[str, list[Callable[[], Any]]] = {
        "limit": [
            lambda: anything.sessions(limit="10"), lambda: anything.sessions(limit=2.5),
            lambda: anything.check(limit=-5),
        ],
        "after": [
            lambda: anything.sessions(after="ab"), lambda: anything.sessions(after={"a": 1}),
            lambda: anything.check(after=2**80), lambda: anything.check(after="x"),
        ],
        "after[0]": [lambda: anything.sessions("acme", after=("beta", "s"))],
        "since": [lambda: anything.journal("x"), lambda: anything.subscribe(since="x")],
        "pending_max": [lambda: anything.subscribe(pending_max="x")],
        "what": [lambda: anything.forget("x")],
        "messages": [lambda: session.extend(anything), lambda: session.extend({"n": 1})],
        "if_head": [lambda: session.extend([{"n": 1}], if_head="x")],  # type: ignore[arg-type]
        "if_version": [lambda: session.save_state(1, if_version="x")],  # type: ignore[arg-type]
    }  # fmt: skip
    for field, refused in calls.items():
        for call in refused:
            with pytest.raises(memopt.UsageError) as error:
                call()
            assert error.value.field == field
    assert len(session) == 1


def test_a_message_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, budget="16MiB") as memory:
        with pytest.raises(memopt.UsageError, match=f"at most {4 * MIB}") as refused:
            memory.session("s").append({"content": "x" * 5 * MIB})
        assert refused.value.field == "message"
        whole = {"content": "x" * (4 * MIB - 100)}
        memory.session("s").append(whole)
        assert list(memory.session("s").messages()) == [whole]
        assert memory.check().clean
