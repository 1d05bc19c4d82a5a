"""The acked page: what was acknowledged, kept apart from the database.

A file of 4 KiB, mapped, holding one record twice. It is rewritten after every commit and before
the acknowledgement, so that a write-ahead log that lost its end is noticed: SQLite itself takes a
damaged frame for the end of the log and drops everything behind it without a word.

It is not synced with every commit: after a power cut it may be older than the database, which
makes the check weaker and never wrong. Not here: deciding what a difference means (recovery).
"""

import mmap
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from memopt.base.errors import CorruptionError, StoreFailedError, StoreVersionError

_SIZE_BYTES: Final = 4096
_COPIES: Final = (0, 2048)
_MAGIC: Final = b"mAck"
_VERSION: Final = 1
_RECORD: Final = struct.Struct("<4sHHQQQQQQIIIqq")
_CRC: Final = struct.Struct("<I")
_PLACES: Final = [slice(at, at + _RECORD.size + _CRC.size) for at in _COPIES]


class Acked(NamedTuple):
    store: int
    """A random number that the database holds too: the two belong together."""
    lsn: int
    """The highest acknowledged LSN."""
    lsn_limit: int
    """No LSN above this was ever handed out."""
    run_lsn: int
    """The highest LSN when the store was last opened."""
    wal_salt: int
    """Of the log that the frames below are in."""
    wal_frames: int
    """Frames of the log when the last record was acknowledged."""
    wal_home: int
    """Frames of it that a finished checkpoint has brought into the database."""
    wal_copying: int
    """Frames that a checkpoint may have begun to bring there."""
    unsealed_bytes: int
    """Bytes of all tails."""
    at_us: int
    """The time of the last commit: time never runs backwards in a journal."""
    sync_failed: int = 0
    """1 once a sync failed: what is in the log may be in the system's cache alone, and no later
    sync of the log would notice."""


class AckedPage:
    """The mapped page. `record` is what it holds; `write` replaces it. Thread-safe."""

    def __init__(self, path: Path, record: Acked, generation: int) -> None:
        self.record = record
        self._generation = generation
        self._lock = threading.Lock()
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        try:
            if os.fstat(descriptor).st_size < _SIZE_BYTES:
                # One copy was whole, or this would not have been opened; a write mends the other.
                os.truncate(descriptor, _SIZE_BYTES)
            self._map = mmap.mmap(descriptor, _SIZE_BYTES)
        finally:
            os.close(descriptor)

    @classmethod
    def create(cls, path: Path, record: Acked) -> "AckedPage":
        """A new page in `path`, in the place of any that is there: whole or not at all."""
        new = path.with_name(path.name + ".new")
        packed = _pack(1, record)
        with open(new, "wb") as file:
            file.write(b"".join(packed.ljust(_SIZE_BYTES // len(_COPIES), b"\0") for _ in _COPIES))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        return cls(path, record, 1)

    @classmethod
    def open(cls, path: Path) -> "AckedPage | None":
        """The page in `path`; None when there is none. Raises CorruptionError when no copy is
        whole, StoreVersionError when it is of a newer version."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        copies = [copy for offset in _COPIES if (copy := _read(raw, offset)) is not None]
        if not copies:
            raise CorruptionError(f"no copy of the acked page in {path.name} is whole")
        generation, record = max(copies)
        return cls(path, record, generation)

    def acknowledge(self, lsn: int, at_us: int, wal_frames: int, unsealed_delta: int) -> None:
        """The hot path: records up to `lsn` are committed."""
        with self._lock:
            old = self.record
            self.record = Acked(
                old.store, lsn, old.lsn_limit, old.run_lsn, old.wal_salt, wal_frames,
                old.wal_home, old.wal_copying, old.unsealed_bytes + unsealed_delta, at_us,
                old.sync_failed,
            )  # fmt: skip
            self._write()

    def update(self, **changes: int) -> None:
        with self._lock:
            self.record = self.record._replace(**changes)
            self._write()

    def update_log(self, wal_salt: int, **changes: int) -> None:
        """The same, unless another log than that of `wal_salt` has begun since."""
        with self._lock:
            if self.record.wal_salt == wal_salt:
                self.record = self.record._replace(**changes)
                self._write()

    def sync(self) -> None:
        """Make what the page says survive a power cut."""
        try:
            self._map.flush()
        except OSError as error:
            raise StoreFailedError(f"the acked page could not be synced: {error}") from error

    def close(self) -> None:
        try:
            self.sync()
        finally:
            self._map.close()

    def _write(self) -> None:
        self._generation += 1
        packed = _pack(self._generation, self.record)
        for place in _PLACES:
            self._map[place] = packed


def _pack(generation: int, record: Acked) -> bytes:
    (store, lsn, limit, run, salt, frames, home, copying, unsealed, at_us, failed) = record
    packed = _RECORD.pack(
        _MAGIC, _VERSION, failed, generation, store, lsn, limit, run, salt, frames, home, copying,
        unsealed, at_us,
    )  # fmt: skip
    return packed + _CRC.pack(zlib.crc32(packed))


def _read(raw: bytes, offset: int) -> tuple[int, Acked] | None:
    packed = raw[offset : offset + _RECORD.size]
    crc = raw[offset + _RECORD.size : offset + _RECORD.size + _CRC.size]
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(packed):
        return None
    (magic, version, failed, generation, store, lsn, limit, run, salt, frames, home, copying,
     unsealed, at_us) = _RECORD.unpack(packed)  # fmt: skip
    if magic != _MAGIC:
        return None
    if version != _VERSION:
        raise StoreVersionError(f"the acked page has version {version}, this memopt knows 1")
    return generation, Acked(
        store, lsn, limit, run, salt, frames, home, copying, unsealed, at_us, failed
    )
