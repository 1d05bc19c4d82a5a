"""The threads on which the server calls the store, and the wait for one.

Invariant: a call that was begun runs to its end, whoever waits for it goes away or not.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from memopt.base.errors import BackpressureError

T = TypeVar("T")


class StoreThreads:
    """A few threads and a queue with an end."""

    def __init__(self, threads: int, queue_max: int) -> None:
        self._executor = ThreadPoolExecutor(threads, "memopt-server")
        self._places = threading.BoundedSemaphore(threads + queue_max)
        self._queue_max = queue_max

    async def run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The result of `call`, once it has ended. Cancelled, it is withdrawn if it has not begun.
        Raises BackpressureError where too many wait."""
        return await asyncio.wrap_future(self._submit(call, *args, **kwargs))

    async def finish(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The same for what must not be given up: cancelled, it still runs to its end, and only
        then the cancelling goes on."""
        return await finished(asyncio.wrap_future(self._submit(call, *args, **kwargs)))

    def _submit(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> Any:
        if not self._places.acquire(blocking=False):
            raise BackpressureError(
                f"{self._queue_max} calls of the store wait", limit="store_queue_max"
            )
        try:
            future = self._executor.submit(call, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future

    def close(self) -> None:
        """Wait for what was begun."""
        self._executor.shutdown(wait=True)


async def finished(future: asyncio.Future[T]) -> T:
    """The result of what must not be given up: cancelled, it still runs to its end, and only then
    the cancelling goes on."""
    await ended(future)
    return future.result()


async def ended(future: asyncio.Future[Any]) -> None:
    """Wait for that, whatever comes of it."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()
        raise cancelled
