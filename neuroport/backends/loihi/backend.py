"""The `lava` backend: Intel's Lava simulator in its own environment, all samples in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Job
from neuroport.backends.supervise import Deadlines, new_token, run_worker
from neuroport.chip.files import write_inputs, write_network
from neuroport.chip.network import IntDense, IntNetwork, IntPopulation
from neuroport.chip.target import Target
from neuroport.chip.trace import Trace
from neuroport.errors import DoesNotFitError, ToolchainMissingError, WorkerError
from neuroport.interpreters import child_environment
from neuroport.toolchains import Toolchain, ensure

_WORKER = Path(__file__).parent / "worker" / "main.py"
_START_S = 120.0
_SAMPLE_S = 60.0
_SLOWEST_MACS_PER_S = 1e7  # far below what Lava reaches: deadlines are for hangs, not for slow machines


class LavaBackend:
    """Runs on lava-nc's fixed-point process models: Dense, Conv, LIF, and an IF neuron of ours where LIF ends."""

    name = "lava"
    summary = "Intel's Lava simulator (lava-nc, fixed-point models)"

    def check(self, job: Job) -> None:
        """Refuse arithmetic that Lava does not have, and paths of different length.

        Raises:
            DoesNotFitError: what it is, and what to do.
        """
        a = job.network.arithmetic
        same = (a.synaptic_shift, a.threshold.shift, a.decay_bits) == (6, 6, 12) and a.threshold.compare == ">"
        registers = (a.current.bits, a.current.overflow, a.membrane.bits, a.membrane.overflow)
        if not same or registers != (24, "wrap", 24, "saturate"):
            raise DoesNotFitError(
                f"target '{job.target.name}' computes differently from Lava's fixed-point models; use --backend cpu"
            )
        _check_ranges(job)
        depth = job.network.depth
        for j in job.network.projections:
            if depth[j.post] != depth[j.pre] + 1:
                raise DoesNotFitError(
                    f"projection {j.pre} -> {j.post} skips {depth[j.post] - depth[j.pre] - 1} levels; the Lava worker "
                    f"has no delays; use --backend cpu"
                )

    def prepare(self, target: Target, on_message: Callable[[str], None]) -> Mapping[str, str]:
        """Make the Lava environment on first use, check it on every other."""
        packages = _toolchain(target, on_message).packages
        return {f"lava:{name}": packages[name] for name in ("lava-nc", "numpy", "scipy") if name in packages}

    def run(self, job: Job) -> Trace:
        """All spikes, and potentials of the readout, on Lava.

        Raises:
            ToolchainMissingError: the Lava environment cannot be made. WorkerError: Lava failed, hung or was killed.
        """
        toolchain = _toolchain(job.target, job.on_message)
        write_network(job.work_dir / "network.h5", job.network)
        write_inputs(job.work_dir / "inputs.h5", job.inputs)
        token = new_token()
        run_worker(
            [str(toolchain.python), str(_WORKER), str(job.work_dir), token, str(os.getpid())],
            token=token,
            work_dir=job.work_dir,
            environment=child_environment({"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}),
            deadlines=_deadlines(job.network, job.inputs.n_steps),
            on_progress=job.on_progress,
        )
        return _read_results(job)


def _check_ranges(job: Job) -> None:
    """Refuse numbers that Lava would clip, floor or wrap without a word, whatever the datasheet allows.

    Source: lava-nc 0.10.0, lava/utils/weightutils.py l.204-295; lava/proc/lif/models.py l.84-85, l.262.
    """
    for j in job.network.projections:
        m = j.synapse.mantissa
        low, high = int(m.min()), int(m.max())
        is_mixed = low < 0 < high
        fits = low >= -256 and high <= 254 and not (m % 2).any() if is_mixed else low >= -255 and high <= 255
        if not fits:
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


def _deadlines(network: IntNetwork, n_steps: int) -> Deadlines:
    macs = sum(
        j.synapse.mantissa.size * (1 if isinstance(j.synapse, IntDense) else np.prod(j.synapse.geometry.in_shape[1:]))
        for j in network.projections
    )
    step_s = 0.05 * len(network.populations) + float(macs) / _SLOWEST_MACS_PER_S
    return Deadlines(_START_S + 10 * step_s, _SAMPLE_S + n_steps * step_s)


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
