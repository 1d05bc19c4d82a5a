"""Kills a process at random moments while it works on a store, and sees what became of it.

`python -m memopt.testing.crash [--kills N] [--seed S] [--seconds T] [--json]`

A child opens the store, verifies everything against what earlier children acknowledged, and works
on it at random (crashwork.py), saying beforehand what it intends and afterwards that it is done.
This process listens and sends SIGKILL some time after a random event, from a microsecond to a
tenth of a second, so kills fall into appends, seals, compactions, trainings, deletions, backups,
closing and opening itself. Whatever was acknowledged must be there and equal; of what was in
flight, all or nothing; and nothing else.

Nothing is imported twice: every child is a fork of this process, which never opens a store.

The seed decides what every child does and when it is to be killed; where in its work the kill
strikes is up to the scheduler, so a run replays as far as that allows. Not here: power losses,
which a SIGKILL does not cause (tests/test_power_loss.py).
"""

import argparse
import collections
import contextlib
import gc
import json
import os
import random
import secrets
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from memopt.testing.crashsettings import Settings
from memopt.testing.crashwork import (
    OPERATIONS,
    Content,
    Effect,
    Key,
    Model,
    Said,
    backups_of,
    work,
)

_LENGTH: Final = struct.Struct("<I")
_SILENCE_SECONDS: Final = 60.0
_NEW_STORE_ODDS: Final = 1 / 60
_OPERATIONS: Final = 120
_LONG: Final = frozenset({"compact", "backup"})
_NUMBERS_A_CHILD: Final = 1 << 20


class Plan(NamedTuple):
    """When to kill: `delay_seconds` after the `nth` event of a kind; an empty kind is any."""

    kind: str
    what: str
    nth: int
    delay_seconds: float
    operations: int

    @classmethod
    def draw(cls, chance: random.Random) -> "Plan":
        dice = chance.random()
        if dice < 0.1:
            return cls("forked", "", 1, chance.uniform(0, 0.03), 10)
        if dice < 0.15:
            return cls("opened", "", 1, chance.uniform(0, 0.03), 10)
        if dice < 0.27:
            return cls("closing", "", 1, 10 ** chance.uniform(-6, -2), chance.randint(0, 12))
        if dice < 0.45:
            what = chance.choice(OPERATIONS)
            longest = -0.8 if what in _LONG else -2.5
            return cls("intend", what, 1, 10 ** chance.uniform(-6, longest), _OPERATIONS)
        count = int(chance.expovariate(1 / 25)) + 1
        return cls("", "", count, 10 ** chance.uniform(-6, -2), _OPERATIONS)

    def meets(self, said: Said) -> bool:
        if not self.kind:
            return said.kind in ("intend", "done")
        if said.kind != self.kind:
            return False
        return not self.what or (said.value is not None and said.value[0] == self.what)


class Summary(msgspec.Struct):
    """What a run came to."""

    seed: int
    kills: int = 0
    ended: int = 0
    """Children that were through with their work before their kill."""
    stores: int = 1
    acknowledged: int = 0
    in_flight_done: int = 0
    in_flight_undone: int = 0
    seconds: float = 0.0
    struck: dict[str, int] = {}
    """Kills by what was going on."""
    failure: str | None = None
    left_in: str | None = None


class Crashes:
    """Runs children on one directory after the other."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._path = root / "store-1"
        self._struck: collections.Counter[str] = collections.Counter()
        self._model: Model = {}
        self._in_flight: list[Effect] = []
        self._round = 0
        self.summary = Summary(seed)

    def run(self, kills: int, seconds: float | None) -> Iterator[Summary]:
        """Until so many kills, or so long; yields after every child. Ends at the first failure."""
        started = time.monotonic()
        summary = self.summary
        while summary.kills < kills and summary.failure is None:
            self._round += 1
            chance = random.Random(f"{summary.seed}:{self._round}")
            if chance.random() < _NEW_STORE_ODDS:
                self._audit(chance)
                self._begin_anew()
            else:
                self._child(chance, Plan.draw(chance))
            summary.seconds = time.monotonic() - started
            summary.struck = dict(self._struck.most_common())
            yield summary
            if seconds is not None and summary.seconds > seconds:
                break
        if summary.failure is None:
            self._audit(random.Random(0))
        summary.seconds = time.monotonic() - started

    def _audit(self, chance: random.Random) -> None:
        """A child that verifies, closes and is left alone."""
        self._child(chance, Plan("never", "", 1, 0.0, 0))

    def _begin_anew(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        shutil.rmtree(backups_of(self._path), ignore_errors=True)
        self.summary.stores += 1
        self._path = self._root / f"store-{self.summary.stores}"
        self._model, self._in_flight = {}, []

    # -- one child --------------------------------------------------------------------------------

    def _child(self, chance: random.Random, plan: Plan) -> None:
        settings, seed = Settings.draw(chance), chance.randrange(1 << 32)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            self._be_killed(settings, seed, plan, writing)
        os.close(writing)
        listener = _Listener(self, plan, pid, reading)
        try:
            listener.listen()
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        self.summary.kills += killed
        self.summary.ended += not killed
        if killed:
            self._struck[listener.phase()] += 1
        elif self.summary.failure is None and status:
            self.summary.failure = f"child {self._round} ended with status {status}"
        if listener.verified:
            self._in_flight = list(listener.pending.values())
        if self.summary.failure is not None:
            self.summary.left_in = str(self._path)

    def _be_killed(self, settings: Settings, seed: int, plan: Plan, writing: int) -> NoReturn:
        def say(packed: bytes) -> None:
            framed = _LENGTH.pack(len(packed)) + packed
            while framed:
                framed = framed[os.write(writing, framed) :]

        status = 1
        try:
            model, numbers = dict(self._model), self._round * _NUMBERS_A_CHILD
            work(
                self._path, model, list(self._in_flight), settings, seed, numbers,
                plan.operations, plan.what, say,
            )  # fmt: skip
            status = 0
        except BaseException:  # noqa: BLE001 - shown; a child must not return into its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    # -- what a child says ------------------------------------------------------------------------

    def verified(self, value: Any) -> None:
        done, sessions = msgspec.convert(value, tuple[list[bool], list[tuple[Key, Content]]])
        self.summary.in_flight_done += sum(done)
        self.summary.in_flight_undone += len(done) - sum(done)
        self._model, self._in_flight = dict(sessions), []

    def acknowledged(self, effect: Effect) -> None:
        self.summary.acknowledged += 1
        for key, content in effect.sessions:
            self._model.pop(key, None)
            if content is not None:
                self._model[key] = content

    def failed(self, why: str) -> None:
        self.summary.failure = f"child {self._round}: {why}"


class _Listener:
    """Hears one child out, and kills it when its time has come."""

    def __init__(self, crashes: Crashes, plan: Plan, pid: int, reading: int) -> None:
        self._crashes = crashes
        self._plan = plan
        self._pid = pid
        self._reading = reading
        self._left = plan.nth
        self._last = "forked"
        self._heard = bytearray()
        self.pending: dict[int, Effect] = {}
        self.verified = False

    def listen(self) -> None:
        if self._plan.kind == "forked":
            self._kill()
        while True:
            ready, _, _ = select.select([self._reading], [], [], _SILENCE_SECONDS)
            if not ready:
                self._crashes.failed(f"silent for {_SILENCE_SECONDS:g} s in {self.phase()}")
                return
            chunk = os.read(self._reading, 1 << 16)
            if not chunk:
                return
            self._heard += chunk
            for said in self._whole():
                self._hear(said)

    def phase(self) -> str:
        """What the child was doing when it fell silent."""
        if self._last in ("forked", "closed"):
            return "opening"
        if self._last in ("opened", "closing"):
            return {"opened": "verifying"}.get(self._last, self._last)
        running = sorted({effect.what for effect in self.pending.values()})
        return running[0] if len(running) == 1 else "several at once" if running else "nothing"

    def _whole(self) -> Iterator[Said]:
        """What was said in full; the kill may have cut the last word short."""
        while len(self._heard) >= _LENGTH.size:
            [length] = _LENGTH.unpack_from(self._heard)
            if len(self._heard) < _LENGTH.size + length:
                return
            packed = bytes(self._heard[_LENGTH.size : _LENGTH.size + length])
            del self._heard[: _LENGTH.size + length]
            yield msgspec.msgpack.decode(packed, type=Said)

    def _hear(self, said: Said) -> None:
        self._last = said.kind
        match said.kind:
            case "verified":
                self.verified = True
                self._crashes.verified(said.value)
            case "intend":
                self.pending[said.thread] = msgspec.convert(said.value, Effect)
            case "done":
                self._crashes.acknowledged(self.pending.pop(said.thread))
            case "wrong":
                self._crashes.failed(said.value)
        if self._left and self._plan.meets(said):
            self._left -= 1
            if not self._left:
                self._kill()

    def _kill(self) -> None:
        # A sleep of microseconds takes many more, so the last of it is spent awake.
        until = time.perf_counter() + self._plan.delay_seconds
        if self._plan.delay_seconds > 0.002:
            time.sleep(self._plan.delay_seconds - 0.001)
        while time.perf_counter() < until:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)


# -- the command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m memopt.testing.crash", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, help="of an earlier run (default: a new one)")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--directory", type=Path, help="where to put the stores")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr)
    # What a process wrote outlives it on any file system, and in memory it does so much faster.
    memory = Path("/dev/shm")
    where = options.directory or (memory if os.access(memory, os.W_OK) else None)
    root = Path(tempfile.mkdtemp(prefix="memopt-crash-", dir=where))
    crashes = Crashes(root, seed)
    # The children share these objects with this process; a collection would copy their pages.
    gc.collect()
    gc.freeze()
    try:
        _show_progress(crashes, options.kills, options.seconds)
    finally:
        if crashes.summary.failure is None:
            shutil.rmtree(root, ignore_errors=True)
    summary = crashes.summary
    if options.json:
        print(json.dumps(msgspec.to_builtins(summary), indent=2))
    else:
        _print(summary)
    return 1 if summary.failure is not None else 0


def _show_progress(crashes: Crashes, kills: int, seconds: float | None) -> None:
    live, shown = sys.stderr.isatty(), 0.0
    for summary in crashes.run(kills, seconds):
        if summary.seconds - shown < (0.2 if live else 10.0):
            continue
        shown = summary.seconds
        line = (
            f"{summary.kills}/{kills} kills, {summary.acknowledged} operations acknowledged, "
            f"{60 * summary.kills / summary.seconds:.0f} kills a minute"
        )
        print(f"\r{line}\x1b[K" if live else line, end="" if live else "\n", file=sys.stderr)
        sys.stderr.flush()
    if live:
        print(file=sys.stderr)


def _print(summary: Summary) -> None:
    print(
        f"{summary.kills} kills in {summary.seconds:.0f} s on {summary.stores} stores; "
        f"{summary.ended} children ended by themselves"
    )
    print(
        f"{summary.acknowledged} operations acknowledged; in flight at a kill: "
        f"{summary.in_flight_done} were done, {summary.in_flight_undone} were not"
    )
    print("struck: " + ", ".join(f"{what} {count}" for what, count in summary.struck.items()))
    if summary.failure is None:
        print("nothing acknowledged was lost, nothing was wrong")
    else:
        print(f"FAILED: {summary.failure}\nthe store was left in {summary.left_in}")
        print(f"again: python -m memopt.testing.crash --seed {summary.seed}")


if __name__ == "__main__":
    sys.exit(main())
