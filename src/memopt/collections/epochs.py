"""When something was used last, as one number for all that was used at about that time.

Noting it costs no look at a clock: whoever uses something writes down `now`, and who looks after it
every now and then ends epochs. Invariant: what was used in an epoch was used before it ended.
"""

from collections import deque
from typing import Final

_PER_IDLE_TIME: Final = 8


class Epochs:
    """Not thread-safe, but for reading `now`."""

    def __init__(self) -> None:
        self.now = 0
        self._ended: deque[tuple[int, float]] = deque()
        """Epochs, and when they ended, for as long as they are not idle."""

    def end(self, idle_seconds: float, moment: float) -> int:
        """End the present one, if it lasts an eighth of the idle time already: the last epoch that
        ended so long ago; -1 where there is none, or none ended now."""
        ended = self._ended
        if ended and moment - ended[-1][1] < idle_seconds / _PER_IDLE_TIME:
            return -1
        ended.append((self.now, moment))
        self.now += 1
        idle = -1
        while ended and ended[0][1] <= moment - idle_seconds:
            idle, _ = ended.popleft()
        return idle
