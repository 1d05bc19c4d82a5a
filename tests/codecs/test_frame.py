"""A frame is refused unless every bit of it, and its key, is what was written."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.codecs.frame import HEADER_BYTES, Header, Method, open_frame, pack_frame

KEY = b"page-17"


def sealed(fields: bytes, payload: bytes, key: bytes = KEY) -> bytes:
    """A frame with a right checksum around fields that `pack_frame` would not write."""
    checksum = zlib.crc32(payload, zlib.crc32(fields, zlib.crc32(key)))
    return fields + struct.pack("<I", checksum) + payload


@given(
    payload=st.binary(max_size=300),
    key=st.binary(max_size=40),
    method=st.sampled_from([Method.ZSTD, Method.ZSTD_DICTIONARY, Method.ZSTD_BASE]),
    raw_bytes=st.integers(0, 2**32 - 1),
    dictionary=st.integers(0, 2**32 - 1),
)
def test_a_frame_opens_as_it_was_packed(
    payload: bytes, key: bytes, method: Method, raw_bytes: int, dictionary: int
) -> None:
    frame = pack_frame(payload, key=key, method=method, raw_bytes=raw_bytes, dictionary=dictionary)
    header, found = open_frame(frame, key=key, raw_bytes_max=2**32 - 1)
    assert header == Header(method, dictionary, raw_bytes)
    assert found == payload
    assert len(frame) == HEADER_BYTES + len(payload)


def test_the_bytes_on_disk_are_those_the_module_draws() -> None:
    frame = pack_frame(b"abc", key=b"k", method=Method.ZSTD, raw_bytes=0x0102, dictionary=7)
    fields = bytes([0x4D, 1, 1, 0, 7, 0, 0, 0, 2, 1, 0, 0])
    assert frame == fields + struct.pack("<I", zlib.crc32(b"k" + fields + b"abc")) + b"abc"


def test_every_single_bit_flip_is_refused() -> None:
    frame = pack_frame(b"a payload" * 5, key=KEY, method=Method.ZSTD, raw_bytes=99, dictionary=3)
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptionError, StoreVersionError)):
            open_frame(bytes(damaged), key=KEY, raw_bytes_max=2**32 - 1)


def test_every_truncation_is_refused() -> None:
    frame = pack_frame(b"a payload" * 5, key=KEY, method=Method.ZSTD, raw_bytes=99)
    for length in range(len(frame)):
        with pytest.raises(CorruptionError):
            open_frame(frame[:length], key=KEY, raw_bytes_max=100)


@given(first=st.binary(max_size=20), second=st.binary(max_size=20), payload=st.binary(max_size=20))
def test_a_frame_of_another_key_is_refused(first: bytes, second: bytes, payload: bytes) -> None:
    frame = pack_frame(payload, key=first, method=Method.ZSTD, raw_bytes=5)
    if first != second:
        with pytest.raises(CorruptionError, match="another key"):
            open_frame(frame, key=second, raw_bytes_max=5)


def test_an_unknown_version_is_refused_by_its_number() -> None:
    frame = sealed(struct.pack("<BBBBII", 0x4D, 2, 1, 0, 0, 3), b"abc")
    with pytest.raises(StoreVersionError, match="version 2"):
        open_frame(frame, key=KEY, raw_bytes_max=10)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((0x4E, 1, 1, 0, 0, 3), id="another tag"),
        pytest.param((0x4D, 1, 4, 0, 0, 3), id="an unknown method"),
        pytest.param((0x4D, 1, 1, 1, 0, 3), id="a reserved byte in use"),
        pytest.param((0x4D, 1, 1, 0, 0, 11), id="more than is allowed"),
        pytest.param((0x4D, 1, 0, 0, 0, 4), id="stored bytes of another length"),
    ],
)
def test_fields_that_are_never_written_are_refused_though_the_checksum_holds(
    fields: tuple[int, ...],
) -> None:
    frame = sealed(struct.pack("<BBBBII", *fields), b"abc")
    with pytest.raises(CorruptionError):
        open_frame(frame, key=KEY, raw_bytes_max=10)


def test_a_payload_is_not_copied() -> None:
    frame = pack_frame(b"abc", key=KEY, method=Method.ZSTD, raw_bytes=9)
    _, payload = open_frame(frame, key=KEY, raw_bytes_max=9)
    assert payload.obj is frame
