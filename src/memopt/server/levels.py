"""The pressure level, looked at now and then, and who is refused at it.

High sheds what is of low priority; critical refuses everybody, with the time to come again.
"""

import asyncio
import contextlib
import logging
from typing import Final

from memopt import Memory
from memopt.base.errors import MemoptError
from memopt.server.errors import busy
from memopt.server.threads import StoreThreads

_HIGH: Final = "high"
_CRITICAL: Final = "critical"
_RETRY_SECONDS: Final = {_HIGH: 2.0, _CRITICAL: 5.0}

log = logging.getLogger("memopt.server")


class Levels:
    """Knows the level of a moment ago. Used on one event loop."""

    def __init__(self, memory: Memory, threads: StoreThreads, period_seconds: float) -> None:
        self._memory = memory
        self._threads = threads
        self._period_seconds = period_seconds
        self.level = "calm"

    def admit(self, *, is_low: bool) -> None:
        """Raises ServerError where a request is refused for want of memory."""
        if self.level == _CRITICAL or (self.level == _HIGH and is_low):
            raise busy(
                f"memory is short: the pressure level is {self.level}", code="pressure",
                retry_after_seconds=_RETRY_SECONDS[self.level],
            )  # fmt: skip

    async def watch(self) -> None:
        """Look, for ever."""
        while True:
            with contextlib.suppress(MemoptError):
                self.level = (await self._threads.run(self._memory.stats)).pressure.level
            await asyncio.sleep(self._period_seconds)
