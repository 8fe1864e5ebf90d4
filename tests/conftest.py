"""Hypothesis profiles for all tests; BISYNC_HYPOTHESIS_PROFILE chooses one.

`fast`: a few examples, while writing code. `ci` (the default): the same examples in every run, so a failure is never
luck. `deep`: many random examples; the header names the seed that repeats the run.
"""

import os
import pathlib
import random

import pytest
from hypothesis import HealthCheck, configuration, settings

ROOT = pathlib.Path(__file__).parents[1]
PROFILE = os.environ.get("BISYNC_HYPOTHESIS_PROFILE", "ci")

# No deadlines and no complaint about slow drawing: how busy the machine is must not decide about a test.
COMMON = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", COMMON, max_examples=20)
settings.register_profile("ci", COMMON, max_examples=100, derandomize=True, database=None)
settings.register_profile("deep", COMMON, max_examples=2000)

configuration.set_hypothesis_home_dir(ROOT / ".hypothesis")
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of a random run here, so that the header can name it; Hypothesis reads the option after this."""
    if config.option.hypothesis_seed is None and not settings().derandomize:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what decides about the random examples of this run."""
    if settings().derandomize:
        return f"hypothesis: profile {PROFILE}, seed fixed for each test: every run draws the same examples"
    seed = config.option.hypothesis_seed
    return f"hypothesis: profile {PROFILE}, seed {seed}; to repeat, keep the profile and give --hypothesis-seed={seed}"
