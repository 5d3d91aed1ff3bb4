"""Projections that are kernels on images: what they take of cores, from their geometry alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.synapses import sources
from neuroport.mapping.network import Box
from neuroport.mapping.reach import ImageSynapse, groups_of, images_of
from neuroport.mapping.wiring import Interval, Population, Senders, Stored, Wiring

Taps = tuple[int, ...]


@dataclass(frozen=True)
class Tap:
    """One row or column of the image before, as a tile reads it: the taps it is read by, in the tile's rows."""

    taps: Taps
    first: int
    span: int
    place: int = field(compare=False)


@dataclass(frozen=True, eq=False)
class _Axis:
    """source: [n_out, k], what each tap reads; -1 outside."""

    source: NDArray[np.int64]
    n_in: int
    _seen: dict[Interval, tuple[Tap, ...]] = field(default_factory=dict)

    def inputs(self, interval: Interval) -> tuple[Tap, ...]:
        """Rows before that an interval of rows reads."""
        if interval not in self._seen:
            self._seen[interval] = self._inputs(*interval)
        return self._seen[interval]

    def places(self, interval: Interval) -> list[int]:
        """The same rows by number."""
        return [tap.place for tap in self.inputs(interval)]

    def _inputs(self, start: int, end: int) -> tuple[Tap, ...]:
        found: dict[int, list[tuple[int, int]]] = {}
        for out, row in enumerate(self.source[start:end].tolist()):
            for tap, place in enumerate(row):
                if place >= 0:
                    found.setdefault(place, []).append((out, tap))
        taps = []
        for place, reads in sorted(found.items()):
            outs = [out for out, _ in reads]
            taps.append(Tap(tuple(tap for _, tap in reads), min(outs), max(outs) - min(outs), place))
        return tuple(taps)


@dataclass(frozen=True, eq=False)
class ImageWiring(Wiring):
    """A convolution, its transpose, or windows: one population axon for each pixel that the tile reads.

    Pixels of the same taps share their weights; `axon_base_max` moves them by so many compartments, beyond it they are
    stored again (NL/conv.py l.246-262). A row of weights for each channel, as long as the longest.
    """

    synapse: ImageSynapse
    _seen: dict[tuple[object, ...], Stored] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Channels of a group before and behind."""
        before, behind = images_of(self.synapse)
        groups = groups_of(self.synapse)
        return before[0] // groups, behind[0] // groups

    @cached_property
    def axes(self) -> tuple[_Axis, _Axis]:
        """Rows and columns."""
        image = images_of(self.synapse)[0]
        return (_Axis(sources(self.synapse, 0), image[1]), _Axis(sources(self.synapse, 1), image[2]))

    def channels(self, interval: Interval) -> Interval:
        """Channels before that these channels read."""
        n_in, n_out = self.sizes
        return interval[0] // n_out * n_in, ((interval[1] - 1) // n_out + 1) * n_in

    def axons_in(self, box: Box) -> int:
        """Pixels, once for each axon that their channels need."""
        n_pixels = math.prod(len(axis.inputs(interval)) for axis, interval in zip(self.axes, box[1:], strict=True))
        return n_pixels * self.population.n_chunks(*self.channels(box[0]))

    def total_in(self, boxes: Sequence[Box]) -> int:
        """Input axons of all boxes together."""
        intervals = _intervals(boxes)
        if not _is_grid(boxes, intervals):
            return sum(map(self.axons_in, boxes))
        return self._n_pixels(intervals) * sum(self.population.n_chunks(*self.channels(c)) for c in intervals[0])

    def pairs(self, boxes: Sequence[Box]) -> int:
        """Neurons before times the boxes that each reaches."""
        intervals = _intervals(boxes)
        if _is_grid(boxes, intervals):
            return self._n_pixels(intervals) * sum(self._n_channels(c) for c in intervals[0])
        return sum(self._n_pixels([[i] for i in box]) * self._n_channels(box[0]) for box in boxes)

    def _n_channels(self, interval: Interval) -> int:
        start, end = self.channels(interval)
        return end - start

    def _n_pixels(self, intervals: list[list[Interval]]) -> int:
        """Pixels that all boxes of a grid with one piece of channels read together."""
        pairs = zip(self.axes, intervals[1:], strict=True)
        return math.prod(sum(len(axis.inputs(interval)) for interval in found) for axis, found in pairs)

    def stored(self, box: Box, first: int) -> Stored:
        """Each set of weights once."""
        if self.store is None:
            return Stored(0, 0)
        rows, cols = (axis.inputs(i) for axis, i in zip(self.axes, box[1:], strict=True))
        plane = (box[1][1] - box[1][0], box[2][1] - box[2][0])
        n_channels = box[0][1] - box[0][0]
        key = (rows, cols, plane, self._row_widths(box[0]), n_channels, first)
        if key not in self._seen:
            kinds = self._kinds(rows, cols, plane[1])
            last = first + (n_channels - 1) * math.prod(plane) + max((reach for _, reach in kinds), default=0)
            width = self.store.index_width(last)
            each = self.format.bits + width
            sizes = (n_rows * n * n_taps for n_taps, _ in kinds for n_rows, n in self._row_widths(box[0]))
            self._seen[key] = Stored(sum(self.store.bits(n, each) for n in sizes), width)
        return self._seen[key]

    def _row_widths(self, channels: Interval) -> tuple[tuple[int, int], ...]:
        """Per axon of a pixel: how many rows of weights (channels before), and channels behind in the longest."""
        n_in, n_out = self.sizes
        start, end = self.channels(channels)
        step = self.population.neurons or end
        found = []
        for a in range(start // step * step, end, step):
            low, high = max(a, start), min(a + step, end)
            groups = range(low // n_in, (high - 1) // n_in + 1)
            overlaps = (min(channels[1], (g + 1) * n_out) - max(channels[0], g * n_out) for g in groups)
            found.append((high - low, max(overlaps)))
        return tuple(found)

    def _kinds(self, rows: Sequence[Tap], cols: Sequence[Tap], n_cols: int) -> list[tuple[int, int]]:
        """Of each set of weights: how many taps, and the farthest index in a channel of the tile."""
        kinds: dict[tuple[Taps, Taps, int], tuple[int, int]] = {}
        step = None if self.population.base_max is None else self.population.base_max + 1
        for row in rows:
            for col in cols:
                place = row.first * n_cols + col.first
                beyond = place // step * step if step else 0
                reach = beyond + row.span * n_cols + col.span
                kinds[row.taps, col.taps, beyond] = (len(row.taps) * len(col.taps), reach)
        return list(kinds.values())

    def senders(self, boxes: Sequence[Box]) -> Senders:
        """Pixels that reach each tile."""
        intervals = _intervals(boxes)
        if not _is_grid(boxes, intervals):
            return self._scattered(boxes)
        counts = []
        for axis, found in zip(self.axes, intervals[1:], strict=True):
            count = np.zeros(axis.n_in + 1, np.int64)
            for interval in found:
                count[1:][axis.places(interval)] += 1
            counts.append(np.cumsum(count))
        return ImageSenders(counts[0], counts[1], tuple(self.channels(c) for c in intervals[0]), self.population)

    def _scattered(self, boxes: Sequence[Box]) -> ScatteredSenders:
        fans: dict[Interval, NDArray[np.int64]] = {}
        for c, h, w in boxes:
            fan = fans.setdefault(self.channels(c), np.zeros([axis.n_in for axis in self.axes], np.int64))
            fan[np.ix_(self.axes[0].places(h), self.axes[1].places(w))] += 1
        return ScatteredSenders(fans, self.population)


@dataclass(frozen=True, eq=False)
class ImageSenders(Senders):
    """rows, cols: [n + 1], tiles that read the rows before each, added up; channels: those that a tile reads."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    channels: tuple[Interval, ...]
    population: Population
    _seen: dict[Interval, int] = field(default_factory=dict)

    def axons_out(self, box: Box) -> int:
        """One for each pixel and each tile that it reaches."""
        (c0, c1), (h0, h1), (w0, w1) = box
        if (c0, c1) not in self._seen:
            both = ((max(c0, start), min(c1, end)) for start, end in self.channels)
            self._seen[c0, c1] = sum(self.population.n_chunks(a, b) for a, b in both if a < b)
        n_pixels = int(self.rows[h1] - self.rows[h0]) * int(self.cols[w1] - self.cols[w0])
        return n_pixels * self._seen[c0, c1] * self.population.slots


@dataclass(frozen=True, eq=False)
class ScatteredSenders(Senders):
    """fans: by channels that tiles read, [H, W]: how many of those tiles read each pixel."""

    fans: Mapping[Interval, NDArray[np.int64]]
    population: Population

    def axons_out(self, box: Box) -> int:
        """One for each pixel and each tile that it reaches."""
        (c0, c1), (h0, h1), (w0, w1) = box
        both = ((max(c0, start), min(c1, end), fan) for (start, end), fan in self.fans.items())
        n = sum(self.population.n_chunks(a, b) * int(fan[h0:h1, w0:w1].sum()) for a, b, fan in both if a < b)
        return n * self.population.slots


def _intervals(boxes: Iterable[Box]) -> list[list[Interval]]:
    """Where boxes are cut along each axis."""
    return [sorted(set(found)) for found in zip(*boxes, strict=True)]


def _is_grid(boxes: Sequence[Box], intervals: list[list[Interval]]) -> bool:
    """Whether the boxes are all that their cuts make."""
    return math.prod(map(len, intervals)) == len(boxes)
