"""Real PyNN, NEST, Brian2 and sPyNNaker for the tests that need them: a failure in CI, a skip elsewhere."""

import os

import pytest

from neuroport.chip.target import load_target
from neuroport.errors import ToolchainMissingError
from neuroport.toolchains import Toolchain, ensure


@pytest.fixture(scope="session")
def spinnaker() -> Toolchain:
    sheet = load_target("spinnaker1").toolchain
    assert sheet is not None
    try:
        return ensure(sheet.spec)
    except ToolchainMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"SpiNNaker's toolchain cannot be made here: {error}")
