"""The default embedder: one int8 vector for each word piece, no model, no network.

Owns: the table, mapped from its file, and the cutting of texts. Invariant: the vector of a text
depends on that text and the table alone, not on what is embedded beside it. Not here: how a table
is made (tools/distill_static.py), and its licence and limits (MODEL_CARD.md).

A text's vector is the sum of its pieces' vectors, made unit length. How little a frequent piece
says is in the length of its vector already. A text is gathered and summed by itself: its rows fit
the processor's cache, so that is faster than a batch in one go.
"""

import contextlib
import mmap
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from memopt.base.errors import CorruptionError, StoreVersionError, UsageError
from memopt.embedding.pieces import WordPieces
from memopt.embedding.vectors import products, texts_of

SHIPPED: Final = Path(__file__).with_name("static-minilm-256.bin")
TAG: Final = b"mSte"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sHHIIII40s")
"""Tag, version, dimensions, pieces, bytes of the vocabulary packed and unpacked, CRC-32 of all but
itself, space."""
CHECKSUM_AT: Final = 20
_COLUMNS_BYTES: Final = 8
"""Of a piece, beside its vector: scale and weight."""
_LENGTH_BYTES: Final = 4
_DIMENSIONS_MAX: Final = 4096
_VOCABULARY_BYTES_MAX: Final = 4 << 20
_READ_BYTES: Final = 1 << 18
_TEXTS_AT_ONCE: Final = 256
_ROWS_AT_ONCE: Final = 256
"""Of a long text: what they need besides stays in a core's cache."""


class TableShape(NamedTuple):
    """What a file says of itself."""

    space: str
    dimensions: int
    pieces: int


class StaticTable(NamedTuple):
    """What a file holds. A piece's vector is its row times its scale; its weight is in that."""

    space: str
    rows: Any
    """int8 (pieces, dimensions)."""
    scales: Any
    """float32 (pieces): 0 where a piece says nothing."""
    weights: Any
    """float32 (pieces): how much a piece says, from 0 to 1."""
    vocabulary: tuple[str, ...]


class StaticEmbedder:
    """Embeds by a table. Thread-safe; the file is verified at once, and mapped when a text is first
    embedded, so whoever asks what it takes and finds it too much has taken nothing.

    Raises CorruptionError for a damaged file, StoreVersionError for one of a later version.
    """

    def __init__(self, path: str | Path = SHIPPED) -> None:
        self._path = Path(path)
        self._shape = table_shape(self._path)
        self._mapped: StaticTable | None = None
        self._pieces: WordPieces | None = None
        self._lengths: Any = None
        """float32 (pieces): of each row, 0 until it was looked at."""
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        return self._path

    @property
    def space(self) -> str:
        return self._shape.space

    @property
    def dimensions(self) -> int:
        return self._shape.dimensions

    def embed(self, texts: Sequence[str]) -> Any:
        """float32 (len(texts), dimensions), of unit length; zeros for a text without a piece that
        says something."""
        found = texts_of(texts)
        vectors = np.empty((len(found), self.dimensions), np.float32)
        for start in range(0, len(found), _TEXTS_AT_ONCE):
            some = found[start : start + _TEXTS_AT_ONCE]
            vectors[start : start + len(some)] = self.pooled(*self._word_pieces().cut(some))
        return vectors

    def pieces(self, texts: Sequence[str], *, limit: int | None = None) -> tuple[Any, Any]:
        """(pieces, starts): u16 numbers of all texts' pieces in order, and where each text begins
        among them, i64 (len(texts) + 1). Of each text, at most its first `limit`."""
        return self._word_pieces().cut(texts_of(texts), limit=limit)

    def pooled(self, pieces: Any, starts: Any) -> Any:
        """What embed() returns, from pieces() of the same texts without a limit."""
        _, rows, scales, _, _ = self._table
        sums = np.zeros((len(starts) - 1, rows.shape[1]), np.float32)
        for text, (start, stop) in enumerate(pairwise(starts.tolist())):
            for first in range(start, stop, _ROWS_AT_ONCE):
                # By integers of its own kind, numpy takes rows several times as fast.
                places = pieces[first : min(first + _ROWS_AT_ONCE, stop)].astype(np.intp)
                some = rows.take(places, 0).astype(np.float32)
                sums[text] += scales.take(places).dot(some)
        lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))
        sums /= np.where(lengths > 0, lengths, 1)[:, None]
        return sums

    def piece_vectors(self, pieces: Any) -> Any:
        """float32 (len(pieces), dimensions): each piece's own direction, of unit length or 0."""
        places = np.asarray(pieces, np.intp)
        vectors = self._table.rows.take(places, 0).astype(np.float32)
        vectors /= self._row_lengths(places)[:, None]
        return vectors

    def piece_likeness(self, pieces: Any, vectors: Any) -> Any:
        """float32 (len(pieces), len(vectors)): piece_vectors(pieces) @ vectors.T. Whole numbers are
        multiplied, and what they come to divided: in half the time."""
        rows, places = self._table.rows, np.asarray(pieces, np.intp)
        found = np.empty((len(places), len(vectors)), np.float32)
        for at in range(0, len(places), _ROWS_AT_ONCE):
            some = rows.take(places[at : at + _ROWS_AT_ONCE], 0).astype(np.float32)
            found[at : at + len(some)] = products(some, vectors)
        found /= self._row_lengths(places)[:, None]
        return found

    def _row_lengths(self, places: Any) -> Any:
        """float32: how long these rows are, 1 for one of zeros. Each is looked at once."""
        if self._lengths is None:
            self._lengths = np.zeros(self._shape.pieces, np.float32)
        lengths = self._lengths
        new = np.unique(places[lengths.take(places) == 0])
        for at in range(0, len(new), _ROWS_AT_ONCE):
            some = new[at : at + _ROWS_AT_ONCE]
            rows = self._table.rows.take(some, 0).astype(np.float32)
            found = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            lengths[some] = np.where(found > 0, found, 1)
        return lengths.take(places)

    def piece_weights(self, pieces: Any) -> Any:
        """float32 (len(pieces)): how much each says, near 0 where all texts have it."""
        return self._table.weights[pieces]

    def charged_bytes(self) -> int:
        """The table, as if all of it were resident, its rows' lengths, and the vocabulary."""
        _, dimensions, pieces = self._shape
        table = pieces * (dimensions + _COLUMNS_BYTES + _LENGTH_BYTES)
        return table + WordPieces.bytes_of(pieces)

    @property
    def _table(self) -> StaticTable:
        if self._mapped is None:
            with self._lock:
                if self._mapped is None:
                    self._mapped = self._opened()
        return self._mapped

    def _opened(self) -> StaticTable:
        table = open_table(self._path)
        if (table.space, *table.rows.shape[::-1]) != self._shape:
            raise CorruptionError(f"{self._path} was replaced by another table")
        return table

    def _word_pieces(self) -> WordPieces:
        if self._pieces is None:
            vocabulary = self._table.vocabulary
            with self._lock:
                if self._pieces is None:
                    self._pieces = WordPieces(vocabulary)
        return self._pieces


def table_shape(path: Path) -> TableShape:
    """Verify a file, without keeping anything of it. Raises as `open_table`."""
    with _verified(path) as (_, fields):
        return TableShape(_space_of(path, fields), fields[2], fields[3])


def open_table(path: Path) -> StaticTable:
    """Verify a file, without making it resident, and map it. Raises UsageError where there is
    none, CorruptionError where it is damaged, StoreVersionError for another version."""
    with _verified(path) as (file, fields):
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _mapped(path, mapped, fields)


@contextlib.contextmanager
def _verified(path: Path) -> Iterator[tuple[BinaryIO, tuple[Any, ...]]]:
    """A file, and the fields of its header."""
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            header = file.read(HEADER.size)
            if len(header) < HEADER.size or not header.startswith(TAG):
                raise CorruptionError(f"{path} is no table of static vectors")
            fields = HEADER.unpack(header)
            _check_layout(path, fields, size_bytes)
            _check_sum(path, file, header, fields[6])
            yield file, fields
    except OSError as error:
        raise UsageError(f"cannot be read: {error}", field="embedder") from error


def _space_of(path: Path, fields: tuple[Any, ...]) -> str:
    try:
        space = str(fields[7].rstrip(b"\0"), "utf-8")
    except UnicodeDecodeError as error:
        raise CorruptionError(f"the space of {path} is no text") from error
    if not space:
        raise CorruptionError(f"{path} names no space")
    return space


def pack_table(table: StaticTable) -> bytes:
    """The file of a table."""
    names = "\n".join(table.vocabulary).encode()
    packed = zlib.compress(names, 9)
    pieces, dimensions = table.rows.shape
    tail = b"".join(
        (
            np.ascontiguousarray(table.scales, "<f4").tobytes(),
            np.ascontiguousarray(table.weights, "<f4").tobytes(),
            np.ascontiguousarray(table.rows, "i1").tobytes(),
            packed,
        )
    )
    counts = (dimensions, pieces, len(packed), len(names))
    space = table.space.encode()
    bare = HEADER.pack(TAG, VERSION, *counts, 0, space)
    return HEADER.pack(TAG, VERSION, *counts, zlib.crc32(tail, zlib.crc32(bare)), space) + tail


def _check_layout(path: Path, fields: tuple[Any, ...], size_bytes: int) -> None:
    """Before anything is allocated."""
    _, version, dimensions, pieces, packed_bytes, names_bytes, _, _ = fields
    if version != VERSION:
        raise StoreVersionError(f"{path} has version {version}, this release reads {VERSION}")
    if not (0 < dimensions <= _DIMENSIONS_MAX and 0 < pieces <= 1 << 16):
        raise CorruptionError(f"{path} declares {pieces} pieces of {dimensions} dimensions")
    if names_bytes > _VOCABULARY_BYTES_MAX:
        raise CorruptionError(f"{path} declares a vocabulary of {names_bytes} bytes")
    expected = HEADER.size + pieces * (_COLUMNS_BYTES + dimensions) + packed_bytes
    if size_bytes != expected:
        raise CorruptionError(f"{path} has {size_bytes} bytes, its header says {expected}")


def _check_sum(path: Path, file: Any, header: bytes, expected: int) -> None:
    """By reading: what is read is not resident afterwards, what is looked at in a mapping is."""
    found = zlib.crc32(header[:CHECKSUM_AT] + bytes(4) + header[CHECKSUM_AT + 4 :])
    while block := file.read(_READ_BYTES):
        found = zlib.crc32(block, found)
    if found != expected:
        raise CorruptionError(f"the checksum of {path} is {found:#010x}, expected {expected:#010x}")


def _mapped(path: Path, mapped: mmap.mmap, fields: tuple[Any, ...]) -> StaticTable:
    _, _, dimensions, pieces, packed_bytes, names_bytes, _, _ = fields
    at = HEADER.size
    scales = np.frombuffer(mapped, "<f4", pieces, at)
    weights = np.frombuffer(mapped, "<f4", pieces, at + 4 * pieces)
    rows = np.frombuffer(mapped, "i1", pieces * dimensions, at + 8 * pieces)
    packed = mapped[-packed_bytes:] if packed_bytes else b""
    try:
        names = zlib.decompressobj().decompress(packed, names_bytes + 1).decode()
        table = StaticTable(
            _space_of(path, fields),
            rows.reshape(pieces, dimensions),
            scales,
            weights,
            tuple(names.split("\n")),
        )
    except (zlib.error, ValueError) as error:
        raise CorruptionError(f"the names in {path} cannot be read: {error}") from error
    if len(table.vocabulary) != pieces or len(names.encode()) != names_bytes:
        raise CorruptionError(f"{path} names {len(table.vocabulary)} pieces and has {pieces}")
    return table
