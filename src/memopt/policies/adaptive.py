"""Adaptive: follows whichever of several policies would have had the most hits lately.

Owns the policy in charge, the one before it while it hands over, what is known of each member, and
the ghosts. Invariant: every member is in exactly one of the two policies, and its mark says which.
Not here: the policies, and how they are compared (ghosts.py).
"""

from collections.abc import Callable, Mapping
from typing import Final

from memopt.base.protocols import Policy
from memopt.policies.arc import Arc
from memopt.policies.facts import MARK, PLAIN, SIZE_SHIFT, packed, size_of, unpacked
from memopt.policies.gdsf import Gdsf
from memopt.policies.ghosts import HASH_SHIFT, HASHES_MASK, Ghosts
from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes
from memopt.policies.s3fifo import S3Fifo
from memopt.policies.sketch import FrequencySketch
from memopt.policies.wtinylfu import WTinyLfu

CANDIDATES: Final[Mapping[str, Callable[[], Policy]]] = {
    "arc": Arc,
    "wtinylfu": WTinyLfu,
    "s3fifo": S3Fifo,
    "gdsf": Gdsf,
}
"""The first one is in charge until there is evidence. ARC, since of these it loses least on what is
nothing for it: it lets runs of new pages go by, and on loads that are but recent it is LRU; LRU
itself is nobody's leader for long, and a fifth ghost costs what the others do."""
_FOR_SIZES: Final = "gdsf"
"""In charge from the first victim on where sizes differ: many small pages for few large ones have
more hits on nearly any load."""

_DEVIATIONS: Final = 3.0
"""Of chance, by which a leader has to be ahead."""
_LEAD_MIN: Final = 0.01
"""Of the accesses: less is not worth handing over for. Half of what adaptive may be behind; and
where hits are few and come in a row, as those of one conversation do, chance is larger than what
the deviations say."""
_TURNS_MIN: Final = 0.2
"""Accesses to every page that a lead has to weigh: a change costs hits, since the new leader does
not know what the old one did; and what one policy loses once is no reason to leave it."""
_MOVES_A_CALL: Final = 4
_UNKNOWN: Final = 1 << 62
"""Bytes of a cache that never had to let a page go: its ghosts hold all that is sampled."""
_TOUCHES_MAX: Final = 2
"""That a page is handed over with: as many as S3-FIFO asks for before it keeps one."""


class Adaptive:
    """The default. Starts as ARC, and goes over to GDSF when a page has to go and sizes differ.
    Small ghost caches of several policies see a sample of the keys, and the one that had the most
    hits lately is put in charge. They are filled as the cache is, so that they differ from the
    first page that has to go.

    Hits count what they save, the cost of a page; with equal costs, that is counting by page. Not
    by bytes: bringing back one large page takes one fault, and little longer than a small one.
    Evidence is halved over time, so that a load that changes is followed. A leader has to be ahead
    by more than chance, by more than a trifle and by what a change may cost, or the choice would
    flutter: each change costs some of what the policy in charge knew.

    How often pages were asked for is counted whoever is in charge, in one sketch. W-TinyLFU reads
    it, so it knows from its first call who is popular. The others are told: on a change, the policy
    that was in charge hands over its members in the order in which it would have let them go, four
    with each call, and whoever was asked for more than once lately is touched at once, or S3-FIFO
    and ARC would take all they are given for newcomers. What comes meanwhile still goes to the old
    policy, so the order is that of the last moment. What has been handed over goes first. No call
    takes longer for there being many members.

    About 150 bytes a page beside those of the policy in charge, and 8 to 32 for the sketch. Ghosts
    are of the root of 8 times the members, 32 at least and 8,192 at most, about 1,200 bytes each
    for all policies: of 1,000 pages, one in sixteen is sampled, of 100,000 one in 128.
    """

    __slots__ = (
        "_asked",
        "_capacity_bytes",
        "_current",
        "_facts",
        "_fits_above",
        "_fits_below",
        "_ghosts",
        "_index",
        "_limit",
        "_makes",
        "_mark",
        "_named",
        "_old",
        "_resident_bytes",
        "_sketch",
        "switches",
    )

    def __init__(self, candidates: Mapping[str, Callable[[], Policy]] = CANDIDATES) -> None:
        self._makes = tuple(candidates.items())
        self._sketch = FrequencySketch()
        self._index = 0
        self._current = self._made(0)
        self._old: Policy | None = None
        """Hands over its members, those without `_mark`."""
        self._facts: dict[int, int] = {}
        """Key to packed size, cost and importance, and the mark of the policy it is in."""
        self._mark = 0
        self._ghosts: Ghosts | None = None
        self._limit = 0
        """Sampled are keys with a hash below it."""
        self._fits_above, self._fits_below = -1, 1
        """Tables, sketch and ghosts have a size that fits between so many members."""
        self._resident_bytes = 0
        self._capacity_bytes = _UNKNOWN
        """What was resident when a victim was first asked for after an admission."""
        self._asked = False
        self._named: int | None = None
        self.switches = 0
        """How often another policy was put in charge."""

    @property
    def in_charge(self) -> str:
        """The name of the policy in charge."""
        return self._makes[self._index][0]

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        if cost == 1.0 and not importance:
            facts = size_bytes << SIZE_SHIFT | PLAIN
        else:
            facts = packed(size_bytes, cost, importance)
        if self._old is None:
            self._current.admitted(key, size_bytes, cost, importance)
            self._facts[key] = facts | self._mark
        else:
            assert key not in self._facts, f"{key} is admitted twice"
            self._old.admitted(key, size_bytes, cost, importance)
            self._facts[key] = facts | (self._mark ^ MARK)
            self._hand_over()
        mixed = self._sketch.add(key)
        self._resident_bytes += size_bytes
        self._asked = False
        if len(self._facts) >= self._fits_below:
            self._fit()
        # sample_hash(), without its call.
        if mixed >> HASH_SHIFT & HASHES_MASK < self._limit:
            self._compare(key)

    def touched(self, key: int) -> None:
        if self._old is None:
            self._current.touched(key)
        else:
            assert key in self._facts, f"{key} is touched and no member"
            self._holder(key).touched(key)
            self._hand_over()
        if self._sketch.add(key) >> HASH_SHIFT & HASHES_MASK < self._limit:
            self._compare(key)

    def removed(self, key: int) -> None:
        if self._old is None:
            self._current.removed(key)
        else:
            assert key in self._facts, f"{key} is removed and no member"
            self._holder(key).removed(key)
        self._resident_bytes -= self._facts.pop(key) >> SIZE_SHIFT
        if len(self._facts) <= self._fits_above:
            self._fit()
        if key == self._named:
            self._named = None
        elif self._ghosts is not None:
            # A deletion: the page is not to be had by any policy.
            self._ghosts.delete(key)

    def victim(self) -> int | None:
        if not self._asked:
            self._asked = True
            self._capacity_bytes = self._resident_bytes
            if self._ghosts is not None and self._ghosts.filling:
                self._begin(self._ghosts)
        if self._old is not None:
            self._hand_over()
        self._named = self._current.victim()
        return self._named

    def charged_bytes(self) -> int:
        own = table_bytes(self._facts) + len(self._facts) * 2 * INT_BYTES
        own += self._sketch.charged_bytes()
        policies = self._current.charged_bytes()
        if self._old is not None:
            policies += self._old.charged_bytes()
        ghosts = self._ghosts.charged_bytes() if self._ghosts is not None else 0
        return own + policies + ghosts

    def check(self) -> None:
        """Assert the invariant."""
        assert self._resident_bytes == sum(map(size_of, self._facts.values()))
        if self._old is None:
            assert all(facts & MARK == self._mark for facts in self._facts.values())
        if self._ghosts is not None:
            self._ghosts.check()

    def _holder(self, key: int) -> Policy:
        assert self._old is not None
        return self._current if self._facts[key] & MARK == self._mark else self._old

    def _made(self, index: int) -> Policy:
        policy = self._makes[index][1]()
        if isinstance(policy, WTinyLfu):
            policy.read_from(self._sketch)
        return policy

    def _fit(self) -> None:
        members = len(self._facts)
        self._facts = compacted(self._facts)
        self._sketch.fit(members + COMPACTION_MASK)
        if not members:
            self._ghosts, self._limit = None, 0
            self._fits_above, self._fits_below = -1, 1
            self._capacity_bytes = _UNKNOWN
            return
        if self._ghosts is None:
            self._ghosts = Ghosts([make for _, make in self._makes])
        self._limit = self._ghosts.resize(members)
        step = min(members // 8 + 1, COMPACTION_MASK + 1)
        self._fits_above, self._fits_below = members - step, members + step

    def _begin(self, ghosts: Ghosts) -> None:
        """A page has to go for the first time: from here on there is evidence."""
        ghosts.filling = False
        if ghosts.sizes_differ() and self._old is None:
            names = [name for name, _ in self._makes]
            if _FOR_SIZES in names and names.index(_FOR_SIZES) != self._index:
                self._switch(names.index(_FOR_SIZES))

    def _compare(self, key: int) -> None:
        ghosts = self._ghosts
        assert ghosts is not None
        facts = self._facts[key] & ~MARK
        looks = ghosts.access(key, facts, self._capacity_bytes)
        if looks and self._old is None:
            index = ghosts.leader(
                self._index, deviations=_DEVIATIONS, lead_min=_LEAD_MIN, turns_min=_TURNS_MIN
            )
            self._limit = ghosts.resize(len(self._facts))
            if index != self._index:
                self._switch(index)

    def _switch(self, index: int) -> None:
        self._old, self._current = self._current, self._made(index)
        self._index = index
        self._mark ^= MARK
        self.switches += 1
        self._hand_over()

    def _hand_over(self) -> None:
        old = self._old
        assert old is not None
        for _ in range(_MOVES_A_CALL):
            key = old.victim()
            if key is None:
                self._old = None
                return
            old.removed(key)
            facts = self._facts[key] ^ MARK
            self._facts[key] = facts
            self._current.admitted(key, *unpacked(facts))
            for _ in range(min(self._sketch.estimate(key) - 1, _TOUCHES_MAX)):
                self._current.touched(key)
