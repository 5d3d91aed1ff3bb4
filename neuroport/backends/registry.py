"""Backends by name: our own, and those that other distributions announce as entry points `neuroport.backends`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from neuroport.backends.base import Backend, ExportingBackend, MappingBackend
from neuroport.backends.cpu import CpuBackend
from neuroport.backends.loihi.backend import LavaBackend
from neuroport.backends.loihi.graded_backend import GradedLavaBackend
from neuroport.backends.loihi.hardware import Loihi2Board
from neuroport.backends.loihi.netx_backend import NetxBackend
from neuroport.backends.spinnaker.backend import Brian2Backend, NestBackend
from neuroport.backends.spinnaker.hardware import SpinnakerBoard
from neuroport.backends.spinnaker.virtual import SpinnakerVirtual
from neuroport.chip.target import Target
from neuroport.errors import ToolchainError, UsageError

_OWN: dict[str, type[Backend]] = {
    "cpu": CpuBackend,
    "lava": LavaBackend,
    "lava-graded": GradedLavaBackend,
    "loihi2-board": Loihi2Board,
    "netx": NetxBackend,
    "spinnaker-board": SpinnakerBoard,
    "spinnaker-brian2": Brian2Backend,
    "spinnaker-nest": NestBackend,
}
_MAPPERS: dict[str, type[MappingBackend]] = {"spinnaker-virtual": SpinnakerVirtual}


def backend_names() -> list[str]:
    """Names that --backend takes."""
    return sorted({*_OWN, *_MAPPERS, *(entry.name for entry in _announced())})


def get_runner_and_mapper(name: str, target: Target) -> tuple[Backend | None, MappingBackend | None]:
    """The backend of that name, if it runs networks; and what maps them: itself, or the target's where it exports.

    Raises:
        UsageError, ToolchainError: see get_backend.
    """
    if name in _MAPPERS:
        return None, _MAPPERS[name]()
    backend = get_backend(name)
    mappers = target.backends if isinstance(backend, ExportingBackend) else ()
    return backend, next((_MAPPERS[mapper]() for mapper in mappers if mapper in _MAPPERS), None)


def get_backend(name: str) -> Backend:
    """The backend of that name, which runs networks.

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
    if name in _MAPPERS:
        raise UsageError(f"backend '{name}' maps networks and runs none; use it in `neuroport deploy --backend {name}`")
    raise UsageError(f"unknown backend '{name}'; known: {', '.join(backend_names())}")


def _announced() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="neuroport.backends"))
