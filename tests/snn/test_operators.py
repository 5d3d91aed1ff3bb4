"""Linear operators against plain loops, against torch, and as matrices; rescaled between normalized populations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuroport.ann.graph import MaxPool2d
from neuroport.snn.merge import scale
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Gather,
    Operator,
    Part,
    Resample,
    Scale,
    Sparse,
    Window,
    apply,
    as_image,
    conv_geometry,
    prepared,
)
from neuroport.snn.sparse import as_matrix
from tests.snn.chains import chains, convs, images, numbers, parts, transposed

Array = NDArray[np.float64]


def applied(op: Operator, x: Array) -> Array:
    """The operator on one sample."""
    y = apply(op, torch.from_numpy(x)[None])
    assert y.dtype == torch.float64
    return y[0].numpy()


def conv_oracle(op: Conv2d | ConvTranspose2d, x: Array) -> Array:
    """Every synapse by itself: (from, to, weight), wherever both ends are inside."""
    g = op.geometry
    y = np.zeros(g.out_shape)
    is_up = isinstance(op, ConvTranspose2d)
    many, few = (g.in_shape, g.out_shape) if is_up else (g.out_shape, g.in_shape)  # each of `many` has a kernel
    per_group, kernels_per_group = op.weight.shape[1], many[0] // g.groups
    for c, row, col in product(*map(range, many)):
        for k, i, j in product(*map(range, op.weight.shape[1:])):
            other = c // kernels_per_group * per_group + k
            r = row * g.stride[0] + i * g.dilation[0] - g.padding[0]
            s = col * g.stride[1] + j * g.dilation[1] - g.padding[1]
            if not (0 <= r < few[1] and 0 <= s < few[2]):
                continue
            if is_up:
                y[other, r, s] += op.weight[c, k, i, j] * x[c, row, col]
            else:
                y[c, row, col] += op.weight[c, k, i, j] * x[other, r, s]
    return y


def oracle(op: Part, x: Array) -> Array:
    match op:
        case Conv2d() | ConvTranspose2d():
            return conv_oracle(op, x)
        case Dense(weight):
            return np.array([sum(w * v for w, v in zip(row, x.reshape(-1), strict=True)) for row in weight])
        case Sparse(matrix):
            return matrix.toarray() @ x.reshape(-1)
        case Scale(gain):
            return x * gain
        case Gather(index):
            return np.array([0.0 if k < 0 else x.reshape(-1)[k] for k in index])
        case Resample(rows, cols):
            return np.einsum("ph,chw,qw->cpq", rows, x, cols)
    raise TypeError(op)


@settings(max_examples=150)
@given(data=st.data(), shape=images())
def test_every_operator_is_what_plain_loops_compute(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    op = data.draw(parts(shape))
    x = numbers(*op.in_shape, seed=1)
    found = applied(op, x)
    assert found.shape == op.out_shape
    expected = oracle(op, x).reshape(op.out_shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * max(1.0, np.abs(expected).max()))
    np.testing.assert_array_equal(found, applied(op, x.reshape(-1)))  # any shape of as many numbers


@settings(max_examples=150)
@given(op=chains())
def test_the_matrix_of_a_chain_is_its_function_and_holds_no_zeros(op: Operator) -> None:
    matrix = as_matrix(op)
    assert matrix.shape == (math.prod(op.out_shape), math.prod(op.in_shape))
    assert (matrix.data != 0).all()
    x = numbers(*op.in_shape, seed=1)
    y = x
    for part in op.parts if isinstance(op, Chain) else (op,):
        y = oracle(part, y.reshape(part.in_shape)).reshape(part.out_shape)
    np.testing.assert_allclose(matrix @ x.reshape(-1), y.reshape(-1), rtol=0, atol=1e-12 * max(1.0, np.abs(y).max()))
    assert applied(op, x).shape == op.out_shape


def test_a_window_is_a_max_pool_and_no_matrix() -> None:
    pool = MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True)
    x = torch.from_numpy(numbers(2, 3, 6, 7))
    expected = F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True)
    window = Window(pool, (3, 6, 7), tuple(expected.shape[1:]))
    assert torch.equal(apply(window, x), expected)
    with pytest.raises(TypeError, match="a maximum is not linear"):
        as_matrix(window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_has_the_precision_of_the_input(dtype: torch.dtype) -> None:
    """As in torch itself, to the bit: the simulator's float32 is not a float64 in disguise."""
    x = torch.from_numpy(numbers(2, 2, 5, 6)).to(dtype)
    conv = Conv2d(numbers(4, 1, 3, 2), conv_geometry((2, 5, 6), (4, 1, 3, 2), (2, 1), (1, 1), (1, 2), 2))
    weight = torch.from_numpy(conv.weight).to(dtype)
    assert torch.equal(apply(conv, x), F.conv2d(x, weight, None, (2, 1), (1, 1), (1, 2), 2))
    dense = Dense(numbers(3, 60), (2, 5, 6), (3,))
    assert torch.equal(apply(dense, x), F.linear(x.flatten(1), torch.from_numpy(dense.weight).to(dtype)))


@given(op=chains(), n=st.integers(1, 3))
def test_a_prepared_operator_is_used_again_and_again(op: Operator, n: int) -> None:
    """The same bits as each time anew, in memory that belongs neither to the input nor to an answer before."""
    for dtype in (torch.float32, torch.float64):
        function = prepared(op, dtype)
        x = torch.from_numpy(numbers(n, *op.in_shape, seed=1)).to(dtype)
        before, first = x.clone(), function(x)
        expected = first.clone()
        assert first.dtype == dtype
        assert first.shape == (n, *op.out_shape)
        first.fill_(3)
        assert torch.equal(x, before)
        assert torch.equal(function(x), expected)
        assert torch.equal(apply(op, x), expected)


@given(data=st.data(), shape=images())
def test_images_may_lie_channels_last(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    """Numbers in eighths, of which all sums are exact."""
    op: Any = data.draw(parts(shape))
    if hasattr(op, "weight"):
        op = replace(op, weight=np.rint(op.weight * 8) / 8)
    x = torch.from_numpy(np.rint(numbers(2, *shape, seed=1) * 8) / 8).float()
    last = x.contiguous(memory_format=torch.channels_last)
    found, expected = apply(op, last), apply(op, x)
    if isinstance(op, Conv2d | ConvTranspose2d | Dense | Gather | Scale):
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_geometry_says_whether_both_sides_can_be_padded_alike() -> None:
    """What is padded beyond the last place of the kernel is never read."""
    one = conv_geometry((2, 8, 8), (2, 1, 1, 1), (1, 1), (0, 0), (1, 1), 2)
    assert one.is_pointwise
    assert one.has_equal_padding
    strided = conv_geometry((2, 8, 8), (2, 1, 1, 1), (2, 2), (0, 0), (1, 1), 2)
    assert strided.far_padding == (-1, -1)
    assert strided.has_equal_padding
    assert not strided.is_pointwise
    assert not replace(one, padding=(1, 1), out_shape=(2, 10, 10)).is_pointwise
    assert not replace(one, out_shape=(2, 7, 8)).has_equal_padding
    assert not replace(one, padding=(-1, 0), out_shape=(2, 6, 8)).has_equal_padding
    assert not replace(one, kernel=(3, 3), padding=(1, 1), out_shape=(2, 8, 9)).has_equal_padding
    assert replace(one, kernel=(3, 3), padding=(1, 1)).has_equal_padding


def test_geometry_says_how_far_the_kernel_reaches() -> None:
    g = conv_geometry((2, 7, 6), (4, 2, 3, 2), (2, 3), (1, 0), (1, 2), 1)
    assert (g.in_shape, g.out_shape, g.span) == ((2, 7, 6), (4, 4, 2), (3, 3))
    assert g.far_padding == (1, 0)
    assert conv_geometry((2, 8, 8), (2, 1, 3, 3), (2, 2), (1, 1), (1, 1), 2).far_padding == (0, 0)
    assert conv_geometry((2, 8, 8), (2, 1, 3, 3), (2, 2), (1, 1), (1, 1), 2).is_depthwise
    assert not conv_geometry((2, 8, 8), (4, 1, 3, 3), (2, 2), (1, 1), (1, 1), 2).is_depthwise
    assert [as_image(s) for s in ((5,), (5, 6), (5, 6, 7), (5, 6, 7, 8))] == [
        (5, 1, 1),
        (5, 1, 6),
        (5, 6, 7),
        (5, 6, 56),
    ]


def test_a_kernel_far_from_the_image_reads_zeros() -> None:
    """More may be cut off than is there: paddings add up where convolutions join."""
    x = np.array([[[2.0]]])
    near = Conv2d(np.ones((1, 1, 1, 1)), conv_geometry((1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 4), (1, 1), 1))
    assert applied(near, x).tolist() == [[[0, 0, 0, 0, 2.0, 0, 0, 0, 0]]]
    first = Conv2d(near.weight, near.geometry.__class__((1, 1, 1), (1, 1, 3), (1, 1), padding=(0, 4)))
    assert applied(first, x).tolist() == [[[0, 0, 0]]]
    up = ConvTranspose2d(near.weight, near.geometry.__class__((1, 1, 1), (1, 1, 3), (1, 1), padding=(0, 4)))
    assert applied(up, x).tolist() == [[[0, 0, 0]]]
    assert as_matrix(first).nnz == as_matrix(up).nnz == 0


# --- scales of normalized populations


def lambdas(n: int) -> Array:
    """All different, over three decades."""
    return 10.0 ** np.random.default_rng(n).uniform(-1, 2, n)


def assert_scales(op: Operator, lambda_in: Array, lambda_out: Array) -> None:
    """scaled(x / lambda_in) = op(x) / lambda_out, with lambdas per channel of both populations."""
    x = numbers(*op.in_shape, seed=1)
    scaled = scale(op, lambda_in=lambda_in, lambda_out=lambda_out)
    expected = applied(op, x).reshape(len(lambda_out), -1) / lambda_out.reshape(len(lambda_out), -1)
    rates = x.reshape(len(lambda_in), -1) / lambda_in.reshape(len(lambda_in), -1)
    found = applied(scaled, rates.reshape(op.in_shape)).reshape(expected.shape)
    # each number loses a few eps to the scales, and each sum as many as it has terms; scales span three decades
    largest = applied(_magnitude(op), np.abs(x)).reshape(len(lambda_out), -1).max(1, keepdims=True)
    assert (np.abs(found - expected) <= 1e-12 * (1 + largest) / lambda_out.reshape(len(lambda_out), -1)).all()


def _magnitude(op: Operator) -> Operator:
    """The operator with the magnitudes of its weights: what rounding is relative to."""
    matrix = as_matrix(op)
    return Sparse(abs(matrix), op.in_shape, op.out_shape)


@given(data=st.data(), shape=images())
def test_scaling_weights_is_scaling_inputs_and_outputs(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    op: Any = data.draw(st.one_of(convs(shape), transposed(shape)))
    assert_scales(op, lambdas(shape[0]), lambdas(op.out_shape[0]))
    assert_scales(op, lambdas(1), lambdas(1))
    assert isinstance(scale(op, lambda_in=lambdas(shape[0]), lambda_out=lambdas(op.out_shape[0])), type(op))


@given(op=chains())
def test_a_scaled_chain_is_the_chain_between_scales(op: Operator) -> None:
    assert_scales(op, lambdas(op.in_shape[0]), lambdas(op.out_shape[0]))


def test_scaling_dense_operators_per_neuron_and_behind_a_flatten_per_channel() -> None:
    assert_scales(Dense(numbers(3, 7), (7,), (3,)), lambdas(7), lambdas(3))
    assert_scales(Dense(numbers(3, 4 * 6), (4, 2, 3), (3,)), lambdas(4), lambdas(3))
    assert_scales(Dense(numbers(2 * 9, 5), (5,), (2, 3, 3)), lambdas(5), lambdas(2))


def test_scales_of_every_neuron_follow_the_neurons() -> None:
    """A population seen under another shape: one number for each neuron, as numpy arrays of the read shape."""
    conv = Conv2d(numbers(2, 4, 2, 2), conv_geometry((4, 3, 3), (2, 4, 2, 2), (1, 1), (0, 0), (1, 1), 1))
    each = np.exp(numbers(4, 3, 3, seed=2))
    scaled = scale(conv, lambda_in=each, lambda_out=np.ones(1))
    x = numbers(4, 3, 3, seed=3)
    np.testing.assert_allclose(applied(scaled, x / each), applied(conv, x), rtol=1e-12, atol=1e-12)
    by_channel = np.broadcast_to(np.exp(numbers(4, 1, 1)), (4, 3, 3))
    assert isinstance(scale(conv, lambda_in=by_channel, lambda_out=np.ones(1)), Conv2d)
    assert isinstance(scaled, Chain)
