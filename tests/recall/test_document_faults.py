"""The n-th disk call fails while a document is replaced: it is the old one or the new one."""

import contextlib
import itertools
import random

import pytest

from memopt.base.clock import ManualClock
from memopt.base.errors import MemoptError
from memopt.memory import Memory
from memopt.testing.disk import VFS_NAME, Fault, FaultyDisk
from memopt.wiring import open_memory

pytestmark = pytest.mark.slow

SCOPE = "acme/ann"


def document(version: int) -> list[str]:
    sections = [*range(12), *range(100 * version, 100 * version + 6)]
    random.Random(version).shuffle(sections)
    return [f"# Section {n}\n\n" + f"Sentence {n} of it. " * 8 for n in sections]


VERSIONS = [[], *(document(version) for version in range(4)), []]


def open_on(disk: FaultyDisk) -> Memory:
    return open_memory(
        disk.directory, clock=ManualClock(), vfs=VFS_NAME, budget="16MiB", durability="sync",
        ballast_bytes=0, wal_limit_bytes=48 << 10, maintenance_seconds=0,
    )  # fmt: skip


def texts(memory: Memory) -> list[str]:
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(SCOPE)
        row = tables.documents.find(number, "s") if number is not None else None
        pieces = tables.pieces.of_document(row.document) if row is not None else []
    found = [memory.item(f"i{piece.item}", scope=SCOPE).text for piece in pieces]
    assert len(memory.items(SCOPE, kinds=["document"])) == len(found)
    return found


def as_kept(version: int) -> list[str]:
    return [section.strip() for section in VERSIONS[version]]


@pytest.mark.parametrize("fault", list(Fault))
def test_whatever_disk_call_fails_a_document_is_the_old_one_or_the_new_one(fault: Fault) -> None:
    rng = random.Random(3)
    for at in itertools.count(1, 7):
        with FaultyDisk() as disk:
            disk.fail(at=at, error=fault)
            memory: Memory | None = None
            begun = done = 0
            try:
                memory = open_on(disk)
                for version in range(1, len(VERSIONS)):
                    begun = version
                    memory.ingest("\n\n".join(VERSIONS[version]), scope=SCOPE, source="s")
                    done = version
                memory.compact()
            except MemoptError:
                pass
            raised = bool(disk.faults_raised)
            disk.heal()
            allowed = [as_kept(done), as_kept(begun)]
            if memory is not None:
                with contextlib.suppress(MemoptError):
                    assert texts(memory) in allowed, at
                memory._parts.budget.check()
            with (
                disk.lose_power(rng) if at % 2 else disk.kill() as left,
                contextlib.closing(open_on(left)) as again,
            ):
                assert texts(again) in allowed, at
                assert again.check().clean
                again.ingest("\n\n".join(VERSIONS[1]), scope=SCOPE, source="s")
                assert texts(again) == as_kept(1)
            if memory is not None:
                with contextlib.suppress(MemoptError):
                    memory.close()
            if not raised:
                return
