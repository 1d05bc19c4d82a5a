"""Files that are not as they should be, and imports that end before their time: what is wrong is
named, the rest comes in, and the next import finishes it."""

import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import run
from histories import SESSION, bring, held, lines_of, opened, record, sessions_of, steps_of, write
from memopt.base.clock import ManualClock
from memopt.base.errors import DiskFullError
from memopt.cli import importing
from memopt.past import Bringer, Brought, Format, detected, files, read, sources
from memopt.past.records import Say
from memopt.testing.disk import VFS_NAME, Fault, FaultyDisk
from memopt.wiring import open_memory
from test_cli_import_past import CHATS, META

CLAUDE = Format.CLAUDE_CODE
TALK = [record("user", f"u{n}", f"u{n - 1}" if n else None, f"say {n}") for n in range(5)]
LINES = [{"kind": "session", "memopt": 1, "id": "s"}, {"kind": "message", "message": {"n": "ä"}}]
BODIES = {
    "claude-code": (f"{SESSION}.jsonl", lines_of(TALK)),
    "codex": ("rollout.jsonl", lines_of([META, {
        "type": "response_item", "payload": {"type": "message", "role": "user", "content": "Hä"}
    }])),
    "chatgpt": ("conversations.json", json.dumps(CHATS)),
    "jsonl": ("all.jsonl", lines_of(LINES)),
    "markdown": ("talk.md", "**You:** Hä\n\n**Claude:** Ja\n"),
}  # fmt: skip


@pytest.mark.parametrize("format", BODIES)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_marked_and_wide_text_is_read_as_what_it_is(
    tmp_path: Path, format: str, encoding: str
) -> None:
    name, body = BODIES[format]
    plain, wide = tmp_path / "plain" / name, tmp_path / "wide" / name
    for file in (plain, wide):
        file.parent.mkdir()
    mark = "\ufeff" if encoding.endswith("e") else ""
    plain.write_text(body, "utf-8")
    wide.write_text(mark + body, encoding)
    first = run("import", tmp_path / "store", plain, "--json")
    assert first.json["messages"] > 0
    again = run("import", tmp_path / "store", wide, "--json")
    assert again.code == 0, again.out + again.err
    assert (again.json["messages"], again.json["messages_there"]) == (0, first.json["messages"])
    assert again.json["formats"] == first.json["formats"]


@pytest.mark.parametrize("format", BODIES)
def test_a_file_that_was_cut_off_anywhere_does_no_harm(tmp_path: Path, format: str) -> None:
    name, body = BODIES[format]
    raw = body.encode()
    (tmp_path / name).write_bytes(raw)
    whole = run("import", tmp_path / "whole", tmp_path / name, "--json").json["messages"]
    for length in range(1, len(raw), max(1, len(raw) // 12)):
        (tmp_path / name).write_bytes(raw[:length])
        outcome = run("import", tmp_path / "store", tmp_path / name, "--from", format, "--json")
        assert outcome.code in (0, 1, 2)
        assert "Traceback" not in outcome.err
    (tmp_path / name).write_bytes(raw)
    assert run("import", tmp_path / "store", tmp_path / name).code == 0
    again = run("import", tmp_path / "store", tmp_path / name, "--json")
    assert (again.json["messages"], again.json["messages_there"]) == (0, whole)


def test_empty_and_binary_files_are_named_or_counted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / f"{SESSION}.jsonl", TALK)
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "binary.jsonl").write_bytes(random.Random(1).randbytes(50_000))
    (folder / "binary.md").write_bytes(random.Random(2).randbytes(50_000))
    (folder / "binary.zip").write_bytes(b"PK\x03\x04" + random.Random(3).randbytes(5000))
    outcome = run("import", tmp_path / "store", folder, "--json")
    assert outcome.code == 1
    assert outcome.json["skipped"] == {"empty files": 1, "files of no known format": 2}
    assert [one["where"] for one in outcome.json["damaged"]] == [str(folder / "binary.zip")]
    assert outcome.json["messages"] == 5
    named = run("import", tmp_path / "store", folder / "empty.jsonl")
    assert (named.code, "is empty" in named.err) == (2, True)
    named = run("import", tmp_path / "store", folder / "binary.jsonl")
    assert (named.code, "of no known format" in named.err) == (2, True)


def refuse(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """One file cannot be opened, whoever asks."""
    open_ = os.open

    def opened_(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith(refused):
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, *more, **named)

    monkeypatch.setattr(files.os, "open", opened_)


def test_a_file_that_may_not_be_read_is_named_and_the_rest_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    for name in ("a", "b", "c"):
        write(folder / f"{name}.jsonl", [{"role": "user", "content": name}])
    refuse(monkeypatch, "b.jsonl")
    outcome = run("import", tmp_path / "store", folder)
    assert outcome.code == 1
    assert f"damaged: {folder}/b.jsonl: it cannot be read: Permission denied" in outcome.err
    assert "2 sessions, 2 messages" in outcome.out
    named = run("import", tmp_path / "store", folder / "b.jsonl")
    assert (named.code, named.err) == (1, f"memopt: {folder}/b.jsonl: Permission denied\n")
    monkeypatch.undo()
    assert run("import", tmp_path / "store", folder, "--json").json["messages"] == 1


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/a.jsonl", [{"role": "user", "content": "a"}])
    write(tmp_path / "in/locked/b.jsonl", [{"role": "user", "content": "b"}])
    scan = os.scandir

    def scanned(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", scanned)
    report = Brought()
    assert [source.stem for source in sources(tmp_path / "in", report)] == ["a"]
    assert report.damaged[0].reason == "it cannot be read: Permission denied"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "a.jsonl", [{"role": "user", "content": "a"}])
    (folder / "b.jsonl").symlink_to("c.jsonl")
    (folder / "c.jsonl").symlink_to("b.jsonl")
    (folder / "deep").symlink_to(folder)
    outcome = run("import", tmp_path / "store", folder, "--json")
    assert outcome.code == 0
    assert outcome.json["skipped"] == {"links, which are not followed": 3}
    assert run("import", tmp_path / "store", folder / "b.jsonl").code == 2


@pytest.mark.parametrize("change", ["grow", "shrink", "delete", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_right_the_next_time(
    tmp_path: Path, change: str
) -> None:
    talk = [
        record("user", f"u{n}", f"u{n - 1}" if n else None, f"say {n} " + "x" * 9000)
        for n in range(120)
    ]
    file = write(tmp_path / f"{SESSION}.jsonl", talk)
    changes: dict[str, Callable[[], Any]] = {
        "grow": lambda: write(file, [*talk, record("user", "u999", "u119", "more")]),
        "shrink": lambda: os.truncate(file, 600_000),
        "delete": file.unlink,
        "rewrite": lambda: file.write_bytes(random.Random(5).randbytes(900_000)),
    }
    report = Brought()
    with opened(tmp_path / "store") as memory:
        bringer = Bringer(memory, scope="me/past", agent=None, report=report)
        for source in sources(file, report):
            steps = read(source, CLAUDE, report, lambda count: None, bringer.room)
            for count, step in enumerate(steps):
                bringer.take(step)
                if count == 20:
                    changes[change]()
            bringer.finish()
        write(file, talk)
        assert bring(memory, file, CLAUDE).conflicts == []
        (found,) = held(memory).values()
        assert [one["content"] for one, _ in found][:120] == [
            one["message"]["content"] for one in talk
        ]
        assert len(found) == 120 + (len(found) - 120) * (change == "grow")


def test_a_file_that_is_gone_when_its_turn_comes_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / f"{SESSION}.jsonl", TALK)
    (source,) = sources(file, Brought())
    file.unlink()
    report = Brought()
    assert list(read(source, CLAUDE, report, lambda count: None)) == []
    assert report.damaged[0].reason == "it cannot be read: No such file or directory"
    assert files.size_of(source) == 0


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, body in members.items():
            zipped.writestr(name.replace("__", "/").replace("_dot_", "."), body)
    return path


def test_an_export_comes_in_as_the_archive_that_it_is(tmp_path: Path) -> None:
    body = json.dumps(CHATS).encode()
    path = archive(
        tmp_path / "export.zip", conversations_dot_json=body, user_dot_json=b"{}",
        **{"..__..__evil__conversations_dot_json": b"[]", "chat_dot_html": b"<html>"},
    )  # fmt: skip
    outcome = run("import", tmp_path / "store", path, "--from", "chatgpt", "--json")
    assert (outcome.code, outcome.json["messages"], outcome.json["files"]) == (0, 1, 2)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["export.zip", "store"]
    loose = tmp_path / "conversations.json"
    loose.write_bytes(body)
    assert run("import", tmp_path / "store", loose, "--json").json["messages"] == 0


def test_an_archive_that_is_packed_oddly_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_LZMA) as zipped:
        zipped.writestr("conversations.json", json.dumps(CHATS))
    outcome = run("import", tmp_path / "store", tmp_path / "export.zip")
    assert outcome.code == 1
    assert "packed in a way that is not read" in outcome.err


def test_an_archive_that_is_replaced_meanwhile_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "export.zip", conversations_dot_json=json.dumps(CHATS).encode())
    (source,) = sources(path, Brought())
    archive(path, other_dot_json=b"{}")
    report = Brought()
    assert list(read(source, Format.CHATGPT, report, lambda count: None)) == []
    assert "no longer in it" in report.damaged[0].reason


def test_damaged_archives_are_named_whatever_is_wrong(tmp_path: Path) -> None:
    path = archive(tmp_path / "export.zip", conversations_dot_json=json.dumps(CHATS).encode())
    whole = path.read_bytes()
    for seed in range(300):
        chance = random.Random(seed)
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(raw))
            if chance.random() < 0.7:
                raw[at] = chance.choice([0, 255, chance.randrange(256)])
            else:
                del raw[at : at + chance.randrange(12)]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in/export.zip").write_bytes(raw)
        report = Brought()
        for found in sources(tmp_path / "in", report):
            files.size_of(found)
            detected(found)
            sessions_of(list(read(found, Format.CHATGPT, report, lambda count: None)))


# -- imports that end early -----------------------------------------------------------------------


def history(folder: Path) -> Path:
    for number in range(6):
        session = f"{number:08x}-0000-4000-8000-000000000000"
        talk = [
            record("user", f"u{n}", f"u{n - 1}" if n else None, f"{number} says {n} " + "x" * 300)
            for n in range(25)
        ]
        talk.append(record("user", "u99zzzzzz", "u10", "otherwise"))
        write(folder / f"{session}.jsonl", talk)
    return folder


@pytest.mark.parametrize("at", [1, 3, 40, 100])
def test_an_import_that_is_interrupted_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    folder = history(tmp_path / "in")
    assert run("import", tmp_path / "whole", folder).code == 0
    count = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal count
        for step in read(*arguments):
            count += isinstance(step, Say)
            if count == at:
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(importing, "read", interrupted)
        outcome = run("import", tmp_path / "store", folder, "--json")
    assert outcome.code == 130
    assert outcome.json["ended"] == "interrupted"
    assert outcome.json["messages"] == at - 1
    again = run("import", tmp_path / "store", folder, "--json")
    assert (again.code, again.json["ended"]) == (0, None)
    with opened(tmp_path / "whole") as whole, opened(tmp_path / "store") as store:
        assert held(store, "me/claude-code") == held(whole, "me/claude-code")


@pytest.mark.parametrize("at", [5, 20, 60, 150])
def test_a_full_disk_ends_an_import_which_the_next_finishes(tmp_path: Path, at: int) -> None:
    folder = history(tmp_path / "in")
    with opened(tmp_path / "whole") as memory:
        bring(memory, folder, CLAUDE)
        wanted = held(memory)
    disk = FaultyDisk()
    with open_memory(
        disk.directory, clock=ManualClock(), vfs=VFS_NAME, budget="24MiB", durability="sync",
        ballast_bytes=0, wal_limit_bytes=48 << 10, maintenance_seconds=0,
    ) as memory:  # fmt: skip
        disk.fail(at=at, error=Fault.ENOSPC, repeat=True)
        with pytest.raises(DiskFullError):
            bring(memory, folder, CLAUDE)
        disk.heal()
        assert bring(memory, folder, CLAUDE).conflicts == []
        assert bring(memory, folder, CLAUDE).messages == 0
        assert held(memory) == wanted


def test_a_full_disk_is_said_with_what_came_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        yield from read(*arguments)
        raise DiskFullError("the disk is full", limit="disk")

    monkeypatch.setattr(importing, "read", full)
    outcome = run("import", tmp_path / "store", write(tmp_path / f"{SESSION}.jsonl", TALK))
    assert outcome.code == 3
    assert "1 sessions, 5 messages" in outcome.out
    assert outcome.err.startswith("memopt: it ended early; what was read is there: repeat it")
    assert "the disk is full" in outcome.err
    assert steps_of(tmp_path / f"{SESSION}.jsonl", CLAUDE)
