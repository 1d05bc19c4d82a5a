"""A forked child has handles on collections, and nothing that they lead to."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt.base.records import CollectionRow
from memopt.sessions import turns as turns_module

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PATIENCE = 20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0,
        probe_seconds=0, ballast_bytes=0,
    ) as memory:  # fmt: skip
        yield memory


def forked(verbs: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """What each verb raised in a forked child, or returned."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on, forking beside threads is warned about; a user may still do it.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        # A verb that hangs is killed, and so the child does not end well.
        signal.alarm(PATIENCE)
        found = {}
        for name, verb in verbs.items():
            try:
                found[name] = f"returned {verb()!r}"
            except BaseException as error:  # noqa: BLE001 - told to the parent
                found[name] = f"{type(error).__name__}: {error}"
        gc.collect()
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"
    found = json.loads(answer)
    assert isinstance(found, dict)
    return found


def refused(verbs: dict[str, Callable[[], Any]]) -> None:
    said = "StoreClosedError: the store belongs to the parent process"
    assert forked(verbs) == dict.fromkeys(verbs, said)


def reads_and_writes(mapping: Any, sequence: Any, kind: str) -> dict[str, Callable[[], Any]]:
    """Verbs on a mapping {"a": 1, …} and a sequence [1, …], which their handles have read."""
    large = bytes(200_000)
    keys, items, values = iter(mapping), iter(mapping.items()), iter(sequence)
    backwards = reversed(sequence)
    assert (mapping["a"], sequence[0], len(mapping), len(sequence)) == (1, 1, 3, 3)
    assert (next(keys), next(items), next(values), next(backwards)) == ("a", ("a", 1), 1, 3)
    verbs: dict[str, Callable[[], Any]] = {
        "get": lambda: mapping["a"],
        "get nothing": lambda: mapping.get("nothing"),
        "get what is no key": lambda: mapping.get(1.5),
        "in": lambda: "a" in mapping,
        "length": lambda: len(mapping),
        "bool": lambda: bool(mapping),
        "set": lambda: mapping.update(a="of the child"),
        "set large": lambda: mapping.put("a", large),
        "setdefault": lambda: mapping.setdefault("a", 2),
        "delete": lambda: mapping.pop("a"),
        "clear": mapping.clear,
        "copy": mapping.copy,
        "next key": lambda: next(keys),
        "next item": lambda: next(items),
        "position": lambda: sequence[0],
        "position outside": lambda: sequence[9],
        "slice": lambda: sequence[:],
        "length of sequence": lambda: len(sequence),
        "append": lambda: sequence.append("of the child"),
        "pop": lambda: sequence.pop(),
        "reverse": sequence.reverse,
        "next value": lambda: next(values),
        "next backwards": lambda: next(backwards),
    }
    return {f"{kind}, {name}": verb for name, verb in verbs.items()}


def everything(memory: memopt.Memory, turn: Any) -> dict[str, Callable[[], Any]]:
    """Verbs on collections of a session, of a scope and of a turn."""
    session = memory.session("s")
    owners: dict[str, Any] = {"turn": turn, "session": session, "scope": memory}
    verbs: dict[str, Callable[[], Any]] = {}
    for kind, owner in owners.items():
        owner.mapping("m").update(a=1, b=2, c=3)
        owner.sequence("l").extend([1, 2, 3])
        verbs |= reads_and_writes(owner.mapping("m"), owner.sequence("l"), kind)
    fresh = session.mapping("never read")
    return verbs | {
        "handle of a turn": lambda: turn.mapping("m"),
        "never read": lambda: fresh.get("a"),
        "another turn": lambda: session.turn().__enter__(),
    }


def unchanged(memory: memopt.Memory, turn: Any) -> None:
    for owner in (turn, memory.session("s"), memory):
        assert dict(owner.mapping("m")) == {"a": 1, "b": 2, "c": 3}
        assert list(owner.sequence("l")) == [1, 2, 3]
        owner.mapping("m")["a"] = "of the parent"
        assert owner.mapping("m").pop("a") == "of the parent"
    memory._parts.sessions.collections.cache.check()  # type: ignore[attr-defined]
    memory._parts.budget.check()


def test_a_forked_child_is_refused_by_every_handle_and_iterator(memory: memopt.Memory) -> None:
    with memory.session("s").turn() as turn:
        refused(everything(memory, turn))
        unchanged(memory, turn)
    assert memory.check().clean


LOCKS: dict[str, Callable[[memopt.Memory], Any]] = {
    "cache": lambda memory: memory._parts.sessions.collections.cache._lock,  # type: ignore[attr-defined]
    "rows": lambda memory: memory._parts.sessions.collections.rows._lock,  # type: ignore[attr-defined]
    "rows of turns": lambda memory: (
        memory._parts.sessions.turns._collections.rows._lock  # type: ignore[attr-defined]
    ),
    "scratch": lambda memory: memory._parts.sessions.turns._scratch._lock,  # type: ignore[attr-defined]
    "turns": lambda memory: memory._parts.sessions.turns._lock,  # type: ignore[attr-defined]
    "budget": lambda memory: memory._parts.budget._lock,
    "owning": lambda memory: turns_module._owning,
    "commits": lambda memory: memory._parts.committer._lock,
}


@pytest.mark.parametrize("name", LOCKS)
def test_a_child_waits_for_no_lock_that_another_thread_held(
    memory: memopt.Memory, name: str
) -> None:
    with memory.session("s").turn() as turn:
        verbs = everything(memory, turn)
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with LOCKS[name](memory):
                held.set()
                assert go.wait(2 * PATIENCE)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(PATIENCE)
        try:
            refused(verbs)
        finally:
            go.set()
            thread.join(PATIENCE)
        unchanged(memory, turn)


def test_a_child_forked_while_a_turn_writes_leaves_the_write_to_its_parent(
    memory: memopt.Memory,
) -> None:
    """The child's copy of the connection is in the middle of a transaction."""
    with memory.session("s").turn() as turn:
        mapping = turn.mapping("m")
        mapping["a"] = 1
        written, go = threading.Event(), threading.Event()
        keeping = memory._parts.sessions.turns._collections.engine.committer  # type: ignore[attr-defined]

        def member(transaction: Any) -> None:
            row = CollectionRow(0, 1, 1, "mapping", "nobody's", 1, 1)
            transaction.tables.collections.create(row)
            written.set()
            assert go.wait(2 * PATIENCE)

        thread = threading.Thread(target=keeping.commit, args=(member,))
        thread.start()
        assert written.wait(PATIENCE)
        try:
            refused({"get": lambda: mapping["a"], "set": lambda: mapping.update(a=2)})
        finally:
            go.set()
            thread.join(PATIENCE)
        mapping["b"] = 2
        assert dict(mapping) == {"a": 1, "b": 2}


ENDING = """
import os, sys, warnings
import memopt
warnings.simplefilter("ignore", DeprecationWarning)
memory = memopt.open(sys.argv[1], durability="os", maintenance_seconds=0)
with memory.session("s").turn() as turn:
    mapping = turn.mapping("m")
    mapping["a"] = 1
    pid = os.fork()
    if not pid:
        # With everything that an interpreter finalises.
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert os.path.exists(os.path.join(sys.argv[1], "scratch"))
    mapping["b"] = 2
    assert dict(mapping) == {"a": 1, "b": 2}
memory.close()
print("closed")
"""


def test_a_child_that_ends_leaves_the_file_to_its_parent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(tmp_path / "store")], check=False, text=True,
        capture_output=True, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
