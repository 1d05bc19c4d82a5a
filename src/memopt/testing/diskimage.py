"""The contents of a simulated disk: what reads see, what is durable, and what lies between.

Owns: bytes and directory entries. Invariant: an inode's data is its durable image with its pending
operations applied in order, but for operations that a failed sync made it forget; the names are
the durable names with the pending directory operations applied in order. Bytes are shared between
copies until one of them writes. Not here: faults, locks, capacity, SQLite.
"""

import enum
import random
from typing import Final, NamedTuple

_SECTOR_BYTES: Final = 512


class PowerLoss(enum.StrEnum):
    """What becomes of operations that no sync has covered. The choice is made file by file."""

    DROP_ALL = "drop_all"
    """None survives."""
    KEEP_PREFIX = "keep_prefix"
    """The first so many survive."""
    REORDER = "reorder"
    """Any subset survives: a later write may, and an earlier one not."""
    TORN = "torn"
    """As one of the two before, and one surviving write is cut, at a sector or anywhere."""


class Operation(NamedTuple):
    """A write of `data` at `offset`; or, without data, a truncation to `offset` bytes."""

    offset: int
    data: bytes | None


class Entry(NamedTuple):
    """A directory entry was made (`inode`) or deleted (None)."""

    name: str
    inode: "Inode | None"


class Inode:
    """One file's bytes."""

    __slots__ = ("_durable", "_pending", "data")

    def __init__(self, data: bytes = b"") -> None:
        self.data: bytes | bytearray = data
        self._durable: bytes | bytearray = data
        self._pending: list[Operation] = []

    def write(self, data: bytes, offset: int) -> None:
        self._apply_pending(Operation(offset, data))

    def truncate(self, size_bytes: int) -> None:
        self._apply_pending(Operation(size_bytes, None))

    def sync(self) -> None:
        """Make every pending operation durable."""
        if self._pending:
            if isinstance(self._durable, bytes):
                self._durable = bytearray(self._durable)
            for operation in self._pending:
                _apply(self._durable, operation)
            self._pending.clear()

    def forget_pending(self) -> None:
        """No sync will make what is pending durable any more, though reads go on seeing it."""
        self._pending.clear()

    def copy(self) -> "Inode":
        self._freeze()
        twin = Inode()
        twin.data = self.data
        twin._durable = self._durable
        twin._pending = self._pending.copy()
        return twin

    def after_power_loss(self, rng: random.Random, mode: PowerLoss) -> "Inode":
        self._freeze()
        kept = _survivors(self._pending, rng, mode)
        if not kept:
            return Inode(bytes(self._durable))
        data = bytearray(self._durable)
        for operation in kept:
            _apply(data, operation)
        return Inode(bytes(data))

    def _apply_pending(self, operation: Operation) -> None:
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)
        _apply(self.data, operation)
        self._pending.append(operation)

    def _freeze(self) -> None:
        """Make both images immutable, so that copies can share them."""
        self.data = bytes(self.data)
        self._durable = bytes(self._durable)


class DiskImage:
    """All files of a disk."""

    __slots__ = ("_durable_names", "_pending", "names")

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._pending: list[Entry] = []

    def create(self, name: str) -> Inode:
        inode = self.names[name] = Inode()
        self._pending.append(Entry(name, inode))
        return inode

    def delete(self, name: str) -> None:
        """Unlink a file if it is there; whoever has it open keeps its inode."""
        if self.names.pop(name, None) is not None:
            self._pending.append(Entry(name, None))

    def sync(self, name: str, inode: Inode) -> None:
        """Make a file durable, and its entry if it still has the name."""
        inode.sync()
        if self._pending and self.names.get(name) is inode:
            self._durable_names[name] = inode
            self._pending = [entry for entry in self._pending if entry.name != name]

    def sync_directory(self) -> None:
        self._durable_names = self.names.copy()
        self._pending.clear()

    def copy(self) -> "DiskImage":
        twins: dict[int, Inode] = {}

        def twin(inode: Inode) -> Inode:
            if id(inode) not in twins:
                twins[id(inode)] = inode.copy()
            return twins[id(inode)]

        image = DiskImage()
        image.names = {name: twin(inode) for name, inode in self.names.items()}
        image._durable_names = {name: twin(inode) for name, inode in self._durable_names.items()}
        image._pending = [
            Entry(name, None if inode is None else twin(inode)) for name, inode in self._pending
        ]
        return image

    def after_power_loss(self, rng: random.Random, mode: PowerLoss) -> "DiskImage":
        names = self._durable_names
        if self._pending and mode is not PowerLoss.DROP_ALL:
            names = names.copy()
            # Entries of one name survive as a prefix, since no file can be made again before it
            # is deleted; entries of different names are independent of each other.
            for name in dict.fromkeys(entry.name for entry in self._pending):
                entries = [entry for entry in self._pending if entry.name == name]
                kept = rng.randint(0, len(entries))
                if kept:
                    last = entries[kept - 1].inode
                    names.pop(name, None)
                    if last is not None:
                        names[name] = last
        image = DiskImage()
        image.names = {name: inode.after_power_loss(rng, mode) for name, inode in names.items()}
        image._durable_names = image.names.copy()
        return image


def _survivors(pending: list[Operation], rng: random.Random, mode: PowerLoss) -> list[Operation]:
    if not pending or mode is PowerLoss.DROP_ALL:
        return []
    torn = mode is PowerLoss.TORN
    if mode is PowerLoss.KEEP_PREFIX or (torn and rng.random() < 0.5):
        kept = pending[: rng.randint(0, len(pending))]
    else:
        share = rng.random()
        kept = [operation for operation in pending if rng.random() < share]
    if torn:
        _tear(kept, rng)
    return kept


def _tear(kept: list[Operation], rng: random.Random) -> None:
    """Cut one write, more often the last one than any other, and keep one side of it."""
    writes = [index for index, operation in enumerate(kept) if operation.data]
    if not writes:
        return
    index = writes[-1] if rng.random() < 0.5 else rng.choice(writes)
    offset, data = kept[index]
    assert data is not None
    cut = rng.randint(0, len(data))
    if rng.random() < 0.5:
        cut -= min(cut, (offset + cut) % _SECTOR_BYTES)
    if rng.random() < 0.75:
        kept[index] = Operation(offset, data[:cut])
    else:
        kept[index] = Operation(offset + cut, data[cut:])


def _apply(data: bytearray, operation: Operation) -> None:
    offset, written = operation
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    if written is None:
        del data[offset:]
    elif written:
        data[offset : offset + len(written)] = written
