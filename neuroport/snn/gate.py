"""The max-pool gate: of each window it passes the spikes of the input that seems to fire most.

The rate of every input is estimated by an average with exponentially falling weights; in the first steps, where such an
average would remember its start, the weights fall as those of the plain mean do. The estimate is an integer with
2^20 for one spike per step, so that the float simulator, the core and any chip agree on every spike:

    e <- e + ((s << 20) - e >> k),  k = min(bit length of t, 6),  t = 0, 1, 2, ...

The gate passes s of the input with the largest e, of equals the first in C order of the window.

Source: Rueckauer et al. 2016, section 3.6; the numbers are ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import MaxPool2d
from neuroport.compiled import compiled
from neuroport.snn.operators import Window

ONE_SPIKE_BITS = 20
ONE_SPIKE = 1 << ONE_SPIKE_BITS
MAX_SHIFT = 6


def shift_at(t: int) -> int:
    """The shift of the estimate's update at step t, counted from 0."""
    return min(t.bit_length(), MAX_SHIFT)


def window_index(window: Window) -> NDArray[np.int64]:
    """[n_out, kH * kW] indices of the inputs of each window in C order of the input; -1 for padding."""
    pool: MaxPool2d = window.op
    c, h, w = window.in_shape
    _, h_out, w_out = window.out_shape
    y = np.arange(h_out)[:, None] * pool.stride[0] - pool.padding[0] + np.arange(pool.kernel[0]) * pool.dilation[0]
    x = np.arange(w_out)[:, None] * pool.stride[1] - pool.padding[1] + np.arange(pool.kernel[1]) * pool.dilation[1]
    inside = ((y >= 0) & (y < h))[:, None, :, None] & ((x >= 0) & (x < w))[None, :, None, :]
    place = np.where(inside, y[:, None, :, None] * w + x[None, :, None, :], -1).reshape(h_out * w_out, -1)
    channels = np.arange(c)[:, None, None] * (h * w)
    return np.where(place[None] >= 0, place[None] + channels, -1).reshape(c * h_out * w_out, -1)


class GateState:
    """Rate estimates of one gate population for a batch of samples.

    estimate: [N, H * W * C] int32, channels last.
    """

    def __init__(self, window: Window, n_samples: int) -> None:
        channels, height, width = window.in_shape
        self.window = window
        plane = Window(window.op, (1, height, width), (1, *window.out_shape[1:]))
        self.index = window_index(plane)
        self.estimate = np.zeros((n_samples, channels * height * width), np.int32)

    def step(self, t: int, spikes: torch.Tensor) -> torch.Tensor:
        """Spikes [N, *out_shape] that pass at step t, of spikes [N, ...] of the population before; channels last."""
        n, (channels, *_) = len(self.estimate), self.window.in_shape
        s = spikes.reshape(n, *self.window.in_shape).permute(0, 2, 3, 1).contiguous()
        passed = torch.zeros((n, *self.window.out_shape[1:], channels), dtype=s.dtype)
        arriving, leaving = (x.view(n, -1, channels).numpy() for x in (s, passed))
        estimate = self.estimate.reshape(n, -1, channels)
        _estimate(arriving, estimate, shift_at(t))
        _choose(arriving, estimate, self.index, leaving)
        return passed.permute(0, 3, 1, 2)


@compiled
def _estimate(spikes: NDArray[Any], estimate: NDArray[np.int32], shift: int) -> None:
    """Move the estimates [N, H * W, C] on by one step."""
    for n in range(spikes.shape[0]):
        for pixel in range(spikes.shape[1]):
            s, e = spikes[n, pixel], estimate[n, pixel]
            for c in range(len(s)):
                target = np.int32(ONE_SPIKE if s[c] else 0)
                e[c] += (target - e[c]) >> np.int32(shift)


@compiled
def _choose(spikes: NDArray[Any], estimate: NDArray[np.int32], index: NDArray[np.int64], passed: NDArray[Any]) -> None:
    """Write who passes, [N, H' * W', C]; index: [H' * W', kH * kW] of pixels.

    Channels run innermost, so that the processor compares many at once.
    """
    best = np.empty(spikes.shape[2], np.int32)
    for n in range(spikes.shape[0]):
        for pixel in range(len(index)):
            out = passed[n, pixel]
            best[:] = -1
            for place in index[pixel]:
                if place < 0:
                    continue
                s, e = spikes[n, place], estimate[n, place]
                for c in range(len(best)):
                    is_larger = e[c] > best[c]
                    best[c] = e[c] if is_larger else best[c]
                    out[c] = s[c] if is_larger else out[c]
