"""What a process that is to be killed does: it verifies a store, then works on it at random.

Owns: the model of what a store should hold, as digests, and the operations that change both. An
operation says what it is about to make of which sessions *before* it starts, and that it was
acknowledged *after* it returned; so whoever listens knows, when the words break off, what must be
there and what may be. Not here: processes, kills and pipes (crash.py).
"""

import contextlib
import hashlib
import itertools
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base.errors import ContextOverflowError, MemoptError
from memopt.base.records import Selector
from memopt.memory import Memory
from memopt.sessions.session import Session
from memopt.testing.crashentries import (
    COLLECTIONS,
    WrongError,
    collection_of,
    digest_of,
    entries_of,
    mapping_change,
    sequence_change,
)
from memopt.testing.crashrecall import verify_recall
from memopt.testing.crashsettings import Settings
from memopt.wiring import open_memory

SCOPES: Final = ("acme/u1", "acme/u2", "acme/u3", "acme/u4", "acme/u5", "acme", "beta/x", "solo")
FAMILIES: Final = 5
"""Sessions of one family may share pages, so one thread works on all of a family."""
_FORKS: Final = 2
_SESSION_MESSAGES_MAX: Final = 60
_STATES_MAX: Final = 7
_ROLES: Final = ("user", "assistant", "tool", "system")
_REDACTED: Final = {"content": "[redacted]", "redacted": True}
_WORDS: Final = [hashlib.sha256(bytes([i])).hexdigest()[: 3 + i % 9] for i in range(120)]


Key = tuple[str, str]
Content = tuple[tuple[bytes, ...], tuple[bytes, ...]]
"""Digests of a session's messages, and of the versions of its state. Of a collection, which goes by
a name that no session has: nothing, and its entries in order."""


class Retry(NamedTuple):
    """An append under an idempotency key, to be asked for again after a kill."""

    scope: str
    id: str
    key: str
    message: dict[str, Any]


class Effect(NamedTuple):
    """What an operation makes of sessions: their new content, None where they are gone."""

    what: str
    sessions: list[tuple[Key, Content | None]]
    retry: Retry | None = None


Model = dict[Key, Content]


def message_of(number: int, role: str, chance: random.Random) -> dict[str, Any]:
    """A message that is like others and unlike any: `number` is in it."""
    words = " ".join(chance.choice(_WORDS) for _ in range(chance.choice((3, 8, 8, 20, 60, 200))))
    message: dict[str, Any] = {"role": role, "content": f"m{number}. {words}", "number": number}
    if chance.random() < 0.1:
        shared = f"You are agent {chance.randrange(4)}. " + " ".join(_WORDS[:80])
        message = {"role": "system", "content": shared, "number": number}
    return message


# -- verifying ------------------------------------------------------------------------------------


def verify(memory: Memory, model: Model, in_flight: list[Effect], *, deep: bool) -> list[bool]:
    """Compare everything; whether each operation in flight was done. Raises WrongError."""
    stats = memory.stats()
    # What a small budget or an old SQLite goes without is said, too.
    expected = ("checksum VFS", "the embedder takes")
    notes = [note for note in stats.notes if not any(said in note for said in expected)]
    if stats.lost_records or notes:
        raise WrongError(f"opening said: {stats.lost_records} lost, {notes}")
    listed = {(info.scope, info.id): info for info in memory.sessions(None, limit=10_000)}
    found = contents_of(memory)
    done = []
    for effect in in_flight:
        before = all(found.get(key) == model.get(key) for key, _ in effect.sessions)
        after = all(found.get(key) == content for key, content in effect.sessions)
        if not before and not after and not _each_of(effect, model, found):
            raise WrongError(f"{effect.what} in flight is neither done nor undone: {effect}")
        for key, _ in effect.sessions:
            model.pop(key, None)
            if key in found:
                model[key] = found[key]
        done.append(after)
    for key in model.keys() | found.keys():
        if model.get(key) != found.get(key):
            raise WrongError(f"session {key}: {_difference(model.get(key), found.get(key))}")
    for key, info in listed.items():
        session = memory.session(key[1], scope=key[0])
        if not info.message_count == len(session) == len(model[key][0]):
            raise WrongError(f"session {key}: {info.message_count} listed, {len(session)} long")
    if deep:
        report = memory.check()
        if not report.clean:
            raise WrongError(f"check() found {report}")
        lsns = [record.lsn for record in memory.journal()]
        if lsns != sorted(set(lsns)) or (lsns and lsns[-1] > memory.lsn):
            raise WrongError("LSNs of the journal do not rise")
        for scope in sorted({scope for scope, _ in listed}):
            verify_recall(memory, scope, ignored=_REDACTED)
    return done


def _each_of(effect: Effect, model: Model, found: Model) -> bool:
    """An operation of several commits may have been done to some of its sessions."""
    return effect.what == "forget" and all(
        found.get(key) in (model.get(key), content) for key, content in effect.sessions
    )


def _difference(wanted: Content | None, found: Content | None) -> str:
    if wanted is None or found is None:
        return "should not be there" if wanted is None else "is gone"
    sizes = [(len(part), len(other)) for part, other in zip(wanted, found, strict=True)]
    first = [
        next((i for i, (a, b) in enumerate(zip(part, other, strict=False)) if a != b), None)
        for part, other in zip(wanted, found, strict=True)
    ]
    return f"(wanted, found) messages and states {sizes}, first difference at {first}"


def contents_of(memory: Memory) -> Model:
    """Everything that a store holds."""
    found: Model = {}
    for info in memory.sessions(None, limit=10_000):
        found[info.scope, info.id] = content_of(memory.session(info.id, scope=info.scope))
    for family in range(FAMILIES):
        for name in COLLECTIONS:
            key = (SCOPES[family], f"f{family}-{name}")
            entries = entries_of(collection_of(memory, key))
            if entries:
                found[key] = ((), entries)
    return found


def content_of(session: Session) -> Content:
    if session.id.endswith("-own"):
        return (), entries_of(session.mapping("own"))
    messages = tuple(digest_of(message) for message in session.messages())
    states = []
    for version in session.states():
        state = session.load_state(version=version.version)
        assert state is not None
        states.append(digest_of(state.value))
    return messages, tuple(states)


# -- working --------------------------------------------------------------------------------------


class Worker:
    """Does operations on the sessions of some families until it is killed or has done enough."""

    def __init__(
        self,
        memory: Memory,
        model: Model,
        families: list[int],
        chance: random.Random,
        numbers: "itertools.count[int]",
        *,
        intend: Callable[[Effect], None],
        done: Callable[[], None],
        alone: bool,
    ) -> None:
        self.memory = memory
        self._model = model
        self._families = families
        self._chance = chance
        self._numbers = numbers
        self._intend = intend
        self._done = done
        self._alone = alone

    def step(self) -> None:
        """One operation, drawn by weight."""
        [name] = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        self.do(name)

    def do(self, name: str) -> None:
        """An operation by its name in OPERATIONS. One that cannot be done now does nothing."""
        getattr(self, f"_{name}")()

    # -- operations: each says what it intends, does it, and says that it is done

    @contextlib.contextmanager
    def _saying(
        self, what: str, *sessions: tuple[Key, Content | None], retry: Retry | None = None
    ) -> Iterator[None]:
        self._intend(Effect(what, list(sessions), retry))
        yield
        for key, content in sessions:
            self._model.pop(key, None)
            if content is not None:
                self._model[key] = content
        self._done()

    def _append(self) -> None:
        key, (messages, states) = self._any_session()
        message = self._message()
        after = ((*messages, digest_of(message)), states)
        with self._saying("append", (key, after)):
            self._handle(key).append(message)

    def _extend(self) -> None:
        key, (messages, states) = self._any_session()
        new = [self._message() for _ in range(self._chance.randint(2, 12))]
        after = ((*messages, *map(digest_of, new)), states)
        with self._saying("extend", (key, after)):
            self._handle(key).extend(new)

    def _keyed(self) -> None:
        key, (messages, states) = self._any_session()
        message = self._message()
        retry = Retry(*key, f"k{message['number']}", message)
        after = ((*messages, digest_of(message)), states)
        with self._saying("keyed", (key, after), retry=retry):
            self._handle(key).append(message, key=retry.key)

    def _stream(self) -> None:
        key, (messages, states) = self._any_session()
        message = self._message()
        after = ((*messages, digest_of(message)), states)
        with self._saying("stream", (key, after)):
            rest = message | {"content": ""}
            with self._handle(key).writer(rest) as writer:
                for start in range(0, len(message["content"]), 100):
                    writer.write(message["content"][start : start + 100])
                writer.commit()

    def _save(self) -> None:
        key, (messages, states) = self._any_session()
        value = {"messages": len(messages), "words": self._message(), "list": list(range(50))}
        with self._saying("save", (key, (messages, (*states, digest_of(value))))):
            self._handle(key).save_state(value)

    def _truncate(self) -> None:
        key, (messages, states) = self._any_session()
        if messages:
            at = self._chance.randrange(len(messages))
            with self._saying("truncate", (key, (messages[:at], states))):
                self._handle(key).truncate(at)

    def _pop(self) -> None:
        key, (messages, states) = self._any_session()
        if messages:
            with self._saying("pop", (key, (messages[:-1], states))):
                self._handle(key).pop()

    def _fork(self) -> None:
        (scope, id), (messages, _) = self._any_session()
        family = id.partition("-")[0]
        new = (scope, f"{family}-{self._chance.randint(1, _FORKS)}")
        if new in self._model or (scope, id) not in self._model:
            return
        at = self._chance.randint(0, len(messages))
        with self._saying("fork", (new, (messages[:at], ()))):
            self._handle((scope, id)).fork(new[1], at=at)

    def _delete(self) -> None:
        key, _ = self._any_session()
        if key in self._model and self._chance.random() < 0.5:
            with self._saying("delete", (key, None)):
                self._handle(key).delete()

    def _redact(self) -> None:
        key, (messages, _) = self._any_session()
        if not messages:
            return
        session = self._handle(key)
        seq = self._chance.randrange(len(messages))
        [old] = session.messages(seq, seq + 1)
        with self._saying("redact", *self._without(digest_of(old), old.get("role"))):
            session.redact(seq)

    def _forget(self) -> None:
        key, (messages, _) = self._any_session()
        if not messages or not self._alone:
            return
        seq = self._chance.randrange(len(messages))
        [old] = self._handle(key).messages(seq, seq + 1)
        # States quote no message by its beginning, and no two messages have one in common.
        text = f"m{old.get('number')}. "
        if str(old["content"]).startswith(text):
            with self._saying("forget", *self._without(digest_of(old), old.get("role"))):
                self.memory.forget(Selector(scope=key[0], containing=text))

    def _without(self, digest: bytes, role: Any) -> list[tuple[Key, Content | None]]:
        """Sessions that hold a message, redacted: forks share it with the one they come from."""
        mark = digest_of(({"role": role} if role else {}) | _REDACTED)
        return [
            (key, (tuple(mark if item == digest else item for item in messages), states))
            for key, (messages, states) in self._model.items()
            if digest in messages
        ]

    def _entry(self) -> None:
        """One change of a mapping: of a scope, or of a session that has nothing else."""
        key, entries = self._any_collection(self._chance.choice(("map", "map", "own")))
        if key[1].endswith("-own") and key in self._model and self._chance.random() < 0.05:
            with self._saying("entry", (key, None)):
                self._handle(key).delete()
            return
        mapping = collection_of(self.memory, key)
        act = mapping_change(mapping, entries, self._chance, self._value)
        with self._saying("entry", (key, self._kept(key, entries))):
            act()

    def _item(self) -> None:
        """One change of a sequence."""
        key, entries = self._any_collection("seq")
        sequence = collection_of(self.memory, key)
        act = sequence_change(sequence, entries, self._chance, self._value)
        with self._saying("item", (key, self._kept(key, entries))):
            act()

    def _any_collection(self, name: str) -> tuple[Key, list[bytes]]:
        family = self._chance.choice(self._families)
        key = (SCOPES[family], f"f{family}-{name}")
        return key, list(self._model.get(key, ((), ()))[1])

    def _kept(self, key: Key, entries: list[bytes]) -> Content | None:
        """An empty collection is as none; a session is there until it is deleted."""
        there = key[1].endswith("-own") and key in self._model
        return ((), tuple(entries)) if entries or there else None

    def _value(self) -> dict[str, Any]:
        words = " ".join(self._chance.choices(_WORDS, k=self._chance.choice((1, 5, 60, 400))))
        return {"number": next(self._numbers), "words": words}

    def _compact(self) -> None:
        if self._alone or self._families[0] == 0:
            with self._saying("compact"):
                self.memory.compact()

    def _backup(self) -> None:
        target = backups_of(self.memory.path) / f"b{next(self._numbers)}"
        with self._saying("backup"):
            self.memory.backup(target)
        if self._alone:
            verify_backup(target, self._model)
        shutil.rmtree(target)

    def _read(self) -> None:
        key, content = self._any_session()
        if key in self._model and content_of(self._handle(key)) != content:
            raise WrongError(f"session {key} read wrong in use")
        key, entries = self._any_collection(self._chance.choice(COLLECTIONS))
        if list(entries_of(collection_of(self.memory, key))) != entries:
            raise WrongError(f"collection {key} read wrong in use")

    def _context(self) -> None:
        """Leaves a window, and what is recalled, in the store."""
        key, (messages, _) = self._any_session()
        tokens_max = self._chance.choice((2_000, 4_000))
        with self._saying("context"), contextlib.suppress(ContextOverflowError):
            context = self._handle(key).context(max_tokens=tokens_max)
            sent = len(context.messages) + len(context.report.left_out)
            if context.report.tokens > tokens_max or (messages and not sent):
                raise WrongError(f"the context of session {key} is {context.report}")

    # -- what they need

    def _any_session(self) -> tuple[Key, Content]:
        chance = self._chance
        family = chance.choice(self._families)
        key = (SCOPES[family % len(SCOPES)], f"f{family}-{min(chance.randint(0, 5), _FORKS)}")
        if chance.random() < 0.2:
            key = (SCOPES[-1 - family % 3], key[1])
        content = self._model.get(key, ((), ()))
        if len(content[0]) > _SESSION_MESSAGES_MAX or len(content[1]) > _STATES_MAX:
            with self._saying("delete", (key, None)):
                self._handle(key).delete()
            content = ((), ())
        return key, content

    def _handle(self, key: Key) -> Session:
        return self.memory.session(key[1], scope=key[0])

    def _message(self) -> dict[str, Any]:
        return message_of(next(self._numbers), self._chance.choice(_ROLES), self._chance)


_WEIGHTS: Final[dict[str, float]] = {
    "append": 40, "extend": 12, "keyed": 6, "stream": 3, "save": 10, "truncate": 5, "pop": 3,
    "entry": 16, "item": 12, "fork": 6, "delete": 4, "redact": 3, "forget": 1, "compact": 0.3,
    "backup": 0.5, "read": 4, "context": 6,
}  # fmt: skip
OPERATIONS: Final = tuple(_WEIGHTS)


def backups_of(path: Path) -> Path:
    return path.with_name(path.name + ".backups")


def verify_backup(path: Path, model: Model) -> None:
    """A backup holds what the store held."""
    with open_memory(path, budget="16MiB", maintenance_seconds=0) as copy:
        if contents_of(copy) != model or not copy.check().clean:
            raise WrongError(f"the backup {path} holds something else")


# -- one process ----------------------------------------------------------------------------------


class Said(NamedTuple):
    """What a process reports: kind is opened, verified, intend, done, closing, closed or wrong."""

    kind: str
    thread: int
    value: Any = None


def work(
    path: Path,
    model: Model,
    in_flight: list[Effect],
    settings: Settings,
    seed: int,
    numbers_from: int,
    operations: int,
    favoured: str,
    say: Callable[[bytes], None],
) -> None:
    """Open, verify, work, close; saying all of it. Never returns anything but what it says."""
    lock = threading.Lock()
    encode = msgspec.msgpack.Encoder().encode

    def tell(kind: str, thread: int = 0, value: Any = None) -> None:
        packed = encode(Said(kind, thread, value))
        with lock:
            say(packed)

    try:
        _work(path, model, in_flight, settings, seed, numbers_from, operations, favoured, tell)
    except (WrongError, MemoptError, AssertionError, LookupError, TypeError, ValueError) as error:
        tell("wrong", 0, f"{type(error).__name__}: {error}")
        raise


def _work(
    path: Path,
    model: Model,
    in_flight: list[Effect],
    settings: Settings,
    seed: int,
    numbers_from: int,
    operations: int,
    favoured: str,
    tell: Callable[..., None],
) -> None:
    chance = random.Random(seed)
    memory = settings.open(path)
    tell("opened")
    done = verify(memory, model, in_flight, deep=chance.random() < 0.3)
    for effect in in_flight:
        if effect.retry is not None:
            retry = effect.retry
            memory.session(retry.id, scope=retry.scope).append(retry.message, key=retry.key)
            [(key, content)] = effect.sessions
            assert content is not None
            model[key] = content
            verify(memory, model, [], deep=False)
    tell("verified", 0, (done, list(model.items())))
    _clear_backups(path)
    numbers = itertools.count(numbers_from)
    count = settings.threads
    failures: list[BaseException] = []
    last = [memory]

    def run(thread: int) -> None:
        families = [family for family in range(FAMILIES) if family % count == thread]
        mine = random.Random(seed * 31 + thread)
        own = {key: value for key, value in model.items() if family_of(key) in families}
        worker = Worker(
            memory, own, families, mine, numbers, alone=count == 1,
            intend=lambda effect: tell("intend", thread, effect),
            done=lambda: tell("done", thread),
        )  # fmt: skip
        try:
            for count_down in range(operations, 0, -1):
                if favoured and count_down == operations - 5:
                    worker.do(favoured)
                worker.step()
                if mine.random() < 0.01 and count == 1:
                    tell("closing")
                    worker.memory.close()
                    tell("closed")
                    worker.memory = settings.open(path)
            last[0] = worker.memory
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failures.append(error)

    if count == 1:
        run(0)
    else:
        threads = [threading.Thread(target=run, args=(thread,)) for thread in range(count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    if failures:
        raise failures[0]
    tell("closing")
    last[0].close()
    tell("closed")


def family_of(key: Key) -> int:
    return int(key[1][1 : key[1].index("-")])


def _clear_backups(path: Path) -> None:
    """A backup that was under way at a kill is whole, or is not there by its name."""
    for copy in backups_of(path).glob("b*"):
        with open_memory(copy, budget="16MiB", maintenance_seconds=0) as memory:
            if not memory.check().clean:
                raise WrongError(f"the backup {copy} is damaged")
    shutil.rmtree(backups_of(path), ignore_errors=True)
