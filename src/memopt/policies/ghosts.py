"""Small caches without pages, one for each of several policies: what each of them would have kept.

Owns which keys are sampled, the ghost caches, and how often which of them had a page. Invariant: a
ghost cache holds at most its share of the bytes of the real one, or a single page, and at most
eight times its share of the members. Not here: what follows from the counts (adaptive.py).
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final

from memopt.base.protocols import Policy
from memopt.policies.facts import unpacked
from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes

HASHES: Final = 1 << 16
HASHES_MASK: Final = HASHES - 1
SALT: Final = 3
_SAMPLED_MIN: Final = 32
"""Up to so many members, all are sampled; of four times as many, half, and so on."""
_SAMPLED_MAX: Final = 8192
_BYTES_A_SAMPLE: Final = 24 * 1024
"""Resident bytes for each sampled page at least, or the ghosts would take the place of pages: one
takes about a sixteenth of it."""
_SMALL_ONE_IN: Final = 8
"""Of small pages: the ghosts then cost half of what the policies do anyway."""
_CROWD: Final = 8
"""Times its share of the members that a ghost cache may hold: among large pages there is room for
any number of small ones, and a ghost takes as much for either."""
_CROWD_MIN: Final = 64
_HALF_LIFE_TURNS: Final = 8
"""Evidence is halved after so many sampled accesses for each page a ghost cache holds."""
_EPOCHS: Final = 32
"""Looks at the evidence within a half-life."""
_EPOCH_MIN: Final = 64
_CACHE_BYTES: Final = 1024
"""A ghost cache and its policy, without what their tables hold."""


def sample_limit(members: int, resident_bytes: int) -> int:
    """Hashes below it are sampled, so that of `members` at most the root of 32 times them are, and
    one for each 24 KiB or, of smaller pages, one in eight; in powers of two."""
    affordable = max(_SAMPLED_MIN, resident_bytes // _BYTES_A_SAMPLE, members // _SMALL_ONE_IN)
    wanted = min(sqrt(_SAMPLED_MIN * members), affordable, _SAMPLED_MAX)
    limit = HASHES
    while limit > 1 and members * limit > wanted * HASHES:
        limit //= 2
    return limit


def sample_hash(key: int) -> int:
    """From 0 to HASHES - 1. A tuple's hash mixes the bits of its ints, in C."""
    return hash((key, SALT)) & HASHES_MASK


class GhostCache:
    """One policy on the sampled keys."""

    __slots__ = ("bytes", "members", "policy", "touched")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.touched = policy.touched
        self.members: dict[int, int] = {}
        """Key to size_bytes."""
        self.bytes = 0

    def admit(
        self,
        key: int,
        size_bytes: int,
        cost: float,
        importance: float,
        *,
        limit_bytes: int,
        members_max: int,
    ) -> None:
        members, policy = self.members, self.policy
        self.bytes += size_bytes
        while members and (self.bytes > limit_bytes or len(members) >= members_max):
            victim = policy.victim()
            assert victim is not None
            policy.removed(victim)
            self.bytes -= members.pop(victim)
        members[key] = size_bytes
        policy.admitted(key, size_bytes, cost, importance)

    def delete(self, key: int) -> None:
        size_bytes = self.members.pop(key, None)
        if size_bytes is not None:
            self.policy.removed(key)
            self.bytes -= size_bytes
            if not len(self.members) & COMPACTION_MASK:
                self.members = compacted(self.members)

    def charged_bytes(self) -> int:
        entries = len(self.members) * 2 * INT_BYTES
        return table_bytes(self.members) + entries + self.policy.charged_bytes()


class Ghosts:
    """The ghost caches of several policies, and which of them had what was asked for.

    A sampled access is one of 2^n patterns: which of the n had the page. Weights of patterns, which
    are halved over time, say all that is needed: each policy's hits, and for two of them how often
    they differed, which is what chance has to be measured by (McNemar's test).

    Source of the sampling: C. A. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC
    construction with SHARDS", FAST 2015; of simulating policies on it: C. Waldspurger, T.
    Saemundsson, I. Ahmad, N. Park, "Cache modeling and optimization using miniature simulations",
    USENIX ATC 2017.
    """

    __slots__ = (
        "_caches",
        "_charged",
        "_countdown",
        "_members_max",
        "_squares",
        "_stale",
        "_weights",
        "filling",
        "fits",
        "limit",
    )

    def __init__(self, makes: Sequence[Callable[[], Policy]]) -> None:
        self._caches = tuple(GhostCache(make()) for make in makes)
        self._weights = [0.0] * (1 << len(makes))
        """Of sampled accesses by pattern, bit i for the i-th policy."""
        self._squares = [0.0] * (1 << len(makes))
        self._countdown = _EPOCH_MIN
        self._charged = 0
        self._members_max = _CROWD_MIN
        self._stale = True
        self.filling = True
        """No page had to go yet. A sample that is halved meanwhile leaves room that those who come
        next will take: the charge stays."""
        self.limit = 0
        """Keys with a hash below it are sampled."""
        self.fits = range(0)
        """Numbers of members for which the limit need not be looked at again."""

    def resize(self, members: int, resident_bytes: int) -> None:
        """Sample as many as there should be of so many members."""
        self.fits = range(members - members // 8, members + members // 8 + 1)
        limit = sample_limit(members, resident_bytes)
        # A step to and fro would empty half of the ghosts each time.
        if limit < self.limit and sample_limit(members // 2, resident_bytes // 2) < self.limit:
            for cache in self._caches:
                for key in [key for key in cache.members if sample_hash(key) >= limit]:
                    cache.delete(key)
            self.limit = limit
            self._stale = True
        elif limit > self.limit:
            self.limit = limit
        self._members_max = max(_CROWD_MIN, _CROWD * members * self.limit // HASHES)

    def access(self, key: int, facts: int, capacity_bytes: int) -> bool:
        """A sampled key is asked for, of a cache of so many bytes. Whether to look at the
        evidence."""
        limit_bytes = capacity_bytes * self.limit // HASHES
        size_bytes, cost, importance = unpacked(facts)
        pattern, bit = 0, 1
        for cache in self._caches:
            if key in cache.members:
                cache.touched(key)
                pattern |= bit
            else:
                cache.admit(
                    key, size_bytes, cost, importance,
                    limit_bytes=limit_bytes, members_max=self._members_max,
                )  # fmt: skip
            bit <<= 1
        self._weights[pattern] += cost
        self._squares[pattern] += cost * cost
        self._stale = True
        self._countdown -= 1
        return self._countdown <= 0

    def delete(self, key: int) -> None:
        for cache in self._caches:
            cache.delete(key)
        self._stale = True

    def leader(self, current: int, *, deviations: float, lead_min: float) -> int:
        """The policy with the highest weight of hits, or `current` where the leader is not ahead of
        it by so many standard deviations of chance and by `lead_min` of all accesses."""
        hits = [
            sum(weight for pattern, weight in enumerate(self._weights) if pattern >> index & 1)
            for index in range(len(self._caches))
        ]
        best = max(range(len(hits)), key=lambda index: (hits[index], index == current))
        lead = hits[best] - hits[current]
        variance = sum(
            square
            for pattern, square in enumerate(self._squares)
            if (pattern >> best ^ pattern >> current) & 1
        )
        enough = lead > lead_min * sum(self._weights) and lead * lead > deviations**2 * variance
        self._age()
        return best if enough else current

    def charged_bytes(self) -> int:
        if self._stale:
            charged = sum(cache.charged_bytes() for cache in self._caches)
            charged += table_bytes(self._weights, self._squares) + 2 * 24 * len(self._weights)
            charged += _CACHE_BYTES * len(self._caches)
            self._charged = max(charged, self._charged) if self.filling else charged
            self._stale = False
        return self._charged

    def check(self) -> None:
        """Assert the invariant."""
        for cache in self._caches:
            assert cache.bytes == sum(cache.members.values())
            assert all(sample_hash(key) < self.limit for key in cache.members)

    def _age(self) -> None:
        pages = max(len(cache.members) for cache in self._caches)
        self._countdown = max(_EPOCH_MIN, _HALF_LIFE_TURNS * pages // _EPOCHS)
        kept = 0.5 ** (self._countdown / max(1, _HALF_LIFE_TURNS * pages))
        self._weights = [weight * kept for weight in self._weights]
        self._squares = [square * kept for square in self._squares]
