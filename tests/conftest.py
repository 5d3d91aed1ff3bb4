"""What all tests share: property tests that give the same examples on every machine, however slow."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.toolchain_fixtures"]

# Threads that wait for each other on a busy machine make small networks many times slower; torch is not imported yet.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests with a cache of their own need not compile anew.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / "build" / "numba"))

settings.register_profile(
    "neuroport",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("neuroport")
