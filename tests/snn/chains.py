"""Random linear operators and chains of them, for property tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

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
    Shape,
    Sparse,
    as_image,
)

Image = tuple[int, int, int]


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """[C, H, W] up to [6, 8, 8], lines among them."""
    return draw(st.sampled_from([1, 2, 4, 6])), draw(st.sampled_from([1, 2, 3, 5, 8])), draw(st.integers(1, 8))


@st.composite
def axes(draw: st.DrawFn, n: int) -> tuple[int, int, int, int, int]:
    """(outputs, kernel, stride, padding, dilation) of a convolution along an axis of n, cut or padded on each side."""
    kernel, stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2]))
    span = dilation * (kernel - 1) + 1
    near = draw(st.integers(max(-2, 1 - n), 2))
    most = (n + near + 2 - span) // stride + 1
    least = -(-(near + 1 - span) // stride) + 1  # at least one number of the image is read
    n_out = draw(st.integers(max(1, least), max(1, least, most)))
    return n_out, kernel, stride, near, dilation


@st.composite
def convs(draw: st.DrawFn, shape: Image) -> Conv2d:
    y, x = draw(axes(shape[1])), draw(axes(shape[2]))
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4, 6) if shape[0] % g == 0]))
    n_out = groups * draw(st.integers(1, 2))
    weight = numbers(n_out, shape[0] // groups, y[1], x[1], seed=draw(st.integers(0, 9)))
    sides = (shape, (n_out, y[0], x[0]))
    return Conv2d(weight, ConvGeometry(*sides, (y[1], x[1]), (y[2], x[2]), (y[3], x[3]), (y[4], x[4]), groups))


@st.composite
def depthwise(draw: st.DrawFn, shape: Image) -> Conv2d:
    """An average pool, or a pointwise gain."""
    y, x = draw(axes(shape[1])), draw(axes(shape[2]))
    weight = np.full((shape[0], 1, y[1], x[1]), 1.0 / (y[1] * x[1]))
    sides = (shape, (shape[0], y[0], x[0]))
    return Conv2d(weight, ConvGeometry(*sides, (y[1], x[1]), (y[2], x[2]), (y[3], x[3]), (y[4], x[4]), shape[0]))


@st.composite
def transposed(draw: st.DrawFn, shape: Image) -> ConvTranspose2d:
    found: list[tuple[int, int, int, int, int]] = []
    for n in shape[1:]:
        kernel, stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2]))
        full = (n - 1) * stride + dilation * (kernel - 1) + 1
        cut = draw(st.integers(-1, min(2, full - 1)))
        far = draw(st.integers(-1, min(2, full - max(cut, 0) - 1)))
        found.append((full - cut - far, kernel, stride, cut, dilation))
    y, x = found
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4, 6) if shape[0] % g == 0]))
    per_group = draw(st.integers(1, 2))
    weight = numbers(shape[0], per_group, y[1], x[1], seed=draw(st.integers(0, 9)))
    sides = (shape, (groups * per_group, y[0], x[0]))
    geometry = ConvGeometry(*sides, (y[1], x[1]), (y[2], x[2]), (y[3], x[3]), (y[4], x[4]), groups)
    return ConvTranspose2d(weight, geometry)


@st.composite
def gathers(draw: st.DrawFn, shape: Image) -> Gather:
    """What graphs have: crops and pads of each side on its own, steps, flips, permutations, upsampling; and any map."""
    index = np.arange(math.prod(shape)).reshape(shape)
    kind = draw(st.sampled_from(["pad", "slice", "permute", "up", "broadcast", "place", "any"]))
    if kind == "pad":
        width = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape]
        index = np.pad(index, width, constant_values=-1)
    elif kind == "slice":
        for axis, n in enumerate(shape):
            begin, step = draw(st.integers(0, n - 1)), draw(st.sampled_from([1, 1, 2, 3]))
            index = np.take(index, range(begin, n, step), axis)
            index = np.flip(index, axis) if draw(st.integers(0, 4)) == 0 else index
    elif kind == "permute":
        index = index.transpose(draw(st.permutations([0, 1, 2])))
    elif kind == "up":
        index = index.repeat(draw(st.integers(1, 3)), 1).repeat(draw(st.integers(1, 3)), 2)
    elif kind == "broadcast":
        index = np.broadcast_to(index[:, :1, :1], (shape[0], draw(st.integers(1, 4)), draw(st.integers(1, 4))))
    elif kind == "place":
        before, behind = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        index = np.pad(index, ((before, behind), (0, 0), (0, 0)), constant_values=-1)
        index = index[draw(st.permutations(range(len(index))))]
    else:
        n_out = draw(st.integers(1, 12))
        values = draw(st.lists(st.integers(-1, index.size - 1), min_size=n_out, max_size=n_out))
        index = np.array(values, np.int64).reshape(1, 1, n_out)
    return Gather(index.reshape(-1).copy(), shape, index.shape)


@st.composite
def scales(draw: st.DrawFn, shape: Shape) -> Scale:
    kept = [draw(st.booleans()) for _ in shape]
    return Scale(numbers(*(n if k else 1 for n, k in zip(shape, kept, strict=True)), seed=3), shape)


@st.composite
def resamples(draw: st.DrawFn, shape: Image) -> Resample:
    h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return Resample(numbers(h, shape[1], seed=4), numbers(w, shape[2], seed=5), shape)


@st.composite
def matrices(draw: st.DrawFn, shape: Shape) -> Dense | Sparse:
    out: Shape = draw(st.sampled_from([(3,), (2, 1, 3), (1, 4, 4)]))
    weight = numbers(math.prod(out), math.prod(shape), seed=6)
    if draw(st.booleans()):
        return Dense(weight, shape, out)
    weight[np.abs(weight) < 0.8] = 0
    return Sparse(csr_array(weight), shape, out)


def parts(shape: Image) -> st.SearchStrategy[Part]:
    spatial: list[Any] = [convs(shape), convs(shape), depthwise(shape), transposed(shape), gathers(shape)]
    return st.one_of(*spatial, scales(shape), resamples(shape), matrices(shape))


@st.composite
def chains(draw: st.DrawFn, longest: int = 4, largest: int = 2500) -> Operator:
    """One to four parts in a row, each reading what the one before it wrote, of at most `largest` numbers."""
    shape: Image = draw(images())
    found: list[Part] = []
    for _ in range(draw(st.integers(1, longest))):
        part = draw(parts(shape))
        if math.prod(part.out_shape) > largest:
            break
        found.append(part)
        shape = as_image(part.out_shape)
    if not found:
        found.append(draw(scales(shape)))
    return found[0] if len(found) == 1 else Chain(tuple(found))
