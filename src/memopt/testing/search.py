"""Looks for texts in every byte of a store's directory: also where they are compressed, and also
where nobody would read any more.

Each page of the database, in use or free, and each frame of a log, valid or left over, is searched
as it is, with its overflowing rows put together, and with everything decoded that looks like a
frame of ours: pages, shared texts, states (against any other state that was found) and values
under any dictionary that was found. The rows that SQLite returns are searched too, table by table,
which says in words where a text is.

A text that was cut in two by a page's border is found by its halves, so every text should be some
sixteen bytes long or more. Not here: opening the store. The directory is only read, so its owner
may be at work; a search of files that change meanwhile may miss what moves.
"""

import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import zstandard

from memopt.codecs.frame import HEADER_BYTES, Method
from memopt.stores.repair import PAGE_BYTES
from memopt.stores.sqlite import checksum_vfs

_DATABASE: Final = "memopt.db"
_FRAME: Final = re.compile(rb"\x4d\x01[\x00-\x03]\x00", re.DOTALL)
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_DICTIONARY_MAGIC: Final = b"\x37\xa4\x30\xec"
_RAW_BYTES_MAX: Final = 64 << 20
_LOG_HEADER_BYTES: Final = 32
_LOG_FRAME_HEADER_BYTES: Final = 24
_USABLE_BYTES: Final = PAGE_BYTES - 8
_TABLE_LEAF: Final = 0x0D
_WHOLE: Final = "whole file"


class Finding(NamedTuple):
    text: str
    file: str
    place: str
    """Such as "row of states", "page 12", "frame 7 (page 12)"; where it had to be decoded, with
    ", decoded" behind it."""


def search(directory: Path, texts: Iterable[str]) -> list[Finding]:
    """Every place in which one of `texts` is found, in any file of the directory."""
    with tempfile.TemporaryDirectory() as scratch:
        # A copy, because the owner's locks keep everybody else out of the database itself.
        copy = Path(scratch) / "copy"
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.sock"))
        return _Search(copy, [*texts]).run()


class _Place(NamedTuple):
    file: str
    words: str
    content: bytes


class _Search:
    def __init__(self, directory: Path, texts: list[str]) -> None:
        self._directory = directory
        self._forms = {text: _forms(text) for text in texts}
        self._found: dict[Finding, None] = {}
        self._bases: dict[int, zstandard.ZstdCompressionDict] = {}
        self._dictionaries: dict[int, zstandard.ZstdCompressionDict] = {}
        self._waiting: list[tuple[_Place, int]] = []
        self._holds: dict[bytes, list[str]] = {}
        """Texts in the values of frames, by header: most frames stand in many places."""

    def run(self) -> list[Finding]:
        places = [place for file in sorted(self._files()) for place in _places(file)]
        places += _rows(self._directory / _DATABASE)
        for place in places:
            self._look(place, place.words)
            at = place.content.find(_DICTIONARY_MAGIC)
            if at >= 0:
                body = place.content[at:]
                self._dictionaries[zlib.crc32(body)] = zstandard.ZstdCompressionDict(body)
        for place in places:
            if place.words != _WHOLE:
                for match in _FRAME.finditer(place.content):
                    self._decode(place, match.start())
        # A state is decoded against another, which may have to be decoded first.
        before = -1
        while self._waiting and len(self._waiting) != before:
            before = len(self._waiting)
            waiting, self._waiting = self._waiting, []
            for place, at in waiting:
                self._decode(place, at)
        return list(self._found)

    def _files(self) -> Iterator[Path]:
        return (path for path in self._directory.rglob("*") if path.is_file())

    def _look(self, place: _Place, words: str) -> None:
        for text in self._texts_in(place.content):
            self._found[Finding(text, place.file, words)] = None

    def _texts_in(self, content: bytes) -> list[str]:
        return [text for text, forms in self._forms.items() if any(f in content for f in forms)]

    def _decode(self, place: _Place, at: int) -> None:
        """Look into the value of what may be a frame; one whose base is not known yet waits."""
        header = place.content[at : at + HEADER_BYTES]
        if header not in self._holds:
            method, payload, known = header[2], place.content[at + HEADER_BYTES :], None
            if method in (Method.ZSTD_DICTIONARY, Method.ZSTD_BASE):
                checksum, payload = int.from_bytes(payload[:4], "little"), payload[4:]
                bases = self._dictionaries if method == Method.ZSTD_DICTIONARY else self._bases
                known = bases.get(checksum)
                if known is None:
                    self._waiting.append((place, at))
                    return
            raw = payload if method == Method.STORED else _decompressed(payload, known)
            if raw is None:
                return
            # Of a stored value the end is not known but where it ends a row, as a state's does.
            self._bases[zlib.crc32(raw)] = zstandard.ZstdCompressionDict(
                raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT
            )
            if method == Method.STORED:
                return
            self._holds[header] = self._texts_in(raw)
        for text in self._holds[header]:
            self._found[Finding(text, place.file, place.words + ", decoded")] = None


def _decompressed(payload: bytes, known: zstandard.ZstdCompressionDict | None) -> bytes | None:
    """The value of a zstd frame, whatever stands behind it; None when it is none."""
    packed = _ZSTD_MAGIC + payload
    try:
        if not 0 < zstandard.frame_content_size(packed) <= _RAW_BYTES_MAX:
            return None
        decompressor = zstandard.ZstdDecompressor(dict_data=known)
        return bytes(decompressor.decompressobj().decompress(packed)) or None
    except zstandard.ZstdError:
        return None


# -- places ---------------------------------------------------------------------------------------


def _places(path: Path) -> Iterator[_Place]:
    """A file as a whole, and piece by piece where it is a database or a log."""
    content = path.read_bytes()
    yield _Place(path.name, _WHOLE, content)
    if path.name == _DATABASE:
        pages = {
            at // PAGE_BYTES + 1: content[at : at + PAGE_BYTES]
            for at in range(0, len(content), PAGE_BYTES)
        }
        for number, page in pages.items():
            yield _Place(path.name, f"page {number}", page)
            yield from _overflowing(path.name, f"page {number}", page, pages)
    elif path.name.startswith(_DATABASE + "-wal"):
        pages = {}
        step = PAGE_BYTES + _LOG_FRAME_HEADER_BYTES
        for index, at in enumerate(range(_LOG_HEADER_BYTES, len(content), step)):
            number = int.from_bytes(content[at : at + 4], "big")
            page = content[at + _LOG_FRAME_HEADER_BYTES : at + step]
            pages[number] = page
            words = f"frame {index} (page {number})"
            yield _Place(path.name, words, page)
        # Overflow pages follow the page that they belong to, so all have to be known first.
        for number, page in pages.items():
            yield from _overflowing(path.name, f"a frame of page {number}", page, pages)


def _overflowing(file: str, words: str, page: bytes, pages: dict[int, bytes]) -> Iterator[_Place]:
    """The rows of a table's leaf that go on in other pages, put together."""
    start = 100 if page[:6] == b"SQLite" else 0
    if len(page) < PAGE_BYTES or page[start] != _TABLE_LEAF:
        return
    for index in range(int.from_bytes(page[start + 3 : start + 5], "big")):
        at = start + 8 + 2 * index
        cell = int.from_bytes(page[at : at + 2], "big")
        size, cell = _varint(page, cell)
        _, cell = _varint(page, cell)
        most = _USABLE_BYTES - 35
        if size <= most:
            yield _Place(file, f"a row in {words}", page[cell : cell + size])
            continue
        least = (_USABLE_BYTES - 12) * 32 // 255 - 23
        local = least + (size - least) % (_USABLE_BYTES - 4)
        local = local if local <= most else least
        row = page[cell : cell + local]
        number = int.from_bytes(page[cell + local : cell + local + 4], "big")
        while len(row) < size and number in pages:
            row += pages[number][4:_USABLE_BYTES]
            number = int.from_bytes(pages[number][:4], "big")
        yield _Place(file, f"a row in {words}", row[:size])


def _rows(database: Path) -> Iterator[_Place]:
    """What SQLite returns, a column at a time."""
    if not database.exists():
        return
    connection = apsw.Connection(str(database), vfs=checksum_vfs())
    try:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (table,) in tables.fetchall():
            for row in connection.execute(f"SELECT * FROM {table}"):
                for value in row:
                    if isinstance(value, str | bytes):
                        content = value.encode() if isinstance(value, str) else value
                        yield _Place(database.name, f"row of {table}", content)
    finally:
        connection.close()


def _varint(page: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(page[at : at + 9]):
        if count == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    return value, len(page)


def _forms(text: str) -> set[bytes]:
    """A text as it may stand in a file: as it is or as JSON escapes it, whole or cut in half."""
    whole = {
        text.encode(),
        json.dumps(text)[1:-1].encode(),
        json.dumps(text, ensure_ascii=False)[1:-1].encode(),
    }
    return {part for form in whole for part in (form[: len(form) // 2], form[len(form) // 2 :])}
