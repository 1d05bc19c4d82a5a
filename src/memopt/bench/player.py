"""Plays a schedule against one keeper of conversations, in this process, and measures it.

Owns: the loop that is the same for memopt and for the naive baseline, and the two keepers. Its own
share of a step is the making of the message, which is outside every latency. Invariant: nothing
that grows with the number of sessions is held here (where a crash is to be survived, one integer a
session is, in a mapped file). Not here: which process this runs in (child), and the
comparison (replay).

The naive keeper is what a server holds without a store: a dict of lists of dicts, each message a
fresh object decoded from a request's JSON, so that no two share what `json.loads` would not share.
The decoding is counted as part of its append, since the interpreter's collector runs there.
"""

import contextlib
import json
import mmap
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice, zip_longest
from typing import Any, Final, Protocol

import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.records import Durability, Message, Seal
from memopt.bench import data, schedule
from memopt.bench.child import Report
from memopt.bench.data import Conversation
from memopt.bench.measure import LatencyHistogram, Quantiles, RssMeter, disk_bytes
from memopt.bench.schedule import Append, Schedule

_SAMPLED_EVERY: Final = 256
_REPORTS: Final = 64
"""Of progress, while everything is appended once."""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What to play, and where."""

    files: tuple[str, ...]
    sessions: int
    seed: int
    active_max: int
    home: str
    budget_bytes: int
    durability: Durability
    policy: str
    seal: Seal
    promotion_batch: int
    compact: bool
    settings: dict[str, Any] = {}
    """Of the store, beside those above; by their names in Config, as JSON can say them."""
    access_log: str | None = None
    """Where the touches of pages are recorded while the schedule is played, and not after."""
    acked_file: str | None = None
    """One unsigned integer of 32 bits a session: messages acknowledged, written after each was."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What playing a script took. Growths are above the RSS with the source data loaded."""

    messages: int
    """Appended by this process."""
    resumes: int
    append_us: Quantiles
    resume_us: Quantiles
    append_seconds: float
    """Spent in append calls, seals and checkpoints that they waited for included."""
    resume_seconds: float
    wall_seconds: float
    """The whole schedule, the making of its messages included."""
    rss_start_bytes: int
    rss_growth_bytes_max: int
    """Schedule and verification."""
    rss_growth_compact_bytes_max: int = 0
    """The same, and `compact` after it."""
    raw_bytes: int = 0
    """JSON of everything that was read back."""
    verified_messages: int = 0
    mismatches: int = 0
    """Messages that were missing, too many or different."""
    resident_bytes_max: int = 0
    disk_bytes: int = 0
    disk_bytes_compacted: int | None = None
    stats: dict[str, float] = {}

    @property
    def messages_per_second(self) -> float:
        return round(self.messages / self.append_seconds, 1) if self.append_seconds else 0.0

    @property
    def messages_per_second_wall(self) -> float:
        return round(self.messages / self.wall_seconds, 1) if self.wall_seconds else 0.0


class Keeper(Protocol):
    """Where conversations are kept."""

    def prepare(self, message: Message) -> Any:
        """Bring a message into the form `append` takes; not timed."""

    def append(self, session: int, message: Any) -> None: ...

    def read(self, session: int) -> list[Message]:
        """The whole session."""


class NaiveKeeper:
    def __init__(self) -> None:
        self._sessions: dict[int, list[Message]] = {}

    def prepare(self, message: Message) -> str:
        return json.dumps(message)

    def append(self, session: int, message: str) -> None:
        self._sessions.setdefault(session, []).append(json.loads(message))

    def read(self, session: int) -> list[Message]:
        return list(self._sessions[session])


class MemoptKeeper:
    def __init__(self, memory: memopt.Memory) -> None:
        self._memory = memory

    def prepare(self, message: Message) -> Message:
        return message

    def append(self, session: int, message: Message) -> None:
        self._session(session).append(message)

    def read(self, session: int) -> list[Message]:
        return list(self._session(session).messages())

    def _session(self, session: int) -> memopt.Session:
        return session_of(self._memory, session)


class Verification:
    """Counts of what was read back and compared with what was written."""

    def __init__(self) -> None:
        self.raw_bytes = 0
        self.messages = 0
        self.mismatches = 0

    def compare(self, wanted: Iterable[Message], found: Iterable[Message]) -> None:
        for expected, message in zip_longest(wanted, found):
            if message is not None:
                encoded = msgspec.json.encode(message)
                self.raw_bytes += len(encoded)
                if expected is not None and _hash(encoded) == digest(expected):
                    self.messages += 1
                    continue
            self.mismatches += 1


class Player:
    """Runs a schedule once and keeps the figures."""

    def __init__(
        self,
        keeper: Keeper,
        conversations: Sequence[Conversation],
        plan: Schedule,
        *,
        meter: RssMeter,
        report: Report,
        acked: "memoryview[int] | None" = None,
    ) -> None:
        self._keeper = keeper
        self._conversations = conversations
        self._plan = plan
        self._meter = meter
        self._report = report
        self._acked = acked
        self._steps = 0
        self._reported_every = max(1, plan.message_count // _REPORTS)
        self._append_times = LatencyHistogram()
        self._resume_times = LatencyHistogram()
        self._wall_seconds = 0.0

    def play(self) -> None:
        """Append and resume as the schedule says, but for what is acknowledged already."""
        keeper, acked, clock = self._keeper, self._acked, time.perf_counter_ns
        appends, resumes = self._append_times, self._resume_times
        begun = time.perf_counter()
        for operation in self._plan:
            session = operation.session
            if isinstance(operation, Append):
                if acked is not None and operation.message < acked[session]:
                    self._step()
                    continue
                message = keeper.prepare(
                    schedule.expected(self._conversations, session, operation.message)
                )
                before = clock()
                keeper.append(session, message)
                appends.add(clock() - before)
                if acked is not None:
                    acked[session] = operation.message + 1
                self._step()
            elif appends.count:  # while catching up after a crash nothing is measured
                before = clock()
                messages = keeper.read(session)
                resumes.add(clock() - before)
                del messages
        self._wall_seconds = time.perf_counter() - begun

    def verify(self) -> Verification:
        """Read every session back and compare it, message by message, with what was written."""
        verification = Verification()
        for session in range(self._plan.sessions):
            wanted = schedule.expected_session(self._conversations, session)
            verification.compare(wanted, self._keeper.read(session))
            for _ in range(self._plan.length(session)):
                self._step()
        return verification

    def figures(self, verification: Verification | None = None, **others: Any) -> Figures:
        """What it took so far; `others` are fields that only whoever runs the player knows."""
        found = verification or Verification()
        others.setdefault("rss_growth_bytes_max", self._meter.growth_bytes_max)
        return Figures(
            messages=self._append_times.count,
            resumes=self._resume_times.count,
            append_us=self._append_times.quantiles(),
            resume_us=self._resume_times.quantiles(),
            append_seconds=self._append_times.seconds,
            resume_seconds=self._resume_times.seconds,
            wall_seconds=self._wall_seconds,
            rss_start_bytes=self._meter.start_bytes,
            raw_bytes=found.raw_bytes,
            verified_messages=found.messages,
            mismatches=found.mismatches,
            **others,
        )

    def keep_in(self, keeper: Keeper) -> None:
        """Go on with another keeper of the same conversations."""
        self._keeper = keeper

    def report(self) -> None:
        """Say how far it is, and how much memory that took."""
        self._report({"done": self._steps, "rss_growth_bytes": self._meter.growth_bytes})

    def _step(self) -> None:
        self._steps += 1
        if self._steps % _SAMPLED_EVERY == 0:
            self._meter.sample()
        if self._steps % self._reported_every == 0:
            self.report()


def play_memopt(argument: Any, report: Report) -> Any:
    """Child: play a Script on a memopt directory, verify it, and compact it when asked to."""
    script = msgspec.convert(argument, Script)
    with _on_stage(script, report) as (player, memory, meter):
        player.play()
        if script.access_log is None:
            return msgspec.to_builtins(_finished(player, memory, script, meter))
    # Opened anew, so that reading all back to compare is not taken for what agents did.
    silent = msgspec.structs.replace(script, access_log=None)
    with opened(silent) as memory:
        player.keep_in(MemoptKeeper(memory))
        return msgspec.to_builtins(_finished(player, memory, silent, meter))


def play_until_killed(argument: Any, report: Report) -> Any:
    """Child: play a Script and never end, so that the kill always finds a living process."""
    script = msgspec.convert(argument, Script)
    with _on_stage(script, report) as (player, _, _):
        player.play()
        while True:  # a parent that is gone breaks the pipe and ends this
            player.report()
            time.sleep(0.05)


def recover_memopt(argument: Any, report: Report) -> Any:
    """Child: open what a killed one left, check every acknowledged message, play on, verify."""
    script = msgspec.convert(argument, Script)
    conversations, plan = prepared(script)
    with _acked(script) as acked:
        assert acked is not None, "the script names a file of acknowledged counts"
        meter = RssMeter()
        begun = time.perf_counter()
        with opened(script) as memory:
            open_seconds = time.perf_counter() - begun
            keeper = MemoptKeeper(memory)
            recovered = Verification()
            lost = unacknowledged = 0
            for session in range(script.sessions):
                found = keeper.read(session)
                wanted = schedule.expected_session(conversations, session)
                recovered.compare(islice(wanted, len(found)), found)
                lost += max(0, acked[session] - len(found))
                unacknowledged += max(0, len(found) - acked[session])
                acked[session] = len(found)
            player = Player(keeper, conversations, plan, meter=meter, report=report, acked=acked)
            player.play()
            return {
                "figures": msgspec.to_builtins(_finished(player, memory, script, meter)),
                "open_seconds": open_seconds,
                "recovered_messages": recovered.messages,
                "recovered_mismatches": recovered.mismatches,
                "lost_messages": lost,
                "unacknowledged_messages": unacknowledged,
            }


def play_naive(argument: Any, report: Report) -> Any:
    """Child: play a Script on a dict of lists of dicts."""
    script = msgspec.convert(argument, Script)
    conversations, plan = prepared(script)
    meter = RssMeter()
    player = Player(NaiveKeeper(), conversations, plan, meter=meter, report=report)
    player.play()
    return msgspec.to_builtins(player.figures())


def prepared(script: Script) -> tuple[tuple[Conversation, ...], Schedule]:
    """The source in memory, and the schedule over it."""
    conversations = data.load(script.files)
    plan = Schedule(
        [len(conversation) for conversation in conversations],
        sessions=script.sessions,
        seed=script.seed,
        active_max=script.active_max,
    )
    return conversations, plan


def opened(script: Script) -> memopt.Memory:
    """The script's directory, opened with its settings."""
    return memopt.open(
        script.home,
        config=Config(
            budget_bytes=script.budget_bytes,
            durability=script.durability,
            policy=script.policy,
            seal=script.seal,
            promotion_batch_pages=script.promotion_batch,
            access_log=script.access_log,
            **script.settings,
        ),
    )


def session_of(memory: memopt.Memory, session: int) -> memopt.Session:
    """The handle of a schedule's session."""
    return memory.session(schedule.session_id(session), scope=schedule.scope_of(session))


def digest(message: Message) -> bytes:
    """A hash of a message, the order of its fields included."""
    return _hash(msgspec.json.encode(message))


def _hash(encoded: bytes) -> bytes:
    return blake2b(encoded, digest_size=16).digest()


def _finished(player: Player, memory: memopt.Memory, script: Script, meter: RssMeter) -> Figures:
    def sampled(_done: int, _total: int) -> None:
        meter.sample()

    verification = player.verify()
    growth = meter.growth_bytes_max
    stats = memory.stats()
    used = disk_bytes(script.home)
    compacted = None
    if script.compact:
        memory.compact(progress=sampled)
        compacted = disk_bytes(script.home)
    return player.figures(
        verification,
        rss_growth_bytes_max=growth,
        rss_growth_compact_bytes_max=meter.growth_bytes_max,
        resident_bytes_max=stats.reserved_bytes_max,
        disk_bytes=used,
        disk_bytes_compacted=compacted,
        stats={
            "hit_ratio": stats.hit_ratio,
            "compression_ratio": stats.compression_ratio,
            "wal_bytes": stats.wal_bytes,
            **{f"faults_{kind}": count for kind, count in stats.faults.items()},
        },
    )


@contextlib.contextmanager
def _on_stage(script: Script, report: Report) -> Iterator[tuple[Player, memopt.Memory, RssMeter]]:
    """A player of the script on its directory; the meter starts when the source is in memory."""
    conversations, plan = prepared(script)
    with _acked(script) as acked:
        meter = RssMeter()
        with opened(script) as memory:
            keeper = MemoptKeeper(memory)
            yield (
                Player(keeper, conversations, plan, meter=meter, report=report, acked=acked),
                memory,
                meter,
            )


@contextlib.contextmanager
def _acked(script: Script) -> Iterator["memoryview[int] | None"]:
    """The counts of acknowledged messages, mapped: a kill of the process loses none of them."""
    if script.acked_file is None:
        yield None
        return
    with (
        open(script.acked_file, "r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,
        memoryview(mapped) as view,
        view.cast("I") as counts,
    ):
        yield counts
