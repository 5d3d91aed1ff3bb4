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
def add_conv_transpose(
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
    """Add a kernel to the image behind for each spike; shapes as in add_conv."""
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
                        row = y * stride[0] + i * dilation[0] - padding[0]
                        if row < 0 or row >= out_height:
                            continue
                        for j in range(weight.shape[2]):
                            column = x * stride[1] + j * dilation[1] - padding[1]
                            if column < 0 or column >= out_width:
                                continue
                            start = (row * out_width + column) * c_out + first
                            w = weight[c, i, j]
                            target = total[t, start : start + n_group]
                            for n in range(n_group):
                                target[n] += w[n]


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator, unused-ignore]
def add_sparse(
    spikes: NDArray[np.uint8],
    weight: NDArray[np.int32],
    rows: NDArray[np.int64],
    start: NDArray[np.int64],
    total: NDArray[np.int32],
) -> None:
    """total [T, n_out] += weight [nnz] at rows [nnz], those from start[k] to start[k + 1] where input k fires."""
    for t in range(spikes.shape[0]):
        target = total[t]
        for k in range(spikes.shape[1]):
            if spikes[t, k]:
                for synapse in range(start[k], start[k + 1]):
                    target[rows[synapse]] += weight[synapse]


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator, unused-ignore]
def pass_gate(spikes: NDArray[np.uint8], index: NDArray[np.int64], passed: NDArray[np.uint8]) -> None:
    """Spikes passed [T, n_out] of spikes [T, n_in]; the rule of snn/gate.py.

    index [n_out, k]: the inputs of each window in order, -1 for padding; each window has at least one input.
    """
    estimate = np.zeros(spikes.shape[1], np.int32)
    shift = 0
    for t in range(spikes.shape[0]):
        while shift < 6 and t >> shift:
            shift += 1
        for k in range(estimate.shape[0]):
            estimate[k] += ((np.int32(spikes[t, k]) << 20) - estimate[k]) >> shift
        for n in range(index.shape[0]):
            best = -1
            chosen = -1
            for j in range(index.shape[1]):
                k = index[n, j]
                if k >= 0 and estimate[k] > best:
                    best, chosen = estimate[k], k
            passed[t, n] = spikes[t, chosen]


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator, unused-ignore]
def limited(x: np.int64, half: int, wraps: bool) -> np.int64:
    """What a register with 2^(bits-1) = half keeps of x; the rule of chip/oracle.py `limit`."""
    if wraps:
        if x > half:
            return np.int64(x - 2 * half)
        return np.int64(x + 2 * half) if x <= -half else x
    if x >= half:
        return np.int64(half - 1)
    return np.int64(1 - half) if x <= -half else x


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
    lost: NDArray[np.int64],
) -> None:
    """Integrate total [T, N'] into spikes [T, N], and potentials [T, N] unless they are [0, 0].

    order [N]: where neuron n's sum stands in a row of total. keep: 2^decay_bits - decay. lost [2]: neuron-steps in
    which a register could not hold its value are added, [0] currents, and potentials at the upper end or wrapped,
    [1] potentials held at the lower end (a neuron far from firing, which changes little).
    """
    n_steps, n_neurons = spikes.shape
    record = potentials.shape[0] > 0
    unity = 1 << decay_bits
    for n in range(n_neurons):
        v = np.int64(v_init)
        b = bias[n]
        k = order[n]
        for t in range(n_steps):
            fired = False
            if t >= clamp_until:
                exact = np.int64(total[t, k]) << synaptic_shift
                u = limited(exact, current_half, current_wraps)
                lost[0] += u != exact
                if keep != unity:
                    v = (v * keep) >> decay_bits if v >= 0 else -((-v * keep) >> decay_bits)
                exact = v + u + b
                v = limited(exact, membrane_half, membrane_wraps)
                if v != exact:
                    lost[1 if exact < 0 and not membrane_wraps else 0] += 1
                fired = bool(v >= threshold if inclusive else v > threshold)
                if fired:
                    v = v - threshold if subtract else np.int64(0)
            spikes[t, n] = fired
            if record:
                potentials[t, n] = v
