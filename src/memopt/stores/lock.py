"""One owner a directory: a lock the kernel holds for life.

The pid and host in the file are information for people; the lock is the `flock`, which the kernel
drops when its owner dies, however it dies. A forked child never owns anything.
"""

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from memopt.base.errors import StoreLockedError


class DirectoryLock:
    """Held from construction to `release`. Raises StoreLockedError when somebody else holds it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 256, 0).decode("utf-8", "replace").strip()
            os.close(self._descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StoreLockedError(
                f"{path.parent} is owned by {owner or 'another process'}: "
                "use memopt.connect() to talk to it",
                owner=owner or None,
            ) from None
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.truncate(self._descriptor, 0)
        self.abandon()

    def abandon(self) -> None:
        """Close without releasing: what a forked child does with the lock of its parent."""
        os.close(self._descriptor)
