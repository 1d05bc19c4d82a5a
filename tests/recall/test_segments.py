"""Upkeep of segments: merged, made anew and purged, they answer as they did before."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memopt
from memopt.base.recall_records import SegmentRow
from memopt.base.records import Seal
from memopt.memory import Memory
from memopt.recall.entries import Entries
from memopt.recall.segments import MERGE_MIN, SEGMENT_BYTES_MAX, SegmentUpkeep, due
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "durability": "os",
    "maintenance_seconds": 0,
    "probe_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 400,
}
SCOPE = "acme"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with open_memory(tmp_path, **SETTINGS) as opened:
        yield opened
        opened._parts.recall.engine.scopes.check()
        opened._parts.budget.check()
        assert opened._parts.budget.held_bytes("indexing") == 0
        assert opened.check().clean


def upkeep(memory: Memory) -> SegmentUpkeep:
    return memory._parts.recall.engine.upkeep


def say(memory: Memory, count: int, *, id: str = "s", start: int = 0) -> None:
    session = memory.session(id, scope=SCOPE)
    for n in range(start, start + count):
        session.append({"role": "user", "content": f"word{n} stands in message {n} of {id}"})


def segments(memory: Memory) -> list[SegmentRow]:
    with memory._parts.directory.home.snapshot() as tables:
        return [row for head in tables.segments.heads((0, 0), 10_000)
                if (row := tables.segments.get(head.segment))]  # fmt: skip


def places(memory: Memory) -> list[tuple[int, int]]:
    found = [Entries.decode(row.body) for row in segments(memory)]
    return [p for e in found for p in zip(e.source.tolist(), e.seq.tolist(), strict=True)]


def answers(memory: Memory, count: int) -> list[Any]:
    memory._parts.recall.engine.scopes.clear()
    return [list(memory.recall(f"word{n} of s", scope=SCOPE, limit=5)) for n in range(0, count, 7)]


def test_merged_segments_are_few_and_answer_as_many_did(memory: Memory) -> None:
    say(memory, 200)
    before, held = answers(memory, 200), sorted(places(memory))
    many = len(segments(memory))
    upkeep(memory).step(1.0)
    few = len(segments(memory))
    assert few <= many / 3
    assert sorted(places(memory)) == held
    assert answers(memory, 200) == before
    assert memory.stats().counters["segments_merged"] >= many - few
    say(memory, 50, start=200)
    upkeep(memory).finish()
    assert answers(memory, 250)[-1][0].text == "word245 stands in message 245 of s"


SIZES = st.lists(st.integers(min_value=1, max_value=2 * SEGMENT_BYTES_MAX), max_size=40)


@given(SIZES)
def test_merging_comes_to_an_end_with_few_segments_none_too_large(sizes: list[int]) -> None:
    heads = [SegmentRow(n, 1, "space", 1, 1, size, b"") for n, size in enumerate(sizes)]
    total, written, number = sum(sizes), 0, len(sizes)
    while group := due(heads):
        assert len(group) > 1
        size = sum(head.size_bytes for head in group)
        assert size <= SEGMENT_BYTES_MAX
        heads = [head for head in heads if head not in group]
        heads.append(SegmentRow(number, 1, "space", 1, 1, size, b""))
        number += 1
        written += size
    assert sum(head.size_bytes for head in heads) == total
    small = [head for head in heads if head.size_bytes < SEGMENT_BYTES_MAX // 4]
    assert len(small) < 4 * MERGE_MIN
    assert written <= 8 * total


def test_segments_of_two_spaces_are_not_merged() -> None:
    heads = [SegmentRow(n, 1, f"space{n % 2}", 1, 1, 5000, b"") for n in range(2 * MERGE_MIN - 1)]
    assert {head.space for head in due(heads)} == {"space0"}


@pytest.mark.parametrize("how", ["maintenance", "compact"])
def test_what_was_not_indexed_is_indexed_in_the_background(tmp_path: Path, how: str) -> None:
    with open_memory(tmp_path, indexing="off", **SETTINGS) as memory:
        say(memory, 60)
        fork = memory.session("s", scope=SCOPE).fork("fork", at=20)
        fork.append({"content": "the fork goes on"})
        memory.session("s", scope=SCOPE).delete()
        say(memory, 30, id="other")
        memory.compact()
        assert segments(memory) == []
    with open_memory(tmp_path, **SETTINGS) as memory:
        before = answers(memory, 60)
        if how == "compact":
            memory.compact()
        else:
            memory._parts.maintenance.once()
        with memory._parts.directory.home.snapshot() as tables:
            assert tables.unindexed.first(1) == []
        assert len(places(memory)) == len(set(places(memory))) == 51
        assert answers(memory, 60) == before
        assert memory.recall("fork goes on", scope=SCOPE)[0].text == "the fork goes on"


# -- erasing --------------------------------------------------------------------------------------


def test_after_compact_no_segment_has_an_entry_of_what_was_taken_away(memory: Memory) -> None:
    say(memory, 40)
    say(memory, 40, id="gone")
    memory.compact()
    gone = memory.session("gone", scope=SCOPE)
    kept = memory.session("s", scope=SCOPE)
    line = {line for line, _ in places(memory)}
    for seq in (3, 17, 39):
        kept.redact(seq)
    gone.delete()
    assert len(places(memory)) == 80
    memory.compact()
    left = places(memory)
    assert len(left) == len(set(left)) == 37
    assert {seq for _, seq in left} == set(range(40)) - {3, 17, 39}
    assert len({line for line, _ in left}) == 1 < len(line)
    with memory._parts.directory.home.snapshot() as tables:
        assert tables.masked.scopes() == []


def test_what_a_fork_still_reads_stays_in_the_segments(memory: Memory) -> None:
    say(memory, 30)
    parent = memory.session("s", scope=SCOPE)
    parent.fork("child", at=11)
    parent.delete()
    memory.compact()
    assert sorted(seq for _, seq in places(memory)) == list(range(11))
    assert memory.recall("word7", scope=SCOPE)[0].text == "word7 stands in message 7 of s"
    memory.session("child", scope=SCOPE).delete()
    memory.compact()
    assert segments(memory) == []


def test_a_scope_that_is_gone_leaves_no_segment(memory: Memory) -> None:
    say(memory, 30)
    memory.session("t", scope="other").append({"content": "of another scope"})
    memory.forget(memopt.Selector(scope=SCOPE, whole_scope=True))
    memory.compact()
    assert [row.entries for row in segments(memory)] == [1]


def test_messages_of_an_abandoned_line_come_back_with_it(memory: Memory) -> None:
    say(memory, 30)
    lsn = memory.lsn
    memory.session("s", scope=SCOPE).truncate(10)
    memory.compact()
    assert not any("word20" in hit.text for hit in memory.recall("word20", scope=SCOPE))
    memory.restore(SCOPE, lsn)
    assert memory.recall("word20", scope=SCOPE)[0].text == "word20 stands in message 20 of s"


def test_a_slice_that_read_what_was_redacted_meanwhile_writes_nothing(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = memory._parts.recall.engine
    engine.indexer.is_on = False
    say(memory, 30)
    memory.compact()
    engine.indexer.is_on = True
    entries = engine.upkeep._maker.entries
    calls = 0

    def redacting(drafts: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            memory.session("s", scope=SCOPE).redact(5)
        return entries(drafts)

    monkeypatch.setattr(engine.upkeep._maker, "entries", redacting)
    engine.upkeep.step(0.0)
    assert places(memory) == []
    engine.upkeep.finish()
    assert calls > 1
    assert {seq for _, seq in places(memory)} == set(range(30)) - {5}


# -- another embedder -----------------------------------------------------------------------------


class Letters:
    """Embeds a text by its letters, each turned by `shift`."""

    dimensions = 26

    def __init__(self, shift: int) -> None:
        self.space = f"letters-{shift}"
        self.shift = shift
        self.is_broken = False

    def embed(self, texts: Sequence[str]) -> Any:
        if self.is_broken:
            raise OSError("the endpoint is away")
        counts = np.zeros((len(texts), 26), np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                if "a" <= letter <= "z":
                    counts[row, (ord(letter) - 97 + self.shift) % 26] += 1
        lengths = np.linalg.norm(counts, axis=1, keepdims=True)
        return counts / np.where(lengths > 0, lengths, 1)


def spaces(memory: Memory) -> set[str]:
    return {row.space for row in segments(memory)}


def test_another_embedder_never_mixes_spaces_and_makes_all_vectors_anew(tmp_path: Path) -> None:
    with open_memory(tmp_path, embedder=Letters(0), **SETTINGS) as memory:
        say(memory, 60)
        memory.compact()
        wanted = answers(memory, 60)
        assert spaces(memory) == {"letters-0"}
    with open_memory(tmp_path, embedder=Letters(9), **SETTINGS) as memory:
        say(memory, 5, id="later")
        by_words = memory.recall("word30 stands", scope=SCOPE)[0]
        assert by_words.text == "word30 stands in message 30 of s"
        memory.compact()
        assert spaces(memory) == {"letters-9"}
        assert len(places(memory)) == 65
    with open_memory(tmp_path, embedder="off", **SETTINGS) as memory:
        assert memory.recall("word30", scope=SCOPE)[0].text == by_words.text
        memory.session("later", scope=SCOPE).delete()
        memory.compact()
    with open_memory(tmp_path, embedder=Letters(0), **SETTINGS) as memory:
        memory.compact()
        assert spaces(memory) == {"letters-0"}
        assert answers(memory, 60) == wanted


def test_an_embedder_that_fails_is_done_without_until_it_answers(tmp_path: Path) -> None:
    embedder = Letters(0)
    with open_memory(tmp_path, embedder=embedder, **SETTINGS) as memory:
        embedder.is_broken = True
        say(memory, 40)
        memory.compact()
        assert spaces(memory) == {""}
        assert memory.recall("word30", scope=SCOPE)[0].text == "word30 stands in message 30 of s"
        embedder.is_broken = False
        memory.compact()
        assert spaces(memory) == {"letters-0"}
        assert len(places(memory)) == 40


def test_a_budget_too_small_for_the_embedder_finds_by_words(tmp_path: Path) -> None:
    with open_memory(tmp_path, budget="16MiB", **SETTINGS | {"seal": Seal.FULL}) as memory:
        say(memory, 40)
        assert memory.recall("word30", scope=SCOPE)[0].text == "word30 stands in message 30 of s"
        assert spaces(memory) == {""}
        assert any("words alone" in note for note in memory.stats().notes)
