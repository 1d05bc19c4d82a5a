"""Compression of pages and states: zstd level 3, with dictionaries, and against an earlier version.

Invariant: what `decode` returns is what `encode` was given under the same key, dictionary and
base, or it raises; and no output is allocated before its length was checked. Level 1 is never
used, as it ruins dictionary matches. Not here: what a dictionary is made of (dictionaries), how
contexts are pooled and charged (contexts).
"""

import struct
import threading
import zlib
from collections.abc import Callable
from typing import Final

import zstandard

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, CorruptionError, UsageError
from memopt.base.units import KIB
from memopt.codecs.contexts import (
    DECOMPRESSOR_BYTES,
    DICTIONARIES_MAX,
    LEVEL,
    Contexts,
    buffered_bytes,
    level_parameters,
    table_bytes,
)
from memopt.codecs.frame import RAW_BYTES_MAX, Header, Method, open_frame, pack_frame

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""Of every zstd frame, and so not stored. Where a dictionary or a base is needed, its CRC-32 stands
in this place: decoding against another one is refused, where zstd would return other bytes."""
_LEANS_ON: Final = struct.Struct("<I")

_DELTA_HASH_LOG_MIN: Final = 12
_DELTA_HASH_LOG_MAX: Final = 20
"""zstd reads 8 << hash_log bytes of a base at most, counted from its end: 8 MiB."""
_DELTA_WINDOW_LOG_MAX: Final = 24
"""A base is matched in the first 16 MiB of a value."""
_BLOCK_BYTES: Final = 128 * KIB
_BASE_TABLES_BYTES: Final = 32 * KIB
"""What zstd holds beside the content of a raw dictionary and its tables."""
_SCRATCH_BYTES_MIN: Final = 64 * KIB


class Zstd:
    """A Compressor: frames with level-3 zstd inside. Thread-safe."""

    def __init__(
        self,
        budget: Budget,
        *,
        dictionary: Callable[[int], bytes | None],
        raw_bytes_max: int,
        dictionaries_max: int = DICTIONARIES_MAX,
    ) -> None:
        """`dictionary` gives the bytes of a dictionary by its number, None where there is none; it
        is called without locks, from the thread that encodes or decodes."""
        if not 0 < raw_bytes_max <= RAW_BYTES_MAX:
            raise UsageError(f"expected 1 to {RAW_BYTES_MAX}", field="raw_bytes_max")
        self.raw_bytes_max = raw_bytes_max
        self._alone = threading.RLock()
        """Held while something is encoded that has no room. Re-entrant, for signal handlers."""
        self._contexts = Contexts(budget, dictionary=dictionary, dictionaries_max=dictionaries_max)

    def encode(
        self, raw: bytes, *, key: bytes, dictionary: int = 0, without_room: bool = False
    ) -> bytes:
        """A frame of `raw`; its header says whether the dictionary was used. It is done without one
        that is gone or does not fit, and where the value is so large that it would not help.

        Raises BudgetError when not even a bare context fits, UsageError above `raw_bytes_max`.
        With `without_room`, a bare one is then made all the same, for one caller at a time.
        """
        self._check_length(raw)
        try:
            return self._encode(raw, key, dictionary)
        except BudgetError:
            if not without_room:
                raise
        with self._alone:
            packed = zstandard.ZstdCompressor(
                level=LEVEL, write_dict_id=False, write_checksum=False
            ).compress(raw)
        return _framed(packed[len(_MAGIC) :], raw, key, Method.ZSTD, 0)

    def _encode(self, raw: bytes, key: bytes, dictionary: int) -> bytes:
        context = self._contexts.take_compressor(dictionary, len(raw))
        try:
            assert context.zstd is not None
            packed = context.zstd.compress(raw)
        finally:
            self._contexts.give(context)
        loaded = context.loaded
        method, payload = Method.ZSTD, packed[len(_MAGIC) :]
        if loaded.number:
            method = Method.ZSTD_DICTIONARY
            payload = _LEANS_ON.pack(loaded.checksum) + payload
        return _framed(payload, raw, key, method, loaded.number)

    def decode(self, frame: bytes, *, key: bytes) -> bytes:
        """The value of a frame made by `encode` under the same key.

        Raises CorruptionError for one that is not, StoreVersionError, BudgetError.
        """
        header, payload = open_frame(frame, key=key, raw_bytes_max=self.raw_bytes_max)
        if header.method == Method.STORED:
            return bytes(payload)
        if header.method == Method.ZSTD_BASE:
            raise CorruptionError("a frame holds a difference, and no base was given")
        if (header.method == Method.ZSTD_DICTIONARY) != (header.dictionary != 0):
            raise CorruptionError(
                f"a frame of method {header.method} names dictionary {header.dictionary}"
            )
        scratch_bytes = len(payload) if len(payload) > _SCRATCH_BYTES_MIN else 0
        if scratch_bytes:
            self._contexts.reserve_scratch(scratch_bytes)
        try:
            context = self._contexts.take_decompressor(header.dictionary)
            try:
                assert context.zstd is not None
                if header.dictionary:
                    payload = _without_base(payload, context.loaded.checksum, "dictionary")
                return _decompressed(context.zstd, payload, header)
            finally:
                self._contexts.give(context)
        finally:
            if scratch_bytes:
                self._contexts.release_scratch(scratch_bytes)

    def encode_delta(self, raw: bytes, *, key: bytes, base: bytes) -> bytes:
        """A frame of `raw` that can be decoded beside the same `base` only. Its context is made for
        the call: zstd indexes the base anew each time.

        Raises BudgetError when the context does not fit, UsageError above `raw_bytes_max`.
        """
        self._check_length(raw)
        parameters = level_parameters(
            hash_log=_clamped(len(base).bit_length() - 2, _DELTA_HASH_LOG_MIN, _DELTA_HASH_LOG_MAX),
            # One block more than the value: the last block would lose sight of the base.
            window_log=_clamped(
                (len(raw) + _BLOCK_BYTES).bit_length(), _DELTA_HASH_LOG_MIN, _DELTA_WINDOW_LOG_MAX
            ),
        )
        charge = delta_bytes(parameters, raw_bytes=len(raw), base_bytes=len(base))
        self._contexts.reserve_scratch(charge)
        try:
            packed = zstandard.ZstdCompressor(
                dict_data=_raw_dictionary(base), compression_params=parameters
            ).compress(raw)
        finally:
            self._contexts.release_scratch(charge)
        if len(packed) >= len(raw):
            return pack_frame(raw, key=key, method=Method.STORED, raw_bytes=len(raw))
        return pack_frame(
            _LEANS_ON.pack(zlib.crc32(base)) + packed[len(_MAGIC) :],
            key=key,
            method=Method.ZSTD_BASE,
            raw_bytes=len(raw),
        )

    def decode_delta(self, frame: bytes, *, key: bytes, base: bytes) -> bytes:
        """The value of a frame made by `encode_delta` under the same key against the same base.

        Raises CorruptionError for one that is not, StoreVersionError, BudgetError.
        """
        header, payload = open_frame(frame, key=key, raw_bytes_max=self.raw_bytes_max)
        if header.method == Method.STORED:
            return bytes(payload)
        if header.method != Method.ZSTD_BASE:
            raise CorruptionError(f"a frame holds no difference, but method {header.method}")
        payload = _without_base(payload, zlib.crc32(base), "base")
        charge = DECOMPRESSOR_BYTES + _BASE_TABLES_BYTES + len(base) + len(payload)
        self._contexts.reserve_scratch(charge)
        try:
            decompressor = zstandard.ZstdDecompressor(dict_data=_raw_dictionary(base))
            return _decompressed(decompressor, payload, header)
        finally:
            self._contexts.release_scratch(charge)

    def drop(self, dictionary: int) -> None:
        """Forget a dictionary that was retired; calls that are using it finish."""
        self._contexts.drop(dictionary)

    def trim(self) -> int:
        """Free what is idle: the bytes that came free."""
        return self._contexts.trim()

    def idle_bytes(self) -> int:
        """What `trim` would free."""
        return self._contexts.idle_bytes()

    def close(self) -> None:
        """Free everything. Later calls raise StoreClosedError."""
        self._contexts.close()

    def check(self) -> None:
        """Assert that the budget's owner "codecs" holds what there is."""
        self._contexts.check()

    def _check_length(self, raw: bytes) -> None:
        if len(raw) > self.raw_bytes_max:
            raise UsageError(f"a value of {len(raw)} bytes, at most {self.raw_bytes_max}")


def _framed(payload: bytes, raw: bytes, key: bytes, method: Method, dictionary: int) -> bytes:
    """A frame of what was packed, or of the value where that is no longer."""
    if len(payload) >= len(raw):
        return pack_frame(raw, key=key, method=Method.STORED, raw_bytes=len(raw))
    return pack_frame(payload, key=key, method=method, raw_bytes=len(raw), dictionary=dictionary)


def delta_bytes(
    parameters: zstandard.ZstdCompressionParameters, *, raw_bytes: int, base_bytes: int
) -> int:
    """What a compressor against a base occupies at most, the copy of the base included."""
    return (
        buffered_bytes(parameters, raw_bytes)
        + table_bytes(parameters)
        + _BASE_TABLES_BYTES
        + base_bytes
    )


def _raw_dictionary(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _without_base(payload: memoryview, checksum: int, what: str) -> memoryview:
    """The payload behind the checksum of what it leans on."""
    if len(payload) < _LEANS_ON.size:
        raise CorruptionError("a frame ends before its compressed bytes")
    [wanted] = _LEANS_ON.unpack_from(payload)
    if wanted != checksum:
        raise CorruptionError(
            f"a frame was made with a {what} of checksum {wanted:#010x}, got {checksum:#010x}"
        )
    return payload[_LEANS_ON.size :]


def _decompressed(
    decompressor: zstandard.ZstdDecompressor, payload: memoryview, header: Header
) -> bytes:
    """The value. zstd allocates what its frame declares, whatever limit it is given: so that is
    compared first with the length in the header, which was compared with the limit."""
    packed = b"".join((_MAGIC, payload))
    try:
        declared = zstandard.frame_content_size(packed)
        if declared != header.raw_bytes or declared == 0:
            raise CorruptionError(
                f"a frame declares {header.raw_bytes} bytes and its zstd frame {declared}"
            )
        raw = decompressor.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptionError(f"a frame cannot be decompressed: {error}") from error
    assert len(raw) == header.raw_bytes
    return raw


def _clamped(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)
