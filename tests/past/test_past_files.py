"""Files of histories: what is opened, and where reading ends."""

import gzip
import io
import os
import random
import zipfile
from pathlib import Path

import pytest
import zstandard

from histories import SESSION, bring, lines_of, opened, record, sessions_of, steps_of, write
from memopt import UsageError
from memopt.past import Brought, Format, detected, files, sources
from memopt.past.files import Source, lines
from memopt.past.room import Room

CLAUDE = Format.CLAUDE_CODE
TALK = [record("user", f"u{n}", f"u{n - 1}" if n else None, f"say {n}") for n in range(300)]


def test_a_line_that_is_too_long_is_named_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(files, "_CHUNK_BYTES", 64)
    report = Brought()
    read = io.BytesIO(b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 1000 + b"\n" + b"z" * 1001)
    found = [(number, line.strip()[:1]) for number, line in lines(read, "f", report, Room())]
    assert found == [(1, b"a"), (3, b"b"), (4, b"y")]
    assert [one.where for one in report.damaged] == ["f:2", "f:5"]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".jsonl"])
def test_packed_files_are_unpacked_whatever_they_are_called(tmp_path: Path, suffix: str) -> None:
    body = lines_of(TALK).encode()
    for pack in (gzip.compress, zstandard.compress, bytes):
        file = tmp_path / f"{SESSION}{suffix}"
        file.write_bytes(pack(body))
        ((name, messages),) = sessions_of(steps_of(file, CLAUDE)).items()
        assert (name, len(messages)) == (SESSION, 300)
        assert [detected(source) for source in sources(file, Brought())] == [CLAUDE]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_file_that_is_torn_gives_what_is_whole(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    # Behind the head is as much as cannot be packed, to be torn.
    packed = pack(lines_of(TALK).encode() + random.Random(3).randbytes(400_000).hex().encode())
    file = tmp_path / f"{SESSION}.jsonl"
    file.write_bytes(packed[: len(packed) - 100_000])
    report = Brought()
    ((_, messages),) = sessions_of(steps_of(file, CLAUDE, report)).items()
    assert len(messages) == 300
    assert len(report.damaged) + len(report.unfinished) == 1


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_bomb_ends(tmp_path: Path, pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(pack)
    monkeypatch.setattr(files, "_UNPACKED_BYTES_FREE", 1 << 20)
    file = tmp_path / f"{SESSION}.jsonl"
    file.write_bytes(pack(lines_of(TALK).encode() + (b" " * 999 + b"\n") * (64 << 10)))
    report = Brought()
    ((_, messages),) = sessions_of(steps_of(file, CLAUDE, report)).items()
    assert len(messages) == 300
    assert "unpack to" in report.damaged[0].reason


def test_links_within_a_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / f"{SESSION}.jsonl", TALK)
    folder = tmp_path / "folder"
    write(folder / "mine.jsonl", TALK)
    (folder / "linked.jsonl").symlink_to(outside)
    (folder / "linked").symlink_to(outside.parent)
    (folder / "broken.jsonl").symlink_to(tmp_path / "nowhere")
    report = Brought()
    assert [source.stem for source in sources(folder, report)] == ["mine"]
    assert report.skipped == {"links, which are not followed": 3}
    # A link that was named is meant.
    (tmp_path / "named").symlink_to(folder)
    assert [source.stem for source in sources(tmp_path / "named", Brought())] == ["mine"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UsageError, match="is no file"):
        list(sources(tmp_path / "pipe.jsonl", Brought()))
    with pytest.raises(UsageError, match="no history"):
        list(sources(tmp_path, Brought()))


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_MAX", 2)
    for number in range(3):
        write(tmp_path / f"{number}.jsonl", TALK[:1])
    with pytest.raises(UsageError, match="more than 2 files"):
        list(sources(tmp_path, Brought()))


def test_an_archive_with_a_long_list_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_DIRECTORY_BYTES_MAX", 1000)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as zipped:
        for number in range(100):
            zipped.writestr(f"{number}.txt", "x")
    with pytest.raises(UsageError, match="its list of files has"):
        list(sources(tmp_path / "export.zip", Brought()))


def test_an_archive_without_conversations_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as zipped:
        zipped.writestr("user.json", "{}")
    report = Brought()
    assert list(sources(tmp_path / "export.zip", report)) == []
    assert "no conversations.json" in report.damaged[0].reason


@pytest.mark.parametrize(
    ("name", "body", "format"),
    [
        ("a.jsonl", '{"type":"summary","summary":"x","leafUuid":"y"}\n', CLAUDE),
        ("a.jsonl", '{"type":"mode","mode":"plan","sessionId":"s"}\n', CLAUDE),
        ("a.jsonl", '{"id":"t","timestamp":"2025","instructions":null}\n', Format.CODEX),
        ("a.jsonl", '{"type":"message","role":"user","content":[]}\n', Format.CODEX),
        ("a.jsonl", '{"kind":"session","memopt":1}\n', Format.JSONL),
        ("a.jsonl", '{"messages":[]}\n', Format.JSONL),
        ("a.jsonl", '{"role":"user","content":"x"}\n', Format.MESSAGES),
        ("a.jsonl", '\x00\nbroken\n{"role":"user","content":"x"}\n', Format.MESSAGES),
        ("a.jsonl", '{"session_id":"x","ts":1,"text":"codex history.jsonl"}\n', None),
        ("a.jsonl", '{"display":"x","project":"/w","timestamp":1}\n', None),
        ("a.jsonl", "", None),
        ("a.json", '[{"mapping":{"a":{"parent":null}}}]', Format.CHATGPT),
        ("a.json", '{"version":1}', None),
        ("a.md", "## User\nx\n## Assistant\ny\n", Format.MARKDOWN),
        ("a.md", "# Notes", None),
    ],
)
def test_a_format_is_told_by_what_is_in_a_file(
    tmp_path: Path, name: str, body: str, format: Format | None
) -> None:
    (tmp_path / name).write_text(body)
    assert detected(Source(tmp_path / name)) is format


def test_a_store_is_no_worse_for_a_session_with_an_impossible_name(tmp_path: Path) -> None:
    file = write(tmp_path / f"{'x' * 240}.jsonl", [{"role": "user", "content": "Hello"}])
    long = {"role": "user", "content": "Hello", "session": "s" * 5000}
    write(file, [long, {"role": "user", "content": "Hello", "session": "good"}])
    with opened(tmp_path / "store") as memory:
        report = bring(memory, file, Format.MESSAGES)
        assert report.messages == 1
        assert "cannot be the name of a session" in report.conflicts[0].reason
