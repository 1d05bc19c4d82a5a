"""What a third party needs to prove that its part fits: conformance suites. Needs hypothesis."""

from memopt.testing.locks import LockablePolicy, LockConformance
from memopt.testing.policies import PolicyConformance, check_policy

__all__ = ["LockConformance", "LockablePolicy", "PolicyConformance", "check_policy"]
