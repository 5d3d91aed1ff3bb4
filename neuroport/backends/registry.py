"""Backends by name: our own, and those that other distributions announce as entry points `neuroport.backends`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from neuroport.backends.base import Backend
from neuroport.backends.cpu import CpuBackend
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.backends.loihi.graded_backend import GradedLavaBackend
from neuroport.backends.loihi.hardware import Loihi2Board
from neuroport.backends.loihi.netx_backend import NetxBackend
from neuroport.errors import ToolchainError, UsageError

_OWN: dict[str, type[Backend]] = {
    "cpu": CpuBackend,
    "lava": LavaBackend,
    "lava-graded": GradedLavaBackend,
    "loihi2-board": Loihi2Board,
    "netx": NetxBackend,
}


def backend_names() -> list[str]:
    """Names that --backend takes."""
    return sorted({*_OWN, *(entry.name for entry in _announced())})


def get_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: no such backend. ToolchainError: another distribution's backend cannot be loaded.
    """
    if name in _OWN:
        return _OWN[name]()
    for entry in _announced():
        if entry.name == name:
            try:
                backend: Backend = entry.load()()
            except Exception as error:
                raise ToolchainError(f"backend '{name}' ({entry.value}) cannot be loaded: {error}") from error
            return backend
    raise UsageError(f"unknown backend '{name}'; known: {', '.join(backend_names())}")


def _announced() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="neuroport.backends"))
