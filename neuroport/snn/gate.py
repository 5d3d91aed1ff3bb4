"""The max-pool gate: of each window it passes the spikes of the input that seems to fire most.

The rate of every input is estimated by an average with exponentially falling weights; in the first steps, where such an
average would remember its start, the weights fall as those of the plain mean do. The estimate is an integer with
2^20 for one spike per step, so that the float simulator, the core and any chip agree on every spike:

    e <- e + ((s << 20) - e >> k),  k = min(bit length of t, 6),  t = 0, 1, 2, ...

The gate passes s of the input with the largest e, of equals the first in C order of the window.

Source: Rueckauer et al. 2016, section 3.6; the numbers are ours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import MaxPool2d
from neuroport.snn.operators import Window

ONE_SPIKE_BITS = 20
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
    """Rate estimates of one gate population for a batch of samples."""

    def __init__(self, window: Window, n_samples: int) -> None:
        self.window = window
        self.index = torch.from_numpy(window_index(window))
        self.estimate = torch.zeros(n_samples, int(np.prod(window.in_shape)), dtype=torch.int64)

    def step(self, t: int, spikes: torch.Tensor) -> torch.Tensor:
        """Spikes [N, *out_shape] that pass at step t, of spikes [N, ...] of the population before."""
        s = spikes.reshape(len(self.estimate), -1)
        self.estimate += ((s.to(torch.int64) << ONE_SPIKE_BITS) - self.estimate) >> shift_at(t)
        seen = self.estimate[:, self.index.clamp_min(0)].masked_fill(self.index < 0, -1)
        chosen = self.index.expand(len(seen), *self.index.shape).gather(2, seen.argmax(2, keepdim=True))[:, :, 0]
        return s.gather(1, chosen).reshape(len(s), *self.window.out_shape)
