"""A file that is given up when the disk is full, so that deleting and compacting still work."""

import contextlib
import os
from pathlib import Path


class Ballast:
    """`drop` makes room, `restore` takes it back when there is some. Both may be called twice."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def restore(self) -> bool:
        """True when the ballast is in place afterwards."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size >= self._size_bytes:
                return True
        if not self._size_bytes:
            return False
        try:
            free = os.statvfs(self._path.parent)
            if free.f_bavail * free.f_frsize < 4 * self._size_bytes:
                return False
            with open(self._path, "wb") as file:
                # Written, not fallocate()d: some file systems give holes for the latter.
                file.write(b"\xa5" * self._size_bytes)
        except OSError:
            self.drop()
            return False
        return True

    def drop(self) -> bool:
        """True when there was one to drop."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
