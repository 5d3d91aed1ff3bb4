"""Fixtures of this folder: the emulators of others."""

from tests.oracles.fixtures import *  # noqa: F403 - pytest finds fixtures by name
