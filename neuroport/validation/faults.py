"""Numbers of the integer network that rounding of the float network does not explain: damage, or a bug.

A weight is the float one within half a step of its format, or at the format's end; a bias and an initial potential
are within half a step, a threshold within one; resets and clamps are the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from neuroport.chip.network import IntNetwork, IntPopulation, IntProjection
from neuroport.chip.rounding import Weights
from neuroport.chip.synapses import IntWindow
from neuroport.chip.target import Arithmetic
from neuroport.normalize.scales import Normalized
from neuroport.snn.network import Neuron, Population, Projection
from neuroport.snn.operators import Conv2d, ConvTranspose2d, Dense, Sparse
from neuroport.snn.sparse import materialize

_NEAR = 1e-6  # of a step: rounding of the float sums themselves


def find_faults(normalized: Normalized, network: IntNetwork) -> dict[str, list[str]]:
    """By population what is wrong with its integers, one phrase each; populations without a fault are left out."""
    found: dict[str, list[str]] = {}
    floats = normalized.network
    for p in network.populations:
        own = floats.by_name[p.name]
        if p.role == "input" or p.gate or not isinstance(own.neuron, Neuron):
            continue
        phrases = [*_bias_faults(p, own, network), *_neuron_faults(p, own, own.neuron, network.arithmetic)]
        synaptic = [j for j in floats.incoming[p.name] if j.pre in network.by_name]
        for j, k in zip(synaptic, network.incoming[p.name], strict=False):
            phrases += _weight_faults(j, k, network)
        if len(synaptic) != len(network.incoming[p.name]):
            phrases.append(f"{len(network.incoming[p.name])} projections arrive, {len(synaptic)} should")
        if phrases:
            found[p.name] = phrases
    return found


def _bias_faults(p: IntPopulation, own: Population, network: IntNetwork) -> Iterator[str]:
    if p.driven:  # part of its currents
        return
    exact = own.bias * network.input_unit(p)
    error = np.abs((p.bias_mantissa.astype(np.int64) << p.bias_exponent) - exact) / (1 << p.bias_exponent)
    if error.max(initial=0.0) > 0.5 + _NEAR:
        yield f"{int((error > 0.5 + _NEAR).sum())} biases are up to {error.max():.3g} steps of rounding off"


def _neuron_faults(p: IntPopulation, own: Population, neuron: Neuron, a: Arithmetic) -> Iterator[str]:
    if not neuron.fires:
        return
    due = p.unit >> a.threshold.shift
    is_strict = a.threshold.compare == ">" and neuron.reset == "zero" and not (p.driven or own.bias.any())
    if p.threshold_mantissa != max(1, due - is_strict):
        yield f"the threshold mantissa is {p.threshold_mantissa}, v_th is {max(1, due - is_strict)}"
    if p.reset != neuron.reset:
        yield f"it resets by '{p.reset}', the float neuron by '{neuron.reset}'"
    if p.clamp_until != own.clamp_until:
        yield f"it starts at step {p.clamp_until}, the float neuron at {own.clamp_until}"
    v_init = neuron.v_init if a.v_init else 0.0
    if abs(p.v_init_int - v_init * p.unit) > (1 << a.threshold.shift) + 1:  # rounded, and one more for a strict test
        yield f"it starts at {p.v_init_int / p.unit:.3g} v_th, the float neuron at {neuron.v_init:.3g}"


def _weight_faults(j: Projection, k: IntProjection, network: IntNetwork) -> Iterator[str]:
    op, a = materialize(j.operator, j.post), network.arithmetic
    if isinstance(k.synapse, IntWindow) or not isinstance(op, Dense | Conv2d | ConvTranspose2d | Sparse):
        return
    scale = np.ldexp(network.input_unit(network.by_name[k.post]), -a.synaptic_shift)
    exact = (op.matrix.data if isinstance(op, Sparse) else op.weight) * scale
    m = k.synapse.mantissa
    if exact.shape != m.shape:
        yield f"weights from '{k.pre}' have shape {list(m.shape)}, the float ones {list(exact.shape)}"
        return
    low, high = int(m.min(initial=0)), int(m.max(initial=0))
    sheet = a.weights.excitatory if low >= 0 else a.weights.inhibitory if high <= 0 else a.weights.mixed
    error = np.abs(np.ldexp(exact, -k.exponent) - m) / sheet.step
    is_clipped = (m <= sheet.minimum) | (m >= sheet.maximum)
    near = 1.0 if Weights(op, np.ones(1), a).run > 1 else 0.5  # those of a pool are rounded in turn
    wrong = (error > near + _NEAR) & ~is_clipped
    if wrong.any():
        at = tuple(int(i) for i in np.unravel_index(int(np.where(wrong, error, 0).argmax()), error.shape))
        yield (
            f"{int(wrong.sum())} of {m.size} weights from '{k.pre}' are not the float ones rounded; the worst is "
            f"{list(at)}: {int(m[at])}, should be {np.ldexp(exact[at], -k.exponent):.2f}"
        )
