"""Condensed operators equal the chains they stand for, at every border; and condense as far as a chip needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import AvgPool2d, Node
from neuroport.errors import ConversionError
from neuroport.snn import compose, sparse
from neuroport.snn import merge as merging
from neuroport.snn.compose import add_convs, compose_conv_up, compose_convs, compose_up, compose_ups
from neuroport.snn.merge import add, identity, is_zero, merge
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Dense,
    Gather,
    Operator,
    Resample,
    Scale,
    Sparse,
    Synapse,
    apply,
    as_image,
    conv_geometry,
)
from neuroport.snn.parts import of_node
from neuroport.snn.sparse import as_matrix, materialize, n_connections
from tests.snn.chains import chains, convs, images, matrices, numbers, transposed

Image = tuple[int, int, int]


def make_conv(shape: Image, n_out: int, kernel: tuple[int, int], **options: Any) -> Conv2d:
    settings = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **options}
    weight = numbers(n_out, shape[0] // settings["groups"], *kernel)
    return Conv2d(weight, conv_geometry(shape, weight.shape, **settings))


def make_pool(op: AvgPool2d, shape: Image) -> Any:
    probe = torch.nn.AvgPool2d(op.kernel, op.stride, op.padding, op.ceil_mode)(torch.zeros(1, *shape))
    return of_node(Node("pool", op, ("x",), tuple(probe.shape[1:])), shape)[0]


def image_of(index: np.ndarray, shape: Image) -> Gather:
    return Gather(index.reshape(-1).copy(), shape, index.shape)


def assert_equal(found: Operator, op: Operator) -> None:
    """The same function: float64 sums of at most some hundred products near 1, in another order."""
    assert math.prod(found.in_shape) == math.prod(op.in_shape)
    assert math.prod(found.out_shape) == math.prod(op.out_shape)
    x = torch.from_numpy(numbers(2, *op.in_shape, seed=1))
    expected = apply(op, x).flatten(1)
    assert (apply(found, x).flatten(1) - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))


@settings(max_examples=500)
@given(op=chains())
def test_a_condensed_chain_is_the_chain(op: Operator) -> None:
    condensed = merge(op)
    assert_equal(condensed, op)
    if isinstance(op, Chain) and isinstance(condensed, Chain):
        assert len(condensed.parts) <= len(op.parts)
    assert_equal(merge(condensed), op)


@settings(max_examples=200)
@given(op=chains())
def test_synapses_of_a_chain_are_the_chain(op: Operator) -> None:
    made = materialize(op, "layer")
    assert isinstance(made, Synapse)
    assert_equal(made, op)
    if isinstance(made, Sparse):
        assert (made.matrix.data != 0).all()
        assert made.matrix.has_canonical_format


@settings(max_examples=200)
@given(data=st.data(), shape=images())
def test_no_pair_of_convolutions_is_joined_wrongly(data: st.DataObject, shape: Image) -> None:
    """Small images and large paddings, cuts and strides: nearly every position is a border."""
    pairs: list[tuple[Any, Any, Any]] = [
        (compose_convs, convs, convs),
        (compose_up, transposed, convs),
        (compose_ups, transposed, transposed),
        (compose_conv_up, convs, transposed),
    ]
    join, first, second = data.draw(st.sampled_from(pairs))
    a = data.draw(first(shape))
    b = data.draw(second(a.out_shape))
    joined = join(a, b)
    if joined is not None:
        assert (joined.in_shape, joined.out_shape) == (a.in_shape, b.out_shape)
        assert_equal(joined, Chain((a, b)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [-1, 0, 1])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_only_what_reads_each_pixel_where_it_stands_goes_before_a_transposed_convolution(
    stride: int, padding: int, size: int
) -> None:
    """A shift by one pixel, or every other one, are convolutions with one tap too."""
    for n_out in (1, 2, 3):
        if padding < 0 and size == 1:
            continue
        geometry = ConvGeometry((2, 1, size), (3, 1, n_out), (1, 1), (1, stride), (0, padding))
        a = Conv2d(numbers(3, 2, 1, 1), geometry)
        up = ConvTranspose2d(numbers(3, 2, 1, 3), ConvGeometry((3, 1, n_out), (2, 1, n_out + 2), (1, 3)))
        joined = compose_conv_up(a, up)
        if stride == 1 and padding == 0 and n_out == size:
            assert joined is not None
        if joined is not None:
            assert_equal(joined, Chain((a, up)))


def padded_inside(a: Conv2d, b: Conv2d) -> bool:
    """Whether b reads a number that lies outside a's output, and that a would have written had it gone on."""
    for axis in (0, 1):
        g, h = a.geometry, b.geometry
        for y in range(h.out_shape[axis + 1]):
            for i in range(h.kernel[axis]):
                middle = y * h.stride[axis] + i * h.dilation[axis] - h.padding[axis]
                reads = [
                    middle * g.stride[axis] + j * g.dilation[axis] - g.padding[axis] for j in range(g.kernel[axis])
                ]
                if not 0 <= middle < g.out_shape[axis + 1] and any(0 <= r < g.in_shape[axis + 1] for r in reads):
                    return True
    return False


@settings(max_examples=150)
@given(data=st.data(), shape=images())
def test_two_convolutions_join_exactly_where_nothing_between_them_is_cut_off(data: st.DataObject, shape: Image) -> None:
    a = data.draw(convs(shape))
    b = data.draw(convs(a.out_shape))  # type: ignore[arg-type]
    assert (compose_convs(a, b) is None) == padded_inside(a, b)


@settings(max_examples=200)
@given(data=st.data(), shape=images())
def test_a_sum_of_convolutions_is_the_sum(data: st.DataObject, shape: Image) -> None:
    a = data.draw(convs(shape))
    b = data.draw(convs(shape))
    if data.draw(st.booleans()):  # the same grid: what shortcuts of residual blocks have
        g, h = a.geometry, b.geometry
        if b.weight.shape[0] == g.out_shape[0] or g.out_shape[0] % h.groups == 0:
            weight = numbers(g.out_shape[0], shape[0] // h.groups, *h.kernel, seed=7)
            b = Conv2d(weight, ConvGeometry(shape, g.out_shape, h.kernel, g.stride, h.padding, (1, 1), h.groups))
    total = add_convs(a, b)
    if total is None:
        g, h = a.geometry, b.geometry
        dilated = any(d > 1 < k for x in (g, h) for d, k in zip(x.dilation, x.kernel, strict=True))
        far_apart = sum(abs(p - q) for p, q in zip(g.padding, h.padding, strict=True)) > 1
        assert dilated or g.out_shape != h.out_shape or g.stride != h.stride or far_apart
        return
    x = torch.from_numpy(numbers(2, *shape, seed=1))
    expected = apply(a, x) + apply(b, x)
    assert (apply(total, x) - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))


@settings(max_examples=100)
@given(data=st.data(), shape=images())
def test_operators_added_where_they_can_be_sum_to_the_same(data: st.DataObject, shape: Image) -> None:
    kinds = st.one_of(convs(shape), matrices(shape), transposed(shape))
    found: list[Any] = data.draw(st.lists(kinds, min_size=1, max_size=4))
    alike = [op for op in found if math.prod(op.out_shape) == math.prod(found[0].out_shape)]
    made = add(alike)
    assert 1 <= len(made) <= len(alike)
    kept = [type(op) for op in made]
    assert kept.count(Dense) <= 1
    assert kept.count(Sparse) <= 1
    x = torch.from_numpy(numbers(2, *shape, seed=1))
    expected = sum(apply(op, x).flatten(1) for op in alike)
    assert isinstance(expected, torch.Tensor)
    total = sum(apply(op, x).flatten(1) for op in made)
    assert (total - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))


TILE, OVERLAPPING = AvgPool2d((2, 2), (2, 2)), AvgPool2d((3, 3), (2, 2))
PADDED = AvgPool2d((2, 2), (2, 2), padding=(1, 1))


@pytest.mark.parametrize(
    ("pool", "shape", "options", "geometry"),
    [
        (TILE, (2, 12, 12), {}, ((6, 6), (2, 2), (0, 0))),
        (TILE, (2, 12, 12), {"padding": (1, 1)}, ((6, 6), (2, 2), (2, 2))),
        (TILE, (2, 12, 12), {"stride": (2, 3), "groups": 2}, ((6, 6), (4, 6), (0, 0))),
        (TILE, (2, 12, 12), {"dilation": (2, 2)}, ((10, 10), (2, 2), (0, 0))),
        (TILE, (2, 13, 12), {}, ((6, 6), (2, 2), (0, 0))),
        (OVERLAPPING, (2, 13, 13), {}, ((7, 7), (2, 2), (0, 0))),
        (PADDED, (2, 12, 12), {}, ((6, 6), (2, 2), (1, 1))),
        (AvgPool2d((2, 2), (2, 2), (1, 1), divisor=3), (2, 12, 12), {}, ((6, 6), (2, 2), (1, 1))),
        # a zero around the pooled image would read the rows that the pool cut off, or left half read
        (TILE, (2, 13, 12), {"padding": (1, 1)}, None),
        (OVERLAPPING, (2, 13, 13), {"padding": (1, 1)}, None),
        (PADDED, (2, 12, 12), {"padding": (1, 1)}, ((6, 6), (2, 2), (3, 3))),
        (AvgPool2d((3, 3), (3, 3), padding=(1, 1)), (2, 12, 12), {"padding": (1, 1)}, None),
        # borders of another divisor are no convolution
        (AvgPool2d((2, 2), (2, 2), (1, 1), count_include_pad=False), (2, 12, 12), {}, None),
        (AvgPool2d((2, 2), (2, 2), ceil_mode=True), (2, 13, 13), {}, None),
    ],
)
def test_an_average_pool_and_a_convolution_are_one_where_borders_allow(
    pool: AvgPool2d, shape: Image, options: dict[str, Any], geometry: Any
) -> None:
    """A chip holds one kernel instead of a matrix, so the convolution must be found where there is one."""
    part = make_pool(pool, shape)
    conv = make_conv(part.out_shape, 4, (3, 3), **options)
    found = merge(Chain((part, conv)))
    assert_equal(found, Chain((part, conv)))
    if geometry is None:
        assert isinstance(found, Chain)
    else:
        assert isinstance(found, Conv2d)
        g = found.geometry
        assert (tuple(d * (k - 1) + 1 for d, k in zip(g.dilation, g.kernel, strict=True)), g.stride, g.padding) == (
            geometry
        )


PLANE = np.arange(2 * 6 * 6).reshape(2, 6, 6)
MAPS = {
    "pad": (np.pad(PLANE, ((0, 0), (1, 2), (0, 1)), constant_values=-1), Conv2d),
    "crop": (PLANE[:, 1:5, 2:], Conv2d),
    "every other pixel": (PLANE[:, ::2, 1::2], Conv2d),
    "channels in another order": (PLANE[::-1], Conv2d),
    "channels of zeros around": (np.pad(PLANE, ((1, 2), (0, 0), (0, 0)), constant_values=-1), Conv2d),
    "channels repeated": (np.concatenate([PLANE, PLANE]), Conv2d),
    "one row": (PLANE[:, 3:4], Conv2d),
    "nearest upsampling": (PLANE.repeat(2, 1).repeat(3, 2), ConvTranspose2d),
    "flipped": (PLANE[:, ::-1], Gather),
    "transposed": (PLANE.transpose(0, 2, 1), Gather),
    "channels last": (PLANE.transpose(1, 2, 0), Gather),
    "uneven steps": (PLANE[:, [0, 1, 3]], Gather),
    "nothing": (np.full((2, 2, 2), -1), Gather),
    "as it is": (PLANE, Conv2d),
}


@pytest.mark.parametrize("name", MAPS)
def test_index_maps_become_convolutions_where_they_are_such(name: str) -> None:
    index, kind = MAPS[name]
    op = image_of(index, (2, 6, 6))
    found = merge(op)
    assert type(found) is kind
    assert_equal(found, op)
    assert is_zero(op) == (name == "nothing")


def test_a_number_for_each_channel_spread_over_the_image_is_upsampling() -> None:
    op = image_of(np.broadcast_to(np.arange(2)[:, None, None], (2, 4, 5)), (2, 1, 1))
    found = merge(op)
    assert isinstance(found, ConvTranspose2d)
    assert_equal(found, op)


def test_what_stands_between_two_layers_goes_into_one() -> None:
    """Upsampling, a scale and a 3x3 convolution; a pointwise layer before upsampling; a pool and a linear layer."""
    up = ConvTranspose2d(np.ones((2, 1, 2, 2)), ConvGeometry((2, 3, 3), (2, 6, 6), (2, 2), (2, 2), groups=2))
    scale = Scale(numbers(2, 1, 1), (2, 6, 6))
    conv = make_conv((2, 6, 6), 3, (3, 3), padding=(0, 0))
    found = merge(Chain((image_of(PLANE[:, ::2, ::2], (2, 6, 6)), up, scale, conv)))
    assert [type(p) for p in found.parts] == [Conv2d, ConvTranspose2d]  # type: ignore[union-attr]
    point = make_conv((4, 3, 3), 2, (1, 1))
    assert isinstance(merge(Chain((point, up, scale, conv))), ConvTranspose2d)
    assert isinstance(merge(Chain((up, make_conv((2, 6, 6), 3, (3, 3), padding=(1, 1))))), ConvTranspose2d)
    assert isinstance(merge(Chain((make_pool(TILE, (2, 6, 6)), Dense(numbers(5, 18), (2, 3, 3), (5,))))), Dense)
    scales = Chain(
        (Scale(numbers(2, 6, 6), (2, 6, 6)), Scale(numbers(1, 6), (12, 6)), Dense(numbers(3, 72), (72,), (3,)))
    )
    assert isinstance(merge(scales), Dense)
    assert_equal(merge(scales), scales)
    both = Chain((Scale(numbers(12, 6), (12, 6)), Scale(numbers(2, 1, 6), (2, 6, 6)), Scale(np.full((1,), 2.0), (72,))))
    assert isinstance(merge(both), Scale)
    assert_equal(merge(both), both)


def test_what_changes_nothing_is_left_out() -> None:
    conv = make_conv((2, 5, 5), 3, (3, 3))
    assert merge(conv) is conv
    ones = Scale(np.ones((1, 1, 1)), (2, 5, 5))
    same = Gather(np.arange(50), (2, 5, 5), (50,))
    assert merge(Chain((ones, identity((2, 5, 5)), same, conv, identity((3, 3, 3))))) is conv
    only = merge(Chain((ones, same)))
    assert isinstance(only, Gather)
    assert_equal(only, ones)
    assert isinstance(merge(ones), Conv2d)
    for shape in ((4,), (4, 3), (2, 3, 4), (2, 3, 4, 5)):
        assert_equal(identity(shape), Scale(np.ones((1,) * len(shape)), shape))
        assert identity(shape).in_shape == as_image(shape)


def test_operators_that_write_only_zeros_are_known() -> None:
    nothing = np.zeros((3, 2, 1, 1))
    conv = make_conv((2, 4, 4), 3, (1, 1))
    zero = Conv2d(nothing, conv.geometry)
    for op in (
        zero,
        Dense(np.zeros((2, 3)), (3,), (2,)),
        Scale(np.zeros((1,)), (3,)),
        Chain((zero, Dense(np.ones((1, 48)), (48,), (1,)))),
    ):
        assert is_zero(op)
        assert not apply(op, torch.ones(1, *op.in_shape)).any()
    assert is_zero(materialize(zero))
    for op in (
        conv,
        Scale(np.array([0.0, 1.0]), (2,)),
        Gather(np.array([-1, 0]), (2,), (2,)),
        Resample(np.ones((1, 2)), np.ones((1, 2)), (1, 2, 2)),
    ):
        assert not is_zero(op)


def test_connections_are_counted_all_over_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain((make_conv((2, 9, 9), 2, (3, 3), padding=(1, 1)), make_conv((2, 9, 9), 4, (3, 3), padding=(1, 1))))
    assert n_connections(chain) == pytest.approx(as_matrix(chain).nnz, rel=0.25), "32 neurons of 324"
    monkeypatch.setattr(sparse, "MAX_SYNAPSES", 1000)
    with pytest.raises(ConversionError) as caught:
        materialize(chain, "conv7")
    assert str(caught.value) == (
        "layer 'conv7': the linear layers before it, [2, 9, 9] to [4, 9, 9], would become "
        f"{n_connections(chain):,} synapses; 1,000 are allowed; put a ReLU between them"
    )
    monkeypatch.setattr(sparse, "MAX_SYNAPSES", 16_200)
    made = materialize(chain)
    assert isinstance(made, Sparse | Dense)
    assert_equal(made, chain)


def test_few_synapses_are_held_sparse_and_many_as_a_full_matrix() -> None:
    shape = (1, 6, 6)
    permuted = image_of(np.arange(36).reshape(shape).transpose(0, 2, 1), shape)
    assert isinstance(materialize(permuted), Sparse)
    assert isinstance(materialize(Resample(numbers(6, 6), numbers(6, 6), shape)), Dense)
    band = np.eye(6) + np.eye(6, k=1)
    assert isinstance(materialize(Resample(band, band, shape)), Sparse)


def test_what_would_be_too_large_stays_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make_conv((2, 6, 6), 4, (1, 1)), make_conv((4, 6, 6), 4, (1, 1))
    grouped = make_conv((4, 6, 6), 4, (1, 1), groups=4)
    dense = Dense(numbers(5, 144), (4, 6, 6), (5,))
    behind = Chain((dense, Gather(np.arange(4, -1, -1), (5,), (5,))))
    monkeypatch.setattr(compose, "_MAX_ELEMENTS", 7)
    monkeypatch.setattr(merging, "_MAX_DENSE", 7)
    monkeypatch.setattr(merging, "_MAX_PICKED", 7)
    for parts in ((a, b), (a, grouped), (grouped, a.__class__(b.weight, b.geometry)), (a, dense), behind.parts):
        found = merge(Chain(parts))
        assert isinstance(found, Chain)
        assert_equal(found, Chain(parts))
    assert isinstance(merge(image_of(np.arange(8).reshape(8, 1, 1)[::-1], (8, 1, 1))), Gather)
