"""A tail record comes back whole, for its own place only, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.codecs.record import TailRecord, open_record, pack_record

lsns = st.integers(min_value=0, max_value=2**63 - 1)
times = st.integers(min_value=-(2**63), max_value=2**63 - 1)
lines = st.integers(min_value=0, max_value=2**39 - 1)
seqs = st.integers(min_value=0, max_value=2**24 - 1)
records = st.builds(
    TailRecord, lsns, times, st.none() | times, st.none() | st.text(min_size=1, max_size=20),
    st.binary(max_size=60),
)  # fmt: skip


def packed(line: int, seq: int, record: TailRecord) -> bytes:
    return pack_record(
        line, seq, lsn=record.lsn, committed_us=record.committed_us, said_us=record.said_us,
        actor=record.actor, body=record.body,
    )  # fmt: skip


@given(lines, seqs, records)
def test_a_record_comes_back_as_it_was(line: int, seq: int, record: TailRecord) -> None:
    assert open_record(line, seq, packed(line, seq, record)) == record


@given(lines, seqs, records, st.data())
def test_a_record_with_one_bit_flipped_is_refused(
    line: int, seq: int, record: TailRecord, data: st.DataObject
) -> None:
    whole = packed(line, seq, record)
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptionError, match=f"message {seq}"):
        open_record(line, seq, bytes(damaged))


SAMPLES = [
    TailRecord(7, 8, None, None, b"\x81\xa1a\x01"),
    TailRecord(7, 8, 9, None, b""),
    TailRecord(7, 8, None, "ann", b"\x80"),
    TailRecord(7, 8, -9, "änn", b"\x81\xa1a\x01"),
]


@pytest.mark.parametrize("record", SAMPLES)
def test_every_flip_and_every_truncation_is_refused(record: TailRecord) -> None:
    whole = packed(3, 4, record)
    for length in range(len(whole)):
        with pytest.raises(CorruptionError, match="message 4"):
            open_record(3, 4, whole[:length])
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError, match="message 4"):
            open_record(3, 4, bytes(damaged))
    for extra in (b"\x00", b"xx"):
        with pytest.raises(CorruptionError, match="message 4"):
            open_record(3, 4, whole + extra)


@pytest.mark.parametrize(("line", "seq"), [(3, 5), (4, 4), (4, 3), (0, 0)])
@pytest.mark.parametrize("record", SAMPLES)
def test_a_record_in_anothers_place_is_refused(record: TailRecord, line: int, seq: int) -> None:
    with pytest.raises(CorruptionError, match=f"message {seq}"):
        open_record(line, seq, packed(3, 4, record))


@pytest.mark.parametrize("record", SAMPLES)
def test_a_record_of_a_newer_version_is_refused_by_name(
    record: TailRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memopt.codecs.record._VERSION", 2)
    newer = packed(3, 4, record)
    monkeypatch.undo()
    with pytest.raises(StoreVersionError, match="version 2, this memopt knows 1"):
        open_record(3, 4, newer)
