"""What a simulated disk holds, shown as real files.

Owns: the mirrored files in a directory, whose descriptors stay open until `close`. Invariant:
their bytes are those that reads of the disk see. Not here: the directory, nor what else is in it.
"""

import os

from memopt.testing.diskimage import DiskImage


class DiskMirror:
    """Real files beside a disk image."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._descriptors: dict[str, int] = {}

    def show(self, image: DiskImage) -> None:
        """Make the mirrored files those of an image."""
        for name in list(self._descriptors):
            self.delete(name)
        for name, inode in image.names.items():
            self.write(name, inode.data, 0)

    def write(self, name: str, data: bytes | bytearray, offset: int) -> None:
        os.pwrite(self._descriptor(name), data, offset)

    def truncate(self, name: str, size_bytes: int) -> None:
        os.ftruncate(self._descriptor(name), size_bytes)

    def delete(self, name: str) -> None:
        descriptor = self._descriptors.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)
            os.unlink(f"{self._directory}/{name}")

    def close(self) -> None:
        for name in list(self._descriptors):
            self.delete(name)

    def _descriptor(self, name: str) -> int:
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(f"{self._directory}/{name}", flags, 0o644)
            self._descriptors[name] = descriptor
        return descriptor
