"""The documents are complete, their links lead somewhere, and their examples run."""

import ast
import dataclasses
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

import memopt
from memopt.base.config import Config
from memopt.base.metrics import METRICS
from memopt.cli.app import app
from memopt.journal.history import JOURNAL_START, JOURNAL_START_US
from memopt.sessions.branches import SUSPECT
from memopt.sessions.checking import LOST
from memopt.sessions.forgetting import BACKUPS
from memopt.sessions.transcripts import QUARANTINE
from memopt.text.times import describe_time, find_times

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
WORDS = set(re.findall(r"\w+", TEXT))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
FORMATS = (ROOT / "docs" / "formats.md").read_text("utf-8")
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def in_a_first_column(name: str) -> bool:
    """Whether a table of operations.md has a row about `name`."""
    return any(
        f"`{name}`" in line.split(" | ")[0] for line in OPERATIONS.splitlines() if line[:1] == "|"
    )


def test_there_are_commands_to_document() -> None:
    assert {"check", "export", "forget", "import", "replay", "top"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert f"`memopt {command} " in OPERATIONS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_documented_or_explained_by_help(command: str) -> None:
    for parameter in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert parameter.help, f"{command} {parameter.opts}"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Config)])
def test_every_setting_has_a_row(field: str) -> None:
    assert in_a_first_column(field)


def test_no_row_describes_a_setting_that_does_not_exist() -> None:
    settings = OPERATIONS.split("## Settings")[1].split("###")[0]
    rows = re.findall(r"^\| `(\w+)` \|", settings, re.MULTILINE)
    assert set(rows) == {field.name for field in dataclasses.fields(Config)}
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_a_row(metric: str) -> None:
    assert in_a_first_column(metric)


@pytest.mark.parametrize("name", memopt.__all__)
def test_every_public_name_is_mentioned(name: str) -> None:
    assert name in WORDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_file_and_every_meta_entry_of_a_store_has_its_place(tmp_path: Path) -> None:
    with memopt.open(tmp_path / "store", maintenance_seconds=0, probe_seconds=0) as memory:
        session = memory.session("s", agent="bot")
        session.extend([{"n": number} for number in range(9)])
        with session.turn() as turn:
            turn.mapping("m")["k"] = list(session.messages())
            files = [path.name for path in memory.path.iterdir()]
            assert {"memopt.db", "acked", "scratch", "lock"} <= set(files)
    with (
        memopt.open(tmp_path / "store", maintenance_seconds=0, probe_seconds=0) as memory,
        memory._parts.directory.home.snapshot() as tables,
    ):
        entries = tables.meta.names("")
    assert "turn_peaks" in entries
    known = [JOURNAL_START, JOURNAL_START_US, LOST, QUARANTINE, SUSPECT, BACKUPS]
    (meta,) = re.findall(r"^\| `meta` \|.*$", FORMATS, re.MULTILINE)
    assert [name for name in (*entries, *known) if f"`{name}" not in meta] == []
    for text in (FORMATS, OPERATIONS):
        rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        assert [name for name in files if not any(f"`{name}`" in row for row in rows)] == []


def test_every_time_expression_in_the_page_means_what_it_says() -> None:
    """The rows of its table: expressions, and what they are, as many of one as of the other."""
    page = (ROOT / "docs" / "recall.md").read_text("utf-8")
    now = datetime(2023, 5, 31, 15, tzinfo=UTC)
    rows = re.findall(r"^\| (`.*`) \| (.*?)(?:: .*)? \|$", page.split("## Times")[1], re.MULTILINE)
    assert len(rows) >= 11
    for said, meant in rows:
        expressions, meanings = re.findall(r"`(.*?)`", said), meant.split(", ")
        if len(meanings) == 1:
            meanings *= len(expressions)
        for expression, meaning in zip(expressions, meanings, strict=True):
            [scope] = find_times(expression, now)
            assert describe_time(scope) == meaning, expression


@pytest.mark.parametrize(
    ("document", "blocks_min", "said"),
    [
        (
            README,
            4,
            [
                "My parcel has not come.",
                "{'step': 3, 'open': ['refund']}",
                "My sister Lea moved to Lyon. (has lea",
            ],
        ),
        (ROOT / "docs" / "answers.md", 1, ["words Settings, then Security."]),
        (ROOT / "docs" / "recall.md", 3, ["preference: Ann prefers an aisle seat", "\n1\n"]),
    ],
    ids=["README.md", "answers.md", "recall.md"],
)
def test_the_examples_run(document: Path, blocks_min: int, said: list[str], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= blocks_min
    script = "\n".join(blocks)
    ast.parse(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert [one for one in said if one not in done.stdout] == []
