"""The oracle: the integer network in the plainest int64 numpy. Slow, obvious, and the judge of everything else.

Per population and step, with i the sum of weights of the spikes that arrive:

    u = wrap_or_saturate(leak(u) + (i << synaptic shift))   without a current decay: nothing of u is left
    v = saturate(leak(v) + u + bias)      with a leak in closed form v + ceil((u + bias - v) decay / 2^decay_bits)
    v = max(v, floor)                     where there is one
    s = v > threshold   (or >=)
    v = 0 or v - threshold where s

where leak(x) = sign(x) floor(|x| (2^decay_bits - decay) / 2^decay_bits).

A max-pool gate has no potential. It estimates the rate of each of its inputs, 2^20 for one spike per step, and passes
the spikes of the input of each window whose estimate is largest, of equals the first:

    e = e + floor(((s << 20) - e) / 2^k),  k = min(bits of t, 6),  t = 0, 1, 2, ...

Source: lava-nc 0.10.0, lava/proc/lif/models.py l.145-192, 268-278; du = current_decay - 1, 4095 without one. The
closed form: sPyNNaker, neural_modelling/src/neuron/models/neuron_model_lif_impl.h l.111-118 (29f4c462); products
are rounded down, as 7.4.1's IF_curr_delta.aplx does it (targets/spinnaker1.yaml).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, IntWeights, IntWindow
from neuroport.chip.target import Arithmetic, Register
from neuroport.chip.trace import Trace
from neuroport.errors import InvalidNetworkError

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
        incoming = network.incoming[population.name]
        total = np.zeros((inputs.n_samples, inputs.n_steps, *population.shape), np.int64)
        if population.gate:
            spikes[population.name] = _gate(population, incoming[0], spikes[incoming[0].pre])
            potentials[population.name] = total
            continue
        against = np.zeros_like(total)  # what inhibitory synapses bring, where they have an accumulator of their own
        for projection in incoming:
            if isinstance(projection.synapse, IntWindow):
                continue
            for sign, synapse in _accumulated(network, projection.synapse):
                summed = weigh(synapse, spikes[projection.pre]) << projection.exponent
                target = total if sign > 0 else against
                target += sign * summed.reshape(total.shape)
        if network.arithmetic.accumulators == "split":
            end = network.arithmetic.accumulator_limit
            total = np.minimum(total, end) - np.minimum(against, end)
        spikes[population.name], potentials[population.name] = _neurons(network, population, total, inputs)
    return Trace(spikes, potentials)


def _accumulated(network: IntNetwork, synapse: IntWeights) -> list[tuple[int, IntWeights]]:
    """What goes to the first accumulator (sign 1), and to the second with its sign turned (-1)."""
    if network.arithmetic.accumulators == "joint":
        return [(1, synapse)]
    m = synapse.mantissa
    return [(1, replace(synapse, mantissa=np.maximum(m, 0))), (-1, replace(synapse, mantissa=np.minimum(m, 0)))]


def weigh(synapse: IntWeights, spikes: NDArray[np.uint8]) -> Int64:
    """Exact weight sums [S, T, ...] of spikes [S, T, ...]."""
    s, t = spikes.shape[:2]
    x = spikes.reshape(s, t, -1).astype(np.int64)
    match synapse:
        case IntDense():
            dense: Int64 = x @ synapse.mantissa.astype(np.int64).T
            return dense
        case IntSparse():
            return _sparse(synapse, x)
        case IntConv2d(_, g):
            return _conv(synapse, x.reshape(s * t, *g.in_shape)).reshape(s, t, *g.out_shape)
        case IntConvTranspose2d(_, g):
            return _conv_transpose(synapse, x.reshape(s * t, *g.in_shape)).reshape(s, t, *g.out_shape)


def _sparse(synapse: IntSparse, x: Int64) -> Int64:
    y = np.zeros((*x.shape[:2], len(synapse.row_start) - 1), np.int64)
    for n, (start, end) in enumerate(pairwise(synapse.row_start.tolist())):
        y[:, :, n] = x[:, :, synapse.columns[start:end]] @ synapse.mantissa[start:end].astype(np.int64)
    return y


def _conv(synapse: IntConv2d, x: Int64) -> Int64:
    """Tap by tap: what output pixel (y, x) reads at (y s - p + i d, x s - p + j d), where that is inside the image."""
    g = synapse.geometry
    out = np.zeros((len(x), *g.out_shape), np.int64)
    n_in, n_out = g.in_shape[0] // g.groups, g.out_shape[0] // g.groups
    for group, i, j in product(range(g.groups), range(g.kernel[0]), range(g.kernel[1])):
        weight = synapse.mantissa[group * n_out : (group + 1) * n_out, :, i, j].astype(np.int64)
        rows, from_rows = _places(g.out_shape[1], g.in_shape[1], g.stride[0], i * g.dilation[0] - g.padding[0])
        cols, from_cols = _places(g.out_shape[2], g.in_shape[2], g.stride[1], j * g.dilation[1] - g.padding[1])
        patch = x[:, group * n_in : (group + 1) * n_in][:, :, from_rows][:, :, :, from_cols]
        target = out[:, group * n_out : (group + 1) * n_out]
        target[:, :, rows[:, None], cols] += np.einsum("oc,nchw->nohw", weight, patch)
    return out


def _conv_transpose(synapse: IntConvTranspose2d, x: Int64) -> Int64:
    """Tap by tap: input pixel (y, x) adds to (y s - p + i d, x s - p + j d), where that is inside the result."""
    g = synapse.geometry
    out = np.zeros((len(x), *g.out_shape), np.int64)
    n_in, n_out = g.in_shape[0] // g.groups, g.out_shape[0] // g.groups
    for group, i, j in product(range(g.groups), range(g.kernel[0]), range(g.kernel[1])):
        weight = synapse.mantissa[group * n_in : (group + 1) * n_in, :, i, j].astype(np.int64)
        rows, to_rows = _places(g.in_shape[1], g.out_shape[1], g.stride[0], i * g.dilation[0] - g.padding[0])
        cols, to_cols = _places(g.in_shape[2], g.out_shape[2], g.stride[1], j * g.dilation[1] - g.padding[1])
        patch = x[:, group * n_in : (group + 1) * n_in][:, :, rows][:, :, :, cols]
        target = out[:, group * n_out : (group + 1) * n_out]
        target[:, :, to_rows[:, None], to_cols] += np.einsum("co,nchw->nohw", weight, patch)
    return out


def _places(n_here: int, n_there: int, stride: int, shift: int) -> tuple[Int64, Int64]:
    """Positions k on this side with k * stride + shift inside the other side, and those positions there."""
    here = np.arange(n_here)
    there = here * stride + shift
    inside = (there >= 0) & (there < n_there)
    return here[inside], there[inside]


def _gate(p: IntPopulation, projection: IntProjection, spikes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    window = projection.synapse
    if not isinstance(window, IntWindow):
        raise InvalidNetworkError(f"gate '{p.name}' does not read windows")
    s, t = spikes.shape[:2]
    x = spikes.reshape(s, t, *window.in_shape).astype(np.int64)
    estimate = np.zeros((s, *window.in_shape), np.int64)
    passed = np.zeros((s, t, *window.out_shape), np.uint8)
    for step in range(t):
        estimate += np.floor_divide((x[:, step] << 20) - estimate, 2 ** min(len(f"{step:b}") if step else 0, 6))
        best = _windows(window, estimate, outside=-1).argmax(-1)[..., None]
        passed[:, step] = np.take_along_axis(_windows(window, x[:, step], outside=0), best, -1)[..., 0]
    return passed.reshape(s, t, *p.shape)


def _windows(window: IntWindow, x: Int64, outside: int) -> Int64:
    """[S, C, H', W', kH * kW]: what each window holds."""
    op, (_, h, w) = window.op, window.out_shape
    reach = [
        d * (k - 1) + (n - 1) * s + 1 for d, k, n, s in zip(op.dilation, op.kernel, (h, w), op.stride, strict=True)
    ]
    far = [max(0, r - n - p) for r, n, p in zip(reach, window.in_shape[1:], op.padding, strict=True)]
    padding = ((0, 0), (0, 0), (op.padding[0], far[0]), (op.padding[1], far[1]))
    padded = np.pad(x, padding, constant_values=outside)
    taps = [
        padded[:, :, i * op.dilation[0] :, j * op.dilation[1] :][:, :, :: op.stride[0], :: op.stride[1]][:, :, :h, :w]
        for i, j in product(range(op.kernel[0]), range(op.kernel[1]))
    ]
    return np.stack(taps, -1)


def _neurons(network: IntNetwork, p: IntPopulation, total: Int64, inputs: IntInputs) -> tuple[NDArray[np.uint8], Int64]:
    a = network.arithmetic
    mantissa = inputs.currents[p.name] if p.driven else p.bias_mantissa[None]
    bias = mantissa.astype(np.int64) << p.bias_exponent
    threshold, floor = p.threshold_mantissa << a.threshold.shift, network.floor_of(p)
    v = np.full((inputs.n_samples, *p.shape), p.v_init_int, np.int64)
    u = np.zeros_like(v)
    spikes = np.zeros(total.shape, np.uint8)
    potentials = np.zeros(total.shape, np.int64)
    for t in range(inputs.n_steps):
        if t >= p.clamp_until:
            left = 0 if p.current_decay is None else _leak(u, p.current_decay, a.decay_bits)
            u = limit(left + (total[:, t] << a.synaptic_shift), a.current)
            v = limit(_moved(v, u + bias, p.decay, a), a.membrane)
            v = v if floor is None else np.maximum(v, floor)
            fired = v >= threshold if a.threshold.compare == ">=" else v > threshold
            v = np.where(fired, v - threshold if p.reset == "subtract" else 0, v)
            spikes[:, t] = fired
        potentials[:, t] = v
    return spikes, potentials


def _leak(x: Int64, decay: int, bits: int) -> Int64:
    left: Int64 = np.sign(x) * ((np.abs(x) * ((1 << bits) - decay)) >> bits)
    return left


def _moved(v: Int64, arriving: Int64, decay: int, a: Arithmetic) -> Int64:
    """The potential a step on, before its register."""
    if a.leak == "added":
        return _leak(v, decay, a.decay_bits) + arriving
    one = 1 << a.decay_bits
    return arriving - (((one - decay) * (arriving - v)) >> a.decay_bits)


def limit(x: Int64, register: Register) -> Int64:
    """What a register keeps of x: saturated at +-(2^(bits-1) - 1), or wrapped once as Lava wraps u.

    Lava: x > 2^(bits-1) becomes x - 2^bits, x <= -2^(bits-1) becomes x + 2^bits; x = 2^(bits-1) itself stays.
    Source: lava-nc 0.10.0, lava/proc/lif/models.py l.161-170 and 176-186.
    """
    half = 1 << (register.bits - 1)
    if register.overflow == "saturate":
        return np.clip(x, -(half - 1), half - 1)
    return np.where(x > half, x - 2 * half, np.where(x <= -half, x + 2 * half, x))
