"""A Ctrl-C may come anywhere in a call; what was acknowledged is read afterwards all the same."""

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt

# One that comes within a finalizer is only printed, as Python does it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SESSIONS = 24
INTERRUPTS = 250


@pytest.fixture
def interrupt() -> Iterator[Callable[[Callable[[], Any]], bool]]:
    """Calls something, and says whether a Ctrl-C met it."""
    chance = random.Random(17)

    def call(action: Callable[[], Any]) -> bool:
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(5e-6, 900e-6))
                action()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            return True
        return False

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield call
    signal.signal(signal.SIGALRM, before)


def test_reads_that_are_interrupted_break_no_later_read(
    tmp_path: Path, interrupt: Callable[[Callable[[], Any]], bool]
) -> None:
    chance = random.Random(3)
    with memopt.open(
        tmp_path / "store", budget="8MiB", durability="os", maintenance_seconds=0
    ) as memory:
        written = {}
        for number in range(SESSIONS):
            messages = [
                {"role": "user", "content": chance.randbytes(900).hex(), "n": n} for n in range(120)
            ]
            memory.session(f"s{number}").extend(messages)
            written[f"s{number}"] = messages
        memory.compact()
        met = 0
        while met < INTERRUPTS:
            name = f"s{chance.randrange(SESSIONS)}"
            met += interrupt(lambda name=name: list(memory.session(name).messages()))  # type: ignore[misc]
        for name, messages in written.items():
            assert list(memory.session(name).messages()) == messages
        memory._parts.pager.check()
        assert memory.check().clean
        assert memory.stats().oldest_reader_seconds == 0.0
