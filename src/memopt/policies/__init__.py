"""Who goes when room is short: policies behind one protocol, by class and by name."""

from memopt.policies.adaptive import Adaptive
from memopt.policies.admission import ADMISSIONS, Admitting, FrequencyAdmission, SizeAdmission
from memopt.policies.arc import Arc
from memopt.policies.catalog import POLICIES, make_policy
from memopt.policies.clock import Clock
from memopt.policies.forgetting import Forgetting
from memopt.policies.gdsf import Gdsf
from memopt.policies.importance import Importance
from memopt.policies.lfu import Lfu
from memopt.policies.lru import Lru
from memopt.policies.s3fifo import S3Fifo
from memopt.policies.sieve import Sieve
from memopt.policies.weighted import Weighted, Weights
from memopt.policies.wtinylfu import WTinyLfu

__all__ = [
    "ADMISSIONS",
    "POLICIES",
    "Adaptive",
    "Admitting",
    "Arc",
    "Clock",
    "Forgetting",
    "FrequencyAdmission",
    "Gdsf",
    "Importance",
    "Lfu",
    "Lru",
    "S3Fifo",
    "Sieve",
    "SizeAdmission",
    "WTinyLfu",
    "Weighted",
    "Weights",
    "make_policy",
]
