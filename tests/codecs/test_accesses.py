"""Blocks of recorded accesses: whole, cut off, damaged, or something else."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.codecs.accesses import (
    HEADER,
    ROW,
    decode_blocks,
    encode_block,
    is_recording,
    whole_bytes,
)

ROWS = [ROW.pack(page, 16_000 + page, 1500, page / 4) for page in range(7)]
RECORDING = encode_block(ROWS[:3]) + encode_block(ROWS[3:])


def decoded(recording: bytes, step: int = 1 << 20) -> bytes:
    chunks = (recording[at : at + step] for at in range(0, len(recording), step))
    return b"".join(decode_blocks(chunks))


@given(step=st.integers(1, 400))
def test_rows_come_back_in_whatever_chunks_they_arrive(step: int) -> None:
    assert decoded(RECORDING, step) == b"".join(ROWS)


def test_a_cut_off_end_is_left_out_at_every_length() -> None:
    first = HEADER.size + 3 * ROW.size
    for length in range(len(RECORDING)):
        wanted = ROWS[:3] if length >= first else []
        assert decoded(RECORDING[:length]) == b"".join(wanted)
        assert whole_bytes(io.BytesIO(RECORDING[:length])) in (
            {first} if length >= first else {0, None}
        )
    assert whole_bytes(io.BytesIO(RECORDING)) == len(RECORDING)
    assert whole_bytes(io.BytesIO(b"")) == 0


def test_every_flipped_bit_is_noticed() -> None:
    block = encode_block(ROWS[:2])
    for bit in range(8 * len(block)):
        damaged = bytearray(block)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = decoded(bytes(damaged))
        except (CorruptionError, StoreVersionError):
            continue
        # A larger count makes it a block that is cut off: it is left out, and nothing is made up.
        assert found == b""


def test_a_newer_version_is_refused_by_name() -> None:
    newer = bytes([RECORDING[0], 2]) + RECORDING[2:]
    with pytest.raises(StoreVersionError, match="version 2"):
        decoded(newer)
    assert is_recording(newer)
    assert whole_bytes(io.BytesIO(newer)) is None


@pytest.mark.parametrize("text", [b"", b"A", b"A line of text\n", b"{}", b"time,key,size\n"])
def test_what_is_no_recording_is_known(text: bytes) -> None:
    assert not is_recording(text)
    assert is_recording(RECORDING[:16])
