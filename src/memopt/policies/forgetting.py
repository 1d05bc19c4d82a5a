"""Forgetting: memory fades with time, and slower for what was used more often.

Owns what strength means. Not here: forgetting that a user asks for, which no policy decides.
"""

from collections.abc import Callable
from typing import Final

from memopt.policies.levels import Levels

STRENGTH_MAX: Final = 24
"""More uses make nothing stronger: else what was once used a lot would never go."""
_IMPORTANT: Final = 8
"""The uses that an importance just below 1 is worth."""


class Forgetting(Levels):
    """Evicts what is least retained: `exp(-age / strength)`, with the time since the last use as
    age. Strength is 1, grows by 1 with each use up to 24, and starts up to 8 higher with
    importance; an importance of 1 is a pin, which does not fade. Pins go after all else, locked
    members last.

    Retention falls at another rate for each strength, so no one order of all members lasts. Of one
    strength it does: the order of use. So members are kept by strength, and a victim is the weakest
    of 24 first ones. That is exact, and constant time; a heap would have to be built anew as time
    goes on. The unit of time does not matter, as a ratio of ages decides.

    Source: H. Ebbinghaus, "Über das Gedächtnis", 1885; the strength that grows by 1 with each use
    is that of W. Zhong, L. Guo, Q. Gao, H. Ye, Y. Wang, "MemoryBank: enhancing large language
    models with long-term memory", AAAI 2024. About 350 bytes a member.
    """

    __slots__ = ()

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        super().__init__(STRENGTH_MAX + 1, now)

    def _first_level(self, importance: float) -> int:
        return STRENGTH_MAX if importance >= 1 else round(importance * _IMPORTANT)

    def _level_after_use(self, level: int) -> int:
        return level + 1 if level < STRENGTH_MAX - 1 else level

    def _giving_level(self) -> int | None:
        moment = self.moment()
        giving, faded_most = None, -1.0
        for level, queue in enumerate(self._queues):
            if not queue:
                continue
            if level == STRENGTH_MAX:
                return level if giving is None else giving
            # -log of the retention; of equals, the one of less strength.
            faded = (moment - queue[next(iter(queue))]) / (level + 1)
            if faded > faded_most:
                giving, faded_most = level, faded
        return giving
