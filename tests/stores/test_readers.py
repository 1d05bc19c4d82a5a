"""A reader comes back, whatever interrupts its snapshot and wherever."""

import contextlib
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import memopt

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0
    ) as opened:
        yield opened


def interrupted(chance: random.Random, read: object) -> bool:
    """Whether a Ctrl-C met the call, at any place of it."""
    assert callable(read)
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(5e-6, 400e-6))
        read()
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False


def test_interrupted_anywhere_a_read_leaves_nothing_behind(memory: memopt.Memory) -> None:
    session, chance = memory.session("s"), random.Random(5)
    home = memory._parts.directory.home
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupts = said = 0
    try:
        while interrupts < 400:
            session.append({"n": said})
            said += 1
            try:
                interrupts += interrupted(chance, lambda: len(session))
            except KeyboardInterrupt:
                interrupts += 1
            assert len(session) == said
    finally:
        signal.signal(signal.SIGALRM, before)
    # As many threads as there are readers can still read at once.
    gate = threading.Barrier(4)
    found: list[int] = []

    def hold() -> None:
        with home.snapshot() as tables:
            gate.wait(10)
            found.append(len(tables.tail.scan((0, 0), 1)))

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [1, 1, 1, 1]
    assert len(home._readers._all) <= 4


def test_idle_readers_make_room_for_who_has_none(memory: memopt.Memory) -> None:
    session = memory.session("s")
    session.append({"n": 1})
    home, budget = memory._parts.directory.home, memory._parts.budget
    with contextlib.ExitStack() as held:
        for _ in range(4):
            held.enter_context(home.snapshot())
    many = budget.held_bytes("sqlite")
    with home.snapshot() as tables:
        wanted = budget.free_bytes() + 1
        budget.reserve("test", wanted)
        assert budget.held_bytes("sqlite") < many
        # The one that is read on is still there.
        assert tables.scopes.number("default") is not None
    budget.release("test", wanted)
    assert len(list(session.messages())) == 1
    budget.check()
