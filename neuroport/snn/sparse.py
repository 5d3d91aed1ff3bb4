"""Any linear operator as the synapses a chip can hold: dense, a convolution, its transpose, or a sparse matrix."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array, eye_array, kron

from neuroport.errors import ConversionError
from neuroport.snn.merge import merge
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Dense,
    Gather,
    Operator,
    Part,
    Resample,
    Scale,
    Sparse,
    Synapse,
    Window,
    apply,
)

MAX_SYNAPSES = 1 << 26
_PROBES = 8  # neurons whose inputs are counted
_DENSE_FROM = 0.25  # fraction of weights that are not 0 from which a full matrix takes less room


def materialize(op: Operator, name: str = "") -> Synapse:
    """One set of synapses with the same function, as a chip needs it; `name` is the layer that errors speak of.

    Raises:
        ConversionError: more than 2^26 synapses would be needed.
    """
    merged = merge(op)
    if isinstance(merged, Synapse):
        return merged
    pairs = math.prod(op.in_shape) * math.prod(op.out_shape)
    expected = pairs if pairs <= MAX_SYNAPSES else n_connections(merged)
    if expected > MAX_SYNAPSES:
        raise ConversionError(
            f"layer '{name}': the linear layers before it, {list(op.in_shape)} to {list(op.out_shape)}, would become "
            f"{expected:,} synapses; {MAX_SYNAPSES:,} are allowed; put a ReLU between them"
        )
    matrix = as_matrix(merged)
    n_out, n_in = matrix.shape
    if matrix.nnz > _DENSE_FROM * n_in * n_out:
        return Dense(matrix.toarray(), op.in_shape, op.out_shape)
    return Sparse(matrix, op.in_shape, op.out_shape)


def n_connections(op: Operator) -> int:
    """Estimate of the synapses an operator needs: the mean number of inputs of neurons all over it, times all."""
    n_out = math.prod(op.out_shape)
    probe = torch.zeros(1, *op.in_shape, dtype=torch.float64, requires_grad=True)
    answer = apply(op, probe).reshape(-1)
    chosen = np.unique(np.linspace(0, n_out - 1, _PROBES).astype(np.int64))
    fan_in = [int((torch.autograd.grad(answer[k], probe, retain_graph=True)[0] != 0).sum()) for k in chosen.tolist()]
    return max(n_out, round(sum(fan_in) / len(fan_in) * n_out))


def as_matrix(op: Operator) -> csr_array:
    """The operator as a sparse matrix [n_out, n_in], zeros left out."""
    if isinstance(op, Chain):
        total = _part_matrix(op.parts[0])
        for part in op.parts[1:]:
            total = csr_array(_part_matrix(part) @ total)
    else:
        total = _part_matrix(op)
    total.eliminate_zeros()
    total.sort_indices()
    return total


def _part_matrix(op: Part) -> csr_array:
    match op:
        case Sparse(matrix):
            return matrix.copy()
        case Dense(weight):
            return csr_array(weight)
        case Scale(gain, shape):
            return csr_array(diags_array(np.broadcast_to(gain, shape).reshape(-1)))
        case Gather(index):
            rows = np.flatnonzero(index >= 0)
            shape = (math.prod(op.out_shape), math.prod(op.in_shape))
            return csr_array(coo_array((np.ones(len(rows)), (rows, index[rows])), shape))
        case Resample(rows, cols):
            return csr_array(kron(eye_array(op.in_shape[0]), kron(csr_array(rows), csr_array(cols))))
        case Conv2d(weight, g):
            return _conv_matrix(weight, g)
        case ConvTranspose2d(weight, g):
            back = ConvGeometry(g.out_shape, g.in_shape, g.kernel, g.stride, g.padding, g.dilation, g.groups)
            return csr_array(_conv_matrix(weight, back).T)
        case Window():
            raise TypeError("a maximum is not linear")


def _conv_matrix(weight: np.ndarray, g: ConvGeometry) -> csr_array:
    """Row by output neuron, one tap of the kernel after the other."""
    (c_out, h_out, w_out), (c_in, h_in, w_in) = g.out_shape, g.in_shape
    n_group = c_in // g.groups
    channels = (np.arange(c_out) // (c_out // g.groups))[:, None] * n_group + np.arange(n_group)[None, :]
    rows, columns, values = [], [], []
    for i, j in product(range(g.kernel[0]), range(g.kernel[1])):
        y = np.arange(h_out) * g.stride[0] + i * g.dilation[0] - g.padding[0]
        x = np.arange(w_out) * g.stride[1] + j * g.dilation[1] - g.padding[1]
        at_y, at_x = np.flatnonzero((y >= 0) & (y < h_in)), np.flatnonzero((x >= 0) & (x < w_in))
        out = (np.arange(c_out)[:, None, None, None] * h_out + at_y[None, None, :, None]) * w_out + at_x
        into = (channels[:, :, None, None] * h_in + y[at_y][None, None, :, None]) * w_in + x[at_x]
        full = np.broadcast_shapes(out.shape, into.shape)
        rows.append(np.broadcast_to(out, full).reshape(-1))
        columns.append(np.broadcast_to(into, full).reshape(-1))
        values.append(np.broadcast_to(weight[:, :, i, j][:, :, None, None], full).reshape(-1))
    shape = (math.prod(g.out_shape), math.prod(g.in_shape))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return csr_array(coo_array(entries, shape))
