"""Threads that each work on collections of their own beside dicts and lists, while the cache of all
of them is emptied, limited and collected: nothing is lost, stale or foreign."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.errors import CapacityError

pytestmark = pytest.mark.slow

OWNERS = 3
OPERATIONS = 700


def value_of(chance: random.Random, largest_in_arena: int) -> bytes:
    sizes = (0, 1, 10, 200, 200, 1000, 4000, 30_000, 200_000, largest_in_arena)
    return chance.randbytes(max(0, chance.choice(sizes) - chance.choice((0, 19, 20, 21, 22))))


def change(mapping: Any, sequence: Any, key: int, at: int, value: bytes, dice: int) -> Any:
    """The same on a handle and on what it is compared with; raises before it changes anything."""
    match dice:
        case 0 | 1 | 2:
            mapping[f"k{key}"] = value
        case 3:
            return mapping.pop(f"k{key}", None)
        case 4:
            mapping.update({f"k{key + i}": value[:300] for i in range(5)})
        case 5 | 6:
            sequence.append(value)
        case 7:
            sequence.insert(at, value)
        case 8:
            return sequence.pop(at % len(sequence)) if len(sequence) else None
        case 9:
            sequence[at : at + 2] = [value[:100]] * (key % 4)
        case 10:
            mapping.clear() if not key % 9 else sequence.reverse()
        case _:
            return mapping.get(f"k{key}"), sequence[:at][-1:], len(mapping), len(sequence)
    return None


@pytest.mark.parametrize(
    ("policy", "seed"), [("lru", 1), ("adaptive", 2), ("s3fifo", 3), ("gdsf", 4)]
)
def test_threads_beside_dicts_and_lists(tmp_path: Path, policy: str, seed: int) -> None:
    failures: list[BaseException] = []
    models: dict[int, tuple[dict[str, Any], list[Any]]] = {}
    ended = threading.Event()
    memory = memopt.open(
        tmp_path / "store", budget="8MiB", durability="os", collection_policy=policy,
        maintenance_seconds=0.01,
    )  # fmt: skip
    collections: Any = memory._parts.sessions.collections

    def owner(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        ours: tuple[dict[str, Any], list[Any]] = ({}, [])
        session = memory.session(f"s{number}", scope="a")
        theirs = (memory.mapping(f"m{number}", scope="a"), session.sequence("s"))
        try:
            for _ in range(OPERATIONS):
                drawn = (
                    chance.randrange(30), chance.randint(0, len(ours[1])),
                    value_of(chance, collections.cache._arena.value_bytes_max),
                    chance.randrange(16),
                )  # fmt: skip
                try:
                    found = change(*theirs, *drawn)
                except CapacityError:
                    continue
                assert found == change(*ours, *drawn)
                if len(ours[1]) > 40:
                    session.delete()
                    ours[1].clear()
            models[number] = ours
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failures.append(error)

    def disturb() -> None:
        chance = random.Random(seed)
        while not ended.wait(0.005):
            collections.cache.limit(chance.choice((0.5, 0.0, 1, 1)))
            if chance.random() < 0.1:
                collections.cache.clear()
            collections.make_free(chance.randrange(1 << 20))
        collections.cache.limit(1)

    threads = [threading.Thread(target=owner, args=(number,)) for number in range(OWNERS)]
    disturbing = threading.Thread(target=disturb)
    for thread in (*threads, disturbing):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    disturbing.join()
    collections.cache.check()
    memory._parts.budget.check()
    assert memory.check().clean
    memory.close()
    assert not failures, failures[0]
    with memopt.open(tmp_path / "store", budget="8MiB", maintenance_seconds=0) as again:
        for number, (mapping, sequence) in models.items():
            assert dict(again.mapping(f"m{number}", scope="a")) == mapping
            assert again.session(f"s{number}", scope="a").sequence("s")[:] == sequence
