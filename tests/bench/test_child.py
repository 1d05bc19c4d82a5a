"""Work in a child comes back as an answer, a named error, or not at all."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memopt.base.errors import MemoptError, UsageError
from memopt.bench import player
from memopt.bench.child import Child, ChildFailedError, Report, run_in_child
from memopt.bench.player import Script
from memopt.bench.replay import ReplayOptions, script_of


@pytest.fixture(autouse=True)
def tests_are_importable_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = os.environ.get("PYTHONPATH")
    here = os.path.dirname(os.path.abspath(__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, inherited] if inherited else [here]))


def doubled(argument: Any, report: Report) -> Any:
    print("chatter that is not an answer")
    report({"done": 1, "pid": os.getpid()})
    return argument * 2


def refused(_argument: Any, _report: Report) -> Any:
    raise UsageError("too blue", field="sky")


def failed(_argument: Any, _report: Report) -> Any:
    raise MemoptError("it broke")


def vanished(_argument: Any, _report: Report) -> Any:
    os._exit(7)


def endless(_argument: Any, report: Report) -> Any:
    while True:
        report({"done": 0})


def test_the_answer_comes_back_from_another_process() -> None:
    lines: list[dict[str, Any]] = []
    assert run_in_child(doubled, "ab", lines.append) == "abab"
    assert [line["done"] for line in lines] == [1]
    assert lines[0]["pid"] != os.getpid()


def test_a_usage_error_stays_one() -> None:
    with pytest.raises(UsageError, match="sky: too blue"):
        run_in_child(refused, None)


def test_another_error_names_the_work() -> None:
    with pytest.raises(ChildFailedError, match=r"test_child:failed: MemoptError: it broke"):
        run_in_child(failed, None)


def test_a_process_that_is_gone_is_told_with_its_code() -> None:
    with pytest.raises(ChildFailedError, match="code 7"):
        run_in_child(vanished, None)


def test_a_child_that_is_left_is_gone() -> None:
    with Child(endless, None) as child:
        next(iter(child.lines()))
        child.kill()
    assert child._process.poll() == -9


def test_a_player_brings_no_terminal_and_no_rival_into_its_process() -> None:
    program = f"import sys, {player.__name__}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)
    loaded = {name.split(".")[0] for name in done.stdout.decode().split()}
    assert "memopt" in loaded
    assert {"rich", "typer", "matplotlib", "langgraph", "agents"}.isdisjoint(loaded)


def test_a_script_survives_the_way_to_a_child(tmp_path: Path) -> None:
    script = script_of(ReplayOptions(sessions=3), home=tmp_path)
    assert run_in_child(echoed, script) == [3, script.budget_bytes]


def echoed(argument: Any, _report: Report) -> Any:
    script = msgspec.convert(argument, Script)
    return [script.sessions, script.budget_bytes]
