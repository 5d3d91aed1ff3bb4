"""How far NEST may be from the chip where neurons leak, and whether every spike of a run is within that.

The chip rounds each product of the leak down to 2^-15, NEST computes in float64. Fed with the same spikes, and reset
where NEST was, the chip's potential v lies at most e above NEST's:

    e = 0 after a reset and at the start;  e = kept e + 1 + s in each step,  in units of 2^-15

since v = a - floor(kept (a - v)) exceeds a - kept (a - v) by less than 1. s = 2^-19 holds the rounding of NEST's one
product a step: |v| is below 2^31 units, and exp(-1/tau_m) and the product are right to 2^-51 and 2^-53 of themselves;
sums of weights are exact. So where NEST fired v must not be below the threshold, and elsewhere v - e must be, each by
no more than that rounding. This is asked of every neuron in every step with the spikes that NEST itself sent to it: a
difference cannot hide behind an earlier one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.base import Bounded
from neuroport.chip.inputs import IntInputs
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.oracle import weigh
from neuroport.chip.synapses import IntWindow
from neuroport.chip.trace import Trace

_ROUNDING = 2.0**-19


def bounded(network: IntNetwork, inputs: IntInputs, trace: Trace) -> Bounded:
    """Whether a run of neurons with a leak in closed form is within the bound, in every step of every neuron."""
    n_values, n_outside, first, largest = 0, 0, None, 0.0
    for p in network.populations:
        if p.role == "input":
            continue
        outside, bound = _outside(network, p, inputs, trace)
        n_values += outside.size
        n_outside += int(outside.sum())
        largest = max(largest, bound)
        if first is None and outside.any():
            sample, step, *neuron = (int(k) for k in np.argwhere(outside)[0])
            first = f"population '{p.name}', neuron {neuron}, sample {sample}, step {step}"
    return Bounded(n_values, n_outside, first, largest)


def _outside(network: IntNetwork, p: IntPopulation, inputs: IntInputs, trace: Trace) -> tuple[NDArray[np.bool_], float]:
    """[S, T, *shape]: where it cannot be; and the largest bound that applied."""
    a = network.arithmetic
    one, threshold = 1 << a.decay_bits, p.threshold_mantissa << a.threshold.shift
    kept, arriving = (one - p.decay) / one, _arriving(network, p, inputs, trace)
    fired_at, read = trace.spikes[p.name].astype(bool), trace.potentials.get(p.name)
    v = np.full(arriving[:, 0].shape, p.v_init_int, np.int64)
    above, rounding = np.zeros(v.shape), np.zeros(v.shape)
    outside, largest = np.zeros(arriving.shape, bool), 0.0
    for t in range(inputs.n_steps):
        v = arriving[:, t] - (((one - p.decay) * (arriving[:, t] - v)) >> a.decay_bits)
        above, rounding = kept * above + 1 + _ROUNDING, kept * rounding + _ROUNDING
        largest = max(largest, float(above.max(initial=0)))
        fired = fired_at[:, t]
        outside[:, t] = np.where(fired, v < threshold - rounding, v - above >= threshold)
        v, above, rounding = np.where(fired, 0, v), np.where(fired, 0, above), np.where(fired, 0, rounding)
        if read is not None:  # as whole units, so half of one further
            outside[:, t] |= (read[:, t] > v + rounding + 0.5) | (read[:, t] < v - above - 0.5)
    return outside, largest


def _arriving(network: IntNetwork, p: IntPopulation, inputs: IntInputs, trace: Trace) -> NDArray[np.int64]:
    """[S, T, *shape]: what the run's spikes bring, and biases; IntNetwork lets no sum reach an accumulator's end."""
    total = np.zeros((inputs.n_samples, inputs.n_steps, *p.shape), np.int64)
    for j in network.incoming[p.name]:
        spikes = trace.spikes.get(j.pre, inputs.spikes)
        if spikes is not None and not isinstance(j.synapse, IntWindow):
            total += (weigh(j.synapse, spikes) << j.exponent).reshape(total.shape)
    mantissa = inputs.currents[p.name] if p.driven else p.bias_mantissa[None]
    biases: NDArray[np.int64] = mantissa.astype(np.int64)[:, None] << p.bias_exponent
    return (total << network.arithmetic.synaptic_shift) + biases
