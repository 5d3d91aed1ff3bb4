"""How large input currents can become: bounds of a linear operator over the range of its input."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.ann.graph import FloatArray
from neuroport.snn.operators import Conv2d, Dense, Operator, Sparse, apply
from neuroport.snn.sparse import as_matrix, n_connections

_LARGEST_MATRIX = 1 << 25  # connections that are worth multiplying out for an exact bound
_MARGIN = 1.25  # beyond the largest value seen in calibration
_BATCH_ELEMENTS = 1 << 24


def value_range(
    op: Operator, input_range: tuple[float, float], images: NDArray[np.float32]
) -> tuple[FloatArray, FloatArray]:
    """(smallest, largest) value of each output for inputs in the range, [n_out] or [1] where one bound is for all.

    Exact where the weights are at hand or few; else from the largest value over `images` [N, ...] and a margin: then
    what lies beyond is found when a sample is encoded.
    """
    low, high = input_range
    if isinstance(op, Dense):
        return _ends(np.maximum(op.weight, 0).sum(1), np.minimum(op.weight, 0).sum(1), low, high)
    if isinstance(op, Conv2d):
        if max(*op.geometry.padding, *op.geometry.far_padding) > 0:  # a border reads zeros
            low, high = min(low, 0.0), max(high, 0.0)
        rows = op.weight.reshape(len(op.weight), -1)
        ends = _ends(np.maximum(rows, 0).sum(1), np.minimum(rows, 0).sum(1), low, high)
        per_channel = math.prod(op.out_shape[1:])
        return np.repeat(ends[0], per_channel), np.repeat(ends[1], per_channel)
    if isinstance(op, Sparse) or n_connections(op) <= _LARGEST_MATRIX:
        matrix = as_matrix(op)
        positive, negative = matrix.maximum(0).sum(1), matrix.minimum(0).sum(1)
        return _ends(np.asarray(positive), np.asarray(negative), low, high)
    largest = np.array([_MARGIN * _largest_seen(op, images)])
    return -largest, largest


def _ends(positive: FloatArray, negative: FloatArray, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """Range of sums of weights times inputs, from each row's sums of positive and of negative weights."""
    return positive * low + negative * high, positive * high + negative * low


def _largest_seen(op: Operator, images: NDArray[np.float32]) -> float:
    largest = 0.0
    size = max(1, _BATCH_ELEMENTS // max(math.prod(op.in_shape), math.prod(op.out_shape)))
    with torch.no_grad():
        for start in range(0, len(images), size):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + size]))
            largest = max(largest, float(apply(op, batch).abs().max()))
    return largest
