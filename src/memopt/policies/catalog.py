"""The policies by the names a configuration uses.

Not here: which one a store runs with (wiring) and how well they do (`bench/`).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from memopt.base.errors import UsageError
from memopt.base.protocols import Policy
from memopt.policies.adaptive import Adaptive
from memopt.policies.admission import ADMISSIONS, Admitting
from memopt.policies.arc import Arc
from memopt.policies.clock import Clock
from memopt.policies.forgetting import Forgetting
from memopt.policies.gdsf import Gdsf
from memopt.policies.importance import Importance
from memopt.policies.lfu import Lfu
from memopt.policies.lru import Lru
from memopt.policies.s3fifo import S3Fifo
from memopt.policies.sieve import Sieve
from memopt.policies.weighted import Weighted
from memopt.policies.wtinylfu import WTinyLfu

_TIMED: Final = MappingProxyType(
    {"forgetting": Forgetting, "importance": Importance, "weighted": Weighted}
)
"""Those with locks, whose time may be the clock's."""

POLICIES: Final[Mapping[str, Callable[[], Policy]]] = MappingProxyType(
    {
        "adaptive": Adaptive,
        "lru": Lru,
        "clock": Clock,
        "lfu": Lfu,
        "sieve": Sieve,
        "s3fifo": S3Fifo,
        "arc": Arc,
        "wtinylfu": WTinyLfu,
        "gdsf": Gdsf,
        **_TIMED,
    }
)


def make_policy(
    name: str, *, admission: str | None = None, now: Callable[[], float] | None = None,
    field: str = "policy",
) -> Policy:  # fmt: skip
    """A fresh policy; with the named admission policy before it, and `now` for its time, where it
    has one. Raises UsageError naming `field` or `admission_policy` and listing the names there
    are."""
    if name not in POLICIES:
        choices = ", ".join(POLICIES)
        raise UsageError(f"expected one of {choices}, got {name!r}", field=field)
    if admission is not None and admission not in ADMISSIONS:
        choices = ", ".join(ADMISSIONS)
        raise UsageError(f"expected one of {choices}, got {admission!r}", field="admission_policy")
    policy = _TIMED[name](now) if name in _TIMED else POLICIES[name]()
    return policy if admission is None else Admitting(policy, ADMISSIONS[admission]())
