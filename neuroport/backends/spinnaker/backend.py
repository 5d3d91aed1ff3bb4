"""The backends `spinnaker-nest` and `spinnaker-brian2`: the exported directory, run by its own script."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Bounded, Job
from neuroport.backends.parts import default_workers, n_parts, run_in_parts
from neuroport.backends.spinnaker.bound import bounded
from neuroport.backends.spinnaker.export import EXPORT, V_UNIT, exported_in, write_export
from neuroport.backends.spinnaker.limits import check_exportable
from neuroport.backends.supervise import Deadlines, new_token, run_worker
from neuroport.chip.network import IntNetwork
from neuroport.chip.synapses import n_synapses
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace
from neuroport.errors import ToolchainMissingError, WorkerError
from neuroport.interpreters import child_environment
from neuroport.toolchains import ensure

_WORKER = Path(__file__).parent / "worker" / "main.py"
# Far above what was measured: deadlines are for hangs, not for slow machines.
_START_S, _SAMPLE_S = 300.0, 120.0
_BUILT_PER_S, _EVENTS_PER_S = 1e4, 1e5
_TOLERANCE = 1e-9  # of a potential, as PyNN gives it


class PynnBackend:
    """Runs the exported directory's run.py with one of its simulators."""

    name: str
    summary: str
    simulator: str
    packages: tuple[str, ...]  # that compute

    def check(self, job: Job) -> None:
        """Refuse what the export cannot express.

        Raises:
            DoesNotFitError: layer, value and remedy are named.
        """
        check_exportable(job.network, job.inputs)

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Make the environment on first use, check it on every other."""
        return versions_of(target, self.packages, on_message)

    def write_export(self, folder: Path, job: Job, core: Trace) -> None:
        """The directory `pynn` of a bundle."""
        write_export(folder / EXPORT, job.network, job.inputs, core)

    def run(self, job: Job) -> Trace:
        """All spikes, and potentials of the readout populations.

        Raises:
            ToolchainMissingError: the environment cannot be made. WorkerError: the simulator failed, hung or was
            killed, or a potential is no multiple of the chip's.
        """
        python, _ = environment_of(job.target, job.on_message)

        def run_part(part: Job, is_cancelled: Callable[[], bool]) -> Trace:
            exported_in(part.work_dir, part.network, part.inputs)
            run_script(python, part, [self.simulator], self.variables(part.work_dir), is_cancelled)
            return read_result(part.work_dir / "result.h5", part)

        return run_in_parts(job, run_part, n_parts(job, job.n_workers or default_workers()))

    def variables(self, work_dir: Path) -> Mapping[str, str]:
        """The environment of the worker: a home of its own, for no setting of the user's may change a result."""
        return {"HOME": str(work_dir / "home")}


class NestBackend(PynnBackend):
    """NEST, whose iaf_psc_delta has IFTruncDelta's order of operations: add, floor at V_min, compare by >=.

    Source: nest-simulator 3.10.0, models/iaf_psc_delta.cpp, update(); sPyNNaker, neuron_model_if_trunc.h.
    """

    name = "spinnaker-nest"
    summary = "the exported PyNN script in NEST"
    simulator = "nest"
    packages = ("PyNN", "nest-simulator", "numpy", "neo")

    def bounded(self, job: Job, trace: Trace) -> Bounded | None:
        """Of neurons with a leak: NEST has no s16.15."""
        return bounded(job.network, job.inputs, trace) if job.network.arithmetic.leak == "closed-form" else None


class Brian2Backend(PynnBackend):
    """Brian2, with IFTruncDelta written in Brian2's equations."""

    name = "spinnaker-brian2"
    summary = "the exported PyNN script in Brian2"
    simulator = "brian2"
    packages = ("PyNN", "Brian2", "numpy", "neo")


def environment_of(target: Target, on_message: Callable[[str], None]) -> tuple[Path, Mapping[str, str]]:
    """The Python that has PyNN, and the versions of its packages; made on first use, checked on every other.

    Raises:
        ToolchainMissingError: the target names none, or it cannot be made.
    """
    if target.toolchain is None:
        raise ToolchainMissingError(
            f"target '{target.name}' names no toolchain with PyNN; use --target spinnaker1, or --backend cpu"
        )
    made = ensure(target.toolchain.spec, on_progress=on_message)
    return made.python, made.packages


def versions_of(target: Target, packages: Sequence[str], on_message: Callable[[str], None]) -> Mapping[str, str]:
    """Versions of those packages in the target's environment.

    Raises:
        ToolchainMissingError: see environment_of.
    """
    _, found = environment_of(target, on_message)
    return {f"pynn:{name}": found[name] for name in packages if name in found}


def run_script(
    python: Path,
    job: Job,
    task: Sequence[str],
    variables: Mapping[str, str],
    is_cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Run the worker on the export in job.work_dir; task: a simulator, or 'map' and a number of boards.

    Raises:
        WorkerError: see run_worker.
    """
    token = new_token()
    for folder in ("home", "tmp"):
        (job.work_dir / folder).mkdir(exist_ok=True)
    run_worker(
        [str(python), str(_WORKER), str(job.work_dir), token, str(os.getpid()), *task],
        token=token,
        work_dir=job.work_dir,
        environment=child_environment(
            {"OMP_NUM_THREADS": "1", "TMPDIR": str(job.work_dir / "tmp"), "MPLBACKEND": "Agg", **variables}
        ),
        deadlines=_deadlines(job.network, job.inputs.n_steps),
        on_progress=job.on_progress,
        is_cancelled=is_cancelled,
    )


def _deadlines(network: IntNetwork, n_steps: int) -> Deadlines:
    """By the number of synapses: all are made before the first sample, and all may carry a spike in every step."""
    n = sum(n_synapses(j.synapse) for j in network.projections)
    step_s = (n + network.n_neurons) / _EVENTS_PER_S
    return Deadlines(_START_S + n / _BUILT_PER_S, _SAMPLE_S + n_steps * step_s)


def read_result(path: Path, job: Job) -> Trace:
    """The script's result in chip integers, checked for completeness.

    Raises:
        WorkerError: a population is missing, or a potential is no multiple of 2^-15, to a tolerance of 1e-9.
    """
    spikes: dict[str, NDArray[np.uint8]] = {}
    potentials: dict[str, NDArray[np.int64]] = {}
    lead = (job.inputs.n_samples, job.inputs.n_steps)
    try:
        with h5py.File(path, "r") as f:
            rasters = {str(d.attrs["name"]): d[()] for d in f["spikes"].values()}
            values = {str(d.attrs["name"]): d[()] for d in f.get("potentials", {}).values()}
        is_rounded = job.network.arithmetic.leak == "closed-form"
        for p in job.network.populations:
            if p.role == "input":
                continue
            bits = np.unpackbits(rasters[p.name], axis=-1, count=p.n_neurons)
            spikes[p.name] = bits.reshape(*lead, *p.shape)
            if p.role == "readout":
                potentials[p.name] = _integers(p.name, values[p.name], is_rounded=is_rounded).reshape(*lead, *p.shape)
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise WorkerError(f"the worker's result is incomplete ({error}); its disk may be full") from error
    return Trace(spikes, potentials)


def _integers(name: str, v: NDArray[Any], *, is_rounded: bool) -> NDArray[np.int64]:
    """Potentials in units of 2^-15; is_rounded: a leak in floating point leaves others, whose nearest is meant."""
    whole = np.rint(v / V_UNIT)
    off = np.abs(v - whole * V_UNIT)
    if not (is_rounded or (off <= _TOLERANCE).all()):
        raise WorkerError(
            f"population '{name}': a potential is {v.flat[off.argmax()]!r}, the chip's are multiples of 2^-15; the "
            f"simulator computes another neuron"
        )
    return whole.astype(np.int64)
