"""Small caches without pages, one for each of several policies: what each of them would have kept.

Owns which keys are sampled, the ghost caches, and how often which of them had a page. Invariant: a
ghost cache holds at most its share of the bytes of the real one, or a single page, and at most
eight times its share of the members. Not here: what follows from the counts (adaptive.py).
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final

from memopt.base.protocols import Policy
from memopt.policies.evidence import Evidence
from memopt.policies.facts import unpacked
from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes
from memopt.policies.sketch import SALT

HASHES: Final = 1 << 16
HASHES_MASK: Final = HASHES - 1
HASH_SHIFT: Final = 47
"""Of the sketch's hash, those bits that its rows use least."""
_SAMPLED_MIN: Final = 32
"""Up to so many members, all are sampled."""
_SAMPLED_ROOT: Final = 8
"""Of many, the root of so many times as many: of four times the members, twice the sample."""
_EARLY_ROOT: Final = 32
"""At first, when nothing is known yet..."""
_EARLY_TURNS: Final = 4
"""... for so many sampled accesses for each page a ghost cache holds."""
_SAMPLED_MAX: Final = 8192
_CROWD: Final = 8
"""Times its share of the members that a ghost cache may hold: among large pages there is room for
any number of small ones, and a ghost takes as much for either."""
_CROWD_MIN: Final = 64
_HALF_LIFE_TURNS: Final = 8
"""Evidence is halved after so many sampled accesses for each page a ghost cache holds..."""
_LONG_TURNS: Final = 64
"""... and what is kept for long after so many."""
_EPOCHS: Final = 32
"""Looks at the evidence within a half-life."""
_EPOCH_MIN: Final = 64
_VARIATION: Final = 1 / 10
"""Standard deviation of sizes over their mean, from which on they differ."""
_CACHE_BYTES: Final = 1024
"""A ghost cache and its policy, without what their tables hold."""


def sample_limit(members: int, *, early: bool = False) -> int:
    """Hashes below it are sampled, so that of `members` at most the root of 8 times them are, twice
    as many at first, but all up to 32; in powers of two."""
    root = _EARLY_ROOT if early else _SAMPLED_ROOT
    wanted = max(_SAMPLED_MIN, min(sqrt(root * members), _SAMPLED_MAX))
    limit = HASHES
    while limit > 1 and members * limit > wanted * HASHES:
        limit //= 2
    return limit


def sample_hash(key: int) -> int:
    """From 0 to HASHES - 1."""
    return hash((key, SALT)) >> HASH_SHIFT & HASHES_MASK


class GhostCache:
    """One policy on the sampled keys."""

    __slots__ = ("_admitted", "_removed", "_victim", "bytes", "members", "policy", "touched")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.touched = policy.touched
        self._admitted, self._removed = policy.admitted, policy.removed
        self._victim = policy.victim
        self.members: dict[int, int] = {}
        """Key to size_bytes."""
        self.bytes = 0

    def admit(
        self, key: int, facts: tuple[int, float, float], limit_bytes: int, members_max: int
    ) -> None:
        members = self.members
        total = self.bytes + facts[0]
        while members and (total > limit_bytes or len(members) >= members_max):
            victim = self._victim()
            assert victim is not None
            self._removed(victim)
            total -= members.pop(victim)
        self.bytes = total
        members[key] = facts[0]
        self._admitted(key, *facts)

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

    Evidence is kept over two spans. The short one follows a load that changes; the long one finds
    what is a little better all the time, which the short one cannot tell from chance where few
    pages are sampled.

    Source of the sampling: C. A. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC
    construction with SHARDS", FAST 2015; of simulating policies on it: C. Waldspurger, T.
    Saemundsson, I. Ahmad, N. Park, "Cache modeling and optimization using miniature simulations",
    USENIX ATC 2017.
    """

    __slots__ = (
        "_caches",
        "_charged",
        "_countdown",
        "_early",
        "_epoch",
        "_lately",
        "_long",
        "_members_max",
        "_squares",
        "_stale",
        "_weights",
        "filling",
        "limit",
    )

    def __init__(self, makes: Sequence[Callable[[], Policy]]) -> None:
        self._caches = tuple(GhostCache(make()) for make in makes)
        self._lately = Evidence(len(makes), _HALF_LIFE_TURNS)
        self._long = Evidence(len(makes), _LONG_TURNS)
        self._weights = [0.0] * (1 << len(makes))
        """Of the epoch's accesses, by who had the page: bit i for the i-th policy."""
        self._squares = [0.0] * (1 << len(makes))
        self._early = True
        self._epoch = self._countdown = _EPOCH_MIN
        self._charged = 0
        self._members_max = _CROWD_MIN
        self._stale = True
        self.filling = True
        """No page had to go yet. A sample that is halved meanwhile leaves room that those who come
        next will take: the charge stays."""
        self.limit = 0
        """Keys with a hash below it are sampled."""

    def resize(self, members: int) -> int:
        """Sample as many as there should be of so many members; the limit."""
        limit = sample_limit(members, early=self._early)
        fewer = sample_limit(members * 3 // 4, early=self._early)
        # A step to and fro would empty half of the ghosts each time.
        if limit < self.limit and fewer < self.limit:
            for cache in self._caches:
                for key in [key for key in cache.members if sample_hash(key) >= limit]:
                    cache.delete(key)
            self.limit = limit
            self._stale = True
        elif limit > self.limit:
            self.limit = limit
        usual = members * sample_limit(members) // HASHES
        sampled = members * self.limit // HASHES
        self._members_max = max(_CROWD_MIN, _CROWD * usual, 2 * sampled)
        return self.limit

    def access(self, key: int, facts: int, capacity_bytes: int) -> bool:
        """A sampled key is asked for, of a cache of so many bytes. Whether to look at the
        evidence."""
        limit_bytes = capacity_bytes * self.limit // HASHES
        known = unpacked(facts)
        pattern, bit = 0, 1
        for cache in self._caches:
            if key in cache.members:
                cache.touched(key)
                pattern |= bit
            else:
                cache.admit(key, known, limit_bytes, self._members_max)
            bit <<= 1
        self._stale = True
        if self.filling:
            return False
        cost = known[1]
        self._weights[pattern] += cost
        self._squares[pattern] += cost * cost
        self._countdown -= 1
        return self._countdown <= 0

    def delete(self, key: int) -> None:
        for cache in self._caches:
            cache.delete(key)
        self._stale = True

    def sizes_differ(self) -> bool:
        """Whether the sampled pages' sizes deviate by a tenth of their mean, or more."""
        sizes = list(self._caches[0].members.values())
        squares = sum(size * size for size in sizes)
        return squares * len(sizes) > (1 + _VARIATION**2) * sum(sizes) ** 2

    def leader(self, current: int, *, deviations: float, lead_min: float, turns_min: float) -> int:
        """Ends an epoch. The policy with the highest weight of hits; `current` where the leader is
        not ahead of it by so many standard deviations of chance, by `lead_min` of all accesses, and
        by as much as `turns_min` accesses to every page weigh."""
        pages = max(len(cache.members) for cache in self._caches)
        self._end_epoch(pages)
        for evidence in (self._lately, self._long):
            hits = [evidence.hits(index) for index in range(len(self._caches))]
            best = max(range(len(hits)), key=lambda index: (hits[index], index == current))
            lead = hits[best] - hits[current]
            floor = evidence.share(max(lead_min * evidence.accesses, turns_min * pages))
            enough = lead > floor and lead**2 > deviations**2 * evidence.variance(best, current)
            # What led for long and does not now is of a load that was.
            if enough and self._lately.hits(best) >= self._lately.hits(current):
                return best
        return current

    def charged_bytes(self) -> int:
        if self._stale:
            charged = sum(cache.charged_bytes() for cache in self._caches)
            charged += table_bytes(self._weights, self._squares) + 2 * 24 * len(self._weights)
            charged += self._lately.charged_bytes() + self._long.charged_bytes()
            charged += _CACHE_BYTES * len(self._caches)
            self._charged = max(charged, self._charged) if self.filling else charged
            self._stale = False
        return self._charged

    def check(self) -> None:
        """Assert the invariant."""
        for cache in self._caches:
            assert cache.bytes == sum(cache.members.values())
            assert all(sample_hash(key) < self.limit for key in cache.members)

    def _end_epoch(self, pages: int) -> None:
        for evidence in (self._lately, self._long):
            evidence.add(self._weights, self._squares, self._epoch, pages)
        self._weights = [0.0] * len(self._weights)
        self._squares = [0.0] * len(self._squares)
        if self._lately.accesses >= _EARLY_TURNS * pages:
            self._early = False
        self._epoch = self._countdown = max(_EPOCH_MIN, _HALF_LIFE_TURNS * pages // _EPOCHS)
