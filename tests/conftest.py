"""What all tests share: how hard Hypothesis tries.

The default profile repeats the same examples every time, so a failure is one of the change at hand.
`pytest --hypothesis-profile=long` looks for new ones.
"""

from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=100, print_blob=True,
    suppress_health_check=_SLOW,
)  # fmt: skip
settings.register_profile(
    "long", deadline=None, max_examples=5000, print_blob=True, suppress_health_check=_SLOW
)
settings.load_profile("ci")
