"""What a third party needs to prove that its part fits: conformance suites. Needs hypothesis."""

from memopt.testing.policies import PolicyConformance, check_policy

__all__ = ["PolicyConformance", "check_policy"]
