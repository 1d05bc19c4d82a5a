"""Access traces: found out by their content, read once, kept as arrays.

Owns: what a trace is to a simulation (keys as small integers, a size for each, in order), and how a
file becomes one. Invariant: keys are dense from 0, every key occurs, every size is at least 1.
Not here: the single formats (trace_formats.py), and what is done with a trace (simulation.py).

Everything read is bounded: `requests_max` requests, LINE_BYTES_MAX for a line. A file of another
form, or a line that does not fit its form, is a UsageError that names file and line.
"""

import dataclasses
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from memopt.base.errors import CorruptionError, UsageError
from memopt.base.units import KIB, MIB
from memopt.bench import trace_formats
from memopt.bench.trace_formats import REQUESTS_MAX, Accesses, Source
from memopt.codecs.accesses import is_recording
from memopt.paging.access_log import earlier

LINE_BYTES_MAX: Final = 64 * MIB
_CHUNK_BYTES: Final = 1 * MIB
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_WINDOW_BYTES_MAX: Final = 128 * MIB
_ZSTD_BYTES: Final = 4 * KIB
"""Compressed bytes at a time: of nothing but repetition, they become 128 MiB."""
_MARK: Final = b"\xef\xbb\xbf"
"""That a table is UTF-8, as spreadsheets begin theirs."""

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order. One request is one touch of one key."""

    name: str
    format: str
    """arc, mooncake, agents, csv or memopt."""
    keys: NDArray[np.int32]
    """Of each request: an index of `sizes`."""
    sizes: NDArray[np.int64]
    """Bytes of each key; where a trace changes them, the largest."""
    stored: NDArray[np.int64] | None = None
    """Bytes of each key once compressed, where the trace knows."""
    notes: tuple[str, ...] = ()
    """What was taken for granted or left out."""

    @property
    def requests(self) -> int:
        return len(self.keys)

    @property
    def footprint_bytes(self) -> int:
        """All keys once."""
        return int(self.sizes.sum())

    @property
    def uniform_bytes(self) -> int | None:
        """The size of every key, where there is but one."""
        smallest, largest = int(self.sizes.min()), int(self.sizes.max())
        return smallest if smallest == largest else None


def read_trace(
    path: str | os.PathLike[str],
    *,
    requests: int | None = None,
    block_bytes: int | None = None,
    progress: Progress | None = None,
) -> Trace:
    """The trace in a file, also gzipped or zstd-compressed.

    `requests` takes only so many of its first ones; `block_bytes` is the size of a key where the
    format names none. A recording of memopt begins with the one before it, `….1`, if it is there.
    Raises UsageError naming file and line, CorruptionError for a damaged recording.
    """
    if requests is not None and requests < 1:
        raise UsageError(f"expected at least 1, got {requests}", field="requests")
    if block_bytes is not None and block_bytes < 1:
        raise UsageError(f"expected at least 1, got {block_bytes}", field="block_bytes")
    file = Path(path)
    limit = min(requests or REQUESTS_MAX, REQUESTS_MAX)
    with _Input(file, progress) as lines:
        kind = _kind_of(lines)
        source = Source(
            name=str(file),
            lines=lines.numbered,
            chunks=lines.chunks,
            requests_max=limit,
            block_bytes=block_bytes,
        )
        if kind == "memopt" and (older := earlier(file)).exists():
            with _Input(older, progress) as before:
                found = trace_formats.recorded(source, before.chunks)
        else:
            found = _READERS[kind](source)
    if not len(found.keys):
        raise UsageError("there is not one request in it", field=str(file))
    if requests is None and found.is_cut:
        raise UsageError(
            f"more than {REQUESTS_MAX:,} requests: give a smaller number of them", field=str(file)
        )
    return _dense(file.name, kind, found, limit)


_READERS: Final[dict[str, Callable[[Source], Accesses]]] = {
    "arc": trace_formats.arc,
    "mooncake": trace_formats.mooncake,
    "agents": trace_formats.agents,
    "csv": trace_formats.table,
    "memopt": trace_formats.recorded,
}


class _Input:
    """A file, decompressed as it is read, with the number of the line for whoever reports."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        self.path = path
        self._progress = progress
        try:
            self._size = path.stat().st_size
            self._raw = io.BufferedReader(io.FileIO(path), _CHUNK_BYTES)
        except OSError as error:
            raise UsageError(error.strerror or str(error), field=str(path)) from error
        magic = self._raw.peek(4)[:4]
        stream: Any = self._raw
        if magic.startswith(_GZIP_MAGIC):
            stream = gzip.GzipFile(fileobj=self._raw)
        elif magic == _ZSTD_MAGIC:
            stream = _Frames(self._raw)
        self._stream = io.BufferedReader(stream, _CHUNK_BYTES)

    def __enter__(self) -> "_Input":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._raw.close()

    def peek(self) -> bytes:
        """How it begins, without the mark of UTF-8."""
        with _NamedErrors(self.path):
            start = self._stream.peek(_CHUNK_BYTES)
            if start.startswith(_MARK):
                self._stream.read(len(_MARK))
            return start.removeprefix(_MARK)

    def chunks(self) -> Iterator[bytes]:
        with _NamedErrors(self.path):
            while chunk := self._stream.read(_CHUNK_BYTES):
                self._tell()
                yield chunk

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """(number, line) of every line that is not blank."""
        number = 0
        with _NamedErrors(self.path):
            while line := self._stream.readline(LINE_BYTES_MAX):
                number += 1
                if len(line) == LINE_BYTES_MAX:
                    raise UsageError(
                        f"a line of {LINE_BYTES_MAX} bytes or more",
                        field=f"{self.path}:{number}",
                    )
                if number % 1024 == 0 or len(line) > _CHUNK_BYTES // 16:
                    self._tell()
                if line.strip():
                    yield number, line

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(min(self._raw.tell(), self._size), self._size)


class _Frames(io.RawIOBase):
    """Zstd frames, one behind the other, decompressed as they are read.

    zstandard's own reader lost: it takes a file that was cut off for one that has ended.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
        self._frame: Any = None
        self._held = b""
        """Decompressed, and not read yet."""
        self._at = 0
        self._behind = b""
        """Compressed, behind the frame that ended."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer) and (self._at < len(self._held) or self._next()):
            given = self._held[self._at : self._at + len(buffer) - filled]
            buffer[filled : filled + len(given)] = given
            self._at += len(given)
            filled += len(given)
        return filled

    def _next(self) -> bool:
        """Whether there is more."""
        part = self._behind or self._source.read(_ZSTD_BYTES)
        if not part:
            if self._frame is not None:
                raise EOFError("zstd data ends within a frame")
            return False
        self._frame = self._frame or self._decompressor.decompressobj()
        self._held, self._at, self._behind = self._frame.decompress(part), 0, b""
        if self._frame.eof:
            self._behind, self._frame = self._frame.unused_data, None
        return True


class _NamedErrors:
    """What can go wrong in a file, as one of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError | EOFError | zlib.error | zstandard.ZstdError):
            raise UsageError(f"cannot be read: {error}", field=str(self._path)) from error


def _kind_of(lines: _Input) -> str:
    """The format, by how the content begins."""
    start = lines.peek()
    if is_recording(start):
        return "memopt"
    first = start.split(b"\n", 1)[0].strip()
    if first.startswith(b"{"):
        # An agents' line names its requests before they come; a line may be megabytes long.
        return "agents" if b'"requests"' in first[: _CHUNK_BYTES // 4] else "mooncake"
    words = first.split()
    if len(words) == 4 and all(word.isdigit() for word in words):
        return "arc"
    if b"key" in [name.strip().strip(b'"').lower() for name in first.split(b",")]:
        return "csv"
    raise UsageError(
        "is no trace of a known form: ARC (start count 0 request), JSONL with hash_ids or with "
        "requests, CSV with a header that names key, or accesses that memopt recorded",
        field=f"{lines.path}:1",
    )


def _dense(name: str, kind: str, found: Accesses, limit: int) -> Trace:
    """Keys as indices, in the order of the keys; a size for each."""
    keys, sizes, stored, notes = found.keys, found.sizes, found.stored, list(found.notes)
    if len(keys) > limit:
        keys = keys[:limit]
        sizes = sizes[:limit] if isinstance(sizes, np.ndarray) else sizes
        stored = stored[:limit] if stored is not None else None
    known, dense = np.unique(keys, return_inverse=True)
    count = len(known)
    of_key = _largest(dense, sizes, count)
    if isinstance(sizes, np.ndarray):
        changed = int((of_key[dense] != sizes).sum())
        if changed:
            notes.append(f"{changed:,} requests name another size than the key's largest")
    if int(of_key.min()) < 1:
        raise CorruptionError(f"{name}: a size below 1")
    return Trace(
        name=name,
        format=kind,
        keys=dense.astype(np.int32).reshape(-1),
        sizes=of_key,
        stored=_largest(dense, stored, count) if stored is not None else None,
        notes=tuple(notes),
    )


def _largest(
    dense: NDArray[np.intp], sizes: NDArray[np.int64] | int, count: int
) -> NDArray[np.int64]:
    if isinstance(sizes, int):
        return np.full(count, sizes, dtype=np.int64)
    of_key = np.zeros(count, dtype=np.int64)
    np.maximum.at(of_key, dense.reshape(-1), sizes)
    return of_key
