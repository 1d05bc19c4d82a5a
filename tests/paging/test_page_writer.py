"""Pages are written with the dictionary of the moment of their commit, and with their texts."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.events import Events
from memopt.base.protocols import Tables
from memopt.base.records import DictionaryRow, Durability
from memopt.base.units import KIB, MIB
from memopt.codecs.frame import dictionary_of
from memopt.codecs.record import TailRecord
from memopt.codecs.zstd import Zstd
from memopt.paging.dictionaries import Dictionaries
from memopt.paging.page_writer import Owner, PageWriter
from memopt.paging.pager import Pager
from memopt.policies.lru import Lru
from memopt.stores.sqlite import SqliteHome

OWNER = Owner(1, 2)
CONTENT = b"the quick brown fox jumps over the lazy dog and the cow over the moon; " * 8


class Bench:
    def __init__(self, path: Path) -> None:
        budget = Budget(64 * MIB)
        self.home = SqliteHome(path / "memopt.db", budget, durability=Durability.OS)
        self.dictionaries = Dictionaries(
            self.home, lambda tables, row: b"", budget, size_bytes=2 * KIB, scopes_min=5,
            training_pages=100,
        )  # fmt: skip
        self.compressor = Zstd(budget, dictionary=self.dictionaries.body, raw_bytes_max=MIB)
        self.writer = PageWriter(
            self.compressor, self.dictionaries.of, next_page=1, text_bytes_min=KIB
        )

    def commit(self) -> Tables:
        self.home.writer.begin()
        return self.home.writer.tables

    def install(self, *, retired: int = 0, dictionary: int = 0) -> int:
        row = DictionaryRow(dictionary, OWNER.tenant, 1, 1, retired, CONTENT)
        number = self.commit().dictionaries.put(row)
        self.home.writer.commit()
        self.dictionaries.refresh(OWNER.tenant)
        return number


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.compressor.close()
    bench.home.close(checkpoint=False)


def records(start: int, count: int = 3) -> list[TailRecord]:
    body = msgspec.msgpack.encode({"content": CONTENT.decode()[:300]})
    return [TailRecord(start + n + 1, n, None, None, body) for n in range(count)]


def test_a_page_made_with_a_dictionary_that_was_retired_since_is_made_anew(bench: Bench) -> None:
    number = bench.install()
    new = bench.writer.make(OWNER, 1, 0, records(0), sealed=False)
    assert dictionary_of(new.body) == number
    bench.install(retired=1, dictionary=number)
    tables = bench.commit()
    tables.dictionaries.delete(number)
    bench.writer.write(tables, OWNER, new, [])
    bench.home.writer.commit()
    bench.compressor.drop(number)
    with bench.home.snapshot() as tables:
        (row,) = tables.pages.map(1, 0, 10)
        assert bench.writer.dictionary_used(tables, row) == 0
        body = tables.pages.body(row.page)
        assert body is not None
        assert len(body) == row.stored_bytes
        assert bench.writer.read(tables, row) == records(0)


def test_a_page_whose_dictionary_is_still_the_one_is_written_as_it_was_made(bench: Bench) -> None:
    number = bench.install()
    new = bench.writer.make(OWNER, 1, 0, records(0), sealed=False)
    tables = bench.commit()
    bench.writer.write(tables, OWNER, new, [])
    bench.home.writer.commit()
    with bench.home.snapshot() as tables:
        assert tables.pages.map(1, 0, 10) == [new.row]
        assert bench.writer.dictionary_used(tables, new.row) == number


def test_what_was_read_before_a_refresh_is_not_remembered_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = bench.install()
    snapshot = bench.home.snapshot

    class Slow:
        """A snapshot that is closed after somebody retired the dictionary."""

        def __enter__(self) -> Tables:
            self.reader = snapshot()
            return self.reader.__enter__()

        def __exit__(self, *error: object) -> None:
            self.reader.__exit__(None, None, None)
            monkeypatch.setattr(bench.home, "snapshot", snapshot)
            bench.install(retired=1, dictionary=number)

    monkeypatch.setattr(bench.home, "snapshot", Slow)
    assert bench.dictionaries.of(OWNER) == number
    assert bench.dictionaries.of(OWNER) == 0


def test_a_fault_never_holds_one_snapshot_while_it_waits_for_another(bench: Bench) -> None:
    """Or as many readers as there are snapshots would wait for each other."""
    bench.install()
    text = [TailRecord(9, 0, None, None, msgspec.msgpack.encode({"tools": "x" * 2 * KIB}))]
    new = bench.writer.make(OWNER, 1, 0, records(0) + text, sealed=False)
    bench.writer.write(bench.commit(), OWNER, new, [])
    bench.home.writer.commit()
    assert dictionary_of(new.body)
    cold = Zstd(Budget(64 * MIB), dictionary=bench.dictionaries.body, raw_bytes_max=MIB)
    pager = Pager(
        bench.home, cold, Budget(8 * MIB), make_policy=Lru, clock=ManualClock(), events=Events(),
        promotion_batch_pages=1, l1_share=0.5,
    )  # fmt: skip
    with bench.home.snapshot(), bench.home.snapshot(), bench.home.snapshot():
        # One is left.
        (opened,) = pager.open([new.row], OWNER.scope)
        found = opened.page.messages(0, 4, opened.decode)
    assert found[3] == {"tools": "x" * 2 * KIB}
    cold.close()


def test_a_text_leaves_the_home_with_its_last_page(bench: Bench) -> None:
    text = "long text " * 200
    body = msgspec.msgpack.encode({"role": "system", "content": text})
    pages = []
    for line in (1, 2):
        said = [TailRecord(line, 0, None, None, body)]
        pages.append(bench.writer.make(OWNER, line, 0, said, sealed=False))
        bench.writer.write(bench.commit(), OWNER, pages[-1], [])
        bench.home.writer.commit()
    with bench.home.snapshot() as tables:
        (one,), (two,) = (tables.texts.of_page(page.row.page) for page in pages)
        assert one == two
        assert len(tables.pages.body(pages[0].row.page) or b"") < 200
    dropped = []
    for page in pages:
        dropped.append(bench.writer.delete(bench.commit(), page.row))
        bench.home.writer.commit()
    assert dropped == [0, 1]
    with bench.home.snapshot() as tables:
        assert tables.texts.get(one[0]) is None


def test_a_rewritten_page_keeps_the_texts_it_still_refers_to(bench: Bench) -> None:
    texts = [letter * 2000 for letter in "ab"]
    said = [
        TailRecord(n + 1, n, None, None,
                   msgspec.msgpack.encode({"role": "system", "content": text}))
        for n, text in enumerate(texts)
    ]  # fmt: skip
    old = bench.writer.make(OWNER, 1, 0, said, sealed=False)
    bench.writer.write(bench.commit(), OWNER, old, [])
    bench.home.writer.commit()
    tables = bench.commit()
    kept = bench.writer.read(tables, old.row)[:1]
    new = bench.writer.make(OWNER, 1, 0, kept, sealed=True)
    assert bench.writer.write(tables, OWNER, new, [old.row]) == 1
    bench.home.writer.commit()
    with bench.home.snapshot() as tables:
        ((_, digest, raw_bytes),) = tables.texts.of_page(new.row.page)
        assert raw_bytes == 2000
        assert {digest} == new.kept
