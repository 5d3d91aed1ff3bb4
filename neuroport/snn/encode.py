"""Input encodings: how an image becomes current or spikes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroport.errors import DataError


def rate_spikes(images: NDArray[np.floating], n_steps: int) -> NDArray[np.uint8]:
    """Spikes [N, T, *shape] of a deterministic encoder: neuron i fires round(T * x_i) times, evenly spread.

    images: [N, *shape] in [0, 1]. Spike number k comes at the first step t with t * x + 1/2 >= k: the spike times of
    an integrate-and-fire neuron with constant input x, threshold 1, reset by subtraction and v_init = 1/2, computed
    in closed form in float64, so that every backend gets the same bits.

    Raises:
        DataError: a value outside [0, 1].
    """
    check_rate_range(images)
    x = images.astype(np.float64)[:, None]
    steps = np.arange(n_steps + 1, dtype=np.float64).reshape(1, -1, *[1] * (images.ndim - 1))
    count = np.floor(x * steps + 0.5)
    return np.diff(count, axis=1).astype(np.uint8)


def check_rate_range(images: NDArray[np.floating]) -> None:
    """Refuse what a firing rate cannot express.

    Raises:
        DataError: a value outside [0, 1].
    """
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN is neither
        raise DataError(
            f"rate coding needs inputs between 0 and 1 (a rate in spikes per step), found {images.min():.4g} to "
            f"{images.max():.4g}; use --scale, or a recipe with constant current input, which takes any number"
        )
