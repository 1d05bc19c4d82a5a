"""The lines that stand for calls in a summary: what was called with what, and how it went."""

import json
from typing import Any

import pytest

from memopt.context.groups import Grouper, Held
from memopt.context.summary import lines_of


def line(arguments: Any, output: str) -> str:
    function = {"name": "run", "arguments": arguments}
    said: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": output},
    ]
    grouper = Grouper()
    for seq, message in enumerate(said):
        grouper.add(Held(seq, message, message, 1))
    [found] = lines_of(grouper.groups[0])
    return found.text


def test_short_arguments_come_first_and_paths_keep_their_end() -> None:
    path = "/workspace/a/very/deep/tree/of/packages/astropy/io/fits/card.py"
    arguments = {"text": "words " * 900, "path": path, "command": "create"}
    said = line(json.dumps(arguments), "File created.")
    assert said.startswith("m0 called run(command=create, path=…")
    assert "astropy/io/fits/card.py, text=words words" in said
    assert said.endswith("-> m1: File created.")
    assert len(said) < 260


def test_an_output_that_repeats_the_call_begins_behind_it() -> None:
    command = "cd /workspace && python3 reproduce.py"
    said = line(json.dumps({"command": command}), f"{command}\r\n=== Signal model test ===\nmore")
    assert said.endswith("-> m1: === Signal model test === more")
    assert line(json.dumps({"command": command}), command).endswith(f"-> m1: {command}")


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("Traceback:\n  File x\nIndentationError: unexpected indent\n[exit 1]",
         "IndentationError: unexpected indent"),
        ("ok\n" * 2000 + "django.db.utils.OperationalError: no such table",
         "django.db.utils.OperationalError: no such table"),
        ("a\nERROR: Invalid `path` parameter.\nb", "ERROR: Invalid `path` parameter."),
        ("the error is in line 7 of it", "the error is in line 7 of it"),
        ("card.py:12: raise ValueError(x)", "card.py:12: raise ValueError(x)"),
    ],
)  # fmt: skip
def test_how_a_call_failed_is_told_before_how_its_output_begins(output: str, told: str) -> None:
    assert line("{}", output).endswith(f"-> m1: {told}")


@pytest.mark.parametrize("arguments", ["{not json", "[1, 2]", '"text"', "", "{}", "*** a patch"])
def test_what_is_no_object_is_told_as_it_is(arguments: str) -> None:
    assert line(arguments, "done") == f"m0 called run({arguments}) -> m1: done"
