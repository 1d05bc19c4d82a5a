"""Who may come in when room is short: by frequency, by size, and the policy that asks them.

Owns the newcomer's trial. Invariant: every member but the newcomer is in the policy inside. Not
here: a refusal to read; what was asked for is always served, and only its staying is decided.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from memopt.base.protocols import Admission, Policy
from memopt.policies.queue import COMPACTION_MASK, INT_BYTES, compacted, table_bytes
from memopt.policies.sketch import FrequencySketch

_LARGE: Final = 16
"""A page of more than one part in so many of what is resident is large."""


class FrequencyAdmission:
    """Admits who was asked for more often lately than who would go for it. Constant time, 8 to 32
    bytes a member.

    Source: G. Einziger, R. Friedman, B. Manes, "TinyLFU: a highly efficient cache admission
    policy", ACM Transactions on Storage 13(4), 2017, section 3.
    """

    __slots__ = ("_sketch",)

    def __init__(self) -> None:
        self._sketch = FrequencySketch()

    def accessed(self, key: int) -> None:
        self._sketch.add(key)

    def admits(self, key: int, size_bytes: int, victim: int) -> bool:
        return self._sketch.estimate(key) > self._sketch.estimate(victim)

    def resized(self, members: int, resident_bytes: int) -> None:
        self._sketch.fit(members)

    def charged_bytes(self) -> int:
        return self._sketch.charged_bytes()


class SizeAdmission:
    """Refuses a page of more than a sixteenth of what is resident: it would cost many their place.
    Constant time, no memory.

    A limit that is learnt, such as AdaptSize's, lost: it needs chance, and pages differ by little.
    """

    __slots__ = ("_limit_bytes",)

    def __init__(self) -> None:
        self._limit_bytes = 0

    def accessed(self, key: int) -> None: ...

    def admits(self, key: int, size_bytes: int, victim: int) -> bool:
        return size_bytes <= self._limit_bytes

    def resized(self, members: int, resident_bytes: int) -> None:
        self._limit_bytes = resident_bytes // _LARGE

    def charged_bytes(self) -> int:
        return 0


ADMISSIONS: Final[Mapping[str, Callable[[], Admission]]] = MappingProxyType(
    {"frequency": FrequencyAdmission, "size": SizeAdmission}
)


class Admitting:
    """A policy with an admission policy before it. The page that came last is on trial until the
    next one comes; where room is needed meanwhile, it is admitted in the place of the one that the
    policy inside names, or goes itself. About 150 bytes a page beside theirs.

    Refusing a page before it is read lost: the read needs the room anyway, for as long as it takes.
    """

    __slots__ = (
        "_admission",
        "_named",
        "_newcomer",
        "_policy",
        "_resident_bytes",
        "_rival",
        "_sizes",
    )

    def __init__(self, policy: Policy, admission: Admission) -> None:
        self._policy = policy
        self._admission = admission
        self._sizes: dict[int, int] = {}
        """Of every member."""
        self._resident_bytes = 0
        self._newcomer: tuple[int, float, float, int] | None = None
        """(key, cost, importance, touches while on trial)."""
        self._named = False
        """The newcomer was named, and is still here."""
        self._rival: int | None = None
        """Whom the policy inside named last, and who stayed."""

    def admitted(
        self, key: int, size_bytes: int, cost: float = 1.0, importance: float = 0.0
    ) -> None:
        assert key not in self._sizes, f"{key} is admitted twice"
        if self._newcomer is not None:
            self._admit()
        self._sizes[key] = size_bytes
        self._resident_bytes += size_bytes
        self._newcomer, self._named = (key, cost, importance, 0), False
        self._resize()
        self._admission.accessed(key)

    def touched(self, key: int) -> None:
        assert key in self._sizes, f"{key} is touched and no member"
        self._admission.accessed(key)
        if self._newcomer is not None and self._newcomer[0] == key:
            _, cost, importance, touches = self._newcomer
            self._newcomer = (key, cost, importance, touches + 1)
            return
        self._policy.touched(key)
        if key == self._rival:
            self._rival = None

    def removed(self, key: int) -> None:
        assert key in self._sizes, f"{key} is removed and no member"
        self._resident_bytes -= self._sizes.pop(key)
        if self._newcomer is not None and self._newcomer[0] == key:
            self._newcomer, self._named = None, False
        else:
            self._policy.removed(key)
            if key == self._rival:
                self._rival = None
        self._resize()

    def victim(self) -> int | None:
        if self._newcomer is not None and self._named:
            # It was named before and is still here: somebody holds it, so it is in use.
            self._admit()
        rival, self._rival = self._rival, None
        if rival is None:
            rival = self._policy.victim()
        if self._newcomer is None:
            return rival
        key = self._newcomer[0]
        # Now, and not when the number of members was last looked at: their sizes changed since.
        self._admission.resized(len(self._sizes) + COMPACTION_MASK, self._resident_bytes)
        if rival is not None and self._admission.admits(key, self._sizes[key], rival):
            self._admit()
            return rival
        self._named, self._rival = True, rival
        return key

    def charged_bytes(self) -> int:
        own = table_bytes(self._sizes) + len(self._sizes) * 2 * INT_BYTES
        return own + self._policy.charged_bytes() + self._admission.charged_bytes()

    def _admit(self) -> None:
        assert self._newcomer is not None
        key, cost, importance, touches = self._newcomer
        self._newcomer, self._named = None, False
        self._policy.admitted(key, self._sizes[key], cost, importance)
        for _ in range(touches):
            self._policy.touched(key)

    def _resize(self) -> None:
        members = len(self._sizes)
        if not members & COMPACTION_MASK:
            self._sizes = compacted(self._sizes)
            self._admission.resized(members + COMPACTION_MASK, self._resident_bytes)
