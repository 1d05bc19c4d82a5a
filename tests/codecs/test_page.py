"""A page gives back the records it was made of; as a stored frame, damage to it is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.budget import Budget
from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.codecs.message import decode_json
from memopt.codecs.page import Page, pack_page
from memopt.codecs.record import TailRecord
from memopt.codecs.zstd import Zstd

times = st.integers(min_value=-(2**62), max_value=2**62)
steps = st.one_of(st.integers(0, 1000), st.sampled_from([2**32 - 1, 2**32, 2**40, -1, -(2**40)]))
values = st.dictionaries(st.text(max_size=4), st.integers(-5, 5) | st.text(max_size=9), max_size=3)


@st.composite
def runs(draw: st.DrawFn) -> list[TailRecord]:
    """Records in seq order: rising LSNs, and times that usually do not fall."""
    lsn, at = draw(st.integers(1, 2**40)), draw(times)
    records = []
    said = draw(st.sampled_from([st.none(), times, st.none() | times]))
    actor = draw(st.sampled_from([st.none(), st.sampled_from(["ann", "bob", "é"]) | st.none()]))
    for _ in range(draw(st.integers(1, 12))):
        body = msgspec.msgpack.encode(draw(values))
        records.append(TailRecord(lsn, at, draw(said), draw(actor), body))
        lsn += draw(st.sampled_from([1, 2, 1024, 2**32, 2**33]))
        at += draw(steps)
    return records


@given(runs())
def test_a_page_gives_back_its_records(records: list[TailRecord]) -> None:
    page = Page(pack_page(records, has_texts=False))
    assert page.count == len(records)
    assert page.records() == records
    assert [page.record(at) for at in range(page.count)] == records
    assert page.lsns() == [record.lsn for record in records]
    assert page.committed_us() == [record.committed_us for record in records]
    assert not page.has_texts


@given(runs(), st.integers(0, 12), st.integers(0, 14))
def test_a_run_of_messages_is_that_run_of_the_whole(
    records: list[TailRecord], start: int, stop: int
) -> None:
    page = Page(pack_page(records, has_texts=False))
    whole = [decode_json(record.body) for record in records]
    assert page.messages(start, stop, decode_json) == whole[start:stop]
    assert page.messages(0, len(records), decode_json) == whole
    bodies = [bytes(body) for body in page.bodies(start, stop)]
    assert bodies == [record.body for record in records[start:stop]]


def sample(count: int = 5) -> list[TailRecord]:
    return [
        TailRecord(i + 1, 1000 * i, None if i % 2 else i, "ann" if i % 3 else None,
                   msgspec.msgpack.encode({"content": f"message {i}"}))
        for i in range(count)
    ]  # fmt: skip


def test_what_is_decoded_is_fresh_every_time() -> None:
    page = Page(pack_page(sample(), has_texts=False))
    first: list[Any] = page.messages(0, 5, decode_json)
    first[0]["content"] = "changed"
    assert page.messages(0, 5, decode_json)[0]["content"] == "message 0"


def test_a_page_says_whether_it_refers_to_texts() -> None:
    assert Page(pack_page(sample(), has_texts=True)).has_texts


def test_every_truncation_of_a_raw_page_is_refused() -> None:
    raw = pack_page(sample(), has_texts=False)
    for length in range(len(raw)):
        with pytest.raises(CorruptionError):
            Page(raw[:length])
    with pytest.raises(CorruptionError):
        Page(raw + b"\x00")


def test_a_page_of_another_kind_or_a_newer_version_is_refused() -> None:
    raw = pack_page(sample(), has_texts=False)
    with pytest.raises(CorruptionError, match="no tag"):
        Page(b"\x00" + raw[1:])
    with pytest.raises(StoreVersionError, match="version 2, this memopt knows 1"):
        Page(raw[:1] + b"\x02" + raw[2:])


def test_every_flip_and_truncation_of_a_stored_page_is_refused() -> None:
    compressor = Zstd(Budget(64 << 20), dictionary=lambda number: None, raw_bytes_max=1 << 20)
    frame = compressor.encode(pack_page(sample(), has_texts=False), key=b"P1")
    for length in range(len(frame)):
        with pytest.raises((CorruptionError, StoreVersionError)):
            compressor.decode(frame[:length], key=b"P1")
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptionError, StoreVersionError)):
            compressor.decode(bytes(damaged), key=b"P1")
    with pytest.raises(CorruptionError):
        compressor.decode(frame, key=b"P2")
    assert Page(compressor.decode(frame, key=b"P1")).records() == sample()
    compressor.close()
