"""Populations and projections as a NIR graph, the same for integer and for float networks.

Every projection becomes one node of weights and every population one node of neurons; several nodes that lead into one
are summed, as NIR says. What NIR's nodes cannot hold as it is becomes a matrix: the same sums. A kernel in groups is
written in full and an oblong one as a matrix, for nir 1.0.8 infers wrong shapes of both (nir/ir/conv.py l.119-131: the
channels of one group, one side of the kernel) and refuses to read the file again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from neuroport.backends.nir.borders import border_kernel
from neuroport.backends.nir.file import library
from neuroport.errors import DoesNotFitError
from neuroport.snn.operators import Conv2d, ConvGeometry, Dense, Shape, Synapse
from neuroport.snn.sparse import as_matrix

_MATRIX = 1 << 24  # weights of one node that stands for another kind of synapse

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Cell:
    """One population. node: its neurons' node for the shape it has in NIR, None of an input.

    bias: in the numbers of the file, of the population's shape. takes_input: whether an Input of its own leads to it.
    """

    name: str
    shape: Shape
    bias: Array
    node: Callable[[Shape], Any] | None
    takes_input: bool = False


@dataclass(frozen=True, eq=False)
class Link:
    """One projection. synapse: its weights in the numbers of the file; metadata: of its node."""

    pre: str
    post: str
    synapse: Synapse
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Assembly:
    """A graph as it grows; the names of nodes: of populations, of projections in their order, and of the outputs."""

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    cells: dict[str, str] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    _flat: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, node: Any) -> str:
        """The name under which a node was added: one that HDF5 and torch take, and that is free."""
        plain = free = re.sub(r"\W", "_", name) or "node"
        k = 1
        while free in self.nodes:
            k += 1
            free = f"{plain}_{k}"
        self.nodes[free] = node
        return free

    def flat(self, name: str) -> str:
        """The node of a population, or a Flatten behind it where it is no vector."""
        node, shape = self.cells[name], self.shapes[name]
        if len(shape) == 1:
            return node
        if name not in self._flat:
            self._flat[name] = self.add(f"{node}_flat", library().Flatten(np.array(shape), 0, -1))
            self.edges.append((node, self._flat[name]))
        return self._flat[name]


def assemble(cells: Sequence[Cell], links: Sequence[Link], heads: Sequence[str]) -> Assembly:
    """The graph of populations in topological order; heads: populations that are read.

    Raises:
        DoesNotFitError: a matrix that would be too large, with its layer.
    """
    nir, made = library(), Assembly()
    incoming = {c.name: [j for j in links if j.post == c.name] for c in cells}
    named: dict[int, str] = {}
    for cell in cells:
        if cell.node is None or (cell.takes_input and not incoming[cell.name]):
            shape = _first_shape(cell, [j.synapse for j in links if j.pre == cell.name])
        else:
            shape = _shape(cell, incoming[cell.name], made.shapes)
        made.shapes[cell.name] = shape
        if cell.node is None:
            made.cells[cell.name] = made.add(cell.name, nir.Input(np.array(shape)))
            continue
        made.cells[cell.name] = name = made.add(cell.name, cell.node(shape))
        if cell.takes_input:
            made.edges.append((made.add(f"{name}_input", nir.Input(np.array(shape))), name))
        if len(shape) == 3 and incoming[cell.name] and not is_per_channel(cell.bias, shape):
            _add_border(made, cell, incoming[cell.name])
            cell = replace(cell, bias=np.zeros_like(cell.bias))
        for k, j in enumerate(incoming[cell.name]):
            named[id(j)] = _add_link(made, j, cell, is_first=k == 0)
    made.links = [named[id(j)] for j in links]
    for head in heads:
        made.outputs.append(made.add("output", nir.Output(np.array(made.shapes[head]))))
        made.edges.append((made.cells[head], made.outputs[-1]))
    return made


def _first_shape(cell: Cell, readers: Sequence[Synapse]) -> Shape:
    """That of an input: what a convolution reads, if one does."""
    found = [s for op in readers for s in _images(op, 0)]
    return cell.shape if cell.shape in found or not found else found[0]


def _shape(cell: Cell, links: Sequence[Link], shapes: Mapping[str, Shape]) -> Shape:
    """The image that convolutions alone write, with biases as they have them; a vector otherwise."""
    written = [
        [out for image, out in _sides(j.synapse) if image == shapes[j.pre]] for j in links
    ]  # fmt: skip
    common = [s for s in (written[0] if written else []) if all(s in other for other in written)]
    if not common:
        return (math.prod(cell.shape),)
    held = is_per_channel(cell.bias, common[0]) or _border(cell, links, common[0]) is not None
    return common[0] if held else (math.prod(cell.shape),)


def is_per_channel(bias: Array, shape: Shape) -> bool:
    """Whether the biases of an image are one for each channel, as those of NIR's convolutions."""
    per_channel = bias.reshape(shape[0], -1)
    return bool((per_channel == per_channel[:, :1]).all())


def _border(cell: Cell, links: Sequence[Link], shape: Shape) -> tuple[Link, Array] | None:
    """The convolution whose padding the biases follow, and the kernel that writes them."""
    for j in links if len(shape) == 3 else ():
        if isinstance(j.synapse, Conv2d) and j.synapse.geometry.out_shape == shape:
            kernel = border_kernel(cell.bias.reshape(shape), j.synapse.geometry)
            if kernel is not None:
                return j, kernel
    return None


def _sides(op: Synapse) -> list[tuple[Shape, Shape]]:
    """Shapes in NIR between which a convolution is one of NIR's: [C, H, W], or [C, L] where it runs along one axis."""
    if not isinstance(op, Conv2d) or not op.geometry.has_equal_padding:
        return []
    g, sides = op.geometry, list[tuple[Shape, Shape]]()
    is_line = g.in_shape[1] == g.out_shape[1] == g.kernel[0] == g.stride[0] == g.dilation[0] == 1 and not g.padding[0]
    if g.kernel[0] == g.kernel[1]:
        sides.append((g.in_shape, g.out_shape))
    if is_line:
        sides.append(((g.in_shape[0], g.in_shape[2]), (g.out_shape[0], g.out_shape[2])))
    full = g.out_shape[0] * g.in_shape[0] * math.prod(g.kernel)
    return sides if full <= _MATRIX else []


def _images(op: Synapse, side: int) -> list[Shape]:
    return [pair[side] for pair in _sides(op)]


def _add_border(made: Assembly, cell: Cell, links: Sequence[Link]) -> None:
    """Biases that follow a border: ones everywhere, made of nothing that arrives, and the kernel over them."""
    found = _border(cell, links, made.shapes[cell.name])
    if found is None:
        return
    nir, (j, kernel) = library(), found
    g, post = cast(Conv2d, j.synapse).geometry, made.cells[cell.name]
    none = np.zeros((1, g.in_shape[0], 1, 1), kernel.dtype)
    ones = nir.Conv2d(g.in_shape[1:], none, (1, 1), (0, 0), (1, 1), 1, np.ones(1, kernel.dtype))
    bias = np.zeros(len(kernel), kernel.dtype)
    border = nir.Conv2d(g.in_shape[1:], kernel, g.stride, g.padding, g.dilation, 1, bias)
    names = made.add(f"{post}_ones", ones), made.add(f"{post}_border", border)
    made.edges += [(made.cells[j.pre], names[0]), names, (names[1], post)]


def _add_link(made: Assembly, j: Link, cell: Cell, *, is_first: bool) -> str:
    """The node of a projection, the first of a population with its bias."""
    nir, post = library(), made.cells[j.post]
    name = f"{post}_weights" if is_first else f"{post}_from_{made.cells[j.pre]}"
    bias = cell.bias if is_first else np.zeros_like(cell.bias)
    before, shape = made.shapes[j.pre], made.shapes[j.post]
    node: Any
    if isinstance(j.synapse, Conv2d) and (before, shape) in _sides(j.synapse):
        node = _conv(j.synapse, bias.reshape(shape[0], -1)[:, 0], shape)
        source = made.cells[j.pre]
    else:
        weight = _matrix(j)
        node = nir.Affine(weight, bias.reshape(-1)) if is_first else nir.Linear(weight)
        source = made.flat(j.pre)
    node.metadata = dict(j.metadata)
    added = made.add(name, node)
    made.edges += [(source, added), (added, post)]
    return added


def _conv(op: Conv2d, bias: Array, shape: Shape) -> Any:
    nir, g = library(), op.geometry
    weight = full_kernel(op.weight, g)
    if len(shape) == 2:
        one = (g.stride[1], g.padding[1], g.dilation[1])
        return nir.Conv1d(g.in_shape[2], np.ascontiguousarray(weight[:, :, 0]), *one, 1, bias)
    return nir.Conv2d(g.in_shape[1:], weight, g.stride, g.padding, g.dilation, 1, bias)


def full_kernel(weight: Array, g: ConvGeometry) -> Array:
    """[C_out, C_in, kH, kW] of a kernel in groups, with zeros between them."""
    if g.groups == 1:
        return weight
    full = np.zeros((g.out_shape[0], g.in_shape[0], *g.kernel), weight.dtype)
    for out, channels in group_slices(g):
        full[out, channels] = weight[out]
    return full


def group_slices(g: ConvGeometry) -> list[tuple[slice, slice]]:
    """Output and input channels of each group."""
    n_out, n_in = g.out_shape[0] // g.groups, g.in_shape[0] // g.groups
    return [(slice(k * n_out, (k + 1) * n_out), slice(k * n_in, (k + 1) * n_in)) for k in range(g.groups)]


def _matrix(j: Link) -> Array:
    op = j.synapse
    if isinstance(op, Dense):
        return op.weight
    n_in, n_out = math.prod(op.in_shape), math.prod(op.out_shape)
    if n_in * n_out > _MATRIX:
        raise DoesNotFitError(
            f"layer '{j.post}': NIR has dense layers and convolutions with square kernels and equal padding; as a "
            f"matrix the synapses from '{j.pre}' take {n_in:,} x {n_out:,} weights, neuroport writes at most "
            f"{_MATRIX:,}; use such convolutions, with one bias per channel, and average pools in place of max-pools"
        )
    found: Array = as_matrix(op).toarray()
    return found
