"""Where the core keeps a population: neurons of an image channels last, with room around it for what kernels add."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d
from neuroport.chip.work import Words
from neuroport.snn.operators import Image

_BLOCK = 64  # neurons of a word
_SLACK = 64  # numbers behind the last sum that a padded run may touch


@dataclass(frozen=True, eq=False)
class Storage:
    """Storage order of a population.

    place: [N], where neuron n lies among `size` places, a multiple of 64; image: [C, H, W] where it lies channels
    last, `pitch` places from one pixel to the next and `width` pixels from one row to the next; lead: sums before the
    first place, tail: behind the last.
    """

    place: NDArray[np.int64]
    size: int
    image: Image | None = None
    pitch: int = 1
    width: int = 0
    lead: int = 0
    tail: int = 0

    @property
    def n_sums(self) -> int:
        """Numbers that hold the population's sums and what lands around them."""
        return self.lead + self.size + self.tail + _SLACK

    @cached_property
    def valid(self) -> Words:
        """[size / 64]: the bits that are neurons."""
        bits = np.zeros(self.size, np.uint8)
        bits[self.place] = 1
        words: Words = np.packbits(bits, bitorder="little").view(np.uint64)
        return words


@dataclass(frozen=True, eq=False)
class Axis:
    """How a convolution meets one axis: input position m adds to place[m] + offset for each tap of its kind.

    taps: per kind (kernel index, offset); is_read: whether any tap of m ends inside the image.
    """

    place: NDArray[np.int64]
    kind: NDArray[np.int64]
    taps: tuple[tuple[tuple[int, int], ...], ...]
    is_read: NDArray[np.bool_]
    before: int
    after: int

    @property
    def n_kinds(self) -> int:
        """Ways to meet the kernel's taps."""
        return len(self.taps)


def conv_axes(synapse: IntConv2d | IntConvTranspose2d) -> tuple[Axis, Axis]:
    """Rows and columns of a convolution's input as seen from its output."""
    g = synapse.geometry
    made = []
    for axis in (0, 1):
        m, stride = np.arange(g.in_shape[axis + 1]), g.stride[axis]
        reach = [k * g.dilation[axis] for k in range(g.kernel[axis])]
        if isinstance(synapse, IntConvTranspose2d):
            place, kind = m * stride - g.padding[axis], np.zeros_like(m)
            taps = [tuple(enumerate(reach))]
        else:  # output o reads m = o stride - padding + reach: o = (m + padding - reach) / stride where that is whole
            place, kind = np.divmod(m + g.padding[axis], stride)
            taps = [
                tuple((k, (r - far) // stride) for k, far in enumerate(reach) if (r - far) % stride == 0)
                for r in range(stride)
            ]
        made.append(_axis(place, kind, taps, g.out_shape[axis + 1]))
    return made[0], made[1]


def _axis(
    place: NDArray[np.int64], kind: NDArray[np.int64], taps: Sequence[tuple[tuple[int, int], ...]], n_out: int
) -> Axis:
    low, high = 0, n_out - 1
    is_read = np.zeros(len(place), bool)
    for k, of_kind in enumerate(taps):
        offsets = [offset for _, offset in of_kind]
        here = kind == k
        for offset in offsets:
            is_read |= here & (place + offset >= 0) & (place + offset < n_out)
        reached = place[here & is_read]
        if len(reached):
            low = min(low, int(reached.min()) + min(offsets))
            high = max(high, int(reached.max()) + max(offsets))
    return Axis(place, kind, tuple(taps), is_read, -low, high - (n_out - 1))


def storage_of(network: IntNetwork, population: IntPopulation) -> Storage:
    """Channels last where a convolution ends or the neurons form an image, else in C order.

    Spike sources stay in C order, the order of their input.
    """
    incoming = [j.synapse for j in network.incoming[population.name]]
    convs = [s for s in incoming if isinstance(s, IntConv2d | IntConvTranspose2d)]
    if convs:
        image = convs[0].geometry.out_shape
    elif len(population.shape) == 3 and population.role != "input":
        image = (population.shape[0], population.shape[1], population.shape[2])
    else:
        size = math.ceil(population.n_neurons / _BLOCK) * _BLOCK
        return Storage(np.arange(population.n_neurons), size)
    axes = [conv_axes(s) for s in convs if s.geometry.out_shape == image]
    (top, bottom), (left, right) = (
        (max((a[k].before for a in axes), default=0), max((a[k].after for a in axes), default=0)) for k in (0, 1)
    )
    c, h, w = image
    width = w + max(left, right)  # what falls right of a row and left of the next one may share its room
    # whole vectors for each pixel: one that overlaps what was just written for its neighbour would wait for it
    pitch = c if c < 3 else 8 if c <= 8 else math.ceil(c / 16) * 16
    places = (np.arange(h)[:, None] * width + np.arange(w)) * pitch + np.arange(c)[:, None, None]
    size = math.ceil(((h - 1) * width + w) * pitch / _BLOCK) * _BLOCK
    lead = math.ceil((top * width + left) * pitch / _BLOCK) * _BLOCK
    return Storage(places.reshape(-1), size, image, pitch, width, lead, (bottom * width + right) * pitch)
