"""What was measured on the integer core and costs energy: spikes of each neuron, synapses behind them, idle neurons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from neuroport.chip.core import Record, run_core
from neuroport.chip.inputs import Inputs
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntSynapse, IntWindow
from neuroport.snn.operators import Conv2d, ConvGeometry, ConvTranspose2d, Image, apply

Bools = NDArray[np.bool_]
_MOST_IDLE = 8  # samples that idle neurons are counted in ...
_IDLE_BITS = 1 << 32  # ... and neuron-steps of all of them; one sample at least
_AT_WORK = 1 << 24  # neuron-steps looked at in one go


@dataclass(frozen=True, eq=False)
class Activity:
    """What a network did in n_samples of n_steps.

    totals: spikes of each neuron over all samples, [*shape] int64 by population; idle: by population the part of the
    neuron-steps in which nothing reached the neuron - no spike, no bias, no input current -, in the first idle_samples.
    """

    n_samples: int
    n_steps: int
    totals: Mapping[str, NDArray[np.int64]]
    idle: Mapping[str, float]
    idle_samples: int

    def rates(self, population: str) -> NDArray[np.float64]:
        """Spikes of each neuron in one inference, flat."""
        return np.asarray(self.totals[population].reshape(-1) / self.n_samples)


def measure(network: IntNetwork, inputs: Inputs) -> Activity:
    """The activity of all samples, run on the core."""
    n_neuron_steps = sum(p.n_neurons for p in network.populations) * inputs.n_steps
    n_few = min(inputs.n_samples, max(1, min(_MOST_IDLE, _IDLE_BITS // n_neuron_steps)))
    names = [p.name for p in network.populations]
    memory_mb = 64 + 2 * n_few * n_neuron_steps // (8 << 20)
    run = run_core(network, inputs, record=Record(spikes=names, samples=range(n_few)), memory_mb=memory_mb)
    few = inputs.part(slice(0, n_few))
    idle = {}
    for p in network.populations:
        if p.role != "input":
            pre = {j.pre: run.rasters[j.pre].unpack() for j in network.incoming[p.name]}
            idle[p.name] = _idle_part(network, p, pre, few.currents.get(p.name))
    return Activity(inputs.n_samples, inputs.n_steps, run.totals, idle, n_few)


def _idle_part(
    network: IntNetwork,
    p: IntPopulation,
    spikes: Mapping[str, NDArray[np.uint8]],
    currents: NDArray[np.int32] | None,
) -> float:
    """Part of the neuron-steps of a population in which nothing reached the neuron; spikes [S, T, ...] of inputs."""
    steady = p.bias_mantissa.reshape(1, -1) != 0 if currents is None else currents.reshape(len(currents), -1) != 0
    if not spikes:
        return 1.0 - float(steady.mean())
    n_samples, n_steps = next(iter(spikes.values())).shape[:2]
    size = max(1, _AT_WORK // p.n_neurons)
    n_reached = 0
    for s in range(n_samples):
        always = steady[s % len(steady)]
        for start in range(0, n_steps, size):
            part = slice(start, min(start + size, n_steps))
            found = np.broadcast_to(always, (part.stop - start, p.n_neurons))
            for j in network.incoming[p.name]:
                found = found | reached(j.synapse, spikes[j.pre][s, part].reshape(part.stop - start, -1))
            n_reached += int(found.sum())
    return 1.0 - n_reached / int(n_samples * n_steps * p.n_neurons)


def reached(synapse: IntSynapse, spikes: NDArray[np.uint8]) -> Bools:
    """[n, n_out]: whether a spike of spikes [n, n_in] has a synapse to the neuron; what is a synapse: see fan_out."""
    match synapse:
        case IntDense(mantissa):
            held = torch.from_numpy(mantissa != 0).float()
            return np.asarray((torch.from_numpy(spikes).float() @ held.T).numpy() > 0)
        case IntSparse(mantissa, columns, row_start):
            held = (mantissa != 0).astype(np.float32)
            matrix = csr_array((held, columns, row_start), shape=(len(row_start) - 1, spikes.shape[1]))
            return np.asarray((matrix @ spikes.T.astype(np.float32)).T > 0)
        case IntConv2d(geometry=g) | IntConvTranspose2d(geometry=g):
            pass
        case IntWindow(op, in_shape, out_shape):
            shapes = cast(tuple[Image, Image], (in_shape, out_shape))
            g = ConvGeometry(*shapes, op.kernel, op.stride, op.padding, op.dilation, in_shape[0])
    # all channels of a group have the same synapses but for the weight: one channel stands for them
    planes = spikes.reshape(len(spikes), g.groups, -1, *g.in_shape[1:]).any(2)
    one = ConvGeometry(
        (g.groups, *g.in_shape[1:]), (g.groups, *g.out_shape[1:]), g.kernel, g.stride, g.padding, g.dilation, g.groups
    )
    kernel = np.ones((g.groups, 1, *g.kernel))
    op_of_ones = (ConvTranspose2d if isinstance(synapse, IntConvTranspose2d) else Conv2d)(kernel, one)
    hits = apply(op_of_ones, torch.from_numpy(planes).float()).numpy() > 0.5
    return np.repeat(hits, g.out_shape[0] // g.groups, axis=1).reshape(len(spikes), -1)


def fan_out(synapse: IntSynapse, n_in: int) -> NDArray[np.int64]:
    """Synapses of each presynaptic neuron, [n_in]; a max-pool gate has none.

    Weights of 0 are synapses where a kernel holds them, as shared kernels are stored whole; elsewhere they are none.
    """
    match synapse:
        case IntDense(mantissa):
            return np.asarray(np.count_nonzero(mantissa, axis=0))
        case IntSparse():
            return np.asarray(np.bincount(synapse.columns[synapse.mantissa != 0], minlength=n_in))
        case IntConv2d() | IntConvTranspose2d():
            c_in = synapse.geometry.in_shape[0]
            channels = synapse.geometry.out_shape[0] // synapse.geometry.groups
            rows, columns = _uses(synapse, 0), _uses(synapse, 1)
            return np.tile(channels * np.outer(rows, columns).reshape(-1), c_in)
        case IntWindow():
            return np.zeros(math.prod(synapse.in_shape), np.int64)


def _uses(synapse: IntConv2d | IntConvTranspose2d, axis: int) -> NDArray[np.int64]:
    """How many outputs along one axis read each input place."""
    g = synapse.geometry
    n_in, n_out = g.in_shape[axis + 1], g.out_shape[axis + 1]
    taps = np.arange(g.kernel[axis]) * g.dilation[axis] - g.padding[axis]
    if isinstance(synapse, IntConvTranspose2d):
        to = np.arange(n_in)[:, None] * g.stride[axis] + taps
        return np.asarray(((to >= 0) & (to < n_out)).sum(1))
    read = (np.arange(n_out)[:, None] * g.stride[axis] + taps).reshape(-1)
    return np.asarray(np.bincount(read[(read >= 0) & (read < n_in)], minlength=n_in))
