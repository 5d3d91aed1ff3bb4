"""The emulators for the tests that need them: a failure in CI where they cannot be made, a skip elsewhere."""

import os

import pytest

from neuroport.errors import ToolchainMissingError
from neuroport.toolchains import ensure
from tests.oracles.harness import SPEC, started

__all__ = ["brian2", "lava_models", "nengo", "oracle_toolchain"]


@pytest.fixture(scope="session")
def oracle_toolchain():
    try:
        return ensure(SPEC)
    except ToolchainMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the environment of brian2-loihi and nengo-loihi cannot be made here: {error}")


@pytest.fixture(scope="session")
def nengo(oracle_toolchain):
    with started("nengo", oracle_toolchain) as oracle:
        yield oracle


@pytest.fixture(scope="session")
def brian2(oracle_toolchain):
    with started("brian2", oracle_toolchain) as oracle:
        yield oracle


@pytest.fixture(scope="session")
def lava_models(lava):
    with started("lava", lava) as oracle:
        yield oracle
