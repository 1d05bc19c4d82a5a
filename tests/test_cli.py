"""The `memopt` command, on real stores: stopped ones, and ones whose owner runs."""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memopt
from command_line import run
from memopt.cli import forget as forgetting
from memopt.cli import measure, transfer
from memopt.cli.inspect import summary
from memopt.cli.terminal import json_text, shown, shown_lines

CANARY = "the canary sings at Ümläut Street 17"
IMPORTED: dict[str, Any] = {
    "sessions": 0, "messages": 0, "messages_there": 0, "states": 0, "items": 0, "items_there": 0,
    "trees": [],
}  # fmt: skip
LONG_AGO = datetime(2021, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
STRANGE = {
    "role": "tool",
    "content": [{"type": "text", "text": "\x1b[31m[red]boo[/red]\u202e\x9b👨‍👩‍👧 日本\n```\n"}],
    "big": 2**64 - 1,
    "small": -(2**63),
    "float": 1.0,
    "tiny": 5e-324,
    "deep": [[[{"": None, "é": True}]]],
}


def run_for_real(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from memopt.cli import main; main()"]
    return subprocess.run(
        [*command, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(text: object) -> dict[str, object]:
    return {"role": "user", "content": text}


def fill(memory: memopt.Memory) -> None:
    plain = memory.session("s1")
    plain.append(said("hello"), actor="ann", at=LONG_AGO)
    plain.append(said("good day"), at=LONG_AGO + timedelta(microseconds=1))
    strange = memory.session("strange/née 日本", scope="acme/ann", agent="desk")
    strange.extend([STRANGE, said(CANARY), said(""), {}])
    strange.save_state({"step": 1})
    strange.save_state({"step": 2, "note": [1, 2.5, None]})
    strange.save_state("another", name="side")
    strange.fork("forked", at=1).append(said("on the other branch"))
    memory.session("s1", scope="acme/bob").append(said("an id that ann's scope does not hold"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A stopped store."""
    directory = tmp_path / "store"
    with memopt.open(directory, budget="16MiB") as memory:
        fill(memory)
    return directory


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[tuple[Path, memopt.Memory]]:
    """A store that this process has open."""
    directory = tmp_path / "owned"
    with memopt.open(directory, budget="16MiB") as memory:
        fill(memory)
        yield directory, memory


def contents(directory: Path) -> dict[tuple[str, str], Any]:
    """Everything an export keeps, by session."""
    found = {}
    with memopt.open(directory, budget="16MiB") as memory:
        for scope in ("default", "acme/ann", "acme/bob", "else/where"):
            for info in memory.sessions(scope):
                session = memory.session(info.id, scope=scope)
                entries = [
                    (entry.at, entry.actor, msgspec.json.encode(entry.message))
                    for entry in session.entries()
                ]
                states = [
                    (v.name, session.load_state(name=v.name, version=v.version).value)  # type: ignore[union-attr]
                    for v in session.states()
                ]
                found[scope, info.id] = (info.agent, entries, states)
    return found


def damage(file: Path, text: bytes) -> None:
    """Change bits of a text at rest: two, for one alone would be mended."""
    stored = bytearray(file.read_bytes())
    stored[stored.index(text)] ^= 1
    stored[stored.index(text[1:]) + 1] ^= 4
    file.write_bytes(stored)


# -- the door -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect",),
        ("top", "--once"),
        ("check",),
        ("compact",),
        ("export",),
        ("forget", "--scope", "a", "--whole-scope", "--yes"),
        ("restore", "--scope", "a", "--lsn", "1"),
        ("backup", "target"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_directory_is_an_error_and_is_not_made(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command, *rest = arguments
    missing = tmp_path / "missing"
    outcome = run(command, missing, *rest)
    assert outcome.code == 2
    assert outcome.err == f"memopt: there is no memopt store in {missing}\n"
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_a_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    assert run("check", tmp_path).code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_it_says_its_version() -> None:
    outcome = run("--version")
    assert outcome.code == 0
    assert re.fullmatch(r"memopt \d+\.\d+\.\d+\S*\n", outcome.out)


def test_a_wrong_option_ends_with_2() -> None:
    assert run("check", "--no-such-option").code == 2


def test_an_error_is_one_line_in_a_real_process(tmp_path: Path) -> None:
    done = run_for_real("check", tmp_path / "a\x1b[31m\nb")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_config_file_is_named(store: Path, tmp_path: Path) -> None:
    config = tmp_path / "memopt.toml"
    config.write_text("budget_bytes = '1 parsec'")
    outcome = run("--config", config, "check", store)
    assert outcome.code == 2
    assert "budget_bytes" in outcome.err


@pytest.mark.parametrize(
    ("command", "messages"), [("export", 1), ("export", 400), ("inspect", 1)], ids=str
)
def test_a_reader_that_goes_away_ends_it_quietly(
    tmp_path: Path, command: str, messages: int
) -> None:
    directory = tmp_path / "store"
    with memopt.open(directory, budget="16MiB") as memory:
        memory.session("long").extend([said("x" * 1000)] * messages)
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(writing, "wb") as nowhere:
        done = subprocess.run(
            [sys.executable, "-c", "from memopt.cli import main; main()", command, directory],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            env=buffered,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


# -- inspect and top ------------------------------------------------------------------------------


def test_inspect_lists_the_sessions_of_all_scopes(store: Path) -> None:
    listed = run("inspect", store, "--json").json["sessions"]
    assert {(info["scope"], info["id"], info["message_count"]) for info in listed} == {
        ("default", "s1", 2),
        ("acme/ann", "strange/née 日本", 4),
        ("acme/ann", "forked", 2),
        ("acme/bob", "s1", 1),
    }
    assert len(run("inspect", store, "--scope", "acme/ann", "--json").json["sessions"]) == 2
    assert run("inspect", store, "--scope", "acme", "--json").json["sessions"] == []
    below = run("inspect", store, "--scope", "acme", "--subtree", "--json").json["sessions"]
    assert len(below) == 3
    assert "née 日本" in run("inspect", store).out
    assert "and more" not in run("inspect", store, "--limit", "4").out
    assert "and more" in run("inspect", store, "--limit", "3").out
    assert len(run("inspect", store, "--limit", "3", "--json").json["sessions"]) == 3


def test_inspect_shows_messages_exactly_as_json_and_shortly_as_text(store: Path) -> None:
    where = ("--scope", "acme/ann", "--session", "strange/née 日本")
    entries = run("inspect", store, *where, "--json").json["messages"]
    assert entries[0]["message"] == STRANGE
    assert [entry["seq"] for entry in entries] == [0, 1, 2, 3]
    last = run("inspect", store, *where, "--limit", "1", "--json").json["messages"]
    assert [entry["seq"] for entry in last] == [3]
    first = run("inspect", store, *where, "--limit", "1", "--start", "0", "--json").json["messages"]
    assert [entry["seq"] for entry in first] == [0]
    assert CANARY in run("inspect", store, *where).out


def test_text_from_a_store_cannot_command_the_terminal(store: Path) -> None:
    where = ("--scope", "acme/ann", "--session", "strange/née 日本")
    for outcome in (
        run("inspect", store, *where),
        run("inspect", store, *where, "--json"),
        run("inspect", store, "--journal"),
        run("export", store),
        run("export", store, "--format", "markdown"),
    ):
        assert outcome.code == 0
        assert "[red]boo[/red]" in outcome.out
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", outcome.out)


def test_inspect_shows_pages_states_tiers_forks_and_journal(store: Path) -> None:
    where = ("--scope", "acme/ann", "--session", "strange/née 日本")
    assert run("compact", store).code == 0
    sections = ("--pages", "--states", "--tiers", "--forks", "--journal")
    found = run("inspect", store, *where, *sections, "--json").json
    assert sum(page["stop"] - page["start"] for page in found["pages"]) == 4
    assert [(state["name"], state["version"]) for state in found["states"]] == [
        ("main", 1),
        ("main", 2),
        ("side", 1),
    ]
    assert {"l1", "l2"} <= set(found["tiers"]["tiers"])
    assert {record["session"] for record in found["journal"]} == {"strange/née 日本"}
    forks = run("inspect", store, "--forks", "--json").json["forks"]
    assert [record["kind"] for record in forks] == ["forked"]
    text = run("inspect", store, *where, *sections).out
    assert all(title in text for title in ("pages", "states", "tiers", "forks", "journal"))


def test_inspect_shows_the_end_of_the_journal(store: Path) -> None:
    everything = run("inspect", store, "--journal", "--json").json["journal"]
    assert [record["lsn"] for record in everything] == sorted(r["lsn"] for r in everything)
    assert (
        run("inspect", store, "--journal", "--limit", "2", "--json").json["journal"]
        == (everything[-2:])
    )
    since = everything[3]["lsn"]
    later = run("inspect", store, "--journal", "--since", since, "--json").json["journal"]
    assert later == everything[4:]


def test_inspect_says_what_is_not_there(store: Path) -> None:
    outcome = run("inspect", store, "--session", "nobody")
    assert (outcome.code, outcome.err) == (
        2,
        "memopt: there is no session 'nobody' in scope 'default'\n",
    )
    assert run("inspect", store, "--pages").code == 2
    assert run("check", store).code == 0


def test_top_prints_one_frame(store: Path) -> None:
    outcome = run("top", store, "--once")
    assert outcome.code == 0
    assert "budget" in outcome.out
    assert run("top", store, "--once", "--json").json["budget_bytes"] > 0
    # What nobody has counted or done yet is not a figure of 0.
    assert "0.0 : 1" not in outcome.out
    for out in (outcome.out, run("inspect", store, "--tiers").out):
        (row,) = [line for line in out.splitlines() if line.startswith(" l3 ")]
        assert row.split()[3] == "-"


# -- check, compact, backup, restore --------------------------------------------------------------


def test_check_tells_a_clean_store_from_a_damaged_one(store: Path) -> None:
    report = run("check", store, "--json")
    assert (report.code, report.json["messages"]) == (0, 8)
    assert "Clean." in run("check", store).out

    damage(store / "memopt.db", b"hello")
    damaged = run("check", store)
    assert damaged.code == 1
    assert "Clean." not in damaged.out
    done = run_for_real("check", store)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_check_can_be_done_in_parts(store: Path) -> None:
    first = run("check", store, "--limit", "1", "--json").json
    assert first["sessions"] == 1
    rest = run("check", store, "--after", first["cursor"], "--json").json
    assert (rest["sessions"], rest["cursor"]) == (3, None)


def test_compact_reports_what_it_did(store: Path) -> None:
    report = run("compact", store, "--json").json
    assert report["sealed_sessions"] >= 3
    assert "sessions sealed" in run("compact", store).out


def test_a_backup_becomes_a_store_that_holds_the_same(store: Path, tmp_path: Path) -> None:
    report = run("backup", store, tmp_path / "copy", "--json")
    assert (report.code, report.json["path"]) == (0, str(tmp_path / "copy"))
    outcome = run("restore", tmp_path / "new", "--from", tmp_path / "copy")
    assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "new") == contents(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "new", "store"]


def test_restore_never_writes_over_anything(store: Path, tmp_path: Path) -> None:
    run("backup", store, tmp_path / "copy")
    before = contents(store)
    assert run("restore", store, "--from", tmp_path / "copy").code == 2
    assert contents(store) == before
    assert run("restore", tmp_path / "new", "--from", tmp_path / "nothing").code == 2
    assert not (tmp_path / "new").exists()


def test_a_damaged_backup_is_not_restored(store: Path, tmp_path: Path) -> None:
    run("backup", store, tmp_path / "copy")
    copy = tmp_path / "copy"
    damage(copy / "memopt.db", b"hello")
    outcome = run("restore", tmp_path / "new", "--from", copy)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "store"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--lsn", "3"),
        ("--scope", "default"),
        ("--from", "copy", "--scope", "default"),
        ("--from", "copy", "--lsn", "3"),
    ],
    ids=str,
)
def test_the_two_ways_to_restore_cannot_be_mixed_up(store: Path, options: tuple[str, ...]) -> None:
    before = contents(store)
    assert run("restore", store, *options).code == 2
    assert contents(store) == before


def test_restore_takes_a_scope_back(store: Path) -> None:
    before = contents(store)
    with memopt.open(store, budget="16MiB") as memory:
        lsn = memory.stats().lsn
        memory.session("s1").append(said("too much"))
        memory.session("s1", scope="acme/bob").append(said("stays"))
    moved = run("restore", store, "--scope", "default", "--lsn", lsn, "--json").json
    assert moved["sessions"] == 1
    after = contents(store)
    assert after["default", "s1"] == before["default", "s1"]
    assert len(after["acme/bob", "s1"][1]) == 2


# -- export and import ----------------------------------------------------------------------------


def counted(report: dict[str, Any]) -> dict[str, Any]:
    """Of an account of an import, what came out of lines."""
    return {name: report[name] for name in IMPORTED}


def test_what_is_exported_and_imported_is_the_same(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    assert run("export", store, "--output", file).code == 0
    outcome = run("import", tmp_path / "new", file, "--json")
    assert outcome.code == 0, outcome.err
    assert counted(outcome.json) == IMPORTED | {"sessions": 4, "messages": 9, "states": 3}
    assert contents(tmp_path / "new") == contents(store)
    assert run("export", tmp_path / "new").out.splitlines() == file.read_text().splitlines()


def test_importing_again_adds_nothing(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    run("export", store, "--output", file)
    before = contents(store)
    again = run("import", store, file, "--json").json
    assert counted(again) == IMPORTED | {"sessions": 4, "messages_there": 9}
    assert contents(store) == before


def test_an_interrupted_import_is_finished_by_the_next(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    run("export", store, "--output", file)
    lines = file.read_text().splitlines(keepends=True)
    for stop in range(1, len(lines)):
        part = tmp_path / "part.jsonl"
        part.write_text("".join(lines[:stop]))
        assert run("import", tmp_path / "new", part).code == 0
    assert run("import", tmp_path / "new", file).code == 0
    assert contents(tmp_path / "new") == contents(store)


@pytest.mark.parametrize("other", [said("something else"), {"n": 1.0}, {"b": 2, "a": 1}, {}])
def test_import_does_not_mix_two_conversations(
    store: Path, tmp_path: Path, other: dict[str, object]
) -> None:
    with memopt.open(store, budget="16MiB") as memory:
        memory.session("s").extend([said("hello"), {"n": 1}, {"a": 1, "b": 2}])
    mine = [said("hello"), {"n": 1}, other]
    if "n" in other:
        mine[1:] = [other]
    file = tmp_path / "other.jsonl"
    file.write_text(json_text({"id": "s", "messages": mine}))
    outcome = run("import", store, file)
    assert outcome.code == 2
    assert "holds something else as message" in outcome.err
    assert f"{file}:1" in outcome.err
    with memopt.open(store, budget="16MiB") as memory:
        assert len(memory.session("s")) == 3


def test_import_takes_plain_conversations_packed_or_not(tmp_path: Path) -> None:
    lines = [{"messages": [said("a"), said("b")]}, {"id": "named", "messages": [said("c")]}]
    text = "\n\n".join(json.dumps(line) for line in lines).encode()
    (tmp_path / "talks.jsonl.gz").write_bytes(gzip.compress(text))
    outcome = run("import", tmp_path / "new", tmp_path / "talks.jsonl.gz", "--scope", "else/where")
    assert outcome.code == 0, outcome.err
    assert set(contents(tmp_path / "new")) == {("else/where", "talks-1"), ("else/where", "named")}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"kind":"dance"}',
        '{"kind":"session","memopt":2,"id":"x"}',
        '{"id":"x","messages":[1]}',
        '{"id":"x","messages":[{"a":1e999}]}',
        '{"id":"x","messages":[{}],"scope":"a//b"}',
    ],
)
def test_a_line_that_cannot_be_imported_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text(f'{{"id":"good","messages":[{{}}]}}\n{line}\n')
    outcome = run("import", tmp_path / "new", file)
    assert outcome.code == 2
    assert f"{file}:2" in outcome.err
    assert outcome.err.count("\n") == 1
    if 'kind":"message' not in line:
        assert set(contents(tmp_path / "new")) == {("default", "good")}


def test_an_export_of_one_session_and_an_unfinished_file(store: Path, tmp_path: Path) -> None:
    lines = run("export", store, "--scope", "acme/bob", "--session", "s1").out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["session", "message"]
    file = tmp_path / "out.jsonl"
    assert run("export", store, "--session", "nobody", "--output", file).code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_damaged_session_does_not_keep_the_others_from_being_exported(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with memopt.open(directory, budget="16MiB", seal="full") as memory:
        for name in ("first", "second", "third"):
            memory.session(name).append(said("." * 9000 + f"{name} needle"))
    damage(directory / "memopt.db", b"second needle")
    outcome = run("export", directory, "--output", tmp_path / "rescued.jsonl")
    assert (outcome.code, outcome.err) == (
        1,
        "memopt: 1 sessions are damaged: second of default\n",
    )
    rescued = (tmp_path / "rescued.jsonl").read_text()
    assert "first needle" in rescued
    assert "third needle" in rescued
    assert "second needle" not in rescued


def test_markdown_is_for_people(store: Path) -> None:
    text = run("export", store, "--format", "markdown", "--scope", "acme/ann").out
    assert "# strange/née 日本\n\nScope acme/ann, agent desk, 4 messages.\n" in text
    assert f"\n\n{CANARY}\n\n" in text
    assert "## 0 · tool · " in text


# -- forget ---------------------------------------------------------------------------------------


def test_forget_plans_asks_and_takes_no_for_an_answer(store: Path) -> None:
    before = contents(store)
    arguments = ("forget", store, "--scope", "acme/ann", "--containing", CANARY)
    assert run(*arguments, "--dry-run", "--json").json["plan"]["targets"][0]["entries"] == 1
    outcome = run(*arguments, answer="n\n")
    assert outcome.code == 1
    assert "Will be forgotten" in outcome.out
    assert run(*arguments, "--json").code == 2
    assert contents(store) == before


def test_forget_a_text_and_prove_it(store: Path) -> None:
    with memopt.open(store, budget="16MiB", seal="full") as memory:
        memory.session("unsealed", scope="acme/ann").append(said(f"and {CANARY}"))
        memory.answers.store("What is it?", {"text": CANARY}, scope="acme/ann")
        memory.answers.store("What is that?", {"text": "that"}, scope="acme/ann")
    assert run("export", store).out.count(CANARY) == 2
    arguments = ("forget", store, "--scope", "acme/ann", "--containing", CANARY)
    outcome = run(*arguments, "--yes", "--json")
    assert outcome.code == 0
    assert outcome.json["gone"] is True
    assert outcome.json["receipt"]["entries"] == 2
    assert outcome.json["receipt"]["answers"] == 1
    assert outcome.json["proof"]["answers_left"] == 0
    [finding] = outcome.json["proof"]["findings"]
    assert (finding["text"], finding["before"] > 0, finding["after"]) == (CANARY, True, 0)
    assert outcome.json["proof"]["bytes_searched"] > 0
    assert CANARY not in run("export", store).out
    checked = run("check", store)
    assert (checked.code, "1 cached answers" in checked.out) == (0, True)
    again = run(*arguments, "--yes")
    assert (again.code, "Gone." in again.out) == (0, True)


def test_forget_a_session_whose_name_stays_in_another_scope(store: Path) -> None:
    assert run("forget", store, "--scope", "acme/bob", "--session", "s2", "--yes").code == 2
    with memopt.open(store, budget="16MiB") as memory:
        memory.session("twice-named", scope="a").append(said("one"))
        memory.session("twice-named", scope="b").append(said("two"))
    arguments = ("--session", "twice-named", "--yes", "--json")
    first = run("forget", store, "--scope", "a", *arguments)
    [finding] = first.json["proof"]["findings"]
    assert (first.code, finding["after"] > 0, finding["elsewhere"]) == (0, True, True)
    second = run("forget", store, "--scope", "b", *arguments)
    [finding] = second.json["proof"]["findings"]
    assert (second.code, finding["before"] > 0, finding["after"]) == (0, True, 0)


def test_forget_a_whole_scope(store: Path) -> None:
    outcome = run("forget", store, "--scope", "acme", "--subtree", "--whole-scope", answer="y\n")
    assert outcome.code == 0, outcome.out
    assert "Gone." in outcome.out
    assert set(contents(store)) == {("default", "s1")}


def test_a_proof_that_finds_something_is_a_failure(store: Path) -> None:
    (store / "left-behind.txt").write_text(f"a note: {CANARY}", "utf-8")
    outcome = run("forget", store, "--scope", "acme/ann", "--containing", CANARY, "--yes")
    assert outcome.code == 1
    assert "NOT gone." in outcome.out


# -- a directory whose owner runs -----------------------------------------------------------------


def test_commands_reach_a_running_owner(owned: tuple[Path, memopt.Memory], tmp_path: Path) -> None:
    directory, memory = owned
    where = ("--scope", "acme/ann", "--session", "strange/née 日本")
    for arguments in (
        ("inspect", directory, *where, "--messages", "--pages", "--states", "--tiers", "--journal"),
        ("top", directory, "--once"),
        ("check", directory),
        ("compact", directory),
        ("backup", directory, tmp_path / "copy"),
        ("export", directory, "--output", tmp_path / "all.jsonl"),
    ):
        done = run_for_real(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    assert CANARY in (tmp_path / "all.jsonl").read_text("utf-8")
    lsn = memory.stats().lsn
    more = tmp_path / "more.jsonl"
    more.write_text(json_text({"id": "new", "scope": "else/where", "messages": [STRANGE] * 3}))
    for file in (more, more, tmp_path / "all.jsonl"):
        done = run_for_real("import", directory, file, "--json")
        assert (done.returncode, done.stderr) == (0, "")
    assert list(memory.session("new", scope="else/where").messages()) == [STRANGE] * 3
    done = run_for_real("restore", directory, "--scope", "else/where", "--lsn", lsn)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(memory.session("new", scope="else/where")) == 0
    done = run_for_real(
        "forget", directory, "--scope", "acme/ann", "--containing", CANARY, "--yes", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["gone"] is True
    texts = [m.get("content") for m in memory.session(where[3], scope=where[1]).messages()]
    assert CANARY not in texts
    assert memory.check().clean


def test_an_owner_that_does_not_answer_is_named_in_one_line(
    owned: tuple[Path, memopt.Memory],
) -> None:
    directory, _ = owned
    (directory / "owner.sock").unlink()
    done = run_for_real("check", directory)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("memopt: ")
    assert done.stderr.count("\n") == 1
    assert str(os.getpid()) in done.stderr


# -- replay and bench -----------------------------------------------------------------------------


def test_replay_reads_back_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text("\n".join(json_text({"messages": [said(f"{n}"), {}]}) for n in range(3)))
    outcome = run("replay", file, "--sessions", 10, "--budget", "16MiB", "--no-baseline", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["verified_messages"] == outcome.json["messages"] > 0
    assert outcome.json["mismatches"] == 0
    assert outcome.json["baseline"] is None


def test_a_replay_takes_its_settings_from_the_file_and_then_from_its_options(
    tmp_path: Path,
) -> None:
    file, settings = tmp_path / "talks.jsonl", tmp_path / "memopt.toml"
    file.write_text(json_text({"messages": [said("1"), said("2")]}))
    settings.write_text('budget_bytes = "9MiB"\npolicy = "lru"\nl1_share = 0.25\n')
    call = ("--config", settings, "replay", file, "--sessions", 3, "--no-baseline", "--json")
    found = run(*call).json
    assert (found["budget_bytes"], found["policy"]) == (9 << 20, "lru")
    assert found["settings"] == {"l1_share": 0.25}
    found = run(*call, "--policy", "clock", "--budget", "10MiB").json
    assert (found["budget_bytes"], found["policy"]) == (10 << 20, "clock")
    for wrong in ("l1_share = 7", "nothing = 1", "= 3"):
        settings.write_text(wrong)
        outcome = run(*call)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_a_command_without_a_store_takes_no_settings(tmp_path: Path) -> None:
    settings = tmp_path / "memopt.toml"
    settings.write_text("l1_share = 0.25\n")
    for command in (("bench",), ("simulate", settings)):
        outcome = run("--config", settings, *command)
        assert outcome.code == 2
        assert "--config: goes with" in outcome.err


def test_a_benchmark_that_is_interrupted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    class Interrupted:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Interrupted":
            return self

        def __exit__(self, *_: object) -> None: ...
        def communicate(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

        def kill(self) -> None:
            raise AssertionError("it would leave its files")

        def poll(self) -> None: ...
        def wait(self, timeout: float | None = None) -> None:
            waited.append(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure._ended(["bench"], is_heard=False)
    assert waited == [measure._ENDING_SECONDS]


def test_bench_lists_what_there_is() -> None:
    listed = run("bench", "--json").json
    assert {"density", "latency", "tiers"} <= {benchmark["name"] for benchmark in listed}
    assert all(benchmark["question"].endswith("?") for benchmark in listed)
    assert run("bench", "no-such").code == 2


# -- text -----------------------------------------------------------------------------------------


@given(st.text())
def test_shown_text_is_one_harmless_line(text: str) -> None:
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", shown(text))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown_lines(text))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_is_exact_although_it_is_harmless(text: str) -> None:
    encoded = json_text({text: [text]})
    assert json.loads(encoded) == {text: [text]}
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\U000e0001]", encoded)


@given(st.text(alphabet="`a\n"))
def test_no_line_of_a_code_block_can_end_it(text: str) -> None:
    fence, *inside, end = transfer._fenced(text).split("\n")
    assert fence == end
    assert not any(line.startswith(fence) for line in inside)


@given(
    st.lists(st.sampled_from([b"ab", b"aba", b"b", b"xx"]), max_size=30),
    st.sets(st.sampled_from(["ab", "bx", "a", "xxab", "baxxb"]), min_size=1),
    st.integers(1, 7),
)
def test_the_search_cuts_nothing_in_two(parts: list[bytes], texts: set[str], at_once: int) -> None:
    data = b"".join(parts)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "file").write_bytes(data)
        counts, _, size_bytes = forgetting._search(Path(directory), sorted(texts), at_once=at_once)
    assert counts == {text: data.count(text.encode()) for text in texts}
    assert size_bytes == len(data)


def test_a_summary_says_something_about_any_message() -> None:
    assert summary({"content": "text"}) == "text"
    assert summary({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}, 3, "b"]}) == (
        "a [image_url] [int] b"
    )
    call = {"function": {"name": "find", "arguments": '{"x":1}'}}
    assert summary({"content": None, "tool_calls": [call]}) == '→ find({"x":1})'
    assert summary({"tool_calls": [3, {"name": "flat", "arguments": {}}]}) == (
        "→ None(None) → flat({})"
    )
    assert summary({"type": "reasoning"}) == "[reasoning]"
    assert summary({}) == "[object]"


def test_files_are_searched_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"needle" * 3)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"..n\\u00e9edle..")
    os.mkfifo(tmp_path / "pipe")
    counts, files, size_bytes = forgetting._search(tmp_path, ["needle", "néedle"])
    assert (counts, files, size_bytes) == ({"needle": 3, "néedle": 1}, 2, 33)
