"""Agents on threads of their own that work on a store until it has more to do than it can hold.

Owns: what such an agent does in a turn, and what was acknowledged to it. In a turn an agent reads
its whole context and keeps it, puts what its tools brought into a mapping of the turn, waits for
the model, appends what was said, keeps what it learnt in a mapping of its session, and now and then
saves its state. A refused turn is tried again when the error says so. Invariant: whatever a count
in the acked file covers was acknowledged; it is raised after the call returned.

Not here: under which limit this runs (confinement) and what is made of it (soak).
"""

import contextlib
import json
import mmap
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.errors import CapacityError
from memopt.base.records import Durability, Message
from memopt.bench import data
from memopt.bench.child import Report
from memopt.bench.confinement import Confinement
from memopt.bench.measure import rss_bytes, settle
from memopt.bench.population import MEMOPT, steps_of
from memopt.bench.schedule import marked, scope_of, session_id

CONTEXT_BYTES: Final = 2 * 1024 * 1024
"""JSON of a session at its end, at least: conversations are joined until they have it."""
_STEPS_A_TURN: Final = 4
_STATE_EVERY: Final = 3
_REPORT_SECONDS: Final = 0.25
_RETRY_SECONDS_MAX: Final = 5.0
_WAIT_SECONDS: Final = 1.0
"""For a turn to begin; the default would be patient with any load of this size."""
_CHUNK_BYTES: Final = 512 * 1024
_NOTES: Final = "notes"
_TOOLS: Final = "tools"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a crew is to do, and where."""

    system: str
    files: tuple[str, ...]
    home: str
    acked_file: str
    """One unsigned integer of 32 bits a session: messages acknowledged."""
    sessions_max: int
    budget_bytes: int
    phases: tuple[tuple[float, int, int], ...]
    """(seconds, agents at work, bytes that something else in the process keeps) in turn."""
    model_seconds: float
    confinement: Confinement
    growth_bytes: int
    """What the process may take beyond its start."""
    line_bytes: int
    """What it is told to stay within, beyond its start."""
    seed: int = 0


class Lives:
    """The conversations of all sessions: long ones, made of several of the source's."""

    def __init__(self, files: Sequence[str]) -> None:
        joined: list[data.Conversation] = []
        parts: list[Message] = []
        size = 0
        for conversation in data.load(files):
            parts += conversation
            size += sum(len(json.dumps(message)) for message in conversation)
            if size >= CONTEXT_BYTES:
                joined.append(tuple(parts))
                parts, size = [], 0
        self._conversations = joined or [tuple(parts)]
        self._turns = [turns_of(conversation) for conversation in self._conversations]

    def turns(self, session: int) -> list[tuple[int, int]]:
        return self._turns[session % len(self._turns)]

    def messages(self, session: int, start: int, stop: int) -> list[Message]:
        conversation = self._conversations[session % len(self._conversations)]
        return [marked(message, session) for message in conversation[start:stop]]


def turns_of(conversation: data.Conversation) -> list[tuple[int, int]]:
    """Messages [start, stop) of each turn: a few calls of the model with their tools' results."""
    steps = list(steps_of(conversation))
    chosen = [steps[at : at + _STEPS_A_TURN] for at in range(0, len(steps), _STEPS_A_TURN)]
    return [(turn[0][0], turn[-1][1]) for turn in chosen]


@contextlib.contextmanager
def acked_counts(path: str) -> Iterator["memoryview[int]"]:
    """Messages acknowledged by session, mapped: a kill of the process loses none of them."""
    with (
        open(path, "r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,
        memoryview(mapped) as view,
        view.cast("I") as counts,
    ):
        yield counts


class Crew:
    """Threads that are agents; so many of them are at work as the phase says."""

    def __init__(self, task: Task, lives: Lives, acked: "memoryview[int]") -> None:
        self._task = task
        self._lives = lives
        self._acked = acked
        self._active = 0
        self._next = 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self.turns = 0
        self.messages = 0
        self.refusals = 0
        self.retry_seconds_max = 0.0
        self.working = 0
        """Agents within a turn."""
        self.wrong = 0
        self.failure: BaseException | None = None

    def run(self, store: Any, report: Report, stats: Any) -> None:
        """All phases, reporting what `stats()` says every so often."""
        agents = max(count for _, count, _ in self._task.phases)
        others: list[bytearray] = []
        threads = [
            threading.Thread(target=self._live, args=(number, store), daemon=True)
            for number in range(agents)
        ]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        for index, (seconds, count, kept_bytes) in enumerate(self._task.phases):
            del others[kept_bytes // _CHUNK_BYTES :]
            with self._changed:
                self._active = count
                self._changed.notify_all()
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0 and self.failure is None:
                time.sleep(min(left, _REPORT_SECONDS))
                if len(others) * _CHUNK_BYTES < kept_bytes:
                    # Not at once: a cache of the application's own that fills.
                    others.append(bytearray(b"x" * _CHUNK_BYTES))
                report(
                    {
                        "seconds": round(time.monotonic() - begun, 3), "phase": index,
                        "agents": count, "working": self.working, "turns": self.turns,
                        "messages": self.messages, "refusals": self.refusals,
                        "retry_seconds_max": self.retry_seconds_max, "wrong": self.wrong,
                        "own_rss_bytes": rss_bytes(), **stats(),
                    }
                )  # fmt: skip
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _live(self, number: int, store: Any) -> None:
        chance = random.Random(self._task.seed * 1_000_003 + number)
        try:
            while not self._stopped.is_set():
                session = self._session()
                for start, stop in self._lives.turns(session):
                    self._patiently(store, session, start, stop, number, chance)
                    if self._stopped.is_set():
                        return
        except BaseException as error:  # noqa: BLE001 - raised by run, on this thread's behalf
            self.failure = self.failure or error

    def _session(self) -> int:
        with self._changed:
            assert self._next < self._task.sessions_max, "more sessions than the acked file holds"
            self._next += 1
            return self._next - 1

    def _patiently(
        self, store: Any, session: int, start: int, stop: int, number: int, chance: random.Random
    ) -> None:
        """One turn, as often as it has to be tried."""
        while True:
            with self._changed:
                while number >= self._active and not self._stopped.is_set():
                    self._changed.wait()
            if self._stopped.is_set():
                return
            try:
                self._turn(store, session, start, stop)
                return
            except CapacityError as error:
                with self._changed:
                    self.refusals += 1
                    self.retry_seconds_max = max(self.retry_seconds_max, error.retry_after_seconds)
                # Spread a little, as clients of a server do.
                seconds = min(error.retry_after_seconds, _RETRY_SECONDS_MAX)
                self._stopped.wait(seconds * (1 + 0.2 * chance.random()))

    def _turn(self, store: Any, session: int, start: int, stop: int) -> None:
        known = self._acked[session]
        new = self._lives.messages(session, known, stop) if known < stop else []
        with store.turn(session) as turn:
            with self._changed:
                self.working += 1
            try:
                context = turn.context()
                if len(context) < known or context != self._lives.messages(
                    session, 0, len(context)
                ):
                    self.wrong += 1
                for index, message in enumerate(new):
                    if message.get("role") == "tool":
                        turn.note(f"{known + index}", message)
                self._stopped.wait(self._task.model_seconds)
                for index, message in enumerate(new[len(context) - known :], len(context)):
                    turn.say(index, message)
                    self._acked[session] = index + 1
                    self.messages += 1
                del context
            finally:
                with self._changed:
                    self.working -= 1
                    self.turns += 1


class NaiveStore:
    """Everything in dicts and lists; a turn is admitted at once."""

    def __init__(self) -> None:
        self._contexts: dict[int, list[Message]] = {}
        self._notes: dict[int, dict[str, Any]] = {}

    @contextlib.contextmanager
    def turn(self, session: int) -> Iterator["NaiveTurn"]:
        context = self._contexts.setdefault(session, [])
        yield NaiveTurn(context, self._notes.setdefault(session, {}))


class NaiveTurn:
    def __init__(self, context: list[Message], notes: dict[str, Any]) -> None:
        self._context = context
        self._notes = notes
        self._tools: dict[str, Any] = {}

    def context(self) -> list[Message]:
        return list(self._context)

    def note(self, name: str, value: Message) -> None:
        self._tools[name] = json.loads(json.dumps(value))

    def say(self, index: int, message: Message) -> None:
        self._notes[str(index)] = {"role": message.get("role"), "seen": index}
        self._context.append(json.loads(json.dumps(message)))


class MemoptStore:
    def __init__(self, memory: memopt.Memory) -> None:
        self._memory = memory

    @contextlib.contextmanager
    def turn(self, session: int) -> Iterator["MemoptTurn"]:
        handle = self._memory.session(session_id(session), scope=scope_of(session), agent="crew")
        with handle.turn() as turn:
            yield MemoptTurn(handle, turn)


class MemoptTurn:
    def __init__(self, session: memopt.Session, turn: Any) -> None:
        self._session = session
        self._tools = turn.mapping(_TOOLS) if hasattr(turn, "mapping") else {}
        self._notes = session.mapping(_NOTES)

    def context(self) -> list[Message]:
        return list(self._session.messages())

    def note(self, name: str, value: Message) -> None:
        self._tools[name] = value
        found = self._tools[name]
        assert found == value, "a mapping of the turn gives back something else"

    def say(self, index: int, message: Message) -> None:
        # Before the message that counts for it: what is acknowledged covers both.
        if index % _STATE_EVERY == 0:
            self._notes[str(index)] = {"role": message.get("role"), "seen": index}
        self._session.append(message)


def work(argument: Any, report: Report) -> Any:
    """Child: a crew, confined, on one system; ends only when it is killed or through."""
    task = msgspec.convert(argument, Task)
    lives = Lives(task.files)
    settle()
    start = rss_bytes()
    with acked_counts(task.acked_file) as acked:
        crew = Crew(task, lives, acked)
        limit = task.confinement.limit(task.growth_bytes, start_rss_bytes=start)
        report({"start_rss_bytes": start, "limit_bytes": limit})
        if task.system != MEMOPT:
            crew.run(NaiveStore(), report, dict)
            return {"ended": True}
        config = Config(
            budget_bytes=task.budget_bytes, durability=Durability.OS,
            turn_wait_seconds=_WAIT_SECONDS, rss_limit_bytes=start + task.line_bytes,
        )  # fmt: skip
        with memopt.open(task.home, config=config) as memory:
            crew.run(MemoptStore(memory), report, lambda: _figures(memory))
            report({"through": True})
            # To be killed, not closed: what is acknowledged has to be there without any goodbye.
            while True:
                time.sleep(1.0)


def verify(argument: Any, report: Report) -> Any:
    """Child: open what a killed crew left, and compare it with what was acknowledged."""
    task = msgspec.convert(argument, Task)
    lives = Lives(task.files)
    lost = wrong = checked = notes = 0
    config = Config(budget_bytes=task.budget_bytes, durability=Durability.OS)
    with acked_counts(task.acked_file) as acked, memopt.open(task.home, config=config) as memory:
        for session in range(task.sessions_max):
            if not acked[session]:
                continue
            handle = memory.session(session_id(session), scope=scope_of(session))
            found = list(handle.messages())
            checked += len(found)
            lost += max(0, acked[session] - len(found))
            wanted = lives.messages(session, 0, len(found))
            wrong += sum(one != other for one, other in zip(found, wanted, strict=True))
            kept = dict(handle.mapping(_NOTES).items())
            for index in range(0, acked[session], _STATE_EVERY):
                said = {"role": wanted[index].get("role"), "seen": index}
                notes += 1
                lost += kept.get(str(index)) != said
        clean = memory.check().clean
    return {"lost": lost, "wrong": wrong, "messages": checked, "notes": notes, "clean": clean}


def _figures(memory: memopt.Memory) -> dict[str, Any]:
    stats = memory.stats()
    pressure = stats.pressure
    return {
        "level": pressure.level,
        "nearest": pressure.nearest,
        "used_share": pressure.used_share,
        "steps_taken": list(pressure.steps),
        "outside_bytes": pressure.outside_bytes,
        "waiting": pressure.turns_waiting,
        "admitted_bytes": pressure.admitted_bytes,
        "admission_bytes": pressure.admission_bytes,
        "forecasts_exceeded_share": pressure.forecasts_exceeded_share,
        "reserved_bytes": stats.reserved_bytes,
        "evictable_bytes": pressure.evictable_bytes,
        "owners": {k: round(v / 2**20, 1) for k, v in stats.owners.items() if v > 2**18},
        "disk_bytes": stats.disk_bytes,
    }
