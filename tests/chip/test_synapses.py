"""Synapses of every kind: their sums against the oracle's matrix, and every damaged one refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroport.ann.graph import MaxPool2d
from neuroport.chip.core import run_core
from neuroport.chip.inputs import IntInputs
from neuroport.chip.oracle import run_oracle, weigh
from neuroport.chip.synapses import (
    IntConv2d,
    IntConvTranspose2d,
    IntDense,
    IntSparse,
    IntWindow,
    as_sparse,
    n_synapses,
    problem,
    sum_bound,
)
from neuroport.errors import InvalidNetworkError
from neuroport.snn.operators import Conv2d, ConvGeometry, ConvTranspose2d, apply, conv_geometry
from tests.chip.networks import (
    dense,
    network_of,
    population,
    random_cut_conv,
    random_synapse,
    random_window,
    source,
    sparse,
    target,
)

LOIHI = target("loihi-sim").arithmetic


def matrix_of(synapse, n_in):
    """[n_out, n_in] by the oracle: its answer to each input alone."""
    return weigh(synapse, np.eye(n_in, dtype=np.uint8)[None])[0].reshape(n_in, -1).T


@st.composite
def synapses(draw):
    """Synapses of any kind and the sizes of their populations."""
    n_in, n_out = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_synapse(draw, rng, LOIHI, n_in, n_out), n_in, n_out


@given(synapses())
@settings(max_examples=300)
def test_sums_connections_and_the_sparse_form_are_those_of_the_matrix(case):
    synapse, n_in, n_out = case
    assert problem(synapse, n_in, n_out) == ""
    matrix = matrix_of(synapse, n_in)
    assert matrix.shape == (n_out, n_in)
    bound = max(np.maximum(matrix, 0).sum(1).max(), np.maximum(-matrix, 0).sum(1).max())
    assert sum_bound(synapse) == bound  # tight, not only a bound
    ones = replace(synapse, mantissa=np.ones_like(synapse.mantissa))
    assert n_synapses(synapse) == matrix_of(ones, n_in).sum()
    made = as_sparse(synapse)
    assert problem(made, n_in, n_out) == ""
    np.testing.assert_array_equal(matrix_of(made, n_in), matrix)


@given(st.data())
@settings(max_examples=100)
def test_convolutions_equal_those_of_the_float_network(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_in, n_out = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    synapse = random_cut_conv(data.draw, rng, LOIHI, n_in, n_out)
    spikes = (rng.random((2, 3, n_in)) < 0.5).astype(np.uint8)
    kind = Conv2d if isinstance(synapse, IntConv2d) else ConvTranspose2d
    op = kind(synapse.mantissa.astype(np.float64), synapse.geometry)
    expected = apply(op, torch.from_numpy(spikes.reshape(6, n_in)).double())
    # sums of integers far below 2^53 are exact in float64
    np.testing.assert_array_equal(weigh(synapse, spikes).reshape(6, -1), expected.reshape(6, -1).numpy())


def test_transposed_convolution_by_hand():
    # each of two pixels adds [1, 10, 100] from two columns further right; the first column is cut
    geometry = ConvGeometry((1, 1, 2), (1, 1, 4), (1, 3), (1, 2), (0, 1))
    synapse = IntConvTranspose2d(np.array([[[[1, 10, 100]]]], np.int32), geometry)
    assert weigh(synapse, np.array([[[1, 1]]], np.uint8))[0, 0].tolist() == [[[10, 101, 10, 100]]]
    assert sum_bound(synapse) == 101
    assert n_synapses(synapse) == 5


def test_sum_bound_of_a_transposed_convolution_is_the_worst_of_its_phases():
    """Stride 2: the even columns add taps 0 and 2, the odd ones tap 1 alone; the kernel's sum of 8 never occurs."""
    geometry = ConvGeometry((1, 1, 9), (1, 1, 19), (1, 3), (1, 2))
    assert sum_bound(IntConvTranspose2d(np.array([[[[2, 3, 3]]]], np.int32), geometry)) == 5


def test_sparse_sums_with_empty_rows():
    j = sparse([{}, {0: 5, 2: -7}, {}, {1: 3}])
    assert matrix_of(j.synapse, 3).tolist() == [[0, 0, 0], [5, 0, -7], [0, 0, 0], [0, 3, 0]]
    assert (sum_bound(j.synapse), n_synapses(j.synapse)) == (7, 3)


@given(st.data())
@settings(max_examples=60)
def test_connections_of_windows(data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)))
    window = random_window(data.draw, shape)
    assert problem(window, int(np.prod(shape)), int(np.prod(window.out_shape))) == ""
    ones = np.ones((shape[0], 1, *window.op.kernel), np.int32)
    geometry = ConvGeometry(
        shape, window.out_shape, window.op.kernel, window.op.stride, window.op.padding, window.op.dilation, shape[0]
    )
    assert n_synapses(window) == n_synapses(IntConv2d(ones, geometry))


def test_several_convolutions_of_different_shapes_into_one_population():
    """Each writes channels last of its own shape; a dense and a sparse one besides: no neuron gets another's sum."""
    rng = np.random.default_rng(1)

    def weights(*shape):
        return 2 * rng.integers(-40, 50, shape).astype(np.int32)

    wide = IntConv2d(weights(6, 2, 2, 2), conv_geometry((2, 4, 3), (6, 2, 2, 2), (1, 1), (0, 1), (1, 1), 1))
    assert wide.geometry.out_shape == (6, 3, 4)
    tall = IntConv2d(weights(2, 2, 1, 1), ConvGeometry((2, 4, 3), (2, 9, 4), (1, 1), (1, 1), (3, 0)))
    back = IntConvTranspose2d(weights(2, 3, 3, 2), ConvGeometry((2, 4, 3), (3, 6, 4), (3, 2), groups=1))
    again = IntConv2d(weights(6, 1, 1, 1), ConvGeometry((2, 4, 3), (6, 3, 4), (1, 1), padding=(-1, 0), groups=2))
    full = dense(weights(72, 24))
    thin = sparse([{k: 30 - 2 * k for k in range(n % 24, 24, 5)} if n % 3 else {} for n in range(72)])
    convs = [replace(full, synapse=s) for s in (wide, tall, back, again)]
    inputs = IntInputs(2, 8, rng.integers(0, 2, (2, 8, 2, 4, 3)).astype(np.uint8), {})
    for order in ([*convs, full, thin], [thin, full, *reversed(convs)], [convs[2], thin, convs[0]]):
        parts = [source((2, 4, 3)), population(shape=(72,), threshold_mantissa=400)]
        network = network_of(LOIHI, parts, order, readout="membrane")
        oracle, core = run_oracle(network, inputs), run_core(network, inputs, record="all").trace
        assert oracle.spikes["out"].any()
        np.testing.assert_array_equal(core.potentials["out"], oracle.potentials["out"])
        np.testing.assert_array_equal(core.spikes["out"], oracle.spikes["out"])


WHOLE = IntSparse(np.array([2, 4, 6], np.int32), np.array([0, 2, 1], np.int32), np.array([0, 2, 3], np.int32))


def ints(*values, dtype=np.int32):
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"mantissa": ints(2.0, 4.0, 6.0, dtype=float)}, "have [3] values of type float64 for [3] columns"),
        ({"mantissa": ints(2, 4)}, "have [2] values of type int32 for [3] columns"),
        ({"mantissa": ints([2], [4], [6])}, "have [3, 1] values"),
        ({"columns": ints(0, 2)}, "have [3] values of type int32 for [2] columns"),
        ({"columns": ints(0, 2, 1, dtype=np.uint32)}, "have [3] values"),
        ({"columns": ints(0, 3, 1)}, "come from neurons 0 to 3 of 0 to 2"),
        ({"columns": ints(-1, 2, 1)}, "come from neurons -1 to 2 of 0 to 2"),
        ({"columns": ints(2, 0, 1)}, "name a neuron twice in one row, or out of order"),
        ({"columns": ints(1, 1, 1)}, "name a neuron twice in one row, or out of order"),
        ({"row_start": ints(0, 3)}, "have 1 rows that do not divide 3 values among 2 neurons"),
        ({"row_start": ints(0, 1, 2, 3)}, "have 3 rows"),
        ({"row_start": ints(1, 2, 3)}, "have 2 rows that do not divide 3 values among 2 neurons"),
        ({"row_start": ints(0, 2, 4)}, "have 2 rows"),
        ({"row_start": ints(0, 4, 3)}, "have 2 rows"),
        ({"row_start": ints(0, -1, 3)}, "have 2 rows"),
        ({"row_start": ints(0.0, 2.0, 3.0, dtype=float)}, "have [3] values"),
    ],
)
def test_sparse_synapses_that_would_read_or_write_elsewhere(changes, found):
    assert problem(WHOLE, 3, 2) == ""
    j = replace(dense([[2]]), synapse=replace(WHOLE, **changes))
    with pytest.raises(
        InvalidNetworkError, match=r"layer 'out': weights from 'input' .*; is the file from another"
    ) as caught:
        network_of(LOIHI, [source((3,)), population(shape=(2,))], [j])
    assert found in str(caught.value)


def test_rows_may_end_where_the_next_begins_lower():
    made = IntSparse(ints(2, 4, 6), ints(0, 1, 0), ints(0, 0, 2, 2, 3, 3))
    assert problem(made, 2, 5) == ""
    assert matrix_of(made, 2).tolist() == [[0, 0], [2, 4], [0, 0], [6, 0], [0, 0]]


GEOMETRY = ConvGeometry((2, 4, 4), (4, 3, 3), (3, 2), (2, 1), (1, -1), (1, 2), 2)


@pytest.mark.parametrize("kind", [IntConv2d, IntConvTranspose2d])
@pytest.mark.parametrize(
    "changes",
    [
        {"in_shape": (2, 4, 5)},
        {"in_shape": (4, 4)},
        {"in_shape": (-2, -4, 4)},
        {"out_shape": (4, 3, 2)},
        {"out_shape": (36, 1, 0)},
        {"out_shape": (-4, -3, 3)},
        {"out_shape": (4, 9)},
        {"kernel": (2, 3)},
        {"kernel": (3,)},
        {"stride": (0, 1)},
        {"stride": (2, -1)},
        {"stride": (1, 1, 1)},
        {"dilation": (0, 1)},
        {"dilation": ()},
        {"padding": (1,)},
        {"groups": 0},
        {"groups": -2},
        {"groups": 1},
        {"groups": 4},
        {"groups": 3},
    ],
)
def test_convolutions_that_would_read_or_write_elsewhere(kind, changes):
    shape = (4, 1, 3, 2) if kind is IntConv2d else (2, 2, 3, 2)
    j = replace(dense([[2]]), synapse=kind(np.full(shape, 2, np.int32), GEOMETRY))
    parts = [source((32,)), population(shape=(6, 6))]
    assert network_of(LOIHI, parts, [j]).n_synapses == n_synapses(j.synapse)
    damaged = replace(j, synapse=replace(j.synapse, geometry=replace(GEOMETRY, **changes)))
    with pytest.raises(InvalidNetworkError, match="layer 'out': weights from 'input' have shape"):
        network_of(LOIHI, parts, [damaged])


@pytest.mark.parametrize("mantissa", [np.ones((2, 3)), np.ones((2, 3), bool), np.ones((2, 3), np.uint8)])
def test_weights_that_are_not_signed_integers(mantissa):
    assert "and type" in problem(IntDense(mantissa), 3, 2)


POOL = IntWindow(MaxPool2d((2, 2), (2, 2)), (2, 4, 4), (2, 2, 2))


@pytest.mark.parametrize(
    ("changes", "op", "found"),
    [
        ({"in_shape": (2, 4, 5)}, {}, "are windows from [2, 4, 5] to [2, 2, 2], which do not take 32 neurons to 8"),
        ({"out_shape": (4, 2, 1)}, {}, "are windows from [2, 4, 4] to [4, 2, 1]"),
        ({"out_shape": (2, 2)}, {}, "are windows"),
        ({}, {"kernel": (0, 2)}, "are windows"),
        ({}, {"kernel": (2,)}, "are windows"),
        ({}, {"stride": (2, 0)}, "are windows"),
        ({}, {"padding": (2, 0)}, "are windows of [2, 2], some of which hold nothing but padding"),
        ({}, {"stride": (2, 4)}, "some of which hold nothing but padding"),
    ],
)
def test_windows_that_would_read_or_write_elsewhere(changes, op, found):
    assert problem(POOL, 32, 8) == ""
    assert found in problem(replace(POOL, op=replace(POOL.op, **op), **changes), 32, 8)
