"""A disk in memory that loses power, fills up and fails, under a real SQLite.

Owns: the bytes of the files, which of them are durable, and the faults to raise. Every file has two
images: what a power loss leaves behind for certain, and what reads see; between them lies the
ordered list of operations that no sync has covered yet. Directory entries are treated alike.

Invariant: what was synced survives `lose_power` in every mode, and what was written survives
`kill`; an operation that was not synced survives whole, in part or not at all, as `rng` says.

How SQLite gets here: one VFS, `VFS_NAME`, is registered for the whole process. A path in some
disk's `directory` belongs to that disk; any other path goes to the real file system. The contents
are in memory. Only a database's locks and its wal-index are left to SQLite's own `unix-excl`, on
a real file in `directory`, and so WAL mode works with any number of connections in one process.
For code that looks at its files by itself (a size, a header), what reads see is mirrored into
`directory` from the moment that one is asked for; `path` alone does without, and is faster.
`install_checksums` puts SQLite's page checksums on top.

Not here: mapped or otherwise ordinary files that the code under test makes in `directory` (a lock,
an `acked` page). They are real; they count towards `capacity_bytes`, and are carried over
unchanged by `kill` and `lose_power`. What is written to a mirrored file is not seen here. Nor
`xAccess` and locks, which never fail; nor SQLite's own randomness (WAL salts), so two runs agree
in their calls but not in every byte.
"""

import atexit
import errno
import functools
import itertools
import os
import random
import shutil
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import apsw
import apsw.sqlite_extra

from memopt.base.errors import UsageError
from memopt.testing.diskimage import DiskImage, Inode, PowerLoss
from memopt.testing.diskmirror import DiskMirror
from memopt.testing.faults import (
    Call,
    Fault,
    FaultPlan,
    hush_simulated_errors,
    simulated_error,
)

VFS_NAME: Final = "memopt-faulty"
CHECKSUM_VFS_NAME: Final = "cksmvfs"

__all__ = [
    "CHECKSUM_VFS_NAME",
    "VFS_NAME",
    "Call",
    "DiskImage",
    "Fault",
    "FaultyDisk",
    "PowerLoss",
    "install_checksums",
]


class FaultyDisk:
    """A simulated disk. Open its databases with `apsw.Connection(disk.path(name), vfs=…)`.

    `kill` and `lose_power` make a new disk and leave this one as it was, so one run yields any
    number of crash states, and connections that are still open go on with the old one. Close disks
    (or use them as context managers) when there are many. Thread-safe.
    """

    def __init__(
        self, image: DiskImage | None = None, *, capacity_bytes: int | None = None
    ) -> None:
        _register()
        self.capacity_bytes = capacity_bytes
        """Room for all files together, real ones in `directory` included. None: no limit."""
        self.open_files = 0
        self._image = DiskImage() if image is None else image.copy()
        self._plan = FaultPlan()
        self._directory: str | None = None
        self._mirror: DiskMirror | None = None
        self._lock = threading.RLock()

    # -- crashes ----------------------------------------------------------------------------------

    def kill(self) -> "FaultyDisk":
        """The disk after the process was killed: everything written is there, synced or not, and
        what was not synced can still be lost by a later power loss."""
        with self._lock:
            return self._successor(self._image.copy())

    def lose_power(self, rng: random.Random, mode: PowerLoss | str | None = None) -> "FaultyDisk":
        """The disk after a power loss. Without a mode, `rng` picks one of the four."""
        chosen = rng.choice(list(PowerLoss)) if mode is None else PowerLoss(mode)
        with self._lock:
            return self._successor(self._image.after_power_loss(rng, chosen))

    def snapshot(self) -> DiskImage:
        """A deep copy of all files, pending operations included; bytes are shared until written."""
        with self._lock:
            return self._image.copy()

    def restore(self, image: DiskImage) -> None:
        """Go back to a snapshot, which stays usable. Raises UsageError while a file is open."""
        with self._lock:
            if self.open_files:
                raise UsageError(f"{self.open_files} files are still open", field="restore")
            self._image = image.copy()
            if self._mirror is not None:
                self._mirror.show(self._image)

    # -- faults -----------------------------------------------------------------------------------

    def fail(self, *, at: int, error: Fault | str = Fault.EIO, repeat: bool = False) -> None:
        """Let the `at`-th matching call from now fail (1 is the next); with `repeat`, all later
        ones too. Replaces an earlier fault."""
        with self._lock:
            self._plan.fail(at=at, error=error, repeat=repeat)

    def heal(self) -> None:
        """Take back `fail`."""
        with self._lock:
            self._plan.heal()

    @property
    def calls(self) -> int:
        """Disk calls so far, of every kind."""
        return sum(self._plan.calls.values())

    @property
    def calls_by_kind(self) -> dict[Call, int]:
        return self._plan.calls.copy()

    @property
    def faults_raised(self) -> int:
        """Calls that `fail` made fail. A full disk by `capacity_bytes` is not one."""
        return self._plan.raised

    # -- files ------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """A real directory of the disk's own, in which every path belongs to this disk. From the
        first use on, the disk's files are to be seen there."""
        with self._lock:
            directory = self._own_directory()
            if self._mirror is None:
                self._mirror = DiskMirror(directory)
                self._mirror.show(self._image)
            return Path(directory)

    def path(self, name: str) -> str:
        """What to open for the file `name`."""
        with self._lock:
            return f"{self._own_directory()}/{name}"

    def files(self) -> dict[str, int]:
        """Sizes in bytes by name, as reads see them."""
        with self._lock:
            return {name: len(inode.data) for name, inode in sorted(self._image.names.items())}

    def read_file(self, name: str) -> bytes:
        """The whole file, unsynced writes included. Raises FileNotFoundError."""
        with self._lock:
            return bytes(self._inode(name).data)

    def write_file(self, name: str, data: bytes) -> None:
        """Replace the whole file, in place and unsynced. Raises OSError(ENOSPC)."""
        with self._lock:
            inode = self._image.names.get(name) or self._create(name)
            if inode.data:
                self._truncate(name, inode, 0)
            if self._write(name, inode, data, 0) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    def sync_file(self, name: str) -> None:
        """Make a file and its directory entry durable. Raises FileNotFoundError."""
        with self._lock:
            self._image.sync(name, self._inode(name))

    def delete_file(self, name: str) -> None:
        """Raises FileNotFoundError. The deletion is not durable yet."""
        with self._lock:
            self._inode(name)
            self._delete(name)

    def close(self) -> None:
        """Give up the directory. Files that are still open keep working; nothing new opens."""
        with self._lock:
            if self._mirror is not None:
                self._mirror.close()
                self._mirror = None
            if self._directory is not None:
                del _DISKS[self._directory]
                _remove_directory(self._directory)
                self._directory = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- what the VFS asks ------------------------------------------------------------------------

    def open_inode(self, name: str, flags: int) -> Inode:
        with self._lock:
            self._plan.count(Call.OPEN)
            inode = self._image.names.get(name)
            if inode is None:
                if not flags & apsw.SQLITE_OPEN_CREATE:
                    raise simulated_error(apsw.SQLITE_CANTOPEN, f"there is no {name}")
                inode = self._create(name)
            elif flags & apsw.SQLITE_OPEN_EXCLUSIVE:
                raise simulated_error(apsw.SQLITE_CANTOPEN, f"{name} exists")
            self.open_files += 1
            return inode

    def close_inode(self) -> None:
        with self._lock:
            self.open_files -= 1

    def read(self, inode: Inode, size_bytes: int, offset: int) -> bytes:
        with self._lock:
            self._plan.count(Call.READ)
            return bytes(inode.data[offset : offset + size_bytes])

    def write(self, name: str, inode: Inode, data: bytes, offset: int) -> None:
        with self._lock:
            self._plan.count(Call.WRITE)
            if self._write(name, inode, data, offset) < len(data):
                raise simulated_error(apsw.SQLITE_FULL, "the simulated disk is full")

    def truncate(self, name: str, inode: Inode, size_bytes: int) -> None:
        with self._lock:
            self._plan.count(Call.TRUNCATE)
            if size_bytes - len(inode.data) > self._room_bytes(size_bytes > len(inode.data)):
                raise simulated_error(apsw.SQLITE_FULL, "the simulated disk is full")
            self._truncate(name, inode, size_bytes)

    def sync(self, name: str, inode: Inode, whole_directory: bool) -> None:
        with self._lock:
            try:
                self._plan.count(Call.SYNC)
            except apsw.IOError:
                if self._plan.fault is Fault.EIO_SYNC_FORGET:
                    inode.forget_pending()
                raise
            self._image.sync(name, inode)
            if whole_directory:
                self._image.sync_directory()

    def size(self, inode: Inode) -> int:
        with self._lock:
            self._plan.count(Call.SIZE)
            return len(inode.data)

    def delete(self, name: str, sync_directory: bool) -> None:
        with self._lock:
            self._plan.count(Call.DELETE)
            if name not in self._image.names:
                raise simulated_error(apsw.SQLITE_IOERR_DELETE_NOENT, f"there is no {name}")
            self._delete(name)
            if sync_directory:
                self._image.sync_directory()

    def exists(self, name: str) -> bool:
        return name in self._image.names

    # -- inside -----------------------------------------------------------------------------------

    def _write(self, name: str, inode: Inode, data: bytes, offset: int) -> int:
        """Write as many bytes as there is room for, as a real disk does; returns how many."""
        growth = offset + len(data) - len(inode.data)
        lacking = max(0, growth - self._room_bytes(growth > 0))
        fitting = max(0, len(data) - lacking)
        if fitting:
            inode.write(data[:fitting], offset)
            if self._mirror is not None and self._image.names.get(name) is inode:
                self._mirror.write(name, data[:fitting], offset)
        return fitting

    def _truncate(self, name: str, inode: Inode, size_bytes: int) -> None:
        inode.truncate(size_bytes)
        if self._mirror is not None and self._image.names.get(name) is inode:
            self._mirror.truncate(name, size_bytes)

    def _create(self, name: str) -> Inode:
        if self._mirror is not None:
            self._mirror.truncate(name, 0)
        return self._image.create(name)

    def _delete(self, name: str) -> None:
        self._image.delete(name)
        if self._mirror is not None:
            self._mirror.delete(name)

    def _room_bytes(self, grows: bool) -> int:
        if not grows or self.capacity_bytes is None:
            return 1 << 62
        used = sum(len(inode.data) for inode in self._image.names.values())
        used += sum(entry.stat().st_size for entry in self._real_files())
        return max(0, self.capacity_bytes - used)

    def _real_files(self) -> "list[os.DirEntry[str]]":
        """Files of the code under test that are no files of SQLite's."""
        if self._directory is None:
            return []
        return [
            entry
            for entry in os.scandir(self._directory)
            if entry.name not in self._image.names and entry.is_file(follow_symlinks=False)
        ]

    def _successor(self, image: DiskImage) -> "FaultyDisk":
        disk = FaultyDisk(capacity_bytes=self.capacity_bytes)
        disk._image = image
        for entry in self._real_files():
            shutil.copyfile(entry.path, disk.path(entry.name))
        return disk

    def _own_directory(self) -> str:
        if self._directory is None:
            self._directory = f"{_root()}/{next(_NUMBERS)}"
            os.mkdir(self._directory)
            _DISKS[self._directory] = self
        return self._directory

    def _inode(self, name: str) -> Inode:
        inode = self._image.names.get(name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return inode


def install_checksums() -> str:
    """Put SQLite's cksumvfs on top of the disks and return its name, `CHECKSUM_VFS_NAME`.

    It wraps one VFS for as long as the process lives, so this has to come before anything else
    loads it; real files keep working through it. Raises UsageError when it was loaded elsewhere.
    """
    _register()
    if not _checksums_are_ours():
        raise UsageError(
            "cksumvfs already wraps another VFS in this process; call this first", field="checksums"
        )
    return CHECKSUM_VFS_NAME


@functools.cache
def _checksums_are_ours() -> bool:
    names = apsw.vfs_names()
    if CHECKSUM_VFS_NAME in names:
        return False
    apsw.set_default_vfs(VFS_NAME)
    try:
        connection = apsw.Connection(":memory:")
        apsw.sqlite_extra.load(connection, "cksumvfs")
        connection.close()
    finally:
        apsw.set_default_vfs(names[0])
    return True


# -- the VFS --------------------------------------------------------------------------------------

_BASE_VFS: Final = "unix-excl"  # it keeps the wal-index on the heap, so no -shm file is mapped
_DIRECTORY_SYNCED_WITH: Final = (
    apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
)
_DISKS: Final[dict[str, FaultyDisk]] = {}
_NUMBERS: Final = itertools.count(1)


class _File(apsw.VFSFile):
    """An open file. Only a main database has a base file, for its locks and the wal-index."""

    def __init__(self, disk: FaultyDisk, name: str, flags: int) -> None:
        self._disk = disk
        self._name = name
        self._inode = disk.open_inode(name, flags)
        self._has_base = bool(flags & apsw.SQLITE_OPEN_MAIN_DB)
        # SQLite's unix VFS syncs the directory with the first sync of a journal, and relies on it.
        self._syncs_directory = bool(flags & _DIRECTORY_SYNCED_WITH)
        if self._has_base:
            asked = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_MAIN_DB
            super().__init__(_BASE_VFS, disk.path(name), [asked, 0])

    def xRead(self, amount: int, offset: int) -> bytes:
        return self._disk.read(self._inode, amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.write(self._name, self._inode, bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.truncate(self._name, self._inode, newsize)

    def xSync(self, flags: int) -> None:
        self._disk.sync(self._name, self._inode, self._syncs_directory)
        self._syncs_directory = False

    def xFileSize(self) -> int:
        return self._disk.size(self._inode)

    def xClose(self) -> None:
        self._disk.close_inode()
        if self._has_base:
            super().xClose()

    def xFileControl(self, op: int, ptr: int) -> bool:
        # A size hint would grow the base file; growing is the image's business.
        if not self._has_base or op == apsw.SQLITE_FCNTL_SIZE_HINT:
            return False
        return super().xFileControl(op, ptr)

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xSectorSize(self) -> int:
        return 512


class _Vfs(apsw.VFS):
    """Sends paths in a disk's directory to that disk, and all others to the real file system."""

    def __init__(self) -> None:
        super().__init__(VFS_NAME, _BASE_VFS)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        disk, file = _owner(path)
        if disk is None:
            return super().xOpen(name, flags)
        opened = _File(disk, file, flags[0])
        flags[1] = flags[0]
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:
        disk, file = _owner(filename)
        if disk is None:
            super().xDelete(filename, syncdir)
        else:
            disk.delete(file, syncdir)

    def xAccess(self, pathname: str, flags: int) -> bool:
        disk, file = _owner(pathname)
        return super().xAccess(pathname, flags) if disk is None else disk.exists(file)

    def xFullPathname(self, name: str) -> str:
        return super().xFullPathname(name) if _owner(name)[0] is None else name


def _owner(path: str | None) -> tuple[FaultyDisk | None, str]:
    directory, _, name = (path or "").rpartition("/")
    return _DISKS.get(directory), name


def _remove_directory(directory: str) -> None:
    """As shutil.rmtree, but five times as fast for the few plain files that are the rule."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)


@functools.cache
def _register() -> _Vfs:
    hush_simulated_errors()
    return _Vfs()


@functools.cache
def _root() -> Path:
    """Where the disks' directories are: in memory where the system offers that."""
    shared = Path("/dev/shm")
    usable = shared.is_dir() and os.access(shared, os.W_OK)
    root = Path(tempfile.mkdtemp(prefix="memopt-disk-", dir=shared if usable else None))
    atexit.register(_remove_root, root, os.getpid())
    return root.resolve()


def _remove_root(root: Path, owner_pid: int) -> None:
    if os.getpid() == owner_pid:  # a forked child must leave its parent's disks alone
        shutil.rmtree(root, ignore_errors=True)
