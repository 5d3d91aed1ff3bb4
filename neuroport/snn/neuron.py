"""The neuron of the float networks, compiled: one pass over the potentials of a population in each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroport.compiled import compiled
from neuroport.snn.network import Neuron


def integrate(v: torch.Tensor, current: torch.Tensor, neuron: Neuron, counts: torch.Tensor) -> None:
    """Move potentials on by one step, in place: `current` becomes the spikes, 0 or 1, and counts grow by them.

    v <- max(leak * v + current, floor), rounded after each operation; who is at v_th or above fires and is reset.

    Args:
        v: [N, *shape] float32 or float64, in v_th.
        current: [N, *shape] of the same type, what arrives; in the same order of memory as v.
        neuron: one that fires.
        counts: [N, *shape] of integers, in that order too.

    Source: Rueckauer et al. 2016, eq. 4a (reset to zero) and 4b (reset by subtraction).
    """
    potentials = flat(v)
    one = potentials.dtype.type(1)
    floor = one * (-np.inf if neuron.floor is None else neuron.floor)
    constants = one * neuron.leak, one * neuron.v_th, floor
    _integrate(potentials, flat(current), flat(counts), *constants, neuron.reset == "zero")


def flat(x: torch.Tensor) -> NDArray[Any]:
    """The numbers of a tensor [N, ...] in their order of memory, C or channels last, shared with it."""
    numbers: NDArray[Any] = (x if x.is_contiguous() else x.permute(0, 2, 3, 1)).view(-1).numpy()
    return numbers


@compiled
def _integrate(
    v: NDArray[Any],
    current: NDArray[Any],
    counts: NDArray[Any],
    leak: np.floating,
    v_th: np.floating,
    floor: np.floating,
    to_zero: bool,
) -> None:
    zero, one = v_th - v_th, v_th / v_th  # of the type of v, so that nothing is computed in a wider one
    for k in range(len(v)):
        moved = v[k] * leak + current[k]
        moved = floor if moved < floor else moved
        fires = moved >= v_th
        rest = zero if to_zero else moved - v_th
        v[k] = rest if fires else moved
        current[k] = one if fires else zero
        counts[k] += fires
