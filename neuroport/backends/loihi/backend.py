"""The `lava` backend: Intel's Lava simulator in its own environment, all samples in one run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Job
from neuroport.backends.parts import default_workers, n_parts, run_in_parts
from neuroport.backends.supervise import Deadlines, new_token, run_worker
from neuroport.chip.files import write_inputs, write_network
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.synapses import (
    IntConv2d,
    IntConvTranspose2d,
    IntSynapse,
    IntWindow,
    as_sparse,
    n_synapses,
)
from neuroport.chip.target import Arithmetic, Target
from neuroport.chip.trace import Trace
from neuroport.errors import DoesNotFitError, ToolchainMissingError, WorkerError
from neuroport.interpreters import child_environment
from neuroport.snn.operators import conv_geometry
from neuroport.toolchains import Toolchain, ensure

_WORKER = Path(__file__).parent / "worker" / "main.py"
_START_S = 120.0
_SAMPLE_S = 60.0
_INT8_MAX = 127
# Measured on one machine with AVX512, for a first guess of what a run takes: Lava's import, a step of one of its
# processes, and multiplications in its matrices and in its convolutions (scipy's).
_IMPORT_S, _PROCESS_S, _MACS_PER_S, _CONV_MACS_PER_S = 3.0, 5e-5, 5e9, 3e8
_SLOWEST_MACS_PER_S = 1e7  # far below what Lava reaches: deadlines are for hangs, not for slow machines


class LavaBackend:
    """Runs on lava-nc's fixed-point process models: Dense, Sparse, Conv, LIF.

    Our own are an IF neuron where LIF ends and a delay of spikes where a projection skips levels.
    """

    name = "lava"
    summary = "Intel's Lava simulator (lava-nc, fixed-point models)"
    builder = "network"  # the worker's module that makes Lava's processes
    packages: tuple[str, ...] = ("lava-nc", "numpy", "scipy")  # that compute
    run_config = "Loihi2SimCfg"  # Lava's, see worker/run_config.py

    def check(self, job: Job) -> None:
        """Refuse arithmetic that Lava does not have.

        Raises:
            DoesNotFitError: what it is, and what to do.
        """
        if not computes_as_lava(job.network.arithmetic):
            raise DoesNotFitError(
                f"target '{job.target.name}' computes differently from Lava's fixed-point models; use --backend cpu"
            )
        _check_ranges(job)

    def environment(self, target: Target, on_message: Callable[[str], None]) -> tuple[Path, Mapping[str, str]]:
        """The Python that has Lava, and the versions of its packages; made on first use, checked on every other."""
        made = _toolchain(target, on_message)
        return made.python, made.packages

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Make the Lava environment on first use, check it on every other."""
        _, found = self.environment(target, on_message)
        return {f"lava:{name}": found[name] for name in self.packages if name in found}

    def write_program(self, job: Job) -> None:
        """Write to job.work_dir what the builder reads, besides the inputs."""
        write_network(job.work_dir / "network.h5", lowered(job.network))

    def run(self, job: Job) -> Trace:
        """All spikes, and potentials of the readout populations, on Lava.

        Raises:
            ToolchainMissingError: the Lava environment cannot be made. WorkerError: Lava failed, hung or was killed.
        """
        python, _ = self.environment(job.target, job.on_message)
        network = lowered(job.network)
        deadlines = _deadlines(network, job.inputs.n_steps)

        def run_part(part: Job, is_cancelled: Callable[[], bool]) -> Trace:
            self.write_program(part)
            write_inputs(part.work_dir / "inputs.h5", part.inputs)
            token = new_token()
            run_worker(
                [str(python), str(_WORKER), str(part.work_dir), token, str(os.getpid()), self.builder],
                token=token,
                work_dir=part.work_dir,
                environment=child_environment(
                    {
                        "OMP_NUM_THREADS": "1",
                        "PYTHONDONTWRITEBYTECODE": "1",
                        "NEUROPORT_LAVA_RUN_CONFIG": self.run_config,
                    }
                ),
                deadlines=deadlines,
                on_progress=part.on_progress,
                is_cancelled=is_cancelled,
            )
            return _read_results(part)

        n_workers = n_parts(job, job.n_workers or default_workers())
        job.on_message(_expectation(network, job, n_workers))
        return run_in_parts(job, run_part, n_workers)


def computes_as_lava(a: Arithmetic) -> bool:
    """Whether an arithmetic is the one of Lava's fixed-point models."""
    same = (a.synaptic_shift, a.threshold.shift, a.decay_bits) == (6, 6, 12) and a.threshold.compare == ">"
    registers = (a.current.bits, a.current.overflow, a.membrane.bits, a.membrane.overflow)
    return same and registers == (24, "wrap", 24, "saturate")


def _check_ranges(job: Job) -> None:
    """Refuse numbers that Lava would clip, floor or wrap without a word, whatever the datasheet allows.

    Source: lava-nc 0.10.0, lava/utils/weightutils.py l.204-295; lava/proc/lif/models.py l.84-85, l.262.
    """
    for j in job.network.projections:
        if isinstance(j.synapse, IntWindow):
            raise DoesNotFitError(
                f"layer '{j.post}' is a max-pool gate, Lava has no process that chooses among its inputs; use "
                f"--backend cpu, or a recipe with `max_pool: expand`"
            )
        m = j.synapse.mantissa
        low, high = int(m.min()), int(m.max())
        is_mixed = low < 0 < high
        fits = low >= -256 and high <= 254 and not (m % 2).any() if is_mixed else low >= -255 and high <= 255
        if not fits and not (low >= -128 and high <= 127):  # odd ones of 7 bits are held doubled (worker/network.py)
            raise DoesNotFitError(
                f"layer '{j.post}': weights {low} to {high} from '{j.pre}', Lava holds 8 bits (mixed signs: even "
                f"values from -256 to 254); correct the datasheet '{job.target.name}', or use --backend cpu"
            )
    for p in job.network.populations:
        biases = p.bias_mantissa if not p.driven else job.inputs.currents[p.name]
        fits = int(biases.min()) >= -4096 and int(biases.max()) <= 4095 and p.bias_exponent <= 7
        if p.role != "input" and (p.threshold_mantissa > 131071 or not fits):
            raise DoesNotFitError(
                f"layer '{p.name}': threshold {p.threshold_mantissa} or biases {int(biases.min())} to "
                f"{int(biases.max())} are outside Lava's 17 and 13 bits; correct the datasheet '{job.target.name}', or "
                f"use --backend cpu"
            )


def _toolchain(target: Target, on_message: Callable[[str], None]) -> Toolchain:
    if target.toolchain is None:
        raise ToolchainMissingError(f"target '{target.name}' names no toolchain; use --backend cpu")
    return ensure(target.toolchain.spec, on_progress=on_message)


def lowered(network: IntNetwork) -> IntNetwork:
    """The same network with what Lava's Conv does not compute as sparse synapses.

    Lava pads alike on both sides, never cuts, derives the output's shape itself, and holds geometry in 8 bits; it has
    no transposed convolution.
    Source: lava-nc 0.10.0, lava/proc/conv/utils.py l.82-141, lava/proc/conv/models.py l.25-31.
    """
    projections = []
    for j in network.projections:
        if isinstance(j.synapse, IntConvTranspose2d) or (isinstance(j.synapse, IntConv2d) and not is_plain(j.synapse)):
            j = replace(j, synapse=as_sparse(j.synapse))
        projections.append(j)
    return replace(network, projections=tuple(projections))


def is_plain(conv: IntConv2d) -> bool:
    """Whether Lava's Conv computes it."""
    g = conv.geometry
    small = max(*g.kernel, *g.stride, *g.padding, *g.dilation, g.groups) <= _INT8_MAX
    return (
        small
        and min(g.padding) >= 0
        and conv_geometry(g.in_shape, conv.mantissa.shape, g.stride, g.padding, g.dilation, g.groups) == g
    )


def _expectation(network: IntNetwork, job: Job, n_workers: int) -> str:
    """What the run will take, as far as can be said before."""
    processes = 2 * len(network.populations) + len(network.projections)
    conv = sum(_macs(j.synapse) for j in network.projections if isinstance(j.synapse, IntConv2d))
    other = sum(_macs(j.synapse) for j in network.projections if not isinstance(j.synapse, IntConv2d))
    step_s = processes * _PROCESS_S + conv / _CONV_MACS_PER_S + other / _MACS_PER_S
    n_steps = job.inputs.n_samples * job.inputs.n_steps
    seconds = _IMPORT_S + n_steps * step_s / n_workers
    who = "one worker" if n_workers == 1 else f"{n_workers} workers"
    return f"Lava runs {n_steps:,} steps with {who}: about {_duration(seconds)}"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def _deadlines(network: IntNetwork, n_steps: int) -> Deadlines:
    step_s = 0.05 * len(network.populations) + sum(_macs(j.synapse) for j in network.projections) / _SLOWEST_MACS_PER_S
    return Deadlines(_START_S + 10 * step_s, _SAMPLE_S + n_steps * step_s)


def _macs(synapse: IntSynapse) -> int:
    """Multiplications of one step: Lava computes a convolution at stride 1, with the zeros between dilated taps."""
    if not isinstance(synapse, IntConv2d):
        return n_synapses(synapse)
    g = synapse.geometry
    padded = [n + 2 * p for n, p in zip(g.in_shape[1:], g.padding, strict=True)]
    return math.prod(synapse.mantissa.shape[:2]) * math.prod(g.span) * math.prod(padded)


def _read_results(job: Job) -> Trace:
    """The worker's raw files as spikes and potentials, checked for completeness."""
    spikes: dict[str, NDArray[np.uint8]] = {}
    potentials: dict[str, NDArray[np.int64]] = {}
    for k, p in enumerate(job.network.populations):
        if p.role == "input":
            continue
        n_bytes = -(-p.n_neurons // 8)
        packed = _read(job, p, f"spikes.{k}.bin", np.dtype(np.uint8), n_bytes)
        bits = np.unpackbits(packed, axis=-1, count=p.n_neurons)
        spikes[p.name] = bits.reshape(*packed.shape[:2], *p.shape)
        if p.role == "readout":
            v = _read(job, p, f"potentials.{k}.bin", np.dtype("<i4"), p.n_neurons)
            potentials[p.name] = v.astype(np.int64).reshape(*v.shape[:2], *p.shape)
    return Trace(spikes, potentials)


def _read(job: Job, p: IntPopulation, name: str, dtype: np.dtype[np.generic], width: int) -> NDArray[Any]:
    shape = (job.inputs.n_samples, job.inputs.n_steps, width)
    path = job.work_dir / name
    values = np.fromfile(path, dtype) if path.is_file() else np.zeros(0, dtype)
    if values.size != np.prod(shape):
        raise WorkerError(
            f"the worker returned {values.size} of {np.prod(shape)} values for '{p.name}'; its disk may be full"
        )
    return values.reshape(shape)
