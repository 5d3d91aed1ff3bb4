"""A case on disk, where workers find it, and the spikes that every path must give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core import run_core
from neuroport.chip.files import write_inputs, write_network
from neuroport.chip.network import IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWindow
from tests.benchmarks.errors import SaturatedError, UnequalSpikesError
from tests.benchmarks.networks import Case, first
from tests.benchmarks.synops import count_synops
from tests.benchmarks.workers.core import spike_totals

_KINDS = {
    IntDense: "dense",
    IntConv2d: "conv",
    IntConvTranspose2d: "conv_transpose",
    IntSparse: "sparse",
    IntWindow: "window",
}
_SCALARS = ("name", "role", "threshold_mantissa", "bias_exponent", "v_init_int", "reset", "decay", "clamp_until")
_GEOMETRY = ("in_shape", "out_shape", "kernel", "stride", "padding", "dilation", "groups")


def write_case(folder: Path, case: Case) -> None:
    """network.h5 and inputs.h5 for neuroport, plain.npz for workers without it (see workers/plain.py)."""
    write_network(folder / "network.h5", case.network)
    write_inputs(folder / "inputs.h5", case.inputs)
    network, inputs, a = case.network, case.inputs, case.network.arithmetic
    arrays: dict[str, NDArray[np.generic]] = {}
    for k, j in enumerate(network.projections):
        if not isinstance(j.synapse, IntWindow):
            mantissa = j.synapse.mantissa
            arrays[f"w{k}"] = mantissa.astype(np.int16) if abs(mantissa).max() < 2**15 else mantissa
        else:
            arrays[f"w{k}"] = np.zeros(0, np.int16)
    for k, p in enumerate(network.populations):
        arrays[f"b{k}"] = p.bias_mantissa
        if p.driven:
            arrays[f"c{k}"] = inputs.currents[p.name]
    if inputs.spikes is not None:
        arrays["spikes"] = np.packbits(inputs.spikes.reshape(*inputs.spikes.shape[:2], -1), axis=-1)
    meta = {
        "populations": [_population(p) for p in network.populations],
        "projections": [_projection(j) for j in network.projections],
        "n_samples": inputs.n_samples,
        "n_steps": inputs.n_steps,
        "synaptic_shift": a.synaptic_shift,
        "threshold_shift": a.threshold.shift,
        "inclusive": a.threshold.compare == ">=",
    }
    np.savez(folder / "plain.npz", meta=np.array(json.dumps(meta)), **arrays)


def _population(p: IntPopulation) -> dict[str, object]:
    return {key: getattr(p, key) for key in _SCALARS} | {"shape": p.shape}


def _projection(j: IntProjection) -> dict[str, object]:
    scalars = {"pre": j.pre, "post": j.post, "exponent": j.exponent, "kind": _KINDS[type(j.synapse)]}
    if not isinstance(j.synapse, IntConv2d | IntConvTranspose2d):
        return scalars
    return scalars | {key: getattr(j.synapse.geometry, key) for key in _GEOMETRY}


@dataclass
class Reference:
    """The core's spikes of a case, which each path's are compared with."""

    case: Case
    found: dict[tuple[int, int], Mapping[str, NDArray[np.int64]]] = field(default_factory=dict)

    def totals(self, n_samples: int, n_steps: int) -> Mapping[str, NDArray[np.int64]]:
        """Spikes per neuron of the first steps of the first samples.

        Raises:
            SaturatedError: a register did not hold its value.
        """
        size = (n_samples, n_steps)
        if size not in self.found:
            run = run_core(self.case.network, first(self.case.inputs, *size))
            lost = {name: n + run.floored[name] for name, n in run.overflows.items() if n + run.floored[name]}
            if lost:
                raise SaturatedError(
                    f"{self.case.name}: registers saturated ({lost} neuron-steps), which the paths without registers "
                    f"do not follow; choose other thresholds"
                )
            self.found[size] = spike_totals(run)
        return self.found[size]

    def synops(self, n_samples: int, n_steps: int) -> float:
        """Synaptic operations of one step of one sample, on average."""
        return count_synops(self.case.network, self.totals(n_samples, n_steps)) / (n_samples * n_steps)

    def check(self, path: str, totals: Mapping[str, list[int]], n_samples: int, n_steps: int) -> None:
        """Compare a path's spikes per neuron, of the populations it knows.

        Raises:
            UnequalSpikesError: the first population that differs, and by how much.
        """
        expected = self.totals(n_samples, n_steps)
        for p in self.case.network.populations:
            if p.name not in totals:
                continue
            want, got = expected[p.name].reshape(-1), np.array(totals[p.name])
            if want.shape != got.shape or (want != got).any():
                n = int((want != got).sum()) if want.shape == got.shape else want.size
                raise UnequalSpikesError(
                    f"{self.case.name}: {path} gives other spike counts than the core for {n} of {want.size} neurons "
                    f"of '{p.name}' ({got.sum()} spikes, the core {want.sum()}); the work is not the same"
                )
