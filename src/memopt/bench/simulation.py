"""Replays a trace through policies, beside what a cache that knows the future would reach.

Owns: the loop that a policy runs in, and the figures of a run. A cache has a capacity in bytes; a
key that is larger is missed and not admitted; every other missed key is admitted after victims have
made room for it. Invariant: the bytes of the resident keys never exceed the capacity.

Cost of a policy: the CPU time of the run, less that of the same run with a policy that has the same
victims on a list and does nothing, divided by the requests. Not here: reading traces (traces.py),
processes (contest.py), tiers (plan.py).
"""

import gc
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.base.protocols import Policy
from memopt.policies.catalog import POLICIES, make_policy

FIFO: Final = "fifo"
"""The plainest policy, for comparison; no store runs with it unless the catalog has it."""
_STEP: Final = 1 << 18
"""Requests between two reports."""

Tell = Callable[[int], None]
"""Is told of requests that were replayed."""


class Played(NamedTuple):
    """One run of a policy at one capacity."""

    hits: int
    hit_bytes: int
    evictions: int
    resident: int
    """Keys, at the end."""
    policy_bytes: int
    """What the policy charges for itself at the end."""
    seconds: float
    """CPU time of the whole run."""
    policy_seconds: float
    """Of it, the policy's own."""


class Fifo:
    """First in, first out."""

    __slots__ = ("_order",)

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        self._order[key] = None

    def touched(self, key: int) -> None:
        return None

    def removed(self, key: int) -> None:
        del self._order[key]

    def victim(self) -> int | None:
        return next(iter(self._order), None)

    def charged_bytes(self) -> int:
        return self._order.__sizeof__()


class _Listed:
    """Does nothing, and names the victims that another policy named: what the loop itself costs."""

    __slots__ = ("victim",)

    def __init__(self, victims: Iterable[int]) -> None:
        self.victim = iter(victims).__next__

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        return None

    def touched(self, key: int) -> None:
        return None

    def removed(self, key: int) -> None:
        return None

    def charged_bytes(self) -> int:
        return 0


def policy_names() -> tuple[str, ...]:
    """What is simulated without being asked: the catalog, and FIFO for comparison."""
    return tuple(dict.fromkeys((*POLICIES, FIFO)))


def fresh_policy(name: str) -> Policy:
    """A policy of the catalog, or FIFO; `lru+frequency` is one with an admission policy before it.
    Their time is the count of calls. Raises UsageError naming `policy` or `admission_policy`, and
    listing the names there are."""
    if name == FIFO and FIFO not in POLICIES:
        return Fifo()
    base, admission = parts_of(name)
    return make_policy(base, admission=admission)


def parts_of(name: str) -> tuple[str, str | None]:
    """The policy, and the admission policy before it."""
    base, plus, admission = name.partition("+")
    return base, admission if plus else None


def capacities_of(footprint_bytes: int, wanted: Sequence[float | int]) -> tuple[int, ...]:
    """Bytes of each capacity: a float is a share of the footprint, an int is bytes.

    A share of a small footprint is at least a byte: a trace without sizes has a byte a key.
    """
    found = []
    for each in wanted:
        if isinstance(each, float) and not 0 < each <= 1:
            raise UsageError(f"expected a share in (0, 1], got {each}", field="capacity")
        size = max(1, round(each * footprint_bytes)) if isinstance(each, float) else each
        if size < 1:
            raise UsageError(f"expected at least 1 byte, got {size}", field="capacity")
        found.append(size)
    return tuple(dict.fromkeys(found))


def play(
    make: Callable[[], Policy],
    keys: "array[int]",
    sizes: "Sequence[int]",
    capacity_bytes: int,
    *,
    tell: Tell | None = None,
) -> Played:
    """Replay `keys` through a fresh policy, then once more without it, to know what it costs."""
    policy = make()
    victims = array("i")
    hits, hit_bytes, resident, seconds = _replayed(
        policy, keys, sizes, capacity_bytes, victims.append, tell
    )
    policy_bytes = policy.charged_bytes()
    del policy
    *_, loop_seconds = _replayed(
        _Listed(victims), keys, sizes, capacity_bytes, array("i").append, None
    )
    return Played(
        hits=hits,
        hit_bytes=hit_bytes,
        evictions=len(victims),
        resident=resident,
        policy_bytes=policy_bytes,
        seconds=seconds,
        policy_seconds=max(0.0, seconds - loop_seconds),
    )


def _replayed(
    policy: Policy,
    keys: "array[int]",
    sizes: "Sequence[int]",
    capacity_bytes: int,
    note: Callable[[int], object],
    tell: Tell | None,
) -> tuple[int, int, int, float]:
    """Hits, their bytes, keys resident at the end, and CPU seconds.

    `note` is called with every victim in both runs, so it is no difference between them.
    """
    admitted, touched = policy.admitted, policy.touched
    removed, name_victim = policy.removed, policy.victim
    is_resident = bytearray(len(sizes))
    hits = hit_bytes = used = resident = 0
    # The interpreter's collector would walk the trace itself; no policy needs it.
    collected = gc.isenabled()
    gc.disable()
    clock = time.thread_time
    seconds = 0.0
    try:
        for first in range(0, len(keys), _STEP):
            part = keys[first : first + _STEP]
            begun = clock()
            for key in part:
                size = sizes[key]
                if is_resident[key]:
                    hits += 1
                    hit_bytes += size
                    touched(key)
                    continue
                if size > capacity_bytes:
                    continue
                used += size
                while used > capacity_bytes:
                    victim = name_victim()
                    assert victim is not None, "a cache that holds bytes has a victim"
                    is_resident[victim] = 0
                    removed(victim)
                    note(victim)
                    used -= sizes[victim]
                    resident -= 1
                is_resident[key] = 1
                resident += 1
                admitted(key, size)
            seconds += clock() - begun
            if tell is not None:
                tell(len(part))
    finally:
        if collected:
            gc.enable()
    return hits, hit_bytes, resident, seconds
