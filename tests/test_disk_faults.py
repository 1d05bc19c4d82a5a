"""The n-th disk call fails, for n = 1, 2, 3 … until a scenario completes untouched.

Whatever call fails, in whatever way: no acknowledged message is lost, every error is one of ours,
memory agrees with the disk, and the disk can be opened again. What is promised of each failure:

- The disk is full: nothing was written, reads go on, and the same call succeeds once there is room.
- A sync, or a write that is not for want of room, failed: the store closed itself. It acknowledges
  nothing more in this process. Whoever opens it next finds all that was acknowledged, and what the
  log holds beyond it is brought home before anything new is acknowledged, since a sync of the log
  may succeed without having written what an earlier one gave up.
"""

import contextlib
import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from memopt.base.clock import ManualClock
from memopt.base.errors import (
    DiskFullError,
    MemoptError,
    StoreClosedError,
    StoreError,
    StoreFailedError,
)
from memopt.base.records import Selector
from memopt.memory import Memory
from memopt.stores.sqlite import SqliteHome
from memopt.testing.disk import VFS_NAME, Fault, FaultyDisk, PowerLoss
from memopt.wiring import open_memory

pytestmark = pytest.mark.slow

Messages = list[dict[str, Any]]


def open_on(disk: FaultyDisk, **settings: Any) -> Memory:
    defaults: dict[str, Any] = {
        "budget": "24MiB", "durability": "sync", "page_target_bytes": 900, "ballast_bytes": 0,
        "wal_limit_bytes": 48 << 10, "maintenance_seconds": 0, "text_bytes_min": 200,
        "dictionary_bytes": 2048, "dictionary_training_pages": 4, "dictionary_scopes_min": 2,
    }  # fmt: skip
    return open_memory(disk.directory, clock=ManualClock(), vfs=VFS_NAME, **(defaults | settings))


def message(number: int) -> dict[str, Any]:
    words = random.Random(number).choices(("alpha", "beta", "gamma", "delta", "epsilon"), k=30)
    return {"role": "user", "content": f"{number} " + " ".join(words)}


class Book:
    """What was acknowledged, and what may have been done without having been."""

    def __init__(self) -> None:
        self.sure: dict[str, Messages] = {}
        self.perhaps: dict[str, Messages | None] = {}

    def intend(self, id: str, messages: Messages | None) -> None:
        self.perhaps[id] = messages

    def settle(self) -> None:
        for id, messages in self.perhaps.items():
            self.sure.pop(id, None)
            if messages is not None:
                self.sure[id] = messages
        self.perhaps.clear()

    def refused(self) -> None:
        """A full disk: certainly not done."""
        self.perhaps.clear()

    def agrees(self, memory: Memory) -> None:
        for id in self.sure.keys() | self.perhaps.keys():
            session = memory.session(id, scope="acme/u")
            found = list(session.messages())
            allowed = [self.sure.get(id, [])]
            if id in self.perhaps:
                allowed.append(self.perhaps[id] or [])
            assert found in allowed, f"{id}: {len(found)} messages, {[len(a) for a in allowed]}"
            assert len(session) == len(found)
        self.is_recalled(memory)
        listed = {info.id for info in memory.sessions("acme/u")}
        assert self.sure.keys() - self.perhaps.keys() <= listed
        assert listed <= self.sure.keys() | self.perhaps.keys()

    def is_recalled(self, memory: Memory) -> None:
        """A message is recalled exactly when it can be read, and once, however many share it."""
        texts = {
            said["content"]
            for id in self.sure.keys() | self.perhaps.keys()
            for said in memory.session(id, scope="acme/u").messages()
            if "redacted" not in said
        }
        hits = [hit.text for hit in memory.recall("alpha", scope="acme/u", limit=1000)]
        assert len(hits) == len(set(hits))
        assert set(hits) == texts


class Play:
    """A scenario on one disk: everything a store does to its files, a little of each."""

    def __init__(self, disk: FaultyDisk, backups: Path) -> None:
        self.disk = disk
        self.book = Book()
        self.memory: Memory | None = None
        self._backups = backups
        self._numbers = itertools.count()

    def steps(self) -> Iterator[Callable[[], None]]:
        yield self.open
        for _ in range(3):
            yield lambda: self.append("a", 1)
        yield lambda: self.append("b", 8)
        yield lambda: self.append("a", 9)
        yield self.save
        yield self.truncate
        yield lambda: self.append("a", 4)
        yield self.fork
        yield self.checkpoint
        yield self.redact
        yield self.delete
        yield self.maintain
        yield self.compact
        yield lambda: self.append("c", 2)
        yield self.backup
        yield self.close
        yield self.open
        yield lambda: self.append("c", 2)
        yield self.close

    def open(self) -> None:
        self.memory = open_on(self.disk)
        self.book.agrees(self.memory)

    def append(self, id: str, count: int) -> None:
        new = [message(next(self._numbers)) for _ in range(count)]
        self.book.intend(id, self.book.sure.get(id, []) + new)
        self.session(id).extend(new)

    def save(self) -> None:
        self.session("b").save_state({"at": list(range(100))})

    def truncate(self) -> None:
        self.book.intend("a", self.book.sure["a"][:5])
        self.session("a").truncate(5)

    def fork(self) -> None:
        self.book.intend("d", self.book.sure["a"][:3])
        self.session("a").fork("d", at=3)

    def redact(self) -> None:
        gone = {"role": "user", "content": "[redacted]", "redacted": True}
        for id in ("a", "d"):
            messages = self.book.sure.get(id, [])
            self.book.intend(id, [gone if at == 1 else m for at, m in enumerate(messages)])
        self.session("a").redact(1)

    def delete(self) -> None:
        self.book.intend("b", None)
        self.session("b").delete()

    def checkpoint(self) -> None:
        self.of()._parts.committer.exclusive(
            lambda: self.of()._parts.directory.checkpoint(truncate=False)
        )

    def maintain(self) -> None:
        self.of()._parts.maintenance.once()

    def compact(self) -> None:
        self.of().compact()

    def backup(self) -> None:
        target = self._backups / str(next(self._numbers))
        self.of().backup(target)
        shutil.rmtree(target)

    def close(self) -> None:
        self.of().close()
        self.memory = None

    def of(self) -> Memory:
        assert self.memory is not None
        return self.memory

    def session(self, id: str) -> Any:
        return self.of().session(id, scope="acme/u")


def memory_is_right(memory: Memory) -> None:
    """Heads, resident rows and charges agree with what is stored."""
    parts = memory._parts
    parts.budget.check()
    parts.pager.check()
    for key, row in parts.residents.rows():
        session = memory.session(key.id, scope=key.scope)
        assert row.head == session.head
        assert row.next_seq == len(session)


def let_go(memory: Memory | None) -> None:
    if memory is not None:
        with contextlib.suppress(MemoptError):
            memory.close()


class Met(NamedTuple):
    """How a scenario went."""

    error: MemoptError | None
    raised: bool


def run(play: Play, disk: FaultyDisk, fault: Fault, at: int) -> Met:
    """Up to the first error, or to the end."""
    disk.fail(at=at, error=fault)
    for step in play.steps():
        try:
            step()
        except MemoptError as error:
            return Met(error, bool(disk.faults_raised))
        play.book.settle()
    return Met(None, bool(disk.faults_raised))


def after_full_disk(play: Play, error: MemoptError) -> None:
    """A full disk refuses one call and nothing else."""
    if play.memory is None or play.memory._closed:
        return
    memory = play.memory
    assert isinstance(error, DiskFullError)
    assert "disk is full" in str(error)
    play.book.agrees(memory)
    memory_is_right(memory)
    play.append("e", 2)
    play.book.settle()
    play.book.agrees(memory)
    memory_is_right(memory)


def after_failure(play: Play, error: MemoptError, *, synced: bool) -> None:
    """A disk that failed closed the store for writing, for good. Reading may go on."""
    if play.memory is None or play.memory._closed:
        return
    memory = play.memory
    assert isinstance(error, StoreError)
    memory._parts.budget.check()
    memory._parts.pager.check()
    if not memory._parts.committer.failed:
        assert not synced, "a store that saw a failed sync goes on as if nothing were"
        # A read failed that no commit depended on.
        return
    calls: list[Callable[[], Any]] = [
        lambda: play.session("a").append({"late": 1}),
        lambda: play.session("a").save_state(1),
        memory.compact,
    ]
    if "a" in play.book.sure:
        calls += [
            lambda: play.session("a").delete(),
            lambda: memory.forget(Selector(scope="acme/u", session="a")),
        ]
    for _ in range(2):
        for call in calls:
            with pytest.raises((StoreFailedError, StoreClosedError)) as refused:
                call()
            assert "open it again" in str(refused.value)
    play.book.agrees(memory)


def reopened(play: Play, disk: FaultyDisk) -> None:
    """All that was acknowledged is there, and the store works."""
    with contextlib.closing(open_on(disk)) as memory:
        assert memory.stats().lost_records == 0
        play.book.agrees(memory)
        assert memory.check().clean
        before = list(memory.session("z", scope="acme/u").messages())
        memory.session("z", scope="acme/u").append({"content": "goes on"})
        assert len(memory.session("z", scope="acme/u")) == len(before) + 1
        memory_is_right(memory)
        if play.book.perhaps:
            play.book.sure |= {
                id: list(memory.session(id, scope="acme/u").messages())
                for id in play.book.perhaps
                if memory.session(id, scope="acme/u").head
            }
            play.book.sure = {
                id: found
                for id, found in play.book.sure.items()
                if memory.session(id, scope="acme/u").head
            }
            play.book.perhaps.clear()
        play.book.sure["z"] = [*before, {"content": "goes on"}]
        # What the failed sync gave up must not be what this acknowledgement rests on.
        with (
            disk.lose_power(random.Random(1), PowerLoss.DROP_ALL) as cut,
            contextlib.closing(open_on(cut)) as again,
        ):
            assert again.stats().lost_records == 0
            play.book.agrees(again)


STRIDES = {Fault.EIO: 3, Fault.ENOSPC: 2, Fault.EIO_SYNC: 1, Fault.EIO_SYNC_FORGET: 1}
"""Every call counts, but not every run has to walk all of them: reads are many and alike."""


@pytest.mark.parametrize("fault", list(Fault))
def test_whatever_disk_call_fails_nothing_acknowledged_is_lost(
    fault: Fault, tmp_path: Path
) -> None:
    rng = random.Random(5)
    met = 0
    at = 1
    while True:
        with FaultyDisk() as disk:
            play = Play(disk, tmp_path)
            outcome = run(play, disk, fault, at)
            try:
                if outcome.error is not None:
                    met += 1
                    disk.heal()
                    if fault is Fault.ENOSPC:
                        play.book.refused()
                        after_full_disk(play, outcome.error)
                    else:
                        after_failure(play, outcome.error, synced=fault is not Fault.EIO)
                # The process ends without a word, or closes; the power may go with it.
                if at % 2:
                    let_go(play.memory)
                with disk.lose_power(rng) if at % 3 else disk.kill() as left:
                    reopened(play, left)
            except BaseException as error:
                error.add_note(f"{fault} at call {at}: {outcome.error!r}")
                raise
            finally:
                let_go(play.memory)
            if not outcome.raised:
                assert outcome.error is None
                break
            if fault in (Fault.EIO_SYNC, Fault.EIO_SYNC_FORGET):
                assert outcome.error is not None, "a failed sync passed in silence"
        at += STRIDES[fault]
    assert met > 8


# -- a disk that is full --------------------------------------------------------------------------


def fill(memory: Memory, ids: list[str], size: int = 3000) -> dict[str, Messages]:
    """Append in turn until the disk is full; what was acknowledged."""
    written: dict[str, Messages] = {id: [] for id in ids}
    chance = random.Random(3)
    for number in itertools.count():
        id = ids[number % len(ids)]
        new = {"role": "user", "content": chance.randbytes(size // 2).hex()}
        try:
            memory.session(id).append(new)
        except DiskFullError as refused:
            full = refused
            break
        written[id].append(new)
        assert number < 5000
    assert full.retry_after_seconds > 0
    assert "disk is full" in str(full)
    return written


def holds(memory: Memory, written: dict[str, Messages]) -> None:
    for id, messages in written.items():
        assert list(memory.session(id).messages()) == messages
    memory_is_right(memory)


def show_free(disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a simulated disk say how full it is, as the system does of a real one."""
    monkeypatch.setattr(SqliteHome, "disk_free_bytes", lambda home: disk._room_bytes(True))


@pytest.mark.parametrize("how", ["delete", "forget"])
def test_a_full_disk_refuses_writes_lets_you_delete_and_recovers(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyDisk(capacity_bytes=6 << 20) as disk:
        show_free(disk, monkeypatch)
        memory = open_on(disk, ballast_bytes=512 << 10, wal_limit_bytes=512 << 10)
        # A session's pages lie between those of others, so deleting one writes some of theirs.
        ids = [f"s{i}" for i in range(40)]
        written = fill(memory, ids)
        assert (disk.directory / "ballast").stat().st_size == 512 << 10
        for _ in range(3):
            with pytest.raises(DiskFullError):
                memory.session("s0").append({"content": random.Random(1).randbytes(20000).hex()})
            holds(memory, written)
        # Somebody else takes the rest, so that there is the ballast alone.
        (disk.directory / "other").write_bytes(bytes(disk._room_bytes(True)))
        for id in ids[:20]:
            if how == "delete":
                memory.session(id).delete()
            else:
                memory.forget(Selector(scope="default", session=id))
            del written[id]
        assert not (disk.directory / "ballast").exists()
        holds(memory, written)
        memory.compact()
        new = {"content": "there is room again"}
        memory.session("s30").append(new)
        written["s30"].append(new)
        holds(memory, written)
        assert memory.check().clean
        memory.close()
        with contextlib.closing(open_on(disk, ballast_bytes=512 << 10)) as memory:
            holds(memory, written)
            assert memory.stats().lost_records == 0
            assert (disk.directory / "ballast").stat().st_size == 512 << 10


def test_on_a_full_disk_what_collections_hold_can_be_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FaultyDisk(capacity_bytes=6 << 20) as disk:
        show_free(disk, monkeypatch)
        memory = open_on(disk, ballast_bytes=512 << 10, wal_limit_bytes=512 << 10)
        mapping, sequence = memory.mapping("m"), memory.sequence("l")
        small = memory.mapping("small")
        small.update({n: n for n in range(50)})
        chance = random.Random(5)
        for start in range(0, 400, 20):
            mapping.update({start + n: chance.randbytes(3000) for n in range(20)})
            sequence.extend(chance.randbytes(3000) for _ in range(20))
        values = list(sequence)
        written = fill(memory, ["a", "b"])
        with pytest.raises(DiskFullError):
            mapping["more"] = chance.randbytes(3000)
        # Somebody else takes the rest, so that there is the ballast alone.
        (disk.directory / "other").write_bytes(bytes(disk._room_bytes(True)))
        for number in range(0, 400, 7):
            del mapping[number]
            assert sequence.pop() == values.pop()
        assert not (disk.directory / "ballast").exists()
        assert list(mapping) == [n for n in range(400) if n % 7]
        assert list(sequence) == values
        small.clear()
        # A commit needs room for what it deletes, so much is deleted in parts.
        for number in list(mapping):
            del mapping[number]
        while sequence:
            del sequence[-20:]
        assert (len(small), len(mapping), len(sequence)) == (0, 0, 0)
        holds(memory, written)
        memory.compact()
        mapping["more"] = 1
        assert memory.check().clean
        memory.close()


def test_a_disk_is_full_while_there_is_still_room_for_the_log_to_come_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FaultyDisk(capacity_bytes=8 << 20) as disk:
        show_free(disk, monkeypatch)
        memory = open_on(disk, wal_limit_bytes=2 << 20)
        written = fill(memory, ["a", "b"])
        parts = memory._parts
        assert parts.committer.exclusive(lambda: parts.directory.checkpoint(truncate=True))
        assert disk.files()["memopt.db-wal"] == 0
        holds(memory, written)
        memory.close()


def test_a_full_disk_can_be_closed_and_opened_again() -> None:
    with FaultyDisk(capacity_bytes=2 << 20) as disk:
        memory = open_on(disk)
        written = fill(memory, ["a", "b"])
        memory.close()
        with contextlib.closing(open_on(disk)) as memory:
            assert memory.stats().lost_records == 0
            holds(memory, written)
            disk.capacity_bytes = 4 << 20
            memory.session("a").append({"content": "room"})
            written["a"].append({"content": "room"})
            holds(memory, written)


def test_a_checkpoint_that_finds_no_room_does_not_unsay_the_commit_before_it() -> None:
    with FaultyDisk() as disk:
        memory = open_on(disk, wal_limit_bytes=16 << 10)
        for number in range(40):
            # Room for the log of this commit, and none for the database to grow.
            memory.session("a").append(message(number))
            sizes = disk.files()
            full = sum(sizes.values()) + (20 << 10)
            disk.capacity_bytes = full + 4096 if number % 2 else None
            with contextlib.suppress(DiskFullError):
                memory.session("a").append(message(1000 + number))
            disk.capacity_bytes = None
        numbers = [int(m["content"].split()[0]) for m in memory.session("a").messages()]
        assert len(numbers) == len(set(numbers)), "an append that was refused was there after all"
        assert [n for n in numbers if n < 1000] == list(range(40))
        memory.close()
