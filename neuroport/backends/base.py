"""What a backend is: it takes the integer network and its inputs, and returns every spike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace


@dataclass(frozen=True, eq=False)
class Job:
    """One run on a backend.

    work_dir: an empty directory of the run's own, for files between processes. on_message: told what is going on;
    on_progress: told how many samples are done. n_workers: processes of the vendor's that may share the samples; None
    leaves it to the backend.
    """

    target: Target
    network: IntNetwork
    inputs: IntInputs
    work_dir: Path
    on_message: Callable[[str], None] = lambda _: None
    on_progress: Callable[[int], None] = lambda _: None
    n_workers: int | None = None


class Backend(Protocol):
    """Runs integer networks. `name` is what --backend takes; `summary` says what runs, in one line."""

    name: str
    summary: str

    def check(self, job: Job) -> None:
        """Refuse what this backend cannot run, before anything is started.

        Raises:
            DoesNotFitError: the network uses what the backend does not offer.
        """

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Make ready what `run` needs; returns the versions of the packages that will compute.

        Raises:
            ToolchainMissingError: it is not there and cannot be made; what was tried and what to do.
        """

    def run(self, job: Job) -> Trace:
        """Spikes of all populations and potentials of the readout populations at every step, aligned with the core's.

        Raises:
            ToolchainError: the toolchain is missing, or its process failed.
        """


@runtime_checkable
class NarrowBackend(Protocol):
    """A backend that holds less than the chip does."""

    def narrowed(self, target: Target) -> Target:
        """The target with what the backend holds of it, to quantize for.

        Raises:
            DoesNotFitError: it holds nothing of it.
        """


@runtime_checkable
class FileBackend(NarrowBackend, Protocol):
    """A backend that runs a file of another format. `default_recipe`: for networks that the format can hold."""

    default_recipe: str

    def refuse_neurons(self, recipe: str, *, reset: str, v_init: float, clamp: float) -> None:
        """Refuse neurons that the format does not have, before anything is converted.

        Raises:
            UsageError: which they are, and the recipe to take.
        """

    def write_files(self, folder: Path, network: IntNetwork) -> None:
        """Write the file into a bundle."""


@runtime_checkable
class ExportingBackend(Protocol):
    """A backend that runs a program its users can run without neuroport; the bundle holds it."""

    def write_export(self, folder: Path, job: Job, core: Trace) -> None:
        """Write the program into a bundle, with what the core says it must do.

        Raises:
            DoesNotFitError: it cannot be expressed; nothing is written then.
        """


@dataclass(frozen=True)
class Bounded:
    """Whether a run in other numbers than the chip's is within a derived bound of them.

    compared_values: neuron-steps; outside: those that no rounding explains; bound: the largest that applied, in
    membrane integers.
    """

    compared_values: int
    outside: int
    first_outside: str | None
    bound: float


@runtime_checkable
class RoundingBackend(Protocol):
    """A backend that computes some neurons in other numbers than the chip, so that single spikes may differ."""

    def bounded(self, job: Job, trace: Trace) -> Bounded | None:
        """Whether every spike and potential of a run is where rounding allows it; None if they must be the chip's."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """What a vendor's mapper made of a network.

    summary: one line; connections: those whose weight and delay were read back, differences of them from what was
    asked for; report: cores, chips and memory as plain data; warnings: what is far from what was expected.
    """

    summary: str
    connections: int
    differences: int
    first_difference: str | None
    report: Mapping[str, Any]
    warnings: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data for report.json."""
        return {
            **self.report,
            "connections": self.connections,
            "differences": self.differences,
            "first_difference": self.first_difference,
        }


class MappingBackend(Protocol):
    """Maps integer networks onto a vendor's chip by the vendor's own tools, and runs nothing: there are no spikes."""

    name: str
    summary: str

    def check(self, job: Job) -> None:
        """Refuse what this backend cannot map, as Backend.check does."""

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Make ready what `map` needs, as Backend.prepare does."""

    def map(self, job: Job) -> Mapped:
        """Cores, chips and memory, and whether everything that would be loaded is what was asked for.

        Raises:
            DoesNotFitError: the vendor's mapper finds no room. ToolchainError: missing, or its process failed.
        """
