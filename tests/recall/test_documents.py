"""Documents in pieces: kept, replaced, forgotten, and never half of one."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import memopt
from memopt import (
    BudgetError,
    Ingested,
    Kind,
    Media,
    Memory,
    NotFoundError,
    RecordKind,
    Selector,
    UsageError,
    aio,
)
from memopt.recall import documents as kept_documents
from memopt.testing.search import search

SCOPE = "acme/ann"
SETTINGS: dict[str, Any] = {"budget": "16MiB", "durability": "os", "maintenance_seconds": 0}
GUIDE = "# Guide\n\nTo begin with.\n\n## Install\n\nRun it.\n\n## Use\n\nCall it."


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with memopt.open(tmp_path / "store", **SETTINGS) as memory:
        yield memory
        assert memory.check().clean
        assert memory._parts.budget.held_bytes("documents") == 0


def pieces(memory: Memory, source: str, scope: str = SCOPE) -> list[memopt.Item]:
    """Of a document, in the order of its text."""
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(scope)
        row = tables.documents.find(number, source) if number is not None else None
        rows = tables.pieces.of_document(row.document) if row is not None else []
    return [memory.item(f"i{row.item}", scope=scope) for row in rows]


def texts(memory: Memory, source: str, scope: str = SCOPE) -> list[str]:
    return [item.text for item in pieces(memory, source, scope)]


def test_a_document_becomes_items_that_know_where_they_stand(memory: Memory) -> None:
    done = memory.ingest(GUIDE, scope=SCOPE, source="guide", tags=["help"])
    assert done == Ingested(
        scope=SCOPE, source="guide", media=Media.MARKDOWN, title=None, encoding="str",
        chars=len(GUIDE), pieces=3, added=3, kept=0, removed=0, lsn=memory.lsn,
    )  # fmt: skip
    found = pieces(memory, "guide")
    assert [(item.subject, item.text) for item in found] == [
        ("Guide", "# Guide\n\nTo begin with."),
        ("Guide > Install", "## Install\n\nRun it."),
        ("Guide > Use", "## Use\n\nCall it."),
    ]
    assert {(item.kind, item.source, item.tags) for item in found} == {
        (Kind.DOCUMENT, "guide", ("help",))
    }
    assert memory.items(SCOPE) == []
    assert memory.items(SCOPE, kinds=["document"]) == found
    with pytest.raises(UsageError, match="ingest that again"):
        memory.revise(found[0].item_id, "something else")


def test_a_file_is_known_by_its_path(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text(GUIDE)
    assert memory.ingest(path, scope=SCOPE).source == str(path)
    assert memory.ingest(path, scope=SCOPE, source="manual").source == "manual"
    assert memory.ingest(b"x", scope=SCOPE, name="a.txt").source == "a.txt"
    first, again = (memory.ingest("a text without a name", scope=SCOPE) for _ in range(2))
    assert first.source == again.source
    assert (again.added, again.kept) == (0, 1)


def test_the_same_again_changes_nothing(memory: Memory) -> None:
    done = memory.ingest(GUIDE, scope=SCOPE, source="guide")
    before, lsn = pieces(memory, "guide"), memory.lsn
    again = memory.ingest(GUIDE, scope=SCOPE, source="guide")
    assert (again.added, again.kept, again.removed, again.lsn) == (0, 3, 0, done.lsn)
    assert (pieces(memory, "guide"), memory.lsn) == (before, lsn)


def test_only_what_changed_is_new(memory: Memory) -> None:
    memory.ingest(GUIDE, scope=SCOPE, source="guide")
    old = {item.text: item.item_id for item in pieces(memory, "guide")}
    changed = GUIDE.replace("Run it.", "Run it twice.").replace("# Guide", "# Guide", 1)
    done = memory.ingest(f"{changed}\n\n## More\n\nOf it.", scope=SCOPE, source="guide")
    assert (done.added, done.kept, done.removed) == (2, 2, 1)
    new = {item.text: item.item_id for item in pieces(memory, "guide")}
    assert [text for text in new if text in old and new[text] == old[text]] == [
        "# Guide\n\nTo begin with.", "## Use\n\nCall it.",
    ]  # fmt: skip
    with pytest.raises(NotFoundError):
        memory.item(old["## Install\n\nRun it."])


def test_pieces_that_moved_and_pieces_that_are_alike_stay(memory: Memory) -> None:
    memory.ingest("# A\n\nsame\n\n# B\n\nb\n\n# A\n\nsame", scope=SCOPE, source="s")
    old = pieces(memory, "s")
    done = memory.ingest("# B\n\nb\n\n# A\n\nsame\n\n# A\n\nsame", scope=SCOPE, source="s")
    assert (done.added, done.kept, done.removed) == (0, 3, 0)
    assert done.lsn == memory.lsn
    new = pieces(memory, "s")
    assert [item.text[2] for item in new] == ["B", "A", "A"]
    assert {item.item_id for item in new} == {item.item_id for item in old}


def test_other_tags_make_other_pieces(memory: Memory) -> None:
    memory.ingest(GUIDE, scope=SCOPE, source="guide", tags=["a"])
    done = memory.ingest(GUIDE, scope=SCOPE, source="guide", tags=["b"])
    assert (done.added, done.removed) == (3, 3)
    assert {item.tags for item in pieces(memory, "guide")} == {("b",)}


def test_an_empty_document_keeps_nothing_and_takes_what_was_there(memory: Memory) -> None:
    done = memory.ingest(" \n", scope=SCOPE, source="guide")
    assert (done.pieces, done.lsn, done.notes) == (0, None, ("it has no text",))
    assert memory.lsn == 0
    memory.ingest(GUIDE, scope=SCOPE, source="guide")
    done = memory.ingest("", scope=SCOPE, source="guide")
    assert (done.pieces, done.removed, done.lsn) == (0, 3, memory.lsn)
    assert memory.items(SCOPE, kinds=["document"]) == []


def test_scopes_and_sources_do_not_touch_each_other(memory: Memory) -> None:
    memory.ingest(GUIDE, scope=SCOPE, source="guide")
    memory.ingest("other", scope="acme/bob", source="guide")
    memory.ingest("other", scope=SCOPE, source="guide2")
    memory.ingest("", scope=SCOPE, source="guide")
    assert texts(memory, "guide", "acme/bob") == ["other"]
    assert texts(memory, "guide2") == ["other"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"scope": ""}, "scope"),
        ({"source": ""}, "source"),
        ({"source": "x" * 513}, "source"),
        ({"name": "a\n"}, "name"),
        ({"tags": "tag"}, "tags"),
        ({"document": 3}, "document"),
        ({"document": b"\0"}, "document"),
    ],
)
def test_wrong_arguments_are_named(memory: Memory, arguments: dict[str, Any], field: str) -> None:
    call: dict[str, Any] = {"document": GUIDE, "scope": SCOPE} | arguments
    with pytest.raises(UsageError) as refused:
        memory.ingest(call.pop("document"), **call)
    assert refused.value.field == field
    assert memory.lsn == 0


def test_limits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with memopt.open(tmp_path / "store", **SETTINGS, document_bytes_max=100) as memory:
        with pytest.raises(UsageError, match="document_bytes_max"):
            memory.ingest("x" * 101, scope=SCOPE)
        monkeypatch.setattr(kept_documents, "PIECES_MAX", 2)
        with pytest.raises(UsageError, match="3 pieces, at most 2"):
            memory.ingest("# a\n\na\n\n# b\n\nb\n\n# c\n\nc", scope=SCOPE)


def test_what_the_budget_does_not_hold_is_refused(tmp_path: Path) -> None:
    with memopt.open(tmp_path / "store", **(SETTINGS | {"budget": "8MiB"})) as memory:
        with pytest.raises(BudgetError):
            memory.ingest("word " * 800_000, scope=SCOPE)
        assert memory._parts.budget.held_bytes("documents") == 0
        assert memory.ingest(GUIDE, scope=SCOPE).pieces == 3


def test_a_document_is_forgotten_by_its_source(memory: Memory) -> None:
    memory.ingest(GUIDE, scope=SCOPE, source="guide")
    memory.ingest("other", scope=SCOPE, source="other")
    memory.remember("stated", scope=SCOPE, source="guide2")
    receipt = memory.forget(Selector(scope=SCOPE, source="guide"))
    assert receipt.items == 3
    assert texts(memory, "guide") == []
    assert texts(memory, "other") == ["other"]
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(SCOPE)
        assert number is not None
        assert tables.documents.find(number, "guide") is None


def test_what_was_forgotten_of_it_comes_back_only_when_it_is_ingested_again(
    memory: Memory,
) -> None:
    memory.ingest(GUIDE, scope=SCOPE, source="guide")
    memory.forget(Selector(scope=SCOPE, containing="Run it."))
    assert len(texts(memory, "guide")) == 2
    done = memory.ingest(GUIDE, scope=SCOPE, source="guide")
    assert (done.added, done.kept, done.removed) == (1, 2, 0)


def test_the_journal_has_every_piece_and_the_document(memory: Memory) -> None:
    subscription = memory.subscribe()
    memory.ingest("# A\n\na", scope=SCOPE, source="s")
    memory.ingest("# A\n\nb", scope=SCOPE, source="s")
    records = list(memory.journal())
    assert [(record.kind, record.text, record.document) for record in records] == [
        (RecordKind.ITEM_STATED, None, None),
        (RecordKind.DOCUMENT_INGESTED, None, "s"),
        (RecordKind.ITEM_FORGOTTEN, None, None),
        (RecordKind.ITEM_STATED, "# A\n\nb", None),
        (RecordKind.DOCUMENT_INGESTED, None, "s"),
    ]
    assert [record.lsn for record in records] == [1, 2, 3, 4, 5]
    told = [subscription.get(timeout=10) for _ in range(5)]
    assert [record.kind for record in told if record] == [record.kind for record in records]
    assert records[-1] == told[-1]
    subscription.close()
    memory.forget(Selector(scope=SCOPE, whole_scope=True))
    assert {record.document for record in memory.journal()} == {None}


def test_no_byte_of_a_forgotten_or_replaced_document_is_left(memory: Memory) -> None:
    chance = random.Random(5)

    def canary() -> str:
        return "".join(chance.choices("abcdefghijkmnpqrstuvwxyz", k=30))

    text, title, source, tag, replaced = (canary() for _ in range(5))
    memory.ingest(f"# {title}\n\n{replaced}", scope=SCOPE, source=source, tags=[tag])
    page = f"<html><title>{title}</title><h1>H</h1><p>{text}"
    memory.ingest(page, scope=SCOPE, source=source, tags=[tag])
    memory.ingest("stays", scope=SCOPE, source="other")
    found = {finding.text for finding in search(memory.path, [text, title, source, tag])}
    assert found == {text, title, source, tag}
    memory.forget(Selector(scope=SCOPE, containing=text))
    memory.compact()
    assert list(search(memory.path, [text, title, source, tag, replaced])) == []
    assert texts(memory, "other") == ["stays"]


def test_other_processes_and_coroutines_ingest_as_well(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<h1>Page</h1><p>Its text.")
    here = memory.ingest(path, scope="here", source="page")
    with memopt.connect(memory.path) as remote:
        there = remote.ingest(path, scope="there", source="page", tags=(t for t in ["a"]))
        assert there == memopt_replaced(here, scope="there", lsn=there.lsn)
        assert remote.ingest(path, scope="there", tags=["a"]).source == str(path)
        with pytest.raises(UsageError, match="a directory"):
            remote.ingest(tmp_path, scope="there")
    assert pieces(memory, "page", "there")[0].tags == ("a",)

    async def work() -> Ingested:
        async with aio.open(tmp_path / "another", **SETTINGS) as opened:
            done: Ingested = await opened.ingest(path, scope="here", source="page")
            return done

    assert asyncio.run(work()) == here


def memopt_replaced(done: Ingested, **changes: Any) -> Ingested:
    return Ingested(**{name: getattr(done, name) for name in done.__struct_fields__} | changes)


def entries(memory: Memory) -> tuple[int, int]:
    """In segments, and places that have none yet."""
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(SCOPE)
        assert number is not None
        segments = sum(row.entries for row in tables.segments.of_scope(number))
        return segments, len(tables.unindexed.of_scope(number))


def test_new_pieces_have_their_entries_in_the_commit_that_states_them(memory: Memory) -> None:
    memory.ingest(GUIDE, scope=SCOPE, source="guide")
    assert entries(memory) == (3, 0)
    [hit, *_] = memory.recall("run", scope=SCOPE)
    assert (hit.text, hit.kind, hit.source) == ("## Install\n\nRun it.", Kind.DOCUMENT, "guide")
    memory.ingest(GUIDE.replace("Run it.", "Walk there."), scope=SCOPE, source="guide")
    assert entries(memory) == (4, 0)
    [hit, *_] = memory.recall("walk", scope=SCOPE)
    assert hit.text == "## Install\n\nWalk there."
    assert "Run it" not in str(memory.recall("run", scope=SCOPE).hits)
    memory.compact()
    assert entries(memory) == (3, 0)
    [hit, *_] = memory.recall("Install", scope=SCOPE)
    assert hit.text == "## Install\n\nWalk there."
    memory.forget(Selector(scope=SCOPE, source="guide"))
    assert memory.recall("walk there", scope=SCOPE).hits == ()


def test_a_piece_is_found_by_the_headings_it_stands_under(memory: Memory) -> None:
    memory.ingest("# Zebra\n\none\n\n## Below\n\ntwo", scope=SCOPE)
    found = memory.recall("zebra", scope=SCOPE)
    assert {hit.text for hit in found} == {"# Zebra\n\none", "## Below\n\ntwo"}


def test_many_pieces_make_few_segments_and_are_found_at_once(memory: Memory) -> None:
    sections = [f"# Section {n}\n\nIt is about thing{n}." for n in range(300)]
    memory.recall("anything", scope=SCOPE)
    memory.ingest("\n\n".join(sections), scope=SCOPE, source="s")
    assert entries(memory) == (300, 0)
    [hit, *_] = memory.recall("thing217", scope=SCOPE)
    assert hit.text == sections[217]


def test_where_indexing_is_off_no_entries_are_made(tmp_path: Path) -> None:
    with memopt.open(tmp_path / "off", indexing="off", maintenance_seconds=0) as memory:
        memory.ingest(GUIDE, scope=SCOPE, source="guide")
        assert entries(memory) == (0, 3)
        assert memory.recall("run", scope=SCOPE)[0].text == "## Install\n\nRun it."


def test_where_entries_have_no_room_pieces_are_found_all_the_same(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(drafts: object, **how: object) -> None:
        raise BudgetError("no room", limit="budget")

    indexer = memory._parts.recall.engine.indexer
    monkeypatch.setattr(indexer._maker, "entries", no_room)
    memory.ingest(GUIDE, scope=SCOPE, source="guide")
    monkeypatch.undo()
    assert entries(memory) == (0, 3)
    [hit, *_] = memory.recall("run", scope=SCOPE)
    assert hit.text == "## Install\n\nRun it."
    memory.compact()
    assert entries(memory) == (3, 0)


SOURCES = st.sampled_from(["a", "b"])
WORDS = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=5)


class DocumentMachine(RuleBasedStateMachine):
    """Against a dict of lists: sections of a document, by its source."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory(prefix="memopt-documents-")
        self.memory = memopt.open(self.folder.name, **SETTINGS)
        self.model: dict[str, list[str]] = {}

    @rule(source=SOURCES, words=WORDS)
    def ingest(self, source: str, words: list[str]) -> None:
        sections = [f"# {word}\n\ntext of {word}" for word in words]
        old = self.model.get(source, [])
        done = self.memory.ingest("\n\n".join(sections), scope=SCOPE, source=source)
        stay = sum(min(old.count(one), sections.count(one)) for one in set(old))
        assert (done.added, done.kept) == (len(sections) - stay, stay)
        assert done.removed == len(old) - stay
        self.model[source] = sections

    @rule(source=SOURCES)
    def forget(self, source: str) -> None:
        gone = self.memory.forget(Selector(scope=SCOPE, source=source))
        assert gone.items == len(self.model.pop(source, []))

    @rule(word=st.sampled_from(["one", "two"]))
    def forget_a_piece(self, word: str) -> None:
        self.memory.forget(Selector(scope=SCOPE, containing=f"text of {word}"))
        for sections in self.model.values():
            sections[:] = [one for one in sections if not one.endswith(f"text of {word}")]

    @rule()
    def compact_and_reopen(self) -> None:
        self.memory.compact()
        self.memory.close()
        self.memory = memopt.open(self.folder.name, **SETTINGS)

    @invariant()
    def what_is_there_is_what_was_ingested(self) -> None:
        if not hasattr(self, "model"):
            return
        for source in ("a", "b"):
            assert texts(self.memory, source) == self.model.get(source, [])
        count = sum(map(len, self.model.values()))
        assert len(self.memory.items(SCOPE, kinds=["document"])) == count

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            assert self.memory.check().clean
            self.memory.close()
            self.folder.cleanup()


TestDocumentMachine = DocumentMachine.TestCase
TestDocumentMachine.settings = settings(max_examples=8, stateful_step_count=10)
