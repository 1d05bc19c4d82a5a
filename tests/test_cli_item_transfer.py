"""Memories out of a store and back: as JSONL, and as a tree that a person has edited."""

import json
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt
from command_line import run
from memopt import Decision, Item
from memopt.base.clock import ManualClock
from memopt.base.records import to_datetime
from memopt.cli import item_tree
from memopt.cli.item_tree import read_tree, write_tree

SCOPE = "acme/ann"
KINDS = ["fact", "goal", "preference"]
ABOUT: dict[str, Any] = {"scope": SCOPE, "subject": "Ann", "attribute": "city"}


def opened(path: Path, **settings: Any) -> memopt.Memory:
    return memopt.open(path, durability="os", maintenance_seconds=0, **settings)


def stated(memory: memopt.Memory) -> list[tuple[Any, ...]]:
    """What is so of each memory, whatever it is called and whenever that was noted."""
    return [told(item) for item in memory.items(limit=1000)]


def told(item: Item) -> tuple[Any, ...]:
    return (
        item.scope, item.kind, item.text, item.version, item.subject, item.attribute, item.valid,
        item.importance, item.source, item.tags, item.pinned, item.pinned_until,
        round(item.reward, 6), [one.reason for one in item.contradictions],
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in which everything was done to memories that can be done."""
    path = tmp_path / "store"
    clock = ManualClock()
    with opened(path, clock=clock) as memory:
        memory.session("s", scope=SCOPE).append({"role": "user", "content": "hello"})
        paris = memory.remember("Paris", **ABOUT, tags=["home"], source="a form")
        clock.advance(60)
        memory.pin(paris.item_id)
        clock.advance(60)
        memory.remember("Lyon", **ABOUT)
        clock.advance(60)
        memory.unpin(paris.item_id)
        clock.advance(60)
        memory.revise(memory.remember("Rome", **ABOUT).item_id, "Rome, Trastevere")
        now = to_datetime(clock.now_us())
        memory.remember("was a nurse", scope=SCOPE, valid_to=now - timedelta(days=900))
        done = memory.remember("will paint the fence", scope=SCOPE, kind="plan", importance=0.9)
        clock.advance(60)
        memory.end(done.item_id)
        memory.pin(done.item_id, until=datetime(2199, 1, 1, tzinfo=UTC))
        for first, second in (("two", "three"), ("four", "five")):
            memory.remember(f"Bob keeps {first} brown hens", scope="acme/bob")
            memory.remember(f"Bob keeps {second} brown hens", scope="acme/bob")
        for one in memory.contradictions("acme/bob")[1:]:
            memory.decide(one.item_id, one.other_id, Decision.KEEP)
        memory.feedback([paris.item_id], 0.5)
        random.Random(3).shuffle(items := [f"fact {n}\nin two lines" for n in range(20)])
        for text in items:
            memory.remember(text, scope="other")
        assert memory.contradictions("acme/bob")
    return path


# -- JSONL ----------------------------------------------------------------------------------------


def test_what_was_exported_is_imported_as_it_was(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    assert run("export", store, "--output", file).code == 0
    outcome = run("import", tmp_path / "copy", file, "--json")
    assert outcome.code == 0, outcome.err
    with opened(store) as memory, opened(tmp_path / "copy") as copy:
        assert stated(copy) == stated(memory)
        assert outcome.json["items"] == len(stated(memory)) == 29
        assert len(copy.contradictions("acme/bob")) == len(memory.contradictions("acme/bob"))
        histories = [
            [one.text for one in each.history(item.item_id)]
            for each in (memory, copy)
            for item in each.items(SCOPE)
        ]
        half = len(histories) // 2
        assert [set(one) for one in histories[:half]] == [set(one) for one in histories[half:]]
    again = tmp_path / "again.jsonl"
    assert run("export", tmp_path / "copy", "--output", again).code == 0
    assert run("import", tmp_path / "copy", again, file, "--json").json["items"] == 0


def test_what_is_damaged_keeps_nothing_else_from_being_exported(
    store: Path, tmp_path: Path
) -> None:
    with opened(store) as memory:
        ids = {item.text: item.item_id for item in memory.items(limit=1000)}
        first, *_, last = [item.text for item in memory.items("other")]
        texts = {"Rome, Trastevere", first, last}
        hurt = [ids[text] for text in texts]

        def member(transaction: Any) -> None:
            execute = transaction.tables.items._execute
            for item_id in hurt:
                number = int(item_id[1:])
                execute(
                    "UPDATE item_texts SET record = zeroblob(40) WHERE text = ? << 20 | 1",
                    (number,),
                )

        memory._parts.committer.commit(member)
    file = tmp_path / "all.jsonl"
    outcome = run("export", store, "--output", file)
    assert outcome.code == 1
    assert "are damaged" in outcome.err
    assert run("import", tmp_path / "copy", file).code == 0
    with opened(tmp_path / "copy") as copy:
        there = {item.text for item in copy.items(limit=1000)}
        assert len(list(copy.session("s", scope=SCOPE).messages())) == 1
    assert ids.keys() - there == texts


@pytest.mark.parametrize("seed", range(4))
def test_whatever_was_done_comes_out_and_in_again(tmp_path: Path, seed: int) -> None:
    chance, clock = random.Random(seed), ManualClock()
    with opened(tmp_path / "store", clock=clock) as memory:
        for number in range(60):
            clock.advance(chance.choice([0, 60, 86_400]))
            do_something(memory, chance, to_datetime(clock.now_us()), number)
    file, again = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert run("export", tmp_path / "store", "--output", file).code == 0
    assert run("import", tmp_path / "copy", file).code == 0
    assert run("export", tmp_path / "copy", "--output", again).code == 0
    with opened(tmp_path / "store") as memory, opened(tmp_path / "copy") as copy:
        assert stated(copy) == stated(memory)
        before = copy.lsn
    # Ids differ, and so does what was forgotten before.
    assert [without_ids(line) for line in again.read_text("utf-8").splitlines()] == [
        without_ids(line) for line in file.read_text("utf-8").splitlines()
    ]
    assert run("import", tmp_path / "copy", again, file).code == 0
    with opened(tmp_path / "copy") as copy:
        assert copy.lsn == before


def do_something(memory: memopt.Memory, chance: random.Random, now: datetime, number: int) -> None:
    scope = chance.choice(["acme/ann", "acme/bob"])
    ids = [item.item_id for item in memory.items(scope, limit=1000)]
    deed = chance.choice(["state", "state", "state", "revise", "pin", "unpin", "end", "forget"])
    if deed == "state" or not ids:
        topic = chance.choice([{}, {"subject": scope, "attribute": chance.choice(["a", "b"])}])
        memory.remember(
            f"memory {number}\n- {chance.random()}", scope=scope, kind=chance.choice(KINDS),
            tags=chance.sample(["x", "y, z", "-"], chance.randrange(3)),
            valid_from=chance.choice([None, now - timedelta(days=chance.randrange(1, 9))]),
            valid_to=chance.choice([None, None, now + timedelta(days=3)]),
            pin=chance.random() < 0.1, **topic,
        )  # fmt: skip
    elif deed == "revise":
        memory.revise(chance.choice(ids), f"{number} in other words")
    elif deed == "pin":
        until = chance.choice([None, datetime(2199, 1, chance.randrange(1, 28), tzinfo=UTC)])
        memory.pin(chance.choice(ids), until=until)
    elif deed == "unpin":
        memory.unpin(chance.choice(ids))
    elif deed == "end":
        memory.end(chance.choice(ids), at=now + timedelta(hours=chance.randrange(99)))
    else:
        memory.forget(memopt.Selector(scope=scope, items=(chance.choice(ids),)))


def without_ids(line: str) -> Any:
    return {name: value for name, value in json.loads(line).items() if name not in ("id", "open")}


def test_an_import_that_is_repeated_writes_the_rest(store: Path, tmp_path: Path) -> None:
    lines = run("export", store).out.splitlines(keepends=True)
    copy = tmp_path / "copy"
    for count in (len(lines) // 3, len(lines) // 2, len(lines), len(lines)):
        (tmp_path / "part.jsonl").write_text("".join(lines[:count]), "utf-8")
        outcome = run("import", copy, tmp_path / "part.jsonl", "--json")
        assert outcome.code == 0, outcome.err
    assert outcome.json["items"] == 0
    assert outcome.json["items_there"] == 29
    with opened(store) as memory, opened(copy) as there:
        assert stated(there) == stated(memory)


def test_an_export_of_a_scope_has_its_memories_alone(store: Path) -> None:
    kinds = [json.loads(line) for line in run("export", store, "--scope", "other").out.splitlines()]
    assert {line["scope"] for line in kinds} == {"other"}
    assert sum(line["kind"] == "item" for line in kinds) == 20
    session = run("export", store, "--scope", SCOPE, "--session", "s").out
    assert '"kind":"item"' not in session


def test_everything_may_be_put_into_another_scope(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    run("export", store, "--scope", SCOPE, "--output", file)
    assert run("import", tmp_path / "copy", file, "--scope", "new/home").code == 0
    with opened(tmp_path / "copy") as copy:
        assert {item.scope for item in copy.items(limit=1000)} == {"new/home"}


@pytest.mark.parametrize(
    "line",
    [
        '{"kind":"item","scope":"a","id":"i1"}',
        '{"kind":"item","scope":"a","id":"i1","item":{"text":""}}',
        '{"kind":"item","scope":"a","id":"i1","item":{"text":"x","kind":"rumour"}}',
        '{"kind":"item","scope":"a//b","id":"i1","item":{"text":"x"}}',
        '{"kind":"item","memopt":2,"scope":"a","id":"i1","item":{"text":"x"}}',
        '{"kind":"item_change","scope":"a","id":"i1","text":"y"}',
        '{"kind":"items_end"}',
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f'{{"kind":"session","id":"s"}}\n{line}\n', "utf-8")
    outcome = run("import", tmp_path / "store", file)
    assert outcome.code == 2
    assert f"{file}:2" in outcome.err


def test_something_else_that_was_changed_is_an_error(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text(run("export", store, "--scope", SCOPE).out.replace("Trastevere", "Monti"))
    outcome = run("import", store, file)
    assert outcome.code == 2
    assert "changed otherwise" in outcome.err


# -- a tree ---------------------------------------------------------------------------------------


def tree(memory: memopt.Memory, tmp_path: Path, **where: Any) -> Path:
    write_tree(memory, tmp_path / "tree", where.get("scope"), memopt.Reach.EXACT)
    return tmp_path / "tree"


def edit(page: Path, *pairs: tuple[str, str]) -> None:
    text = page.read_text("utf-8")
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    page.write_text(text, "utf-8")


def test_a_tree_that_nobody_edited_changes_nothing(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    assert run("export", store, "--format", "tree", "--output", folder).code == 0
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    assert pages == [
        "acme/ann/fact.md", "acme/ann/plan.md", "acme/bob/fact.md", "memopt.md", "other/fact.md",
    ]  # fmt: skip
    with opened(store) as memory:
        before = memory.lsn
        report = read_tree(memory, folder)
        assert memory.lsn == before
    assert not any(getattr(report, name) for name in report.__struct_fields__ if name != "path")
    assert "nothing was edited" in run("import", store, folder).out


def test_lines_that_are_gone_are_proposed_and_forgotten_when_asked(
    store: Path, tmp_path: Path
) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        hens = [item.item_id for item in memory.items("acme/bob")]
        (folder / "acme/bob/fact.md").unlink()
        report = read_tree(memory, folder)
        assert sorted(report.removed) == sorted(hens)
        assert len(memory.items("acme/bob")) == 4
    outcome = run("import", store, folder)
    assert "--forget-removed" in outcome.out
    assert run("import", store, folder, "--forget-removed", "--json").json["trees"][0][
        "forgotten"
    ] == sorted(hens)
    with opened(store) as memory:
        assert memory.items("acme/bob") == []
        assert len(memory.items(limit=1000)) == 25


def test_what_is_stated_in_a_tree_is_stated_once(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        edit(
            folder / "acme/ann/fact.md",
            ("- Rome, Trastevere", "- Rome,\n  by the river"),
            ("## Former", "- likes tea\n  - tags: drink, hot\n  - subject: Ann\n\n## Former"),
        )
        (folder / "acme/ann/goal.md").write_text("- run a marathon\n", "utf-8")
        dry = read_tree(memory, folder, dry_run=True)
        before = memory.lsn
        report = read_tree(memory, folder)
        assert (len(dry.stated), len(dry.revised)) == (2, 1)
        assert (len(report.stated), len(report.revised), report.conflicts) == (2, 1, [])
        assert memory.lsn == before + 3
        tea, marathon = (memory.item(one) for one in report.stated)
        assert (tea.text, tea.tags, tea.subject) == ("likes tea", ("drink", "hot"), "Ann")
        assert (marathon.text, marathon.kind) == ("run a marathon", memopt.Kind.GOAL)
        assert memory.item(report.revised[0]).text == "Rome,\nby the river"
        again = read_tree(memory, folder)
        assert memory.lsn == before + 3
        assert (again.stated, again.revised, again.conflicts) == ([], [], [])


def test_marks_are_set_and_taken_back_in_a_tree(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        (rome,) = (item for item in memory.items(SCOPE) if item.text.startswith("Rome"))
        (plan,) = memory.items(SCOPE, kinds=["plan"])
        until = "2198-05-17T09:20:00+00:00"
        edit(
            folder / "acme/ann/fact.md",
            (f"  - id: {rome.item_id}\n", f"  - id: {rome.item_id}\n  - to: {until}\n"),
        )
        edit(folder / "acme/ann/plan.md", ("pinned: until 2199-01-01T00:00:00+00:00", "pinned: no"))
        report = read_tree(memory, folder)
        assert (report.ended, report.unpinned) == ([rome.item_id], [plan.item_id])
        ended = memory.item(rome.item_id).valid
        assert ended is not None
        assert ended.stop == datetime.fromisoformat(until)
        assert not memory.item(plan.item_id).pinned


def test_what_somebody_else_changed_is_named_and_left(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        (rome,) = (item for item in memory.items(SCOPE) if item.text.startswith("Rome"))
        edit(folder / "acme/ann/fact.md", ("- Rome, Trastevere", "- Rome, by me"))
        memory.revise(rome.item_id, "Rome, by somebody else")
        memory.remember("stated since", scope=SCOPE)
        report = read_tree(memory, folder, forget_removed=True)
        assert [one.split()[0] for one in report.conflicts] == [rome.item_id]
        assert (report.revised, report.forgotten, report.removed) == ([], [], [])
        assert memory.item(rome.item_id).text == "Rome, by somebody else"


def test_nothing_is_written_where_something_is_wrong(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        edit(folder / "acme/ann/fact.md", ("- Rome, Trastevere", "- Rome, by me"))
        (folder / "zoo").mkdir()
        before = memory.lsn
        for text in ("nothing", "- x\n  - importance: very\n", "- x\x00\n"):
            (folder / "zoo/fact.md").write_text(text, "utf-8")
            with pytest.raises(memopt.UsageError, match=r"zoo/fact\.md:[12]"):
                read_tree(memory, folder)
        (folder / "zoo/fact.md").unlink()
        (folder / "zoo/rumour.md").write_text("- x\n", "utf-8")
        with pytest.raises(memopt.UsageError, match=r"zoo/rumour\.md"):
            read_tree(memory, folder)
        assert memory.lsn == before
        (folder / "zoo/rumour.md").unlink()
        edit(folder / "acme/ann/fact.md", ("known_at: ", "known_at: 9"))
        with pytest.raises(memopt.UsageError, match="not of this store"):
            read_tree(memory, folder)


def test_a_tree_is_not_written_over_something(store: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", "utf-8")
    outcome = run("export", store, "--format", "tree", "--output", tmp_path / "full")
    assert outcome.code == 2
    assert run("export", store, "--format", "tree").code == 2
    assert run("import", store, tmp_path / "none").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "store"]


def test_scopes_of_every_name_have_their_pages(tmp_path: Path) -> None:
    scopes = [
        "Ann", "ann", "a.b/c:d", "Zürich/Straße", "x" * 300, "fact.md", 'q"u<o>t|e', " padded ",
        "%41nn",
    ]  # fmt: skip
    with opened(tmp_path / "store") as memory:
        for scope in scopes:
            memory.remember(f"in {scope}", scope=scope)
        folder = tree(memory, tmp_path)
        texts = "\n".join(path.read_text("utf-8") for path in folder.rglob("*.md"))
        assert all(f"- in {scope}".rstrip() in texts for scope in scopes)
        before = memory.lsn
        report = read_tree(memory, folder)
        assert (memory.lsn, report.removed, report.conflicts) == (before, [], [])
        for path in folder.rglob("fact*.md"):
            path.write_text(path.read_text("utf-8") + "\n- more\n", "utf-8")
        assert len(read_tree(memory, folder).stated) == len(scopes)
        assert all(len(memory.items(scope)) == 2 for scope in scopes)


def test_what_was_carried_out_is_not_done_again(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        edit(
            folder / "acme/bob/fact.md",
            ("- Bob keeps five brown hens\n", "- Bob keeps six\n  - to: 2198-05-17\n"),
            ("- Bob keeps four brown hens\n", "- Bob keeps four brown hens\n  - pinned: yes\n"),
        )
        with pytest.raises(memopt.UsageError, match=r"fact\.md:\d+: to: needs a time zone"):
            read_tree(memory, folder)
        edit(folder / "acme/bob/fact.md", ("2198-05-17", "2198-05-17T02:00:00+02:00"))
        report = read_tree(memory, folder)
        counts = [len(one) for one in (report.revised, report.ended, report.pinned)]
        assert counts == [1, 1, 1]
        before = memory.lsn
        for _ in range(2):
            report = read_tree(memory, folder)
            assert not any(vars_of(report))
        assert memory.lsn == before


def vars_of(report: Any) -> list[Any]:
    return [getattr(report, name) for name in report.__struct_fields__ if name != "path"]


def test_what_was_forgotten_since_is_named_and_stays_forgotten(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        (plan,) = memory.items(SCOPE, kinds=["plan"])
        memory.forget(memopt.Selector(scope=SCOPE, items=(plan.item_id,)))
        report = read_tree(memory, folder)
        assert report.conflicts == [f"{plan.item_id} (acme/ann/plan.md:12)"]
        assert not memory.items(SCOPE, kinds=["plan"])


def test_a_line_on_another_page_is_not_taken_for_removed(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        page = folder / "acme/ann/plan.md"
        bullet = page.read_text("utf-8").partition("# acme/ann: plan\n")[2]
        bullet = bullet[bullet.index("- will paint") :]
        edit(page, (bullet, ""))
        goals = folder / "acme/ann/goal.md"
        goals.write_text(bullet, "utf-8")
        with pytest.raises(memopt.UsageError, match=r"goal\.md:2: id: i\d+ is a plan of acme/ann"):
            read_tree(memory, folder, forget_removed=True)
        goals.write_text(bullet.split("\n")[0] + "\n", "utf-8")
        report = read_tree(memory, folder, forget_removed=True)
        assert (len(report.stated), len(report.forgotten)) == (1, 1)
        assert [item.text for item in memory.items(SCOPE, kinds=["goal"])] == [
            "will paint the fence"
        ]


def test_a_page_of_another_store_is_refused(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
    with opened(tmp_path / "other") as other:
        for number in range(60):
            other.remember(f"something else {number}", scope=("other", SCOPE)[number % 2])
        with pytest.raises(memopt.UsageError, match="written by another one"):
            read_tree(other, folder)


def test_nothing_outside_of_a_tree_is_read(store: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("- a secret\n", "utf-8")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "fact.md").write_text("- a secret\n", "utf-8")
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        before = memory.lsn
        for link, target in (
            ("acme/ann/goal.md", secret), ("new", tmp_path / "elsewhere"), ("loop.md", "loop.md"),
        ):  # fmt: skip
            (folder / link).symlink_to(target)
            with pytest.raises(memopt.UsageError, match="is a link"):
                read_tree(memory, folder)
            (folder / link).unlink()
        os.mkfifo(folder / "acme/ann/goal.md")
        with pytest.raises(memopt.UsageError, match=r"goal\.md: is no file"):
            read_tree(memory, folder)
        (folder / "acme/ann/goal.md").unlink()
        # A page may name any scope, but what is not one.
        for scope in ("../bob", "acme/../bob", "/etc", "acme//bob"):
            (folder / "fact.md").write_text(f"---\nscope: {scope}\n---\n- x\n", "utf-8")
            with pytest.raises(memopt.UsageError, match=r"fact\.md:2: scope"):
                read_tree(memory, folder)
        edit(folder / "memopt.md", ("acme/ann/fact.md", "../../acme/ann/fact.md"))
        (folder / "fact.md").unlink()
        with pytest.raises(memopt.UsageError, match="components must not be"):
            read_tree(memory, folder)
        assert memory.lsn == before


def test_too_large_a_tree_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        for name, limit, words in (
            ("PAGE_BYTES_MAX", 300, "more than 300 bytes"),
            ("TREE_BYTES_MAX", 2000, "more than 2000 bytes"),
            ("PAGES_MAX", 3, "more than 3 pages"),
        ):
            monkeypatch.setattr(item_tree, name, limit)
            with pytest.raises(memopt.UsageError, match=words):
                read_tree(memory, folder)
            with pytest.raises(memopt.UsageError, match="JSONL"):
                write_tree(memory, tmp_path / "more", None, memopt.Reach.EXACT)
            assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "tree"]
            monkeypatch.undo()


def test_bytes_that_are_no_text_are_named_by_their_line(store: Path, tmp_path: Path) -> None:
    with opened(store) as memory:
        folder = tree(memory, tmp_path)
        (folder / "acme/ann/goal.md").write_bytes(b"- fine\n- \xff\n")
        with pytest.raises(memopt.UsageError, match=r"goal\.md:2: this is not UTF-8"):
            read_tree(memory, folder)


EDITED = """\
---
memopt: 1
scope: acme/eve
kind: preference
---

Everything that Eve likes, by hand.
"""


def test_a_page_that_a_person_wrote(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    page = folder / "eve.md"
    page.write_text(EDITED, "utf-8")
    outcome = run("import", store, folder)
    assert outcome.code == 2
    assert "eve.md:7: expected a line that begins with" in outcome.err
    page.write_text(
        EDITED.replace("Everything", "# Everything")
        + "\n* tea, not coffee\n  and no milk\n\n  - tags: drinks, morning\n"
        + "- window seats\n\t- importance: 0.9\n\t- pinned: yes\n",
        "utf-8",
    )
    assert "2 would be stated" in run("import", store, folder, "--dry-run").out
    assert "2 stated" in run("import", store, folder).out
    assert "nothing was edited" in run("import", store, folder).out
    with opened(store) as memory:
        tea, seats = memory.items("acme/eve")
        assert (tea.text, tea.tags, tea.kind) == (
            "tea, not coffee\nand no milk", ("drinks", "morning"), "preference",
        )  # fmt: skip
        assert (seats.text, seats.importance, seats.pinned) == ("window seats", 0.9, True)
        assert [hit.text for hit in memory.recall("tea", scope="acme/eve", limit=1)] == [tea.text]
