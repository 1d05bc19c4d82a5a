"""What the index knows of recallable texts: arrays of one length, never objects.

Owns: the arrays and their bytes. An entry refers to its place (source, seq) and does not hold the
text: a message is (line, seq), a stated memory or a piece of a document (-item, version).
Invariant: all arrays of one Entries have its length, ragged ones begin at 0 and never go back, and
what `decode` returns is what `encode` was given. Not here: postings (index), compression and keys
of the row that the bytes lie in.

Encoded, little-endian: tag u8, version u8, bits of a vector's number u8, 0, entries u32,
dimensions u16, bytes of the space u16, CRC-32 of everything else u32; the space in UTF-8; then the
columns. A column of integers: width u8, coding u8 (plain, or differences), count u32, base i64, and
count numbers of `width` bytes each to be added to the base. Terms are numbers into the sorted
column of hashes before them.
"""

import dataclasses
import itertools
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self, cast

import numpy as np

from memopt.base.errors import CorruptionError, StoreVersionError, UsageError
from memopt.base.recall_protocols import Embedder, PieceEmbedder
from memopt.codecs.arrays import pack_nibbles, unpack_nibbles
from memopt.codecs.vectors import quantise
from memopt.text.analysis import Analyser, name_of

TAG: Final = 0x49
VERSION: Final = 1
ENTRIES_MAX: Final = 1 << 20
TERMS_MAX: Final = 1 << 25
"""Both of one segment."""
PIECES_MAX: Final = 64
"""Of one entry."""
DIMENSIONS_MAX: Final = 4096
SPACE_BYTES_MAX: Final = 1024
VECTOR_BITS: Final = (8, 4)
BATCH: Final = 256
"""Texts that are embedded in one call."""

_HEAD: Final = struct.Struct("<BBBBIHHI")
_COLUMN: Final = struct.Struct("<BBIq")
_PLAIN: Final = 0
_STEPS: Final = 1

Array = np.ndarray[Any, Any]
_COLUMNS: Final = {
    "source": np.int64,
    "seq": np.int32,
    "at_us": np.int64,
    "role": np.uint8,
    "kind": np.uint8,
    "flags": np.uint16,
    "speaker": np.uint32,
    "chars": np.uint32,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A text on its way into the index."""

    source: int
    """The line of a message; minus the item of a stated memory or a document's piece."""
    seq: int
    at_us: int
    """When it was said, µs since 1970 UTC."""
    text: str
    role: int = 0
    """See Role."""
    kind: int = 0
    """0 for an episode; the others are the items' to number."""
    speaker: str | None = None
    """Who said it, where messages bear names."""


class Role:
    """Numbers of the column `role`."""

    OTHER: Final = 0
    USER: Final = 1
    ASSISTANT: Final = 2
    TOOL: Final = 3
    SYSTEM: Final = 4
    HEADING: Final = 5
    """Names what follows it in its run, such as the title of a page."""

    @staticmethod
    def of(name: object) -> int:
        """Of a message's role as it stands there."""
        return _ROLES.get(name, Role.OTHER) if isinstance(name, str) else Role.OTHER


_ROLES: Final = {
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "heading": Role.HEADING,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entries:
    """Arrays of one length, and three ragged or wide ones."""

    space: str
    """Of the vectors; empty where there are none."""
    source: Array
    seq: Array
    at_us: Array
    role: Array
    kind: Array
    flags: Array
    """See memopt.text.analysis.Flag."""
    speaker: Array
    """name_of the speaker, 0 for none."""
    chars: Array
    """Characters of the text."""
    terms_start: Array
    """u32 (n + 1): the terms of entry i are terms[terms_start[i] : terms_start[i + 1]]."""
    terms: Array
    """u32 hashes of stems, in order."""
    pieces_start: Array
    pieces: Array
    """u16 word pieces: the different ones among the first PIECES_MAX of an entry, rising; none
    where the embedder has none."""
    vectors: Array
    """i8 (n, dimensions)."""
    scales: Array
    """f16 (n): vectors * scales are of unit length, or zero."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def charged_bytes(self) -> int:
        """Bytes of the arrays, and of the objects around them."""
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
        return sum(a.nbytes + 112 for a in arrays if isinstance(a, np.ndarray)) + 256

    @classmethod
    def of(
        cls,
        drafts: Sequence[Draft],
        *,
        embedder: Embedder | None,
        analyser: Analyser,
    ) -> Self:
        """The entries of these texts, in their order. Without an embedder they are found by words
        alone. Raises UsageError when the embedder's vectors are not of its dimensions."""
        analysed = [analyser.analyse(draft.text) for draft in drafts]
        embedded = _embedded([draft.text for draft in drafts], embedder)
        terms = list(itertools.chain.from_iterable(a.terms for a in analysed))
        columns: dict[str, list[int]] = {
            "source": [d.source for d in drafts],
            "seq": [d.seq for d in drafts],
            "at_us": [d.at_us for d in drafts],
            "role": [d.role for d in drafts],
            "kind": [d.kind for d in drafts],
            "flags": [a.flags for a in analysed],
            "speaker": [name_of(d.speaker) for d in drafts],
            "chars": [len(d.text) for d in drafts],
        }
        return cls(
            space=embedder.space if embedder else "",
            terms_start=_starts([len(a.terms) for a in analysed]),
            terms=np.array(terms, np.uint32),
            pieces_start=_starts(embedded.counts),
            pieces=embedded.pieces,
            vectors=embedded.codes,
            scales=embedded.scales,
            **{name: np.array(columns[name], kind) for name, kind in _COLUMNS.items()},
        )

    def placed(self, draft: Draft) -> "Entries":
        """This one entry as that of another draft with the same text."""
        columns: dict[str, Any] = {
            "source": draft.source, "seq": draft.seq, "at_us": draft.at_us, "role": draft.role,
            "kind": draft.kind, "speaker": name_of(draft.speaker),
        }  # fmt: skip
        arrays = {name: np.array([value], _COLUMNS[name]) for name, value in columns.items()}
        return dataclasses.replace(self, **cast(dict[str, Any], arrays))

    @classmethod
    def concat(cls, parts: Sequence["Entries"]) -> "Entries":
        """One after the other. Raises UsageError where their vectors are of different spaces."""
        if not parts:
            return cls.none()
        first = parts[0]
        if len(parts) == 1:
            return cast(Self, first)
        for part in parts:
            if (part.space, part.dimensions) != (first.space, first.dimensions):
                raise UsageError(
                    f"expected the space {first.space}, got {part.space}", field="parts"
                )
        plain = (*_COLUMNS, "terms", "pieces", "vectors", "scales")
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in plain}
        counts = {
            name: _starts(np.concatenate([np.diff(getattr(p, name)) for p in parts]))
            for name in ("terms_start", "pieces_start")
        }
        return cls(space=first.space, **joined, **counts)

    @classmethod
    def none(cls, space: str = "", dimensions: int = 0) -> "Entries":
        """No entry at all."""
        empty = {name: np.empty(0, kind) for name, kind in _COLUMNS.items()}
        return cls(
            space=space,
            terms_start=np.zeros(1, np.uint32),
            terms=np.empty(0, np.uint32),
            pieces_start=np.zeros(1, np.uint32),
            pieces=np.empty(0, np.uint16),
            vectors=np.empty((0, dimensions), np.int8),
            scales=np.empty(0, np.float16),
            **empty,
        )

    def take(self, chosen: Array) -> "Entries":
        """The entries of a mask, or of numbers in the order they are given in."""
        places = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        terms_start, terms = _ragged_take(self.terms_start, self.terms, places)
        pieces_start, pieces = _ragged_take(self.pieces_start, self.pieces, places)
        plain = {name: getattr(self, name)[places] for name in (*_COLUMNS, "vectors", "scales")}
        return Entries(
            space=self.space,
            terms_start=terms_start,
            terms=terms,
            pieces_start=pieces_start,
            pieces=pieces,
            **plain,
        )

    def encode(self, *, vector_bits: int = 8) -> bytes:
        """The bytes of a segment. With 4 bits a vector's numbers are halved, and come back rounded.

        Raises UsageError for other bits, and for more entries, terms or pieces than there may be.
        """
        if vector_bits not in VECTOR_BITS:
            raise UsageError(
                f"expected one of {VECTOR_BITS}, got {vector_bits}", field="vector_bits"
            )
        if len(self) > ENTRIES_MAX or len(self.terms) > TERMS_MAX:
            raise UsageError(
                f"{len(self)} entries of {len(self.terms)} terms, at most {ENTRIES_MAX} of "
                f"{TERMS_MAX}",
                field="entries",
            )
        space = self.space.encode()
        if len(space) > SPACE_BYTES_MAX or self.dimensions > DIMENSIONS_MAX:
            raise UsageError(f"the space {self.space[:80]} is too large", field="space")
        hashes, numbers = np.unique(self.terms, return_inverse=True)
        columns = [_encoded(getattr(self, name)) for name in _COLUMNS]
        columns += [_encoded(np.diff(self.terms_start)), _encoded(hashes), _encoded(numbers)]
        columns += [_encoded(np.diff(self.pieces_start)), _encoded(self.pieces)]
        codes = self.vectors if vector_bits == 8 else _halved(self.vectors)
        body = b"".join((space, *columns, self.scales.astype("<f2").tobytes(), codes.tobytes()))
        fields = (TAG, VERSION, vector_bits, 0, len(self), self.dimensions, len(space))
        checksum = zlib.crc32(body, zlib.crc32(_HEAD.pack(*fields, 0)))
        return _HEAD.pack(*fields, checksum) + body

    @classmethod
    def decode(cls, raw: bytes) -> "Entries":
        """The entries of a segment's bytes.

        Raises CorruptionError for bytes that `encode` did not make, StoreVersionError for those
        of a newer version.
        """
        reader = _Reader(raw)
        source = {name: reader.column(kind, reader.count) for name, kind in _COLUMNS.items()}
        terms_start = reader.starts()
        hashes = reader.column(np.uint32, None)
        numbers = reader.column(np.uint32, int(terms_start[-1]))
        if len(numbers) and int(numbers.max()) >= len(hashes):
            raise CorruptionError("a segment has a term that is not in its table")
        pieces_start = reader.starts()
        pieces = reader.column(np.uint16, int(pieces_start[-1]))
        scales, vectors = reader.vectors()
        return cls(
            space=reader.space,
            terms_start=terms_start,
            terms=hashes[numbers] if len(numbers) else np.empty(0, np.uint32),
            pieces_start=pieces_start,
            pieces=pieces,
            vectors=vectors,
            scales=scales,
            **source,
        )


class _Reader:
    """Takes an encoded segment apart, checking every size before anything is made of it."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) < _HEAD.size:
            raise CorruptionError(f"a segment has {len(raw)} bytes, its header alone {_HEAD.size}")
        tag, version, bits, zero, count, dimensions, space, checksum = _HEAD.unpack_from(raw)
        if tag != TAG:
            raise CorruptionError(f"a segment begins with {tag:#04x}, expected {TAG:#04x}")
        if version != VERSION:
            raise StoreVersionError(
                f"a segment is of version {version}, this release reads {VERSION}"
            )
        self._body = memoryview(raw)[_HEAD.size :]
        head = _HEAD.pack(tag, version, bits, zero, count, dimensions, space, 0)
        if zlib.crc32(self._body, zlib.crc32(head)) != checksum:
            raise CorruptionError("a segment's checksum does not match: it is damaged")
        # The checksum holds, so what follows was written like this: by a bug, or by someone.
        if zero or bits not in VECTOR_BITS or count > ENTRIES_MAX or dimensions > DIMENSIONS_MAX:
            raise CorruptionError(f"a segment declares {count} entries of {dimensions} dimensions")
        self.count: int = count
        self._bits: int = bits
        self._dimensions: int = dimensions
        try:
            self.space = bytes(self._taken(space)).decode()
        except UnicodeDecodeError as error:
            raise CorruptionError("a segment's space is no text") from error

    def column(self, kind: Any, count: int | None) -> Array:
        """The next column, which has `count` numbers unless that is None."""
        width, coding, declared, base = _COLUMN.unpack(self._taken(_COLUMN.size))
        if width not in (0, 1, 2, 4, 8) or coding not in (_PLAIN, _STEPS):
            raise CorruptionError(f"a segment's column is of width {width}, coding {coding}")
        if declared > TERMS_MAX or count not in (None, declared):
            raise CorruptionError(f"a segment's column has {declared} numbers, expected {count}")
        if not width and (coding == _STEPS or (count is None and declared > 1)):
            raise CorruptionError("a segment's column has no numbers")
        stored = np.frombuffer(self._taken(width * declared), f"<u{width}") if width else None
        bounds = np.iinfo(kind)
        if stored is None:
            values = np.full(declared, base, np.int64)
        elif coding == _PLAIN and 0 <= base <= bounds.max - (1 << 8 * width):
            # Whatever is stored is in range: no wider than it has to be, for terms are many.
            narrow = stored.astype(kind)
            narrow += kind(base)
            return cast(Array, narrow)
        else:
            values = stored.astype(np.int64)
            # Both wrap as the writer's subtraction did.
            values += np.int64(base)
            if coding == _STEPS:
                np.cumsum(values, out=values)
        if declared and not bounds.min <= int(values.min()) <= int(values.max()) <= bounds.max:
            raise CorruptionError("a segment's column has a number that is out of range")
        return values.astype(kind)

    def starts(self) -> Array:
        """Where each entry's numbers begin, from the next column, which counts them."""
        counts = self.column(np.uint32, self.count)
        if int(counts.sum(dtype=np.int64)) > TERMS_MAX:
            raise CorruptionError(f"a segment declares more than {TERMS_MAX} terms or pieces")
        return _starts(counts)

    def vectors(self) -> tuple[Array, Array]:
        """(scales, vectors): the last columns."""
        scales = np.frombuffer(self._taken(2 * self.count), "<f2").astype(np.float16)
        width = self._dimensions if self._bits == 8 else (self._dimensions + 1) // 2
        if len(self._body) != width * self.count:
            raise CorruptionError(
                f"a segment's vectors have {len(self._body)} bytes, expected {width * self.count}"
            )
        codes = np.frombuffer(self._body, np.int8).reshape(self.count, width)
        if not np.isfinite(scales).all():
            raise CorruptionError("a segment's vector has no finite length")
        return scales, codes.copy() if self._bits == 8 else _doubled(codes, self._dimensions)

    def _taken(self, size: int) -> memoryview:
        if size > len(self._body):
            raise CorruptionError(f"a segment ends {size - len(self._body)} bytes too early")
        taken, self._body = self._body[:size], self._body[size:]
        return taken


def _encoded(values: Array) -> bytes:
    """A column in whatever coding makes it narrowest. One of a seal has few numbers, so calls of
    numpy are what it costs."""
    count = len(values)
    if not count:
        return _COLUMN.pack(1, _PLAIN, 0, 0)
    coding, base, width = _PLAIN, *_base_and_width(values)
    if not width:
        return _COLUMN.pack(0, _PLAIN, count, base)
    numbers = values.astype(np.int64)
    if width > 1 and count > 1:
        # Wraps, as the reader's sum does.
        steps = numbers.copy()
        steps[1:] -= numbers[:-1]
        step_base, step_width = _base_and_width(steps)
        if 0 < step_width < width:
            coding, base, width, numbers = _STEPS, step_base, step_width, steps
    if width == 8:
        base = 0
    stored = (numbers - base).astype(f"<u{width}")
    return _COLUMN.pack(width, coding, count, base) + stored.tobytes()


def _base_and_width(values: Array) -> tuple[int, int]:
    """The smallest, and the bytes that hold each number less that; 0 where all are the same."""
    base = int(values.min())
    span = int(values.max()) - base
    return base, next(w for w in (0, 1, 2, 4, 8) if span < 1 << 8 * w)


def _starts(counts: Any) -> Array:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    assert starts[-1] < 1 << 32
    return starts.astype(np.uint32)


def _ragged_take(starts: Array, values: Array, places: Array) -> tuple[Array, Array]:
    begins = starts[:-1][places].astype(np.int64)
    counts = starts[1:][places].astype(np.int64) - begins
    return _starts(counts), _spans(values, begins, counts)


def _embedded(texts: Sequence[str], embedder: Embedder | None) -> "_Embedded":
    if embedder is None:
        return _Embedded.none(len(texts), 0)
    has_pieces = hasattr(embedder, "pooled")
    batches = [
        _batch(texts[at : at + BATCH], embedder, has_pieces) for at in range(0, len(texts), BATCH)
    ]
    if not batches:
        return _Embedded.none(0, embedder.dimensions)
    return _Embedded(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))


class _Embedded(NamedTuple):
    """Of n texts."""

    counts: Array
    """Pieces of each."""
    pieces: Array
    codes: Array
    scales: Array

    @classmethod
    def none(cls, count: int, dimensions: int) -> "_Embedded":
        return cls(
            np.zeros(count, np.int64),
            np.empty(0, np.uint16),
            np.zeros((count, dimensions), np.int8),
            np.zeros(count, np.float16),
        )


def _batch(texts: Sequence[str], embedder: Embedder, has_pieces: bool) -> _Embedded:
    counts, first = np.zeros(len(texts), np.int64), np.empty(0, np.uint16)
    if has_pieces:
        by_pieces = cast(PieceEmbedder, embedder)
        pieces, starts = by_pieces.pieces(texts)
        counts = np.minimum(np.diff(starts), PIECES_MAX).astype(np.int64)
        first = _spans(pieces, np.asarray(starts[:-1], np.int64), counts)
        counts, first = _each_once(counts, first)
        vectors = np.asarray(by_pieces.pooled(pieces, starts), np.float32)
    else:
        vectors = np.asarray(embedder.embed(texts), np.float32)
    if vectors.shape != (len(texts), embedder.dimensions):
        raise UsageError(
            f"expected vectors of shape {(len(texts), embedder.dimensions)}, got {vectors.shape}",
            field="embedder",
        )
    quantised = quantise(vectors)
    return _Embedded(counts, first, quantised.codes, quantised.scales)


def _each_once(counts: Array, pieces: Array) -> tuple[Array, Array]:
    """The different pieces of each text: only the nearest one is asked for."""
    owners = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    keys = np.unique(owners << np.uint32(16) | pieces)
    return np.bincount(keys >> np.uint32(16), minlength=len(counts)), keys.astype(np.uint16)


def _spans(values: Array, begins: Array, counts: Array) -> Array:
    """`counts` values from each of `begins`, one after the other."""
    shift = np.repeat(begins - (np.cumsum(counts) - counts), counts)
    found: Array = values[np.arange(len(shift)) + shift]
    return found


def _halved(codes: Array) -> Array:
    """u8: two numbers of four bits, -7 to 7, in a byte."""
    halved: Array = pack_nibbles(np.rint(codes.astype(np.float32) * (7 / 127)).astype(np.int8))
    return halved


def _doubled(halved: Array, dimensions: int) -> Array:
    codes: Array = np.rint(unpack_nibbles(halved, dimensions) * np.float32(127 / 7)).astype(np.int8)
    return codes
