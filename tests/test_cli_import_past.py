"""`memopt import` of histories: what is taken for what, and what is said of it."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from command_line import run
from histories import SESSION, held, lines_of, opened, record, text, write
from memopt.cli.importing import From
from memopt.cli.line_import import Imported

TALK = [
    record("user", "u1", None, "Where did the walrus go?"),
    record("assistant", "a2", "u1", text("To the quay."), said={"id": "m2", "model": "claude-x"}),
]
META = {"timestamp": "2026-08-10T20:05:00Z", "type": "session_meta", "payload": {"id": "t-1"}}
ITEM = {
    "timestamp": "2026-08-10T20:05:01Z", "type": "response_item",
    "payload": {"type": "message", "role": "user", "content": "Hi"},
}  # fmt: skip
NODE = {"id": "n", "parent": None, "children": [], "message": {
    "author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Hi"]}}}  # fmt: skip
CHATS = [{"title": "x", "mapping": {"n": NODE}, "current_node": "n", "conversation_id": "c-1"}]
PAGE = "**User:** Hello\n\n**Assistant:** Hi\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a history of each program."""
    home = tmp_path / "home"
    write(home / ".claude/projects/-work-shop" / f"{SESSION}.jsonl", TALK)
    (home / ".claude/projects/sessions-index.json").write_text("{}")
    (home / ".claude/notes.md").write_text("# Notes\n")
    rollout = home / ".codex/sessions/2026/08/10/rollout-2026-08-10T13-02-51-t-1.jsonl.zst"
    rollout.parent.mkdir(parents=True)
    rollout.write_bytes(zstandard.compress(lines_of([META, ITEM]).encode()))
    (home / "conversations-000.json").write_text(json.dumps(CHATS))
    (home / "talk.md").write_text(PAGE)
    (home / "lines.jsonl.gz").write_bytes(
        gzip.compress(lines_of([{"role": "user", "content": "Hey", "session": "s-1"}]).encode())
    )
    (home / "linked.jsonl").symlink_to("/etc/passwd")
    (home / "loop").symlink_to(home)
    return home


def test_a_folder_of_all_of_them_comes_in(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    would = run("import", store, home, "--dry-run", "--json")
    assert would.code == 0, would.err
    assert not store.exists()
    outcome = run("import", store, home, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json == would.json | {"dry_run": False}
    assert outcome.json["formats"] == {
        "claude-code": 1, "codex": 1, "chatgpt": 1, "markdown": 1, "messages": 1,
    }  # fmt: skip
    assert (outcome.json["sessions"], outcome.json["messages"]) == (5, 7)
    assert outcome.json["skipped"] == {
        "files of no known format": 2, "links, which are not followed": 2,
    }  # fmt: skip
    again = run("import", store, home, "--json").json
    assert (again["messages"], again["messages_there"]) == (0, 7)
    with opened(store) as memory:
        scopes = {info.scope: info.id for info in memory.sessions()}
        (hit,) = memory.recall("walrus", scope="me/claude-code", limit=1)
        assert memory.session("s-1").messages().__next__()["session"] == "s-1"
    assert scopes == {
        "default": "s-1", "me/chatgpt": "c-1", "me/claude-code": SESSION, "me/codex": "t-1",
        "me/markdown": "talk",
    }  # fmt: skip
    assert hit.text == "Where did the walrus go?"


def test_a_dry_run_counts_what_is_there(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run("import", store, home / "talk.md")
    would = run("import", store, home, "--dry-run", "--json").json
    assert (would["messages"], would["messages_there"]) == (5, 2)
    assert "Would bring in: 5 sessions, 5 messages" in run("import", store, home, "--dry-run").out
    with opened(store) as memory:
        assert len(memory.sessions()) == 1


def test_a_scope_takes_all(home: Path, tmp_path: Path) -> None:
    run("import", tmp_path / "store", home, "--scope", "ann/past")
    with opened(tmp_path / "store") as memory:
        assert {info.scope for info in memory.sessions()} == {"ann/past"}


def test_projects_have_scopes_of_their_own(home: Path, tmp_path: Path) -> None:
    other = [{**one, "cwd": "C:\\\\code\\\\quay"} for one in TALK]
    name = "aaaaaaaa-1111-2222-3333-444455556666"
    write(home / ".claude/projects/-quay" / f"{name}.jsonl", other)
    for times in range(2):
        outcome = run(
            "import", tmp_path / "store", home, "--scope", "me/{project}/{program}", "--json"
        )
        assert outcome.code == 0, outcome.err
        assert (outcome.json["messages"] == 0) == (times == 1)
    with opened(tmp_path / "store") as memory:
        scopes = {info.scope: info.id for info in memory.sessions()}
    assert scopes == {
        "me/other/chatgpt": "c-1", "me/shop/claude-code": SESSION, "me/quay/claude-code": name,
        "me/other/codex": "t-1", "me/other/markdown": "talk", "me/other/messages": "s-1",
    }  # fmt: skip
    for wrong in ("me/{folder}", "me//{project}", "me/{project"):
        outcome = run("import", tmp_path / "store", home, "--scope", wrong)
        assert outcome.code == 2
        assert "--scope" in outcome.err


def test_what_ended_before_a_time_is_left_out_until_it_is_asked_for(
    home: Path, tmp_path: Path
) -> None:
    def chat(name: str, at: float) -> dict[str, Any]:
        message = {**NODE["message"], "create_time": at}
        return {**CHATS[0], "conversation_id": name, "mapping": {"n": {**NODE, "message": message}}}

    talks = [chat("old", 1.70e9), chat("new", 1.77e9)]
    (home / "conversations-000.json").write_text(json.dumps(talks))
    os.utime(home / "talk.md", (1.70e9, 1.70e9))
    since = ("--since", "2025-06-01T00:00Z", "--json")
    outcome = run("import", tmp_path / "store", home, *since)
    assert outcome.json["skipped"]["files from before the time that was asked for"] == 1
    assert outcome.json["skipped"]["conversations from before the time that was asked for"] == 1
    with opened(tmp_path / "store") as memory:
        assert {"new", "talk"} & {info.id for info in memory.sessions()} == {"new"}
    assert run("import", tmp_path / "store", home, "--json").json["messages"] == 3
    assert run("import", tmp_path / "store", home, "--since", "2025-06-01").code == 2


def test_what_is_of_no_known_format_is_refused(home: Path, tmp_path: Path) -> None:
    for name in (".claude/projects/sessions-index.json", ".claude/notes.md"):
        outcome = run("import", tmp_path / "store", home / name)
        assert outcome.code == 2
        assert "known format" in outcome.err or "is a page" in outcome.err
    outcome = run("import", tmp_path / "store", home / ".claude/notes.md", "--from", "markdown")
    assert outcome.code == 0
    assert "Markdown without a conversation" in outcome.out
    (tmp_path / "empty").mkdir()
    assert run("import", tmp_path / "store", tmp_path / "empty").code == 2


def test_of_a_folder_only_what_was_asked_for_comes_in(home: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("claude-code", "chatgpt", "markdown")):
        outcome = run("import", tmp_path / f"store{number}", home, "--from", name, "--json")
        assert outcome.json["messages"] == 2 - (name == "chatgpt"), outcome.out
    outcome = run("import", tmp_path / "codex", home / ".codex", "--from", "codex", "--json")
    assert outcome.json["messages"] == 1


def test_damage_is_named_and_fails(home: Path, tmp_path: Path) -> None:
    file = home / ".claude/projects/-work-shop" / f"{SESSION}.jsonl"
    file.write_text("{broken\n" + file.read_text() + '{"type":"user","uu')
    outcome = run("import", tmp_path / "store", home)
    assert outcome.code == 1
    assert f"damaged: {file}:1: no JSON" in outcome.err
    assert f"unfinished: {file}:4: the last line is half-written" in outcome.err
    assert "5 sessions, 7 messages" in outcome.out


def test_a_session_that_goes_on_here_is_not_mixed(home: Path, tmp_path: Path) -> None:
    file = home / ".claude/projects/-work-shop" / f"{SESSION}.jsonl"
    run("import", tmp_path / "store", file)
    with opened(tmp_path / "store") as memory:
        session = memory.session(SESSION, scope="me/claude-code")
        session.append({"role": "user", "content": "mine"})
        session.redact(0)
    assert run("import", tmp_path / "store", file).code == 0
    write(file, [*TALK, record("user", "u3", "a2", "theirs")])
    outcome = run("import", tmp_path / "store", file, "--json")
    assert outcome.code == 1
    assert "holds something else as message 2" in outcome.json["conflicts"][0]["reason"]
    with opened(tmp_path / "store") as memory:
        (messages,) = held(memory, "me/claude-code").values()
        assert [message["content"] for message, _ in messages] == [
            "[redacted]", "To the quay.", "mine",
        ]  # fmt: skip


def test_a_message_that_is_too_large_leaves_a_note(tmp_path: Path) -> None:
    large = record("user", "u3", "a2", "x" * 1_200_000)
    file = write(tmp_path / f"{SESSION}.jsonl", [*TALK, large, record("user", "u4", "u3", "Bye")])
    (tmp_path / "memopt.toml").write_text('budget_bytes = "24MiB"\nmessage_bytes_max = "1MiB"\n')
    for times in range(2):
        outcome = run(
            "--config", tmp_path / "memopt.toml", "import", tmp_path / "store", file, "--json"
        )
        report = outcome.json
        assert (report["messages"], report["messages_there"]) == ((4, 0), (0, 4))[times]
        assert report["messages_left_out"] == 1 - times
    with opened(tmp_path / "store") as memory:
        said = [m["content"] for m in memory.session(SESSION, scope="me/claude-code").messages()]
    assert said[2].endswith("bytes were left out]")
    assert said[3] == "Bye"


def test_a_line_that_has_no_room_is_named_and_its_session_ends_there(tmp_path: Path) -> None:
    def session(id: str, *words: str) -> list[dict[str, Any]]:
        lines = [{"kind": "message", "message": {"role": "user", "content": one}} for one in words]
        return [{"kind": "session", "memopt": 1, "id": id}, *lines]

    long = "x" * 4_000_000
    whole = {"id": "whole", "messages": [{"role": "user", "content": long}]}
    file = write(tmp_path / "all.jsonl", [*session("s", "a", long, "b"), whole, *session("t", "c")])
    (tmp_path / "memopt.toml").write_text('budget_bytes = "24MiB"\n')
    arguments = ("--config", tmp_path / "memopt.toml", "import", tmp_path / "store", file)
    for _ in range(2):
        outcome = run(*arguments, "--json")
        assert outcome.code == 1
        assert [one["where"] for one in outcome.json["damaged"]] == [f"{file}:3", f"{file}:5"]
        assert "no room for it" in outcome.json["damaged"][0]["reason"]
        assert outcome.json["skipped"] == {"lines behind one that was left out": 1}
    assert f"damaged: {file}:3: the line" in run(*arguments).err
    with opened(tmp_path / "store") as memory:
        assert [len(memory.session(one)) for one in ("s", "whole", "t")] == [1, 0, 1]
    assert run("import", tmp_path / "store", file).code == 0
    with opened(tmp_path / "store") as memory:
        assert [len(memory.session(one)) for one in ("s", "whole", "t")] == [3, 1, 1]


HISTORY = 40
"""Sessions of the import that is killed."""


def test_an_import_that_is_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    root = tmp_path / "projects"
    for number in range(HISTORY):
        session = f"{number:08x}-0000-4000-8000-000000000000"
        records = [
            record("user", f"u{n}", f"u{n - 1}" if n else None, f"{number} says {n} " + "x" * 200)
            for n in range(60)
        ]
        records.append(record("user", "u99zzzzzz", "u30", "otherwise"))
        write(root / f"{session}.jsonl", records)
    with opened(tmp_path / "whole") as memory:
        whole = run("import", tmp_path / "whole", root)
        assert whole.code == 0
        wanted = held(memory, "me/claude-code")
    killed = 0
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [
        sys.executable, "-c", "from memopt.cli import main; main()", "import",
        str(tmp_path / "store"), str(root),
    ]  # fmt: skip
    for more in (1, 400_000, 900_000):
        # It is killed once so many bytes more are in the store than before.
        with subprocess.Popen(command, **quiet) as child:
            begun = _size(tmp_path / "store")
            while child.poll() is None and _size(tmp_path / "store") < begun + more:
                pass
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                killed += 1
    assert killed
    assert run("import", tmp_path / "store", root).code == 0
    with opened(tmp_path / "store") as memory:
        assert held(memory, "me/claude-code") == wanted
        assert not memory.check().damages


def _size(store: Path) -> int:
    try:
        return sum(file.stat().st_size for file in store.iterdir() if file.is_file())
    except FileNotFoundError:
        return 0


def test_the_account_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "import.md").read_text("utf-8")
    fields = {field for field in Imported.__struct_fields__ if f"`{field}`" not in page}
    assert fields == {"dry_run"}
    assert {name.value for name in From if f"`{name.value}`" not in page} == {"auto"}
