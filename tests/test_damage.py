"""Bad or missing bytes are detected, never served: bits flipped and files cut, one at a time.

A case damages one file of a small store, opens it and reads everything. What is read must be what
was written, or the store says that it is not: by name of a session, or of the store when it opens,
or as a number of lost records. After a loss every message that is still there must at least have
been written, at that place of that session, once.

Most cases compare all rows of all tables and of all indexes with those of the whole store, which
takes a millisecond; where they differ, and in every 32nd case anyway, everything is read
through the public API.
"""

import collections
import contextlib
import functools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw
import pytest

from memopt.base.errors import CorruptionError, NotFoundError, StoreClosedError
from memopt.base.records import Selector
from memopt.memory import Memory
from memopt.stores.schema import migrate
from memopt.testing.flips import Case, Pristine, single_bit_flips, truncations
from memopt.wiring import open_memory

pytestmark = pytest.mark.slow

T = TypeVar("T")

SETTINGS: dict[str, Any] = {
    "budget": "64MiB",
    "durability": "os",
    "maintenance_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 1024,
    "text_bytes_min": 300,
    "dictionary_bytes": 4096,
    "dictionary_training_pages": 16,
    "state_keyframe_versions": 3,
    "wal_limit_bytes": "16MiB",
}
SCOPES = [*(f"acme/u{i}" for i in range(7)), "beta/team/x", "beta/team/y", "solo"]
EVERYTHING_READ_IN = 32
SHAPES = ("closed", "killed", "halfway", "copying", "begun_anew")

Key = tuple[str, str]
StateKey = tuple[str, str, str, int]


class Written(NamedTuple):
    """What a store holds, and what it ever held, by place."""

    messages: dict[Key, list[str]]
    states: dict[StateKey, str]
    said: dict[tuple[str, str, int], set[str]]
    rows: list[Any]


class Shape(NamedTuple):
    path: Path
    pristine: Pristine
    written: Written


class Author:
    """Writes a store and notes what it wrote."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.said: dict[tuple[str, str, int], set[str]] = collections.defaultdict(set)
        self.saved: dict[StateKey, set[str]] = collections.defaultdict(set)
        self.chance = random.Random(7)
        pool = [self._words(12) for _ in range(24)]
        self.sentence = lambda: self.chance.choice(pool)
        self.prompt = "You are an agent of an airline. " + self._words(60)

    def begin(self) -> None:
        """Sessions with pages, tails, texts, states, actors and keys, under a dictionary."""
        for i in range(34):
            self.session(i, self.chance.randint(2, 8))
        assert self.memory.compact().dictionaries_trained
        for i in range(0, 34, 3):
            self.session(i, 2)

    def go_on(self, first: int) -> None:
        """Branches, redactions, deletions and more of everything."""
        memory = self.memory
        for i in range(first, first + 12):
            self.session(i, self.chance.randint(1, 6))
        handles = [memory.session(k[1], scope=k[0]) for k in contents(memory)[0]]
        for i, session in enumerate(self.chance.sample(handles, 10)):
            match i % 5:
                case 0:
                    session.truncate(len(session) // 2)
                    session.append({"role": "user", "content": "again " + self.sentence()})
                case 1:
                    fork = session.fork(f"{session.id}-fork{first}", at=len(session) - 1)
                    fork.append({"role": "user", "content": "forked " + self.sentence()})
                case 2:
                    session.redact(1)
                case 3:
                    session.pop()
                case 4:
                    session.delete()
            self.note()
        memory.forget(Selector(scope="acme", reach="subtree", containing="secret 3"))
        self.note()

    def session(self, number: int, messages: int) -> None:
        scope = SCOPES[number % len(SCOPES)]
        agent = "bot" if number % 4 else None
        session = self.memory.session(f"s{number}", scope=scope, agent=agent)
        if not len(session):
            session.append({"role": "system", "content": self.prompt})
        texts = (
            f"secret {number}.{i} {self.sentence()} {self._words(3)} {self.sentence()}"
            for i in range(messages)
        )
        first, *others = ({"role": "user", "content": text} for text in texts)
        session.append(first, actor="someone", key=f"key {len(session)}")
        if others:
            session.extend(others)
        for i in range(number % 3):
            log = [self.sentence() for _ in range(3 * i + 1)]
            session.save_state({"step": i, "log": log}, name="plan" if i % 2 else "main")
        if not number % 4:
            notes, log = session.mapping("notes"), session.sequence("log")
            notes.update({f"note {i}": {"text": self.sentence(), "i": i} for i in range(3)})
            self.note_values(scope, session.id)
            notes["note 1"] = self._words(300)
            self.note_values(scope, session.id)
            log.extend([self.sentence(), number])
            self.note_values(scope, session.id)
            if len(notes) > 2:
                del notes["note 2"]
        self.note()

    def note_values(self, scope: str, id: str) -> None:
        """Each commit is something that a shorter log may end with."""
        messages: dict[Key, list[str]] = {}
        states: dict[StateKey, str] = {}
        read(self.memory, (scope, id), messages, states)
        for key, value in states.items():
            self.saved[key].add(value)

    def note(self) -> None:
        messages, states = contents(self.memory)
        for (scope, id), texts in messages.items():
            for seq, text in enumerate(texts):
                self.said[scope, id, seq].add(text)
        for key, value in states.items():
            self.saved[key].add(value)

    def written(self) -> Written:
        messages, states = contents(self.memory)
        said = dict(self.said) | {(*k[:2], hash(k[2:])): v for k, v in self.saved.items()}
        return Written(messages, states, said, rows_of(self.memory))

    def _words(self, count: int) -> str:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return " ".join(
            "".join(self.chance.choices(letters, k=self.chance.randint(3, 9))) for _ in range(count)
        )


def contents(memory: Memory) -> tuple[dict[Key, list[str]], dict[StateKey, str]]:
    messages: dict[Key, list[str]] = {}
    states: dict[StateKey, str] = {}
    for info in memory.sessions(None, limit=1000):
        read(memory, (info.scope, info.id), messages, states)
    return messages, states


def read(
    memory: Memory, key: Key, messages: dict[Key, list[str]], states: dict[StateKey, str]
) -> None:
    session = memory.session(key[1], scope=key[0])
    messages[key] = [json.dumps(message) for message in session.messages()]
    for version in session.states():
        state = session.load_state(name=version.name, version=version.version)
        assert state is not None
        states[(*key, version.name, version.version)] = json.dumps(state.value)
    # What its collections hold is compared as states are.
    for name, value in session.mapping("notes").items():
        states[(*key, f"notes/{name}", 0)] = json.dumps(value)
    for at, value in enumerate(session.sequence("log")):
        states[(*key, f"log/{at}", 0)] = json.dumps(value)


def mending(action: Callable[[], T]) -> T:
    """As a caller would: once more, when the error says that the damage was mended."""
    try:
        return action()
    except CorruptionError as error:
        if not error.mended:
            raise
    return action()


def rows_of(memory: Memory) -> list[Any]:
    """Every row of every table, and every index in its order."""
    home = memory._parts.directory.home
    with home.snapshot():
        reader = next(reader for reader in home._readers._all if reader.since)
        return [reader.connection.execute(sql).fetchall() for sql in _every_row()]


@functools.cache
def _every_row() -> list[str]:
    fresh = apsw.Connection(":memory:")
    migrate(fresh)
    schema = fresh.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
    ).fetchall()
    # What opening writes is no one's content.
    statements = ["SELECT * FROM meta WHERE name NOT IN ('lost_records', 'lsn_limit')"]
    for kind, name, table, sql in schema:
        if kind == "table" and name != "meta":
            statements.append(f"SELECT * FROM {name}")
        elif kind == "index" and sql is not None:
            where = "".join(sql.partition(" WHERE ")[1:])
            columns = sql[sql.index("(") + 1 : sql.index(")")]
            statements.append(f"SELECT {columns} FROM {table} INDEXED BY {name} {where} ORDER BY 1")
    return statements


# -- shapes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shape]:
    """The same store, closed, and killed with its log in four conditions."""
    root = tmp_path_factory.mktemp("damage")
    live = root / "live"
    found: dict[str, Shape] = {}

    def keep(name: str, author: Author, acked: bytes | None = None) -> None:
        # A copy of the files in use is what a SIGKILL leaves: a mapped page survives one.
        written = author.written()
        shutil.copytree(live, root / name, ignore=shutil.ignore_patterns("*.sock"))
        if acked is not None:
            (root / name / "acked").write_bytes(acked)
        found[name] = Shape(root / name, Pristine(root / name), written)

    memory = open_memory(live, **SETTINGS)
    author = Author(memory)
    author.begin()
    author.go_on(34)
    written = author.written()
    memory.close()
    shutil.copytree(live, root / "closed", ignore=shutil.ignore_patterns("*.sock"))
    found["closed"] = Shape(root / "closed", Pristine(root / "closed"), written)

    author.memory = memory = open_memory(live, **SETTINGS)
    author.go_on(50)
    keep("killed", author)
    directory = memory._parts.directory
    before = (live / "acked").read_bytes()
    frames = memory._parts.directory.home.checkpoint_passive().home
    directory.acked.update(wal_copying=frames)
    interrupted = (live / "acked").read_bytes()
    directory.acked.update(wal_home=frames)
    assert frames > 20
    assert before != interrupted
    author.go_on(70)
    keep("halfway", author)
    memory._parts.directory.home.checkpoint_passive()
    directory.acked.update(wal_copying=directory.acked.record.wal_frames)
    keep("copying", author)
    memory._parts.committer.exclusive(lambda: directory.checkpoint(truncate=False))
    author.go_on(90)
    keep("begun_anew", author)
    memory.close()
    return found


class Outcome(NamedTuple):
    kind: str
    """harmless, repaired, noted, lost, session or store."""
    unreadable: int


class Harness:
    """Runs cases and counts what came of them."""

    def __init__(self) -> None:
        self.tables: dict[str, collections.Counter[str]] = {}
        self.readable: dict[str, list[float]] = {}
        self.case = 0

    def run(self, shape: Shape, cases: Iterable[Case]) -> None:
        for what, damage in cases:
            self.case += 1
            with shape.pristine.restored(), damage:
                outcome = self.judge(shape, what, whole=not self.case % EVERYTHING_READ_IN)
            name = shape.path.name
            self.tables.setdefault(name, collections.Counter())[outcome.kind] += 1
            if outcome.kind in ("session", "list"):
                share = 1 - outcome.unreadable / len(shape.written.messages)
                self.readable.setdefault(name, []).append(share)

    def report(self) -> str:
        """What came of the cases, and how much stayed readable where something did not."""
        lines = []
        for name, outcomes in self.tables.items():
            counts = ", ".join(f"{count} {kind}" for kind, count in outcomes.most_common())
            shares = sorted(self.readable.get(name, [1.0]))
            lines.append(
                f"{name}: {outcomes.total()} cases: {counts}; readable where sessions were hit: "
                f"median {shares[len(shares) // 2]:.0%}, least {shares[0]:.0%}"
            )
        return "\n".join(lines)

    def judge(self, shape: Shape, what: str, *, whole: bool) -> Outcome:
        try:
            memory = open_memory(shape.path, create=False, **SETTINGS)
        except CorruptionError:
            return Outcome("store", len(shape.written.messages))
        except NotFoundError:
            pytest.fail(f"{what}: there is no store")
        try:
            return self._judge(memory, shape.written, what, whole)
        finally:
            # Nothing is to be brought home: the files are put back anyway.
            memory._parts.committer.fail(StoreClosedError("damaged on purpose"))
            memory.close()

    def _judge(self, memory: Memory, written: Written, what: str, whole: bool) -> Outcome:
        lost_records = memory.stats().lost_records
        try:
            same = mending(lambda: rows_of(memory)) == written.rows
        except CorruptionError:
            same = False
        if not whole and (same or lost_records):
            return Outcome(self._kind(memory), 0)
        unreadable = 0
        listed = True
        try:
            keys = {(info.scope, info.id) for info in memory.sessions(None, limit=1000)}
        except CorruptionError:
            listed, keys = False, set()
        for key in keys | written.messages.keys():
            messages: dict[Key, list[str]] = {}
            states: dict[StateKey, str] = {}
            try:
                mending(lambda: read(memory, key, messages, states))  # noqa: B023
            except CorruptionError as error:
                if (error.scope, error.session) != key:
                    pytest.fail(f"{what}: {error} does not name {key}")
                unreadable += 1
                continue
            wanted = {k: v for k, v in written.states.items() if k[:2] == key}
            if lost_records:
                assert self._was_written(written, key, messages[key], states), what
            else:
                assert messages[key] == written.messages.get(key, []), f"{what}: {key}"
                assert states == wanted, f"{what}: {key}"
        if listed and not lost_records:
            assert keys == written.messages.keys(), what
        if unreadable:
            return Outcome("session", unreadable)
        return Outcome(self._kind(memory) if listed else "list", 0)

    def _kind(self, memory: Memory) -> str:
        stats = memory.stats()
        if stats.lost_records:
            return "lost"
        if stats.counters.get("pages_repaired"):
            return "repaired"
        return "noted" if stats.notes else "harmless"

    def _was_written(
        self, written: Written, key: Key, messages: list[str], states: dict[StateKey, str]
    ) -> bool:
        return all(
            text in written.said.get((*key, seq), ()) for seq, text in enumerate(messages)
        ) and all(
            value in written.said.get((*key, hash(state[2:])), ())
            for state, value in states.items()
        )


@pytest.fixture(scope="module")
def harness() -> Harness:
    return Harness()


# -- flips and cuts -------------------------------------------------------------------------------

LOG_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
FRAME_BYTES = FRAME_HEADER_BYTES + 4096
DATABASE_HEADER_BYTES = 100
ACKED_RECORD_BYTES = 88


def cases(shape: Shape, *, few: bool) -> Iterator[Case]:
    """Flips and cuts of every file, in numbers that make 10,000 over all shapes; where `few`, a
    twentieth of them."""
    rng = random.Random(f"{shape.path.name} damaged")
    part = 20 if few else 1
    scale = int(os.environ.get("MEMOPT_DAMAGE_SCALE", "1"))

    def some(count: int) -> int:
        return max(2, scale * count // part)

    database, log, acked = (shape.path / name for name in ("memopt.db", "memopt.db-wal", "acked"))
    is_closed = shape.path.name == "closed"
    yield from single_bit_flips(database, rng, some(2100 if is_closed else 420))
    yield from truncations(database, rng, some(150 if is_closed else 60))
    yield from single_bit_flips(acked, rng, some(100))
    yield from single_bit_flips(acked, rng, some(100), stop=ACKED_RECORD_BYTES)
    yield from truncations(acked, rng, some(30))
    if is_closed:
        every_bit = 8 * DATABASE_HEADER_BYTES
        yield from single_bit_flips(database, rng, some(every_bit), stop=DATABASE_HEADER_BYTES)
        return
    yield from single_bit_flips(log, rng, some(400))
    yield from truncations(log, rng, some(60))
    yield from single_bit_flips(log, rng, some(8 * LOG_HEADER_BYTES), stop=LOG_HEADER_BYTES)
    for start in (LOG_HEADER_BYTES, LOG_HEADER_BYTES + FRAME_BYTES):
        bits = 8 * FRAME_HEADER_BYTES
        stop = start + FRAME_HEADER_BYTES
        yield from single_bit_flips(log, rng, some(bits), start=start, stop=stop)


@pytest.mark.parametrize("name", SHAPES)
def test_a_damaged_store_says_so_or_reads_as_it_was(shapes: dict[str, Shape], name: str) -> None:
    harness = Harness()
    harness.run(shapes[name], cases(shapes[name], few=True))
    assert harness.case >= 50


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_thousands_of_damaged_stores_say_so_or_read_as_they_were(
    shapes: dict[str, Shape], harness: Harness, name: str
) -> None:
    harness.run(shapes[name], cases(shapes[name], few=False))


@pytest.mark.slow
def test_ten_thousand_damages_were_done(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    if len(harness.tables) < len(SHAPES):
        pytest.skip("only a part of the cases was run")
    assert sum(outcomes.total() for outcomes in harness.tables.values()) >= 10_000
    with capsys.disabled():
        print("\n" + harness.report())


@pytest.mark.parametrize("name", ["closed"])
def test_a_database_cut_within_any_of_its_pages_says_so(
    shapes: dict[str, Shape], name: str
) -> None:
    """SQLite itself takes what is missing of the last page for zeros, unverified."""
    shape = shapes[name]
    pages = (shape.path / "memopt.db").stat().st_size // 4096
    harness = Harness()
    cut = ((f"cut in page {page}", cut_to(shape, 4096 * page - 900)) for page in range(2, pages))
    harness.run(shape, cut)
    if name == "closed":
        # A log may hold what is missing, and does after a power cut.
        assert harness.tables[name]["harmless"] == 0


@contextlib.contextmanager
def cut_to(shape: Shape, size: int) -> Iterator[None]:
    os.truncate(shape.path / "memopt.db", size)
    yield


def test_most_flips_of_a_database_at_rest_are_mended(shapes: dict[str, Shape]) -> None:
    harness, shape = Harness(), shapes["closed"]
    rng = random.Random("mended")
    harness.run(shape, single_bit_flips(shape.path / "memopt.db", rng, 300))
    [outcomes] = harness.tables.values()
    assert outcomes["repaired"] > 170


def test_a_loss_is_reported_until_somebody_accepts_it(shapes: dict[str, Shape]) -> None:
    shape = shapes["killed"]
    with shape.pristine.restored():
        log = shape.path / "memopt.db-wal"
        os.truncate(log, log.stat().st_size // 2)
        for _ in range(2):
            with open_memory(shape.path, **SETTINGS) as memory:
                report = memory.check()
                assert report.lost_records > 0
                assert not report.clean
                assert memory.stats().lost_records == report.lost_records
        with open_memory(shape.path, **SETTINGS) as memory:
            assert memory.accept_damage() == 1
            assert memory.check().clean


def test_a_page_that_went_bad_in_use_is_mended_and_the_read_succeeds(
    shapes: dict[str, Shape],
) -> None:
    shape = shapes["closed"]
    with shape.pristine.restored(), open_memory(shape.path, **SETTINGS) as memory:
        flip(shape.path / "memopt.db", root_of(memory, "events"), byte=77)
        with pytest.raises(CorruptionError) as caught:
            list(memory.journal())
        assert caught.value.mended
        assert len(list(memory.journal())) > 100
        assert memory.stats().counters["pages_repaired"] == 1
        assert any("flipped back" in note for note in memory.stats().notes)
    with shape.pristine.restored(), open_memory(shape.path, **SETTINGS) as memory:
        flip(shape.path / "memopt.db", root_of(memory, "tail"), byte=77)
        assert contents(memory)[0] == shape.written.messages


def test_what_cannot_be_mended_is_named_and_the_others_are_read(shapes: dict[str, Shape]) -> None:
    shape = shapes["closed"]
    with shape.pristine.restored(), open_memory(shape.path, **SETTINGS) as memory:
        flip(shape.path / "memopt.db", root_of(memory, "states"), byte=77)
        flip(shape.path / "memopt.db", root_of(memory, "states"), byte=99)
        messages: dict[Key, list[str]] = {}
        for info in memory.sessions(None, limit=1000):
            session = memory.session(info.id, scope=info.scope)
            messages[info.scope, info.id] = [json.dumps(m) for m in session.messages()]
        assert messages == shape.written.messages
        report = memory.check()
        assert report.damages
        assert memory.stats().counters["pages_repaired"] == 0


def test_a_forgotten_state_never_comes_back_with_a_shorter_log(shapes: dict[str, Shape]) -> None:
    shape = shapes["killed"]
    with shape.pristine.restored():
        with open_memory(shape.path, **SETTINGS) as memory:
            session = memory.session("with-state", scope="solo")
            session.save_state({"text": "keep nothing of this"})
            memory._parts.committer.exclusive(
                lambda: memory._parts.directory.checkpoint(truncate=True)
            )
            memory.forget(Selector(scope="solo", containing="nothing of this"))
            assert session.load_state() is None
            files = {
                name: (shape.path / name).read_bytes()
                for name in ("memopt.db", "memopt.db-wal", "acked")
            }
        for name, content in files.items():
            (shape.path / name).write_bytes(content)
        os.truncate(shape.path / "memopt.db-wal", len(files["memopt.db-wal"]) - 1)
        with open_memory(shape.path, **SETTINGS) as memory:
            assert memory.stats().lost_records > 0


def root_of(memory: Memory, table: str) -> int:
    home = memory._parts.directory.home
    [[root]] = home.writer.connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)
    ).fetchall()
    return int(root)


def flip(path: Path, page: int, *, byte: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        at = 4096 * (page - 1) + byte
        [old] = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([old ^ 1]), at)
