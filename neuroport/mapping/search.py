"""How one population is cut: the grid of boxes with the fewest cores, then the fewest messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from neuroport.mapping.limits import COMPARTMENTS, Layer, Limits, Load
from neuroport.mapping.network import Box
from neuroport.mapping.wiring import Wiring
from neuroport.snn.operators import Image

# For the output axons that each wiring needs before it: the cores that the populations there need at least.
Burden = Callable[[Sequence[int]], int]


@dataclass(frozen=True)
class Cut:
    """Boxes of one population, each to be held by a core.

    score: cores, with those that it makes populations before need beyond their own; messages.
    """

    boxes: tuple[Box, ...]
    incoming: tuple[Wiring, ...]
    score: tuple[int, int]


@dataclass(frozen=True)
class Refusal:
    """The smallest boxes do not fit: one of them, and what it takes."""

    box: Box
    load: Load


def boxes_of(shape: Image, size: tuple[int, int, int]) -> tuple[Box, ...]:
    """The grid of boxes of that size; those at the ends may be smaller."""
    axes = [[(k, min(k + step, n)) for k in range(0, n, step)] for n, step in zip(shape, size, strict=True)]
    return tuple(product(*axes))


def sizes_of(shape: Image) -> list[tuple[int, int, int]]:
    """Sizes of boxes that differ in the number of pieces along an axis, those of the fewest boxes first."""
    axes = [sorted({-(-n // k) for k in range(1, n + 1)}) for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    n_boxes = np.prod(-(-np.array(shape) // grid), axis=1)
    order = np.lexsort((*-grid.T[::-1], n_boxes))
    return [(c, h, w) for c, h, w in grid[order].tolist()]


def best_cut(layer: Layer, limits: Limits, burden: Burden) -> Cut | Refusal:
    """The cut of the least score of all sizes of boxes; a size is not tried where a smaller one was too large."""
    found: Cut | None = None
    too_large = np.empty((0, 3), np.int64)
    most = limits.of[COMPARTMENTS]
    for size in sizes_of(layer.shape):
        if found and math.prod(-(-n // step) for n, step in zip(layer.shape, size, strict=True)) > found.score[0]:
            break
        if (most is not None and math.prod(size) * layer.compartments > most) or (too_large <= size).all(1).any():
            continue
        boxes = boxes_of(layer.shape, size)
        if limits.holds(layer.load(boxes[len(boxes) // 2])):
            found = _better(layer, limits, boxes, burden, found) or found
        else:
            too_large = np.vstack([too_large, [size]])
    return found or _refusal(layer, limits)


def _better(layer: Layer, limits: Limits, boxes: tuple[Box, ...], burden: Burden, best: Cut | None) -> Cut | None:
    """The cut, where it is better than the best and all of its boxes fit."""
    n_axons = [wiring.total_in(boxes) * wiring.slots for wiring in layer.incoming]
    score = (len(boxes) + burden(n_axons), sum(wiring.pairs(boxes) for wiring in layer.incoming))
    if best and score >= best.score:
        return None
    fits = all(limits.holds(layer.load(box)) for box in boxes)
    return Cut(boxes, layer.incoming, score) if fits else None


def _refusal(layer: Layer, limits: Limits) -> Refusal:
    """The first neuron that does not fit a core of its own."""
    loads = ((box, layer.load(box)) for box in boxes_of(layer.shape, (1, 1, 1)))
    return next(Refusal(box, load) for box, load in loads if not limits.holds(load))
