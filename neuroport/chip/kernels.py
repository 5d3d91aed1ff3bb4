"""Compiled kernels of the reference core: event-driven weight sums and the neuron update, one sample, all steps.

Exact by construction: `total` is int32 or int64, chosen by the caller so that no sum of one step can leave it; the
neuron update runs in int64.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator, unused-ignore]
def add_dense(spikes: NDArray[np.uint8], weight: NDArray[np.int32], total: NDArray[np.int32]) -> None:
    """total [T, n_out] += rows of weight [n_in, n_out] where spikes [T, n_in] fire."""
    for t in range(spikes.shape[0]):
        row = total[t]
        for k in range(spikes.shape[1]):
            if spikes[t, k]:
                w = weight[k]
                for n in range(row.shape[0]):
                    row[n] += w[n]


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator, unused-ignore]
def add_conv(
    spikes: NDArray[np.uint8],
    weight: NDArray[np.int32],
    in_shape: tuple[int, int, int],
    out_shape: tuple[int, int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    total: NDArray[np.int32],
) -> None:
    """Scatter each spike to the outputs it reaches.

    spikes [T, C_in * H * W]; weight [C_in, kH, kW, C_out / groups]; total [T, H' * W' * C_out], channels last.
    """
    c_in, height, width = in_shape
    c_out, out_height, out_width = out_shape
    n_group = c_out // groups
    in_group = c_in // groups
    for t in range(spikes.shape[0]):
        for c in range(c_in):
            first = (c // in_group) * n_group
            for y in range(height):
                for x in range(width):
                    if not spikes[t, (c * height + y) * width + x]:
                        continue
                    for i in range(weight.shape[1]):
                        down = y + padding[0] - i * dilation[0]
                        if down < 0 or down % stride[0] or down // stride[0] >= out_height:
                            continue
                        for j in range(weight.shape[2]):
                            right = x + padding[1] - j * dilation[1]
                            if right < 0 or right % stride[1] or right // stride[1] >= out_width:
                                continue
                            start = ((down // stride[0]) * out_width + right // stride[1]) * c_out + first
                            w = weight[c, i, j]
                            target = total[t, start : start + n_group]
                            for n in range(n_group):
                                target[n] += w[n]


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator, unused-ignore]
def update_neurons(
    total: NDArray[np.int64],
    order: NDArray[np.int64],
    bias: NDArray[np.int64],
    v_init: int,
    threshold: int,
    inclusive: bool,
    subtract: bool,
    keep: int,
    decay_bits: int,
    synaptic_shift: int,
    current_half: int,
    current_wraps: bool,
    membrane_half: int,
    membrane_wraps: bool,
    clamp_until: int,
    spikes: NDArray[np.uint8],
    potentials: NDArray[np.int64],
) -> int:
    """Integrate total [T, N'] into spikes [T, N] (and potentials [T, N], or [0, 0] for none); returns overflows.

    order [N]: where neuron n's sum stands in a row of total. keep: 2^decay_bits - decay. An overflow is one neuron
    at one step whose current or potential left its register.
    """
    n_steps, n_neurons = spikes.shape
    record = potentials.shape[0] > 0
    overflows = 0
    for n in range(n_neurons):
        v = np.int64(v_init)
        b = bias[n]
        k = order[n]
        for t in range(n_steps):
            fired = False
            if t >= clamp_until:
                u = np.int64(total[t, k]) << synaptic_shift
                lost = False
                if current_wraps:
                    if u > current_half:
                        u -= 2 * current_half
                        lost = True
                    elif u <= -current_half:
                        u += 2 * current_half
                        lost = True
                elif u >= current_half:
                    u = current_half - 1
                    lost = True
                elif u <= -current_half:
                    u = -current_half + 1
                    lost = True
                if keep != (1 << decay_bits):
                    v = (v * keep) >> decay_bits if v >= 0 else -((-v * keep) >> decay_bits)
                v += u + b
                if membrane_wraps:
                    if v > membrane_half:
                        v -= 2 * membrane_half
                        lost = True
                    elif v <= -membrane_half:
                        v += 2 * membrane_half
                        lost = True
                elif v >= membrane_half:
                    v = np.int64(membrane_half - 1)
                    lost = True
                elif v <= -membrane_half:
                    v = np.int64(-membrane_half + 1)
                    lost = True
                overflows += lost
                fired = v >= threshold if inclusive else v > threshold
                if fired:
                    v = v - threshold if subtract else np.int64(0)
            spikes[t, n] = fired
            if record:
                potentials[t, n] = v
    return overflows
