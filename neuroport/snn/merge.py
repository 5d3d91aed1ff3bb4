"""Condenses a chain of linear operators as far as their structure allows, without ever multiplying it out.

Scales go into the weights beside them, index maps become pointwise convolutions or upsampling where they are such,
neighbouring convolutions join. What is left over stays a chain; `neuroport.snn.sparse` multiplies it out for a chip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from neuroport.ann.graph import FloatArray
from neuroport.snn.compose import add_convs, compose_conv_up, compose_convs, compose_up, compose_ups
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Dense,
    Gather,
    Image,
    Operator,
    Part,
    Scale,
    Shape,
    Sparse,
    apply,
    as_image,
)

_MAX_DENSE = 1 << 26
_MAX_PICKED = 1 << 16  # pairs of features up to which picking some of them is written as a matrix


def merge(op: Operator) -> Operator:
    """The same function in as few parts as its structure allows."""
    parts = list(op.parts) if isinstance(op, Chain) else [op]
    parts = [_structured(p) for p in parts]
    k = 0
    while k + 1 < len(parts):
        joined = _join(parts[k], parts[k + 1])
        if joined is None:
            k += 1
            continue
        parts[k : k + 2] = [_structured(p) for p in joined]
        k = max(0, k - 1)
    parts = [p for p in parts if not _is_identity(p)] or parts[:1]
    if len(parts) > 1:
        return Chain(tuple(parts))
    only = parts[0]
    if isinstance(only, Scale):
        return _scaled_output(identity(only.in_shape), only) or only
    return only


def scale(op: Operator, *, lambda_in: FloatArray, lambda_out: FloatArray) -> Operator:
    """The operator between normalized populations: weight * lambda_in / lambda_out.

    lambda_in: shape of, or broadcast against, what the operator reads; lambda_out: of what it writes.
    Source: Rueckauer et al. 2016, section 3.2.1; Mueller et al. 2021, eq. 2.
    """
    parts = op.parts if isinstance(op, Chain) else (op,)
    before = Scale(lambda_in.reshape(_aligned(lambda_in, op.in_shape)), op.in_shape)
    after = Scale(1.0 / lambda_out.reshape(_aligned(lambda_out, op.out_shape)), op.out_shape)
    return merge(Chain((before, *parts, after)))


def add(operators: Sequence[Operator]) -> list[Operator]:
    """Operators of one pre- and post-synaptic population, those that can be summed as one."""
    found: list[Operator] = []
    for op in operators:
        for k, other in enumerate(found):
            total = _sum(other, op)
            if total is not None:
                found[k] = total
                break
        else:
            found.append(op)
    return found


def _sum(a: Operator, b: Operator) -> Operator | None:
    if isinstance(a, Dense) and isinstance(b, Dense):
        return replace(a, weight=a.weight + b.weight)
    if isinstance(a, Conv2d) and isinstance(b, Conv2d):
        return add_convs(a, b)
    if isinstance(a, Sparse) and isinstance(b, Sparse):
        return replace(a, matrix=a.matrix + b.matrix)
    return None


def identity(shape: Shape) -> Conv2d:
    """The operator that changes nothing."""
    image = as_image(shape)
    return Conv2d(np.ones((image[0], 1, 1, 1)), ConvGeometry(image, image, (1, 1), groups=image[0]))


def is_zero(op: Operator) -> bool:
    """Whether a condensed operator surely writes nothing but zeros."""
    if isinstance(op, Dense | Conv2d | ConvTranspose2d):
        return not op.weight.any()
    if isinstance(op, Sparse):
        return not op.matrix.data.any()
    if isinstance(op, Gather):
        return bool((op.index < 0).all())
    if isinstance(op, Scale):
        return not op.gain.any()
    return isinstance(op, Chain) and any(is_zero(part) for part in op.parts)


def _aligned(values: FloatArray, shape: Shape) -> Shape:
    """`values` per channel [C] as [C, 1, ...] for a shape; values of the shape itself as they are."""
    if values.size == 1:
        return (1,) * len(shape)
    if values.ndim == 1 and len(shape) > 1:
        return (len(values),) + (1,) * (len(shape) - 1)
    return values.shape


def _structured(p: Part) -> Part:
    """An index map as a convolution where it is one."""
    if isinstance(p, Gather):
        return _pointwise(p) or _upsampling(p) or p
    return p


def _is_identity(p: Part) -> bool:
    if isinstance(p, Scale):
        return bool((p.gain == 1).all())
    if isinstance(p, Gather):
        return np.array_equal(p.index, np.arange(int(np.prod(p.in_shape))))
    if isinstance(p, Conv2d):
        g = p.geometry
        same = g.in_shape == g.out_shape and g.is_depthwise and g.kernel == (1, 1) == g.stride
        return same and g.padding == (0, 0) and bool((p.weight == 1).all())
    return False


def _join(a: Part, b: Part) -> tuple[Part, ...] | None:
    """Two neighbours as fewer or simpler parts, None where they stay."""
    if _is_identity(a) and int(np.prod(b.in_shape)) == int(np.prod(a.out_shape)):
        return (b,)
    if _is_identity(b):
        return (a,)
    if isinstance(a, Scale):
        made = _scaled_input(a, b)
    elif isinstance(b, Scale):
        made = _scaled_output(a, b)
    else:
        made = _composed(a, b)
    return None if made is None else (made,)


def _composed(a: Part, b: Part) -> Part | None:
    match a, b:
        case Gather(), Gather():
            index = np.concatenate([a.index, [-1]])[b.index]  # -1 reads the last
            return Gather(index, a.in_shape, b.out_shape)
        case Conv2d(), Conv2d():
            return compose_convs(a, b)
        case ConvTranspose2d(), Conv2d():
            return compose_up(a, b)
        case Conv2d(), ConvTranspose2d():
            return compose_conv_up(a, b)
        case ConvTranspose2d(), ConvTranspose2d():
            return compose_ups(a, b)
        case _, Dense():
            return _dense_behind(a, b)
        case Dense(), _:
            if a.weight.shape[1] * int(np.prod(b.out_shape)) > _MAX_DENSE:
                return None
            columns = apply(b, torch.from_numpy(np.ascontiguousarray(a.weight.T)))
            weight = columns.reshape(a.weight.shape[1], -1).numpy().T
            return Dense(np.ascontiguousarray(weight), a.in_shape, b.out_shape)
    return None


def _dense_behind(a: Part, b: Dense) -> Dense | None:
    """A matrix behind a linear operator: each row goes backwards through it."""
    n_in, n_out = int(np.prod(a.in_shape)), len(b.weight)
    if n_in * n_out > _MAX_DENSE:
        return None
    if isinstance(a, Dense):
        return Dense(b.weight @ a.weight, a.in_shape, b.out_shape)
    if isinstance(a, Sparse):
        return Dense(np.ascontiguousarray((a.matrix.T @ b.weight.T).T), a.in_shape, b.out_shape)
    rows = []
    for start in range(0, n_out, 256):
        chunk = torch.from_numpy(b.weight[start : start + 256])
        with torch.enable_grad():  # the caller may have switched it off
            probe = torch.zeros(1, *a.in_shape, dtype=torch.float64, requires_grad=True)
            image = apply(a, probe).reshape(-1)
            (back,) = torch.autograd.grad(image, probe, chunk, is_grads_batched=True)
        rows.append(back.reshape(len(chunk), n_in).numpy())
    return Dense(np.concatenate(rows), a.in_shape, b.out_shape)


def _per_channel(gain: FloatArray, shape: Shape, read_as: Shape) -> FloatArray | None:
    """One gain per channel of the image `read_as`, None where a channel has several."""
    if gain.size == 1:
        return np.full(read_as[0], gain.reshape(-1)[0])
    full = np.broadcast_to(gain, shape).reshape(read_as[0], -1)
    return full[:, 0].copy() if (full == full[:, :1]).all() else None


def _scaled_input(a: Scale, b: Part) -> Part | None:
    if isinstance(b, Scale):
        return _scales(a, b)
    if isinstance(b, Dense):
        return replace(b, weight=b.weight * np.broadcast_to(a.gain, a.in_shape).reshape(1, -1))
    if isinstance(b, Sparse):
        return replace(b, matrix=b.matrix.multiply(np.broadcast_to(a.gain, a.in_shape).reshape(1, -1)).tocsr())
    if not isinstance(b, Conv2d | ConvTranspose2d):
        return None
    gain = _per_channel(a.gain, a.in_shape, b.in_shape)
    if gain is None:
        return None
    if isinstance(b, ConvTranspose2d):
        return replace(b, weight=b.weight * gain[:, None, None, None])
    per_group = b.weight.shape[1]
    group = np.arange(len(b.weight)) // (len(b.weight) // b.geometry.groups)
    columns = gain[group[:, None] * per_group + np.arange(per_group)[None, :]]
    return replace(b, weight=b.weight * columns[:, :, None, None])


def _scaled_output(a: Part, b: Scale) -> Part | None:
    if isinstance(a, Dense):
        return replace(a, weight=a.weight * np.broadcast_to(b.gain, b.in_shape).reshape(-1, 1), out_shape=b.in_shape)
    if isinstance(a, Sparse):
        return replace(a, matrix=a.matrix.multiply(np.broadcast_to(b.gain, b.in_shape).reshape(-1, 1)).tocsr())
    if not isinstance(a, Conv2d | ConvTranspose2d):
        return None
    gain = _per_channel(b.gain, b.in_shape, a.out_shape)
    if gain is None:
        return None
    if isinstance(a, Conv2d):
        return replace(a, weight=a.weight * gain[:, None, None, None])
    per_group = a.weight.shape[1]
    group = np.arange(len(a.weight)) // (len(a.weight) // a.geometry.groups)
    rows = gain[group[:, None] * per_group + np.arange(per_group)[None, :]]
    return replace(a, weight=a.weight * rows[:, :, None, None])


def _scales(a: Scale, b: Scale) -> Scale:
    if b.gain.size == 1 or a.in_shape == b.in_shape:
        return Scale(a.gain * (b.gain if a.in_shape == b.in_shape else b.gain.reshape(-1)[0]), a.in_shape)
    full = np.broadcast_to(a.gain, a.in_shape).reshape(b.in_shape) * b.gain
    return Scale(full.reshape(a.in_shape), a.in_shape)


def _pointwise(p: Gather) -> Conv2d | None:
    """The map as a 1x1 convolution that picks channels, rows and columns at equal steps, zeros around; or None."""
    for fold in (as_image, _stacked):
        image, out = fold(p.in_shape), fold(p.out_shape)
        found = _picking(p, image, out)
        if found is not None:
            return found
    return None


def _stacked(shape: Shape) -> Image:
    """The shape as [C, H, W] with the leading axes joined: grouped channels, as a channel shuffle has them."""
    if len(shape) <= len(as_image(shape)):
        return as_image(shape)
    return (int(np.prod(shape[:-2])), shape[-2], shape[-1])


def _picking(p: Gather, image: Image, out: Image) -> Conv2d | None:
    c_in, h_in, w_in = image
    index = p.index.reshape(out)
    valid = index >= 0
    if not valid.any():
        return None
    c, y, x = np.unravel_index(np.maximum(index, 0), (c_in, h_in, w_in))
    channel = np.where(valid.any((1, 2)), np.where(valid, c, -1).max((1, 2)), -1)
    step_y, first_y = _steps(np.where(valid, y, -1).max((0, 2)))
    step_x, first_x = _steps(np.where(valid, x, -1).max((0, 1)))
    if step_y < 1 or step_x < 1:
        return None
    at_y, at_x = np.arange(out[1]) * step_y + first_y, np.arange(out[2]) * step_x + first_x
    inside = ((at_y >= 0) & (at_y < h_in))[:, None] & ((at_x >= 0) & (at_x < w_in))[None, :]
    place = (channel[:, None, None] * h_in + at_y[:, None]) * w_in + at_x
    if not np.array_equal(np.where(inside & (channel >= 0)[:, None, None], place, -1), index):
        return None
    is_straight = np.array_equal(channel, np.arange(c_in))
    if is_straight:
        weight, groups = np.ones((c_in, 1, 1, 1)), c_in
    elif len(channel) * c_in > (_MAX_DENSE if h_in * w_in > 1 else _MAX_PICKED):
        return None
    else:
        weight, groups = np.zeros((len(channel), c_in, 1, 1)), 1
        weight[np.flatnonzero(channel >= 0), channel[channel >= 0]] = 1.0
    padding = (-first_y, -first_x)
    return Conv2d(weight, ConvGeometry((c_in, h_in, w_in), out, (1, 1), (step_y, step_x), padding, (1, 1), groups))


def _steps(values: np.ndarray) -> tuple[int, int]:
    """(step, value at 0) of a sequence that grows evenly where it is not -1; step 0 if it does not."""
    at = np.flatnonzero(values >= 0)
    step = 1 if len(at) == 1 else int(values[at[1]] - values[at[0]]) // int(at[1] - at[0])
    return step, int(values[at[0]] - step * at[0])


def _upsampling(p: Gather) -> ConvTranspose2d | None:
    """Each pixel repeated in a block (nearest upsampling) as a transposed convolution with ones; or None."""
    image, out = as_image(p.in_shape), as_image(p.out_shape)
    c, h, w = image
    if out[0] != c or out[1] % h or out[2] % w or out == image:
        return None
    block = (out[1] // h, out[2] // w)
    index = np.arange(c * h * w).reshape(image).repeat(block[0], 1).repeat(block[1], 2)
    if not np.array_equal(index.reshape(-1), p.index):
        return None
    return ConvTranspose2d(np.ones((c, 1, *block)), ConvGeometry(image, out, block, block, groups=c))
