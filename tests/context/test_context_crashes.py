"""A power cut between the commit of messages and that of a window, or within either."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.clock import ManualClock
from memopt.testing.disk import VFS_NAME, Call, FaultyDisk, PowerLoss
from memopt.testing.faults import Fault, FaultPlan
from memopt.wiring import open_memory

WINDOW = 1200
STEPS = 24
EVERY = 3
"""Of the disk calls of a step, one is cut off at."""


class Told(FaultPlan):
    """Tells of every disk call before it is carried out."""

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        self._told = told

    def count(self, call: Call) -> None:
        self._told()
        super().count(call)


def open_on(path: Path) -> memopt.Memory:
    return open_memory(
        path, clock=ManualClock(), vfs=VFS_NAME, budget="16MiB", durability="sync",
        maintenance_seconds=0, ballast_bytes=0, indexing="off",
    )  # fmt: skip


def turn(step: int) -> list[dict[str, Any]]:
    function = {"name": "run", "arguments": "{}"}
    made = {"id": f"c{step}", "type": "function", "function": function}
    said = [
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": f"c{step}", "content": f"step {step} went well " * 12},
    ]
    return [{"role": "user", "content": f"question {step}"}, *said] if step % 7 == 0 else said


@pytest.mark.slow
@pytest.mark.parametrize("mode", [PowerLoss.DROP_ALL, None])
def test_wherever_the_power_goes_the_context_is_that_of_the_messages(
    mode: PowerLoss | None,
) -> None:
    chance = random.Random(5)
    expected: dict[int, tuple[Any, ...]] = {0: ()}
    cuts: list[tuple[FaultyDisk, int]] = []
    calls = acknowledged = compactions = 0

    with FaultyDisk() as disk:

        def told() -> None:
            nonlocal calls
            calls += 1
            if calls % EVERY == 0:
                cuts.append((disk.lose_power(chance, mode), acknowledged))

        memory = open_on(disk.directory)
        session = memory.session("s")
        disk._plan = Told(told)
        for step in range(STEPS):
            session.extend(turn(step))
            acknowledged += len(turn(step))
            cuts.append((disk.lose_power(chance, mode), acknowledged))
            context = session.context(max_tokens=WINDOW)
            compactions += context.report.is_compacted
            expected[acknowledged] = context.messages
        disk._plan = FaultPlan()
        memory.close()
    assert compactions >= 2
    for cut, length in cuts:
        with cut:
            memory = open_on(cut.directory)
            session = memory.session("s")
            assert len(session) >= length
            assert session.context(max_tokens=WINDOW).messages == expected[len(session)]
            assert session.context(max_tokens=WINDOW).messages == expected[len(session)]
            assert memory.check().clean
            memory.close()


def test_a_full_disk_keeps_no_window_and_refuses_no_context() -> None:
    with FaultyDisk() as disk:
        memory = open_on(disk.directory)
        session = memory.session("s")
        for step in range(STEPS):
            session.extend(turn(step))
        disk.fail(at=1, error=Fault.ENOSPC, repeat=True)
        context = session.context(max_tokens=WINDOW)
        assert context.report.is_compacted
        assert disk.faults_raised
        disk.heal()
        for is_compacted in (True, False):
            again = session.context(max_tokens=WINDOW)
            assert again.messages == context.messages
            assert again.report.is_compacted is is_compacted
        memory.close()
        memory = open_on(disk.directory)
        assert memory.session("s").context(max_tokens=WINDOW).messages == context.messages
        assert memory.check().clean
        memory.close()
