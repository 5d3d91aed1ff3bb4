"""A recorded run once more: by the core, or by a backend, every spike compared with the record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neuroport.backends.base import Backend, Bounded, Job
from neuroport.backends.registry import get_backend
from neuroport.chip.core import run_core
from neuroport.chip.trace import Trace
from neuroport.errors import ToolchainError, UsageError
from neuroport.validation.diagnosis import Divergence, diagnose
from neuroport.validation.divergence import Comparison, compare
from neuroport.validation.divergence_text import divergence_text
from neuroport.validation.recorded import Recorded
from neuroport.validation.rounding import bounded_by, is_explained, rounding_line

CORE = "core"


@dataclass(frozen=True)
class Rerun:
    """What ran ('core', or a backend's name), and how it compares with the record; versions of what computed.

    comparison: `core` in it is the core: as recorded beside a backend, and beside the record, which is then the
    `backend`, this neuroport's. bounded: of differences, where the backend computes in other numbers, whether its
    rounding explains them; divergence: of all others, where they come from.
    """

    name: str
    comparison: Comparison
    versions: Mapping[str, str] = field(default_factory=dict)
    bounded: Bounded | None = None
    divergence: Divergence | None = None

    @property
    def is_equal(self) -> bool:
        """Whether no spike and no potential differs, or by no more than the backend's rounding."""
        return is_explained(self.comparison, self.bounded)

    def __str__(self) -> str:
        """What was compared, the first place that differs, and where the differences come from."""
        c, b = self.comparison, self.bounded
        done = f"{self.name}: {c.samples} samples, {c.compared_spikes:,} spikes"
        if not c.mismatches:
            return f"{done}, every bit equal"
        if b is not None:
            where = f"; the first:\n  {b.first_outside}" if b.outside else ""
            return f"{done}, {c.mismatches:,} of {c.compared_values:,} values differ: {rounding_line(b)}{where}"
        sides = "core: this neuroport's, backend: as recorded"
        if self.name != CORE:
            sides = f"core: as recorded, backend: {self.name}"
        why = "" if self.divergence is None else f"\n{divergence_text(self.divergence.as_json())}"
        return (
            f"{self.name} differs from the recording in {c.mismatches:,} of {c.compared_values:,} values; the first "
            f"({sides}):\n  {c.first_mismatch}{why}"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain data for a report."""
        bounded = {} if self.bounded is None else {"bounded": asdict(self.bounded)}
        found = {} if self.divergence is None else {"divergence": self.divergence.as_json()}
        return {"name": self.name, **self.comparison.as_json(), **bounded, **found, "versions": dict(self.versions)}


@dataclass(frozen=True)
class Reruns:
    """Runs a record again; told what is going on, as a backend's Job is."""

    on_message: Callable[[str], None] = lambda _: None
    on_progress: Callable[[int, int], None] = lambda done, total: None
    n_workers: int | None = None

    def run(self, recorded: Recorded, backends: Sequence[str] = ()) -> tuple[Rerun, ...]:
        """The core, then each backend.

        Raises:
            UsageError: no such backend, or a record that takes too much memory. DoesNotFitError: a backend cannot run
            the network. ToolchainError: one is missing or failed.
        """
        for name in backends:
            get_backend(name)  # a wrong name is told before minutes are spent
        return (self.core(recorded), *(self.backend(recorded, name) for name in backends))

    def core(self, recorded: Recorded) -> Rerun:
        """The core of this neuroport on this machine."""
        self.on_message(f"{recorded.inputs.n_samples} samples on the core")
        trace = run_core(recorded.network, recorded.inputs, record="spikes").trace
        return self.compared(CORE, recorded, trace)

    def backend(self, recorded: Recorded, name: str) -> Rerun:
        """A backend; 'cpu' is the oracle."""
        backend = get_backend(name)
        with tempfile.TemporaryDirectory(prefix="neuroport-") as folder:
            job = self._job(recorded, Path(folder))
            self.on_message(f"preparing backend {name}")
            backend.check(job)
            versions = backend.prepare(job.target, self.on_message)
            self.on_message(f"{recorded.inputs.n_samples} samples on {backend.summary}")
            trace = backend.run(job)
        return self.compared(name, recorded, trace, versions, backend)

    def kept(self, recorded: Recorded, trace: Trace) -> Rerun:
        """The backend's trace that a bundle holds."""
        try:
            backend = get_backend(recorded.backend_name)
        except (UsageError, ToolchainError):  # another distribution's, which need not be here to compare bits
            backend = None
        return self.compared("backend.h5", recorded, trace, backend=backend)

    def compared(
        self,
        name: str,
        recorded: Recorded,
        trace: Trace,
        versions: Mapping[str, str] | None = None,
        backend: Backend | None = None,
    ) -> Rerun:
        """How a trace compares with the record; backend: that gave it."""
        network, inputs = recorded.network, recorded.inputs
        core, other = (trace, recorded.trace) if name == CORE else (recorded.trace, trace)
        comparison = compare(network, inputs, core, other)
        bounded = bounded_by(backend, self._job(recorded, Path()), comparison, trace) if backend is not None else None
        if not comparison.mismatches or bounded is not None:
            return Rerun(name, comparison, versions or {}, bounded)
        self.on_message("looking for what makes them differ")
        return Rerun(name, comparison, versions or {}, divergence=diagnose(network, inputs, core, other))

    def _job(self, recorded: Recorded, folder: Path) -> Job:
        return Job(
            recorded.target,
            recorded.network,
            recorded.inputs,
            folder,
            self.on_message,
            lambda n_done: self.on_progress(n_done, recorded.inputs.n_samples),
            n_workers=self.n_workers,
        )
