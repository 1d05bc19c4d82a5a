"""`memopt ingest`: files, folders, standard input, and what is refused on the way."""

import json
from pathlib import Path

import memopt
from command_line import Outcome
from command_line import run as command


def run(*arguments: object, given: bytes | None = None) -> Outcome:
    return command("ingest", *arguments, answer=given)


def texts(store: Path, scope: str = "default") -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    with memopt.open(store, maintenance_seconds=0) as memory:
        for item in memory.items(scope, kinds=["document"]):
            found.setdefault(item.source, []).append(item.text)
    return found


def folder(where: Path) -> Path:
    (where / "sub").mkdir(parents=True)
    (where / ".hidden").mkdir()
    (where / "a.md").write_text("# A\n\na")
    (where / "sub" / "b.HTML").write_text("<p>b")
    (where / "sub" / "c.bin").write_bytes(b"\0")
    (where / ".hidden" / "d.md").write_text("d")
    (where / ".e.md").write_text("e")
    return where


def test_files_and_folders_are_ingested_each_under_its_path(tmp_path: Path) -> None:
    docs = folder(tmp_path / "docs")
    done = run(tmp_path / "store", docs, docs / "a.md", "--scope", "acme/ann", "--tag", "x")
    assert done.code == 0
    assert "a.md" in done.out
    assert texts(tmp_path / "store", "acme/ann") == {
        str(docs / "a.md"): ["# A\n\na"],
        str(docs / "sub" / "b.HTML"): ["b"],
    }
    with memopt.open(tmp_path / "store") as memory:
        assert {item.tags for item in memory.items(kinds=["document"])} == {("x",)}


def test_json_says_what_became_of_each(tmp_path: Path) -> None:
    docs = folder(tmp_path / "docs")
    run(tmp_path / "store", docs / "a.md")
    done = run(tmp_path / "store", docs, docs / "sub" / "c.bin", tmp_path / "none", "--json")
    assert done.code == 1
    said = json.loads(done.out)
    assert [(one["added"], one["kept"]) for one in said["ingested"]] == [(0, 1), (1, 0)]
    assert [one["path"] for one in said["refused"]] == [
        str(docs / "sub" / "c.bin"), str(tmp_path / "none"),
    ]  # fmt: skip
    assert "c.bin: document: binary" in done.err
    assert "none: " in done.err


def test_standard_input_and_a_source_of_ones_own(tmp_path: Path) -> None:
    done = run(tmp_path / "store", "-", "--source", "letter", given="Dear Ann".encode("utf-16"))
    assert done.code == 0
    assert texts(tmp_path / "store") == {"letter": ["Dear Ann"]}


def test_calls_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    docs = folder(tmp_path / "docs")
    assert run(tmp_path / "store", docs, "--source", "x").code == 2
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "store", tmp_path / "empty")
    assert done.code == 2
    assert "no documents" in done.err
    assert run(tmp_path / "store").code == 2
    assert not (tmp_path / "store").exists()


def test_the_owner_of_a_store_ingests_for_others(tmp_path: Path) -> None:
    docs = folder(tmp_path / "docs")
    with memopt.open(tmp_path / "store", maintenance_seconds=0) as memory:
        assert run(tmp_path / "store", docs / "a.md").code == 0
        [item] = memory.items("default", kinds=["document"])
        assert item.source == str(docs / "a.md")
