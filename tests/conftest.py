"""What all tests share: property tests that give the same examples on every machine, however slow."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.lava_fixture"]

settings.register_profile(
    "neuroport",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("neuroport")
