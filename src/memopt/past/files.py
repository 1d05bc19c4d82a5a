"""The files of a history: found, opened, and read a line at a time.

Invariant: what is read is bounded whatever the file is. A line, an unpacked file and an archive
have limits, a link within a folder is not followed, and nothing of an archive is written to disk,
so the names in it do no harm. Not here: what is in the lines.
"""

import codecs
import contextlib
import gzip
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple

import zstandard

from memopt.base.errors import UsageError
from memopt.base.units import GIB, KIB, MIB
from memopt.past.records import Brought
from memopt.past.room import Part, Room, decoding_bytes, reading_bytes

LINE_BYTES_MAX: Final = 32 * MIB
FILES_MAX: Final = 100_000
"""Of one call."""
UNPACKED_BYTES_MAX: Final = 16 * GIB
"""Of one packed file."""
UNPACKED_RATIO_MAX: Final = 250
"""Beyond the first 16 MiB; conversations pack to a fifth."""
_UNPACKED_BYTES_FREE: Final = 16 * MIB
_DIRECTORY_BYTES_MAX: Final = 4 * MIB
"""Of an archive's list of what is in it, which takes ten times as much when it is read."""
_CHUNK_BYTES: Final = 256 * KIB
_ZSTD_WINDOW_MAX: Final = 128 * MIB
_GZIP_MAGIC: Final = b"\x1f\x8b"
_MAGIC_BYTES: Final = 18
"""As long as the header of what zstd packed may be."""
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZIP_MAGIC: Final = b"PK\x03\x04"
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_END_BYTES_MAX: Final = 22 + 65_535
_NAMES_MAX: Final = 16
"""Parts of a path that a name may have."""
_PACKED: Final = (".gz", ".zst")
SUFFIXES: Final = (".jsonl", ".json", ".md", ".markdown", ".zip")
"""What of a folder is looked at, packed or not."""
CONVERSATIONS: Final = re.compile(r"conversations([-_.]?\d+)?\.json", re.IGNORECASE)
"""What in an archive is looked at."""

READ_ERRORS: Final = (
    EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile, zipfile.BadZipFile,
    NotImplementedError,
)  # fmt: skip
"""What a damaged packed file raises, and an archive that is locked or packed unknown."""


class NoRoom(NamedTuple):
    """In the place of a line that there was no room for: with more room, it is there."""

    size_bytes: int

    @property
    def text(self) -> str:
        return f"[{self.size_bytes} bytes were left out]"


class Source(NamedTuple):
    """One file, or one file of an archive."""

    path: Path
    member: str | None = None
    since: datetime | None = None
    """Conversations that ended before are left out, of files that hold several."""

    @property
    def name(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}!{self.member}"

    @property
    def stem(self) -> str:
        """What the file is called, without the suffixes that say what it is."""
        return self.names[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What a conversation in it may be called: as the file; and, as earlier versions had it
        where a folder was named, as more and more of its path."""
        parts = [*self.path.absolute().parent.parts[1:], _bare(self.path.name)][-_NAMES_MAX:]
        printable = [os.fsencode(part).decode("utf-8", "replace") for part in parts]
        return tuple("/".join(printable[at:]) for at in reversed(range(len(parts))))

    @property
    def file(self) -> str:
        """Where it is, from wherever it was named."""
        path = os.fsencode(os.path.abspath(self.path)).decode("utf-8", "replace")
        return path if self.member is None else f"{path}!{self.member}"


def sources(path: Path, report: Brought, since: datetime | None = None) -> Iterator[Source]:
    """The files that a path means, in order, without those that were last written before `since`.
    Raises UsageError for a folder without any, and for too many; OSError for a file that was named
    and cannot be read."""
    if path.is_dir():
        count = 0
        for file in _walk(path, report):
            count += 1
            if count > FILES_MAX:
                raise UsageError(f"more than {FILES_MAX} files", field="PATH")
            try:
                yield from _members(file, report, since)
            except OSError as error:
                report.damage(str(file), unread(error))
            except UsageError as error:
                report.damage(str(file), error.reason)
        if not count:
            raise UsageError(f"no history in {path}, of {' '.join(SUFFIXES)}", field="PATH")
    elif not stat.S_ISREG(path.stat().st_mode):
        raise UsageError("is no file", field=str(path))
    else:
        yield from _members(path, report, since)


def unread(error: OSError) -> str:
    """Why a file cannot be read."""
    return f"it cannot be read: {error.strerror or error}"


def size_of(source: Source) -> int:
    """Bytes of its file as it lies there; of an archive's part, as it is unpacked; 0 where it is no
    longer there."""
    with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile):
        if source.member is None:
            return source.path.stat().st_size
        with zipfile.ZipFile(source.path) as archive:
            return archive.getinfo(source.member).file_size
    return 0


@contextlib.contextmanager
def opened(
    source: Source, read: Callable[[int], None], room: Room
) -> Iterator[IO[bytes]]:  # fmt: skip
    """Its bytes, unpacked on the way; `read` is told how many of the file's own went by."""
    with contextlib.ExitStack() as stack:
        # Without waiting for somebody to write into what is no file.
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        raw = stack.enter_context(open(descriptor, "rb", buffering=0))
        if source.member is not None:
            unpacked: Any = _Counted(_member(raw, source.member, stack), read)
        else:
            unpacked = _unpacked_of(raw, read, room)
        stream = io.BufferedReader(unpacked, _CHUNK_BYTES)
        if stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            stream = io.BufferedReader(_AsUtf8(stream), _CHUNK_BYTES)
        yield stream


def _member(raw: IO[bytes], name: str, stack: contextlib.ExitStack) -> IO[bytes]:
    """A file of an archive. Raises BadZipFile where it cannot be read."""
    archive = stack.enter_context(zipfile.ZipFile(raw))
    try:
        info = archive.getinfo(name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Others may ask for any amount of memory.
            raise zipfile.BadZipFile(f"{name} is packed in a way that is not read")
        # No more than it says is ever unpacked.
        _check_growth(info.file_size, info.compress_size)
        return stack.enter_context(archive.open(info))
    except KeyError:
        raise zipfile.BadZipFile(f"{name} is no longer in it") from None
    except RuntimeError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _unpacked_of(raw: IO[bytes], read: Callable[[int], None], room: Room) -> io.RawIOBase:
    magic = raw.read(_MAGIC_BYTES)
    raw.seek(0)
    counted = _Counted(raw, read)
    if magic.startswith(_GZIP_MAGIC):
        packed: Any = gzip.GzipFile(fileobj=io.BufferedReader(counted, _CHUNK_BYTES))
    elif magic.startswith(_ZSTD_MAGIC):
        _make_window(magic, room.part())
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
        packed = decompressor.stream_reader(
            io.BufferedReader(counted, _CHUNK_BYTES), read_across_frames=True
        )
    else:
        return counted
    return _Limited(packed, counted)


def lines(
    stream: IO[bytes], name: str, report: Brought, room: Room, *, is_text: bool = False,
) -> Iterator[tuple[int, "bytes | NoRoom"]]:  # fmt: skip
    """The lines that are not blank, bare, with their numbers; of a text, all as they are. One that
    is too long, or longer than there is room for, and damage behind which nothing can be read, are
    noted."""
    part = room.part()
    number = 0
    while True:
        number += 1
        try:
            read = line_of(stream, part, LINE_BYTES_MAX)
        except READ_ERRORS as error:
            report.damage(f"{name}:{number}", f"the file is damaged: {error}")
            return
        line = read.line
        if read.refusal is not None:
            report.damage(f"{name}:{number}", read.refusal)
            if not read.is_too_long:
                yield number, NoRoom(read.size_bytes)
            continue
        if not line:
            return
        del read
        if is_text:
            yield number, line
            continue
        if line[:1] == b"{" and line[-2:] == b"}\n":
            # As nearly all are; a large one is held once.
            yield number, line
            continue
        # A system that fell while it wrote may leave zeros.
        stripped = line.strip(b" \t\r\n\0")
        if stripped:
            ended = b"\n" if line.endswith(b"\n") else b""
            yield number, stripped.removeprefix(b"\xef\xbb\xbf") + ended


class ReadLine(NamedTuple):
    line: bytes
    refusal: str | None = None
    """Why it was passed over."""
    size_bytes: int = 0
    is_too_long: bool = False
    """Whatever room there is."""


def line_of(stream: IO[bytes], part: Part, bytes_max: int) -> ReadLine:
    """The next line; empty at the end. Room for what it says is held until the next."""
    line = stream.readline(_CHUNK_BYTES)
    part.fit(0)
    if len(line) < _CHUNK_BYTES or line.endswith(b"\n"):
        return ReadLine(line)
    chunks, size, refusal = [line], len(line), None
    while refusal is None and chunks[-1] and not chunks[-1].endswith(b"\n"):
        if size > bytes_max:
            refusal = f"the line has more than {bytes_max} bytes"
        elif not part.fit(reading_bytes(size + _CHUNK_BYTES)):
            refusal = f"the line has more than {size} bytes: {part.refusal}"
        else:
            chunks.append(stream.readline(_CHUNK_BYTES))
            size += len(chunks[-1])
    if refusal is None:
        line = b"".join(chunks)
        chunks.clear()
        needed = decoding_bytes(line)
        if part.fit(needed):
            return ReadLine(line)
        refusal = f"the line of {size} bytes takes {needed} to read: {part.refusal}"
    else:
        del line
        chunks.clear()
        while rest := stream.readline(_CHUNK_BYTES):
            size += len(rest)
            if rest.endswith(b"\n"):
                break
    part.fit(0)
    return ReadLine(b"", refusal, size, is_too_long=size > bytes_max)


def head_of(source: Source, size: int) -> bytes:
    """Its first bytes, unpacked; fewer where it is damaged."""
    with contextlib.suppress(*READ_ERRORS), opened(source, lambda count: None, Room()) as stream:
        return stream.read(size)
    return b""


def is_archive(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read(4) == _ZIP_MAGIC


def _walk(folder: Path, report: Brought) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report.damage(str(error.filename), unread(error))

    for where, folders, names in os.walk(folder, onerror=unreadable):
        linked = [name for name in folders if Path(where, name).is_symlink()]
        report_links = len(linked)
        folders[:] = sorted(name for name in folders if name not in linked)
        for name in sorted(names):
            path = Path(where, name)
            suffix = PurePosixPath(_unpacked(name)).suffix.lower()
            if suffix not in SUFFIXES:
                continue
            if path.is_symlink():
                report_links += 1
            elif path.is_file():
                yield path
        if report_links:
            report.skip("links, which are not followed", report_links)


def _members(path: Path, report: Brought, since: datetime | None) -> Iterator[Source]:
    if since is not None and path.stat().st_mtime < since.timestamp():
        report.skip("files from before the time that was asked for")
        return
    if not is_archive(path):
        yield Source(path, since=since)
        return
    _check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                info.filename
                for info in archive.infolist()
                # One without a name is no folder, and asking whether it is would fail.
                if info.filename
                and not info.is_dir()
                and CONVERSATIONS.fullmatch(PurePosixPath(info.filename).name)
                and not stat.S_ISLNK(info.external_attr >> 16)
            ]
    except READ_ERRORS as error:
        report.damage(str(path), f"the archive is damaged: {error}")
        return
    if not names:
        report.damage(str(path), "there is no conversations.json in the archive")
    for name in sorted(names):
        yield Source(path, name, since)


def _check_archive(path: Path) -> None:
    """Raises UsageError where the list of what is in it is too long to be read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _ZIP_END_BYTES_MAX))
        end = file.read()
    at = end.rfind(_ZIP_END)
    if at < 0 or at + 16 > len(end):
        return
    (listed,) = struct.unpack_from("<I", end, at + 12)
    if listed > _DIRECTORY_BYTES_MAX:
        raise UsageError(
            f"its list of files has {listed} bytes, at most {_DIRECTORY_BYTES_MAX}: unpack it",
            field=str(path),
        )


def _bare(name: str) -> str:
    """Without the suffixes that say what it is."""
    name = _unpacked(name)
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or name
    return name


def _unpacked(name: str) -> str:
    for suffix in _PACKED:
        name = name.removesuffix(suffix)
    return name


class _Counted(io.RawIOBase):
    """A file that tells how far it was read."""

    def __init__(self, raw: Any, read: Callable[[int], None]) -> None:
        self._raw = raw
        self._read = read
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._raw.readinto(buffer) or 0
        self.count += count
        self._read(count)
        return count


class _AsUtf8(io.RawIOBase):
    """Text in UTF-16, as some shells write what is sent into a file, in UTF-8."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")("replace")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = self._stream.read(_CHUNK_BYTES)
            self._left = self._decoder.decode(chunk, final=not chunk).encode()
            if not chunk:
                break
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


class _Limited(io.RawIOBase):
    """An unpacked file that ends with an error where it grows beyond all measure."""

    def __init__(self, unpacked: Any, packed: _Counted) -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._unpacked.read(len(buffer))
        self._count += len(chunk)
        _check_growth(self._count, self._packed.count)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _make_window(header: bytes, part: Part) -> None:
    """Room for what zstd looks back on. Raises ZstdError where there is none."""
    window = min(zstandard.get_frame_parameters(header).window_size, _ZSTD_WINDOW_MAX)
    if not part.fit(window):
        raise zstandard.ZstdError(f"it is unpacked with {window} bytes at hand: {part.refusal}")


def _check_growth(unpacked_bytes: int, packed_bytes: int) -> None:
    if unpacked_bytes > UNPACKED_BYTES_MAX or (
        unpacked_bytes > _UNPACKED_BYTES_FREE and unpacked_bytes > UNPACKED_RATIO_MAX * packed_bytes
    ):
        raise zlib.error(f"{packed_bytes} bytes unpack to {unpacked_bytes} and more")
