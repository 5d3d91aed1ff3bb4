"""The last rung of a deployment: the program is run, or mapped, and compared with the core bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuroport.backends.base import (
    Bounded,
    ExportingBackend,
    FileBackend,
    Job,
    Mapped,
    NarrowBackend,
    RoundingBackend,
)
from neuroport.backends.registry import get_runner_and_mapper
from neuroport.chip.files import write_trace
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace
from neuroport.errors import ToolchainError
from neuroport.validation.diagnosis import backend_row
from neuroport.validation.divergence import Comparison, compare
from neuroport.validation.ladder import Ladder
from neuroport.validation.outputs import Reading, answer_of


@dataclass(frozen=True, eq=False)
class Ran:
    """What came of it. comparison: None where nothing ran; mapped: None where nothing maps; report: for report.json.

    bounded: of differences, where the backend computes in other numbers, whether rounding explains them.

    failure: the toolchain's, when neither of the two is complete.
    """

    report: dict[str, Any]
    comparison: Comparison | None = None
    mapped: Mapped | None = None
    bounded: Bounded | None = None
    failure: ToolchainError | None = None


class LastRung:
    """A backend, and what maps its program; one of them may be missing.

    narrow, file, exporter: the one that holds less than the chip, that runs a file of another format, or that writes a
    program of its own; None if neither does.

    Raises:
        UsageError, ToolchainError: see get_backend.
    """

    def __init__(self, name: str, target: Target) -> None:
        self.name = name
        self.runner, self.mapper = get_runner_and_mapper(name, target)
        backends: tuple[object, ...] = (self.runner, self.mapper)
        self.narrow = next((b for b in backends if isinstance(b, NarrowBackend)), None)
        self.file = next((b for b in backends if isinstance(b, FileBackend)), None)
        self.exporter = next((b for b in backends if isinstance(b, ExportingBackend)), None)

    def prepare(self, job: Job) -> Mapping[str, str]:
        """Refuse what cannot be run or mapped, and make ready what is needed; versions of what will compute.

        Raises:
            DoesNotFitError, ToolchainMissingError: see Backend.check and Backend.prepare.
        """
        found: dict[str, str] = {}
        for backend in (self.runner, self.mapper):
            if backend is not None:
                backend.check(job)
                found |= backend.prepare(job.target, job.on_message)
        return found

    def write_export(self, stage: Path, job: Job, core: Trace) -> None:
        """The program that users run without neuroport, where there is one."""
        if self.exporter is not None:
            job.on_message("writing the export")
            self.exporter.write_export(stage, job, core)

    def climb(self, stage: Path, job: Job, core: Trace, ladder: Ladder, reading: Reading) -> Ran:
        """Map, run and compare; a trace goes into the bundle, or the log of what failed.

        Raises:
            DoesNotFitError: the vendor's mapper finds no room.
        """
        mapped, trace = None, None
        try:
            if self.mapper is not None:
                job.on_message(f"mapping by {self.mapper.summary}")
                mapped = self.mapper.map(job)
            if self.runner is not None:
                job.on_message(f"rung backend: {job.inputs.n_samples} samples on {self.runner.summary}")
                trace = self.runner.run(job)
        except ToolchainError as error:
            log = job.work_dir / "worker.log"
            if log.is_file():
                shutil.copyfile(log, stage / "worker.log")
            report = {"name": self.name, "samples": job.inputs.n_samples, "error": str(error)}
            return Ran(report, failure=error)
        report = {"name": self.name} if mapped is None else {"name": self.name, "mapping": mapped.as_json()}
        if trace is None:
            return Ran(report, None, mapped)
        write_trace(stage / "backend.h5", trace.spikes, trace.potentials)
        comparison = compare(job.network, job.inputs, core, trace)
        answer = answer_of(job.network, trace, reading, 0)
        ladder.add("backend", answer.scores, answer.outputs)
        rounding: object = self.runner if comparison.mismatches else None
        bounded = rounding.bounded(job, trace) if isinstance(rounding, RoundingBackend) else None
        if bounded is None:
            return Ran({**report, **backend_row(self.name, comparison, job, core, trace)}, comparison, mapped)
        return Ran({**report, **comparison.as_json(), "bounded": asdict(bounded)}, comparison, mapped, bounded)
