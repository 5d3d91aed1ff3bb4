"""Operators that only move numbers: views, slices, pads, permutations, shuffles, nearest upsampling.

None of them is written again here. The operator itself runs on a tensor that holds the number of each element, and
what comes out is the index of a Gather: exactly torch's own meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from neuroport.ann.torch_program.calls import (
    Activation,
    Call,
    Fixed,
    Several,
    Size,
    Unread,
    Value,
    as_array,
    unsupported,
)

Indices = list[NDArray[np.int64]]


def relabel(call: Call) -> Value:
    """The numbers the operator picks from its first argument, for one result or several."""
    return _gathered(call, lambda trial: call.run(trial, lambda a, batch: _numbered(call, a, batch)))


def pad(call: Call) -> Value:
    """A border: zeros, another constant, or numbers of the image."""
    margins, mode = call.ints("pad"), call.args.get("mode", "constant")
    value = call.scalar("value", 0.0)

    def run(trial: int) -> torch.Tensor:
        x = _numbered(call, Activation(call.x), call.batch.tried[trial])
        return F.pad(x, margins, mode) if mode != "constant" else F.pad(x, margins)

    found = _gathered(call, run)
    if value == 0 or not isinstance(found, Activation):
        return found
    holes = run(0)[0].numpy() == 0
    return Activation(call.write.affine(found.name, None, np.where(holes, value, 0.0)))


def roll(call: Call) -> Value:
    """Numbers moved around the end of an axis of the sample; the batch axis only looks unmoved at some sizes."""
    for axis in call.ints("dims"):
        call.axis(axis)
    return relabel(call)


def spread(call: Call) -> Value:
    """A tensor made from sizes and constants alone: a constant of the network, where every sample gets the same."""
    made = [
        call.run(trial, lambda a, batch: torch.empty(batch, *call.write.shape(a.name)))
        for trial in range(len(call.batch.tried))
    ]
    shape = tuple(call.node.meta["val"].shape)
    if all(isinstance(n, int) for n in shape):
        is_same = all(torch.equal(made[0], other) for other in made[1:])
        return Fixed(made[0]) if is_same else Unread(unsupported(call.node, call.origin))
    rows = [row for tensor in made for row in tensor]
    if not call.batch.leads(shape) or not all(torch.equal(rows[0], row) for row in rows[1:]):
        return Unread(unsupported(call.node, call.origin))
    return Activation(call.write.constant(as_array(rows[0])))


def shape_arithmetic(call: Call) -> Value:
    """A number computed from sizes, for each batch size tried."""

    def run(trial: int) -> Any:
        return call.run(trial, lambda a, batch: torch.empty(batch, *call.write.shape(a.name), device="meta"))

    return Size(tuple(run(trial) for trial in range(len(call.batch.tried))))


def _numbered(call: Call, value: Activation, batch: int) -> torch.Tensor:
    """Element numbers from 1 on for the first argument; any other only lends its shape."""
    shape = (batch, *call.write.shape(value.name))
    if value.name != call.x:
        return torch.zeros(shape, dtype=torch.float64)
    return torch.arange(1, int(np.prod(shape)) + 1, dtype=torch.float64).reshape(shape)


def _gathered(call: Call, run: Callable[[int], Any]) -> Value:
    x = call.x
    indices: Indices = []
    is_list = False
    for trial, batch in enumerate(call.batch.tried):
        made = run(trial)
        is_list = not isinstance(made, torch.Tensor)
        again = [_sample_index(call, result, batch) for result in (made if is_list else [made])]
        if trial and not all(map(np.array_equal, indices, again)):
            raise call.moved("what a sample becomes depends on how many there are")
        indices = again
    names = tuple(Activation(call.write.gather(x, index)) for index in indices)
    return Several(names) if is_list else names[0]


def _sample_index(call: Call, made: torch.Tensor, batch: int) -> NDArray[np.int64]:
    """Where in its own sample each number comes from, -1 for 0; the same for every sample."""
    if made.ndim == 0 or len(made) != batch:
        raise call.moved(f"{batch} samples become the shape {list(made.shape)}")
    numbers = made.contiguous().numpy().astype(np.int64)
    size = int(np.prod(call.shape))
    first = np.arange(batch).reshape(-1, *(1,) * (numbers.ndim - 1)) * size
    index = np.where(numbers == 0, -1, numbers - 1 - first)
    if not ((index[0] >= -1) & (index[0] < size)).all() or not (index == index[:1]).all():
        raise call.moved("a sample reads another's numbers")
    found: NDArray[np.int64] = index[0]
    return found


# Whatever these do to a batch they do by moving numbers alone.
_MOVES = (
    "view reshape _unsafe_view flatten unflatten ravel permute transpose t T mT numpy_T swapaxes swapdims movedim "
    "moveaxis squeeze unsqueeze expand expand_as broadcast_to view_as reshape_as repeat tile repeat_interleave "
    "slice select narrow index_select index flip fliplr flipud rot90 split split_with_sizes unsafe_split "
    "unsafe_split_with_sizes chunk unsafe_chunk unbind tensor_split hsplit vsplit dsplit diagonal unfold im2col "
    "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle pixel_unshuffle "
    "channel_shuffle native_channel_shuffle upsample_nearest1d upsample_nearest2d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d atleast_2d tril triu"
)
_FILLS = "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full"

VIEWS: Mapping[str, Callable[[Call], Value]] = {
    **{f"aten.{name}": relabel for name in _MOVES.split()},
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
    "aten.roll": roll,
}
FILLS: frozenset[str] = frozenset(f"aten.{name}" for name in _FILLS.split())
