"""Quantization of every kind of operator, of several outputs, and bounds of input currents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from neuroport.chip import bounds
from neuroport.chip.bounds import value_range
from neuroport.chip.core import run_core
from neuroport.chip.inputs import encode_inputs
from neuroport.chip.network import IntHead
from neuroport.chip.quantize import quantize
from neuroport.chip.rounding import Weights, input_power
from neuroport.chip.synapses import IntConv2d, IntConvTranspose2d, IntDense, IntSparse, as_sparse
from neuroport.errors import DoesNotFitError
from neuroport.snn.network import Head, Neuron, Projection, SpikingNetwork
from neuroport.snn.operators import (
    Chain,
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Dense,
    Gather,
    Resample,
    Scale,
    Sparse,
    apply,
    conv_geometry,
)
from neuroport.snn.sparse import as_matrix
from tests.chip.float_networks import MEMBRANE, float_dense, float_population
from tests.chip.networks import target

IMAGE = (2, 4, 4)


def operators(rng):
    """One of each kind over [2, 4, 4], and the synapses it becomes."""
    kernel = rng.uniform(-1, 1, (3, 2, 2, 2))
    thin = np.where(rng.random((7, 32)) < 0.1, rng.uniform(-1, 1, (7, 32)), 0.0)
    thin[0, 0] = 0.5
    halves = Resample(rng.uniform(-1, 1, (2, 4)) * np.kron(np.eye(2), [1, 1]), np.eye(4)[::2] / 3, IMAGE)
    return {
        "dense": (Dense(rng.uniform(-1, 1, (5, 32)), IMAGE, (5,)), IntDense),
        "conv": (Conv2d(kernel, conv_geometry(IMAGE, kernel.shape, (1, 1), (1, 1), (1, 1), 1)), IntConv2d),
        "far": (Conv2d(kernel, ConvGeometry(IMAGE, (3, 4, 4), (2, 2))), IntConv2d),
        "cut": (Conv2d(kernel, ConvGeometry(IMAGE, (3, 2, 5), (2, 2), padding=(-1, 1))), IntConv2d),
        "up": (
            ConvTranspose2d(rng.uniform(-1, 1, (2, 3, 3, 2)), ConvGeometry(IMAGE, (3, 8, 5), (3, 2), (2, 1), (1, 0))),
            IntConvTranspose2d,
        ),
        "sparse": (Sparse(csr_array(thin), IMAGE, (7,)), IntSparse),
        "chain": (Chain((Gather(rng.permutation(32), IMAGE, IMAGE), halves)), IntSparse),
        "scaled": (
            Chain(
                (
                    Scale(rng.uniform(0.5, 1, (2, 1, 1)), IMAGE),
                    Conv2d(kernel, conv_geometry(IMAGE, kernel.shape, (2, 2), (0, 0), (1, 1), 1)),
                )
            ),
            IntConv2d,
        ),
    }


def behind(op, encoding="rate", neuron=None):
    """Input and one readout behind the operator."""
    populations = (
        float_population("input", op.in_shape, role="input"),
        float_population("out", op.out_shape, neuron or Neuron("subtract"), role="readout"),
    )
    return SpikingNetwork(populations, (Projection("input", "out", op),), encoding)


@pytest.mark.parametrize("name", ["cpu", "loihi-sim", "loihi1"])
@pytest.mark.parametrize("kind", operators(np.random.default_rng(0)))
def test_every_operator_is_rounded_to_half_a_step(kind, name):
    op, expected = operators(np.random.default_rng(1))[kind]
    images = np.random.default_rng(2).random((6, *IMAGE)).astype(np.float32)
    made = quantize(behind(op, neuron=Neuron("zero")), target(name), 16, images=images)
    (j,), a = made.network.projections, made.network.arithmetic
    assert isinstance(j.synapse, expected)
    sparse, exact = as_sparse(j.synapse), as_matrix(op).toarray()
    found = csr_array((sparse.mantissa, sparse.columns, sparse.row_start), exact.shape).toarray()
    unit = made.network.output.unit >> a.synaptic_shift
    error = np.abs(found * 2.0**j.exponent / unit - exact)
    assert error.max() <= a.weights.mixed.step / 2 * 2**j.exponent / unit * (1 + 1e-12)
    assert made.layers[0].clipped == 0
    assert 0 < made.layers[0].weight_error < 0.02


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_error_is_the_mean_over_neurons_of_the_squared_input_error(kind):
    op = operators(np.random.default_rng(1))[kind][0]
    weights = Weights(op, input_power(op, np.full(IMAGE, 0.3)), target("loihi-sim").arithmetic)
    r = weights.rounded(100)
    sparse = as_sparse(weights.synapse(100, r.exponent))
    exact = as_matrix(op).toarray()
    found = (
        csr_array((sparse.mantissa, sparse.columns, sparse.row_start), exact.shape).toarray() * 2.0**r.exponent / 100
    )
    assert r.error == pytest.approx(0.3 * ((found - exact) ** 2).sum(1).mean(), rel=1e-9)
    assert weights.square == pytest.approx(0.3 * (exact**2).sum(1).mean(), rel=1e-9)
    assert r.n_left == np.count_nonzero(found)


@pytest.mark.parametrize("kind", [Conv2d, ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_power_of_a_convolution_is_that_of_the_channel_each_weight_reads(kind, groups):
    """Against the matrix, in the middle of a large image, where no tap is outside."""
    rng = np.random.default_rng(groups)
    channels = np.array([0.1, 3.0, 0.0, 7.0])
    power = np.broadcast_to(channels[:, None, None], (4, 9, 9))
    if kind is Conv2d:
        g = ConvGeometry((4, 9, 9), (6, 4, 4), (2, 3), (2, 2), groups=groups)
        op = Conv2d(rng.normal(size=(6, 4 // groups, 2, 3)), g)
        rows = as_matrix(op).toarray().reshape(6, 4, 4, -1)
    else:
        g = ConvGeometry((4, 9, 9), (6, 14, 15), (2, 3), (2, 2), (2, 2), groups=groups)
        op = ConvTranspose2d(rng.normal(size=(4, 6 // groups, 2, 3)), g)
        rows = as_matrix(op).toarray().reshape(6, 14, 15, -1)[:, :, :14].reshape(6, 7, 2, 7, 2, -1)[:, 1:-1, :, 1:-1]
    expected = (rows**2 * power.reshape(-1)).sum(-1).mean()
    assert Weights(op, input_power(op, power), target("cpu").arithmetic).square == pytest.approx(expected, rel=1e-9)


def test_several_outputs_keep_their_order_and_reading():
    populations = (
        float_population("input", (4,), role="input"),
        float_population("a", (3,), Neuron("subtract"), role="readout"),
        float_population("b", (2,), MEMBRANE, role="readout"),
    )
    rng = np.random.default_rng(0)
    projections = (
        float_dense(rng.uniform(-1, 1, (3, 4)), post="a"),
        float_dense(rng.uniform(-1, 1, (2, 3)), "a", "b"),
    )
    network = SpikingNetwork(populations, projections, "rate", heads=(Head("b"), Head("a"), Head("b")))
    images = rng.random((5, 4)).astype(np.float32)
    made = quantize(network, target("loihi-sim"), 12, images=images).network
    assert made.heads == (IntHead("b", "membrane"), IntHead("a", "count"), IntHead("b", "membrane"))
    run = run_core(made, encode_inputs(network, made, images, 12))
    assert run.readouts["a"].shape == (5, 3)
    np.testing.assert_array_equal(run.readout, run.readouts["b"])


@pytest.mark.parametrize("kind", operators(np.random.default_rng(0)))
@given(data=st.data())
@settings(max_examples=15)
def test_bounds_of_input_currents_hold_at_the_corners_of_the_range(kind, data):
    """The sign patterns of every row reach its own bound where there is no padding, and nothing goes beyond."""
    op = operators(np.random.default_rng(data.draw(st.integers(0, 99))))[kind][0]
    low, high = data.draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.5, 0.75), (-2.0, -1.0)]))
    smallest, largest = value_range(op, (low, high), np.zeros((1, *IMAGE), np.float32))
    rows = as_matrix(op).toarray()
    corners = np.concatenate([np.where(rows > 0, high, low), np.where(rows > 0, low, high)])
    values = apply(op, torch.from_numpy(corners)).reshape(len(corners), -1).numpy()
    n = rows.shape[0]
    assert (values <= largest + 1e-12).all()
    assert (values >= smallest - 1e-12).all()
    if kind in ("dense", "sparse", "chain", "scaled"):
        np.testing.assert_allclose(values[np.arange(n), np.arange(n)], largest, atol=1e-12)
        np.testing.assert_allclose(values[n + np.arange(n), np.arange(n)], smallest, atol=1e-12)


def test_operators_too_large_to_multiply_out_are_bound_by_what_calibration_showed(monkeypatch):
    monkeypatch.setattr(bounds, "_LARGEST_MATRIX", 10)
    op = operators(np.random.default_rng(0))["chain"][0]
    images = np.random.default_rng(1).uniform(-1, 1, (4, *IMAGE)).astype(np.float32)
    seen = float(apply(op, torch.from_numpy(images)).abs().max())
    smallest, largest = value_range(op, (-1.0, 1.0), images)
    assert largest == pytest.approx([1.25 * seen])
    assert smallest == pytest.approx([-1.25 * seen])
    network = behind(op, "current", MEMBRANE)
    made = quantize(network, target("loihi-sim"), 16, images=images).network
    encode_inputs(network, made, images, 16)
    with pytest.raises(DoesNotFitError, match="layer 'out': sample 0 needs an input current of mantissa"):
        encode_inputs(network, made, 40 * images, 16)


@pytest.mark.parametrize("kind", operators(np.random.default_rng(0)))
def test_input_currents_through_any_operator(kind):
    op = operators(np.random.default_rng(1))[kind][0]
    images = np.random.default_rng(2).random((3, *IMAGE)).astype(np.float32)
    network = behind(op, "current")
    made = quantize(network, target("loihi-sim"), 16, images=images).network
    assert made.projections == ()
    currents = encode_inputs(network, made, images, 16).currents["out"]
    exact = as_matrix(op) @ images.reshape(3, -1).T
    p = made.output
    error = np.abs(currents.reshape(3, -1).T * 2.0**p.bias_exponent / p.unit - exact)
    assert error.max() <= 2**p.bias_exponent / p.unit / 2 * (1 + 1e-9)


def test_weights_that_are_whole_mantissas_at_some_scale_have_no_rounding_error():
    op = Sparse(csr_array(np.array([[0.75, 0.5], [0.0, -0.25]])), (2,), (2,))
    made = quantize(behind(op), target("loihi-sim"), 8, images=np.ones((2, 2), np.float32))
    assert made.layers[0].weight_error == 0
    assert made.network.projections[0].synapse.mantissa.tolist() == [12, 8, -4]  # of all such scales the smallest
