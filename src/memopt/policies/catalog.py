"""The policies by the names a configuration uses.

Not here: which one a store runs with (wiring) and how well they do (`bench/`).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from memopt.base.errors import UsageError
from memopt.base.protocols import Policy
from memopt.policies.arc import Arc
from memopt.policies.clock import Clock
from memopt.policies.gdsf import Gdsf
from memopt.policies.lfu import Lfu
from memopt.policies.lru import Lru
from memopt.policies.s3fifo import S3Fifo
from memopt.policies.sieve import Sieve
from memopt.policies.wtinylfu import WTinyLfu

POLICIES: Final[Mapping[str, Callable[[], Policy]]] = MappingProxyType(
    {
        "lru": Lru,
        "clock": Clock,
        "lfu": Lfu,
        "sieve": Sieve,
        "s3fifo": S3Fifo,
        "arc": Arc,
        "wtinylfu": WTinyLfu,
        "gdsf": Gdsf,
    }
)


def make_policy(name: str) -> Policy:
    """A fresh policy. Raises UsageError naming `policy` and listing the names there are."""
    try:
        return POLICIES[name]()
    except KeyError:
        choices = ", ".join(POLICIES)
        raise UsageError(f"expected one of {choices}, got {name!r}", field="policy") from None
