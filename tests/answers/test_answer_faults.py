"""The n-th disk call fails while answers are stored, judged and taken away: what was acknowledged
is there, what was not is there whole or not at all, and the counts agree."""

import contextlib
import itertools
import random
from typing import Any

import pytest

from memopt.base.clock import ManualClock
from memopt.base.errors import MemoptError
from memopt.memory import Memory
from memopt.testing.disk import VFS_NAME, Fault, FaultyDisk
from memopt.wiring import open_memory

pytestmark = pytest.mark.slow

SCOPE = "acme/faq"


def open_on(disk: FaultyDisk) -> Memory:
    return open_memory(
        disk.directory, clock=ManualClock(), vfs=VFS_NAME, budget="32MiB", durability="sync",
        ballast_bytes=0, wal_limit_bytes=64 << 10, maintenance_seconds=0, probe_seconds=0,
        embedder="off",
    )  # fmt: skip


class Play:
    """Stores, replaces, judges and takes away; knows what must be there, and what may be."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.memory = open_on(disk)
        self.sure: dict[int, Any] = {}
        self.perhaps: dict[int, Any] = {}
        """Of the call that is being made: what it would change."""

    def run(self) -> None:
        for number in range(24):
            self.store(number % 10, number)
            if number == 6:
                self.memory.answers.set_category("few", scope=SCOPE, answers_max=3)
            if number == 12:
                self.take("t")
            if number == 18:
                self.judge(8)

    def store(self, question: int, value: int) -> None:
        self.perhaps = {question: value}
        self.memory.answers.store(
            f"question {question}", value, scope=SCOPE, tags=["t" if question % 3 else "u"]
        )
        self.sure[question] = value
        self.perhaps = {}

    def take(self, tag: str) -> None:
        self.perhaps = {n: None for n in self.sure if n % 3}
        self.memory.answers.invalidate(scope=SCOPE, tags=[tag])
        self.sure = {n: value for n, value in self.sure.items() if not n % 3}
        self.perhaps = {}

    def judge(self, question: int) -> None:
        hit: Any = self.memory.answers.lookup(f"question {question}", scope=SCOPE)
        if not hit:
            return
        self.perhaps = {question: None}
        self.memory.answers.feedback(hit.answer_id, "stale")
        del self.sure[question]
        self.perhaps = {}

    def agrees(self, memory: Memory) -> None:
        for number in range(10):
            found: Any = memory.answers.lookup(f"question {number}", scope=SCOPE)
            value = found.response if found else None
            allowed = [self.sure.get(number)]
            if number in self.perhaps:
                allowed.append(self.perhaps[number])
            assert value in allowed, (number, value, allowed)
        report = memory.check()
        assert report.clean, report.damages


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.EIO_SYNC])
def test_whatever_disk_call_fails_no_acknowledged_answer_is_lost(fault: Fault) -> None:
    chance = random.Random(7)
    met = 0
    for at in itertools.count(1, 23):
        with FaultyDisk() as disk:
            play = Play(disk)
            disk.fail(at=at, error=fault)
            with contextlib.suppress(MemoptError):
                play.run()
            raised = bool(disk.faults_raised)
            met += raised
            disk.heal()
            if fault is Fault.ENOSPC and raised:
                # A full disk refuses one call and nothing else.
                play.agrees(play.memory)
            with disk.lose_power(chance) if at % 2 else disk.kill() as left:
                memory = open_on(left)
                play.agrees(memory)
                memory.close()
            with contextlib.suppress(MemoptError):
                play.memory.close()
        if not raised:
            break
    assert met >= 3
