"""Damage to real files: single flipped bits and cut-off tails, put in place and taken back.

Owns: which damage to do, chosen by the `rng` it is given, and undoing it. Invariant: after a
`Damage` or `Pristine.restored()` is left, the bytes are what they were before it was entered; of
a file that was written in between, only `Pristine` can promise that. Patches happen in place, so
a case costs a few system calls and not a copy of the file.
Not here: what should notice the damage, and power losses (`memopt.testing.disk`).
"""

import contextlib
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

PathLike = str | os.PathLike[str]
Case = tuple[str, AbstractContextManager[None]]
"""What is damaged, in words that name the place, and a context within which it is."""


def single_bit_flips(
    path: PathLike,
    rng: random.Random,
    count: int | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Case]:
    """`count` different bits of bytes [start, stop) of a file, in random order; all of them, in
    order, without a count or when there are not so many. The file's size is read at the first."""
    size_bytes = os.path.getsize(path)
    end = size_bytes if stop is None else min(stop, size_bytes)
    bits = range(8 * start, 8 * end)
    for bit in _sample(bits, rng, count):
        offset, place = divmod(bit, 8)
        what = f"bit {place} of byte {offset} of {os.path.basename(path)} flipped"
        yield what, _flipped(path, offset, 1 << place)


def truncations(path: PathLike, rng: random.Random, count: int | None = None) -> Iterator[Case]:
    """`count` different sizes below the file's own, 0 included, chosen like the bits above."""
    size_bytes = os.path.getsize(path)
    for kept in _sample(range(size_bytes), rng, count):
        what = f"{os.path.basename(path)} cut from {size_bytes} to {kept} bytes"
        yield what, _truncated(path, kept)


class Pristine:
    """The files of a directory as they were, kept in memory, to be put back after each case.

    For code under test that writes when it opens a damaged store: a recovery, a checkpoint, a lock.
    """

    def __init__(self, directory: PathLike) -> None:
        self.directory = Path(directory)
        self._files = {path: path.read_bytes() for path in self._present()}

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Enter before the damage; on leaving, everything is as it was."""
        try:
            yield
        finally:
            self.restore()

    def restore(self) -> int:
        """Put back what differs and remove what is new. Returns the number of files touched."""
        touched = 0
        for path in self._present():
            if path not in self._files:
                path.unlink()
                touched += 1
        for path, content in self._files.items():
            # Contents are compared: two writes within one tick of the clock have one mtime.
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                touched += 1
        return touched

    def _present(self) -> list[Path]:
        # Sockets are left out: they cannot be read, and whoever made them removes them.
        return [path for path in sorted(self.directory.rglob("*")) if path.is_file()]


def _sample(choices: range, rng: random.Random, count: int | None) -> Iterator[int]:
    if count is None or count >= len(choices):
        return iter(choices)
    return iter(rng.sample(choices, count))


@contextlib.contextmanager
def _flipped(path: PathLike, offset: int, mask: int) -> Iterator[None]:
    with open(path, "r+b", buffering=0) as file:
        [byte] = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte ^ mask]), offset)
    try:
        yield
    finally:
        # A byte that no longer holds the damage was written by someone else, and is theirs.
        with contextlib.suppress(FileNotFoundError), open(path, "r+b", buffering=0) as file:
            if os.pread(file.fileno(), 1, offset) == bytes([byte ^ mask]):
                os.pwrite(file.fileno(), bytes([byte]), offset)


@contextlib.contextmanager
def _truncated(path: PathLike, kept_bytes: int) -> Iterator[None]:
    with open(path, "r+b", buffering=0) as file:
        file.seek(kept_bytes)
        tail = file.read()
        file.truncate(kept_bytes)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError), open(path, "r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size == kept_bytes:
                _pwrite_all(file.fileno(), tail, kept_bytes)


def _pwrite_all(descriptor: int, data: bytes, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)
