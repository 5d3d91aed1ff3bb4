"""Real simulators for the tests that need them (see conftest.py): a failure in CI, a skip elsewhere."""

import os

import pytest

from neuroport.chip.target import load_target
from neuroport.errors import ToolchainMissingError
from neuroport.toolchains import Toolchain, ensure


@pytest.fixture(scope="session")
def lava() -> Toolchain:
    """Lava and lava-dl."""
    return _made("loihi-sim")


@pytest.fixture(scope="session")
def spinnaker() -> Toolchain:
    """PyNN, NEST, Brian2 and sPyNNaker."""
    return _made("spinnaker1")


def _made(target: str) -> Toolchain:
    sheet = load_target(target).toolchain
    assert sheet is not None
    try:
        return ensure(sheet.spec)
    except ToolchainMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the toolchain of {target} cannot be made here: {error}")
