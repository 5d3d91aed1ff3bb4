"""How one population is cut: the grid of boxes with the fewest cores, then the fewest messages."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from neuroport.mapping.limits import COMPARTMENTS, Layer, Limits, Load
from neuroport.mapping.network import Box
from neuroport.mapping.wiring import Wiring
from neuroport.snn.operators import Image

_STRETCHES = 64  # numbers of cores tried
_ORDERS = ((0, 1, 2), (1, 2, 0))

# For wirings and the output axons that each needs before it: the cores that the populations there need at least.
Burden = Callable[[Sequence[Wiring], Sequence[int]], int]


@dataclass(frozen=True)
class Cut:
    """Boxes of one population, by the cores that are to hold them.

    score: cores, with those that it makes populations before need beyond their own; messages.
    """

    cores: tuple[tuple[Box, ...], ...]
    score: tuple[int, int]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All of them."""
        return tuple(box for boxes in self.cores for box in boxes)


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


def _middle(shape: Image, size: tuple[int, int, int]) -> Box:
    """The box in the middle of the grid: where nothing is padding, it takes most."""
    starts = [-(-n // step) // 2 * step for n, step in zip(shape, size, strict=True)]
    (c, c1), (h, h1), (w, w1) = [
        (start, min(start + step, n)) for start, step, n in zip(starts, size, shape, strict=True)
    ]
    return ((c, c1), (h, h1), (w, w1))


def capacity(layer: Layer, limits: Limits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(pixels, neurons): most neurons that a box of at most so many pixels can have on a core, ascending in both."""
    channels, heights, widths = [sorted({-(-n // k) for k in range(1, n + 1)}) for n in layer.shape]
    found = {1: 1}
    for h, w in product(heights, widths):

        def too_large(c: int, h: int = h, w: int = w) -> bool:
            return not limits.holds(layer.load(_middle(layer.shape, (c, h, w))))

        n_fitting = bisect_left(channels, True, key=too_large)
        if n_fitting:
            found[h * w] = max(found.get(h * w, 0), channels[n_fitting - 1] * h * w)
    pixels = np.array(sorted(found))
    return pixels, np.maximum.accumulate(np.array([found[int(k)] for k in pixels]))


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
        if limits.holds(layer.load(_middle(layer.shape, size))):
            cores = tuple((box,) for box in boxes_of(layer.shape, size))
            found = _tried(layer, limits, cores, burden, found) or found
        else:
            too_large = np.vstack([too_large, [size]])
    return _stretched(layer, limits, burden, found) if found else _refusal(layer, limits)


def _tried(
    layer: Layer, limits: Limits, cores: tuple[tuple[Box, ...], ...], burden: Burden, best: Cut | None
) -> Cut | None:
    """The cut, where it is better than the best and all of its cores hold what they are given."""
    boxes = tuple(box for core in cores for box in core)
    n_axons = [wiring.total_in(boxes) * wiring.slots for wiring in layer.incoming]
    score = (len(cores) + burden(layer.incoming, n_axons), sum(wiring.pairs(boxes) for wiring in layer.incoming))
    if best and score >= best.score:
        return None
    return Cut(cores, score) if all(limits.holds(layer.together(core)) for core in cores) else None


def _stretched(layer: Layer, limits: Limits, burden: Burden, best: Cut) -> Cut:
    """A cut into stretches of equal length, where it takes fewer cores than the best grid.

    A stretch of neurons one after the other, by channels or by pixels, is a few boxes on one core, whatever the sizes
    divide by; nengo-loihi cuts all layers so (NL/builder/split_blocks.py l.343-358).
    """
    n, most = math.prod(layer.shape), limits.of[COMPARTMENTS] or 1
    least, end = -(-n * layer.compartments // most), len(best.cores)
    for n_cores in sorted({int(k) for k in np.linspace(least, end, _STRETCHES, endpoint=False)}):
        length = -(-n // n_cores)
        found: list[Cut] = []
        for order in _ORDERS:
            row = layer.shape[order[2]]
            for step in {length, -(-length // row) * row}:
                starts = range(0, n, step)
                middle = starts[len(starts) // 2]
                if not limits.holds(layer.together(stretch(layer.shape, order, middle, min(middle + step, n)))):
                    continue
                cores = tuple(stretch(layer.shape, order, k, min(k + step, n)) for k in starts)
                found += [cut] if (cut := _tried(layer, limits, cores, burden, best)) else []
        if found:
            return min(found, key=lambda cut: cut.score)
    return best


def stretch(shape: Image, order: tuple[int, int, int], start: int, end: int) -> tuple[Box, ...]:
    """The boxes of the neurons from start to end, counted with the axes in that order."""
    place = [order.index(axis) for axis in range(3)]
    found = _boxes([shape[axis] for axis in order], start, end)
    return tuple((box[place[0]], box[place[1]], box[place[2]]) for box in found)


def _boxes(shape: Sequence[int], start: int, end: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """As few boxes as the neurons from start to end in C order are, first to last."""
    if len(shape) == 1:
        yield ((start, end),)
        return
    inner = math.prod(shape[1:])
    whole, last = -(-start // inner), end // inner

    def within(row: int, start: int, end: int) -> Iterator[tuple[tuple[int, int], ...]]:
        return (((row, row + 1), *box) for box in _boxes(shape[1:], start - row * inner, end - row * inner))

    if whole > last:
        yield from within(last, start, end)
        return
    if start < whole * inner:
        yield from within(whole - 1, start, whole * inner)
    if whole < last:
        yield ((whole, last), *((0, size) for size in shape[1:]))
    if last * inner < end:
        yield from within(last, last * inner, end)


def _refusal(layer: Layer, limits: Limits) -> Refusal:
    """The first neuron that does not fit a core of its own."""
    loads = ((box, layer.load(box)) for box in boxes_of(layer.shape, (1, 1, 1)))
    return next(Refusal(box, load) for box, load in loads if not limits.holds(load))
