"""When the arena is collected: the triggers, by the names a configuration uses.

A trigger sees what is live, dead and mapped, and says yes or no; it is asked about once a second.
`periodic`, `fragmentation` and `growth` are one rule each. `bandit` and `bandit_ucb` take one of
them for an epoch, look at what it cost, and learn which to take: the arms of a bandit.

Invariant: where nothing is dead, nothing is due. Constant memory. Not here: collecting (collector).
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from memopt.base.errors import UsageError
from memopt.base.protocols import Trigger
from memopt.base.records import ArenaUsage
from memopt.base.units import MIB

PAUSE_WEIGHT: Final = 10.0
"""A tenth of the time spent in pauses is as bad as RSS that is dead from one end to the other."""
_PERIOD_SECONDS: Final = 2.0
_DEAD_SHARE: Final = 0.1
_DEAD_BYTES_MIN: Final = MIB
_GROWTH_FACTOR: Final = 1.1
_EPOCH_SECONDS: Final = 10.0
_EXPLORED_SHARE: Final = 0.1
_UCB_SCALE: Final = 0.1
"""Rewards of arms are a tenth apart, not one: with UCB1's own scale it would explore for ever."""
_DISCOUNT: Final = 0.97
"""An epoch counts this much less with each later one, so that what was learnt can be unlearnt:
half as much after 23."""


class Periodic:
    """Every so many seconds."""

    def __init__(self, period_seconds: float = _PERIOD_SECONDS) -> None:
        self._period_seconds = period_seconds
        self._last: float | None = None

    def due(self, usage: ArenaUsage, now: float) -> bool:
        if self._last is None:
            self._last = now
        return usage.dead_bytes > 0 and now - self._last >= self._period_seconds

    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        self._last = now


class Fragmentation:
    """Once more than a share of what is mapped is dead, and enough to be worth it."""

    def __init__(
        self, dead_share: float = _DEAD_SHARE, dead_bytes_min: int = _DEAD_BYTES_MIN
    ) -> None:
        self._dead_share = dead_share
        self._dead_bytes_min = dead_bytes_min

    def due(self, usage: ArenaUsage, now: float) -> bool:
        dead_bytes = usage.dead_bytes
        return (
            0 < dead_bytes >= self._dead_bytes_min
            and dead_bytes >= self._dead_share * usage.resident_bytes
        )

    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        pass


class Growth:
    """Once what is mapped has grown by a factor since the last collection, as generational
    collectors have it: what comes is more likely to be dead than what has stayed."""

    def __init__(self, factor: float = _GROWTH_FACTOR, grown_bytes_min: int = MIB) -> None:
        self._factor = factor
        self._grown_bytes_min = grown_bytes_min
        self._base_bytes: int | None = None

    def due(self, usage: ArenaUsage, now: float) -> bool:
        resident_bytes = usage.resident_bytes
        if self._base_bytes is None or resident_bytes < self._base_bytes:
            self._base_bytes = resident_bytes
        grown_bytes = resident_bytes - self._base_bytes
        return (
            usage.dead_bytes > 0
            and grown_bytes >= self._grown_bytes_min
            and resident_bytes >= self._factor * self._base_bytes
        )

    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        self._base_bytes = usage.resident_bytes


class Bandit:
    """Takes one of several triggers for an epoch, and learns which.

    The reward of an epoch is 1 less its costs: the mean share of what is mapped that is dead, and
    PAUSE_WEIGHT times the share of the time that went into pauses; never below 0. Older epochs
    count less and less. With `explored_share`, that share of the epochs takes an arm by chance and
    the others the best so far (epsilon-greedy); without it, the arm whose mean reward plus its
    uncertainty is highest (UCB1 of Auer et al., 2002, with the discounts of Garivier and Moulines,
    2011).
    """

    def __init__(
        self,
        arms: Sequence[Trigger],
        *,
        chance: random.Random,
        explored_share: float | None = _EXPLORED_SHARE,
        epoch_seconds: float = _EPOCH_SECONDS,
        discount: float = _DISCOUNT,
    ) -> None:
        assert arms
        self._arms = arms
        self._chance = chance
        self._explored_share = explored_share
        self._epoch_seconds = epoch_seconds
        self._discount = discount
        self._counts = [0.0] * len(arms)
        self._sums = [0.0] * len(arms)
        self.arm = 0
        """The one that is taken now."""
        self._begun: float | None = None
        self._seen = 0.0
        self._dead_share_seconds = 0.0
        self._pause_seconds = 0.0

    @property
    def rewards(self) -> list[float]:
        """The mean reward of each arm; of an arm that was never taken, 0."""
        return [
            total / count if count else 0.0
            for total, count in zip(self._sums, self._counts, strict=True)
        ]

    def due(self, usage: ArenaUsage, now: float) -> bool:
        if self._begun is None:
            self._begin(now)
        self._see(usage, now)
        if now - self._begun_at() >= self._epoch_seconds:
            self._learn(now)
            self.arm = self._next_arm()
            self._begin(now)
        # All are asked, for each has to see what there is.
        return [arm.due(usage, now) for arm in self._arms][self.arm]

    def collected(self, usage: ArenaUsage, pause_seconds: float, now: float) -> None:
        self._pause_seconds += pause_seconds
        for arm in self._arms:
            arm.collected(usage, pause_seconds, now)

    def _begin(self, now: float) -> None:
        self._begun = self._seen = now
        self._dead_share_seconds = self._pause_seconds = 0.0

    def _begun_at(self) -> float:
        assert self._begun is not None
        return self._begun

    def _see(self, usage: ArenaUsage, now: float) -> None:
        share = usage.dead_bytes / usage.resident_bytes if usage.resident_bytes else 0.0
        self._dead_share_seconds += share * (now - self._seen)
        self._seen = now

    def _learn(self, now: float) -> None:
        seconds = now - self._begun_at()
        cost = (self._dead_share_seconds + PAUSE_WEIGHT * self._pause_seconds) / seconds
        for arm in range(len(self._arms)):
            self._counts[arm] *= self._discount
            self._sums[arm] *= self._discount
        self._counts[self.arm] += 1.0
        self._sums[self.arm] += max(0.0, 1.0 - cost)

    def _next_arm(self) -> int:
        for arm, count in enumerate(self._counts):
            if not count:
                return arm
        if self._explored_share is not None:
            if self._chance.random() < self._explored_share:
                return self._chance.randrange(len(self._arms))
            values = self.rewards
        else:
            spread = 2 * math.log(max(1.0, sum(self._counts)))
            values = [
                reward + _UCB_SCALE * math.sqrt(spread / count)
                for reward, count in zip(self.rewards, self._counts, strict=True)
            ]
        return max(range(len(values)), key=values.__getitem__)


def _arms() -> list[Trigger]:
    return [Periodic(), Fragmentation(), Growth()]


TRIGGERS: Final[Mapping[str, Callable[[random.Random], Trigger]]] = MappingProxyType(
    {
        "periodic": lambda _: Periodic(),
        "fragmentation": lambda _: Fragmentation(),
        "growth": lambda _: Growth(),
        "bandit": lambda chance: Bandit(_arms(), chance=chance),
        "bandit_ucb": lambda chance: Bandit(_arms(), chance=chance, explored_share=None),
    }
)


def make_trigger(name: str, chance: random.Random) -> Trigger:
    """A fresh trigger. Raises UsageError naming `collection_trigger` and listing the names."""
    try:
        make = TRIGGERS[name]
    except KeyError:
        choices = ", ".join(TRIGGERS)
        raise UsageError(
            f"expected one of {choices}, got {name!r}", field="collection_trigger"
        ) from None
    return make(chance)
