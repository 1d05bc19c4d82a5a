"""`memopt context`: what a model would see, and what it would not."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import memopt
from memopt.cli.app import app


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fill(memory: memopt.Memory) -> None:
    session = memory.session("talk", scope="acme/ann")
    session.append({"role": "system", "content": "Be \x1b[2Jbrief."})
    for n in range(30):
        function = {"name": "walk", "arguments": json.dumps({"day": n})}
        calls = [{"id": f"c{n}", "type": "function", "function": function}]
        session.append({"role": "user", "content": f"how was day {n}? " * 10})
        session.append({"role": "assistant", "content": None, "tool_calls": calls})
        text = f"day {n} was mild\n" * (900 if n == 29 else 9)
        session.append({"role": "tool", "tool_call_id": f"c{n}", "content": text})
    session.append({"role": "tool", "tool_call_id": "nobody", "content": "a stray"})
    memory.remember("Ann walks slowly in the rain", scope="acme/ann")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with memopt.open(tmp_path / "store", durability="os", maintenance_seconds=0) as memory:
        fill(memory)
    return tmp_path / "store"


def test_it_shows_what_is_sent_and_what_is_not(store: Path) -> None:
    done = run("context", store, "talk", "--scope", "acme/ann", "--max-tokens", 2000,
               "--query", "slowly in the rain")  # fmt: skip
    assert done.exit_code == 0
    for text in (
        "-- system · system", "-- summary · user", "-- recalled · user", "Ann walks slowly",
        "-- newest · user", "how was day 29?", "walk", "-- loop · tool", "summarised",
        "shortened", "orphaned", "m91", "of 2000 tokens, estimated.",
    ):  # fmt: skip
        assert text in done.stdout, text
    assert "how was day 3?  " not in done.stdout
    assert "\x1b" not in done.stdout
    for line in ("tools", "how was day 30"):
        assert line not in done.stdout


def test_json_is_the_context_as_a_program_gets_it(store: Path) -> None:
    done = run("context", store, "talk", "--scope", "acme/ann", "--max-tokens", 2000, "--json",
               "--reserve-tokens", 500)  # fmt: skip
    found = json.loads(done.stdout)
    with memopt.open(store) as memory:
        session = memory.session("talk", scope="acme/ann")
        context = session.context(max_tokens=2000, reserve_tokens=500)
    assert found["messages"] == list(context.messages)
    assert found["report"]["tokens"] == context.report.tokens <= 1500


def test_a_running_owner_is_asked(store: Path) -> None:
    with memopt.open(store, durability="os") as memory:
        arguments = ("context", store, "talk", "--scope", "acme/ann", "--max-tokens", 2000)
        found = json.loads(run(*arguments, "--json").stdout)
        context = memory.session("talk", scope="acme/ann").context(max_tokens=2000)
        assert found["messages"] == list(context.messages)


def test_it_writes_nothing_where_nobody_has_the_store_open(store: Path) -> None:
    run("context", store, "talk", "--scope", "acme/ann", "--max-tokens", 2000)
    with memopt.open(store) as memory, memory._parts.directory.home.snapshot() as tables:
        assert tables.contexts.scan((-1, ""), 10) == []


def test_a_wrong_call_says_what_is_wrong(store: Path) -> None:
    for arguments, words in (
        (("nobody", "--max-tokens", 2000), "there is no session 'nobody'"),
        (("talk", "--scope", "acme/ann", "--max-tokens", 60), "and there is room for 60"),
        (("talk", "--scope", "acme/ann", "--max-tokens", 30, "--reserve-tokens", 40), "reserve"),
    ):
        done = run("context", store, *arguments)
        assert done.exit_code == 2
        assert words in done.stderr
    assert run("context", store, "talk").exit_code == 2
