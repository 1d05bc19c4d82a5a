"""Who goes when room is short: policies behind one protocol, by class and by name."""

from memopt.policies.arc import Arc
from memopt.policies.catalog import POLICIES, make_policy
from memopt.policies.clock import Clock
from memopt.policies.gdsf import Gdsf
from memopt.policies.lfu import Lfu
from memopt.policies.lru import Lru
from memopt.policies.s3fifo import S3Fifo
from memopt.policies.sieve import Sieve
from memopt.policies.wtinylfu import WTinyLfu

__all__ = [
    "POLICIES",
    "Arc",
    "Clock",
    "Gdsf",
    "Lfu",
    "Lru",
    "S3Fifo",
    "Sieve",
    "WTinyLfu",
    "make_policy",
]
