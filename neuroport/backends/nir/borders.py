"""Biases that differ at the borders of an image, as a convolution of a constant image: NIR's have one per channel.

They come of a constant in front of a padded convolution (batch norm, a normalized input): a tap that reads outside adds
nothing, so the sum over the taps inside depends on the place. The kernel behind such biases is found again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from neuroport.snn.operators import ConvGeometry

Array = NDArray[Any]

# Of the largest bias: how far a kernel of floats may be from the biases, here and summed in another order by a reader.
_TOLERANCE, BORDER_ERROR = 1e-12, 2e-12


def border_kernel(bias: Array, g: ConvGeometry) -> Array | None:
    """Kernel [C, 1, kH, kW] which, over an image of ones, writes the biases [C, H, W]; None if there is none.

    Integers exactly, floats up to rounding.
    """
    inside = [_taps(g, axis) for axis in (0, 1)]
    (rows, at_y), (cols, at_x) = (np.unique(taps, axis=0, return_index=True) for taps in inside)
    found = bias[:, at_y][:, :, at_x].astype(np.float64)  # one of each kind of place
    kernel = _solved(rows.astype(np.float64), np.moveaxis(found, 1, 0).reshape(len(rows), -1))
    kernel = np.moveaxis(kernel.reshape(-1, len(bias), len(cols)), 2, 0).reshape(len(cols), -1)
    kernel = _solved(cols.astype(np.float64), kernel).reshape(g.kernel[1], g.kernel[0], len(bias)).transpose(2, 1, 0)
    if bias.dtype.kind == "i":
        kernel = np.rint(kernel)
    again = np.einsum("hi,cij,wj->chw", inside[0].astype(np.float64), kernel, inside[1].astype(np.float64))
    tolerance = 0.0 if bias.dtype.kind == "i" else _TOLERANCE * float(np.abs(bias).max(initial=0))
    if np.abs(again - bias).max(initial=0) > tolerance:
        return None
    return kernel[:, None].astype(bias.dtype)


def _taps(g: ConvGeometry, axis: int) -> NDArray[np.bool_]:
    """[n_out, k]: whether a tap reads inside the image."""
    reach = np.arange(g.kernel[axis]) * g.dilation[axis]
    places = np.arange(g.out_shape[axis + 1])[:, None] * g.stride[axis] - g.padding[axis] + reach
    inside: NDArray[np.bool_] = (places >= 0) & (places < g.in_shape[axis + 1])
    return inside


def _solved(a: Array, b: Array) -> Array:
    """x with a x = b where there is one, of as few rows that are not 0 as a has independent columns."""
    _, r, order = qr(a, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    chosen = order[: int((size > 1e-9 * size.max()).sum())]
    x = np.zeros((a.shape[1], b.shape[1]))
    x[chosen] = np.linalg.lstsq(a[:, chosen], b, rcond=None)[0]
    return x
