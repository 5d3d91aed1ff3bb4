"""Linear operators: merged and rescaled ones equal the chains they stand for, at every border."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import AvgPool2d
from neuroport.errors import ConversionError
from neuroport.snn import operators
from neuroport.snn.operators import Chain, Conv2d, Dense, Operator, Pool, apply, conv_geometry, merge, scale

Shape3 = tuple[int, int, int]


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def inputs(op: Operator, n: int = 4) -> torch.Tensor:
    return torch.from_numpy(random(n, *op.in_shape, seed=1))


def make_pool(op: AvgPool2d, in_shape: Shape3) -> Pool:
    out = F.avg_pool2d(torch.zeros(1, *in_shape), op.kernel, op.stride, op.padding, op.ceil_mode)
    return Pool(op, in_shape, tuple(out.shape[1:]))


def make_conv(in_shape: Shape3, n_out: int, kernel: tuple[int, int], **options: Any) -> Conv2d:
    geometry = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **options}
    weight = random(n_out, in_shape[0] // geometry["groups"], *kernel)
    return Conv2d(weight, conv_geometry(in_shape, weight.shape, **geometry))


def assert_equal(op: Operator, other: Operator) -> None:
    """Same shapes, same function: float64 sums of some hundred products near 1, so 1e-12 holds with room."""
    assert math.prod(op.in_shape) == math.prod(other.in_shape)
    assert op.out_shape == other.out_shape
    x = inputs(op)
    expected = apply(op, x)
    assert (apply(other, x) - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def images(draw: st.DrawFn) -> Shape3:
    return draw(st.sampled_from([1, 2, 4])), draw(st.integers(3, 9)), draw(st.integers(3, 9))


@st.composite
def pools(draw: st.DrawFn, in_shape: Shape3) -> Pool:
    kernel = draw(st.tuples(*(st.integers(1, min(3, n)) for n in in_shape[1:])))
    op = AvgPool2d(
        kernel,
        draw(st.one_of(st.just(kernel), pairs)),
        (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from([None, None, 3])),
    )
    return make_pool(op, in_shape)


@st.composite
def convs(draw: st.DrawFn, in_shape: Shape3) -> Conv2d:
    kernel, dilation = draw(pairs), draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    for k in (0, 1):
        assume(in_shape[1 + k] + 2 * padding[k] >= dilation[k] * (kernel[k] - 1) + 1)
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if in_shape[0] % g == 0]))
    n_out = groups * draw(st.integers(1, 2))
    return make_conv(in_shape, n_out, kernel, stride=draw(pairs), padding=padding, dilation=dilation, groups=groups)


@given(data=st.data(), shape=images())
def test_apply_is_what_torch_computes(data: st.DataObject, shape: Shape3) -> None:
    conv = data.draw(convs(shape))
    g, x = conv.geometry, inputs(conv)
    expected = F.conv2d(x, torch.from_numpy(conv.weight), None, g.stride, g.padding, g.dilation, g.groups)
    assert conv.out_shape == tuple(expected.shape[1:])
    assert torch.equal(apply(conv, x), expected)
    assert torch.equal(apply(conv, x.flatten(1)), expected)
    pool = data.draw(pools(shape))
    o = pool.op
    module = torch.nn.AvgPool2d(o.kernel, o.stride, o.padding, o.ceil_mode, o.count_include_pad, o.divisor)
    assert torch.equal(apply(pool, x), module(x))
    dense = Dense(random(5, math.prod(shape)), shape, (5,))
    assert torch.equal(apply(dense, x), x.flatten(1) @ torch.from_numpy(dense.weight).T)
    assert torch.equal(
        apply(Chain((conv, Dense(random(2, math.prod(conv.out_shape)), conv.out_shape, (2,)))), x),
        apply(Dense(random(2, math.prod(conv.out_shape)), conv.out_shape, (2,)), expected),
    )


@given(data=st.data(), shape=images())
def test_a_pool_alone_merges_to_synapses(data: st.DataObject, shape: Shape3) -> None:
    pool = data.draw(pools(shape))
    assert_equal(pool, merge(pool))


@settings(max_examples=200)
@given(data=st.data(), shape=images())
def test_a_pool_and_a_convolution_merge(data: st.DataObject, shape: Shape3) -> None:
    pool = data.draw(pools(shape))
    chain = Chain((pool, data.draw(convs(pool.out_shape))))  # type: ignore[arg-type]
    assert_equal(chain, merge(chain))


@given(data=st.data(), shape=images())
def test_longer_chains_merge(data: st.DataObject, shape: Shape3) -> None:
    first: Any = data.draw(st.one_of(convs(shape), pools(shape)))
    second: Any = data.draw(st.one_of(convs(first.out_shape), pools(first.out_shape)))
    n = math.prod(second.out_shape)
    for parts in ((first, second), (first, second, Dense(random(3, n), second.out_shape, (3,)))):
        assert_equal(Chain(parts), merge(Chain(parts)))


def test_a_dense_layer_between_images_merges() -> None:
    dense = Dense(random(2 * 9, 5), (5,), (2 * 9,))
    conv = make_conv((2, 3, 3), 4, (2, 2))
    assert_equal(Chain((dense, conv)), merge(Chain((dense, conv))))
    both = Chain((dense, Dense(random(3, 18), (18,), (3,)), Dense(random(2, 3), (3,), (2,))))
    assert_equal(both, merge(both))


def test_what_merges_to_a_convolution_and_what_must_become_dense() -> None:
    """A chip holds one kernel instead of a matrix, so the convolution must be found where there is one."""
    tile, overlapping = AvgPool2d((2, 2), (2, 2)), AvgPool2d((3, 3), (2, 2))
    padded = AvgPool2d((2, 2), (2, 2), padding=(1, 1))

    def merged(op: AvgPool2d, shape: Shape3, **conv: Any) -> Dense | Conv2d:
        pool = make_pool(op, shape)
        return merge(Chain((pool, make_conv(pool.out_shape, 4, (3, 3), **conv))))  # type: ignore[arg-type]

    for op, shape, options, kernel, stride, padding in (
        (tile, (2, 12, 12), {}, (6, 6), (2, 2), (0, 0)),
        (tile, (2, 12, 12), {"padding": (1, 1)}, (6, 6), (2, 2), (2, 2)),
        (tile, (2, 12, 12), {"stride": (2, 3), "groups": 2}, (6, 6), (4, 6), (0, 0)),
        (tile, (2, 13, 12), {}, (6, 6), (2, 2), (0, 0)),
        (overlapping, (2, 13, 13), {}, (7, 7), (2, 2), (0, 0)),
        (padded, (2, 12, 12), {}, (6, 6), (2, 2), (1, 1)),
        (replace(padded, count_include_pad=False, divisor=3), (2, 12, 12), {}, (6, 6), (2, 2), (1, 1)),
    ):
        found = merged(op, shape, **options)
        assert isinstance(found, Conv2d)
        g = found.geometry
        assert (g.kernel, g.stride, g.padding) == (kernel, stride, padding)
    for op, shape, options in (
        (tile, (2, 13, 12), {"padding": (1, 1)}),  # the last row is cut off: a padded zero would read it
        (overlapping, (2, 13, 13), {"padding": (1, 1)}),
        (padded, (2, 12, 12), {"padding": (1, 1)}),
        (AvgPool2d((3, 3), (3, 3), padding=(1, 1)), (2, 12, 12), {"padding": (1, 1)}),  # covers 11 of 12 rows
        (tile, (2, 12, 12), {"dilation": (2, 2)}),
        (AvgPool2d((2, 2), (2, 2), padding=(1, 1), count_include_pad=False), (2, 12, 12), {}),
        (AvgPool2d((2, 2), (2, 2), ceil_mode=True), (2, 13, 13), {}),
    ):
        assert isinstance(merged(op, shape, **options), Dense)
    assert isinstance(merge(make_pool(tile, (3, 7, 7))), Conv2d)
    conv = make_conv((2, 5, 5), 3, (3, 3))
    assert merge(conv) is conv


def test_a_matrix_beyond_the_limit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain((make_conv((1, 8, 8), 2, (3, 3)), make_conv((2, 6, 6), 2, (3, 3))))
    monkeypatch.setattr(operators, "_MAX_DENSE_ELEMENTS", 64 * 32 - 1)
    with pytest.raises(ConversionError, match=r"\[1, 8, 8\] to \[2, 4, 4\].* 2,048 weights; 2,047 are allowed; put a"):
        merge(chain)
    monkeypatch.setattr(operators, "_MAX_DENSE_ELEMENTS", 64 * 32)
    assert_equal(chain, merge(chain))


def assert_scales(op: Dense | Conv2d, lambda_in: Any, lambda_out: Any) -> None:
    """scaled(x / lambda_in) = op(x) / lambda_out, with lambdas per channel of both populations."""
    x = inputs(op)
    per_in = torch.from_numpy(np.repeat(lambda_in, math.prod(op.in_shape) // len(lambda_in)).reshape(op.in_shape))
    per_out = torch.from_numpy(np.repeat(lambda_out, math.prod(op.out_shape) // len(lambda_out)).reshape(op.out_shape))
    scaled = scale(op, lambda_in=lambda_in, lambda_out=lambda_out)
    expected = apply(op, x) / per_out
    assert (apply(scaled, x / per_in) - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))
    assert scaled.out_shape == op.out_shape


def lambdas(n: int) -> Any:
    """All different, over three decades."""
    return 10.0 ** np.random.default_rng(n).uniform(-1, 2, n)


@given(data=st.data(), shape=images())
def test_scaling_weights_is_scaling_inputs_and_outputs(data: st.DataObject, shape: Shape3) -> None:
    conv = data.draw(convs(shape))
    assert_scales(conv, lambdas(shape[0]), lambdas(conv.out_shape[0]))


def test_scaling_dense_operators_per_neuron_and_behind_a_flatten_per_channel() -> None:
    assert_scales(Dense(random(3, 7), (7,), (3,)), lambdas(7), lambdas(3))
    assert_scales(Dense(random(3, 4 * 6), (4, 2, 3), (3,)), lambdas(4), lambdas(3))
    assert_scales(Dense(random(2 * 9, 5), (5,), (2, 3, 3)), lambdas(5), lambdas(2))
    assert_scales(Dense(random(3, 24), (24,), (3,)), lambdas(4), lambdas(3))  # the population has 4 channels


@pytest.mark.parametrize("n_lambda", [1, 2, 3, 4, 12, 36])
def test_scaling_a_convolution_whose_population_has_other_channels(n_lambda: int) -> None:
    """A view between a population of n channels and a convolution over [4, 3, 3]: scales follow the neurons."""
    conv = make_conv((4, 3, 3), 2, (2, 2))
    assert_scales(conv, lambdas(n_lambda), lambdas(2))
    conv = make_conv((4, 3, 3), 4, (2, 2), groups=2)
    assert_scales(conv, lambdas(n_lambda), lambdas(4))
