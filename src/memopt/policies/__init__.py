"""Who goes when room is short: five policies behind one protocol, by class and by name."""

from memopt.policies.catalog import POLICIES, make_policy
from memopt.policies.clock import Clock
from memopt.policies.lfu import Lfu
from memopt.policies.lru import Lru
from memopt.policies.s3fifo import S3Fifo
from memopt.policies.sieve import Sieve

__all__ = ["POLICIES", "Clock", "Lfu", "Lru", "S3Fifo", "Sieve", "make_policy"]
