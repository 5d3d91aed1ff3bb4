"""The oracle: the integer network in the plainest int64 numpy. Slow, obvious, and the judge of everything else.

Per population and step, with i the sum of weights of the spikes that arrive:

    u = wrap_or_saturate(i << synaptic shift)        no memory: the current decays fully within one step
    v = saturate(leak(v) + u + bias)
    s = v > threshold   (or >=)
    v = 0 or v - threshold where s

Source: lava-nc 0.10.0, lava/proc/lif/models.py l.145-192, 268-278, with du = 4095.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntConv2d, IntDense, IntNetwork, IntPopulation, IntSynapse
from neuroport.chip.target import Register
from neuroport.chip.trace import Trace

Int64 = NDArray[np.int64]


def run_oracle(network: IntNetwork, inputs: IntInputs) -> Trace:
    """Run all samples, all steps."""
    spikes: dict[str, NDArray[np.uint8]] = {}
    potentials: dict[str, Int64] = {}
    for population in network.populations:
        if population.role == "input":
            if inputs.spikes is not None:
                spikes[population.name] = inputs.spikes
            continue
        total = np.zeros((inputs.n_samples, inputs.n_steps, *population.shape), np.int64)
        for projection in network.incoming[population.name]:
            summed = weigh(projection.synapse, spikes[projection.pre]) << projection.exponent
            total += summed.reshape(total.shape)
        spikes[population.name], potentials[population.name] = _neurons(network, population, total, inputs)
    return Trace(spikes, potentials)


def weigh(synapse: IntSynapse, spikes: NDArray[np.uint8]) -> Int64:
    """Exact weight sums [S, T, ...] of spikes [S, T, ...]."""
    s, t = spikes.shape[:2]
    if isinstance(synapse, IntDense):
        return spikes.reshape(s, t, -1).astype(np.int64) @ synapse.mantissa.astype(np.int64).T
    return _conv(synapse, spikes.reshape(s * t, *synapse.geometry.in_shape)).reshape(s, t, *synapse.geometry.out_shape)


def _conv(synapse: IntConv2d, x: NDArray[np.uint8]) -> Int64:
    g = synapse.geometry
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (g.padding[0],) * 2, (g.padding[1],) * 2))
    c_out, h, w = g.out_shape
    y = np.zeros((len(x), c_out, h, w), np.int64)
    n_in, n_out = g.in_shape[0] // g.groups, c_out // g.groups
    for group in range(g.groups):
        for i in range(g.kernel[0]):
            for j in range(g.kernel[1]):
                rows = slice(i * g.dilation[0], i * g.dilation[0] + (h - 1) * g.stride[0] + 1, g.stride[0])
                cols = slice(j * g.dilation[1], j * g.dilation[1] + (w - 1) * g.stride[1] + 1, g.stride[1])
                patch = padded[:, group * n_in : (group + 1) * n_in, rows, cols]
                weight = synapse.mantissa[group * n_out : (group + 1) * n_out, :, i, j].astype(np.int64)
                y[:, group * n_out : (group + 1) * n_out] += np.einsum("oc,nchw->nohw", weight, patch)
    return y


def _neurons(network: IntNetwork, p: IntPopulation, total: Int64, inputs: IntInputs) -> tuple[NDArray[np.uint8], Int64]:
    a = network.arithmetic
    mantissa = inputs.currents[p.name] if p.driven else p.bias_mantissa[None]
    bias = mantissa.astype(np.int64) << p.bias_exponent
    threshold = p.threshold_mantissa << a.threshold.shift
    v = np.full((inputs.n_samples, *p.shape), p.v_init_int, np.int64)
    spikes = np.zeros(total.shape, np.uint8)
    potentials = np.zeros(total.shape, np.int64)
    for t in range(inputs.n_steps):
        if t >= p.clamp_until:
            u = limit(total[:, t] << a.synaptic_shift, a.current)
            kept = np.sign(v) * ((np.abs(v) * ((1 << a.decay_bits) - p.decay)) >> a.decay_bits)
            v = limit(kept + u + bias, a.membrane)
            fired = v >= threshold if a.threshold.compare == ">=" else v > threshold
            v = np.where(fired, v - threshold if p.reset == "subtract" else 0, v)
            spikes[:, t] = fired
        potentials[:, t] = v
    return spikes, potentials


def limit(x: Int64, register: Register) -> Int64:
    """What a register keeps of x: saturated at +-(2^(bits-1) - 1), or wrapped once as Lava wraps u.

    Lava: x > 2^(bits-1) becomes x - 2^bits, x <= -2^(bits-1) becomes x + 2^bits; x = 2^(bits-1) itself stays.
    Source: lava-nc 0.10.0, lava/proc/lif/models.py l.161-170 and 176-186.
    """
    half = 1 << (register.bits - 1)
    if register.overflow == "saturate":
        return np.clip(x, -(half - 1), half - 1)
    return np.where(x > half, x - 2 * half, np.where(x <= -half, x + 2 * half, x))
