"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE: `default` repeats itself, `nightly` does not.

No profile has a deadline: the first derivative of a process compiles decompositions.
"""

import os

from hypothesis import HealthCheck, settings

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "default", deadline=None, derandomize=True, database=None, max_examples=30
)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=SLOW,
)
settings.register_profile(
    "nightly", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
