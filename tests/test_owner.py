"""The owner's socket: the same verbs from other processes, and nothing they do harms the owner."""

import inspect
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import memopt
from memopt import aio
from memopt.answering import Answers
from memopt.base import errors, records
from memopt.client import remote as client
from memopt.client.connection import CONNECTIONS_MAX, RemoteSubscription
from memopt.client.remote import RemoteAnswers
from memopt.codecs import wire
from memopt.codecs.wire import Channel
from memopt.journal.subscription import Subscription
from memopt.memory import MemoryView
from memopt.owner import door, reads
from memopt.sessions.session import SessionView
from memopt.sessions.writer import MessageWriter

WAIT_SECONDS = 30.0


def opened(path: Path, **settings: Any) -> memopt.Memory:
    settings = {"budget": "64MiB", "durability": "os", "maintenance_seconds": 0} | settings
    return memopt.open(path, **settings)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with opened(tmp_path / "store") as memory:
        yield memory


@pytest.fixture
def remote(memory: memopt.Memory) -> Iterator[memopt.Memory]:
    with memopt.connect(memory.path) as remote:
        yield remote


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process is about to do."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        pause.wait(0.005)


def run_python(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def owning_process(path: Path, more: str = "") -> "subprocess.Popen[str]":
    script = f"""
        import memopt, os, sys
        memory = memopt.open({str(path)!r}, budget="16MiB", durability="os")
        memory.session("a").append({{"n": 1}})
        {more}
        print("ready", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait(WAIT_SECONDS)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def raw(memory: memopt.Memory) -> Channel:
    """A client without manners."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(WAIT_SECONDS)
    with door.short_path(memory.path / door.SOCKET) as address:
        connection.connect(address)
    return Channel(connection, 1 << 30)


def compacts(memory: memopt.Memory) -> bool:
    """False while the owner still works on the compaction of somebody who left."""
    try:
        return bool(memory.compact())
    except memopt.ConflictError:
        return False


def owner_bytes(memory: memopt.Memory) -> int:
    return memory.stats().owners.get("owner socket", 0)


# -- the same verbs -------------------------------------------------------------------------------


def public(kind: type) -> dict[str, Any]:
    """Verbs and properties; dunders that a user writes without naming them count, too."""
    spoken = {"__len__", "__bool__", "__iter__", "__enter__", "__exit__"}
    return {
        name: inspect.getattr_static(kind, name)
        for name in dir(kind)
        if not name.startswith("_") or (name in spoken and name in vars(kind))
    }


LOCAL_ONLY = {memopt.Memory: {"abandon"}, Subscription: {"put"}}
"""What the store's own process calls itself: after a fork, after a commit."""


@pytest.mark.parametrize(
    ("local", "other"),
    [
        (memopt.Memory, client.RemoteMemory),
        (Answers, RemoteAnswers),
        (MemoryView, client.RemoteMemoryView),
        (memopt.Session, client.RemoteSession),
        (SessionView, client.RemoteSessionView),
        (Subscription, RemoteSubscription),
    ],
)
def test_a_remote_object_has_the_verbs_and_signatures_of_the_local_one(
    local: type, other: type
) -> None:
    verbs = public(local)
    for name in verbs.keys() - LOCAL_ONLY.get(local, set()):
        assert hasattr(other, name), f"{other.__name__} lacks {name}"
        if name.startswith("__"):
            continue
        theirs = inspect.getattr_static(other, name)
        if isinstance(verbs[name], property):
            assert isinstance(theirs, property), name
            continue
        assert inspect.signature(theirs) == inspect.signature(verbs[name]), name
    assert public(other).keys() <= verbs.keys()


@pytest.mark.parametrize(
    ("local", "other"),
    [
        (memopt.Memory, aio.AsyncMemory),
        (Answers, aio.AsyncAnswers),
        (MemoryView, aio.AsyncMemoryView),
        (memopt.Session, aio.AsyncSession),
        (SessionView, aio.AsyncSessionView),
        (Subscription, aio.AsyncSubscription),
        (MessageWriter, aio.AsyncMessageWriter),
    ],
)
def test_an_asynchronous_object_has_the_verbs_and_signatures_of_the_synchronous_one(
    local: type, other: type
) -> None:
    spoken = {
        "__len__": "length", "__iter__": "__aiter__", "__enter__": "__aenter__",
        "__exit__": "__aexit__",
    }  # fmt: skip
    verbs = public(local)
    for name in verbs.keys() - LOCAL_ONLY.get(local, set()) - {"__bool__"}:
        theirs = inspect.getattr_static(other, spoken.get(name, name), None)
        assert theirs is not None, f"{other.__name__} lacks {name}"
        if not name.startswith("__") and not isinstance(verbs[name], property):
            assert inspect.signature(theirs) == inspect.signature(verbs[name]), name
            assert theirs.__doc__ == verbs[name].__doc__


def test_opening_and_connecting_have_the_same_signatures_in_both_worlds() -> None:
    assert inspect.signature(aio.open) == inspect.signature(memopt.open)
    assert inspect.signature(aio.connect) == inspect.signature(memopt.connect)


def test_every_read_answers_the_same_through_the_socket(
    memory: memopt.Memory, remote: memopt.Memory, tmp_path: Path
) -> None:
    session, far = (m.session("s", scope="acme/u", agent="helper") for m in (memory, remote))
    at = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    first = far.append({"role": "user", "content": "héllo\x00"}, at=at, actor="me", key="k")
    assert far.append({"role": "user", "content": "héllo\x00"}, key="k") == first
    far.extend({"n": n, "deep": [{"x": [None, True, 1.5, 2**63]}]} for n in range(9))
    with far.writer({"role": "assistant", "content": "a"}, key="w") as writer:
        writer.write("b" * 10)
        written = writer.commit()
    assert written.seq == 10
    far.save_state({"step": [1, 2]}, name="plan", if_version=0)
    far.save_state("second", name="plan", if_version=1)
    middle = remote.lsn
    assert far.pop() == {"role": "assistant", "content": "a" + "b" * 10}
    far.truncate(9, if_head=far.head)
    far.redact(3)
    fork = far.fork("branch", at=2)
    assert (fork.id, fork.scope, len(fork)) == ("branch", "acme/u", 2)

    assert (far.id, far.scope, far.head, len(far)) == ("s", "acme/u", session.head, 9)
    assert list(far.messages()) == list(session.messages())
    assert list(far.messages(2, 5)) == list(session.messages(2, 5))
    assert list(far.entries()) == list(session.entries())
    assert next(iter(far.entries())).at == at
    assert far.load_state(name="plan") == session.load_state(name="plan")
    assert far.load_state(name="plan", version=1) == session.load_state(name="plan", version=1)
    assert far.load_state(name="none") is None
    assert far.states() == session.states()
    assert remote.lsn == memory.lsn
    assert remote.path == memory.path
    assert remote.config == memory.config
    assert remote.sessions("acme", reach="subtree") == memory.sessions("acme", reach="subtree")
    assert remote.sessions(after=("acme/u", "branch"), limit=1)[0].id == "s"
    assert remote.pages("s", scope="acme/u") == memory.pages("s", scope="acme/u")
    assert list(remote.journal()) == list(memory.journal())
    assert list(remote.journal(middle)) == list(memory.journal(middle))

    for moment in (middle, datetime.now(UTC)):
        then, far_then = memory.at(moment), remote.at(moment)
        assert far_then.sessions() == then.sessions()
        old, far_old = (v.session("s", scope="acme/u") for v in (then, far_then))
        assert list(far_old.messages()) == list(old.messages())
        assert list(far_old.entries(1, 4)) == list(old.entries(1, 4))
        assert (len(far_old), far_old.states()) == (len(old), old.states())
        assert far_old.load_state(name="plan") == old.load_state(name="plan")

    selector = memopt.Selector(scope="acme/u", session="branch")
    plan = remote.plan_forget(selector)
    assert plan == memory.plan_forget(selector)
    assert remote.forget(plan).sessions == 1
    assert remote.restore("acme/u", middle) == 1
    assert len(session) == 11
    far.delete()
    assert session.head == far.head == 0


def test_upkeep_tells_its_progress_through_the_socket(
    memory: memopt.Memory, remote: memopt.Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.session("a").extend([{"n": n} for n in range(100)])
    for verb in (remote.check, remote.compact):
        steps: list[tuple[int, int]] = []
        verb(progress=lambda done, total, steps=steps: steps.append((done, total)))  # type: ignore[misc]
        assert steps
        assert all(0 <= done <= total for done, total in steps)
    assert remote.check().clean
    assert remote.accept_damage() == 0
    assert remote.stats().counters["messages_appended"] == 100
    # The owner may run in another folder.
    monkeypatch.chdir(tmp_path)
    report = remote.backup("copy", progress=lambda done, total: None)
    assert Path(report.path) == tmp_path / "copy"
    with opened(tmp_path / "copy") as copy:
        assert len(copy.session("a")) == 100


def test_a_failing_progress_callback_does_not_upset_the_next_call(remote: memopt.Memory) -> None:
    remote.session("a").append({"n": 1})

    def fail(done: int, total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        remote.compact(progress=fail)
    until(lambda: compacts(remote))


def test_another_process_reads_and_writes(memory: memopt.Memory) -> None:
    memory.session("a").append({"n": 1})
    script = """
        import sys, memopt
        with memopt.connect(sys.argv[1]) as memory:
            session = memory.session("a")
            session.append({"n": 2}, key="once")
            print([message["n"] for message in session.messages()])
            try:
                session.extend([{"n": 3}], if_head=7)
            except memopt.ConflictError as error:
                print(error.expected, error.actual == session.head)
    """
    assert run_python(script, memory.path) == "[1, 2]\n7 True\n"
    assert [m["n"] for m in memory.session("a").messages()] == [1, 2]


def test_threads_share_one_remote_memory(memory: memopt.Memory, remote: memopt.Memory) -> None:
    def work(number: int) -> None:
        session = remote.session(f"s{number % 3}")
        for n in range(40):
            session.append({"from": number, "n": n})
            assert sum(1 for _ in session.messages()) > n

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    said = [m for n in range(3) for m in memory.session(f"s{n}").messages()]
    assert len(said) == 8 * 40
    for number in range(8):
        assert [m["n"] for m in said if m["from"] == number] == list(range(40))
    assert owner_bytes(memory) <= CONNECTIONS_MAX * door._CLIENT_BYTES


def test_a_big_message_and_a_big_state_travel_whole(tmp_path: Path) -> None:
    text = "ab\n€" * (4 << 20)
    with (
        opened(tmp_path / "store", budget="256MiB") as memory,
        memopt.connect(memory.path) as remote,
    ):
        remote.session("a").append({"content": text})
        assert [m["content"] == text for m in remote.session("a").messages()] == [True]
        remote.session("a").save_state([text])
        state = remote.session("a").load_state()
        assert state is not None
        assert state.value == [text]
        until(lambda: owner_bytes(memory) <= door._CLIENT_BYTES)


# -- long reads -----------------------------------------------------------------------------------


def test_ten_thousand_messages_are_read_in_bounded_memory(memory: memopt.Memory) -> None:
    session = memory.session("long")
    for start in range(0, 10_000, 1000):
        session.extend([{"n": n, "content": f"{n} " * 400} for n in range(start, start + 1000)])
    script = """
        import sys, tracemalloc, memopt
        with memopt.connect(sys.argv[1]) as memory:
            session = memory.session("long")
            for read in (session.messages, session.entries, memory.journal):
                tracemalloc.start()
                print(sum(1 for _ in read()), tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    """
    for line in run_python(script, memory.path).splitlines():
        count, peak = map(int, line.split())
        assert count >= 10_000
        # The messages are 19 MB, and far more as objects. A batch is 1 MiB, and a frame.
        assert peak < 5 << 20


def test_a_batch_is_bounded_in_items_and_in_bytes() -> None:
    small, whole = reads.batch({"n": n} for n in range(10_000))
    assert (len(small), whole) == (reads.BATCH_ITEMS_MAX, False)
    large, whole = reads.batch({"text": "x" * 300_000} for _ in range(100))
    assert sum(map(len, large)) < reads.BATCH_BYTES_MAX + 300_100
    assert not whole
    assert reads.batch(iter([{"n": 1}])) == ([wire.encode({"n": 1})], True)


def test_what_others_do_while_a_long_read_goes_on_is_not_part_of_it(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    session = memory.session("a")
    session.extend([{"n": n} for n in range(1000)])
    reading = remote.session("a").messages()
    journal = remote.journal()
    assert next(reading) == {"n": 0}
    lsn = memory.lsn
    next(journal)
    session.truncate(500)
    session.extend([{"other": n} for n in range(2000)])
    assert [m["n"] for m in reading] == list(range(1, 1000))
    assert max(record.lsn for record in journal) == lsn


@pytest.mark.parametrize("made_again", [False, True])
@pytest.mark.parametrize(
    "begin",
    [
        lambda memory: memory.session("a").messages(),
        lambda memory: memory.session("a").entries(0, 300),
        lambda memory: memory.at(memory.lsn).session("a").messages(),
    ],
)
def test_a_long_read_of_a_session_that_is_deleted_does_not_just_end(
    memory: memopt.Memory, remote: memopt.Memory, begin: Callable[[Any], Iterator[Any]],
    made_again: bool,
) -> None:  # fmt: skip
    session = memory.session("a")
    session.extend([{"n": n} for n in range(2 * reads.BATCH_ITEMS_MAX)])
    reading = begin(remote)
    for _ in range(reads.BATCH_ITEMS_MAX):
        next(reading)
    session.delete()
    if made_again:
        session.append({"n": 0})
    with pytest.raises(memopt.NotFoundError):
        next(reading)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 512, 600])
def test_batches_meet_without_a_gap(
    memory: memopt.Memory, remote: memopt.Memory, count: int
) -> None:
    if count:
        memory.session("a").extend([{"n": n} for n in range(count)])
    for start, stop in [(0, None), (1, None), (0, 256), (3, 400), (count, None), (count, 9999)]:
        expected = list(range(count))[start:stop]
        far, then = remote.session("a"), remote.at(memory.lsn).session("a")
        assert [m["n"] for m in far.messages(start, stop)] == expected
        assert [e.seq for e in far.entries(start, stop)] == expected
        if count:
            assert [m["n"] for m in then.messages(start, stop)] == expected


def test_a_session_that_is_not_there_has_no_messages_and_its_past_is_not_found(
    remote: memopt.Memory,
) -> None:
    assert list(remote.session("none").messages()) == []
    lsn = remote.lsn
    remote.session("late").append({"n": 1})
    with pytest.raises(memopt.NotFoundError):
        list(remote.at(lsn).session("late").messages())


def test_a_subscription_gets_the_past_and_then_what_comes(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    session = memory.session("a")
    session.extend([{"n": n} for n in range(600)])
    with remote.subscribe(since=0) as subscription:
        session.append({"n": 600})
        got: list[int] = []
        for record in subscription:
            if record.message is not None:
                got.append(record.message["n"])
                if got[-1] == 600:
                    break
        assert got == list(range(601))
        assert subscription.get(0) is None
        assert subscription.get(0.01) is None
        session.append({"n": 601})
        record = subscription.get()
        assert record is not None
        assert record.message == {"n": 601}


def test_a_subscriber_that_leaves_is_no_listener_any_more(memory: memopt.Memory) -> None:
    channel = raw(memory)
    channel.receive()
    channel.send([["Memory", "", "", None, None], "subscribe", {}, False])
    assert channel.receive() == ["ok", None]
    assert memory._parts.subscriptions.has_listeners()
    channel.close()
    until(lambda: not memory._parts.subscriptions.has_listeners())


def test_a_slow_subscriber_is_told_of_the_gap(memory: memopt.Memory, remote: memopt.Memory) -> None:
    with remote.subscribe(pending_max=10) as subscription:
        memory.session("a").extend([{"n": n} for n in range(100)])
        first = subscription.get()
        assert first is not None
        assert first.kind is memopt.RecordKind.GAP


@pytest.mark.parametrize("who", ["subscriber", "client", "owner"])
def test_a_waiting_subscriber_wakes_up_when_it_is_closed(
    memory: memopt.Memory, remote: memopt.Memory, who: str
) -> None:
    subscription = remote.subscribe()
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.extend([*subscription, "end"]))
    waiting.start()
    {"subscriber": subscription.close, "client": remote.close, "owner": memory.close}[who]()
    waiting.join(WAIT_SECONDS)
    assert got == ["end"]
    subscription.close()


# -- errors ---------------------------------------------------------------------------------------

MISTAKES: list[Callable[[memopt.Memory], object]] = [
    lambda memory: memory.session("a").append({"bad": (1, 2)}),
    lambda memory: memory.session("a").append({"bad": {"deep": [float("nan")]}}),
    lambda memory: memory.session("a").append("no object"),
    lambda memory: memory.session("a").extend([]),
    lambda memory: memory.session("a").extend([{"x": 1}, {"y": {1, 2}}]),
    lambda memory: memory.session("a").extend([{"x": 1}], if_head=99),
    lambda memory: memory.session("a").append({}, at=datetime(2024, 1, 1)),
    lambda memory: memory.session("a").save_state({"x": b"bytes"}),
    lambda memory: memory.session("a").save_state(1, if_version=5),
    lambda memory: memory.session("a").redact(-1),
    lambda memory: memory.session("nobody").pop(),
    lambda memory: memory.session("a").fork("a"),
    lambda memory: memory.session("a", scope="x//y"),
    lambda memory: memory.session(""),
    lambda memory: memory.sessions(reach="sideways"),
    lambda memory: memory.pages("nobody"),
    lambda memory: memory.at(datetime(2024, 1, 1)),
    lambda memory: memory.at(-1),
    lambda memory: memory.subscribe(pending_max=0),
    lambda memory: memory.session("a").append({"x": 1}, nonsense=1),  # type: ignore[call-arg]
    lambda memory: memory.session("a").truncate(),  # type: ignore[call-arg]
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_the_same_error_through_the_socket(
    memory: memopt.Memory, remote: memopt.Memory, mistake: Callable[[memopt.Memory], object]
) -> None:
    memory.session("a").append({"n": 1})
    with pytest.raises(Exception) as here:
        mistake(memory)
    with pytest.raises(type(here.value)) as there:
        mistake(remote)
    assert type(there.value) is type(here.value)
    if not isinstance(here.value, TypeError):  # whose wording is Python's own
        assert str(there.value) == str(here.value)
    assert vars(there.value) == vars(here.value)
    assert len(remote.session("a")) == 1


EVERY_ERROR = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, memopt.MemoptError)
]


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_travels_with_its_attributes(kind: type[Exception]) -> None:
    arguments: dict[str, Any] = {}
    if issubclass(kind, memopt.CapacityError):
        arguments = {"limit": "some", "wanted_bytes": 7, "retry_after_seconds": 2.5}
    elif issubclass(kind, memopt.ConflictError):
        arguments = {"expected": 3, "actual": None}
    elif issubclass(kind, memopt.ContextOverflowError):
        arguments = {"needed_tokens": 9, "max_tokens": 8}
    error = kind("a message", **arguments)
    back = wire.decode_error(wire.decode(wire.encode(wire.encode_error(error))))
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_an_error_of_the_disk_keeps_its_number(
    memory: memopt.Memory, remote: memopt.Memory, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as here:
        memory.backup(tmp_path / "file" / "copy")
    with pytest.raises(type(here.value)) as there:
        remote.backup(tmp_path / "file" / "copy")
    assert there.value.errno == here.value.errno


def test_every_record_travels_unchanged(memory: memopt.Memory) -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=timezone(timedelta(hours=-3)))
    values = [
        None, True, -(2**63), 2**64 - 1, 0.1, "ü", b"\x00\xff", [1, [2]], (1, (), [()]), {"a": {}},
        moment, datetime(2024, 1, 1), memopt.Reach.SUBTREE, memopt.Durability.OS, memory.stats(),
        memory.check(), memopt.State(value={"x": [None]}, version=1, lsn=2, at=moment),
        memopt.ForgetTarget(scope="a", session="b", seqs=(1, 2), entries=2, states=0),
    ]  # fmt: skip
    for value in values:
        back = wire.decode(wire.encode(value))
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize("value", [object(), {1: 2}, 2**64, {1, 2}, "\ud800", print, Path("/")])
def test_what_has_no_word_in_the_protocol_is_refused(value: object) -> None:
    with pytest.raises(memopt.UsageError):
        wire.encode(value)


def test_an_answer_beyond_the_limit_is_an_error_and_not_a_torn_connection(
    remote: memopt.Memory, memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FRAME_EXTRA_BYTES", -(memory.config.state_bytes_max) + 4000)
    memory.session("a").extend([{"n": n} for n in range(200)])
    for n in range(100):
        memory.session(f"s{n}").append({"n": n})
    with memopt.connect(memory.path) as narrow:
        with pytest.raises(memopt.UsageError, match="ask for less"):
            narrow.sessions(limit=100)
        assert len(narrow.sessions(limit=2)) == 2


# -- who may come in ------------------------------------------------------------------------------


def test_only_listed_verbs_are_carried_out(memory: memopt.Memory) -> None:
    channel = raw(memory)
    channel.receive()
    for kind, verb in [
        ("Memory", "close"), ("Memory", "abandon"), ("Memory", "_parts"), ("Memory", "__init__"),
        ("Memory", "session"), ("Session", "writer"), ("Session", "__class__"),
        ("Parts", "release"),
        ("SessionView", "append"), ("SessionView", "head"),
    ]:  # fmt: skip
        memory.session("a").append({"n": 1})
        channel.send([[kind, "default", "a", None, 1], verb, {}, False])
        answer, error = channel.receive()
        assert answer == "error", verb
        assert isinstance(wire.decode_error(error), memopt.UsageError), verb
    channel.close()
    assert memory.session("a").append({"n": 1}).seq == 10


NOISE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x00\x00\x00\x00",
    b"\x00\x00\x00\x05\xdd\xff\xff\xff\xff",
    b"\x00\x00\x00\x01\xc1",
    (4).to_bytes(4, "big") + b"\x91\x91\x91\x91",
    (100_000).to_bytes(4, "big") + b"\x91" * 100_000,
    (7).to_bytes(4, "big") + b"\xc7\x04\x05\x92\xa1x\x80",
    wire.frame(["Memory", "stats", {}, False], 1000),
    wire.frame([["Memory", "", "", None, None], "stats", {"nonsense": 1}, False], 1000),
    wire.frame([["Memory", "", "", None, None], "next", {"timeout": 1}, False], 1000),
    wire.frame({"verb": "stats"}, 1000),
]


@pytest.mark.parametrize("noise", NOISE)
def test_a_client_that_sends_garbage_harms_nobody(
    memory: memopt.Memory, remote: memopt.Memory, noise: bytes
) -> None:
    remote.session("a").append({"n": 1})
    channel = raw(memory)
    channel.receive()
    channel.connection.sendall(noise)
    assert channel.receive()[0] == "error"
    channel.close()
    assert len(remote.session("a")) == 1
    until(lambda: owner_bytes(memory) == door._CLIENT_BYTES)


def test_a_frame_above_the_limit_is_refused_before_it_is_read(
    memory: memopt.Memory, remote: memopt.Memory
) -> None:
    channel = raw(memory)
    channel.receive()
    channel.connection.sendall(b"\xff\xff\xff\xff" + b"x" * 1000)
    kind, error = channel.receive()
    assert kind == "error"
    assert "4294967295 bytes" in str(wire.decode_error(error))
    with pytest.raises((EOFError, ConnectionError)):
        channel.receive()
    channel.close()
    assert remote.lsn == 0


def test_a_frame_beyond_the_budget_is_refused_and_the_next_is_answered(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "store", budget="16MiB") as memory,
        memopt.connect(memory.path) as remote,
    ):
        with pytest.raises(memopt.BudgetError) as refused:
            remote.session("a").append({"content": "x" * (20 << 20)})
        assert refused.value.wanted_bytes is not None
        assert remote.session("a").append({"n": 1}).seq == 0


@pytest.mark.parametrize("sent", [0, 2, 4, 30])
def test_a_client_that_leaves_midway_harms_nobody(
    memory: memopt.Memory, remote: memopt.Memory, sent: int
) -> None:
    request = wire.frame([["Memory", "", "", None, None], "compact", {}, True], 1000)
    channel = raw(memory)
    channel.connection.sendall(request[:sent])
    channel.close()
    channel = raw(memory)
    channel.connection.sendall(request * 3)
    channel.close()
    until(lambda: owner_bytes(memory) <= door._CLIENT_BYTES)
    until(lambda: compacts(remote))


def test_one_client_too_many_is_told_to_come_back(tmp_path: Path) -> None:
    with opened(tmp_path / "store", socket_clients_max=2) as memory:
        first, second = memopt.connect(memory.path), memopt.connect(memory.path)
        with pytest.raises(memopt.BackpressureError) as refused:
            memopt.connect(memory.path)
        assert refused.value.limit == "socket_clients_max"
        second.close()
        until(lambda: owner_bytes(memory) == door._CLIENT_BYTES)
        with memopt.connect(memory.path) as third:
            assert third.lsn == first.lsn == 0
        first.close()


def test_an_idle_client_is_let_go_and_comes_back_by_itself(
    memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "IDLE_SECONDS", 0.01)
    with memopt.connect(memory.path) as remote, remote.subscribe() as subscription:
        until(lambda: owner_bytes(memory) == door._CLIENT_BYTES)  # the subscription's
        assert remote.session("a").append({"n": 1}).seq == 0
        assert subscription.get() is not None


def test_another_user_is_sent_away(memory: memopt.Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(socket, "SO_PEERCRED"):
        pytest.skip("this platform has no SO_PEERCRED")
    real = os.geteuid()
    monkeypatch.setattr(door.os, "geteuid", lambda: real + 1)
    with pytest.raises(memopt.StoreLockedError, match="another user"):
        memopt.connect(memory.path)


def test_the_socket_is_for_its_user_alone_and_goes_with_its_owner(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as memory:
        mode = (memory.path / door.SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / "store" / door.SOCKET).exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("memopt-owner")]


# -- coming and going -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["{}", "unix://{}", "unix://{}/owner.sock"])
def test_a_store_is_reached_by_directory_or_url(memory: memopt.Memory, place: str) -> None:
    with memopt.connect(place.format(memory.path)) as remote:
        assert remote.path == memory.path


@pytest.mark.parametrize(
    "place", ["http://localhost:8000", "https://x.example", "ftp://x", "unix://host/x", "unix://"]
)
def test_other_urls_are_refused_by_name(place: str) -> None:
    with pytest.raises(memopt.UsageError, match=place):
        memopt.connect(place)


def test_connecting_says_whether_the_store_or_its_owner_is_missing(tmp_path: Path) -> None:
    with pytest.raises(memopt.NotFoundError):
        memopt.connect(tmp_path)
    opened(tmp_path / "store").close()
    with pytest.raises(memopt.StoreClosedError, match="no process has"):
        memopt.connect(tmp_path / "store")
    with pytest.raises(memopt.UsageError, match="key"):
        memopt.connect(tmp_path / "store", key="secret")


def test_a_directory_with_a_long_path_has_a_door_too(tmp_path: Path) -> None:
    path = tmp_path / ("long " * 30) / ("é" * 60)
    with opened(path) as memory, memopt.connect(path) as remote:
        assert (path / door.SOCKET).exists()
        assert remote.session("a").append({"n": 1}).seq == 0
        assert len(memory.session("a")) == 1


def test_a_place_without_sockets_still_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store" / door.SOCKET).mkdir(parents=True)  # what cannot be unlinked
    with opened(tmp_path / "store") as memory:
        assert any("owner's socket" in note for note in memory.stats().notes)


def test_calls_after_the_owner_closed_say_so(memory: memopt.Memory, remote: memopt.Memory) -> None:
    remote.session("a").append({"n": 1})
    memory.close()
    with pytest.raises(memopt.StoreClosedError):
        remote.session("a").append({"n": 2})
    with opened(memory.path) as again:
        assert remote.session("a").append({"n": 2}).seq == 1
        assert len(again.session("a")) == 2
    remote.close()
    with pytest.raises(memopt.StoreClosedError):
        remote.stats()


def test_the_socket_of_a_killed_owner_is_replaced(tmp_path: Path) -> None:
    process = owning_process(tmp_path / "store")
    with memopt.connect(tmp_path / "store") as remote:
        assert len(remote.session("a")) == 1
        kill(process)
        assert (tmp_path / "store" / door.SOCKET).exists()
        with pytest.raises(memopt.StoreClosedError):
            remote.session("a").append({"n": 2})
    with pytest.raises(memopt.StoreClosedError):
        memopt.connect(tmp_path / "store")
    with (
        opened(tmp_path / "store") as memory,
        memopt.connect(tmp_path / "store") as remote,
    ):
        assert list(remote.session("a").messages()) == list(memory.session("a").messages())


def test_a_child_of_a_dead_owner_does_not_keep_its_door_open(tmp_path: Path) -> None:
    fork = """read, write = os.pipe()
        if not os.fork(): os.write(write, b"1"); sys.stdin.read(); os._exit(0)
        os.read(read, 1)"""
    process = owning_process(tmp_path / "store", fork)
    process.kill()
    process.wait(WAIT_SECONDS)
    try:
        with pytest.raises(memopt.StoreClosedError, match="no process has"):
            memopt.connect(tmp_path / "store")
    finally:
        kill(process)  # closes what the child reads, so it ends


def test_a_forked_child_may_not_use_its_parents_connection(memory: memopt.Memory) -> None:
    script = """
        import os, sys, memopt
        remote = memopt.connect(sys.argv[1])
        child = os.fork()
        if not child:
            try:
                remote.stats()
            except memopt.StoreClosedError:
                os._exit(7)
            os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), remote.lsn)
    """
    assert run_python(script, memory.path) == "7 0\n"


def test_the_owner_answers_a_call_that_runs_before_it_closes(
    memory: memopt.Memory, remote: memopt.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave, running = threading.Event(), threading.Event(), threading.Event()
    queue = memory._parts.committer._queue

    def put(waiting: Any) -> None:
        queue.put(waiting)
        running.set()

    told = SimpleNamespace(
        put=put, get=queue.get, get_nowait=queue.get_nowait, qsize=queue.qsize, empty=queue.empty
    )
    monkeypatch.setattr(memory._parts.committer, "_queue", told)

    def hold() -> None:
        entered.set()
        leave.wait(WAIT_SECONDS)

    holding = threading.Thread(target=lambda: memory._parts.committer.exclusive(hold))
    holding.start()
    entered.wait(WAIT_SECONDS)
    got: list[object] = []
    writing = threading.Thread(target=lambda: got.append(remote.session("a").append({"n": 1})))
    writing.start()
    assert running.wait(WAIT_SECONDS)
    closing = threading.Thread(target=memory.close)
    closing.start()
    until(lambda: not (memory.path / door.SOCKET).exists())
    leave.set()
    for thread in (closing, writing, holding):
        thread.join(WAIT_SECONDS)
    assert isinstance(got[0], memopt.Receipt)
    with opened(memory.path) as again:
        assert len(again.session("a")) == 1


def test_every_public_record_is_exported() -> None:
    exported = set(memopt.__all__)
    # Told by their names, or within: what a caller never gets.
    inside = {"Tier", "Lifetime", "ArenaUsage", "EntryHead"}
    for name, kind in vars(records).items():
        if isinstance(kind, type) and kind.__module__ == records.__name__:
            public_record = not name.endswith("Row") and name not in inside
            assert (name in exported) == public_record, name
