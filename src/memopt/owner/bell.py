"""What wakes a thread that listens to its client, too.

Invariant: a ring is never lost, and never goes to a descriptor that is somebody else's by now.
"""

import contextlib
import selectors
import socket
import threading
import time
from typing import Final

_SELECT_SECONDS_MAX: Final = 3600.0


class Bell:
    """Rung on any thread; waited for on one. Close it."""

    def __init__(self) -> None:
        self._rope, self._clapper = socket.socketpair()
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Never waits, and may come after it was closed."""
        with self._lock, contextlib.suppress(OSError):
            self._rope.send(b"\0", socket.MSG_DONTWAIT)

    def wait(self, seconds: float, client: socket.socket) -> bool:
        """Until it rings, or so many seconds; False when the client went before."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._clapper, selectors.EVENT_READ)
            selector.register(client, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                ready = [key.fileobj for key, _ in selector.select(min(left, _SELECT_SECONDS_MAX))]
                if self._clapper in ready:
                    return True
                if client in ready:
                    if not client.recv(1, socket.MSG_PEEK):
                        return False
                    # It did not wait for its answer. Whether it goes is not seen behind that.
                    selector.unregister(client)
        return True

    def close(self) -> None:
        with self._lock:
            self._rope.close()
        self._clapper.close()
