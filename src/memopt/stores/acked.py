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

from memopt.base.errors import CorruptionError, StoreVersionError

_SIZE_BYTES: Final = 4096
_COPIES: Final = (0, 2048)
_MAGIC: Final = b"mAck"
_VERSION: Final = 1
_RECORD: Final = struct.Struct("<4sHHQQQQQQIIIqq")
_CRC: Final = struct.Struct("<I")


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


class AckedPage:
    """The mapped page. `record` is what it holds; `write` replaces it. Thread-safe."""

    def __init__(self, path: Path, record: Acked, generation: int) -> None:
        self.record = record
        self._generation = generation
        self._lock = threading.Lock()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if os.fstat(descriptor).st_size != _SIZE_BYTES:
                os.truncate(descriptor, 0)
                os.write(descriptor, bytes(_SIZE_BYTES))
            self._map = mmap.mmap(descriptor, _SIZE_BYTES)
        finally:
            os.close(descriptor)
        self.write()

    @classmethod
    def create(cls, path: Path, record: Acked) -> "AckedPage":
        return cls(path, record, 0)

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
            )  # fmt: skip
            self._write()

    def update(self, **changes: int) -> None:
        with self._lock:
            self.record = self.record._replace(**changes)
            self._write()

    def write(self) -> None:
        with self._lock:
            self._write()

    def sync(self) -> None:
        self._map.flush()

    def close(self) -> None:
        self.sync()
        self._map.close()

    def _write(self) -> None:
        self._generation += 1
        (store, lsn, limit, run, salt, frames, home, copying, unsealed, at_us) = self.record
        packed = _RECORD.pack(
            _MAGIC, _VERSION, 0, self._generation, store, lsn, limit, run, salt,
            frames, home, copying, unsealed, at_us,
        )  # fmt: skip
        packed += _CRC.pack(zlib.crc32(packed))
        for offset in _COPIES:
            self._map[offset : offset + len(packed)] = packed


def _read(raw: bytes, offset: int) -> tuple[int, Acked] | None:
    packed = raw[offset : offset + _RECORD.size]
    crc = raw[offset + _RECORD.size : offset + _RECORD.size + _CRC.size]
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(packed):
        return None
    (magic, version, _, generation, store, lsn, limit, run, salt, frames, home, copying,
     unsealed, at_us) = _RECORD.unpack(packed)  # fmt: skip
    if magic != _MAGIC:
        return None
    if version != _VERSION:
        raise StoreVersionError(f"the acked page has version {version}, this memopt knows 1")
    return generation, Acked(store, lsn, limit, run, salt, frames, home, copying, unsealed, at_us)
