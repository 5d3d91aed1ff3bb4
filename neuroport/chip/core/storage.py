"""Where the core keeps a population: neurons of an image channels last, others in C order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.core.work import Words
from neuroport.chip.network import IntNetwork, IntPopulation
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d
from neuroport.snn.operators import Image

Conv = IntConv2d | IntConvTranspose2d
Halo = tuple[tuple[int, int], tuple[int, int]]
Taps = tuple[tuple[int, int], ...]
_BLOCK = 64  # neurons of a word
_WORTH = 0.6  # fraction of taps that end inside from which a halo is worth its room; measured: 0.73 is, 0.44 is not
_MOST_WEIGHTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Storage:
    """Storage order of a population.

    place: [N], where neuron n lies among `size` places, a multiple of 64; image: [C, H, W] where it lies channels
    last, `pitch` places from one pixel to the next and `width` pixels from one row to the next; halo: rows above and
    below, columns left and right of the image that sums may be added to in vain; lead: sums before the first place.
    """

    place: NDArray[np.int64]
    size: int
    image: Image | None = None
    pitch: int = 1
    width: int = 0
    halo: Halo = ((0, 0), (0, 0))

    @property
    def lead(self) -> int:
        """Sums before the first place."""
        (top, _), (left, _) = self.halo
        return math.ceil((top * self.width + left) * self.pitch / _BLOCK) * _BLOCK

    @property
    def n_sums(self) -> int:
        """Numbers that hold the population's sums and those of its halo."""
        (_, bottom), (_, right) = self.halo
        return self.lead + self.size + (bottom * self.width + right) * self.pitch

    @cached_property
    def valid(self) -> Words:
        """[size / 64]: the bits that are neurons."""
        bits = np.zeros(self.size, np.uint8)
        bits[self.place] = 1
        words: Words = np.packbits(bits, bitorder="little").view(np.uint64)
        return words


@dataclass(frozen=True, eq=False)
class Axis:
    """How a convolution meets one axis: input position m adds to output place[m] + offset for each tap of its kind.

    taps: per kind (kernel index, offset), the first offset 0; none for positions that no tap takes into the image.
    """

    place: NDArray[np.int64]
    kind: NDArray[np.int64]
    taps: tuple[Taps, ...]


def conv_axis(synapse: Conv, axis: int, halo: tuple[int, int]) -> Axis:
    """Rows (0) or columns (1) of a convolution's input as seen from its output: taps that end in its halo count."""
    n_out = synapse.geometry.out_shape[axis + 1]
    places, kinds = [], []
    known: dict[Taps, int] = {}
    for ends in _ends(synapse, axis):
        is_read = any(0 <= o < n_out for o, _ in ends)
        inside = sorted((o, k) for o, k in ends if is_read and -halo[0] <= o < n_out + halo[1])
        first = inside[0][0] if inside else 0
        taps = tuple((k, o - first) for o, k in inside)
        places.append(first)
        kinds.append(known.setdefault(taps, len(known)))
    return Axis(np.array(places), np.array(kinds), tuple(known))


def _ends(synapse: Conv, axis: int) -> list[list[tuple[int, int]]]:
    """For each input position (output position, kernel index) of each tap, outside the image too."""
    g = synapse.geometry
    stride, padding = g.stride[axis], g.padding[axis]
    reach = [k * g.dilation[axis] for k in range(g.kernel[axis])]
    positions = range(g.in_shape[axis + 1])
    if isinstance(synapse, IntConvTranspose2d):
        return [[(m * stride - padding + far, k) for k, far in enumerate(reach)] for m in positions]
    found = []
    for m in positions:  # output o reads m = o stride - padding + far
        steps = [(divmod(m + padding - far, stride), k) for k, far in enumerate(reach)]
        found.append([(o, k) for (o, rest), k in steps if not rest])
    return found


def _halo(synapse: Conv, pitch: int) -> Halo:
    """Room around the image for all taps: every pixel then has the same ones, which the processor foresees.

    None where too many taps would end there, unless the weights, of which each kind of pixel has its own, become large.
    """
    g = synapse.geometry
    axes, inside, n_weights = [], 1.0, g.in_shape[0] * pitch
    for axis in (0, 1):
        ends = [[o for o, _ in of_one] for of_one in _ends(synapse, axis)]
        met = [o for of_one in ends if any(0 <= o < g.out_shape[axis + 1] for o in of_one) for o in of_one]
        axes.append((max(0, -min(met)), max(0, max(met) - g.out_shape[axis + 1] + 1)) if met else (0, 0))
        inside *= sum(0 <= o < g.out_shape[axis + 1] for o in met) / max(len(met), 1)
        n_weights *= sum(map(len, conv_axis(synapse, axis, (0, 0)).taps))
    is_exact = inside < _WORTH and n_weights <= _MOST_WEIGHTS
    return ((0, 0), (0, 0)) if is_exact else (axes[0], axes[1])


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
    c, h, w = image
    # whole vectors for each pixel: one that overlaps what was just written for its neighbour would wait for it
    pitch = c if c < 3 else 8 if c <= 8 else math.ceil(c / 16) * 16
    halos = [_halo(s, pitch) for s in convs if s.geometry.out_shape == image]
    (top, bottom), (left, right) = (
        tuple(max((halo[axis][end] for halo in halos), default=0) for end in (0, 1)) for axis in (0, 1)
    )
    width = w + max(left, right)  # what falls right of a row and left of the next one may share its room
    places = (np.arange(h)[:, None] * width + np.arange(w)) * pitch + np.arange(c)[:, None, None]
    size = math.ceil(((h - 1) * width + w) * pitch / _BLOCK) * _BLOCK
    return Storage(places.reshape(-1), size, image, pitch, width, ((top, bottom), (left, right)))
