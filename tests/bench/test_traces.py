"""Every form of trace is known by its content, and a bad line is named."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError, MemoptError, UsageError
from memopt.bench import data, trace_formats, traces
from memopt.bench.traces import Trace, read_trace
from memopt.codecs.accesses import ROW, encode_block

ARC = b"100 3 0 0\n7 1 0 1\n101 1 0 2\n"
MOONCAKE = b"""{"timestamp": 0, "input_length": 9, "output_length": 5, "hash_ids": [0, 5, 9]}

{"timestamp": 3, "hash_ids": [0, 7]}
"""
AGENTS = b"""{"id":"a","block_size":64,"requests":[{"t":0.0,"hash_ids":[1,2]},\
{"t":9.5,"hash_ids":[1,2,3]}]}
{"id":"b","block_size":64,"requests":[{"t":0.0,"hash_ids":[1]},{"t":4,"type":"subagent","requests":[\
{"t":1.0,"hash_ids":[8]},{"t":7.0,"hash_ids":[8,9]}]},{"hash_ids":[1]}]}
"""
CSV = b'time,key,size\n1,a,10\n2.5,"b, c",20\n3,a,30\n'
RECORDED = encode_block([ROW.pack(page, 1000 + page, 100, 1.0) for page in (4, 9, 4)])


def written(directory: Path, content: bytes, name: str = "trace") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def order_of(trace: Trace) -> list[int]:
    """Keys, numbered as they come up: what a form calls them is lost on purpose."""
    seen: dict[int, int] = {}
    return [seen.setdefault(key, len(seen)) for key in trace.keys.tolist()]


@pytest.mark.parametrize(
    ("content", "form", "order", "sizes"),
    [
        (ARC, "arc", [0, 1, 2, 3, 1], {512}),
        (MOONCAKE, "mooncake", [0, 1, 2, 0, 3], {2048}),
        # a: 1 2 at 0, b: 1 at 0, b's subagent: 8 at 5, a: 1 2 3 at 9.5, b: 8 9 and 1 at 11 and 4
        (AGENTS, "agents", [0, 1, 2, 2, 3, 0, 1, 4, 3, 5], {256}),
        (CSV, "csv", [0, 1, 0], {20, 30}),
        (RECORDED, "memopt", [0, 1, 0], {1004, 1009}),
    ],
    ids=["arc", "mooncake", "agents", "csv", "memopt"],
)
@pytest.mark.parametrize(
    "packed", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"]
)
def test_a_form_is_known_by_its_content(
    tmp_path: Path,
    content: bytes,
    form: str,
    order: list[int],
    sizes: set[int],
    packed: Callable[[bytes], bytes],
) -> None:
    trace = read_trace(written(tmp_path, packed(content)))
    assert trace.format == form
    assert order_of(trace) == order
    assert set(trace.sizes.tolist()) == sizes
    assert sorted(set(trace.keys.tolist())) == list(range(len(trace.sizes)))
    assert trace.footprint_bytes == int(trace.sizes.sum())
    assert trace.uniform_bytes == (sizes.copy().pop() if len(sizes) == 1 else None)


def test_only_so_many_requests_are_taken(tmp_path: Path) -> None:
    for content in (ARC, MOONCAKE, AGENTS, CSV, RECORDED):
        path = written(tmp_path, content)
        whole = order_of(read_trace(path))
        for count in range(1, len(whole) + 2):
            assert order_of(read_trace(path, requests=count)) == whole[:count]
    with pytest.raises(UsageError, match="requests"):
        read_trace(path, requests=0)


def test_a_trace_of_too_many_requests_is_refused_unless_fewer_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "REQUESTS_MAX", 4)
    monkeypatch.setattr(trace_formats, "REQUESTS_MAX", 4)
    for content in (ARC, MOONCAKE, AGENTS):
        path = written(tmp_path, content)
        with pytest.raises(UsageError, match="more than 4 requests"):
            read_trace(path)
    assert read_trace(written(tmp_path, ARC), requests=4).requests == 4


def test_the_size_of_a_key_can_be_given_where_the_form_has_none(tmp_path: Path) -> None:
    for content in (ARC, MOONCAKE, AGENTS, b"key\na\nb\n"):
        trace = read_trace(written(tmp_path, content), block_bytes=4096)
        assert trace.uniform_bytes == 4096
    assert read_trace(written(tmp_path, CSV), block_bytes=4096).sizes.max() == 30
    with pytest.raises(UsageError, match="block_bytes"):
        read_trace(written(tmp_path, ARC), block_bytes=0)


def test_rows_of_csv_are_sorted_by_time_and_columns_found_by_name(tmp_path: Path) -> None:
    content = b'Size, extra ,KEY,"Time"\r\n5,x,late,9\r\n6,y,early,-1e3\r\n'
    trace = read_trace(written(tmp_path, content))
    assert trace.sizes[trace.keys].tolist() == [6, 5]
    assert any("sorted" in note for note in trace.notes)


def test_a_size_that_changes_is_noted(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, CSV))
    assert trace.sizes[trace.keys[0]] == 30
    assert any("1 requests name another size" in note for note in trace.notes)


def test_a_recording_begins_with_the_one_before_it(tmp_path: Path) -> None:
    written(tmp_path, encode_block([ROW.pack(1, 50, 5, 0.0)]), "accesses.1")
    trace = read_trace(written(tmp_path, RECORDED, "accesses"))
    assert order_of(trace) == [0, 1, 2, 1]
    assert trace.stored is not None
    assert sorted(trace.stored.tolist()) == [5, 100, 100]


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    damaged = bytearray(RECORDED)
    damaged[-1] ^= 8
    with pytest.raises(CorruptionError, match="trace: the block of accesses at byte 0"):
        read_trace(written(tmp_path, bytes(damaged)))


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"1 1 0 0\n1 1 0\n", 2, "four whole numbers"),
        (b"1 1 0 0\n\n1 x 0 0\n", 3, "four whole numbers"),
        (b"1 1 0 0\n1 0 0 0\n", 2, "how many"),
        (b"1 1 0 0\n-1 1 0 0\n", 2, "a block"),
        (b"1 1 0 0\n1 99999999999 0 0\n", 2, "how many"),
        (b"1 1 0 0\n" + b"9" * 5000 + b" 1 0 0\n", 2, "whole numbers"),
        (b'{"hash_ids": [1]}\n{"hash_ids": [1.5]}\n', 2, "int"),
        (b'{"hash_ids": [1]}\n{"hash_ids": [-1]}\n', 2, "hash_ids"),
        (b'{"hash_ids": [1]}\n{"hash_ids": [18446744073709551616]}\n', 2, "hash_ids"),
        (b'{"hash_ids": [1]}\n{"nothing": 1}\n', 2, "hash_ids"),
        (b'{"hash_ids": [1]}\nnonsense\n', 2, "malformed"),
        (b'{"hash_ids": [1]}\n{"hash_ids": \xff}\n', 2, "malformed"),
        (b'{"requests": 5}\n', 1, "array"),
        (b'{"block_size": 0, "requests": []}\n', 1, "tokens"),
        (b'{"requests": []}\n{"block_size": 16, "requests": []}\n', 2, "blocks of 16"),
        (b'{"requests": [{"hash_ids": [2199023255552]}]}\n', 1, "hash_ids"),
        pytest.param(b'{"requests": ' + b'[{"requests":' * 5000 + b"\n", 1, "recursion", id="deep"),
        (b"key,size\na,1\nb\n", 3, "2 fields"),
        (b"key,size\na,1\nb,0\n", 3, "bytes"),
        (b"key,size\na,1\nb,1e3\n", 3, "bytes"),
        (b"time,key\nnan,a\n", 2, "time"),
        (b"time,key\n1,\xff\n", 2, "CSV"),
        (b'key\n"a\n', 2, "CSV"),
        (b"hello\n", 1, "no trace of a known form"),
        (b"", 1, "no trace"),
        (b"\x00\x01\x02", 1, "no trace"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, line: int, reason: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UsageError, match=reason) as caught:
        read_trace(path)
    assert caught.value.field == f"{path}:{line}"


@pytest.mark.parametrize("content", [b"key,size\n", b'{"hash_ids": []}\n', b'{"requests": []}\n'])
def test_a_trace_without_a_request_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match="not one request"):
        read_trace(written(tmp_path, content))


def test_a_file_that_is_cut_or_damaged_or_absent_is_a_usage_error(tmp_path: Path) -> None:
    content = b"".join(
        b"%d 1 0 0\n" % each for each in np.random.default_rng(1).integers(1e9, size=9999)
    )
    for packed in (gzip.compress(content), zstandard.compress(content)):
        damaged = bytearray(packed)
        damaged[len(packed) // 2] ^= 255
        for bad in (packed[: len(packed) // 2], bytes(damaged)):
            path = written(tmp_path, bad)
            with pytest.raises(UsageError):
                read_trace(path)
    with pytest.raises(UsageError):
        read_trace(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        read_trace(tmp_path)


@pytest.mark.parametrize("cut", [1, 5, 500])
def test_a_zstd_file_may_have_many_frames_and_none_may_be_cut(tmp_path: Path, cut: int) -> None:
    lines = [b"%d 1 0 0\n" % n for n in range(9999)]
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    frames = skippable.join(
        zstandard.compress(b"".join(part)) for part in (lines[:5000], lines[5000:])
    )
    assert read_trace(written(tmp_path, frames)).requests == 9999
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(written(tmp_path, frames[:-cut]))


def test_a_table_may_begin_with_the_mark_of_utf_8(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, b"\xef\xbb\xbfkey,size\na,3\nb,4\n"))
    assert (trace.format, trace.sizes.tolist()) == ("csv", [3, 4])


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "LINE_BYTES_MAX", 100)
    path = written(tmp_path, b"1 1 0 0\n" + b"1" * 1000)
    with pytest.raises(UsageError, match="100 bytes or more") as caught:
        read_trace(path)
    assert caught.value.field == f"{path}:2"


@given(content=st.binary(max_size=200), start=st.sampled_from([b"", ARC, MOONCAKE, CSV, RECORDED]))
def test_whatever_is_in_a_file_there_is_a_trace_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), start + content)
    try:
        trace = read_trace(path)
    except MemoptError:
        return
    assert trace.requests


@pytest.mark.parametrize(
    ("name", "requests", "keys"),
    [
        ("cache_traces/arc_OLTP.lis.zst", 914_145, 186_880),
        ("kv_traces/mooncake_conversation_trace.jsonl.gz", 288_500, 182_790),
    ],
)
def test_real_traces_have_the_sizes_that_are_published(name: str, requests: int, keys: int) -> None:
    path = data.find(name)
    if path is None:
        pytest.skip("the data is not here")
    told: list[tuple[int, int]] = []
    trace = read_trace(path, progress=lambda done, total: told.append((done, total)))
    assert (trace.requests, len(trace.sizes)) == (requests, keys)
    assert all(0 <= done <= total for done, total in told)
