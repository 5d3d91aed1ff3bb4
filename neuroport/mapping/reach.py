"""Which neurons a tile holds, and which neurons before it have a synapse into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroport.chip.network import IntNetwork, IntProjection
from neuroport.chip.synapses import (
    IntConv2d,
    IntConvTranspose2d,
    IntDense,
    IntSparse,
    IntSynapse,
    IntWeights,
    IntWindow,
    as_conv,
    as_sparse,
    sources,
)
from neuroport.mapping.network import Box, Tile
from neuroport.snn.operators import Image, Shape, as_image

Mask = NDArray[np.bool_]
ImageSynapse = IntConv2d | IntConvTranspose2d | IntWindow


@dataclass(frozen=True, eq=False)
class Halo:
    """What a box of an image reads of the image before: channels x rows x columns, a mask of each."""

    channels: Mask
    rows: Mask
    cols: Mask

    @property
    def mask(self) -> Mask:
        """[C, H, W]."""
        found: Mask = self.channels[:, None, None] & self.rows[:, None] & self.cols
        return found


def neurons_of(tile: Tile, shape: Sequence[int]) -> NDArray[np.int64]:
    """[n_neurons]: the tile's neurons in C order of the population's shape, ascending.

    A tile of one axis lies on the population read in C order, whatever its shape.
    """
    if len(tile.box) == 1:
        (start, end), *_ = tile.box
        return np.arange(start, end)
    grid = np.arange(int(np.prod(shape))).reshape(tuple(shape))
    return grid[tile.slices].ravel()


def inputs_of(network: IntNetwork, projection: IntProjection, tile: Tile) -> Mask:
    """[n_pre]: which neurons before, in C order, have a synapse of this projection into the tile.

    A weight of 0 is a synapse where a kernel holds it, as shared kernels are stored whole; elsewhere it is none.
    """
    synapse, shape = projection.synapse, network.by_name[projection.post].shape
    box = image_box(tile, shape)
    if isinstance(synapse, ImageSynapse) and box is not None and as_image(shape) == images_of(synapse)[1]:
        return halo_of(synapse, box).mask.ravel()
    rows = neurons_of(tile, shape)
    if isinstance(synapse, IntDense):
        start, end = int(rows[0]), int(rows[-1]) + 1
        held = synapse.mantissa[start:end] if end - start == len(rows) else synapse.mantissa[rows]
        return np.asarray(held.any(axis=0))
    flat = as_sparse(weights_of(synapse))
    found = np.zeros(network.by_name[projection.pre].n_neurons, np.bool_)
    found[columns_of(flat, rows)] = True
    return found


def image_box(tile: Tile, shape: Shape) -> Box | None:
    """The box on the population's shape as an image [C, H, W]; None where a flat tile is none."""
    if len(tile.box) == len(shape) and len(shape) <= 3:
        return image_of(tile.box)
    return None


def image_of(box: Box) -> Box:
    """A box of one to three axes as one of [C, H, W], as `as_image` does for shapes."""
    if len(box) == 1:
        return (box[0], (0, 1), (0, 1))
    return (box[0], (0, 1), box[1]) if len(box) == 2 else box


def images_of(synapse: ImageSynapse) -> tuple[Image, Image]:
    """[C, H, W] before and behind."""
    if isinstance(synapse, IntWindow):
        (c, h, w), (c_out, h_out, w_out) = as_image(synapse.in_shape), as_image(synapse.out_shape)
        return (c, h, w), (c_out, h_out, w_out)
    return synapse.geometry.in_shape, synapse.geometry.out_shape


def groups_of(synapse: ImageSynapse) -> int:
    """Groups of channels that do not mix."""
    return synapse.in_shape[0] if isinstance(synapse, IntWindow) else synapse.geometry.groups


def halo_of(synapse: ImageSynapse, box: Box) -> Halo:
    """What a box (C, H, W) of the image behind reads."""
    (c_in, n_rows, n_cols), (c_out, _, _) = images_of(synapse)
    groups = groups_of(synapse)
    (c0, c1), rows, cols = box
    size = c_out // groups
    channels = np.zeros(c_in, np.bool_)
    channels[c0 // size * (c_in // groups) : ((c1 - 1) // size + 1) * (c_in // groups)] = True
    return Halo(channels, _read(sources(synapse, 0), rows, n_rows), _read(sources(synapse, 1), cols, n_cols))


def _read(source: NDArray[np.int64], interval: tuple[int, int], n: int) -> Mask:
    found = np.zeros(n + 1, np.bool_)  # the last: what lies outside
    found[source[interval[0] : interval[1]]] = True
    return found[:n]


def weights_of(synapse: IntSynapse) -> IntWeights:
    """The synapses; of a window, the convolution that reads what it does, each with weight 1."""
    if not isinstance(synapse, IntWindow):
        return synapse
    return IntConv2d(np.ones((synapse.in_shape[0], 1, *synapse.op.kernel), np.int32), as_conv(synapse))


def columns_of(sparse: IntSparse, rows: NDArray[np.int64]) -> NDArray[np.signedinteger]:
    """Columns that these rows hold with weights other than 0."""
    starts, ends = sparse.row_start[rows], sparse.row_start[rows + 1]
    n = ends - starts
    held = np.repeat(ends - np.cumsum(n), n) + np.arange(n.sum())
    found: NDArray[np.signedinteger] = sparse.columns[held[sparse.mantissa[held] != 0]]
    return found
