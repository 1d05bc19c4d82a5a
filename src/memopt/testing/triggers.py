"""The contract of a collection trigger, as tests anybody can run on a trigger of their own.

With pytest, subclass `TriggerConformance`:

    class TestMine(TriggerConformance):
        def make(self, chance: random.Random) -> Trigger:
            return Mine()

Not here: whether it chooses well. That is a question for `memopt bench arena`.
"""

import random
from abc import ABC, abstractmethod
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from memopt.base.protocols import Trigger
from memopt.base.records import ArenaUsage
from memopt.base.units import MIB

_QUICK: Final = settings(max_examples=60, deadline=None)
_USAGES: Final = st.builds(
    lambda live, dead, room: ArenaUsage(live, dead, live + dead + room),
    st.integers(0, 64 * MIB),
    st.sampled_from([0, 0, 1, MIB, 40 * MIB]),
    st.integers(0, 4 * MIB),
)
_STEPS: Final = st.lists(st.tuples(_USAGES, st.floats(0, 100)), max_size=40)


class TriggerConformance(ABC):
    """The suite. Every method named `test_…` is one promise of `memopt.base.protocols.Trigger`."""

    @abstractmethod
    def make(self, chance: random.Random) -> Trigger:
        """A fresh trigger; `chance` is all the chance it takes."""

    def test_where_nothing_is_dead_nothing_is_due(self) -> None:
        @_QUICK
        @given(_STEPS)
        def never(steps: list[tuple[ArenaUsage, float]]) -> None:
            trigger, now = self.make(random.Random(0)), 0.0
            for usage, seconds in steps:
                now += seconds
                assert not (trigger.due(usage, now) and not usage.dead_bytes)
                trigger.collected(usage, 0.001, now)

        never()

    def test_the_same_calls_get_the_same_answers(self) -> None:
        @_QUICK
        @given(_STEPS)
        def twice(steps: list[tuple[ArenaUsage, float]]) -> None:
            triggers = self.make(random.Random(3)), self.make(random.Random(3))
            now = 0.0
            for usage, seconds in steps:
                now += seconds
                first, second = (trigger.due(usage, now) for trigger in triggers)
                assert first == second
                if first:
                    for trigger in triggers:
                        trigger.collected(usage._replace(dead_bytes=0), 0.001, now)

        twice()

    def test_an_arena_that_fills_with_dead_values_is_collected_some_time(self) -> None:
        trigger = self.make(random.Random(0))
        for second in range(10_000):
            dead_bytes = second * MIB // 4
            if trigger.due(ArenaUsage(MIB, dead_bytes, MIB + dead_bytes), float(second)):
                return
        raise AssertionError("2,500 MiB are dead, and nothing is due")
