"""Linear nodes of the graph as operators: what they compute, which kind they are, what they add."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neuroport.ann import graph as ann
from neuroport.ann.graph import AvgPool2d, Node, Op
from neuroport.ann.interpret import apply_op
from neuroport.snn.operators import Conv2d, Gather, Resample, Scale, Sparse, apply
from neuroport.snn.parts import joined_signs, of_node, placed
from neuroport.snn.signals import Signal, Term, add_signals, apply_part, is_nonnegative, negated, synapses
from tests.snn.chains import numbers


def node(op: Op, shape: tuple[int, ...]) -> Node:
    return Node("n", op, ("x",), shape)


def pool_shape(op: AvgPool2d, shape: tuple[int, int, int]) -> tuple[int, ...]:
    made = F.avg_pool2d(torch.zeros(1, *shape), op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad)
    return tuple(made.shape[1:])


@settings(max_examples=250)
@given(data=st.data())
def test_an_average_pool_is_what_torch_computes(data: st.DataObject) -> None:
    """Windows that overlap, leave gaps, reach over the border; divisors that count padding, do not, or are fixed."""
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7)))
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = (data.draw(st.integers(0, kernel[0] // 2)), data.draw(st.integers(0, kernel[1] // 2)))
    assume(all(n + 2 * p >= k for n, p, k in zip(shape[1:], padding, kernel, strict=True)))
    op = AvgPool2d(
        kernel,
        data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        padding,
        data.draw(st.booleans()),
        data.draw(st.booleans()),
        data.draw(st.sampled_from([None, None, 1, 3])),
    )
    pool = node(op, pool_shape(op, shape))
    part, added, is_plain = of_node(pool, shape)
    x = torch.from_numpy(numbers(2, *shape))
    expected = apply_op(pool, [x])
    assert (apply(part, x) - expected).abs().max() <= 1e-14 * max(1.0, float(expected.abs().max()))
    assert (added, is_plain) == (None, True)


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        (AvgPool2d((2, 2), (2, 2)), Conv2d),
        (AvgPool2d((3, 3), (2, 2), (1, 1)), Conv2d),
        (AvgPool2d((2, 2), (2, 2), ceil_mode=True), Conv2d),  # 8 is even: nothing is left over
        (AvgPool2d((2, 2), (2, 2), (1, 1), divisor=3, count_include_pad=False), Conv2d),
        (AvgPool2d((3, 3), (2, 2), (1, 1), count_include_pad=False), Resample),
        (AvgPool2d((3, 3), (3, 3), ceil_mode=True), Resample),
        (AvgPool2d((3, 3), (3, 3), ceil_mode=True, divisor=9), Resample),
    ],
)
def test_a_pool_with_one_divisor_is_a_depthwise_convolution(op: AvgPool2d, kind: type) -> None:
    part, _, _ = of_node(node(op, pool_shape(op, (2, 8, 8))), (2, 8, 8))
    assert type(part) is kind
    if isinstance(part, Conv2d):
        assert part.geometry.is_depthwise


W, B = numbers(4, 1, 3, 2), numbers(4)
LINEAR = {
    "conv": (ann.Conv2d(W, B, (2, 1), (1, 1), (1, 2), 2), (2, 6, 5), (4, 3, 5), False),
    "transposed": (ann.ConvTranspose2d(W[:2], B[:2], (2, 3), (1, 0), (1, 2), 2), (2, 4, 3), (2, 8, 10), False),
    "linear": (ann.Linear(numbers(3, 7), numbers(3)), (7,), (3,), False),
    "affine": (ann.Affine(numbers(1, 4, 1), numbers(2, 1, 1)), (2, 4, 3), (2, 4, 3), False),
    "resample": (ann.Resample(numbers(2, 4), numbers(5, 3)), (2, 4, 3), (2, 2, 5), False),
    "positive resample": (ann.Resample(abs(numbers(2, 4)), abs(numbers(5, 3))), (2, 4, 3), (2, 2, 5), True),
    "gather": (ann.Gather(np.array([3, -1, 0, 0])), (2, 3), (4,), True),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_node_is_its_operator_and_what_it_adds(name: str) -> None:
    op, shape, out, is_plain = LINEAR[name]
    n = node(op, out)
    part, added, plain = of_node(n, shape)
    x = torch.from_numpy(numbers(2, *shape))
    found = apply(part, x) + (0 if added is None else torch.from_numpy(added))
    expected = apply_op(n, [x])
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-14 * max(1.0, float(expected.abs().max()))
    assert plain == is_plain


def test_an_activation_is_not_linear() -> None:
    with pytest.raises(TypeError, match="node 'n' is not linear"):
        of_node(node(ann.ReLU(), (3,)), (3,))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_part_of_a_concat_is_placed_among_zeros(axis: int) -> None:
    shape = (2, 3, 4)
    whole = tuple(n + 3 if a == axis else n for a, n in enumerate(shape))
    x = numbers(*shape)
    expected = np.zeros(whole)
    expected[tuple(slice(2, 2 + n) if a == axis else slice(None) for a, n in enumerate(shape))] = x
    np.testing.assert_array_equal(apply(placed(shape, whole, axis, 2), torch.from_numpy(x)[None])[0], expected)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2)])
def test_on_and_off_rates_give_the_value_back(shape: tuple[int, ...]) -> None:
    x = numbers(2, *shape)
    rates = np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], 1) / 2.5
    part = joined_signs(shape, 2, np.array([2.5]))
    found = apply(part, torch.from_numpy(rates)).numpy().reshape(x.shape)
    np.testing.assert_allclose(found, x, rtol=1e-15, atol=0)
    assert isinstance(part, Sparse if len(shape) == 1 else Conv2d)
    scaled = joined_signs(shape, 1, np.array([2.5]))
    assert isinstance(scaled, Scale)
    np.testing.assert_allclose(apply(scaled, torch.from_numpy(x / 2.5)).numpy(), x, rtol=1e-15)


# --- signals: sums of such operators on populations


def value(signal: Signal, populations: dict[str, torch.Tensor]) -> np.ndarray:
    """What the signal is for these populations: through the operators it becomes synapses with."""
    total = np.zeros(signal.shape) if signal.bias is None else signal.bias.copy()
    for pre, op in synapses(signal):
        total += apply(op, populations[pre])[0].numpy().reshape(signal.shape)
    return total


def test_signals_add_scale_and_carry_their_constants() -> None:
    a, b = numbers(2, 2, 2, seed=1), numbers(2, 2, 2, seed=2)
    given_ = {"a": torch.from_numpy(a)[None], "b": torch.from_numpy(b)[None]}
    one, two = Signal((2, 2, 2), (Term("a"),)), Signal((2, 2, 2), (Term("b"),), np.full((2, 2, 2), 3.0))
    assert (one.population, two.population) == ("a", None)
    total = add_signals([one, two, one], (1, -1, 1), (2, 2, 2))
    np.testing.assert_allclose(value(total, given_), 2 * a - b - 3)
    assert [pre for pre, _ in synapses(total)] == ["a", "b"]  # the two terms of a are one operator
    part = Scale(np.array([[[2.0]], [[-1.0]]]), (2, 2, 2))
    scaled = apply_part(total, part, (2, 2, 2), np.array([[[5.0]], [[0.0]]]), is_plain=False)
    np.testing.assert_allclose(value(scaled, given_), (2 * a - b - 3) * part.gain + [[[5.0]], [[0.0]]])
    flat = scaled.reshaped((8,))
    np.testing.assert_allclose(value(flat, given_), value(scaled, given_).reshape(-1))
    np.testing.assert_allclose(value(negated(two), given_), -b - 3)
    nothing = add_signals([one, one], (1, -1), (2, 2, 2))
    assert len(synapses(nothing)) == 1  # a population must receive something, if only zeros
    np.testing.assert_array_equal(value(nothing, given_), np.zeros((2, 2, 2)))
    np.testing.assert_allclose(value(add_signals([nothing, two], (1, 1), (2, 2, 2)), given_), b + 3)
    assert [pre for pre, _ in synapses(add_signals([nothing, two], (1, 1), (2, 2, 2)))] == ["b"]


def test_only_plain_sums_are_surely_not_negative() -> None:
    bare = Signal((2,), (Term("a"),))
    pick = Gather(np.array([0, -1]), (2,), (2,))
    plus, minus = np.array([0.0, 1.0]), np.array([0.5, -1e-9])
    assert is_nonnegative(bare)
    assert is_nonnegative(apply_part(bare, pick, (2,), plus, is_plain=True))
    assert is_nonnegative(add_signals([bare, bare], (1, 1), (2,)))
    assert not is_nonnegative(apply_part(bare, pick, (2,), minus, is_plain=True))
    assert not is_nonnegative(add_signals([bare, bare], (1, -1), (2,)))
    assert not is_nonnegative(apply_part(bare, Scale(np.ones(1), (2,)), (2,), None, is_plain=False))
    weighted = apply_part(bare, Scale(np.full(1, -1.0), (2,)), (2,), None, is_plain=False)
    assert not is_nonnegative(apply_part(weighted, pick, (2,), None, is_plain=True))
