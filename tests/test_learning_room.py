"""A process that learns dictionaries is not started where its memory is not to be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import memopt
from memopt import upkeep
from memopt.base.readings import Reading
from memopt.base.units import MIB
from memopt.paging import dictionaries
from memopt.wiring import open_memory


class TightProbe:
    """A machine whose control group has so much left."""

    def __init__(self) -> None:
        self.room_bytes = 24 * MIB

    def read(self) -> Reading:
        return Reading(
            reserved_bytes=0, budget_bytes=64 * MIB, evictable_bytes=0, rss_bytes=40 * MIB,
            rss_start_bytes=40 * MIB, rss_limit_bytes=200 * MIB, rss_limit_is_hard=False,
            memory_used_bytes=512 * MIB - self.room_bytes, memory_limit_bytes=512 * MIB,
        )  # fmt: skip


def fill(memory: memopt.Memory) -> None:
    for session in range(24):
        for turn in range(24):
            content = f"agent {session % 3}: the flight to Lisbon leaves at {turn}:15. " * 6
            memory.session(f"s{session}", scope=f"acme/user-{session % 8}").append(
                {"role": "user", "content": content}
            )
        memory.session(f"s{session}", scope=f"acme/user-{session % 8}").fork(f"f{session}")


def test_it_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    learn = dictionaries.train_dictionary

    def counted(samples: object, **options: object) -> bytes | None:
        started.append(1)
        return learn(samples, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dictionaries, "train_dictionary", counted)
    probe = TightProbe()
    with open_memory(
        tmp_path / "store", budget="16MiB", probe=probe, maintenance_seconds=0,
        dictionary_training_pages=4,
    ) as memory:  # fmt: skip
        fill(memory)
        assert memory._parts.dictionaries.due()
        memory._parts.maintenance.once()
        assert not started
        assert memory._parts.dictionaries.due(), "it is due until there is room"
        probe.room_bytes = 256 * MIB
        memory._parts.maintenance.once()
        assert started
        assert not memory._parts.dictionaries.due()


_OF_THE_HEAP = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(
    ("settled", "is_shared"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "8"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}, True),
    ],
)
def test_threads_share_a_heap_unless_the_environment_says_otherwise(
    settled: dict[str, str], is_shared: bool
) -> None:
    script = (
        "import ctypes, threading\n"
        "from memopt.upkeep import limit_heap_arenas\n"
        "limit_heap_arenas(1)\n"
        "started = threading.Barrier(7)\n"
        "def take():\n"
        "    bytes(100_000); started.wait()\n"
        "threads = [threading.Thread(target=take) for _ in range(6)]\n"
        "[t.start() for t in threads]; started.wait(); [t.join() for t in threads]\n"
        "ctypes.CDLL(None).malloc_stats()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in _OF_THE_HEAP}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment | settled, capture_output=True, check=True,
        text=True,
    )  # fmt: skip
    if "Arena 0:" not in done.stderr:
        pytest.skip("this C library does not tell its heaps")
    assert ("Arena 1:" not in done.stderr) == is_shared


def test_no_count_leaves_the_heap_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_name: object) -> object:
        raise AssertionError("the C library was asked")

    monkeypatch.setattr(upkeep.ctypes, "CDLL", load)
    upkeep.limit_heap_arenas(0)
